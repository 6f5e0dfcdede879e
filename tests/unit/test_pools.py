"""One pool for each key, and what happens to those that leave the table."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Hashable
from concurrent.futures import ThreadPoolExecutor

import pytest

from netjail._pools import Pools


class Pool:
    def __init__(self, key: Hashable) -> None:
        self.key = key


def test_one_key_has_one_pool() -> None:
    pools = Pools(Pool, 2)
    a = pools.get("a")
    assert pools.get("a") is a
    assert pools.get("b") is not a


def test_the_least_recently_used_leaves_and_is_finalized_when_nobody_holds_it() -> None:
    closed: list[Hashable] = []

    def new(key: Hashable) -> Pool:
        pool = Pool(key)
        weakref.finalize(pool, closed.append, key)
        return pool

    pools = Pools(new, 2)
    held = pools.get("a")
    pools.get("b")
    pools.get("a")
    pools.get("c")
    gc.collect()
    assert closed == ["b"]
    pools.get("d")
    gc.collect()
    assert closed == ["b"], "a is still in use"
    assert pools.get("a") is not held
    del held
    gc.collect()
    assert closed == ["b", "c", "a"]


def test_clear_gives_back_all_that_live_evicted_ones_too() -> None:
    pools = Pools(Pool, 1)
    a = pools.get("a")
    b = pools.get("b")
    assert set(pools.clear()) == {a, b}
    assert pools.get("b") is not b


def test_clear_gives_back_a_pool_that_nobody_but_the_table_holds() -> None:
    pools = Pools(Pool, 2)
    pools.get("a")
    assert [pool.key for pool in pools.clear()] == ["a"]


def test_the_same_pool_twice_is_refused() -> None:
    same = Pool("x")
    pools = Pools(lambda key: same, 2)
    pools.get("a")
    with pytest.raises(TypeError, match="a new one each time"):
        pools.get("b")


@pytest.mark.parametrize("limit", [0, -1])
def test_a_table_holds_at_least_one(limit: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Pools(Pool, limit)


def test_threads_get_one_pool_each_key() -> None:
    pools = Pools(Pool, 64)
    with ThreadPoolExecutor(16) as threads:
        found = list(threads.map(pools.get, [n % 50 for n in range(5000)]))
    assert len({(pool.key, id(pool)) for pool in found}) == 50
