"""The figures of docs/performance from the JSON of a run: ``python -m benchmarks.page RESULTS PAGE``.

The page is written by hand but for what stands between ``<!-- figures: NAME -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.prefixes import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Row = dict[str, Any]
_BLOCK = re.compile(r"(<!-- figures: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def write(results: dict[str, Any], path: Path) -> None:
    path.write_text(filled(path.read_text(encoding="utf-8"), results), encoding="utf-8")


def filled(text: str, results: dict[str, Any]) -> str:
    """``text`` with the figures of ``results`` in every block."""
    return _BLOCK.sub(lambda block: f"{block[1]}{BLOCKS[block[2]](results)}\n{block[4]}", text)


def number(value: float) -> str:
    """To the digits that it can bear."""
    if value >= 100:
        return f"{value:,.0f}"
    if value >= 10:
        return f"{value:.1f}"
    return f"{value:.3f}" if value >= 0.01 else f"{value:.4f}"


def cell(row: Row | None) -> str:
    """A figure with its unit, marked where it is over its reach."""
    if row is None:
        return ""
    unit = "" if row["unit"] == "ratio" else f" {row['unit']}"
    return f"**{number(row['value'])}{unit}** over" if row["over"] else f"{number(row['value'])}{unit}"


def spread(row: Row) -> str:
    return f"{number(row['spread'][0])} to {number(row['spread'][1])}" if "spread" in row else ""


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(head), *(list(row) for row in rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _of(results: dict[str, Any], group: str) -> list[Row]:
    return [each for each in results["figures"] if each["group"] == group]


def _found(rows: list[Row], **want: Any) -> Row | None:
    return next((each for each in rows if want.items() <= each.items()), None)


def _distinct(rows: list[Row], key: str) -> list[Any]:
    return list(dict.fromkeys(each[key] for each in rows if key in each))


def machine(results: dict[str, Any]) -> str:
    on, load = results["machine"], results["load"]
    ones = [each[0] for each in load.values() if each]
    busy = f" The load average went from {min(ones)} to {max(ones)}." if ones else ""
    libraries = ", ".join(f"{name} {version}" for name, version in on["libraries"].items())
    left_out = f" Not there, and left out: {', '.join(on['absent'])}." if on["absent"] else ""
    form = "full" if results["full"] else "quick"
    where = f"{on['processor']}, {on['cores']} cores, {on['system']}, {on['python']}"
    return f"A {form} run of {results['began'][:10]} on {where}.{busy} With {libraries}.{left_out}"


def over(results: dict[str, Any]) -> str:
    rows = [each for each in results["figures"] if each["over"]]
    if not rows:
        return f"All {len(results['figures'])} figures are within their reach."
    told = [
        (each["what"], each["against"], cell(each), f"{each['reach']:g}", spread(each), _control(each)) for each in rows
    ]
    count = (
        f"{len(rows)} of {sum(each['reach'] is not None for each in results['figures'])} figures are over their reach:"
    )
    return f"{count}\n\n{table(('what', 'beside', 'figure', 'reach', 'spread', 'A/A'), told)}"


def _control(row: Row) -> str:
    return number(row["control"]) if "control" in row else ""


def listed(group: str, extra: str = "", title: str = "") -> Callable[[dict[str, Any]], str]:
    """One line for each figure of ``group``; ``extra`` names a detail to be told too, under ``title``."""

    def block(results: dict[str, Any]) -> str:
        rows = _of(results, group)
        head = ["what", "beside", "figure", "reach", "spread", "A/A", *([title] if extra else [])]
        lines: list[list[str]] = []
        for each in rows:
            reach = "" if each["reach"] is None else f"{each['reach']:g}"
            more = [number(each[extra]) if extra in each else ""] if extra else []
            lines.append([each["what"], each["against"], cell(each), reach, spread(each), _control(each), *more])
        used = [n for n in range(len(head)) if any(line[n] for line in lines)]
        return table([head[n] for n in used], ([line[n] for n in used] for line in lines))

    return block


def accepting(results: dict[str, Any]) -> str:
    rows = _of(results, "accepting")
    others = _distinct([each for each in rows if "kind" in each], "against")
    head = ["asked with", "prefixes", "ns", *(f"/ {other}" for other in others)]
    lines: list[list[str]] = []
    for version in (4, 6):
        for kind in ("object", "text"):
            for size in _distinct(rows, "prefixes"):
                want = {"version": version, "kind": kind, "prefixes": size}
                cells = [_found(rows, **want, against=other) for other in others]
                nanoseconds = (
                    next(each["us"] for each in cells if each) * 1000
                )  # in turn with the parse, which is first
                lines.append([f"IPv{version} {kind}", f"{size:,}", f"{nanoseconds:.0f}", *map(cell, cells)])
    flat = [f"{each['what']} / {each['against']}: {cell(each)}" for each in rows if "kind" not in each]
    return table(head, lines) + "\n\n" + "\n".join(f"- {line}" for line in flat)


def building(results: dict[str, Any]) -> str:
    rows = _of(results, "building")
    head = ["from", "by", "seconds", "MB at the peak", "MB kept"]
    lines: list[list[str]] = []
    for each in rows:
        source = each["what"].removeprefix("building from ").removesuffix(" prefixes, time")
        for name, took in each.get("of", {}).items():
            lines.append([source, name, number(took["s"]), number(took["peak_mb"]), number(took["kept_mb"])])
    aims = [each for each in rows if each["reach"] is not None]
    told = [
        f"{each['what']}{each['against'] and ' / '}{each['against']}: {cell(each)}, reach {each['reach']:g}"
        for each in aims
    ]
    return table(head, lines) + "\n\n" + "\n".join(f"- {line}" for line in told)


def keeping(results: dict[str, Any]) -> str:
    rows = _of(results, "keeping")
    sizes = _distinct([each for each in rows if each["rule_sets"] == 1], "prefixes")
    plain, pools = "the plain client", "1,000 plain clients"
    columns = [(counted(size, "prefix"), {"prefixes": size, "rule_sets": 1, "against": plain}) for size in sizes]
    columns.append(("1,000 rule sets / 1 client", {"rule_sets": 1000, "against": plain}))
    columns.append(("1,000 rule sets / 1,000 clients", {"rule_sets": 1000, "against": pools}))
    lines: list[list[str]] = []
    for client in _distinct(rows, "client"):
        for rules in ("given", "entered"):
            found = [_found(rows, client=client, rules=rules, **want) for _, want in columns]
            first = next(each for each in found if each)
            lines.append([client, rules, number(first["against_us"]), *map(cell, found), _control(first)])
    return table(["client", "rules", "plain, µs", *(title for title, _ in columns), "A/A"], lines)


def opening(results: dict[str, Any]) -> str:
    rows = _of(results, "opening")
    lines: list[list[str]] = []
    for client in _distinct(rows, "client"):
        for host in _distinct(rows, "host"):
            each = _found(rows, client=client, host=host)
            if each:
                lines.append([client, host, number(each["against_us"]), cell(each), spread(each), _control(each)])
    return table(["client", "to", "plain, µs", "ratio", "spread", "A/A"], lines)


def failing_over(results: dict[str, Any]) -> str:
    rows = _of(results, "failing over")
    lines = ([each["client"], cell(each), f"{number(each['plain_s'])} s"] for each in rows)
    return table(["client", "jailed", "plain"], lines)


BLOCKS: dict[str, Callable[[dict[str, Any]], str]] = {
    "machine": machine,
    "over": over,
    "accepting": accepting,
    "building": building,
    "keeping": keeping,
    "opening": opening,
    "connecting": listed("connecting"),
    "failing_over": failing_over,
    "crowding": listed("crowding"),
    "importing": listed("importing", "control_ms", "A/A, ms"),
    "choosing": listed("choosing"),
    "guarding": listed("guarding", "extra_us", "more, µs"),
    "comparing": listed("comparing"),
}


def main() -> None:
    results, path = map(Path, sys.argv[1:])
    write(json.loads(results.read_text(encoding="utf-8")), path)


if __name__ == "__main__":
    main()
