"""aiohttp's own suite: every connector is ours, and so is that of each session that is given none."""

from __future__ import annotations

import functools
from typing import Any

from .suite import Suite


def jail() -> None:
    import aiohttp.client
    import aiohttp.connector

    from netjail import Rules, presets
    from netjail.clients.aiohttp import Connector

    ours: Any = Connector
    plain = ours.__init__
    loopback = Rules(allow=presets.LOOPBACK)

    class Lookup:
        """A resolver of aiohttp's that a test gives, as ours asks one."""

        def __init__(self, given: Any) -> None:
            self._given = given

        async def lookup(self, host: str, family: int = 0) -> list[str]:
            return [found["host"] for found in await self._given.resolve(host, 0, family)]

    @functools.wraps(plain)
    def init(self: Any, *, resolver: Any = None, **options: Any) -> None:
        plain(self, loopback, resolver=None if resolver is None else Lookup(resolver), **options)

    ours.__init__ = init
    for module in (aiohttp, aiohttp.client, aiohttp.connector):
        within: Any = module
        within.TCPConnector = Connector


WITH_A_CLIENT = (
    "client_connection",
    "client_exceptions",
    "client_fingerprint",
    "client_functional",
    "client_middleware",
    "client_middleware_digest_auth",
    "client_proto",
    "client_request",
    "client_response",
    "client_session",
    "client_ws",
    "client_ws_functional",
    "connector",
    "leaks",
    "loop",
    "proxy",
    "proxy_functional",
    "pytest_plugin",
    "resolver",
    "tcp_helpers",
    "test_utils",
    "tracing",
    "web_functional",
    "web_middleware",
    "web_sendfile_functional",
    "web_server",
    "web_websocket_functional",
)
"""The tests of aiohttp's client, and those of its server that ask it by the client."""


def of(file: str, *tests: str) -> tuple[str, ...]:
    return tuple(f"tests/test_{file}.py::test_{test}" for test in tests)


SUITE = Suite(
    "aiohttp",
    "3.14.5",
    "5558a7f5a05af9ecf744af91e5baefc436f93c9333e656c27ec253f9a6bbe178",
    jail,
    keep=("tests", "pytest.ini", "pyproject.toml", "README.rst", "requirements", "examples"),
    # In place of its own, which measure coverage and run several processes, in which this plugin is not.
    arguments=(
        "-o",
        "addopts=",
        "-m",
        "not dev_mode and not autobahn and not internal",
        *(f"tests/test_{name}.py" for name in WITH_A_CLIENT),
    ),
    beneath=("blockbuster",),  # which the suite puts around every socket
    patience=1200,
    left_out={
        "looks into the plain connector's pool": (
            *of("client_functional", "keepalive_two_requests_success", "keepalive_response_released", "release_early"),
            *of("client_functional", "stream_request_on_server_eof", "stream_request_on_server_eof_nested"),
            *of("client_functional", "sock_read_timeout_not_rearmed_on_pooled_connection"),
            *of("client_functional", "release_resp_on_normal_exit_from_cm", "dont_close_explicit_connector"),
            *of("client_functional", "handle_keepalive_on_closed_connection", "read_timeout_closes_connection"),
            *of("client_functional", "post_connection_cleanup_with_bytesio", "post_connection_cleanup_with_file"),
            *of("client_functional", "post_content_exception_connection_kept"),
            *of("client_middleware", "client_middleware_retry_reuses_connection"),
            *of("web_functional", "response_context_manager_error"),
            *of(
                "connector", "tcp_connector_do_not_raise_connector_ssl_error", "tcp_connector_uses_provided_local_addr"
            ),
        ),
        "calls or replaces the lookup of the plain connector, which ours does not use": (
            *of("connector", "tcp_connector_multiple_hosts_errors", "tcp_connector_happy_eyeballs"),
            *of("connector", "tcp_connector_interleave", "tcp_connector_family_is_respected"),
            *of("connector", "tcp_connector_multiple_hosts_one_timeout", "tcp_connector_resolve_host"),
            *of("connector", "tcp_connector_dns_cache_not_expired", "tcp_connector_dns_cache_forever"),
            *of("connector", "tcp_connector_use_dns_cache_disabled", "tcp_connector_dns_throttle_requests"),
            *of("connector", "tcp_connector_dns_throttle_requests_exception_spread"),
            *of("connector", "tcp_connector_dns_throttle_requests_cancelled_when_close"),
            *of("connector", "tcp_connector_cancel_dns_error_captured", "tcp_connector_dns_tracing"),
            *of("connector", "tcp_connector_dns_tracing_cache_disabled", "tcp_connector_dns_tracing_throttle_requests"),
            *of("connector", "tcp_connector_close_resolver", "close_cancels_resolve_host", "dns_error"),
            *of("connector", "multiple_dns_resolution_requests_success"),
            *of("connector", "multiple_dns_resolution_requests_failure"),
            *of("connector", "multiple_dns_resolution_requests_cancelled"),
            *of("connector", "multiple_dns_resolution_requests_first_cancelled"),
            *of("connector", "multiple_dns_resolution_requests_first_fails_second_successful"),
            *of("connector", "connector_resolve_in_case_of_trace_cache_miss_exception"),
            *of("connector", "tcp_connector_socket_factory", "tcp_connector_close_race_condition"),
            *of("client_functional", "raising_client_connector_dns_error_on_dns_failure"),
            *of("client_session", "client_session_timeout_zero"),
        ),
        "has a resolver that says the port too, which ours does not ask for": (
            *of("client_functional", "creds_in_auth_and_redirect_url", "drop_auth_on_redirect_to_other_host"),
            *of("client_functional", "auth_persist_on_redirect_to_other_host_with_global_auth"),
            *of("client_functional", "drop_auth_on_redirect_to_other_host_with_global_auth_and_base_url"),
            *of("web_functional", "request_tracing"),
        ),
        "has requests of a mock, each of which carries a proxy, which ours denies": (
            *of("client_session", "reraise_os_error", "close_conn_on_error"),
        ),
        "gives a request a proxy, which ours denies": (*of("client_functional", "request_with_wrong_proxy"),),
        "dials 0.0.0.0, which is not on loopback": (*of("client_functional", "request_conn_error"),),
        "is about proxies, which ours denies": ("tests/test_proxy.py", "tests/test_proxy_functional.py"),
    },
)
