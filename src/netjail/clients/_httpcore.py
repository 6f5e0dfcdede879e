"""What httpx and httpx2 share: one plain transport, and so one httpcore pool, for each rules in force.

This module is handed its library's classes and imports no httpx: the two are one engine under two names.
It knows the private parts of an httpcore pool that are named in ``_PARTS``, and refuses a pool without them.
"""

from __future__ import annotations

import asyncio
import socket
import time
import weakref
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import anyio
import anyio.abc

from netjail._context import in_force
from netjail._dialer import AsyncDialer, Dialer
from netjail._errors import DeniedError
from netjail._pools import Pools

from ._anyio import SystemResolver, by_anyio, by_trio, close, first_stream, in_trio

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator

    from netjail._context import RulesInForce
    from netjail._dialer import AsyncConnect, Connect, Mixed
    from netjail._resolver import AsyncResolver, Resolver
    from netjail._rules import RuleSource

Plain = TypeVar("Plain")
Request = TypeVar("Request")
Response = TypeVar("Response")

_RAW = anyio.abc.SocketAttribute.raw_socket
_PARTS = ("_network_backend", "_connections", "_requests", "_optional_thread_lock", "_close_connections", "_uds")


class RequestDeniedError(DeniedError):
    """A denial with the ``request`` that every error of an httpx carries, through pickle too."""

    _request: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        return *super().__reduce__(), {"_request": self._request}


@dataclass(frozen=True)
class Kit:
    """The classes of one library that a transport is made of, for sync or for async."""

    plain: type[Any]
    """The transport that stands behind: HTTPTransport or AsyncHTTPTransport."""
    pool: type[Any]
    """httpcore's ConnectionPool or AsyncConnectionPool."""
    stream: Callable[..., Any]
    """Makes httpcore's network stream from a socket; for async from an anyio stream or, if told so, one of trio's."""
    body: Callable[..., Any]
    """Makes the response's stream: a Body or an AsyncBody that is also the library's own ByteStream."""
    ssl_context: Callable[..., ssl.SSLContext]
    timed_out: type[Exception]
    failed: type[Exception]
    denied: type[RequestDeniedError]

    def error(self, error: OSError) -> Exception:
        """``error`` as httpcore's own backends raise it. A denial is no class of httpcore's: it would be retried."""
        if isinstance(error, DeniedError):
            return self.denied.of(error)
        return (self.timed_out if isinstance(error, TimeoutError) else self.failed)(error)

    def maker(
        self, new: Callable[[RulesInForce], Any] | None, options: dict[str, Any]
    ) -> Callable[[RulesInForce], Any]:
        """What makes a plain transport for some rules: ``new``, or the library's own with ``options``."""
        for name in ("proxy", "uds"):
            if options.pop(name, None) is not None:
                raise ValueError(f"{name}= would reach what nobody has judged: netjail does not support it yet")
        if new is not None:
            if options:
                raise TypeError(f"new= makes the plain transports: give {', '.join(options)} to what it makes")
            return new
        tls = {name: options.pop(name) for name in ("verify", "cert", "trust_env") if name in options}
        options["verify"] = self.ssl_context(**tls)  # one for all: making one takes longer than connecting
        self.pool_of(self.plain(**options))  # a wrong option is told here, not by the first request
        return lambda _rules: self.plain(**options)

    def pool_of(self, transport: Any) -> Any:
        """The pool of a plain transport that opens its connections through ``_network_backend`` and nothing else."""
        if not isinstance(transport, self.plain):
            raise TypeError(f"new= makes an {self.plain.__name__} for each rules in force, not {transport!r}")
        pool: Any = getattr(transport, "_pool", None)
        if type(pool) is not self.pool:
            kind = type(pool).__name__
            raise ValueError(f"a transport with a {kind} reaches what nobody has judged: proxies look targets up")
        if missing := [part for part in _PARTS if not hasattr(pool, part)]:
            raise TypeError(f"netjail does not know this {self.pool.__module__}: it has no {', '.join(missing)}")
        if getattr(pool, "_proxy", None) is not None:  # an argument of the pool's from httpcore 1.0.6 on
            raise ValueError("a transport with a proxy reaches what nobody has judged: proxies look targets up")
        if pool._uds is not None:
            raise ValueError("a transport with a unix socket of its own reaches what nobody has judged")
        if isinstance(pool._network_backend, _Backend | _AsyncBackend):
            raise TypeError("one transport for two sets of rules: new= must make another one each time")
        if pool.connections:
            raise ValueError("new= made a transport that has connections already, which nobody has judged")
        return pool


class Body:
    """A response's body, which keeps its transport alive until it is closed or dropped."""

    def __init__(self, stream: Any, transport: object) -> None:
        stream._netjail = transport  # so that whoever iterates over it holds the transport too
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._stream)

    def close(self) -> None:
        try:
            self._stream.close()
        finally:
            self._stream._netjail = None


class Transport(Generic[Plain, Request, Response]):
    """The sync engine; ``_kit`` is its library's."""

    _kit: Kit

    def __init__(
        self,
        rules: RuleSource | None = None,
        *,
        new: Callable[[RulesInForce], Plain] | None = None,
        resolver: Resolver | None = None,
        connect: Connect | None = None,
        mixed: Mixed = "skip",
        max_idle_transports: int = 256,
        **options: Any,
    ) -> None:
        self._given = rules
        self._dialer = Dialer(rules, resolver=resolver, connect=connect, mixed=mixed)
        self._new = self._kit.maker(new, options)
        self._transports: Pools[Any] = Pools(self._jailed, max_idle_transports)

    def _jailed(self, rules: Any) -> Any:
        transport = self._new(rules)
        pool = self._kit.pool_of(transport)
        pool._network_backend = _Backend(self._kit, self._dialer.pinned(rules))
        weakref.finalize(transport, pool.close)
        return transport

    def handle_request(self, request: Request) -> Response:
        """Sends ``request`` by a connection that was judged under the rules in force here and now."""
        transport = self._transports.get(in_force(self._given))
        try:
            response = transport.handle_request(request)
        except self._kit.denied as denied:
            denied._request = request
            raise
        response.stream = self._kit.body(response.stream, transport)
        return response  # type: ignore[no-any-return]

    def close_idle_connections(self) -> None:
        """Closes every connection that no request uses; the others stay, and so does the transport."""
        for transport in self._transports.alive():
            pool = transport._pool
            pool._close_connections(_idle(pool))

    def close(self) -> None:
        """Closes every connection, also those in use."""
        for transport in self._transports.clear():
            transport.close()


class _Backend:
    """What a pool opens its connections with."""

    def __init__(self, kit: Kit, dialer: Dialer) -> None:
        self._kit = kit
        self._dialer = dialer

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> Any:
        source = None if local_address is None else (local_address, 0)
        try:
            sock = self._dialer.connect((host, port), timeout, source)
            try:
                for option in socket_options or ():
                    sock.setsockopt(*option)
            except BaseException:
                sock.close()
                raise
        except OSError as error:
            raise self._kit.error(error) from error
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:
            pass  # connect= may give what is not TCP
        return self._kit.stream(sock)

    def connect_unix_socket(self, path: str, *_: object, **__: object) -> Any:
        raise _no_address(self._kit, path)

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def _no_address(kit: Kit, path: str) -> RequestDeniedError:
    return kit.denied(path, 0, reason="a unix socket has no address to judge")


def _idle(pool: Any) -> list[Any]:
    """The idle connections of ``pool``, taken out of it; one that a request has been given to is not idle."""
    with pool._optional_thread_lock:
        taken = [request.connection for request in pool._requests]
        idle = [each for each in pool._connections if each.is_idle() and each not in taken]
        pool._connections = [each for each in pool._connections if each not in idle]
    return idle


class AsyncBody:
    """The same as :class:`Body`, awaited."""

    def __init__(self, stream: Any, transport: object, orphans: _Orphans) -> None:
        stream._netjail = transport
        self._stream = stream
        self._orphans = orphans

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._stream.__aiter__()  # type: ignore[no-any-return]

    async def aclose(self) -> None:
        try:
            await self._stream.aclose()
        finally:
            self._stream._netjail = None
            if self._orphans.pools:
                await self._orphans.close()


class AsyncTransport(Generic[Plain, Request, Response]):
    """The async engine; ``_kit`` is its library's."""

    _kit: Kit

    def __init__(
        self,
        rules: RuleSource | None = None,
        *,
        new: Callable[[RulesInForce], Plain] | None = None,
        resolver: AsyncResolver | None = None,
        connect: AsyncConnect | None = None,
        mixed: Mixed = "skip",
        max_idle_transports: int = 256,
        **options: Any,
    ) -> None:
        resolver = SystemResolver() if resolver is None else resolver
        self._given = rules
        self._dialer = AsyncDialer(rules, resolver=resolver, mixed=mixed)
        self._connect = connect
        self._new = self._kit.maker(new, options)
        self._transports: Pools[Any] = Pools(self._jailed, max_idle_transports)
        self._orphans = _Orphans()

    def _jailed(self, rules: Any) -> Any:
        transport = self._new(rules)
        pool = self._kit.pool_of(transport)
        pool._network_backend = _AsyncBackend(self._kit, self._dialer.pinned(rules), self._connect)
        weakref.finalize(transport, self._orphans.adopt, pool, self._orphans.closer()).atexit = False
        return transport

    async def handle_async_request(self, request: Request) -> Response:
        """Sends ``request`` by a connection that was judged under the rules in force here and now."""
        transport = self._transports.get(in_force(self._given))
        if self._orphans.pools:
            await self._orphans.close()
        try:
            response = await transport.handle_async_request(request)
        except self._kit.denied as denied:
            denied._request = request
            raise
        response.stream = self._kit.body(response.stream, transport, self._orphans)
        return response  # type: ignore[no-any-return]

    async def close_idle_connections(self) -> None:
        """Closes every connection that no request uses; the others stay, and so does the transport."""
        for transport in self._transports.alive():
            pool = transport._pool
            await pool._close_connections(_idle(pool))
        await self._orphans.close()

    async def aclose(self) -> None:
        """Closes every connection, also those in use."""
        for transport in self._transports.clear():
            await transport.aclose()
        await self._orphans.close()


class _Orphans:
    """The pools whose transport is gone. Closing must be awaited, which no finalizer can do.

    Whoever awaits anything of the AsyncTransport next closes them, or the event loop does, if that is sooner.
    """

    def __init__(self) -> None:
        self.pools: deque[Any] = deque()

    def adopt(self, pool: Any, closer: Callable[[], object]) -> None:
        """Called by the garbage collector, in any thread and at any time."""
        self.pools.append(pool)
        with suppress(RuntimeError):  # that loop has ended
            closer()

    async def close(self) -> None:
        while self.pools:
            with suppress(Exception):  # it is nobody's that could be told
                await self.pools.popleft().aclose()

    def closer(self) -> Callable[[], object]:
        """What has the event loop that runs now call :meth:`close`, to be called from any thread."""
        if in_trio():
            import trio  # noqa: PLC0415 - it is there, as it runs

            run_soon = trio.lowlevel.current_trio_token().run_sync_soon

            def spawn() -> None:
                with suppress(RuntimeError):  # trio is ending, and takes no more tasks
                    trio.lowlevel.spawn_system_task(self.close)

            return lambda: run_soon(spawn)
        loop = asyncio.get_running_loop()
        return lambda: loop.call_soon_threadsafe(self._start)

    def _start(self) -> None:
        task = asyncio.get_running_loop().create_task(self.close())
        _closing.add(task)
        task.add_done_callback(_closing.discard)


_closing: set[asyncio.Task[None]] = set()  # a loop keeps no strong reference to its tasks


class _AsyncBackend:
    """The same for asyncio and trio; each connects as httpcore's own backend for it does."""

    def __init__(self, kit: Kit, dialer: AsyncDialer, connect: AsyncConnect | None) -> None:
        self._kit = kit
        self._dialer = dialer
        self._connect = connect

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> Any:
        on_trio = in_trio()
        attempt = partial(by_trio, self._connect, host=host, local_address=local_address)
        if not on_trio:
            attempt = partial(by_anyio, self._connect, local_host=local_address)
        try:
            with anyio.fail_after(timeout):
                stream = await first_stream(attempt, await self._dialer.resolve((host, port)))
            try:
                for option in socket_options or ():
                    sock = stream.socket if on_trio else stream.extra(_RAW)  # noqa: S610 - no SQL
                    sock.setsockopt(*option)
            except BaseException:
                await close(stream)
                raise
        except OSError as error:
            raise self._kit.error(error) from error
        return self._kit.stream(stream, of_trio=on_trio)

    async def connect_unix_socket(self, path: str, *_: object, **__: object) -> Any:
        raise _no_address(self._kit, path)

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)
