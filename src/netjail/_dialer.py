"""Dialing under rules: resolve once, judge every address, connect only to what was accepted.

Dialer and AsyncDialer are twins over the same pure functions: these hold all policy and all words, the
twins hold loops. This module knows everything above it and no client library.
"""

from __future__ import annotations

import errno
import socket
import time
from collections import deque
from contextvars import copy_context
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

from ._addresses import is_literal
from ._context import checked, in_force
from ._errors import DeniedError
from ._resolver import AsyncSystemResolver, SystemResolver, port_number, unresolvable
from ._rules import Rules

if TYPE_CHECKING:
    import asyncio
    import ssl
    from collections.abc import Awaitable, Callable, Iterable, Sequence
    from ipaddress import IPv4Address, IPv6Address

    from ._context import RulesInForce
    from ._resolver import AsyncResolver, Resolver
    from ._rules import Decision, RuleSource

    Mixed = Literal["skip", "refuse"]
    Target = tuple[str, int | str]
    SocketAddress = tuple[str, int]
    SocketOption = tuple[int, int, int | bytes]

STAGGER = 0.25
"""Seconds that one attempt gets before the next address is tried beside it (RFC 8305, section 5)."""

DEFAULT_TIMEOUT: Any = socket._GLOBAL_DEFAULT_TIMEOUT  # type: ignore[attr-defined]  # what http.client hands on
_LOOKUP_THREADS = 32
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


def query_family(rules: RulesInForce, host: str, port: int, family: int = socket.AF_UNSPEC) -> int:
    """The address family to ask a resolver for; DeniedError where no answer could be accepted."""
    versions = {4, 6} if family == socket.AF_UNSPEC else {4 if family == socket.AF_INET else 6}
    applying = [source.rules_for(host, port) for source in rules]
    for each in applying:
        versions &= set(each.versions)
    if not applying:
        raise DeniedError(host, port, reason="no rules are in force (give rules, or use netjail.use_rules)")
    if not versions:
        raise DeniedError(host, port, reason="the rules in force accept no address for it")
    if len(versions) == 2:
        return socket.AF_UNSPEC
    return socket.AF_INET if 4 in versions else socket.AF_INET6


def judge(
    rules: RulesInForce,
    host: str,
    port: int,
    addresses: Sequence[str | IPv4Address | IPv6Address],
    mixed: Mixed = "skip",
) -> list[str]:
    """Those of ``addresses`` that every rule set accepts, as text in their order; DeniedError if none is."""
    applying = [source.rules_for(host, port) for source in rules]
    accepted: list[str] = []
    for address in addresses if applying else ():
        for each in applying:
            if not each.accepts(address):
                break
        else:
            accepted.append(str(address))
    if accepted and (mixed == "skip" or len(accepted) == len(addresses)):
        return accepted
    decisions: list[Decision] = []
    for address in addresses:
        denying = [each for each in applying if not each.accepts(address)]
        decisions.append((*denying, *applying, Rules())[0].explain(address))
    raise DeniedError(host, port, decisions, _reason(host, accepted=bool(accepted)))


def _reason(host: str, *, accepted: bool) -> str:
    if is_literal(host):
        return "the address is not accepted by the rules in force"
    which = "not every one" if accepted else "none"
    return f"{which} of its addresses is accepted by the rules in force"


def answered(host: str, answer: Any) -> list[Any]:
    """A resolver's answer as a list without repetition; gaierror if it is empty."""
    if isinstance(answer, (str, bytes)) or not hasattr(answer, "__iter__"):
        getattr(answer, "close", int)()  # a coroutine, which nobody will await
        raise TypeError(f"a resolver answers with a list of addresses, not {type(answer).__name__}")
    addresses: list[Any] = list(dict.fromkeys(answer))
    if not addresses:
        raise unresolvable(host)
    return addresses


def in_dial_order(addresses: Iterable[str]) -> list[str]:
    """The two families in turn, beginning with that of the first (RFC 8305, section 4)."""
    addresses = list(addresses)
    if len(addresses) == 1:
        return addresses
    families: dict[bool, list[str]] = {}
    for address in addresses:
        families.setdefault(":" in address, []).append(address)
    turns = chain.from_iterable(zip_longest(*families.values()))
    return [address for address in turns if address is not None]


def the_error(errors: Sequence[Exception], all_errors: bool = False) -> Exception:
    """What the standard library would raise when every attempt has failed."""
    if all_errors:
        return ExceptionGroup("create_connection failed", list(errors))
    return errors[-1]


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


def _deadline(timeout: float | None) -> float | None:
    if timeout is None:
        return None
    if timeout < 0:
        raise ValueError("Timeout value out of range")
    return time.monotonic() + timeout


def _left(deadline: float | None) -> float | None:
    """The seconds until ``deadline``; TimeoutError when it has passed."""
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError(errno.ETIMEDOUT, "timed out")
    return left


def _target(address: Target, type: int = socket.SOCK_STREAM) -> tuple[str, int]:
    """The host and the port number of what a caller asked for."""
    host, port, *_ = address
    if isinstance(host, (bytes, bytearray)):
        host = host.decode("ascii")
    if not isinstance(host, str):
        raise TypeError(f"a host is a str, not {host!r}")
    return host, port_number(port, type)


class _Jail:
    """What a Dialer and an AsyncDialer are made of."""

    _pinned: RulesInForce | None = None

    def __init__(self, rules: RuleSource | None, mixed: Mixed) -> None:
        if mixed not in ("skip", "refuse"):
            raise ValueError(f"mixed={mixed!r}: 'skip' dials the accepted addresses of a name, 'refuse' denies it")
        self._rules = None if rules is None else checked(rules)
        self._mixed: Mixed = mixed

    def rules_in_force(self) -> RulesInForce:
        """The rules that a connection made here and now must pass."""
        return in_force(self._rules) if self._pinned is None else self._pinned

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

        ``timeout`` is in seconds, covers the lookup and every attempt, and stays set on the socket.
        ``family`` narrows to IPv4 or IPv6, ``type=socket.SOCK_DGRAM`` is UDP, and ``socket_options`` are
        set before connecting. All accepted addresses are tried, 250 ms apart.

        Raises DeniedError if no address is accepted, ``socket.gaierror`` if the host or the port cannot
        be resolved, TimeoutError, and the OSError of the last attempt if all fail (all of them in an
        ExceptionGroup with ``all_errors``).
        """
        if timeout is DEFAULT_TIMEOUT:
            timeout = socket.getdefaulttimeout()
        deadline = _deadline(timeout)
        accepted = self.resolve(address, timeout, family=family, type=type)
        alone = len(accepted) == 1 and not all_errors
        if (bottom := self._connect) is not None:
            if alone:
                return bottom(accepted[0], timeout=_left(deadline))
            return _first(
                _Threads(lambda target: bottom(target, timeout=_left(deadline))), accepted, deadline, all_errors
            )

        def open_(ip: str) -> socket.socket:
            return _opened(ip, type, source_address, socket_options)

        if alone:
            sock = _connected(open_, accepted[0], _left(deadline))
        else:
            sock = _first(_Selected(open_), accepted, deadline, all_errors)
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
        import ssl  # noqa: PLC0415 - imported where it is used

        if timeout is DEFAULT_TIMEOUT:
            timeout = socket.getdefaulttimeout()
        deadline = _deadline(timeout)
        context = ssl.create_default_context() if context is None else context
        sock = self.connect(address, timeout, source_address, family=family, socket_options=socket_options)
        try:
            sock.settimeout(_left(deadline))
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
        host, port = _target(address, type)
        rules = self.rules_in_force()
        if is_literal(host):
            return [(ip, port) for ip in judge(rules, host, port, [host])]
        family = query_family(rules, host, port, family)
        if timeout is None:
            answer = self._resolver.lookup(host, family)
        else:
            answer = _within(timeout, lambda: self._resolver.lookup(host, family))
        accepted = judge(rules, host, port, answered(host, answer), self._mixed)
        return [(ip, port) for ip in in_dial_order(accepted)]


def _connected(open_: Callable[[str], socket.socket], address: SocketAddress, timeout: float | None) -> socket.socket:
    """The only attempt, which may block."""
    sock = open_(address[0])
    try:
        sock.settimeout(timeout)
        sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock


def _first(
    attempts: _Attempts, addresses: Iterable[SocketAddress], deadline: float | None, all_errors: bool
) -> socket.socket:
    """The first connection to stand, of attempts that begin when the one before has failed or had its time."""
    waiting = deque(addresses)
    errors: list[Exception] = []
    with attempts:
        while waiting or attempts.pending:
            if waiting:
                attempts.start(waiting.popleft())
            left = _left(deadline)
            pause = min(STAGGER, left or STAGGER) if waiting else left
            for sock, error in attempts.wait(pause):
                if sock is not None:
                    attempts.winner = sock
                    return sock
                errors.append(error or OSError("connect failed"))
    raise the_error(errors, all_errors)


Outcome = tuple["socket.socket | None", "Exception | None"]


class _Attempts(Protocol):
    pending: int
    winner: socket.socket | None

    def start(self, address: SocketAddress) -> None: ...
    def wait(self, timeout: float | None) -> list[Outcome]: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...


class _Selected:
    """Attempts as sockets that do not block, in one selector."""

    def __init__(self, open_: Callable[[str], socket.socket]) -> None:
        from selectors import EVENT_WRITE, DefaultSelector  # noqa: PLC0415 - a race is rare

        self._open = open_
        self._selector = DefaultSelector()
        self._event = EVENT_WRITE
        self._done: list[Outcome] = []
        self._sockets: list[socket.socket] = []
        self.pending = 0
        self.winner: socket.socket | None = None

    def start(self, address: SocketAddress) -> None:
        self.pending += 1
        try:
            sock = self._open(address[0])
        except OSError as error:
            self._done.append((None, error))
            return
        self._sockets.append(sock)
        try:
            sock.setblocking(False)
            sock.connect(address)
        except BlockingIOError:
            self._selector.register(sock, self._event, address)
        except OSError as error:
            sock.close()
            self._done.append((None, error))
        else:
            self._done.append((sock, None))

    def wait(self, timeout: float | None) -> list[Outcome]:
        done, self._done = self._done, []
        for key, _ in self._selector.select(0 if done else timeout):
            sock: socket.socket = key.fileobj  # type: ignore[assignment]
            self._selector.unregister(sock)
            if code := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                sock.close()
                done.append((None, OSError(code, f"Connect call failed {key.data}")))
            else:
                done.append((sock, None))
        self.pending -= len(done)
        return done

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._selector.close()
        for sock in self._sockets:
            if sock is not self.winner:
                sock.close()


class _Threads:
    """Attempts as calls of ``connect=``, which may block, each in a thread of its own."""

    def __init__(self, connect: Callable[[SocketAddress], socket.socket]) -> None:
        from queue import SimpleQueue  # noqa: PLC0415 - only a dialer with a connect of its own comes here

        self._connect = connect
        self._done: SimpleQueue[Outcome] = SimpleQueue()
        self._over = False
        self.pending = 0
        self.winner: socket.socket | None = None
        from threading import Lock, Thread  # noqa: PLC0415 - as above

        self._lock = Lock()
        self._thread = Thread

    def start(self, address: SocketAddress) -> None:
        self.pending += 1
        run = copy_context().run
        self._thread(target=run, args=(self._attempt, address), name="netjail connect", daemon=True).start()

    def _attempt(self, address: SocketAddress) -> None:
        try:
            outcome: Outcome = (self._connect(address), None)
        except Exception as error:  # noqa: BLE001 - it is handed to the caller's thread
            outcome = (None, error)
        with self._lock:
            if not self._over:
                self._done.put(outcome)
            elif outcome[0] is not None:
                outcome[0].close()

    def wait(self, timeout: float | None) -> list[Outcome]:
        from queue import Empty  # noqa: PLC0415 - as above

        try:
            outcome = self._done.get(timeout=timeout)
        except Empty:
            return []
        self.pending -= 1
        return [outcome]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._over = True
        while not self._done.empty():
            sock, _error = self._done.get()
            if sock is not None:
                sock.close()


_lookup_slots: Any = None


def _within(timeout: float, lookup: Callable[[], Any]) -> Any:
    """What ``lookup`` returns or raises; TimeoutError after ``timeout`` seconds, when it is left behind."""
    from _thread import allocate_lock, start_new_thread  # noqa: PLC0415 - threads are for deadlines alone
    from threading import BoundedSemaphore  # noqa: PLC0415

    global _lookup_slots  # noqa: PLW0603 - one bound for the process
    if _lookup_slots is None:
        _lookup_slots = BoundedSemaphore(_LOOKUP_THREADS)
    slots = _lookup_slots
    deadline = _deadline(timeout)
    outcome: list[tuple[Any, BaseException | None]] = []
    done = allocate_lock()
    done.acquire()

    def run() -> None:
        try:
            outcome.append((lookup(), None))
        except BaseException as error:  # noqa: BLE001 - it is handed to the caller's thread
            outcome.append((None, error))
        finally:
            slots.release()
            done.release()

    if not slots.acquire(timeout=_left(deadline)):
        raise TimeoutError(errno.ETIMEDOUT, "timed out: every lookup thread is busy")
    try:
        # threading.Thread would wait for the thread to say that it runs: as long again as a cached lookup.
        start_new_thread(copy_context().run, (run,))
    except BaseException:
        slots.release()
        raise
    if not done.acquire(timeout=_left(deadline)):
        raise TimeoutError(errno.ETIMEDOUT, "timed out")
    answer, error = outcome[0]
    if error is not None:
        raise error
    return answer


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
        import asyncio  # noqa: PLC0415 - imported where it is used

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

        accepted = await self.resolve(address, family=family, type=type)
        if len(accepted) == 1 and not all_errors:
            return await attempt(accepted[0])
        return await _first_async(attempt, accepted, all_errors)

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
        import asyncio  # noqa: PLC0415 - imported where it is used

        async with asyncio.timeout(timeout):
            sock = await self.connect(address, None, source_address, family=family, socket_options=socket_options)
            name = server_hostname or _target(address)[0]
            return await _streams(sock, 2**16, ssl=context or True, server_hostname=name)

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
        options = _tls_options(host, ssl, server_hostname, transport_options)
        sock = await self.connect((host, port), None, local_addr, family=family)
        return await _streams(sock, limit, **options)

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
        options = _tls_options(host, ssl, server_hostname, transport_options)
        sock = await self.connect((host, port), None, local_addr, family=family)
        return await _transport(sock, protocol_factory, **options)

    async def resolve(
        self,
        address: Target,
        *,
        family: int = socket.AF_UNSPEC,
        type: int = socket.SOCK_STREAM,
    ) -> list[SocketAddress]:
        """The same as :meth:`Dialer.resolve`."""
        host, port = _target(address, type)
        rules = self.rules_in_force()
        if is_literal(host):
            return [(ip, port) for ip in judge(rules, host, port, [host])]
        lookup: Any = self._resolver.lookup(host, query_family(rules, host, port, family))
        if not hasattr(lookup, "__await__"):
            raise TypeError(f"an AsyncDialer needs an AsyncResolver: {self._resolver!r} is not awaited")
        accepted = judge(rules, host, port, answered(host, await lookup), self._mixed)
        return [(ip, port) for ip in in_dial_order(accepted)]


async def _first_async(
    attempt: Callable[[SocketAddress], Awaitable[socket.socket]],
    addresses: Iterable[SocketAddress],
    all_errors: bool,
) -> socket.socket:
    """The first connection to stand, of attempts that begin when the one before has failed or had its time."""
    import asyncio  # noqa: PLC0415 - imported where it is used

    waiting = deque(addresses)
    running: set[asyncio.Task[socket.socket]] = set()
    finished: list[asyncio.Task[socket.socket]] = []
    winner = None
    try:
        while waiting or running:
            if waiting:
                running.add(asyncio.ensure_future(attempt(waiting.popleft())))
            pause = STAGGER if waiting else None
            done, running = await asyncio.wait(running, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
            finished += done
            winner = next((task for task in done if not task.cancelled() and task.exception() is None), None)
            if winner is not None:
                return winner.result()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        for task in {*running, *finished} - {winner}:
            if not task.cancelled() and task.exception() is None:
                task.result().close()  # it had connected as well
    raise the_error([_failure(task) for task in finished], all_errors)


def _failure(task: asyncio.Task[Any]) -> Exception:
    error = None if task.cancelled() else task.exception()
    return error if isinstance(error, Exception) else OSError("connect was cancelled")


def _tls_options(
    host: str, ssl: ssl.SSLContext | bool | None, server_hostname: str | None, options: dict[str, Any]
) -> dict[str, Any]:
    """The keyword arguments for asyncio once there is a socket, checked before anything was sent."""
    if unknown := options.keys() - {"ssl_handshake_timeout", "ssl_shutdown_timeout"}:
        raise TypeError(f"{', '.join(sorted(unknown))}: not an option of a connection that netjail dials")
    if not ssl:
        if server_hostname is not None or any(value is not None for value in options.values()):
            raise ValueError("server_hostname and TLS timeouts are only meaningful with ssl")
        return {}
    return {"ssl": ssl, "server_hostname": host if server_hostname is None else server_hostname, **options}


async def _transport(
    sock: socket.socket, protocol_factory: Callable[[], Any], **options: Any
) -> tuple[asyncio.Transport, Any]:
    """Hands a connected socket to the loop, which closes it from then on, also when a handshake fails."""
    import asyncio  # noqa: PLC0415 - imported where it is used

    def make() -> Any:
        try:
            return protocol_factory()
        except BaseException:
            sock.close()
            raise

    return await asyncio.get_running_loop().create_connection(make, sock=sock, **options)


async def _streams(
    sock: socket.socket, limit: int, **options: Any
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    import asyncio  # noqa: PLC0415 - imported where it is used

    reader = asyncio.StreamReader(limit=limit)
    protocol = asyncio.StreamReaderProtocol(reader)
    transport, _ = await _transport(sock, lambda: protocol, **options)
    return reader, asyncio.StreamWriter(transport, protocol, reader, asyncio.get_running_loop())


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
    return Dialer(rules, resolver=resolver).connect(address, timeout, source_address, all_errors=all_errors)


async def open_connection(
    host: str,
    port: int | str,
    *,
    rules: RuleSource | None = None,
    resolver: AsyncResolver | None = None,
    **options: Any,
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """``asyncio.open_connection`` under the context's rules and ``rules``: see :meth:`AsyncDialer.open_connection`."""
    return await AsyncDialer(rules, resolver=resolver).open_connection(host, port, **options)
