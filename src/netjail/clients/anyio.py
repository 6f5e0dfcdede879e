"""anyio's ``connect_tcp`` under rules, on asyncio and on trio.

This module knows anyio's function, and nothing of addresses.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Literal, overload

import anyio
from anyio.streams.tls import TLSStream

from netjail._dialer import AsyncDialer
from netjail._errors import DeniedError as Denied

from ._anyio import SystemResolver, by_anyio, close, first_stream

if TYPE_CHECKING:
    import ssl
    from ipaddress import IPv4Address, IPv6Address

    from anyio.abc import SocketStream

    from netjail._dialer import AsyncConnect, Mixed
    from netjail._resolver import AsyncResolver
    from netjail._rules import RuleSource

    Address = str | IPv4Address | IPv6Address

__all__ = ["DeniedError", "connect_tcp"]


class DeniedError(Denied, anyio.ConnectionFailed):
    """The rules in force do not accept the target. Nothing was sent to it."""


@overload
async def connect_tcp(
    remote_host: Address,
    remote_port: int,
    *,
    local_host: Address | None = ...,
    local_port: int | None = ...,
    tls: Literal[False] = ...,
    ssl_context: None = ...,
    tls_standard_compatible: bool = ...,
    tls_hostname: None = ...,
    happy_eyeballs_delay: float = ...,
    rules: RuleSource | None = ...,
    resolver: AsyncResolver | None = ...,
    connect: AsyncConnect | None = ...,
    mixed: Mixed = ...,
) -> SocketStream: ...


@overload
async def connect_tcp(
    remote_host: Address,
    remote_port: int,
    *,
    local_host: Address | None = ...,
    local_port: int | None = ...,
    tls: bool = ...,
    ssl_context: ssl.SSLContext | None = ...,
    tls_standard_compatible: bool = ...,
    tls_hostname: str | None = ...,
    happy_eyeballs_delay: float = ...,
    rules: RuleSource | None = ...,
    resolver: AsyncResolver | None = ...,
    connect: AsyncConnect | None = ...,
    mixed: Mixed = ...,
) -> SocketStream | TLSStream: ...


async def connect_tcp(
    remote_host: Address,
    remote_port: int,
    *,
    local_host: Address | None = None,
    local_port: int | None = None,
    tls: bool = False,
    ssl_context: ssl.SSLContext | None = None,
    tls_standard_compatible: bool = True,
    tls_hostname: str | None = None,
    happy_eyeballs_delay: float = 0.25,
    rules: RuleSource | None = None,
    resolver: AsyncResolver | None = None,
    connect: AsyncConnect | None = None,
    mixed: Mixed = "skip",
) -> SocketStream | TLSStream:
    """``anyio.connect_tcp`` to what the context's rules and ``rules`` accept.

    With ``tls``, ``ssl_context`` or ``tls_hostname`` the certificate is checked against ``tls_hostname``,
    by default ``remote_host``. ``happy_eyeballs_delay`` is in seconds. ``resolver``, ``connect`` and
    ``mixed`` are those of :class:`~netjail.AsyncDialer`; local addresses do not reach a ``connect``.

    Raises this module's DeniedError if no address is accepted, and what anyio raises.
    """
    dialer = AsyncDialer(rules, resolver=SystemResolver() if resolver is None else resolver, mixed=mixed)
    local = {"local_host": local_host, "local_port": local_port}
    given: dict[str, Any] = {name: value for name, value in local.items() if value is not None}
    try:
        accepted = await dialer.resolve((str(remote_host), remote_port))
    except Denied as denied:
        raise DeniedError.of(denied) from denied
    stream: SocketStream = await first_stream(partial(by_anyio, connect, **given), accepted, happy_eyeballs_delay)
    if not (tls or ssl_context or tls_hostname):
        return stream
    try:
        return await TLSStream.wrap(
            stream,
            server_side=False,
            hostname=tls_hostname or str(remote_host),
            ssl_context=ssl_context,
            standard_compatible=tls_standard_compatible,
        )
    except BaseException:
        await close(stream)
        raise
