"""What the modules for Elasticsearch and OpenSearch share: pools of urllib3 that a library has made, under rules.

This module knows urllib3's pools as netjail's module for urllib3 gives them, and neither of the two libraries.
"""

from __future__ import annotations

from functools import cache, partial
from typing import TYPE_CHECKING, Any

from .._pools import Pools
from .urllib3 import HTTPConnectionPool

if TYPE_CHECKING:
    from collections.abc import Callable

    import urllib3

    from .._dialer import Dialer

__all__ = ["PoolsOf"]

_MOST_POOLS = 256


class PoolsOf:
    """The pools of one node: a new one of what ``make`` gives for each rules in force, dialled by ``dialer``."""

    def __init__(self, make: Callable[[], Any], dialer: Dialer) -> None:
        self._dialer = dialer
        self._pools: Pools[Any] = Pools(partial(_jailed, make, dialer), _MOST_POOLS)

    def current(self) -> Any:
        """The pool for the rules in force here and now."""
        return self._pools.get(self._dialer.rules_in_force())

    def close(self) -> None:
        """Closes every connection, under whatever rules."""
        for pool in self._pools.clear():
            pool.close()


def _jailed(make: Callable[[], Any], dialer: Dialer, rules: Any) -> Any:
    pool = make()
    if pool.proxy or pool.num_connections:
        raise TypeError("netjail does not know this version of the library: its pool has connections or a proxy")
    pool.__class__ = _jailed_class(pool.__class__)  # it has dialled nothing yet, and keeps all that it was given
    pool.jail(dialer.pinned(rules))
    return pool


@cache
def _jailed_class(plain: type[urllib3.HTTPConnectionPool]) -> type[HTTPConnectionPool]:
    return type(plain.__name__, (HTTPConnectionPool, plain), {})
