"""Runs one target, or all, under atheris, which looks for inputs that reach new code.

    python -m tests.fuzz --seconds 60            every target for a minute
    python -m tests.fuzz --only rules            one of them

An input that breaks an invariant is written to the folder of the corpus, where the tests run it from then on.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

CORPUS = Path(__file__).resolve().parent / "corpus"
NAMES = sorted(folder.name for folder in CORPUS.iterdir())


def fuzz(name: str, seconds: int) -> None:
    """The target in this process, which ends with libFuzzer's own exit code."""
    import atheris

    with atheris.instrument_imports(include=["netjail"]):
        from .targets import TARGETS

    target = TARGETS[name]

    def one_input(data: bytes) -> None:
        target(data.decode("utf-8", "surrogateescape"))

    with tempfile.TemporaryDirectory() as found:
        options = [f"-max_total_time={seconds}", "-max_len=256", "-print_final_stats=1", "-verbosity=0"]
        options += ["-close_fd_mask=0", f"-artifact_prefix={CORPUS / name}/crash-"]
        atheris.Setup([sys.argv[0], *options, found, str(CORPUS / name)], one_input)
        atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=NAMES)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        fuzz(options.only, options.seconds)
        return 0
    running = {
        name: subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz", "--inside", "--only", name, "--seconds", str(options.seconds)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in ([options.only] if options.only else NAMES)
    }
    failed = 0
    for name, process in running.items():
        _, said = process.communicate()
        executed = next((line for line in said.splitlines() if "number_of_executed_units" in line), "")
        print(f"{name}: {executed.rpartition(' ')[2] or 'no'} inputs in {options.seconds} s")
        if process.returncode:
            failed += 1
            print(said)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
