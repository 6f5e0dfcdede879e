"""One pool for each rules in force, the least recently used out.

This module knows nothing of networks: a pool is whatever ``new`` makes for a key.
"""

from __future__ import annotations

from itertools import count
from threading import Lock
from typing import TYPE_CHECKING, Generic, TypeVar
from weakref import WeakSet

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

Pool = TypeVar("Pool")


class _Entry(Generic[Pool]):
    """A pool and when it was last used, on a clock of the table's own."""

    __slots__ = ("pool", "used")

    def __init__(self, pool: Pool, used: int) -> None:
        self.pool = pool
        self.used = used


class Pools(Generic[Pool]):
    """At most ``limit`` pools by key, made on demand.

    The table lets go of a pool at once when it is the least recently used of too many. It does not close
    it: whoever still uses it holds a reference, and whoever made it says with ``weakref.finalize`` how it
    is closed when the last reference is gone.

    Raises TypeError when ``new`` makes the same pool twice.
    """

    def __init__(self, new: Callable[[Hashable], Pool], limit: int) -> None:
        if limit < 1:
            raise ValueError(f"{limit} pools are too few: keep at least 1")
        self._new = new
        self._limit = limit
        self._entries: dict[Hashable, _Entry[Pool]] = {}
        self._made: WeakSet[Pool] = WeakSet()
        self._clock = count()
        self._lock = Lock()

    def get(self, key: Hashable) -> Pool:
        """The pool of ``key``."""
        entry = self._entries.get(key)  # hashed once and without the lock, as every request comes here
        if entry is None:
            return self._make(key)
        entry.used = next(self._clock)
        return entry.pool

    def _make(self, key: Hashable) -> Pool:
        evicted = None
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                pool = self._new(key)
                if pool in self._made:
                    raise TypeError(f"one pool for two sets of rules: {self._new!r} must make a new one each time")
                self._made.add(pool)
                if len(self._entries) >= self._limit:
                    evicted = self._entries.pop(min(self._entries, key=lambda each: self._entries[each].used))
                entry = self._entries[key] = _Entry(pool, next(self._clock))
        del evicted  # outside the lock: its finalizer may run anything
        return entry.pool

    def alive(self) -> list[Pool]:
        """Every pool that is still alive, evicted ones in use included."""
        with self._lock:
            return list(self._made)

    def clear(self) -> list[Pool]:
        """Empties the table; every pool that is still alive, evicted ones in use included, to be closed."""
        with self._lock:
            alive = list(self._made)  # before the table lets go of those that nobody else holds
            self._entries.clear()
            return alive
