"""Dialing under rules: resolve once, judge every address, connect only to what was accepted.

Dialer and AsyncDialer are twins over the same pure functions: these hold all policy and all words, the
twins hold loops. This module knows everything above it and no client library.
"""

from __future__ import annotations

import socket
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, cast

from ._addresses import is_literal, unmapped
from ._context import checked, in_force
from ._errors import DeniedError
from ._race import Selected, Threads, deadline_after, first, first_async, left_until, within
from ._resolver import AsyncSystemResolver, SystemResolver, port_number, unresolvable
from ._rules import Rules

if TYPE_CHECKING:
    import asyncio
    import ssl
    from collections.abc import Callable, Iterable, Sequence
    from ipaddress import IPv4Address, IPv6Address

    from ._context import RulesInForce
    from ._resolver import AsyncResolver, Resolver
    from ._rules import Decision, RuleSource

    Mixed = Literal["skip", "refuse"]
    Target = tuple[str, int | str]
    SocketAddress = tuple[str, int]
    SocketOption = tuple[int, int, int | bytes]

DEFAULT_TIMEOUT: Any = socket._GLOBAL_DEFAULT_TIMEOUT  # type: ignore[attr-defined]  # not in the stubs; http.client hands it on
_SYSTEM, _ASYNC_SYSTEM = SystemResolver(), AsyncSystemResolver()


class Connect(Protocol):
    """What ``connect=`` takes: the bottom-most connect, called with an address that was accepted."""

    def __call__(self, address: SocketAddress, *, timeout: float | None) -> socket.socket:
        """A connection to ``address``, an IP address and a port, within ``timeout`` seconds."""
        ...


class AsyncConnect(Protocol):
    """The same for an AsyncDialer, awaited; the caller's cancellation is its deadline."""

    async def __call__(self, address: SocketAddress) -> socket.socket:
        """A connected socket, which does not block."""
        ...


# What both twins decide.


def applying(rules: RulesInForce, host: str, port: int) -> Sequence[Rules]:
    """The rule sets that an address of this target must pass; DeniedError if there is none."""
    if not rules:
        raise DeniedError(host, port, reason="no rules are in force (give rules, or use netjail.use_rules)")
    for source in rules:
        if type(source) is not Rules:
            return [each.rules_for(host, port) for each in rules]
    return cast("tuple[Rules, ...]", rules)  # which hold for every target


def query_family(rules: Sequence[Rules], host: str, port: int, family: int = socket.AF_UNSPEC) -> int:
    """The address family to ask a resolver for; DeniedError where no answer could be accepted."""
    ip4, ip6 = family != socket.AF_INET6, family != socket.AF_INET
    for each in rules:
        ip4 = ip4 and 4 in each.versions
        ip6 = ip6 and 6 in each.versions
    if ip4 and ip6:
        return socket.AF_UNSPEC
    if not ip4 and not ip6:
        raise DeniedError(host, port, reason="the rules in force accept no address for it")
    return socket.AF_INET if ip4 else socket.AF_INET6


def judge(
    rules: Sequence[Rules],
    host: str,
    port: int,
    addresses: Sequence[str | IPv4Address | IPv6Address],
    mixed: Mixed = "skip",
) -> list[str]:
    """Those of ``addresses`` that every rule set accepts, as text in their order; DeniedError if none is.

    Without any rule set that is none.
    """
    accepted: list[str] = []
    for address in addresses if rules else ():
        for each in rules:
            if not each.accepts(address):
                break
        else:
            accepted.append(address if type(address) is str else as_text(address))
    if accepted and (mixed == "skip" or len(accepted) == len(addresses)):
        return accepted
    decisions: list[Decision] = []
    for address in addresses:
        denying = [each for each in rules if not each.accepts(address)]
        decisions.append((*denying, *rules, Rules())[0].explain(address))
    raise DeniedError(host, port, decisions, _reason(host, accepted=bool(accepted)))


def as_text(address: str | IPv4Address | IPv6Address) -> str:
    """``address`` as a plain str: what a subclass makes of itself (an enum's member, for one) nobody has judged."""
    return str.__str__(address) if isinstance(address, str) else str(address)


def _reason(host: str, *, accepted: bool) -> str:
    if is_literal(host):
        return "the address is not accepted by the rules in force"
    which = "not every one" if accepted else "none"
    return f"{which} of its addresses is accepted by the rules in force"


def answered(host: str, answer: Any) -> list[Any]:
    """A resolver's answer as a list without repetition; gaierror if it is empty."""
    if answer.__class__ is list and len(answer) == 1:  # as most are
        return answer
    if isinstance(answer, (str, bytes)) or not hasattr(answer, "__iter__"):
        getattr(answer, "close", int)()  # a coroutine, which nobody will await
        raise TypeError(f"a resolver answers with a list of addresses, not {type(answer).__name__}")
    addresses: list[Any] = list(dict.fromkeys(answer))
    if not addresses:
        raise unresolvable(host)
    return addresses


def in_dial_order(addresses: Sequence[str], port: int) -> list[SocketAddress]:
    """The two families in turn, beginning with that of the first (RFC 8305, section 4), each with the port."""
    if len(addresses) == 1:
        return [(addresses[0], port)]
    families: dict[bool, list[str]] = {}
    for address in addresses:
        families.setdefault(":" in address, []).append(address)
    turns = chain.from_iterable(zip_longest(*families.values()))
    return [(address, port) for address in turns if address is not None]


def of_family(addresses: list[SocketAddress], family: int) -> list[SocketAddress]:
    """Those of the family that was asked for, in its own spelling; gaierror, as from getaddrinfo, if there are none.

    A literal may be of the other one, and so may a resolver's answer.
    """
    if family == socket.AF_UNSPEC:
        return addresses
    if family not in (socket.AF_INET, socket.AF_INET6):
        raise socket.gaierror(socket.EAI_FAMILY, f"{family!r} is no family of IP addresses")
    if family == socket.AF_INET:
        addresses = [(unmapped(ip), port) for ip, port in addresses]
    found = [each for each in addresses if (":" in each[0]) == (family == socket.AF_INET6)]
    if not found:
        raise socket.gaierror(socket.EAI_NONAME, "none of the accepted addresses is of the family that was asked for")
    return found


def _opened(
    address: str,
    type: int,
    source_address: tuple[Any, ...] | None,
    options: Iterable[SocketOption],
) -> socket.socket:
    """A socket for ``address``, bound and not yet connected."""
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, type)
    try:
        for option in options:
            sock.setsockopt(*option)
        if source_address:
            sock.bind(source_address)
    except BaseException:
        sock.close()
        raise
    return sock


def _target(address: Target, type: int = socket.SOCK_STREAM) -> tuple[str, int]:
    """The host and the port number of what a caller asked for."""
    host, port, *_ = address
    if not isinstance(host, str):
        if not isinstance(host, (bytes, bytearray)):
            raise TypeError(f"a host is a str, not {host!r}")
        host = host.decode("ascii", "backslashreplace")
    if "\0" in host:  # where the system's resolver would stop reading
        raise unresolvable(host)
    return host if host.__class__ is str else as_text(host), port_number(port, type)


class _Jail:
    """What a Dialer and an AsyncDialer are made of."""

    _pinned: RulesInForce | None = None

    def __init__(self, rules: RuleSource | None, mixed: Mixed) -> None:
        if mixed not in ("skip", "refuse"):
            raise ValueError(f"mixed={mixed!r}: 'skip' dials the accepted addresses of a name, 'refuse' denies it")
        self._rules = rules if rules is None or type(rules) is Rules else checked(rules)
        self._mixed: Mixed = mixed

    def rules_in_force(self) -> RulesInForce:
        """The rules that a connection made here and now must pass."""
        return in_force(self._rules) if self._pinned is None else self._pinned

    def _asked(self, address: Target, type: int) -> tuple[str, int, Sequence[Rules]]:
        """The host and the port number that a caller asked for, and the rule sets that apply to them."""
        host, port = _target(address, type)
        in_force_here = in_force(self._rules) if self._pinned is None else self._pinned  # every dial saves a call
        return host, port, applying(in_force_here, host, port)

    def pinned(self, rules: RulesInForce) -> Self:
        """This dialer under ``rules`` whatever the context: for a pool, which belongs to its rules."""
        pinned = object.__new__(type(self))
        pinned.__dict__.update(self.__dict__, _pinned=rules)
        return pinned


class Dialer(_Jail):
    """Connects to what the rules accept.

    ``rules`` and the context's rules must both accept an address; with neither, everything is denied.
    ``resolver`` looks names up, by default the system's. ``connect`` replaces the bottom-most connect: it
    is called with an accepted ``(ip, port)`` and the keyword ``timeout``, from a worker thread where a
    name has several addresses. With ``mixed="refuse"`` a name is denied when any of its addresses is.

    A Dialer can be called like :meth:`connect` and shared between threads.
    """

    def __init__(
        self,
        rules: RuleSource | None = None,
        *,
        resolver: Resolver | None = None,
        connect: Connect | None = None,
        mixed: Mixed = "skip",
    ) -> None:
        super().__init__(rules, mixed)
        self._resolver: Resolver = _SYSTEM if resolver is None else resolver
        self._connect = connect

    def connect(
        self,
        address: Target,
        timeout: float | None = DEFAULT_TIMEOUT,
        source_address: tuple[Any, ...] | None = None,
        *,
        all_errors: bool = False,
        family: int = socket.AF_UNSPEC,
        type: int = socket.SOCK_STREAM,
        socket_options: Iterable[SocketOption] = (),
    ) -> socket.socket:
        """A connected socket, as ``socket.create_connection`` gives it.

        ``timeout`` is in seconds, covers the lookup and every attempt, and stays set on the socket, if it is
        not one of ``connect=``. ``family`` narrows to IPv4 or IPv6 (a literal of the other one is a gaierror,
        but for ``connect=``, which is handed it), ``type=socket.SOCK_DGRAM`` is UDP, and ``socket_options``
        are set before connecting. All accepted addresses are tried, 250 ms apart.

        Raises DeniedError if no address is accepted, ``socket.gaierror`` if the host or the port cannot
        be resolved, TimeoutError, and the OSError of the last attempt if all fail (all of them in an
        ExceptionGroup with ``all_errors``).
        """
        if timeout is DEFAULT_TIMEOUT:
            timeout = socket.getdefaulttimeout()
        deadline = deadline_after(timeout)
        accepted = self.resolve(address, timeout, family=family, type=type)
        if (bottom := self._connect) is not None:
            if len(accepted) == 1 and not all_errors:
                return bottom(accepted[0], timeout=left_until(deadline))
            return first(
                Threads(lambda target: bottom(target, timeout=left_until(deadline))), accepted, deadline, all_errors
            )
        accepted = of_family(accepted, family)
        alone = len(accepted) == 1 and not all_errors
        if alone:
            sock = _opened(accepted[0][0], type, source_address, socket_options)
            try:
                sock.settimeout(left_until(deadline))
                sock.connect(accepted[0])
            except BaseException:
                sock.close()
                raise
        else:
            attempts = Selected(lambda ip: _opened(ip, type, source_address, socket_options))
            sock = first(attempts, accepted, deadline, all_errors)
        if timeout is not None or not alone:
            sock.settimeout(timeout)
        return sock

    __call__ = connect

    def connect_tls(
        self,
        address: Target,
        timeout: float | None = DEFAULT_TIMEOUT,
        source_address: tuple[Any, ...] | None = None,
        *,
        context: ssl.SSLContext | None = None,
        server_hostname: str | None = None,
        family: int = socket.AF_UNSPEC,
        socket_options: Iterable[SocketOption] = (),
    ) -> ssl.SSLSocket:
        """A TLS connection whose certificate was checked against the name that was asked for.

        ``timeout`` covers the handshake as well. The default ``context`` is ``ssl.create_default_context()``.
        Raises what :meth:`connect` raises, and ``ssl.SSLError``.
        """
        import ssl  # noqa: PLC0415 - it takes about as long to load as netjail, and TLS alone needs it

        if timeout is DEFAULT_TIMEOUT:
            timeout = socket.getdefaulttimeout()
        deadline = deadline_after(timeout)
        context = ssl.create_default_context() if context is None else context
        sock = self.connect(address, timeout, source_address, family=family, socket_options=socket_options)
        try:
            sock.settimeout(left_until(deadline))
            tls = context.wrap_socket(sock, server_hostname=server_hostname or _target(address)[0])
        except BaseException:
            sock.close()
            raise
        tls.settimeout(timeout)
        return tls

    def resolve(
        self,
        address: Target,
        timeout: float | None = None,
        *,
        family: int = socket.AF_UNSPEC,
        type: int = socket.SOCK_STREAM,
    ) -> list[SocketAddress]:
        """The accepted ``(ip, port)`` of a target in the order to dial them, for what dials by itself.

        With a ``timeout`` the lookup runs in one of 32 threads and is left behind there when it takes
        longer. Raises what :meth:`connect` raises before it connects.
        """
        host, port, rules = self._asked(address, type)
        if is_literal(host):
            judge(rules, host, port, [host])
            return [(host, port)]
        family = query_family(rules, host, port, family)
        if timeout is None:
            answer = self._resolver.lookup(host, family)
        else:
            answer = within(timeout, lambda: self._resolver.lookup(host, family))
        return in_dial_order(judge(rules, host, port, answered(host, answer), self._mixed), port)


class AsyncDialer(_Jail):
    """The same as :class:`Dialer` for asyncio.

    ``resolver`` is an AsyncResolver, and ``connect`` is awaited with an accepted ``(ip, port)`` and gives
    a connected socket that does not block. Cancelling a call closes every socket it has opened.
    """

    def __init__(
        self,
        rules: RuleSource | None = None,
        *,
        resolver: AsyncResolver | None = None,
        connect: AsyncConnect | None = None,
        mixed: Mixed = "skip",
    ) -> None:
        super().__init__(rules, mixed)
        self._resolver: AsyncResolver = _ASYNC_SYSTEM if resolver is None else resolver
        self._connect = connect

    async def connect(
        self,
        address: Target,
        timeout: float | None = None,
        source_address: tuple[Any, ...] | None = None,
        *,
        all_errors: bool = False,
        family: int = socket.AF_UNSPEC,
        type: int = socket.SOCK_STREAM,
        socket_options: Iterable[SocketOption] = (),
    ) -> socket.socket:
        """A connected socket that does not block. The rest is as in :meth:`Dialer.connect`."""
        import asyncio  # noqa: PLC0415 - it takes longer to load than all of netjail

        if timeout is not None:
            async with asyncio.timeout(timeout):
                return await self.connect(
                    address,
                    None,
                    source_address,
                    all_errors=all_errors,
                    family=family,
                    type=type,
                    socket_options=socket_options,
                )

        accepted = await self.resolve(address, family=family, type=type)
        return await self._dialled(accepted, source_address, family, all_errors, type, socket_options)

    async def _dialled(
        self,
        accepted: list[SocketAddress],
        source_address: tuple[Any, ...] | None,
        family: int,
        all_errors: bool = False,
        type: int = socket.SOCK_STREAM,
        socket_options: Iterable[SocketOption] = (),
    ) -> socket.socket:
        import asyncio  # noqa: PLC0415 - it takes longer to load than all of netjail

        async def attempt(target: SocketAddress) -> socket.socket:
            if self._connect is not None:
                return await self._connect(target)
            sock = _opened(target[0], type, source_address, socket_options)
            try:
                sock.setblocking(False)
                await asyncio.get_running_loop().sock_connect(sock, target)
            except BaseException:
                sock.close()
                raise
            return sock

        if self._connect is None:
            accepted = of_family(accepted, family)
        if len(accepted) == 1 and not all_errors:
            return await attempt(accepted[0])
        return await first_async(attempt, accepted, all_errors)

    __call__ = connect

    async def connect_tls(
        self,
        address: Target,
        timeout: float | None = None,
        source_address: tuple[Any, ...] | None = None,
        *,
        context: ssl.SSLContext | None = None,
        server_hostname: str | None = None,
        family: int = socket.AF_UNSPEC,
        socket_options: Iterable[SocketOption] = (),
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """The streams of a TLS connection whose certificate was checked against the name that was asked for."""
        import asyncio  # noqa: PLC0415 - it takes longer to load than all of netjail

        async with asyncio.timeout(timeout):
            sock = await self.connect(address, None, source_address, family=family, socket_options=socket_options)
            name = server_hostname or _target(address)[0]
            return await _streams({"sock": sock}, 2**16, ssl=context or True, server_hostname=name)

    async def open_connection(
        self,
        host: str,
        port: int | str,
        *,
        limit: int = 2**16,
        ssl: ssl.SSLContext | bool | None = None,
        server_hostname: str | None = None,
        local_addr: tuple[Any, ...] | None = None,
        family: int = socket.AF_UNSPEC,
        **transport_options: Any,
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A (reader, writer) pair, as ``asyncio.open_connection`` gives it.

        With ``ssl`` the certificate is checked against ``server_hostname``, by default ``host``.
        ``transport_options`` are ``ssl_handshake_timeout`` and ``ssl_shutdown_timeout``.
        """
        options = tls_options(host, ssl, server_hostname, transport_options)
        accepted = await self.resolve((host, port), family=family)
        if len(accepted) == 1 and self._connect is None:  # no race: the loop connects to it as fast as it can
            ip, number = of_family(accepted, family)[0]
            return await _streams({"host": ip, "port": number, "local_addr": local_addr}, limit, **options)
        return await _streams({"sock": await self._dialled(accepted, local_addr, family)}, limit, **options)

    async def create_connection(
        self,
        protocol_factory: Callable[[], Any],
        host: str,
        port: int | str,
        *,
        ssl: ssl.SSLContext | bool | None = None,
        server_hostname: str | None = None,
        local_addr: tuple[Any, ...] | None = None,
        family: int = socket.AF_UNSPEC,
        **transport_options: Any,
    ) -> tuple[asyncio.Transport, Any]:
        """A (transport, protocol) pair, as a loop's ``create_connection`` gives it."""
        options = tls_options(host, ssl, server_hostname, transport_options)
        sock = await self.connect((host, port), None, local_addr, family=family)
        return await transport_over(sock, protocol_factory, **options)

    async def resolve(
        self,
        address: Target,
        *,
        family: int = socket.AF_UNSPEC,
        type: int = socket.SOCK_STREAM,
    ) -> list[SocketAddress]:
        """The same as :meth:`Dialer.resolve`."""
        host, port, rules = self._asked(address, type)
        if is_literal(host):
            judge(rules, host, port, [host])
            return [(host, port)]
        lookup: Any = self._resolver.lookup(host, query_family(rules, host, port, family))
        if not hasattr(lookup, "__await__"):
            raise TypeError(f"an AsyncDialer needs an AsyncResolver: {self._resolver!r} is not awaited")
        return in_dial_order(judge(rules, host, port, answered(host, await lookup), self._mixed), port)


def tls_options(
    host: str, ssl: ssl.SSLContext | bool | None, server_hostname: str | None, options: dict[str, Any]
) -> dict[str, Any]:
    """The keyword arguments for asyncio once there is a socket, checked before anything was sent."""
    if not options and not ssl and server_hostname is None:
        return {}
    if unknown := options.keys() - {"ssl_handshake_timeout", "ssl_shutdown_timeout"}:
        raise TypeError(f"{', '.join(sorted(unknown))}: not an option of a connection that netjail dials")
    if not ssl:
        if server_hostname is not None or any(value is not None for value in options.values()):
            raise ValueError("server_hostname and TLS timeouts are only meaningful with ssl")
        return {}
    return {"ssl": ssl, "server_hostname": host if server_hostname is None else server_hostname, **options}


async def transport_over(
    sock: socket.socket, protocol_factory: Callable[[], Any], **options: Any
) -> tuple[asyncio.Transport, Any]:
    """Hands a connected socket to the loop, which closes it from then on, also when a handshake fails."""
    import asyncio  # noqa: PLC0415 - it takes longer to load than all of netjail

    def make() -> Any:
        try:
            return protocol_factory()
        except BaseException:
            sock.close()
            raise

    return await asyncio.get_running_loop().create_connection(make, sock=sock, **options)


async def _streams(to: dict[str, Any], limit: int, **options: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Streams over a ``sock``, or to a ``host`` that is an accepted address. The loop closes what fails."""
    import asyncio  # noqa: PLC0415 - it takes longer to load than all of netjail

    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=limit, loop=loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    transport, _ = await loop.create_connection(lambda: protocol, **to, **options)
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


_DIALER, _ASYNC_DIALER = Dialer(), AsyncDialer()


def create_connection(
    address: Target,
    timeout: float | None = DEFAULT_TIMEOUT,
    source_address: tuple[Any, ...] | None = None,
    *,
    all_errors: bool = False,
    rules: RuleSource | None = None,
    resolver: Resolver | None = None,
) -> socket.socket:
    """``socket.create_connection`` under the context's rules and ``rules``: see :meth:`Dialer.connect`."""
    dialer = _DIALER if rules is None and resolver is None else Dialer(rules, resolver=resolver)
    return dialer.connect(address, timeout, source_address, all_errors=all_errors)


async def open_connection(
    host: str,
    port: int | str,
    *,
    rules: RuleSource | None = None,
    resolver: AsyncResolver | None = None,
    **options: Any,
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """``asyncio.open_connection`` under the context's rules and ``rules``: see :meth:`AsyncDialer.open_connection`."""
    dialer = _ASYNC_DIALER if rules is None and resolver is None else AsyncDialer(rules, resolver=resolver)
    return await dialer.open_connection(host, port, **options)
