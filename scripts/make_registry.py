"""Writes src/netjail/_registry.py from the registry data in scripts/data.

Run it after the data changed: ``python scripts/make_registry.py``. With ``--check`` it only says whether
the module is what the data gives.
"""

from __future__ import annotations

import json
import re
import sys
from ipaddress import ip_network
from itertools import chain
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "scripts" / "data"
MODULE = ROOT / "src" / "netjail" / "_registry.py"

MAPPED = ip_network("::ffff:0:0/96")
"""A row that must not become an entry: as an entry it would mean all of IPv4."""


def special_purpose(rows: list[dict[str, Any]]) -> list[str]:
    """The prefixes that no row calls globally reachable, where the most specific row decides.

    Only a plain ``true`` opens: terminated rows (null), "N/A" and "reserved" stay closed.
    """
    networks = [(ip_network(row["prefix"]), row["globally_reachable"] is True) for row in rows]
    networks = [(network, opens) for network, opens in networks if network != MAPPED]
    closed: list[Any] = []
    for network, opens in networks:
        if not opens:
            holes = [other for other, other_opens in networks if other_opens and inside(other, network)]
            closed += without(network, holes)
    # What opens a wider range must not open a narrower row that is closed: that row is in the list itself.
    wide = [n for n in dict.fromkeys(closed) if not any(inside(n, other) for other in closed)]
    return [str(network) for network in sorted(wide, key=lambda n: (n.version, n.network_address, n.prefixlen))]


def inside(network: Any, other: Any) -> bool:
    return network.version == other.version and network != other and bool(network.subnet_of(other))


def without(network: Any, holes: list[Any]) -> list[Any]:
    pieces = [network]
    for hole in holes:
        pieces = list(
            chain.from_iterable(piece.address_exclude(hole) if hole.subnet_of(piece) else [piece] for piece in pieces)
        )
    return pieces


def rfcs(text: str) -> str:
    numbers = re.findall(r"RFC ?(\d+)", text)
    return "".join(f", RFC {number}" for number in dict.fromkeys(numbers))


def names(rows: list[dict[str, Any]], endpoints: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """What each network is called; a metadata service is named only where no registry row has a name for it."""
    named = [
        (row["prefix"], row["name"] + rfcs(row.get("rfc") or row["source"]))
        for row in rows
        if row["prefix"] not in ("2000::/3", "::ffff:0:0/96")
    ]
    networks = [ip_network(prefix) for prefix, _ in named]
    for endpoint in endpoints:
        network = ip_network(endpoint["prefix"])
        if not any(inside(network, other) for other in networks):
            named.append((endpoint["prefix"], f"{endpoint['provider']} {endpoint['kind']}"))
    return named


def literal(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def module() -> str:
    special = json.loads((DATA / "special-purpose.json").read_text(encoding="utf-8"))
    metadata = json.loads((DATA / "cloud-metadata.json").read_text(encoding="utf-8"))
    rows = special["registry"] + special["additional"]
    lines = [
        '"""Special-purpose networks and cloud metadata services as literals, with source and date.',
        "",
        "Made by scripts/make_registry.py from scripts/data. This module knows nothing.",
        '"""',
        "",
        f"REGISTRY_DATE = {literal(special['registry_last_updated'])}",
        '"""When IANA last changed the two registries that this was made from."""',
        "",
        "SOURCES = (",
        *(f"    {literal(source['url'])}," for source in special["sources"]),
        ")",
        "",
        "SPECIAL_PURPOSE = (",
        *(f"    {literal(prefix)}," for prefix in special_purpose(rows)),
        ")",
        "",
        f"# Seen in vendors' documentation and public projects, compiled {metadata['compiled']}.",
        "METADATA = (",
        *(f"    {literal(p)}," for p in dict.fromkeys(e["prefix"] for e in metadata["endpoints"])),
        ")",
        "",
        "NAMES = (",
        *(f"    ({literal(p)}, {literal(name)})," for p, name in names(rows, metadata["endpoints"])),
        ")",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        sys.exit(0 if MODULE.read_text(encoding="utf-8") == module() else f"{MODULE.name} is not what the data gives")
    MODULE.write_text(module(), encoding="utf-8")
