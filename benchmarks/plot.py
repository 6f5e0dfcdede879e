"""The plots of docs/performance, as SVG from the JSON of a run: ``python -m benchmarks.plot RESULTS FOLDER``.

Written by hand, in colours that can be read on a light page and on a dark one.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Iterable

INK, FAINT = "#7b7b7b", "#7b7b7b55"
COLOURS = {
    "netjail": "#d1495b",
    "ip_address(text)": "#7b7b7b",
    "ipaddress scan": "#8e6bbf",
    "netaddr.IPSet": "#2f9e8f",
    "pytricia": "#3b82c4",
    "py-radix": "#c77d1e",
    "SubnetTree": "#5f9e3a",
}
SERIES = (
    ("1 prefix", "#3b82c4", {"prefixes": 1, "rule_sets": 1, "rules": "given"}, "the plain client"),
    ("100,000 prefixes", "#c77d1e", {"prefixes": 100_000, "rules": "given"}, "the plain client"),
    ("1 prefix, entered", "#b5476b", {"prefixes": 1, "rule_sets": 1, "rules": "entered"}, "the plain client"),
    ("1,000 rule sets, to one plain client", "#8e6bbf", {"rule_sets": 1000}, "the plain client"),
    ("1,000 rule sets, to 1,000 plain clients", "#2f9e8f", {"rule_sets": 1000}, "1,000 plain clients"),
)
Row = dict[str, Any]


def write(results: dict[str, Any], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, svg in plots(results).items():
        (folder / name).write_text(svg, encoding="utf-8")


def plots(results: dict[str, Any]) -> dict[str, str]:
    """The text of each file, by its name."""
    figures = results["figures"]
    return {
        "accepts-ipv4.svg": accepting(figures, 4),
        "accepts-ipv6.svg": accepting(figures, 6),
        "requests.svg": requesting(figures),
    }


def _svg(width: int, height: int, title: str, parts: Iterable[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    style = f'font-family="system-ui, sans-serif" font-size="12" fill="{INK}" role="img"'
    return "\n".join([f"{head} {style}>", f"<title>{escape(title)}</title>", *parts, "</svg>\n"])


def _text(x: float, y: float, words: str, anchor: str = "start", **more: str) -> str:
    extra = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in more.items())
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{extra}>{escape(words)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, colour: str = FAINT, width: float = 1) -> str:
    where = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {where} stroke="{colour}" stroke-width="{width:g}"/>'


# Cost against the number of prefixes, on logarithmic axes.

_WIDTH, _HEIGHT, _LEFT, _TOP = 330, 260, 58, 34


def accepting(figures: list[Row], version: int) -> str:
    """Two panels, of objects and of texts: the time of one decision against the number of prefixes."""
    both = {kind: _curves(figures, version, kind) for kind in ("object", "text")}
    costs = [cost for curves in both.values() for points in curves.values() for _, cost in points]
    # A scan of a million takes a second, and leaves the plot above 100 µs.
    low, high = math.floor(math.log10(min(costs))), min(5, math.ceil(math.log10(max(costs))))
    parts: list[str] = []
    for number, (kind, curves) in enumerate(both.items()):
        asked = "an ipaddress object" if kind == "object" else "text"
        parts += _panel(curves, _LEFT + number * (_WIDTH + 60), f"IPv{version}, asked with {asked}", (low, high))
    names = list(dict.fromkeys(name for curves in both.values() for name in curves))
    parts += _legend([(name, COLOURS[name]) for name in names], _TOP + _HEIGHT + 62)
    title = f"Time of one decision on an IPv{version} address against the number of prefixes"
    return _svg(2 * _WIDTH + _LEFT + 100, _HEIGHT + _TOP + 78, title, parts)


def _curves(figures: list[Row], version: int, kind: str) -> dict[str, list[tuple[float, float]]]:
    """The points (prefixes, nanoseconds) of each contender."""
    curves: dict[str, dict[float, float]] = {"netjail": {}}
    for each in figures:
        if (each.get("version"), each.get("kind")) == (version, kind):
            curves.setdefault(each["against"], {})[each["prefixes"]] = each["against_us"] * 1000
            if each["against"] == "ip_address(text)":
                curves["netjail"][each["prefixes"]] = each["us"] * 1000
    return {name: list(points.items()) for name, points in curves.items()}


def _panel(
    curves: dict[str, list[tuple[float, float]]], left: float, title: str, decades: tuple[int, int]
) -> list[str]:
    low, high = decades
    bottom = _TOP + _HEIGHT

    def across(prefixes: float) -> float:
        return left + math.log10(prefixes) / 6 * _WIDTH

    def up(nanoseconds: float) -> float:
        return bottom - (math.log10(nanoseconds) - low) / (high - low) * _HEIGHT

    parts = [_text(left, 20, title, font_weight="600")]
    for decade in range(low, high + 1):
        parts.append(_line(left, up(10**decade), left + _WIDTH, up(10**decade)))
        parts.append(_text(left - 6, up(10**decade) + 4, _duration(decade), "end"))
    for power in range(0, 7, 2):
        parts.append(_line(across(10**power), bottom, across(10**power), bottom + 4, INK))
        parts.append(_text(across(10**power), bottom + 18, f"{10**power:,}", "middle"))
    parts.append(_text(left + _WIDTH / 2, bottom + 36, "prefixes", "middle"))
    inside = f'x="{left - 3:.1f}" y="{_TOP - 3}" width="{_WIDTH + 6}" height="{_HEIGHT + 6}"'
    parts.append(f'<clipPath id="panel{left:.0f}"><rect {inside}/></clipPath>')
    parts.append(f'<g clip-path="url(#panel{left:.0f})">')
    for name, points in sorted(curves.items(), key=lambda each: each[0] == "netjail"):  # ours on top
        path = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in points)
        width = 2.5 if name == "netjail" else 1.5
        parts.append(f'<polyline points="{path}" fill="none" stroke="{COLOURS[name]}" stroke-width="{width:g}"/>')
        dots = (f'<circle cx="{across(x):.1f}" cy="{up(y):.1f}" r="{width:g}"/>' for x, y in points)
        parts.append(f'<g fill="{COLOURS[name]}">{"".join(dots)}</g>')
    parts.append("</g>")
    return parts


def _duration(decade: int) -> str:
    """A power of ten of nanoseconds."""
    unit, name = divmod(decade, 3)[1], ("ns", "µs", "ms", "s")[min(3, decade // 3)]
    return f"{10**unit} {name}"


def _legend(entries: list[tuple[str, str]], y: float) -> list[str]:
    parts: list[str] = []
    x = float(_LEFT)
    for name, colour in entries:
        parts.append(f'<circle cx="{x:.1f}" cy="{y - 4:.1f}" r="4" fill="{colour}"/>')
        parts.append(_text(x + 9, y, name))
        x += 30 + 6.4 * len(name)
    return parts


# What each client's request costs, as dots with their spread.


def requesting(figures: list[Row]) -> str:
    """One line for each client and kind of run: the ratio as a dot, its spread as a bar, and the reach."""
    kept = [each for each in figures if each["group"] == "keeping"]
    clients = list(dict.fromkeys(each["client"] for each in kept))
    values: list[float] = [value for each in kept for value in (*each["spread"], each["value"])]
    low, high = max(0.7, min(0.95, *values)), min(1.5, max(1.1, *values))
    left, width, step = 110.0, 560.0, 14
    bottom = _TOP + len(clients) * (step * len(SERIES) + 10)

    def across(ratio: float) -> float:
        return left + (min(high, max(low, ratio)) - low) / (high - low) * width

    parts = [_text(left, 20, "a request on a kept connection, beside the plain client's", font_weight="600")]
    ticks = (high - low) / 6
    apart = next(each for each in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if each >= ticks or each == 0.5)
    tick = math.ceil(low / apart) * apart
    while tick <= high:
        parts.append(_line(across(tick), _TOP, across(tick), bottom))
        parts.append(_text(across(tick), bottom + 16, f"{tick:.2f}", "middle"))
        tick += apart
    parts.append(_line(across(1), _TOP, across(1), bottom, INK))
    reach = max(each["reach"] for each in kept)
    parts.append(_line(across(reach), _TOP, across(reach), bottom, COLOURS["netjail"]))
    parts.append(_text(across(reach) + 4, _TOP - 3, f"reach {reach}", fill=COLOURS["netjail"]))
    y = _TOP + 10.0
    for client in clients:
        parts.append(_text(left - 10, y + step * (len(SERIES) - 1) / 2 + 4, client, "end"))
        for _, colour, want, against in SERIES:
            for each in kept:
                if (each["client"], each["against"]) == (client, against) and want.items() <= each.items():
                    from_, to = (across(value) for value in each["spread"])
                    parts.append(_line(from_, y, to, y, colour, 1.5))
                    parts.append(f'<circle cx="{across(each["value"]):.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>')
            y += step
        y += 10
    shown = [(name, colour) for name, colour, want, _ in SERIES if any(want.items() <= each.items() for each in kept)]
    parts += _legend(shown, bottom + 44)
    title = "The time of a request on a kept connection as a ratio to the plain client's, by client"
    return _svg(round(left + width) + 150, round(bottom) + 60, title, parts)


def main() -> None:
    results, folder = map(Path, sys.argv[1:])
    write(json.loads(results.read_text(encoding="utf-8")), folder)


if __name__ == "__main__":
    main()
