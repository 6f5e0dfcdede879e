"""niquests under rules, in environments of its own: it puts a fork of its own in the place of urllib3.

What is tested is in of_niquests.py. ``make`` brings the environments, with the newest and the oldest niquests.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROVEN = ("allowed", "denied", "literal", "tls", "wrong-name", "announced", "pools", "refused")


@pytest.mark.proves("niquests, sync", *PROVEN)
@pytest.mark.proves("niquests, async", *PROVEN)
@pytest.mark.proves("niquests, guard", "allowed", "denied", "literal")
@pytest.mark.parametrize("environment", ["niquests", "niquests-oldest"])
def test_all_of_it_passes_where_niquests_is(environment: str) -> None:
    python = ROOT / ".tools" / environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists():
        reason = f"no {python.relative_to(ROOT)}: make .tools/{environment}/.ready"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    options = ["-q", "-p", "no:cacheprovider", "-o", "addopts=--import-mode=importlib"]
    command = [str(python), "-m", "pytest", *options, "tests/clients/of_niquests.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"^(\d+) passed in", done.stdout, re.MULTILINE)  # and none skipped
    assert passed, done.stdout
    assert int(passed[1]) >= 40
