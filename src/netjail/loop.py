"""asyncio event loops that dial under rules, for libraries whose only seam is the loop they run on.

This module knows which methods of a loop dial, on asyncio and on uvloop, and holds no policy: the dialer judges.
"""

from __future__ import annotations

import asyncio
import socket
from functools import cache
from typing import TYPE_CHECKING, Any

from ._addresses import is_literal
from ._dialer import AsyncDialer, tls_options, transport_over
from ._errors import DeniedError
from ._race import the_error
from ._resolver import unresolvable

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable

    from ._dialer import AsyncConnect, Mixed
    from ._resolver import AsyncResolver
    from ._rules import RuleSource

    _Pair = tuple[Any, Any]
    _Plain = Callable[..., Awaitable[_Pair]]
    _Base = asyncio.SelectorEventLoop
else:
    _Base = object

__all__ = ["EventLoop", "new_event_loop"]

_INET = (socket.AF_INET, socket.AF_INET6)


async def connection(
    plain: _Plain,
    dialer: AsyncDialer,
    protocol_factory: Callable[[], Any],
    host: str | bytes | None = None,
    port: int | str | None = None,
    **options: Any,
) -> _Pair:
    """What ``plain``, a loop's own ``create_connection``, gives, over a socket that ``dialer`` connected."""
    if options.get("sock") is not None or (host is None and port is None):
        return await plain(protocol_factory, host, port, **options)
    name = "localhost" if host is None else host if isinstance(host, str) else host.decode("ascii")
    tls = {key: options.pop(key, None) for key in ("ssl_handshake_timeout", "ssl_shutdown_timeout")}
    given = {key: value for key, value in tls.items() if value is not None}
    transport_options = tls_options(name, options.pop("ssl", None), options.pop("server_hostname", None), given)
    return await transport_over(await _dialled(dialer, name, port, **options), protocol_factory, **transport_options)


async def _dialled(  # the arguments of a loop's create_connection, whose own way of racing is not used
    dialer: AsyncDialer,
    host: str,
    port: Any,
    *,
    family: int = socket.AF_UNSPEC,
    proto: int = 0,
    flags: int = 0,
    sock: None = None,  # noqa: ARG001
    local_addr: tuple[Any, ...] | None = None,
    happy_eyeballs_delay: float | None = None,  # noqa: ARG001
    interleave: int | None = None,  # noqa: ARG001
    all_errors: bool = False,
) -> socket.socket:
    if proto not in (0, socket.IPPROTO_TCP):
        raise ValueError(f"proto={proto}: a connection is TCP")
    if flags & socket.AI_NUMERICHOST and not is_literal(host):
        raise unresolvable(host)
    return await dialer.connect((host, port), None, local_addr, family=family, all_errors=all_errors)


async def datagrams(
    plain: _Plain,
    dialer: AsyncDialer,
    protocol_factory: Callable[[], Any],
    local_addr: Any = None,
    remote_addr: Any = None,
    **options: Any,
) -> _Pair:
    """What ``plain``, a loop's own ``create_datagram_endpoint``, gives for a ``remote_addr`` that was judged."""
    family = options.get("family") or socket.AF_UNSPEC
    sock = options.get("sock")
    if sock is not None:
        if sock.family in _INET and not _is_connected(sock):
            raise _anybody()
        return await plain(protocol_factory, local_addr, remote_addr, **options)
    if family not in (socket.AF_UNSPEC, *_INET):
        return await plain(protocol_factory, local_addr, remote_addr, **options)
    if remote_addr is None:
        raise _anybody()
    host, port = remote_addr
    errors: list[Exception] = []
    for address in await dialer.resolve((host, port), family=family, type=socket.SOCK_DGRAM):
        try:
            return await plain(protocol_factory, local_addr, address, **options)
        except (OSError, ValueError) as error:  # ValueError: local_addr is of the other family
            errors.append(error)
    raise the_error(errors)


def _is_connected(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


def _anybody() -> DeniedError:
    return DeniedError("*", 0, reason="a datagram endpoint that is not connected could send to anybody, unjudged")


async def destination(dialer: AsyncDialer, sock: socket.socket, address: Any) -> Any:
    """The address to use for ``address``, as a loop's ``sock_connect`` takes it; it was judged."""
    if sock.family not in _INET:
        return address
    host, port, *rest = address
    if rest[1:] and rest[1]:
        host = f"{host}%{rest[1]}"  # a zone by number
    accepted = await dialer.resolve((host, port), family=sock.family, type=sock.type)
    return accepted[0]


class _Judged(_Base):
    """The methods of a loop that dial, over those of the loop that it is mixed into."""

    def __init__(
        self,
        rules: RuleSource | None = None,
        *,
        resolver: AsyncResolver | None = None,
        connect: AsyncConnect | None = None,
        mixed: Mixed = "skip",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        try:
            self._netjail = AsyncDialer(rules, resolver=resolver, connect=connect, mixed=mixed)
        except BaseException:
            self.close()
            raise

    async def create_connection(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        protocol_factory: Callable[[], Any],
        host: str | bytes | None = None,
        port: int | str | None = None,
        **options: Any,
    ) -> _Pair:
        plain: _Plain = super().create_connection
        return await connection(plain, self._netjail, protocol_factory, host, port, **options)

    async def create_datagram_endpoint(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        protocol_factory: Callable[[], Any],
        local_addr: Any = None,
        remote_addr: Any = None,
        **options: Any,
    ) -> _Pair:
        plain: _Plain = super().create_datagram_endpoint
        return await datagrams(plain, self._netjail, protocol_factory, local_addr, remote_addr, **options)

    async def start_tls(
        self,
        transport: Any,
        protocol: Any,
        sslcontext: ssl.SSLContext,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        **options: Any,
    ) -> Any:
        """The plain method, but where it would leave the certificate's name unchecked although it is to be checked.

        asyncio says nothing when a library goes over to TLS and forgets the name.
        """
        if sslcontext.check_hostname and not server_side and not server_hostname:
            raise ValueError("start_tls without server_hostname: the context checks names, and has none to check")
        return await super().start_tls(
            transport, protocol, sslcontext, server_side=server_side, server_hostname=server_hostname, **options
        )

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        await super().sock_connect(sock, await destination(self._netjail, sock, address))

    async def sock_sendto(self, sock: socket.socket, data: Any, address: Any) -> int:
        return await super().sock_sendto(sock, data, await destination(self._netjail, sock, address))


class EventLoop(_Judged, asyncio.SelectorEventLoop):
    """asyncio's selector loop under rules, for libraries that take no socket and no connect function.

    Whatever dials through this loop must pass ``rules`` and the rules of the context of the task that
    calls; with neither, everything is denied. ``resolver``, ``connect`` and ``mixed`` are those of
    :class:`~netjail.AsyncDialer`; ``selector`` is asyncio's.

    ``create_connection`` and ``open_connection`` dial like an AsyncDialer, whose order of addresses holds
    whatever ``happy_eyeballs_delay``, ``interleave`` and ``flags`` say; TLS is checked against the host's
    name. ``sock_connect``, ``sock_sendto`` and ``create_datagram_endpoint`` with a ``remote_addr`` are
    judged; a datagram endpoint without one is denied, since it could send to anybody. ``start_tls`` with a
    context that checks names needs the ``server_hostname``. A connected ``sock`` passes, and so do unix
    sockets. Sockets that a library connects by itself are not this loop's: for those there is
    :mod:`netjail.guard`.
    """


@cache
def _uvloop_class() -> type[_Judged]:
    import uvloop  # noqa: PLC0415 - it is optional

    return type("UvloopEventLoop", (_Judged, uvloop.Loop), {"__doc__": "uvloop's loop under rules."})


def new_event_loop(
    rules: RuleSource | None = None,
    *,
    uvloop: bool = False,
    resolver: AsyncResolver | None = None,
    connect: AsyncConnect | None = None,
    mixed: Mixed = "skip",
) -> asyncio.AbstractEventLoop:
    """An :class:`EventLoop`, or with ``uvloop=True`` the same over ``uvloop.Loop``.

    ``asyncio.Runner(loop_factory=partial(new_event_loop, PUBLIC))`` runs a program on it. Raises
    ImportError where uvloop is asked for and not installed.

    >>> import asyncio
    >>> from netjail import PUBLIC
    >>> from netjail.loop import new_event_loop
    >>> loop = new_event_loop(PUBLIC)
    >>> loop.run_until_complete(loop.create_connection(asyncio.Protocol, "127.0.0.1", 80))
    Traceback (most recent call last):
    netjail.DeniedError: netjail denied the connection to '127.0.0.1' port 80: ...
    >>> loop.close()
    """
    made: Any = _uvloop_class() if uvloop else EventLoop
    return made(rules, resolver=resolver, connect=connect, mixed=mixed)  # type: ignore[no-any-return]
