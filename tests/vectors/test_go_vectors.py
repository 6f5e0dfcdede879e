"""The answers of the Go library netjail (commit a492cf7, go1.24.4), with every difference and its reason."""

from __future__ import annotations

import asyncio
import json
import socket
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from netjail import AsyncDialer, DeniedError, Dialer, InvalidRuleError, Rules
from tests.servers.names import AsyncNames, Names

HERE = Path(__file__).parent / "go"


def cases(name: str) -> list[dict[str, Any]]:
    return json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))["cases"]  # type: ignore[no-any-return]


def made(rules: dict[str, Any] | None) -> Rules | None:
    return None if rules is None else Rules(rules["allow"] or [], rules["block"] or [])


def test_accepts() -> None:
    """985 decisions. Where Go and we differ the file holds both answers: every landing must be accepted here."""
    wrong = []
    for case in cases("accepts"):
        try:
            got: Any = Rules(case["allow"] or [], case["block"] or []).accepts(case["address"])
        except InvalidRuleError:
            got = "invalid"
        if got != case["netjail"]:
            wrong.append((case, got))
    assert not wrong


# (input, ours): "error" or "address"; Go says the opposite.
ADDRESS_DIFFERENCES = {
    "fe80::1%a%b": (
        "error",
        "a zone with a percent sign is no zone to Python's ipaddress; nothing with a zone is accepted anyway",
    ),
}


@pytest.mark.parametrize("case", cases("parse-address"), ids=lambda case: repr(case["input"]))
def test_addresses(case: dict[str, Any]) -> None:
    expected = "error" if case["expected"]["error"] else "address"
    if case["input"] in ADDRESS_DIFFERENCES:
        ours, _reason = ADDRESS_DIFFERENCES[case["input"]]
        assert ours != expected, "this difference is none any more"
        expected = ours
    try:
        decision = Rules(["0.0.0.0/0", "::/0"]).explain(case["input"])
    except ValueError:
        assert expected == "error"
        return
    assert expected == "address"
    assert decision.address == ip_address(case["expected"]["string"])


PREFIX_DIFFERENCES = {
    "::1": "a single address is an entry here",
    "10.0.0.0": "a single address is an entry here",
    "10.0.0.0/0": "host bits set",
    "10.1.2.3/8": "host bits set",
    "::ffff:10.0.0.0/8": "host bits set",
}


@pytest.mark.parametrize("case", cases("parse-prefix"), ids=lambda case: repr(case["input"]))
def test_prefixes(case: dict[str, Any]) -> None:
    refused = case["expected"]["error"] is not (case["input"] in PREFIX_DIFFERENCES)
    try:
        rules = Rules([case["input"]])
    except InvalidRuleError:
        assert refused
        return
    assert not refused
    if not case["expected"]["error"]:
        assert str(rules) == f"ALLOW {case['expected']['string']}"


def test_text() -> None:
    """Rules.String(), but for rule sets with host bits set, which are refused here."""
    refused = []
    for case in cases("string"):
        try:
            rules = made(case["rules"]) if "rules" in case else Rules()
        except InvalidRuleError:
            refused.append(case["name"])
            continue
        assert str(rules) == case["expected"], case["name"]
        assert Rules.parse(case["expected"]) == rules
    assert sorted(refused) == ["canon-1", "canon-10", "canon-11", "canon-13", "canon-5", "host-bits-set"]


# (what of the case, what it holds): our outcome, and the reason.
DIAL_DIFFERENCES: dict[tuple[str, str], tuple[str, str]] = {
    ("network", "unix"): ("skip", "a Dialer dials TCP and UDP; a unix socket is nothing that rules say anything about"),
    ("network", "unixgram"): ("skip", "as above"),
    ("network", "sctp"): ("skip", "Python has no SCTP to dial"),
    ("network", "ip4:icmp"): ("skip", "raw sockets are not dialled"),
    ("network", "TCP"): ("skip", "Go passes an unknown network on; Python's counterpart are family= and type="),
    ("outcome", "address_error"): (
        "skip",
        "Go takes one string, Python a (host, port) pair: there is no text to split",
    ),
}

PORT_DIFFERENCE = "Go hands any port text to its dialer; here a port that is none is refused before any lookup"


def port_of(text: str) -> str | None:
    """The port that is dialled, None where there is none."""
    if text in ("http", "https"):
        return str(socket.getservbyname(text))
    return text if text.isascii() and text.isdigit() and int(text) <= 0xFFFF else None


def split(address: str) -> tuple[str, str]:
    host, _, port = address.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), port


class RefusedError(Exception):
    pass


def outcome_of(case: dict[str, Any], twin: str) -> tuple[str, list[str], list[tuple[str, int]]]:
    """(outcome, what was dialled, what was looked up) of our own dialer."""
    dialled: list[str] = []
    refuses = case["expected"]["outcome"] == "dial_error"

    def connect(address: tuple[str, int], *, timeout: float | None = None) -> Any:
        dialled.append(f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}")
        if refuses:
            raise OSError("the dialer refuses")
        return socket.socket()

    async def connect_async(address: tuple[str, int]) -> Any:
        return connect(address)

    host, port = split(case["input"]["address"])
    answer = case["input"].get("answer") or {"addrs": [], "error": None}
    table: Any = {host: RefusedError(answer["error"]) if answer["error"] else answer["addrs"]}
    network = case["input"]["network"]
    options: dict[str, Any] = {
        "family": {"4": socket.AF_INET, "6": socket.AF_INET6}.get(network[-1:], socket.AF_UNSPEC),
        "type": socket.SOCK_DGRAM if network.startswith("udp") else socket.SOCK_STREAM,
    }
    resolver: Any = Names(table) if twin == "sync" else AsyncNames(table)
    try:
        if twin == "sync":
            Dialer(made(case.get("rules")), resolver=resolver, connect=connect).connect((host, port), **options).close()
        else:
            dialer = AsyncDialer(made(case.get("rules")), resolver=resolver, connect=connect_async)
            asyncio.run(dialer.connect((host, port), **options)).close()
        outcome = "connected"
    except DeniedError:
        outcome = "denied"
    except socket.gaierror as error:
        outcome = "no_such_host" if error.errno == socket.EAI_NONAME else "gaierror"
    except RefusedError:
        outcome = "resolver_error"
    except OSError:
        outcome = "dial_error"
    return outcome, dialled, resolver.asked


LANDINGS = "IPv4-mapped addresses are IPv4 here, and unspecified ones loopback; Go judges both as they are spelled"
ALL_TRIED = "all accepted addresses are tried here, Go tries the first"
NO_QUERY = "rules that accept nothing send no DNS query here"


def differs_by_landing(addresses: list[str]) -> bool:
    """Whether any of these is what :data:`LANDINGS` speaks of."""
    objects = [ip_address(each.partition("%")[0]) for each in addresses]
    return any(getattr(ip, "ipv4_mapped", None) or getattr(ip, "sixtofour", None) or int(ip) == 0 for ip in objects)


def expected_of(case: dict[str, Any]) -> tuple[str, list[str], bool]:
    """(outcome, what is dialled, whether a name is looked up): Go's, but for the differences named above."""
    outcome, rules = case["expected"]["outcome"], made(case.get("rules"))
    host, port_text = split(case["input"]["address"])
    port = port_of(port_text)
    looked_up = case["expected"]["lookup"] is not None
    if port is None:
        return "gaierror", [], False
    if looked_up and not rules:
        return "denied", [], False
    if outcome not in ("connected", "denied", "dial_error"):
        return outcome, [], looked_up
    addresses = case["input"]["answer"]["addrs"] if looked_up else [host]
    accepted = [each for each in addresses if rules is not None and rules.accepts(each)]
    if bool(accepted) is (outcome == "denied"):
        assert differs_by_landing(addresses), case
    if not accepted:
        return "denied", [], looked_up
    tried = accepted if outcome == "dial_error" else accepted[:1]
    return (
        "connected" if outcome == "denied" else outcome,
        [f"[{each}]:{port}" if ":" in each else f"{each}:{port}" for each in tried],
        looked_up,
    )


@pytest.mark.parametrize("twin", ["sync", "async"])
def test_dials(twin: str) -> None:
    skipped = 0
    for case in cases("dial"):
        keys = (("network", case["input"]["network"]), ("outcome", case["expected"]["outcome"]))
        if any(key in DIAL_DIFFERENCES for key in keys):
            skipped += 1
            continue
        outcome, dialled, asked = outcome_of(case, twin)
        assert (outcome, dialled, bool(asked)) == expected_of(case), case
        assert len(asked) <= 1
    assert skipped < 80
