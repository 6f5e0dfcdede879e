"""The algebra of boundaries against sets of numbers, over a space small enough to list."""

from __future__ import annotations

from array import array
from ipaddress import IPv4Address, IPv4Network, collapse_addresses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netjail import _boundaries
from netjail._boundaries import CLOSER, INSIDE, Table6, table4

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


def holds6(table: Table6, ip: int) -> bool:
    """As Rules asks."""
    state = table.states[table.rank(ip)]
    return table.holds(ip) if state == CLOSER else state == INSIDE


@given(st.lists(st.integers(0, 2**32 - 1), max_size=60, unique=True).map(sorted), st.data())
def test_a_table_answers_like_the_flat_bisect(bounds: list[int], data: st.DataObject) -> None:
    near = st.sampled_from(bounds or [0]).flatmap(lambda b: st.integers(max(0, b - 2), min(2**32 - 1, b + 2)))
    holds4 = table4(array("I", bounds))
    for ip in data.draw(st.lists(st.one_of(near, st.integers(0, 2**32 - 1)), min_size=5)):
        assert holds4(ip) is _boundaries.contains(bounds, ip)


halves = st.one_of(st.integers(0, 12), st.integers(2**64 - 5, 2**64 - 1))
lowers = st.one_of(st.just(0), st.sampled_from([1, 2, 2**63, 2**64 - 1]))
addresses = st.builds(lambda half, low: half << 64 | low, halves, lowers)
zones = st.lists(
    st.builds(lambda ip, length: (ip >> 128 - length << 128 - length) << 8 | length, addresses, st.integers(60, 128))
)
filling = st.sampled_from([[], [n << 64 for n in range(20, 20 + _boundaries._FEW)]])


@given(st.lists(addresses, max_size=30, unique=True).map(sorted), filling, zones, st.lists(addresses, min_size=5))
def test_a_table_of_ipv6_decides_or_says_look_closer(
    given: list[int], filling: list[int], closer: list[int], asked: list[int]
) -> None:
    """By whole addresses and by halves, with boundaries between halves, within one, and at the ends of the space."""
    bounds = sorted({*given, *filling})
    table = Table6(bounds, closer)
    assert (table._below == 64) is bool(filling)
    assert table.bounds() == bounds
    zoned = _boundaries.union(list(closer), 128)
    for ip in {*asked, *given, *(bound - 1 for bound in given if bound)}:
        assert holds6(table, ip) is _boundaries.contains(bounds, ip)
        if _boundaries.contains(zoned, ip):
            assert table.states[table.rank(ip)] == CLOSER
        elif not filling:
            assert table.states[table.rank(ip)] != CLOSER


@pytest.mark.parametrize("count", [1, 100, 20_000, 300_000])
def test_tables_of_every_size_answer_like_the_flat_bisect(count: int) -> None:
    """Sizes at which the blocks are as coarse and as fine as they get."""
    step = 2**32 // (2 * count)
    bounds = [n * step + n % 3 for n in range(2 * count)]
    holds4 = table4(array("I", bounds))
    wide, divided = Table6([b << 96 for b in bounds], []), Table6([b << 48 | b for b in bounds], [5 << 72 | 64])
    for n in range(0, 2 * count, max(1, count // 500)):
        for ip in (bounds[n] - 1, bounds[n], bounds[n] + 1):
            if ip >= 0:
                inside = _boundaries.contains(bounds, ip)
                assert holds4(ip) is inside, IPv4Address(ip)
                assert holds6(wide, ip << 96) is inside
                assert holds6(divided, ip << 48 | ip) is inside
    assert holds4(2**32 - 1) is _boundaries.contains(bounds, 2**32 - 1)
    assert holds6(wide, 2**128 - 1) is _boundaries.contains(bounds, 2**32 - 1)
