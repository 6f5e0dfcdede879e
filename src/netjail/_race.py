"""Racing attempts against each other and against a deadline: the first connection to stand wins.

This module knows sockets, threads and the clock. It does not know names, rules or who may be dialled.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections import deque
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, Self

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Iterable, Sequence
    from queue import SimpleQueue

    SocketAddress = tuple[str, int]
    Job = Callable[[], Callable[[], object]]
    """Does something, and returns what tells whoever waits for it."""
    _Jobs = SimpleQueue[Job]

STAGGER = 0.25
"""Seconds that one attempt gets before the next address is tried beside it (RFC 8305, section 5)."""

_LOOKUP_THREADS = 32
_IDLE = 10.0  # seconds after which a thread that has nothing to do ends


def deadline_after(timeout: float | None) -> float | None:
    if timeout is None:
        return None
    if timeout < 0:
        raise ValueError("Timeout value out of range")
    return time.monotonic() + timeout


def left_until(deadline: float | None) -> float | None:
    """The seconds until ``deadline``; TimeoutError when it has passed."""
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError(errno.ETIMEDOUT, "timed out")
    return left


def the_error(errors: Sequence[Exception], all_errors: bool = False) -> Exception:
    """What the standard library would raise when every attempt has failed."""
    if all_errors:
        return ExceptionGroup("create_connection failed", list(errors))
    return errors[-1]


def first(
    attempts: Attempts, addresses: Iterable[SocketAddress], deadline: float | None, all_errors: bool
) -> socket.socket:
    """The first connection to stand, of attempts that begin when the one before has failed or had its time."""
    waiting = deque(addresses)
    errors: list[Exception] = []
    with attempts:
        while waiting or attempts.pending:
            target = waiting.popleft() if waiting else None
            left = left_until(deadline)
            pause = min(STAGGER, left or STAGGER) if waiting else left
            if target is not None:
                attempts.start(target, pause)
            for sock, error in attempts.wait(pause):
                if sock is not None:
                    attempts.winner = sock
                    return sock
                if error is not None and not isinstance(error, Exception):
                    raise error  # SystemExit and its like, from a connect= in a thread
                errors.append(error or OSError("connect failed"))
    raise the_error(errors, all_errors)


Outcome = tuple["socket.socket | None", "BaseException | None"]


class Attempts(Protocol):
    pending: int
    winner: socket.socket | None

    def start(self, address: SocketAddress, pause: float | None) -> None: ...
    def wait(self, timeout: float | None) -> list[Outcome]: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...


class Selected:
    """Attempts as sockets, each waited for where it connects, as a plain connect is, while it is alone.

    Those that were not over in their time are watched together.
    """

    def __init__(self, open_: Callable[[str], socket.socket]) -> None:
        self._open = open_
        self._selector: Any = None
        self._done: list[Outcome] = []
        self._sockets: list[socket.socket] = []
        self._waited = False
        self.pending = 0
        self.winner: socket.socket | None = None

    def start(self, address: SocketAddress, pause: float | None) -> None:
        alone = not self.pending
        self.pending += 1
        try:
            sock = self._open(address[0])
        except OSError as error:
            self._done.append((None, error))
            return
        self._sockets.append(sock)
        try:
            sock.settimeout(pause if alone else 0)
            sock.connect(address)
        except (BlockingIOError, TimeoutError) as error:
            if isinstance(error, TimeoutError) and error.errno is not None:  # the system's own, so it is over
                self._failed(sock, error)
            else:
                self._waited = alone
                self._watch(sock, address)
        except OSError as error:
            self._failed(sock, error)
        else:
            self._done.append((sock, None))

    def _failed(self, sock: socket.socket, error: OSError) -> None:
        sock.close()
        self._done.append((None, error))

    def _watch(self, sock: socket.socket, address: SocketAddress) -> None:
        from selectors import EVENT_WRITE, DefaultSelector  # noqa: PLC0415 - most attempts are over at once, or alone

        if self._selector is None:
            self._selector = DefaultSelector()
        self._selector.register(sock, EVENT_WRITE, address)

    def wait(self, timeout: float | None) -> list[Outcome]:
        done, self._done = self._done, []
        now, self._waited = done or self._waited, False
        for key, _ in self._selector.select(0 if now else timeout) if self._selector else ():
            sock: socket.socket = key.fileobj
            self._selector.unregister(sock)
            if code := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                sock.close()
                done.append((None, OSError(code, os.strerror(code))))
            else:
                done.append((sock, None))
        self.pending -= len(done)
        return done

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._selector:
            self._selector.close()
        for sock in self._sockets:
            if sock is not self.winner:
                sock.close()


class Threads:
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

    def start(self, address: SocketAddress, pause: float | None) -> None:  # noqa: ARG002 - it is not waited for here
        self.pending += 1
        run = copy_context().run
        self._thread(target=run, args=(self._attempt, address), name="netjail connect", daemon=True).start()

    def _attempt(self, address: SocketAddress) -> None:
        try:
            outcome: Outcome = (self._connect(address), None)
        except BaseException as error:  # noqa: BLE001 - it is handed to the caller's thread
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


async def first_async(
    attempt: Callable[[SocketAddress], Awaitable[socket.socket]],
    addresses: Iterable[SocketAddress],
    all_errors: bool,
) -> socket.socket:
    """The first connection to stand, of attempts that begin when the one before has failed or had its time."""
    import asyncio  # noqa: PLC0415 - it takes longer to load than all of netjail

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
        for task in {*running, *finished} - {winner}:
            task.add_done_callback(_close)  # it may connect, or have connected, as well
            task.cancel()
        try:
            await asyncio.gather(*running, return_exceptions=True)
        except BaseException:  # cancelled: nobody will take the winner either
            if winner is not None:
                winner.result().close()
            raise
    raise the_error([_failure(task) for task in finished], all_errors)


def _close(task: asyncio.Task[socket.socket]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().close()


def _failure(task: asyncio.Task[Any]) -> Exception:
    error = None if task.cancelled() else task.exception()
    return error if isinstance(error, Exception) else OSError("connect was cancelled")


class _Workers:
    """At most 32 threads, made on demand, which end when nothing has come for a while.

    They are kept because the system's resolver reads its configuration anew in each new thread, which
    takes longer than a cached lookup. Handing over is most of what a cached lookup takes here, so nothing is
    done between waking a thread and waiting for it: who wakes up while the other runs waits for it twice.
    """

    def __init__(self) -> None:
        from queue import SimpleQueue  # noqa: PLC0415 - threads are for deadlines alone

        self._queue: Callable[[], _Jobs] = SimpleQueue
        self._idle: deque[_Jobs] = deque()  # each thread waits at a queue of its own, the last to come to rest on top
        self._slots: SimpleQueue[None] = SimpleQueue()
        for _ in range(_LOOKUP_THREADS):
            self._slots.put(None)

    def start(self, job: Job, timeout: float) -> None:
        """Has a worker run ``job``; TimeoutError when every one is busy for ``timeout`` seconds."""
        from queue import Empty  # noqa: PLC0415 - as above

        try:
            self._slots.get(timeout=timeout)
        except Empty:
            raise TimeoutError(errno.ETIMEDOUT, "timed out: every lookup thread is busy") from None
        try:
            self._idle.pop().put(job)
        except IndexError:
            self._begin(job)

    def _begin(self, job: Job) -> None:
        from _thread import start_new_thread  # noqa: PLC0415 - as above

        jobs = self._queue()
        jobs.put(job)
        try:
            # Not a threading.Thread: it would be waited for at exit, however long its lookup hangs.
            start_new_thread(self._work, (jobs,))
        except BaseException:
            self._slots.put(None)
            raise

    def _work(self, jobs: _Jobs) -> None:
        while (job := self._next(jobs)) is not None:
            tell = job()
            self._idle.append(jobs)
            self._slots.put(None)
            tell()
            del job, tell  # what they hold is not for an idle thread to keep

    def _next(self, jobs: _Jobs) -> Job | None:
        from queue import Empty  # noqa: PLC0415 - as above

        try:
            return jobs.get(timeout=_IDLE)
        except Empty:
            try:
                self._idle.remove(jobs)
            except ValueError:  # taken from among the idle ones just now, by somebody who brings a job
                return jobs.get()
            return None


_workers: dict[int, _Workers] = {}
"""Those of each process: a forked child has none of its parent's threads."""


def within(timeout: float, lookup: Callable[[], Any]) -> Any:
    """What ``lookup`` returns or raises; TimeoutError after ``timeout`` seconds, when it is left behind.

    At most 32 run at a time, those left behind included.
    """
    from queue import Empty, SimpleQueue  # noqa: PLC0415 - threads are for deadlines alone

    pid, end = os.getpid(), time.monotonic() + timeout
    workers = _workers.get(pid) or _workers.setdefault(pid, _Workers())
    outcome: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
    context = copy_context()

    def job() -> Callable[[], object]:
        try:
            return partial(outcome.put, (context.run(lookup), None))
        except BaseException as error:  # noqa: BLE001 - it is handed to the caller's thread
            return partial(outcome.put, (None, error))

    workers.start(job, timeout)
    try:
        answer, error = outcome.get(timeout=max(0, end - time.monotonic()))
    except Empty:
        raise TimeoutError(errno.ETIMEDOUT, "timed out") from None
    if error is not None:
        raise error
    return answer
