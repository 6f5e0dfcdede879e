"""Tornado's own suite, what of it has to do with its HTTP client: every client is ours."""

from __future__ import annotations

import logging
from importlib import import_module
from typing import Any

from .standing_in import as_it_is, put, stand_in
from .suite import Suite


def jail() -> None:
    import tornado.simple_httpclient
    import tornado.tcpclient
    import tornado.websocket

    from netjail import Rules, presets
    from netjail.clients import tornado as ours

    import_module("tornado.testing")  # so that it is among those whose names are taken
    loopback = Rules(allow=presets.LOOPBACK)

    def initialize(self: Any, rules: Any = None, **options: Any) -> None:
        ours.AsyncHTTPClient.initialize(self, loopback, **options)

    plain = tornado.simple_httpclient.SimpleAsyncHTTPClient
    names = {"initialize": initialize, "__module__": plain.__module__, "__doc__": plain.__doc__}
    put("tornado", plain, type(plain.__name__, (ours.AsyncHTTPClient,), names))
    client = tornado.tcpclient.TCPClient
    put("tornado", client, stand_in(ours.TCPClient, client, loopback))

    def websocket_connect(*args: Any, **options: Any) -> Any:
        return ours.websocket_connect(*args, rules=loopback, **options)

    module: Any = ours
    module.websocket = as_it_is(tornado.websocket)
    put("tornado", tornado.websocket.websocket_connect, websocket_connect)


def prepare() -> None:
    """What Tornado's own runner does: its tests fail where they see what they do not expect in the log."""
    logging.getLogger("tornado.access").setLevel(logging.CRITICAL)


SUITE = Suite(
    "tornado",
    "6.6.1",
    "28e6311402af59c8b02e3fa0f5e7d8eb465b25081381803b127d97e6a4395d5a",
    jail,
    keep=("tornado", "pyproject.toml"),
    tests=("tornado/test", "tornado/testing.py"),
    beneath=("tornado/iostream.py",),
    prepare=prepare,
    arguments=(
        *(
            f"tornado/test/{name}_test.py"
            for name in ("httpclient", "simple_httpclient", "tcpclient", "websocket", "httpserver", "web", "testing")
        ),
    ),
    differs={
        "gives a resolver of Tornado's, which ours does not take": (
            "tornado/test/simple_httpclient_test.py::SimpleHTTPClientTestCase::test_connect_timeout",
            "tornado/test/simple_httpclient_test.py::ResolveTimeoutTestCase::test_resolve_timeout",
            "tornado/test/simple_httpclient_test.py::SimpleHTTPSClientTestCase::test_connect_timeout",
            "tornado/test/simple_httpclient_test.py::HostnameMappingTestCase::test_hostname_mapping",
            "tornado/test/simple_httpclient_test.py::HostnameMappingTestCase::test_port_mapping",
            "tornado/test/websocket_test.py::WebSocketTest::test_check_origin_invalid_subdomains",
            "tornado/test/tcpclient_test.py::TCPClientTest::test_connect_timeout",
            "tornado/test/tcpclient_test.py::TCPClientTest::test_connect_timeout_during_tcp_connect",
            "tornado/test/tcpclient_test.py::TCPClientTest::test_source_ip_mixed_families",
        ),
        "wants no IPv6, and gives an IPv6 address, which ours dials": (
            "tornado/test/simple_httpclient_test.py::SimpleHTTPClientTestCase::test_ipv6",
            "tornado/test/simple_httpclient_test.py::SimpleHTTPSClientTestCase::test_ipv6",
        ),
        "asks for the one client of a loop, where ours makes another each time": (
            "tornado/test/simple_httpclient_test.py::SimpleHTTPClientTestCase::test_singleton",
            "tornado/test/simple_httpclient_test.py::SimpleHTTPSClientTestCase::test_singleton",
        ),
    },
    chance={
        "where the machine is slow, in 2 of 2 runs of the plain client and in 1 of 2 of ours": (
            "tornado/test/simple_httpclient_test.py::SimpleHTTPSClientTestCase::test_request_timeout",
        ),
        "where the machine is slow, in 1 of 2 runs of the plain client and in none of 2 of ours": (
            "tornado/test/httpclient_test.py::HTTPClientCommonTestCase::test_streaming_decompression_bomb",
        ),
    },
)
