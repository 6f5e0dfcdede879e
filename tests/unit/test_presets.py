"""The presets, swept at both sides of every boundary of the registries."""

from __future__ import annotations

import json
import subprocess
import sys
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from netjail import PUBLIC, Rules, presets

ROOT = Path(__file__).resolve().parent.parent.parent
SPECIAL = json.loads((ROOT / "scripts/data/special-purpose.json").read_text(encoding="utf-8"))
METADATA = json.loads((ROOT / "scripts/data/cloud-metadata.json").read_text(encoding="utf-8"))
ROWS = [
    (ip_network(row["prefix"]), row["globally_reachable"] is True)
    for row in SPECIAL["registry"] + SPECIAL["additional"]
]
MAPPED = ip_network("::ffff:0:0/96")


def reachable(address: Any) -> bool:
    """What the most specific row says; IPv4 that no row holds is open, IPv6 is open in 2000::/3 alone."""
    mapped = getattr(address, "ipv4_mapped", None)
    if mapped:
        return reachable(mapped)
    holding = [(network.prefixlen, opens) for network, opens in ROWS if network != MAPPED and address in network]
    return max(holding)[1] if holding else address.version == 4


def test_public_is_what_the_most_specific_row_calls_reachable() -> None:
    metadata = [ip_network(endpoint["prefix"]) for endpoint in METADATA["endpoints"]]
    seen = 0
    for network, _ in ROWS:
        bits = network.max_prefixlen
        for number in (int(network[0]) - 1, int(network[0]), int(network[-1]), int(network[-1]) + 1):
            if not 0 <= number < 1 << bits:
                continue
            address = IPv4Address(number) if bits == 32 else IPv6Address(number)
            expected = reachable(address) and not any(address in m for m in metadata)
            embedded = [ip for ip in _carried(address) if not reachable(ip)]
            assert PUBLIC.accepts(address) is (expected and not embedded), address
            seen += 1
    assert seen > 200


def _carried(address: Any) -> list[Any]:
    return [IPv4Address(int(address) & 0xFFFFFFFF)] if address in ip_network("64:ff9b::/96") else []


@pytest.mark.parametrize(
    "address", ["192.0.0.9", "192.0.0.10", "2001:1::1", "2001:1::2", "2001:1::3", "2001:20::1", "192.31.196.1"]
)
def test_the_more_specific_rows_that_are_reachable_stay_open(address: str) -> None:
    assert PUBLIC.accepts(address)


@pytest.mark.parametrize("endpoint", METADATA["endpoints"], ids=lambda e: f"{e['provider']} {e['prefix']}")
def test_every_metadata_service_is_refused(endpoint: dict[str, str]) -> None:
    network = ip_network(endpoint["prefix"])
    for rules in (PUBLIC, Rules(["0.0.0.0/0", "::/0"], presets.METADATA)):
        assert not rules.accepts(network[0])
        assert not rules.accepts(network[-1])


def test_metadata_is_no_wider_than_the_services() -> None:
    narrow = Rules(["0.0.0.0/0", "::/0"], presets.METADATA)
    for address in (
        "10.96.0.1",
        "172.17.0.1",
        "127.0.0.1",
        "168.63.129.15",
        "168.63.129.17",
        "34.118.224.1",
        "fd00::1",
    ):
        assert narrow.accepts(address)


def test_public_leaves_ipv4_behind_nat64_open() -> None:
    assert PUBLIC.accepts("64:ff9b::8.8.8.8")
    assert PUBLIC.accepts("::ffff:8.8.8.8")
    assert not PUBLIC.accepts("64:ff9b::192.168.1.1")


@pytest.mark.parametrize(
    ("name", "members", "strangers"),
    [
        ("LOOPBACK", ["127.0.0.1", "127.255.255.255", "::1"], ["126.255.255.255", "128.0.0.0", "::2"]),
        ("PRIVATE", ["10.0.0.1", "172.31.255.255", "192.168.0.1", "fd00::1"], ["172.32.0.0", "100.64.0.1", "fe80::1"]),
        ("LINK_LOCAL", ["169.254.169.254", "fe80::1"], ["169.253.0.1", "fec0::1"]),
        ("MULTICAST", ["224.0.0.1", "239.255.255.255", "ff02::1"], ["240.0.0.1", "223.255.255.255"]),
        (
            "SPECIAL_PURPOSE",
            ["240.0.0.1", "2002::1", "2001::1", "fec0::1", "3fff::1", "224.0.0.1"],
            ["8.8.8.8", "2600::1"],
        ),
    ],
)
def test_what_the_names_hold(name: str, members: list[str], strangers: list[str]) -> None:
    entries = getattr(presets, name)
    assert isinstance(entries, tuple)
    networks = [ip_network(entry) for entry in entries]
    for address in members:
        assert any(ip_address(address) in n for n in networks), address
    for address in strangers:
        assert not any(ip_address(address) in n for n in networks), address


def test_no_entry_means_all_of_ipv4() -> None:
    """The registry's row for IPv4-mapped addresses would, as an entry."""
    assert all(ip_network(entry).prefixlen >= 4 for entry in presets.SPECIAL_PURPOSE if ":" not in entry)
    assert "::ffff:0:0/96" not in presets.SPECIAL_PURPOSE


def test_the_module_is_what_the_script_makes_of_the_data() -> None:
    script = ROOT / "scripts/make_registry.py"
    subprocess.run([sys.executable, str(script), "--check"], check=True)
    assert SPECIAL["registry_last_updated"] == presets.REGISTRY_DATE
