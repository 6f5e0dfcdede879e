"""psycopg_pool under rules: pools that belong to the rules that they were made under, and serve no others.

This module knows psycopg_pool's pools, and netjail's own connections of psycopg.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import psycopg_pool

from .._dialer import AsyncDialer, Dialer
from .psycopg import AsyncConnection, Connection, DeniedError

if TYPE_CHECKING:
    from .._dialer import Mixed
    from .._resolver import AsyncResolver, Resolver
    from .._rules import RuleSource

__all__ = ["AsyncConnectionPool", "ConnectionPool", "DeniedError"]


class _Dials:
    """What a pool takes for its class of connections, of which it asks ``connect`` alone, in threads of its own."""

    def __init__(self, connection_class: Any, dialer: Any) -> None:
        self._connection_class = connection_class
        self._dialer = dialer

    def connect(self, conninfo: str = "", **kwargs: Any) -> Any:
        return self._connection_class._dialled_by(self._dialer, conninfo, **kwargs)


def _belongs_here(pool: Any) -> None:
    """DeniedError where other rules are in force than ``pool`` was made under."""
    if set(pool._jail.rules_in_force()) != set(pool._made_under):
        reason = "the pool was made under other rules than those in force: have one for each"
        raise DeniedError("*", 0, reason=reason)


def _denial() -> DeniedError | None:
    """The denial that a pool is handling, as it tells nobody what it failed of."""
    error = sys.exc_info()[1]
    return error if isinstance(error, DeniedError) else None


def _give_up(pool: Any, denied: DeniedError, task: Any = None) -> list[Any]:
    """Takes those out of ``pool`` who wait for a connection, and ends the wait for it to be full.

    A pool keeps the place of a connection that it is to try again, later and later. With ``task``, such an
    attempt, it does not: whoever asks next is judged anew, at once.
    """
    if task is not None:
        pool._nconns -= 1
        pool._growing = pool._growing and not task.growing
    pool._denied = denied
    if pool._pool_full_event is not None:
        pool._pool_full_event.set()
    waiting = list(pool._waiting)
    pool._waiting.clear()
    return waiting


class _Filling:
    """What a pool needs so that a denial ends the wait for it to be full, however soon it comes."""

    _denied: DeniedError | None = None
    _full: Any = None

    @property
    def _pool_full_event(self) -> Any:
        """Who waits makes it, under the pool's lock."""
        return self._full

    @_pool_full_event.setter
    def _pool_full_event(self, event: Any) -> None:
        self._full = event
        if event is not None and self._denied is not None:
            event.set()

    def _try_anew(self) -> None:
        """Under the pool's lock: fills it where it has given up."""
        pool: Any = self
        self._denied = None
        if pool._nconns < pool._min_size:
            pool._maybe_grow_pool()

    def _denied_before_it_was_full(self) -> DeniedError | None:
        pool: Any = self
        return None if len(pool._pool) >= pool._min_size else self._denied


class ConnectionPool(_Filling, psycopg_pool.ConnectionPool[Any]):  # pyright: ignore[reportIncompatibleVariableOverride]
    """A ``psycopg_pool.ConnectionPool`` that connects only to what the rules accept.

    It belongs to the rules in force where it is made: ``rules`` and the context's. Its workers dial under
    these, and :meth:`getconn` and ``connection()`` raise DeniedError wherever others are in force.
    ``connection_class`` is a subclass of :class:`netjail.clients.psycopg.Connection`, ``resolver`` and
    ``mixed`` are as in :class:`~netjail.Dialer`, the rest as in psycopg_pool.

    A denial of the target ends the wait of everybody who waits for a connection, or for the pool to be full,
    with DeniedError. The pool does not try again by itself, but when it is asked for a connection next.
    """

    def __init__(
        self,
        conninfo: Any = "",
        *,
        rules: RuleSource | None = None,
        resolver: Resolver | None = None,
        mixed: Mixed = "skip",
        connection_class: type[Connection[Any]] = Connection,
        **options: Any,
    ) -> None:
        self._jail = Dialer(rules, resolver=resolver, mixed=mixed)
        self._made_under = self._jail.rules_in_force()
        dials: Any = _Dials(connection_class, self._jail.pinned(self._made_under))
        super().__init__(conninfo, connection_class=dials, **options)

    def getconn(self, timeout: float | None = None) -> Any:
        """A connection, within ``timeout`` seconds. Raises DeniedError, also where other rules are in force."""
        _belongs_here(self)
        return super().getconn(timeout)

    def wait(self, timeout: float = 30.0) -> None:
        """Waits until the pool is full, as in psycopg_pool. A denial ends the wait, and closes the pool."""
        with self._lock:
            self._try_anew()
        super().wait(timeout)
        if (denied := self._denied_before_it_was_full()) is not None:
            self.close()
            raise denied

    def schedule_task(self, task: Any, delay: float) -> None:
        """Where a pool would try again after a failure. A denial it has told, and given up."""
        denied = _denial() if hasattr(task, "growing") else None
        if denied is None:
            return super().schedule_task(task, delay)
        with self._lock:
            waiting = _give_up(self, denied, task)
        for each in waiting:
            each.fail(denied)
        return None

    def reconnect_failed(self) -> None:
        """Where a pool has given up."""
        if (denied := _denial()) is not None:
            with self._lock:
                waiting = _give_up(self, denied)
            for each in waiting:
                each.fail(denied)
        super().reconnect_failed()


class AsyncConnectionPool(_Filling, psycopg_pool.AsyncConnectionPool[Any]):  # pyright: ignore[reportIncompatibleVariableOverride]
    """The same for ``psycopg_pool.AsyncConnectionPool``, with an AsyncResolver."""

    def __init__(
        self,
        conninfo: Any = "",
        *,
        rules: RuleSource | None = None,
        resolver: AsyncResolver | None = None,
        mixed: Mixed = "skip",
        connection_class: type[AsyncConnection[Any]] = AsyncConnection,
        **options: Any,
    ) -> None:
        self._jail = AsyncDialer(rules, resolver=resolver, mixed=mixed)
        self._made_under = self._jail.rules_in_force()
        dials: Any = _Dials(connection_class, self._jail.pinned(self._made_under))
        super().__init__(conninfo, connection_class=dials, **options)

    async def getconn(self, timeout: float | None = None) -> Any:
        """The same as :meth:`ConnectionPool.getconn`."""
        _belongs_here(self)
        return await super().getconn(timeout)

    async def wait(self, timeout: float = 30.0) -> None:
        """The same as :meth:`ConnectionPool.wait`."""
        async with self._lock:
            self._try_anew()
        await super().wait(timeout)
        if (denied := self._denied_before_it_was_full()) is not None:
            await self.close()
            raise denied

    async def schedule_task(self, task: Any, delay: float) -> None:
        """Where a pool would try again after a failure. A denial it has told, and given up."""
        denied = _denial() if hasattr(task, "growing") else None
        if denied is None:
            return await super().schedule_task(task, delay)
        async with self._lock:
            waiting = _give_up(self, denied, task)
        for each in waiting:
            await each.fail(denied)
        return None

    async def reconnect_failed(self) -> None:
        """Where a pool has given up."""
        if (denied := _denial()) is not None:
            async with self._lock:
                waiting = _give_up(self, denied)
            for each in waiting:
                await each.fail(denied)
        await super().reconnect_failed()
