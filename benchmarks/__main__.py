"""What netjail costs, measured side by side: ``python -m benchmarks [--full] [--json FILE] [--report]``.

A figure is a ratio of medians with the lowest and the highest among the parts of the run, and with the A/A control:
the plain thing against itself. What each may be at most is its reach; docs/performance has them all.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import gc
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import connecting, decisions, machine, page, peers, plot, requesting, starting
from benchmarks.server import serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.measure import Figure

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE, PLOTS = ROOT / "benchmarks/results.json", ROOT / "docs/performance.md", ROOT / "docs/performance"

ALONE = (starting.importing, starting.choosing, decisions.accepting, decisions.building)
SERVED = (
    starting.guarding,
    connecting.connecting,
    requesting.opening,
    requesting.keeping,
    requesting.crowding,
    connecting.failing_over,
    peers.comparing,
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--full", action="store_true", help="more rounds, sizes and contenders: some ten minutes")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--report", action="store_true", help=f"write {RESULTS.name}, the plots and docs/{PAGE.name}")
    parser.add_argument("--only", default="", help="only the groups whose name has this in it")
    options = parser.parse_args()
    if options.report and options.only:
        parser.error("a report has every group")
    results = measured(full=options.full, only=options.only)
    for path in [*([options.json] if options.json else []), *([RESULTS] if options.report else [])]:
        path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if options.report:
        plot.write(results, PLOTS)
        page.write(results, PAGE)


def measured(*, full: bool, only: str = "") -> dict[str, Any]:
    """Every figure of every group, printed when it is there."""
    _many_files()
    described = machine.described()
    print(f"netjail benchmarks: {described['python']}, {described['processor']}, load {machine.load()}")
    if described["absent"]:
        print(f"not installed, and left out: {', '.join(described['absent'])}")
    results: dict[str, Any] = {
        "began": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "full": full,
        "machine": described,
        "load": {"before": machine.load()},
    }
    figures: list[dict[str, Any]] = []
    begin = time.monotonic()
    for group in ALONE:
        if only in group.__name__:
            figures += _told(group(full=full), group.__name__, results["load"])
    with serving() as port:
        for served in SERVED:
            if only in served.__name__:
                figures += _told(served(port, full=full), served.__name__, results["load"])
    over = sum(each["over"] for each in figures)
    print(f"\n{len(figures)} figures in {time.monotonic() - begin:.0f} s, {over} over their reach")
    return {**results, "figures": figures}


def _told(figures: Iterator[Figure], name: str, load: dict[str, Any]) -> list[dict[str, Any]]:
    kept: list[dict[str, Any]] = []
    for each in figures:
        print(each.line(), flush=True)
        kept.append(each.as_dict())
        gc.collect()
    load[f"after {name}"] = machine.load()
    return kept


def _many_files() -> None:
    """Thousands of connections are open at once."""
    if sys.platform != "win32":
        import resource  # noqa: PLC0415 - not on Windows

        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(65536, most), most))


if __name__ == "__main__":
    main()
