"""How things are compared: in turn, one call of each, in an order drawn anew, as a ratio of medians with its spread."""

from __future__ import annotations

import random
import statistics
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

CONTROL = "control"
"""The plain thing again, with connections of its own: what the same compares to itself."""


@dataclass
class Figure:
    """One figure: a ratio to ``against``, or an amount in ``unit`` where there is nothing to divide by.

    ``reach`` is the most that it may be, None where it is only reported. ``spread`` is its lowest and highest
    among ten parts of the run. As far as ``control``, the A/A ratio, is from 1, so little does ``value`` say.
    """

    group: str
    what: str
    against: str
    value: float
    unit: str = "ratio"
    reach: float | None = None
    spread: tuple[float, float] | None = None
    control: float | None = None
    detail: dict[str, Any] = field(default_factory=dict)

    @property
    def over(self) -> bool:
        return self.reach is not None and self.value > self.reach

    def as_dict(self) -> dict[str, Any]:
        given = {"group": self.group, "what": self.what, "against": self.against, "value": rounded(self.value)}
        given |= {"unit": self.unit, "reach": self.reach, "over": self.over, **self.detail}
        if self.spread is not None:
            given["spread"] = [rounded(each) for each in self.spread]
        if self.control is not None:
            given["control"] = rounded(self.control)
        return given

    def line(self) -> str:
        spread = "{} to {}".format(*map(rounded, self.spread)) if self.spread else ""
        control = f"A/A {rounded(self.control)}" if self.control is not None else ""
        reach = "" if self.reach is None else f"of {self.reach}"
        unit = "" if self.unit == "ratio" else self.unit
        beside = f"{self.what} / {self.against}" if self.against else self.what
        value = f"{rounded(self.value):>8} {unit:4} {reach:8}"
        return f"{beside:78} {value} {spread:18} {control}{'  over' if self.over else ''}".rstrip()


def rounded(value: float) -> float:
    """To the digits that mean anything: four, and no more than four decimals."""
    return round(value, 4 if abs(value) < 10 else 1)


@dataclass
class Times:
    """Seconds of each call, by contender."""

    of: dict[str, list[float]]

    def median(self, name: str) -> float:
        return statistics.median(self.of[name])

    def ratio(self, name: str, against: str) -> float:
        return self.median(name) / self.median(against)

    def spread(self, name: str, against: str, parts: int = 10) -> tuple[float, float]:
        """The lowest and the highest ratio among ``parts`` of the run."""
        ours, theirs = self.of[name], self.of[against]
        size = max(1, len(ours) // parts)
        ratios = [
            statistics.median(ours[n : n + size]) / statistics.median(theirs[n : n + size])
            for n in range(0, len(ours) - size + 1, size)
        ]
        return min(ratios), max(ratios)

    def figure(
        self, group: str, what: str, name: str, against: str, reach: float | None = None, **detail: Any
    ) -> Figure:
        """The ratio of ``name`` to ``against``, with the control, if it took part, against the first contender."""
        control = self.ratio(CONTROL, next(iter(self.of))) if CONTROL in self.of else None
        detail |= {"us": round(self.median(name) * 1e6, 2), "against_us": round(self.median(against) * 1e6, 2)}
        ratio, spread = self.ratio(name, against), self.spread(name, against)
        return Figure(group, what, against, ratio, "ratio", reach, spread, control, detail)


def _orders(names: list[str], rounds: int) -> list[list[str]]:
    """An order for each round: a fixed one would let the same contender always follow the same other."""
    rng = random.Random(len(names) * rounds)
    return [rng.sample(names, len(names)) for _ in range(rounds)]


def compare(calls: Mapping[str, Callable[[], object]], rounds: int) -> Times:
    """Calls each ``rounds`` times, after a tenth as many rounds to warm up."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    clock = time.perf_counter
    warm = -(-rounds // 10)
    for number, order in enumerate(_orders(list(calls), rounds + warm)):
        for name in order:
            call = calls[name]
            begin = clock()
            call()
            took = clock() - begin
            if number >= warm:
                times[name].append(took)
    return Times(times)


async def compare_async(calls: Mapping[str, Callable[[], Awaitable[object]]], rounds: int) -> Times:
    """The same, awaited."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    clock = time.perf_counter
    warm = -(-rounds // 10)
    for number, order in enumerate(_orders(list(calls), rounds + warm)):
        for name in order:
            call = calls[name]
            begin = clock()
            await call()
            took = clock() - begin
            if number >= warm:
                times[name].append(took)
    return Times(times)


def compare_over(contenders: Mapping[str, tuple[Callable[[list[Any]], object], list[Any]]], parts: int) -> Times:
    """Seconds for one argument, of contenders that each go over ``parts`` equal parts of their arguments, in turn.

    No argument is seen twice.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    clock = time.perf_counter
    for number, order in enumerate(_orders(list(contenders), parts)):
        for name in order:
            go, arguments = contenders[name]
            size = len(arguments) // parts
            part = arguments[number * size : (number + 1) * size]
            begin = clock()
            go(part)
            times[name].append((clock() - begin) / size)
    return Times(times)
