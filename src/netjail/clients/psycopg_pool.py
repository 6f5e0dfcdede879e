"""psycopg_pool under rules: pools that belong to the rules that they were made under, and serve no others.

This module knows psycopg_pool's pools, and netjail's own connections of psycopg.
"""

from __future__ import annotations

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


def _other_rules() -> DeniedError:
    return DeniedError("*", 0, reason="the pool was made under other rules than those in force: have one for each")


class ConnectionPool(psycopg_pool.ConnectionPool[Any]):
    """A ``psycopg_pool.ConnectionPool`` that connects only to what the rules accept.

    It belongs to the rules in force where it is made: ``rules`` and the context's. Its workers dial under
    these, and :meth:`getconn` and ``connection()`` raise DeniedError wherever others are in force.
    ``connection_class`` is a subclass of :class:`netjail.clients.psycopg.Connection`, ``resolver`` and
    ``mixed`` are as in :class:`~netjail.Dialer`, the rest as in psycopg_pool.

    A denial of the target ends the wait of everybody who waits for a connection with DeniedError.
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
        if self._jail.rules_in_force() != self._made_under:
            raise _other_rules()
        return super().getconn(timeout)

    def _connect(self, timeout: float | None = None) -> Any:
        try:
            return super()._connect(timeout)
        except DeniedError as denied:
            with self._lock:
                waiting = list(self._waiting)
                self._waiting.clear()
            for each in waiting:
                each.fail(denied)
            raise


class AsyncConnectionPool(psycopg_pool.AsyncConnectionPool[Any]):
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
        if self._jail.rules_in_force() != self._made_under:
            raise _other_rules()
        return await super().getconn(timeout)

    async def _connect(self, timeout: float | None = None) -> Any:
        try:
            return await super()._connect(timeout)
        except DeniedError as denied:
            async with self._lock:
                waiting = list(self._waiting)
                self._waiting.clear()
            for each in waiting:
                await each.fail(denied)
            raise
