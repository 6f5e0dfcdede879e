"""Published bypass and benign spellings, where the collection lies beside the checkout (it is not part of it)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from netjail import PUBLIC

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def rows(name: str) -> list[dict[str, Any]]:
    file = DATA / f"{name}.jsonl"
    if not file.exists():
        pytest.skip(f"no {name}.jsonl beside the checkout")
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_no_bypass_reaches_an_accepted_address() -> None:
    accepted = []
    judged = 0
    for row in rows("bypass"):
        try:
            judged += 1
            if PUBLIC.accepts(row["reaches"]):
                accepted.append(row["id"])
        except (ValueError, TypeError):
            judged -= 1  # it reaches a URL or a name
    assert judged > 400
    assert not accepted


def test_benign_addresses_are_accepted() -> None:
    refused = {}
    judged = 0
    for row in rows("benign"):
        if row["kind"] == "host":
            try:
                judged += 1
                if not PUBLIC.accepts(row["input"]):
                    refused[row["input"]] = row["firmness"]
            except ValueError:
                judged -= 1  # a name, or a spelling that only a resolver reads
    assert judged > 190
    assert refused == {"2606:4700:4700::1111%eth0": "policy"}, "a zone is never accepted; nothing else is refused"
