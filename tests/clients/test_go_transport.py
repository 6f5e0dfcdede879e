"""The transport cases of the Go library (tests/vectors/go), through the clients that take a ``connect=``."""

from __future__ import annotations

import json
from collections import Counter
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpx
import pytest

from netjail import DeniedError, Rules, use_rules
from netjail.clients.httpx import Transport
from netjail.clients.requests import Session
from netjail.clients.urllib import build_opener
from netjail.clients.urllib3 import PoolManager

FILE = Path(__file__).resolve().parents[1] / "vectors" / "go" / "transport.json"
CASES = json.loads(FILE.read_text(encoding="utf-8"))["cases"]

DIFFERENCES = {
    "http://[::ffff:127.0.0.1]/": "an IPv4-mapped address is the IPv4 address here",
    "http://0.0.0.0/": "the unspecified address is loopback here",
}


class Answers:
    """What the Go run's fake resolver answered."""

    def lookup(self, host: str, family: int) -> list[str]:
        return ["127.0.0.1"] if host in ("localhost", "127.1", "2130706433") else ["8.8.8.8"]


class StopError(OSError):
    pass


def outcome(client: str, url: str) -> tuple[str, list[tuple[str, int]]]:
    """What a GET comes to, and what was dialled: nothing answers, as the connect records and stops."""
    dialled: list[tuple[str, int]] = []

    def connect(address: tuple[str, int], *, timeout: float | None) -> Any:
        dialled.append(address)
        raise StopError("stop here")

    jail: dict[str, Any] = {"resolver": Answers(), "connect": connect}
    try:
        if client == "httpx":
            with httpx.Client(transport=Transport(**jail)) as made:
                made.get(url)
        elif client == "requests":
            Session(**jail).get(url)
        elif client == "urllib3":
            PoolManager(**jail).request("GET", url, retries=False)
        else:
            build_opener(**jail).open(url)
    except DeniedError:
        return "denied", dialled
    except Exception:  # noqa: BLE001 - each library has its own for a URL that it cannot read
        return ("dialled" if dialled else "error"), dialled
    raise AssertionError("nothing was there to answer")


@pytest.mark.parametrize("client", ["httpx", "requests", "urllib3", "urllib"])
def test_each_case_comes_out_as_in_go(client: str) -> None:
    wrong = []
    seen: Counter[str] = Counter()
    for case in CASES:
        url, expected = case["input"], case["expected"]
        found = case.get("rules") or {"allow": [], "block": []}
        rules = Rules(found["allow"] or [], found["block"] or [])
        with use_rules(rules):
            got, dialled = outcome(client, url)
        seen[got] += 1
        for ip, _ in dialled:
            assert rules.accepts(ip), (client, url)
        wanted = expected["outcome"]
        if url in DIFFERENCES and found["block"]:
            wanted = "denied"
        # Which odd URLs a library can read at all is its own affair: what it refuses to read is dialled by nobody.
        if got != wanted and not (got == "error" and not dialled):
            wrong.append((url, found, got, wanted))
        if got == "dialled":
            where = expected["dialled"]["address"].rpartition(":")[0].strip("[]")
            assert ip_address(dialled[0][0]) == ip_address(where)
    assert not wrong
    assert min(seen["dialled"], seen["denied"]) >= 15, seen
