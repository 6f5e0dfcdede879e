"""httpx's own suite: every client that is given no transport gets ours."""

from __future__ import annotations

import functools
from typing import Any

from .suite import Suite


def jail() -> None:
    import httpx

    from netjail import Rules, presets
    from netjail.clients.httpx import AsyncTransport, Transport

    loopback = Rules(allow=presets.LOOPBACK)
    for client, transport in ((httpx.Client, Transport), (httpx.AsyncClient, AsyncTransport)):
        give(client, functools.partial(transport, loopback))


def give(client: Any, transport: Any) -> None:
    """Makes ``client`` ask for ours where nobody gives it a transport, as a user does who moves over."""
    plain = client.__init__
    transports = ("verify", "cert", "trust_env", "http1", "http2", "limits")

    @functools.wraps(plain)
    def init(self: Any, *, transport: Any = None, **options: Any) -> None:
        if transport is None:
            transport = ours(**{name: options[name] for name in transports if name in options})
        plain(self, transport=transport, **options)

    ours = transport
    client.__init__ = init


SUITE = Suite(
    "httpx",
    "0.28.1",
    "75e98c5f16b0f35b567856f597f06ff2270a374470a5c2392242528e3e3e42fc",
    jail,
    in_turn=True,
    left_out={
        "dials 10.255.255.1": ("tests/test_timeouts.py::test_connect_timeout",),
        "looks up example.com": (
            "tests/client/test_proxies.py::test_async_proxy_close",
            "tests/client/test_proxies.py::test_sync_proxy_close",
        ),
        "passes or fails, with the plain client too, by when garbage is collected": (
            "tests/test_timeouts.py::test_write_timeout[trio]",
        ),
    },
    differs={
        "has the environment name a proxy, which httpx leaves out for whoever gives a transport": (
            "tests/client/test_proxies.py::test_proxies_environ[Client-http://google.com-env1-http://example.com]",
            "tests/client/test_proxies.py::test_proxies_environ[Client-http://google.com-env2-http://example.com]",
            "tests/client/test_proxies.py::test_proxies_environ[Client-http://127.0.0.1-env4-http://localhost:123]",
            "tests/client/test_proxies.py::test_proxies_environ[Client-http://127.0.0.1-env6-http://localhost:123]",
            "tests/client/test_proxies.py::test_proxies_environ[Client-http://127.0.0.1-env7-http://localhost:123]",
            "tests/client/test_proxies.py::test_proxies_environ[Client-https://mit.edu.info-env9-http://localhost:123]",
            "tests/client/test_proxies.py::test_proxies_environ[Client-https://mit.edu.info-env12-http://localhost:123]",
            "tests/client/test_proxies.py::test_proxies_environ[Client-https://foo.example.com-env13-http://localhost:123]",
            "tests/client/test_proxies.py::test_proxies_environ[Client-https://www.example2.com-env15-http://localhost:123]",
            "tests/client/test_proxies.py::test_proxies_environ[AsyncClient-http://google.com-env1-http://example.com]",
            "tests/client/test_proxies.py::test_proxies_environ[AsyncClient-http://google.com-env2-http://example.com]",
            "tests/client/test_proxies.py::test_proxies_environ[AsyncClient-http://127.0.0.1-env4-http://localhost:123]",
            "tests/client/test_proxies.py::test_proxies_environ[AsyncClient-http://127.0.0.1-env6-http://localhost:123]",
            "tests/client/test_proxies.py::test_proxies_environ[AsyncClient-http://127.0.0.1-env7-http://localhost:123]",
            "tests/client/test_proxies.py::test_proxies_environ[AsyncClient-https://mit.edu.info-env9-http://localhost:123]",
            "tests/client/test_proxies.py::test_proxies_environ[AsyncClient-https://mit.edu.info-env12-http://localhost:123]",
            "tests/client/test_proxies.py::test_proxies_environ[AsyncClient-https://foo.example.com-env13-http://localhost:123]",
            "tests/client/test_proxies.py::test_proxies_environ[AsyncClient-https://www.example2.com-env15-http://localhost:123]",
        ),
    },
)
