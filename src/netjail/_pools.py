"""One pool for each rules in force, the least recently used out.

This module knows nothing of networks: a pool is whatever ``new`` makes for a key.
"""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING, Generic, TypeVar
from weakref import WeakSet

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

Pool = TypeVar("Pool")


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
        self._pools: dict[Hashable, Pool] = {}
        self._made: WeakSet[Pool] = WeakSet()
        self._lock = Lock()

    def get(self, key: Hashable) -> Pool:
        """The pool of ``key``."""
        with self._lock:
            pool = self._pools.pop(key, None)
            if pool is None:
                pool = self._new(key)
                if pool in self._made:
                    raise TypeError(f"one pool for two sets of rules: {self._new!r} must make a new one each time")
                self._made.add(pool)
            self._pools[key] = pool  # last, as the most recently used
            evicted = self._pools.pop(next(iter(self._pools))) if len(self._pools) > self._limit else None
        del evicted  # outside the lock: its finalizer may run anything
        return pool

    def clear(self) -> list[Pool]:
        """Empties the table; every pool that is still alive, evicted ones in use included, to be closed."""
        with self._lock:
            self._pools.clear()
            return list(self._made)
