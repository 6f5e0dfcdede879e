"""Applies the mutants one at a time to a copy of the tree, and says which of them no test notices.

python -m tests.mutants             every mutant
python -m tests.mutants --only NAT  those with this in their description, file or passage
python -m tests.mutants --jobs 4    that many at once
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from .mutants import MUTANTS, Mutant

ROOT = Path(__file__).resolve().parents[2]
TESTS = {
    "_addresses.py": ["tests/unit/test_addresses.py", "tests/unit", "tests/vectors"],
    "_boundaries.py": ["tests/unit/test_boundaries.py", "tests/unit"],
    "_context.py": ["tests/unit/test_context.py", "tests/unit", "tests/guard/test_guard.py"],
    "_dialer.py": ["tests/unit/test_dialer.py", "tests/unit"],
    "_errors.py": ["tests/unit/test_errors.py", "tests/unit"],
    "_pools.py": ["tests/unit/test_pools.py"],
    "_race.py": ["tests/unit/test_dialer.py", "tests/proofs/test_faults.py"],
    "_resolver.py": ["tests/unit"],
    "_rules.py": ["tests/unit/test_rules.py", "tests/unit", "tests/vectors"],
    "guard.py": ["tests/guard/test_guard.py", "tests/guard/test_wakeups.py", "tests/guard/test_strict.py"],
    "_elf.py": ["tests/guard/test_strict.py"],
    "loop.py": ["tests/guard/test_loop.py"],
    "_httpcore.py": ["tests/clients/test_httpx.py"],
}
SURVIVED, KILLED = "SURVIVED", "killed"


def tests_of(mutant: Mutant) -> list[str]:
    """The tests that should notice it, those that most likely do first."""
    name = Path(mutant.file).name
    return TESTS.get(name) or [f"tests/clients/test_{name}"]


def mutate(folder: Path, mutant: Mutant) -> None:
    path = folder / "src" / "netjail" / mutant.file
    path.write_text(path.read_text(encoding="utf-8").replace(mutant.old, mutant.new), encoding="utf-8")


def outcome(mutant: Mutant, folder: Path) -> str:
    """What the tests say to the mutant in a copy of the tree, which is restored afterwards."""
    path = folder / "src" / "netjail" / mutant.file
    original = path.read_text(encoding="utf-8")
    mutate(folder, mutant)
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests_of(mutant)]
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(folder / "src"), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
    finally:
        path.write_text(original, encoding="utf-8")
    return KILLED if done.returncode in (1, 2) else SURVIVED


def copy(folder: Path) -> Path:
    listing = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    for name in subprocess.run(listing, check=True, capture_output=True, text=True).stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    chosen = [each for each in MUTANTS if any(options.only in part for part in each)]
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(options.jobs) as threads:
        trees: SimpleQueue[Path] = SimpleQueue()
        for number in range(options.jobs):
            trees.put(copy(Path(scratch) / str(number)))

        def try_(mutant: Mutant) -> str:
            tree = trees.get()
            try:
                return outcome(mutant, tree)
            finally:
                trees.put(tree)

        survivors = 0
        for mutant, said in zip(chosen, threads.map(try_, chosen), strict=True):
            survivors += said == SURVIVED
            print(f"{said:9} {mutant.file}: {mutant.what}", flush=True)
    print(f"{len(chosen) - survivors} of {len(chosen)} mutants killed")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
