"""The examples of the guard's page, each in a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from .harness import ROOT

PAGE = (ROOT / "docs" / "guard.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```text\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("code", EXAMPLES, ids=range(len(EXAMPLES)))
def test_the_example_does_what_it_says(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    last = code.rstrip().rpartition("\n")[2]
    if last.startswith("# raises "):
        assert done.stderr.rstrip().rpartition("\n")[2] == last.removeprefix("# raises ")
        return
    assert done.returncode == 0, done.stderr
    prints = re.fullmatch(r"# prints (.*)", last)
    assert done.stdout.strip() == (prints[1] if prints else "")
