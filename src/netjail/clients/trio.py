"""trio's ``open_tcp_stream`` and ``open_ssl_over_tcp_stream`` under rules.

This module knows trio's functions, and nothing of addresses.
"""

from __future__ import annotations

import ssl
from functools import partial
from typing import TYPE_CHECKING

import trio

from netjail._dialer import AsyncDialer
from netjail._errors import DeniedError
from netjail._race import STAGGER

from ._anyio import SystemResolver, by_trio, first_stream

if TYPE_CHECKING:
    from netjail._dialer import AsyncConnect, Mixed
    from netjail._resolver import AsyncResolver
    from netjail._rules import RuleSource

__all__ = ["DeniedError", "open_ssl_over_tcp_stream", "open_tcp_stream"]


async def open_tcp_stream(
    host: str | bytes,
    port: int,
    *,
    happy_eyeballs_delay: float | None = STAGGER,
    local_address: str | None = None,
    rules: RuleSource | None = None,
    resolver: AsyncResolver | None = None,
    connect: AsyncConnect | None = None,
    mixed: Mixed = "skip",
) -> trio.SocketStream:
    """``trio.open_tcp_stream`` to what the context's rules and ``rules`` accept.

    ``happy_eyeballs_delay`` is in seconds. ``resolver``, ``connect`` and ``mixed`` are those of
    :class:`~netjail.AsyncDialer`; ``local_address`` does not reach a ``connect``.

    Raises DeniedError, which is an OSError, if no address is accepted, and what trio raises.
    """
    dialer = AsyncDialer(rules, resolver=SystemResolver() if resolver is None else resolver, mixed=mixed)
    accepted = await dialer.resolve((host, port))  # type: ignore[arg-type]  # it decodes bytes
    delay = STAGGER if happy_eyeballs_delay is None else happy_eyeballs_delay
    asked = host if isinstance(host, str) else host.decode("ascii")
    attempt = partial(by_trio, connect, host=asked, local_address=local_address)
    stream: trio.SocketStream = await first_stream(attempt, accepted, delay)
    return stream


async def open_ssl_over_tcp_stream(
    host: str | bytes,
    port: int,
    *,
    https_compatible: bool = False,
    ssl_context: ssl.SSLContext | None = None,
    happy_eyeballs_delay: float | None = STAGGER,
    rules: RuleSource | None = None,
    resolver: AsyncResolver | None = None,
    connect: AsyncConnect | None = None,
    mixed: Mixed = "skip",
) -> trio.SSLStream[trio.SocketStream]:
    """``trio.open_ssl_over_tcp_stream`` to what the rules accept; the certificate is checked against ``host``.

    As with trio's own function, the handshake comes with the first data or with ``do_handshake``.
    The rest is as in :func:`open_tcp_stream`.
    """
    stream = await open_tcp_stream(
        host,
        port,
        happy_eyeballs_delay=happy_eyeballs_delay,
        rules=rules,
        resolver=resolver,
        connect=connect,
        mixed=mixed,
    )
    if ssl_context is None:
        ssl_context = ssl.create_default_context()
        ssl_context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF  # trio tells an end from a cut by itself
    return trio.SSLStream(stream, ssl_context, server_hostname=host, https_compatible=https_compatible)
