"""How the demo reads: what is shown, the table, and what came out.

This module knows rich and the outcomes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from rich.console import Console

    from ._clients import Client

    Outcomes = Mapping[str, Mapping[str, Mapping[str, str]]]

LEGITIMATE = "legitimate: these must succeed"
_STYLES = {"LEAK": "bold red", "OUT": "red", "FAIL": "bold red", "deny": "green", "safe": "green", "ok": "green"}
_THROUGH = ("LEAK", "OUT")
_LEGEND = """\
LEAK  a server that must not be reached was (TLS: was sent a request)
OUT   went for an address off this machine; the demo stopped it before a packet
deny  refused before a packet went there
safe  nothing reached the inside: the public site answered, or the client could
      make nothing of the URL"""


def introduction(console: Console, clients: list[Client], missing: list[str]) -> None:
    """Says what will be seen."""
    plain = next(client.name for client in clients if not client.jailed)
    _say(
        console,
        f"A program fetches URLs that strangers give it, and strangers attack it. Three ways are tried: a {plain}, the "
        "same after a check of the URL, and netjail's clients. The requests and the servers are real, and all are on "
        "this machine: 127.0.0.2 plays the public internet, 127.0.0.3 a server inside that keeps a secret, and "
        "127.0.0.4 a cloud's metadata service. netjail's rules allow only what is public.",
    )
    if missing:
        _say(console, f"Not installed, and so not attacked: {', '.join(missing)}.")
    console.print()


def table(console: Console, clients: list[Client], outcomes: Outcomes) -> None:
    """One row for each case, one column for each library: the worst outcome of its clients."""
    columns: dict[str, list[str]] = {}
    for client in clients:
        columns.setdefault(client.column, []).append(client.name)
    shown = Table(box=box.SIMPLE, pad_edge=False, padding=0, show_edge=False)
    shown.add_column("attack", overflow="fold")
    for column in columns:
        shown.add_column(column, no_wrap=True)
    for section, rows in outcomes.items():
        shown.add_row(Text(section, "bold"))
        for title, row in rows.items():
            cells = [_cell(row[name] for name in names) for names in columns.values()]
            shown.add_row(Text(f" {title}"), *cells)
    console.print(shown)
    console.print(Text(f"\n{_LEGEND}\n"))


def _cell(found: Iterable[str]) -> Text:
    worst = min(found, key=[*_STYLES].index)
    return Text(worst, _STYLES[worst])


def conclusion(console: Console, clients: list[Client], outcomes: Outcomes) -> int:
    """Says what came out; the exit status."""
    attacks = {title: row for section, rows in outcomes.items() if section != LEGITIMATE for title, row in rows.items()}
    jailed = [client.name for client in clients if client.jailed]
    through = [(title, name, row[name]) for title, row in attacks.items() for name in jailed if row[name] in _THROUGH]
    everything = [(title, row) for rows in outcomes.values() for title, row in rows.items()]
    broken = [(title, name) for title, row in everything for name, outcome in row.items() if outcome == "FAIL"]
    got_through = len({title for title, *_ in through})
    verdict = f"{got_through} of {len(attacks)} attacks got through netjail: {', '.join(jailed)}."
    _say(console, verdict, "bold red" if through else "bold green")
    for client in clients:
        if not client.jailed:
            found = [row[client.name] for row in attacks.values()]
            leaked, out = found.count("LEAK"), found.count("OUT")
            _say(
                console,
                f"The {client.name} leaked {leaked}, and for {out} more it went for an address off this machine.",
            )
    for title, name, outcome in through:
        _say(console, f"  {outcome}: {title}, through {name}", "red")
    for title, name in broken:
        _say(console, f"  failed, and should not have: {title}, with {name}", "red")
    if not broken:
        _say(console, f"All {len(outcomes[LEGITIMATE])} legitimate requests succeeded with every client.", "bold green")
    return 1 if through or broken else 0


def _say(console: Console, words: str, style: str = "") -> None:
    console.print(Text(words, style))
