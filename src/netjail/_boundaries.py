"""Sets of integers as sorted flat lists of boundaries: inside from the first to the second, and so on.

This module knows nothing of addresses but how many bits they have. A set that reaches the end of the
space has no closing boundary, so that complementing a set is to add or drop a leading 0.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


def span(start: int, length: int, bits: int) -> list[int]:
    """The set of one prefix."""
    stop = start + (1 << bits - length)
    return [start] if stop == 1 << bits else [start, stop]


def union(keys: Iterable[int], bits: int) -> list[int]:
    """The set of prefixes given as ``start << 8 | length``, a form that sorts fast and wide before narrow."""
    bounds: list[int] = []
    reached = -1
    for key in sorted(keys):
        start = key >> 8
        if start > reached:
            if reached >= 0:
                bounds.append(reached)
            bounds.append(start)
        stop = start + (1 << bits - (key & 0xFF))
        if stop > reached:
            reached = stop
    if 0 <= reached < 1 << bits:
        bounds.append(reached)
    return bounds


def complement(bounds: Sequence[int]) -> list[int]:
    """Everything outside."""
    return list(bounds[1:]) if bounds and bounds[0] == 0 else [0, *bounds]


def intersection(a: Sequence[int], b: Sequence[int]) -> list[int]:
    """What is inside both."""
    marked = [bound << 1 for bound in a]
    marked += [bound << 1 | 1 for bound in b]
    marked.sort()  # two sorted runs, which list.sort merges in one pass
    inside = [False, False]
    bounds: list[int] = []
    within = False
    for position, mark in enumerate(marked):
        inside[mark & 1] = not inside[mark & 1]
        if position + 1 < len(marked) and marked[position + 1] >> 1 == mark >> 1:
            continue  # the other set changes at the same place
        if (inside[0] and inside[1]) is not within:
            within = not within
            bounds.append(mark >> 1)
    return bounds


def less(a: Sequence[int], b: Sequence[int]) -> list[int]:
    """What is inside ``a`` and outside ``b``."""
    return intersection(a, complement(b)) if b else list(a)


def contains(bounds: Sequence[int], number: int) -> bool:
    """Whether ``number`` is inside: an odd number of boundaries lies at or below it."""
    return bisect_right(bounds, number) & 1 == 1


def intervals(bounds: Sequence[int], bits: int) -> Iterator[tuple[int, int]]:
    """The (first, last) of each unbroken piece."""
    for position in range(0, len(bounds), 2):
        stop = bounds[position + 1] if position + 1 < len(bounds) else 1 << bits
        yield bounds[position], stop - 1


def prefixes(bounds: Sequence[int], bits: int) -> Iterator[tuple[int, int]]:
    """The fewest prefixes that make up the set, as (start, length), in order."""
    for start, last in intervals(bounds, bits):
        while start <= last:
            size = min(start & -start or 1 << bits, 1 << (last + 1 - start).bit_length() - 1)
            yield start, bits + 1 - size.bit_length()
            start += size


class Table:
    """A set arranged so that a look-up costs the same at one boundary and at two million.

    An index by the high bits says between which positions the boundaries of one block lie, and a bisect
    of those few decides. The index grows with the set, up to 20 bits: below that a flat bisect would
    leave the processor's caches from some ten thousand boundaries on.
    """

    __slots__ = ("_bounds", "_first", "_shift")

    def __init__(self, bounds: Sequence[int], bits: int) -> None:
        size = len(bounds)
        # IPv6 crowds into a few blocks of the space, so its index is finer than its size asks for.
        high = min(size.bit_length() + (2 if bits == 128 else -2), 20) if size > 16 else 0
        self._shift = bits - high
        self._bounds: Sequence[int] = array("I", bounds) if bits == 32 else list(bounds)
        if not high:
            self._first: Sequence[int] = (0, size)
            return
        first = array("I", bytes(4 * ((1 << high) + 1)))
        for position, bound in enumerate(bounds, 1):
            first[(bound >> self._shift) + 1] = position
        self._first = array("I", accumulate(first, max))

    def __contains__(self, number: int) -> bool:
        block = number >> self._shift
        return bisect_right(self._bounds, number, self._first[block], self._first[block + 1]) & 1 == 1

    @property
    def bounds(self) -> Sequence[int]:
        return self._bounds
