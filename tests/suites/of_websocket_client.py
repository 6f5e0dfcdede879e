"""websocket-client's own suite, against an echoing server: every WebSocket and every app is ours."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .standing_in import as_it_is, put, stand_in
from .suite import Suite


def jail() -> None:
    import websocket

    from netjail import Rules, presets
    from netjail.clients import websocket_client as ours

    loopback = Rules(allow=presets.LOOPBACK)
    module: Any = ours
    module.websocket = as_it_is(websocket)
    kept = stand_in(ours.WebSocket, websocket.WebSocket, loopback)
    own: Any = ours.WebSocketApp
    init = functools.partialmethod(own.__init__, rules=loopback)
    app = type("WebSocketApp", (own,), {"__init__": init, "__doc__": own.__doc__})

    def create_connection(url: str, timeout: Any = None, class_: Any = ours.WebSocket, **options: Any) -> Any:
        return ours.create_connection(url, timeout, class_, rules=loopback, **options)

    put("websocket", websocket.create_connection, create_connection)
    put("websocket", websocket.WebSocketApp, app)
    put("websocket", websocket.WebSocket, kept)


@contextmanager
def serve() -> Iterator[tuple[str, ...]]:
    from tests.servers.websocket import Echo

    with Echo("127.0.0.1") as echo:
        yield (f"--environ=LOCAL_WS_SERVER_PORT={echo.port}",)


SUITE = Suite(
    "websocket-client",
    "1.9.2",
    "0fcb57545848be86992e128218fd96dd87a6769ffdb1a968dff79632b85604d0",
    jail,
    keep=("websocket", "pyproject.toml"),
    tests=("websocket/tests",),
    serve=serve,
    arguments=("websocket/tests",),
    left_out={
        "calls the plain dialing function": ("websocket/tests/test_http.py::HttpTest::test_connect",),
    },
    differs={
        "has the plain dialing function replaced, which ours does not call": tuple(
            f"websocket/tests/test_websocket.py::WebSocketCoreUnitTests::{test}"
            for test in (
                "test_connect_handles_redirects",
                "test_connect_redirect_invalid_target_raises",
                "test_connect_redirect_limit_exhausted_raises",
                "test_connect_redirect_without_location_raises",
            )
        ),
        "gives a class that is not of ours, which ours refuses": (
            "websocket/tests/test_websocket.py::WebSocketCoreUnitTests::test_create_connection_uses_custom_class",
        ),
    },
)
