"""How two things are compared: in turn, one call each, as the ratio of the medians with its spread."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


@dataclass
class Comparison:
    """Seconds of each call of the plain thing, of the jailed one, and of the plain one again (the A/A control)."""

    plain: list[float]
    jailed: list[float]
    control: list[float]

    @property
    def ratio(self) -> float:
        return statistics.median(self.jailed) / statistics.median(self.plain)

    @property
    def control_ratio(self) -> float:
        """What the same thing compares to itself: as far as this is from 1, so little does ``ratio`` say."""
        return statistics.median(self.control) / statistics.median(self.plain)

    def spread(self, parts: int = 10) -> tuple[float, float]:
        """The lowest and the highest ratio among ``parts`` of the run."""
        size = max(1, len(self.plain) // parts)
        ratios = [
            statistics.median(self.jailed[n : n + size]) / statistics.median(self.plain[n : n + size])
            for n in range(0, len(self.plain) - size + 1, size)
        ]
        return min(ratios), max(ratios)

    def as_dict(self) -> dict[str, object]:
        return {
            "plain_us": round(statistics.median(self.plain) * 1e6, 2),
            "jailed_us": round(statistics.median(self.jailed) * 1e6, 2),
            "ratio": round(self.ratio, 4),
            "spread": [round(each, 4) for each in self.spread()],
            "control": round(self.control_ratio, 4),
        }


def compare(plain: Callable[[], object], jailed: Callable[[], object], rounds: int) -> Comparison:
    """Calls both in turn ``rounds`` times, in both orders, and the plain one twice."""
    result = Comparison([], [], [])
    calls = [(plain, result.plain), (jailed, result.jailed), (plain, result.control)]
    clock = time.perf_counter
    for round_ in range(rounds + rounds // 10):
        turn = round_ % 3
        for call, times in calls[turn:] + calls[:turn]:
            begin = clock()
            call()
            took = clock() - begin
            if round_ >= rounds // 10:  # what comes before is to warm up
                times.append(took)
    return result


async def compare_async(
    plain: Callable[[], Awaitable[object]], jailed: Callable[[], Awaitable[object]], rounds: int
) -> Comparison:
    """The same, awaited."""
    result = Comparison([], [], [])
    calls = [(plain, result.plain), (jailed, result.jailed), (plain, result.control)]
    clock = time.perf_counter
    for round_ in range(rounds + rounds // 10):
        turn = round_ % 3
        for call, times in calls[turn:] + calls[:turn]:
            begin = clock()
            await call()
            took = clock() - begin
            if round_ >= rounds // 10:
                times.append(took)
    return result
