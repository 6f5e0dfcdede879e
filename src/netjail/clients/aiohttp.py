"""aiohttp under rules: a connector with one inner TCPConnector for each rules in force.

The inner ones pool and dial as aiohttp does, and are handed nothing but addresses that were judged. This
module knows aiohttp's connectors and how the rules reach them, and no policy.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any

from aiohttp import ClientConnectionError, ClientConnectorError, ClientError, TCPConnector
from aiohttp.abc import AbstractResolver, ResolveResult

from .. import _errors
from .._context import in_force
from .._dialer import AsyncDialer, applying, judge
from .._pools import Pools

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import CoroutineType

    from aiohttp import ClientRequest, ClientTimeout
    from aiohttp.client_proto import ResponseHandler
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace

    from .._context import RulesInForce
    from .._dialer import Mixed
    from .._resolver import AsyncResolver
    from .._rules import RuleSource

# What stands between a request and the socket factory, and where the resolver and the factory are kept.
_DIALING = ("connect", "_get", "_create_connection", "_create_direct_connection", "_wrap_create_connection")
_PARTS = ("_resolver", "_resolver_owner", "_socket_factory", "_conns", "_acquired")
_DEPRECATED = {"verify_ssl", "ssl_context", "fingerprint", "enable_cleanup_closed", "ssl_shutdown_timeout"}


class DeniedError(_errors.DeniedError, ClientError):
    """The rules in force accept no address of the request's host; also an ``aiohttp.ClientError``."""


class Connector(TCPConnector):
    """``aiohttp.TCPConnector`` under rules: ``ClientSession(connector=Connector(PUBLIC))``.

    ``rules`` and the rules of the context of each request must both accept an address; with neither,
    everything is denied. Redirects are judged like first requests, and no request rides on a connection
    that was made under other rules than its own. ``resolver`` is netjail's
    :class:`~netjail.AsyncResolver`, not aiohttp's, and ``mixed`` is as in :class:`~netjail.AsyncDialer`.

    The other keywords are TCPConnector's own. They hold for each rules in force apart: ``limit``,
    ``limit_per_host``, and the cache of names (``ttl_dns_cache``, 10 seconds), which keeps addresses that
    these rules accepted. ``socket_factory`` is called after the address was judged.

    ``new`` makes the TCPConnector for one tuple of rules, in place of those keywords: a new one each time,
    with no resolver and no dialing of its own. At most ``max_idle_transports`` are kept; the least
    recently used is let go, and closed when its last connection in use is released.

    Requests raise :class:`DeniedError` and what aiohttp raises. A request that carries a proxy, from
    ``proxy=`` or from the environment by ``trust_env``, is denied: a proxy would dial the target itself.
    """

    def __init__(
        self,
        rules: RuleSource | None = None,
        *,
        new: Callable[[RulesInForce], TCPConnector] | None = None,
        resolver: AsyncResolver | None = None,
        max_idle_transports: int = 256,
        mixed: Mixed = "skip",
        **options: Any,
    ) -> None:
        if options.pop("proxy", None) is not None:
            raise ValueError("proxy= is not supported yet: a proxy would dial the target itself, outside the rules")
        if new is not None and options:
            raise TypeError(f"new= makes the plain connectors: give {', '.join(options)} to what it makes")
        if resolver is not None and not hasattr(resolver, "lookup"):
            raise TypeError(f"resolver= is a netjail.AsyncResolver, not aiohttp's: {resolver!r} has no lookup")
        self._dialer = AsyncDialer(rules, resolver=resolver, mixed=mixed)
        nothing = _Jail(self._dialer.pinned(()), None)  # this connector itself never dials
        own: dict[str, Any] = {**options, "resolver": nothing, "socket_factory": nothing.open}
        super().__init__(**own)  # pyright: ignore[reportUnknownMemberType]
        self._given = rules
        self._pools = Pools(_Maker(self._dialer, new or _plain(options, self)), max_idle_transports)

    def connect(
        self, req: ClientRequest, traces: list[Trace], timeout: ClientTimeout
    ) -> CoroutineType[Any, Any, Connection]:
        """A connection for ``req``: one from the pool of the rules in force, or a new one that they accept."""
        if self._closed:
            raise ClientConnectionError("Connector is closed.")
        inner: Any = self._pools.get(in_force(self._given))  # chosen here and now, and all that every request pays
        return inner.connect(req, traces, timeout)  # type: ignore[no-any-return]

    def close_idle_connections(self) -> None:
        """Closes every connection that no request uses, under whatever rules. The others stay."""
        for inner in self._pools.alive():
            idle = [protocol for connections in inner._conns.values() for protocol, _ in connections]
            inner._conns.clear()
            for protocol in idle:
                protocol.close()

    def clear_dns_cache(self, host: str | None = None, port: int | None = None) -> None:
        """Forgets the addresses of ``host`` at ``port``, or of all names, under whatever rules."""
        super().clear_dns_cache(host, port)
        for inner in self._pools.alive():
            inner.clear_dns_cache(host, port)

    def _close(self, *, abort_ssl: bool = False) -> list[Awaitable[object]]:
        """What ``close`` does at once. It then awaits what this returns."""
        waiters = super()._close(abort_ssl=abort_ssl)
        for inner in self._pools.clear():
            waiters += inner._close(abort_ssl=abort_ssl)
        return waiters


class _Inner(TCPConnector):
    """The connector of one tuple of rules, or the part of it that is ours.

    The table holds it and so does every connection in use, and nothing else.
    """

    async def _create_connection(
        self, req: ClientRequest, traces: list[Trace], timeout: ClientTimeout
    ) -> ResponseHandler:
        if req.proxy is not None:
            raise DeniedError(req.host, req.port or 0, reason="a proxy would dial it outside the rules")
        try:
            return await super()._create_connection(req, traces, timeout)
        except ClientConnectorError as error:
            denied = error.__cause__
            if isinstance(denied, _errors.DeniedError):
                raise DeniedError.of(denied) from denied
            raise

    def __del__(self, _warnings: Any = None) -> None:
        """Closes what idles. Nobody has forgotten to: the table let go of it, and the last connection was released."""
        if not self._closed:
            with suppress(RuntimeError):  # the loop is closed
                # Later, as this may be a garbage collection, in any thread.
                self._loop.call_soon_threadsafe(self._close)


class _Maker:
    """Makes the inner connector for some rules. It does not know the outer one, which is freed without a cycle."""

    def __init__(self, dialer: AsyncDialer, new: Callable[[RulesInForce], Any]) -> None:
        self._dialer = dialer
        self._new = new

    def __call__(self, rules: Any) -> _Inner:
        connector: Any = self._new(rules)
        _check(connector)
        jail = _Jail(self._dialer.pinned(rules), connector._socket_factory)
        if connector._resolver_owner:  # what aiohttp made for it, which with aiodns holds sockets and a thread
            jail.replacing = connector._loop.create_task(connector._resolver.close())
        connector._resolver, connector._resolver_owner, connector._socket_factory = jail, False, jail.open
        connector.__class__ = _inner(connector.__class__)
        return connector  # type: ignore[no-any-return]


def _plain(options: dict[str, Any], outer: TCPConnector) -> Callable[[RulesInForce], TCPConnector]:
    """What makes aiohttp's own connector with ``options``, the deprecated ones as ``outer`` took them.

    aiohttp has warned of those when the outer one was made, and warning again is not for a request to do.
    """
    taken = {name: value for name, value in options.items() if name not in _DEPRECATED}
    taken |= {"resolver": outer._resolver, "ssl": outer._ssl, "loop": outer._loop}
    taken["enable_cleanup_closed"] = not outer._cleanup_closed_disabled
    ssl_shutdown_timeout = outer._ssl_shutdown_timeout

    def new(_rules: RulesInForce) -> TCPConnector:
        connector = TCPConnector(**taken)
        connector._ssl_shutdown_timeout = ssl_shutdown_timeout
        return connector

    return new


def _check(connector: Any) -> None:
    """TypeError or ValueError if ``connector`` dials past its resolver and its socket factory, or has dialled."""
    if isinstance(connector, _Inner):
        raise TypeError("one connector for two sets of rules: new= must make another one each time")
    if not isinstance(connector, TCPConnector):
        raise TypeError(f"new= makes an aiohttp.TCPConnector for each rules in force, not {connector!r}")
    kind = type(connector)
    for name in _DIALING:
        if name in vars(connector) or getattr(kind, name) is not getattr(TCPConnector, name):
            raise TypeError(f"{kind.__name__} has a {name} of its own, which reaches what nobody has judged")
    if missing := [part for part in _PARTS if not hasattr(connector, part)]:
        raise TypeError(f"netjail does not know this version of aiohttp: {', '.join(missing)} missing")
    if not connector._resolver_owner and not isinstance(connector._resolver, _Jail):
        raise ValueError(f"give resolver= to netjail's Connector, not to what new= makes: {connector._resolver!r}")
    if connector._conns or connector._acquired:
        raise ValueError("new= made a connector that has connections already, which nobody has judged")


@cache
def _inner(kind: type[TCPConnector]) -> type[_Inner]:
    """``kind`` with what is ours in front."""
    return _Inner if kind is TCPConnector else type(kind.__name__, (_Inner, kind), {})


class _Accepted(int):
    """The port of ``ip``, which ``jail`` accepted for the name that was asked for.

    aiohttp hands it on to the socket factory beside the address. (A str of our own would be the plainer
    thing to mark, but the socket module has the slow idna codec encode any str that is not a plain one.)
    """

    jail: _Jail
    ip: str


class _Jail(AbstractResolver):
    """The resolver and the socket factory of one inner connector: whatever it dials passes through here."""

    replacing: object = None
    """The task that closes the resolver that was there before. A loop keeps no strong reference to its tasks."""

    def __init__(self, dialer: AsyncDialer, socket_factory: Callable[[Any], socket.socket] | None) -> None:
        self._dialer = dialer
        self._socket_factory = socket_factory

    async def resolve(self, host: str, port: int = 0, family: int = socket.AF_INET) -> list[ResolveResult]:
        return [self._result(host, *address) for address in await self._dialer.resolve((host, port), family=family)]

    def _result(self, name: str, ip: str, port: int) -> ResolveResult:
        accepted = _Accepted(port)
        accepted.jail, accepted.ip = self, ip
        family = socket.AF_INET6 if ":" in ip else socket.AF_INET
        flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        return ResolveResult(hostname=name, host=ip, port=accepted, family=family, proto=0, flags=flags)

    def open(self, addr_info: Any) -> socket.socket:
        """A socket for an address that was judged, by now at the latest: no resolver is asked for a literal."""
        family, kind, protocol, _, address = addr_info
        ip, port = address[:2]
        if type(port) is not _Accepted or port.jail is not self or port.ip != ip:
            self._judge(ip, port)
        if self._socket_factory is not None:
            return self._socket_factory(addr_info)
        return socket.socket(family, kind, protocol)

    def _judge(self, literal: str, port: int) -> None:
        rules = applying(self._dialer.rules_in_force(), literal, port)
        try:
            judge(rules, literal, port, [literal])
        except ValueError:  # 127.1, which aiohttp before 3.14 takes for a literal
            reason = "it is no address and nobody has resolved it"
            raise _errors.DeniedError(literal, port, reason=reason) from None

    async def close(self) -> None:
        """Closes nothing: the resolver belongs to whoever gave it."""
