"""Deciding: ``accepts`` of objects and of texts, and building the sets, against other tables of prefixes."""

from __future__ import annotations

import gc
import json
import random
import subprocess
import sys
import time
import tracemalloc
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import prefixes
from benchmarks.measure import Figure, Times, compare_over
from benchmarks.tables import NETADDR, OURS, PYTRICIA, RADIX, SCAN, TABLES, installed

if TYPE_CHECKING:
    from collections.abc import Iterator

PARSE = "ip_address(text)"
MILLION = 1_000_000
PARTS = 100
OF_A_PARSE = {(4, "object"): 0.2, (4, "text"): 0.35, (6, "object"): 0.3, (6, "text"): 0.5}


def accepting(*, full: bool) -> Iterator[Figure]:
    """``accepts`` of addresses never seen before, half of them inside."""
    sizes = [1, 100, 10_000, 100_000, MILLION] if full else [1, 100_000, MILLION]
    for version in (4, 6):
        medians: dict[str, list[float]] = {"object": [], "text": []}
        for size in sizes:
            for kind, other, times in _asked(version, size, full=full):
                what = f"accepts IPv{version} {kind}, {prefixes.counted(size, 'prefix')}"
                reach = _reach(version, kind, size, other)
                yield times.figure("accepting", what, OURS, other, reach, version=version, kind=kind, prefixes=size)
                if other == PARSE:
                    medians[kind].append(times.median(OURS))
        for kind, costs in medians.items():
            what = f"accepts IPv{version} {kind}, slowest of 1 to {MILLION:,} prefixes"
            reach = 3.0 if kind == "object" else None
            yield Figure("accepting", what, "fastest of them", max(costs) / min(costs), reach=reach)


def _asked(version: int, size: int, *, full: bool) -> Iterator[tuple[str, str, Times]]:
    """The times of ours in turn with each other one alone: going through a large table empties caches for the rest."""
    rng = random.Random(size)
    networks = prefixes.made(version, size, rng)
    most = 500 if full else 100  # so few at once that most parts are not interrupted
    fewest = {SCAN: max(1, 2000 // size), NETADDR: 20}
    numbers = prefixes.addresses(version, networks, most * PARTS, rng)
    texts = [str(IPv4Address(n) if version == 4 else IPv6Address(n)) for n in numbers]
    # Before the tables, which leave memory in pieces: with its number beside each, as parsing gives it.
    objects = [ip_address(text) for text in texts]
    # Some would be waited for too long: the scan for each address, and the quick form for making large tables.
    others = [name for name in installed() if full or size < 100_000 or name == PYTRICIA]
    tables = {name: TABLES[name](networks) for name in dict.fromkeys([OURS, *others])}
    for kind, asked in (("object", objects), ("text", texts)):
        contenders: dict[str, Any] = {PARSE: (_parse, texts)}
        for name, table in tables.items():
            loop = table.objects if kind == "object" else table.texts
            contenders[name] = (loop, asked[: PARTS * min(most, fewest.get(name, most))])
        ours = contenders.pop(OURS)
        for other, theirs in contenders.items():
            gc.collect()
            parts = 10 if other == SCAN and size >= 100_000 else PARTS  # one address takes it milliseconds
            yield kind, other, compare_over({OURS: ours, other: theirs}, parts)


def _parse(texts: list[str]) -> None:
    for text in texts:
        ip_address(text)


def _reach(version: int, kind: str, size: int, other: str) -> float | None:
    if other == PARSE:
        return OF_A_PARSE[version, kind]
    if kind == "text" and other == PYTRICIA:
        return 1.0 if size >= 100_000 else 2.5
    if kind == "text" and other == RADIX:
        return 1.0 if size >= 100_000 else None
    return 1.0 if kind == "object" else None


def built(contender: str, source: str) -> dict[str, float]:
    """In this process, which does nothing else: seconds, and megabytes at the peak over what was there before."""
    gc.collect()
    given = _texts(source)
    gc.collect()
    before = _resident(reset=True)
    begin = time.perf_counter()
    table: Any = TABLES[contender](given)
    took = time.perf_counter() - begin
    result = {"s": round(took, 3), "peak_mb": round(_resident("VmHWM") - before, 1)}
    result["kept_mb"] = round(_resident() - before, 1)
    if contender == OURS:
        del table
        tracemalloc.start()  # the peak to the byte; it would have slowed the timed one
        TABLES[contender](given)
        result["traced_mb"] = round(tracemalloc.get_traced_memory()[1] / 1e6, 1)
    return result


def _texts(source: str) -> list[str]:
    """``4:1000000`` is that many made prefixes of IPv4; anything else is the name of a real set."""
    version, colon, count = source.partition(":")
    if colon:
        return prefixes.made(int(version), int(count), random.Random(2))
    return prefixes.real(source)[0]


def _resident(what: str = "VmRSS", *, reset: bool = False) -> float:
    """Megabytes of this process, which Linux alone tells; 0 elsewhere."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0.0
    kilobytes = [int(line.split()[1]) for line in lines if line.startswith(f"{what}:")]
    return kilobytes[0] * 1024 / 1e6 if kilobytes else 0.0


def building(*, full: bool) -> Iterator[Figure]:
    """Rules from prefix strings, each contender in a process of its own."""
    sources = {f"4:{MILLION}": f"{MILLION:,} made IPv4", f"6:{MILLION}": f"{MILLION:,} made IPv6"}
    for name, (_, count) in prefixes.SETS.items():
        real = "real" if prefixes.real(name)[1] else "made, for want of the real"
        sources[name] = f"{count:,} {real} ({name})"
    reaches = {f"4:{MILLION}": (3.0, 200.0), f"6:{MILLION}": (4.0, 250.0)}
    if not full:
        del sources["registrations by country"]  # netaddr takes half a minute for them
    for source, named in sources.items():
        fewer = [OURS, PYTRICIA] if source in reaches else [OURS, NETADDR]
        results = {name: _built_apart(name, source) for name in installed() if full or name in fewer}
        ours = results[OURS]
        seconds, megabytes = reaches.get(source, (None, None))
        what = f"building from {named} prefixes"
        detail = {"of": results}
        yield Figure("building", f"{what}, time", "", ours["s"], "s", seconds, detail=detail)
        yield Figure("building", f"{what}, memory", "", ours["traced_mb"], "MB", megabytes)
        for other, result in results.items():
            if other != OURS:
                reach = 1.0 if other == NETADDR else None
                memory = {"mb": ours["peak_mb"], "against_mb": result["peak_mb"]}
                yield Figure("building", what, other, ours["s"] / result["s"], reach=reach, detail=memory)


def _built_apart(contender: str, source: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.decisions", contender, source]
    done = subprocess.run(command, capture_output=True, check=True, cwd=Path(__file__).parents[1])
    return json.loads(done.stdout)  # type: ignore[no-any-return]


if __name__ == "__main__":
    print(json.dumps(built(*sys.argv[1:])))
