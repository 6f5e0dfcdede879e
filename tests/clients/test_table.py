"""The table of every client, in docs/clients/index.md, says what the tests prove and the lock files hold."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = ("client", "versions", "mechanism", "kind", "tls", "announced", "not covered")
PROOFS = {"allowed", "denied", "literal", "tls", "wrong-name", "announced", "pools", "refused"}


def rows() -> list[dict[str, str]]:
    text = (ROOT / "docs" / "clients" / "index.md").read_text(encoding="utf-8")
    table = text[text.index("## The table") : text.index("## Which page")]
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return [dict(zip(COLUMNS, row, strict=True)) for row in cells if row[0] != "client" and set(row[0]) != {"-"}]


@pytest.fixture(scope="module")
def proofs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """What tests prove of each row, as their marks say."""
    file = tmp_path_factory.mktemp("proofs") / "proofs.json"
    collect = [sys.executable, "-m", "pytest", "--collect-only", "-q", f"--proofs={file}"]
    command = [*collect, "tests/clients", "tests/guard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    return {row: set(proven) for row, proven in json.loads(file.read_text(encoding="utf-8")).items()}


def required(row: dict[str, str]) -> set[str]:
    if row["mechanism"].startswith("strict refusal"):
        return {"refused"}
    wanted = {"allowed", "denied", "literal"}
    if row["tls"].startswith("name checked"):
        wanted |= {"tls", "wrong-name"}
    if row["announced"].startswith("judged"):
        wanted |= {"announced"}
    return wanted


def test_there_are_at_least_sixty_rows_and_none_has_an_empty_cell():
    assert len(rows()) >= 60
    for row in rows():
        assert all(row.values()), row
    names = [row["client"] for row in rows()]
    assert len(set(names)) == len(names)


def test_every_row_is_proven_by_tests(proofs):
    missing = {row["client"]: required(row) - proofs.get(row["client"], set()) for row in rows()}
    unproven = [f"{name}: {', '.join(sorted(wanted))}" for name, wanted in missing.items() if wanted]
    assert not unproven, "\n".join(unproven)


def test_every_proof_is_of_a_row(proofs):
    assert set(proofs) <= {row["client"] for row in rows()}
    assert set().union(*proofs.values()) <= PROOFS


def locked(name: str) -> dict[str, str]:
    text = (ROOT / "requirements" / name).read_text(encoding="utf-8")
    return dict(re.findall(r"^([\w.-]+)==([^ ;]+)", text, re.MULTILINE))


def test_the_versions_of_the_table_are_those_that_are_tested():
    """The first is locked in oldest.txt, the last in dev.txt, and .ci/run runs the tests with both."""
    oldest, newest = locked("oldest.txt"), {**locked("niquests.txt"), **locked("dev.txt")}
    wrong = {}
    for row in rows():
        versions = re.findall(r"([\w-]+) ([\w.]+) to ([\w.]+)", row["versions"])
        assert versions, row
        for distribution, first, last in versions:
            name = distribution.lower().replace("_", "-")
            if name != "python" and (oldest.get(name, first), newest.get(name)) != (first, last):
                wrong[row["client"]] = (row["versions"], oldest.get(name), newest.get(name))
    assert not wrong
