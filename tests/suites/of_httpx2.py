"""httpx2, whose source archive has no tests, through those of httpx: it offers itself in the place of httpx."""

from __future__ import annotations

import functools

from . import of_httpx
from .suite import Suite


def prepare() -> None:
    import httpx2

    httpx2.alias_httpx()


def jail() -> None:
    import httpx2

    from netjail import Rules, presets
    from netjail.clients.httpx2 import AsyncTransport, Transport

    loopback = Rules(allow=presets.LOOPBACK)
    for client, transport in ((httpx2.Client, Transport), (httpx2.AsyncClient, AsyncTransport)):
        of_httpx.give(client, functools.partial(transport, loopback))


SUITE = Suite(
    "httpx",
    "0.28.1",
    of_httpx.SUITE.sha256,
    jail,
    in_turn=True,
    prepare=prepare,
    left_out=of_httpx.SUITE.left_out,
    differs=of_httpx.SUITE.differs,
)
