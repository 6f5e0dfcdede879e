"""The algebra of boundaries against sets of numbers, over a space small enough to list."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, collapse_addresses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netjail import _boundaries
from netjail._boundaries import Table4, Table6

BITS = 6
SPACE = range(1 << BITS)
prefix = st.integers(0, BITS).flatmap(
    lambda length: st.integers(0, (1 << length) - 1).map(lambda n: (n << BITS - length, length))
)
prefixes = st.lists(prefix, max_size=12)


def union(pairs: list[tuple[int, int]]) -> list[int]:
    return _boundaries.union([start << 8 | length for start, length in pairs], BITS)


def members(pairs: list[tuple[int, int]]) -> set[int]:
    return {n for start, length in pairs for n in range(start, start + (1 << BITS - length))}


def inside(bounds: list[int]) -> set[int]:
    return {n for n in SPACE if _boundaries.contains(bounds, n)}


@given(prefixes)
def test_a_union_holds_what_its_prefixes_hold(pairs: list[tuple[int, int]]) -> None:
    bounds = union(pairs)
    assert inside(bounds) == members(pairs)
    assert bounds == sorted(set(bounds))


@given(prefixes)
def test_a_complement_holds_the_rest(pairs: list[tuple[int, int]]) -> None:
    assert inside(_boundaries.complement(union(pairs))) == set(SPACE) - members(pairs)


@given(prefixes, prefixes)
def test_intersection_and_less(a: list[tuple[int, int]], b: list[tuple[int, int]]) -> None:
    assert inside(_boundaries.intersection(union(a), union(b))) == members(a) & members(b)
    assert inside(_boundaries.less(union(a), union(b))) == members(a) - members(b)


@given(prefixes)
def test_prefixes_are_the_fewest(pairs: list[tuple[int, int]]) -> None:
    fewest = list(_boundaries.prefixes(union(pairs), BITS))
    assert members(fewest) == members(pairs)
    as_networks = [IPv4Network((start << 32 - BITS, length)) for start, length in fewest]
    assert list(collapse_addresses(as_networks)) == as_networks


def test_the_whole_space_has_one_boundary() -> None:
    assert union([(0, 0)]) == [0]
    assert list(_boundaries.prefixes([0], BITS)) == [(0, 0)]
    assert _boundaries.complement([0]) == []
    assert _boundaries.complement([]) == [0]


@given(st.lists(st.integers(0, 2**32 - 1), max_size=60, unique=True).map(sorted), st.data())
def test_a_table_answers_like_the_flat_bisect(bounds: list[int], data: st.DataObject) -> None:
    near = st.sampled_from(bounds or [0]).flatmap(lambda b: st.integers(max(0, b - 2), min(2**32 - 1, b + 2)))
    for ip in data.draw(st.lists(st.one_of(near, st.integers(0, 2**32 - 1)), min_size=5)):
        assert Table4(bounds).holds(ip) is _boundaries.contains(bounds, ip)
        wide = [bound << 96 | 7 for bound in bounds]
        assert Table6(wide).holds(ip << 96 | 7) is _boundaries.contains(wide, ip << 96 | 7)
        assert Table6(wide).holds(ip << 96) is _boundaries.contains(wide, ip << 96)


@pytest.mark.parametrize("count", [1, 100, 20_000, 300_000])
def test_tables_of_every_size_answer_like_the_flat_bisect(count: int) -> None:
    """Sizes at which the blocks are as coarse and as fine as they get."""
    step = 2**32 // (2 * count)
    bounds = [n * step + n % 3 for n in range(2 * count)]
    table4, table6 = Table4(bounds), Table6([b << 96 for b in bounds])
    for n in range(0, 2 * count, max(1, count // 500)):
        for ip in (bounds[n] - 1, bounds[n], bounds[n] + 1):
            if ip >= 0:
                assert table4.holds(ip) is _boundaries.contains(bounds, ip), IPv4Address(ip)
                assert table6.holds(ip << 96) is _boundaries.contains(bounds, ip)
    assert table4.holds(2**32 - 1) is _boundaries.contains(bounds, 2**32 - 1)
    assert table6.holds(2**128 - 1) is _boundaries.contains(bounds, 2**32 - 1)
