"""requests' own suite: every session mounts our adapter, as does every test that makes an adapter itself."""

from __future__ import annotations

from typing import Any

from .suite import Suite


def jail() -> None:
    import requests.adapters
    import requests.sessions

    from netjail import Rules, presets
    from netjail.clients.requests import Adapter

    loopback = Rules(allow=presets.LOOPBACK)

    class HTTPAdapter(Adapter):
        """Ours, with the arguments of the plain one in their order."""

        __module__, __qualname__ = "requests.adapters", "HTTPAdapter"  # where pickle finds it

        def __init__(
            self, pool_connections: int = 10, pool_maxsize: int = 10, max_retries: Any = 0, pool_block: bool = False
        ) -> None:
            super().__init__(
                loopback,
                pool_connections=pool_connections,
                pool_maxsize=pool_maxsize,
                max_retries=max_retries,
                pool_block=pool_block,
            )

    modules: tuple[Any, ...] = (requests.adapters, requests.sessions)
    for module in modules:
        module.HTTPAdapter = HTTPAdapter


SUITE = Suite(
    "requests",
    "2.34.2",
    "f288924cae4e29463698d6d60bc6a4da69c89185ad1e0bcc4104f584e960b9ed",
    jail,
    keep=("tests", "pyproject.toml", "requirements-dev.txt"),  # which it posts
    left_out={
        "dials 10.255.255.1": (
            "tests/test_requests.py::TestTimeout::test_connect_timeout",
            "tests/test_requests.py::TestTimeout::test_total_timeout_connect",
        ),
    },
    differs={
        "has the environment name a proxy, which an adapter of ours leaves out": (
            "tests/test_lowlevel.py::test_use_proxy_from_environment",
            "tests/test_requests.py::TestRequests::test_respect_proxy_env_on_get",
            "tests/test_requests.py::TestRequests::test_respect_proxy_env_on_request",
            "tests/test_requests.py::TestRequests::test_respect_proxy_env_on_send_self_prepared_request",
            "tests/test_requests.py::TestRequests::test_respect_proxy_env_on_send_session_prepared_request",
            "tests/test_requests.py::TestRequests::test_respect_proxy_env_on_send_with_redirects",
        ),
        "gives a request a proxy, which an adapter of ours leaves out": (
            "tests/test_requests.py::TestRequests::test_proxy_error",
            "tests/test_requests.py::TestRequests::test_proxy_error_on_bad_url",
        ),
    },
)
