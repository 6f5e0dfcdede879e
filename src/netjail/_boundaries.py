"""Sets of integers as sorted flat lists of boundaries: inside from the first to the second, and so on.

This module knows nothing of addresses but how many bits they have. A set that reaches the end of the
space has no closing boundary, so that complementing a set is to add or drop a leading 0.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import TypeAlias

    Bounds: TypeAlias = "list[int] | array[int]"

_LOWER = (1 << 64) - 1
_FEW = 512  # so few are bisected faster than an index is read, measured


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


def ranking(numbers: Bounds, bits: int, index_bits: int, below: int = 0) -> Callable[[int], int]:
    """A function that tells how many of the sorted ``numbers`` of so many bits are at or below a given one.

    Many have an index by their high bits, so that a bisect of a few of them answers. With ``below`` the
    numbers are without so many low bits, and what is asked with has them.
    """
    if len(numbers) < _FEW:
        return partial(bisect_right, [number << below for number in numbers])
    shift = bits - index_bits
    first = array("I", bytes(4 * ((1 << index_bits) + 1)))
    for position, number in enumerate(numbers, 1):
        first[(number >> shift) + 1] = position
    first = array("I", accumulate(first, max))

    def rank(number: int) -> int:
        block = number >> shift
        return bisect_right(numbers, number, first[block], first[block + 1])

    def rank_upper(number: int) -> int:
        number >>= below
        block = number >> shift
        return bisect_right(numbers, number, first[block], first[block + 1])

    return rank_upper if below else rank


def table4(bounds: array[int]) -> Callable[[int], bool]:
    """A function that tells whether an IPv4 address is in the set.

    One byte for each block of addresses says whether it is outside, inside or mixed, and the boundaries
    decide in a mixed one. The blocks either stay within the processor's caches, or decide whatever is no
    longer than a /24: what lies between does neither, measured.
    """
    many = len(bounds) >= 1 << 16
    bits = 24 if many else max(len(bounds).bit_length() + 2, 10)
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
    rank = ranking(bounds, 32, min(len(bounds).bit_length(), 20))

    def holds(ip: int) -> bool:
        state = blocks[ip >> shift]
        return state == 1 if state < 2 else rank(ip) & 1 == 1

    return holds


OUTSIDE, INSIDE, CLOSER = range(3)


class Table6:
    """A set of IPv6 addresses, in which one bisect finds whether an address is outside or inside.

    ``states[rank(ip)]`` is OUTSIDE, INSIDE, or CLOSER: in the prefixes of ``closer`` (keys as of
    :func:`union`), where the caller looks at the address and ``holds`` tells whether it is in the set.

    A large set is looked up by the upper halves of addresses, which are 64 bits and lie side by side. A half
    that a boundary divides is CLOSER then, so a set in which many are divided goes by whole addresses.
    """

    def __init__(self, bounds: list[int], closer: Iterable[int]) -> None:
        divided = {bound >> 64 for bound in bounds if bound & _LOWER}
        if len(bounds) < _FEW or len(divided) > len(bounds) // 16:
            self._bounds: Bounds = bounds
            self._lower = array("Q")
            self._below = 0
            zones = union([*closer], 128)
        else:
            self._bounds = array("Q", (bound >> 64 for bound in bounds))
            self._lower = array("Q", (bound & _LOWER for bound in bounds) if divided else ())
            self._below = 64
            halves = (key >> 72 << 8 | min(key & 0xFF, 64) for key in closer)
            zones = union([*halves, *(half << 8 | 64 for half in divided)], 64)
        exact = intersection(bounds, [zone << self._below for zone in zones])
        self._rank = ranking(exact, 128, min(len(exact).bit_length() + 2, 20))
        bits = 128 - self._below
        numbers, self.states = _marked(self._bounds, zones, bits)
        self.rank = ranking(numbers, bits, min(len(numbers).bit_length() + 2, 22), self._below)

    def holds(self, ip: int) -> bool:
        return self._rank(ip) & 1 == 1

    def __bool__(self) -> bool:
        return bool(self._bounds)

    def bounds(self) -> list[int]:
        bounds = [bound << self._below for bound in self._bounds]
        return [upper | lower for upper, lower in zip(bounds, self._lower, strict=True)] if self._lower else bounds

    def tobytes(self) -> bytes:
        return b"".join([bound.to_bytes(16, "big") for bound in self.bounds()])


def _marked(bounds: Bounds, zones: list[int], bits: int) -> tuple[Bounds, bytes]:
    """Boundaries with the state that begins at each: those of the set outside of ``zones``, and CLOSER in these.

    Boundaries within the zones may be equal, where an upper half stands for several.
    """
    turns = bytes([INSIDE, OUTSIDE]) * (len(bounds) // 2 + 1)
    numbers: Any = bounds[:0]  # a list or an array, as the bounds are
    states = bytearray([OUTSIDE])
    done = 0
    for first, last in intervals(zones, bits):
        reached = bisect_left(bounds, first, done)
        numbers += bounds[done:reached]
        states += turns[done:reached]
        done = bisect_right(bounds, last + 1, reached)
        numbers.append(first)
        states.append(CLOSER)
        if last + 1 < 1 << bits:
            numbers.append(last + 1)
            states.append(done & 1)
    numbers += bounds[done:]
    states += turns[done : len(bounds)]
    return numbers, bytes(states)
