"""Sets of integers as sorted flat lists of boundaries: inside from the first to the second, and so on.

This module knows nothing of addresses but how many bits they have. A set that reaches the end of the
space has no closing boundary, so that complementing a set is to add or drop a leading 0.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TypeAlias

    Bounds: TypeAlias = "list[int] | array[int]"


def span(start: int, length: int, bits: int) -> list[int]:
    """The set of one prefix."""
    stop = start + (1 << bits - length)
    return [start] if stop == 1 << bits else [start, stop]


def union(keys: list[int], bits: int) -> list[int]:
    """The set of prefixes given as ``start << 8 | length``, a form that sorts fast and wide before narrow.

    Sorts ``keys`` in place.
    """
    keys.sort()
    bounds: list[int] = []
    reached = -1
    for key in keys:
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


def complement(bounds: Bounds) -> list[int]:
    """Everything outside."""
    return list(bounds[1:]) if bounds and bounds[0] == 0 else [0, *bounds]


def intersection(a: Bounds, b: Bounds) -> list[int]:
    """What is inside both: for each piece of the smaller set, the boundaries of the larger within it."""
    if len(a) > len(b):
        a, b = b, a
    bounds: list[int] = []
    for position in range(0, len(a), 2):
        start, stop = a[position], a[position + 1] if position + 1 < len(a) else None
        low = bisect_right(b, start)
        high = len(b) if stop is None else bisect_left(b, stop)
        if low & 1:
            bounds.append(start)
        bounds += b[low:high]
        if high & 1 and stop is not None:
            bounds.append(stop)
    return bounds


def less(a: Bounds, b: Bounds) -> list[int]:
    """What is inside ``a`` and outside ``b``."""
    return intersection(a, complement(b)) if b else list(a)


def contains(bounds: Bounds, number: int) -> bool:
    """Whether ``number`` is inside: an odd number of boundaries lies at or below it."""
    return bisect_right(bounds, number) & 1 == 1


def intervals(bounds: Bounds, bits: int) -> Iterator[tuple[int, int]]:
    """The (first, last) of each unbroken piece."""
    for position in range(0, len(bounds), 2):
        stop = bounds[position + 1] if position + 1 < len(bounds) else 1 << bits
        yield bounds[position], stop - 1


def prefixes(bounds: Bounds, bits: int) -> Iterator[tuple[int, int]]:
    """The fewest prefixes that make up the set, as (start, length), in order."""
    for first, last in intervals(bounds, bits):
        start = first
        while start <= last:
            size = min(start & -start or 1 << bits, 1 << (last + 1 - start).bit_length() - 1)
            yield start, bits + 1 - size.bit_length()
            start += size


class Table4:
    """A set of IPv4 addresses, arranged so that a look-up costs the same at one boundary and at two million.

    One byte for each block of addresses says whether it is outside, inside or mixed, and a bisect decides
    in a mixed one. The blocks get finer with the set, down to a /24: a flat bisect alone would leave the
    processor's caches from some ten thousand boundaries on.
    """

    def __init__(self, bounds: Bounds) -> None:
        bits = min(len(bounds).bit_length() + 6, 24)
        shift = 32 - bits
        blocks = bytearray(1 << bits)
        for first, last in intervals(bounds, 32):
            low, high = first + (1 << shift) - 1 >> shift, last + 1 >> shift
            if high > low:
                blocks[low:high] = b"\1" * (high - low)
            if first & (1 << shift) - 1:
                blocks[first >> shift] = 2
            if last + 1 & (1 << shift) - 1:
                blocks[last >> shift] = 2
        self.bounds = array("I", bounds)
        self._blocks = bytes(blocks)
        self._shift = shift

    def holds(self, ip: int) -> bool:
        state = self._blocks[ip >> self._shift]
        return state == 1 if state < 2 else bisect_right(self.bounds, ip) & 1 == 1

    def tobytes(self) -> bytes:
        return self.bounds.tobytes()


class Table6:
    """The same for IPv6, whose addresses crowd into few blocks of a large space.

    An index by the high bits, up to 20, says between which positions the boundaries of one block lie, and
    a bisect of those few decides.
    """

    def __init__(self, bounds: list[int]) -> None:
        bits = min(len(bounds).bit_length() + 2, 20)
        shift = 128 - bits
        first = array("I", bytes(4 * ((1 << bits) + 1)))
        for position, bound in enumerate(bounds, 1):
            first[(bound >> shift) + 1] = position
        self.bounds = bounds
        self._first = array("I", accumulate(first, max))
        self._shift = shift

    def holds(self, ip: int) -> bool:
        block = ip >> self._shift
        return bisect_right(self.bounds, ip, self._first[block], self._first[block + 1]) & 1 == 1

    def tobytes(self) -> bytes:
        return b"".join(bound.to_bytes(16, "big") for bound in self.bounds)
