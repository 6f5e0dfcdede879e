"""httpcore's own suite: every pool and connection that is given no network backend gets the one of our transports."""

from __future__ import annotations

import functools
from typing import Any

from .suite import Suite


def jail() -> None:
    import httpcore

    from netjail import AsyncDialer, Dialer, Rules, presets
    from netjail.clients import _httpcore, httpx
    from netjail.clients._anyio import SystemResolver

    loopback = Rules(allow=presets.LOOPBACK)
    ours: Any = _httpcore
    kits: tuple[Any, Any] = (httpx.Transport._kit, httpx.AsyncTransport._kit)
    backend = ours._Backend(kits[0], Dialer(loopback))
    async_backend = ours._AsyncBackend(kits[1], AsyncDialer(loopback, resolver=SystemResolver()), None)
    give(httpcore.ConnectionPool, backend)
    give(httpcore.HTTPConnection, backend)
    give(httpcore.AsyncConnectionPool, async_backend)
    give(httpcore.AsyncHTTPConnection, async_backend)


def give(made: Any, backend: Any) -> None:
    """Has every ``made`` open its connections by ``backend``, unless it is given another."""
    plain = made.__init__

    @functools.wraps(plain)
    def init(self: Any, *args: Any, **options: Any) -> None:
        if options.get("network_backend") is None:
            options["network_backend"] = backend
        plain(self, *args, **options)

    made.__init__ = init


SUITE = Suite(
    "httpcore",
    "1.0.9",
    "6e34463af53fd2ab5d807f399a9b45ea31c3dfa2276f15a2c3f00afff6e176e8",
    jail,
    servers=("pytest_httpbin",),
)
