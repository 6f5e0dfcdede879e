"""Runs the clients' released suites twice, plain and through ours, and compares: ``python -m tests.suites``.

Everything lies in .tools/suites: for each client an environment, which is made once, and what is unpacked and
seen. This module knows no client; what is peculiar to one is in its table.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .suite import CLIENTS, Suite, called, named, suite

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / ".tools" / "suites"
REQUIREMENTS = Path(__file__).parent / "requirements"
WAYS = ("plain", "jailed")


def say(*lines: str) -> None:
    sys.stdout.writelines(f"{line}\n" for line in lines)
    sys.stdout.flush()


def environment(name: str) -> Path:
    """The Python of the environment for a client: it, what its tests need, by hash, and netjail as it lies in src."""
    requirements = REQUIREMENTS / f"{name}.txt"
    folder = TOOLS / name / "env"
    made_for = folder / "made-for"
    wanted = f"{sys.version}\n{hashlib.sha256(requirements.read_bytes()).hexdigest()}\n"
    if not made_for.is_file() or made_for.read_text() != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run(
            ["sh", "scripts/bootstrap", str(folder), str(requirements), sys.executable], cwd=ROOT, check=True
        )
        made_for.write_text(wanted)
    return folder / "bin" / "python"


def archive(client: Suite, python: Path) -> Path:
    """The source archive that has the tests, with the digest that the table names."""
    folder = TOOLS / "sdist" / client.distribution
    for found in (*folder.glob("*.tar.gz"), None):
        if found and hashlib.sha256(found.read_bytes()).hexdigest() == client.sha256:
            return found
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    wanted = folder / "wanted.txt"
    wanted.write_text(f"{client.distribution}=={client.version} --hash=sha256:{client.sha256}\n")
    # pip reads an archive's metadata with the archive's own build backend, which is therefore in the environment.
    options = ["--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--require-hashes"]
    command = [str(python), "-m", "pip", "download", "--quiet", *options]
    command += ["--requirement", str(wanted), "--dest", str(folder)]
    subprocess.run(command, check=True)
    return next(folder.glob("*.tar.gz"))


def unpack(found: Path, client: Suite, folder: Path) -> None:
    """What of an archive makes up the suite, anew: a run starts from what was released."""
    with tarfile.open(found) as tar:
        for member in tar.getmembers():
            _, _, path = member.name.partition("/")
            if path in client.keep or path.partition("/")[0] in client.keep:
                member.name = path
                tar.extract(member, folder, filter="data")


def start(
    name: str, client: Suite, way: str, python: Path, found: Path, served: Iterable[str] = ()
) -> subprocess.Popen[bytes]:
    """The suite, under way in a process of its own, whose environment names no proxies and no certificates."""
    folder = TOOLS / name / way
    shutil.rmtree(folder, ignore_errors=True)
    unpack(found, client, folder / "suite")
    # pytest imports the plugin by name; as "tests.suites" it would stand in the way of the suite's own "tests".
    # No link: what builds the source archive follows links, and takes what it has seen for done.
    shutil.copytree(Path(__file__).parent, folder / "netjail_suites", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "pytest.ini").write_text("")  # a suite without settings would find netjail's, further up
    command = [
        str(python),
        "-m",
        "pytest",
        "-p",
        "netjail_suites.inside",
        "-p",
        "no:cacheprovider",
        "--tb=native",
        "-rfE",
    ]
    command += ["-o", "faulthandler_timeout=60", "--continue-on-collection-errors"]
    command += [
        f"--suite={name}",
        f"--way={way}",
        f"--seen={folder / 'seen.json'}",
        "--rootdir=.",
        *client.arguments,
        *served,
    ]
    environ = {key: os.environ[key] for key in ("PATH", "LANG", "TMPDIR") if key in os.environ}
    environ |= {
        "HOME": str(folder),
        "PYTHONPATH": str(folder),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "COLUMNS": "200",
    }
    with (folder / "log.txt").open("wb") as log:
        return subprocess.Popen(command, cwd=folder / "suite", env=environ, stdout=log, stderr=subprocess.STDOUT)


def seen(name: str, way: str, process: subprocess.Popen[bytes], patience: float) -> dict[str, Any]:
    """What the plugin wrote down, once the run has ended."""
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    file = TOOLS / name / way / "seen.json"
    if not file.is_file():
        raise SystemExit(f"{name}: the {way} run came to no end, see {file.parent / 'log.txt'}")
    found: dict[str, Any] = json.loads(file.read_text())
    return found


@dataclass
class Comparison:
    """What two runs of one suite have shown."""

    name: str
    client: Suite
    plain: dict[str, Any]
    jailed: dict[str, Any]
    seconds: float

    def counts(self) -> Iterator[str]:
        """A row of the table for each way."""
        of = f"{self.client.distribution} {self.client.version}"
        for way, run in (("plain", self.plain), ("jailed", self.jailed)):
            ended: Counter[str] = Counter(run["ended"].values())
            numbers = [ended[how] for how in ("passed", "failed", "skipped")] + [len(run["left_out"])]
            yield f"{self.name:9} {of:16} {way:7}" + "".join(f"{number:>9}" for number in numbers)

    def failing(self) -> set[str]:
        """The tests that pass with the plain client and not with ours, or fail with ours alone."""
        plain, jailed = self.plain["ended"], self.jailed["ended"]
        lost = {test for test, how in plain.items() if how == "passed" != jailed.get(test)}
        return lost | {test for test, how in jailed.items() if how == "failed" != plain.get(test)}

    def both_fail(self) -> tuple[str, ...]:
        """The tests that fail with the plain client and with ours."""
        jailed = self.jailed["ended"]
        return tuple(sorted(test for test, how in self.plain["ended"].items() if how == "failed" == jailed.get(test)))

    def wrong(self) -> Iterator[str]:
        """Everything that must not be."""
        failing = self.failing()
        expected = {**self.client.differs, **self.client.chance}
        yield from (f"fails with ours only: {test}" for test in sorted(failing) if not named(test, expected))
        ended = self.plain["ended"].keys() | self.jailed["ended"].keys()
        for name in _names(self.client.differs):
            meant = {test for test in ended if name in called(test)}
            if not meant or meant - failing:
                yield f"named as one that differs, and does not: {name} {sorted(meant - failing)}"
        for what, names, tests in (
            ("to leave out", self.client.left_out, self.plain["left_out"]),
            ("that fails by chance", self.client.chance, ended),
        ):
            of_these = {each for test in tests for each in called(test)}
            yield from (
                f"named as one {what}, and there is none: {name}" for name in _names(names) if name not in of_these
            )
        for way, run in (("plain", self.plain), ("jailed", self.jailed)):
            yield from (f"left loopback in the {way} run: {stray}" for stray in run["strays"])
            if not run["ended"]:
                yield f"no test was run in the {way} run"
        yield from (f"connected past the rules: {connect}" for connect in self.jailed["unjudged"])
        if not self.jailed["judged"]:
            yield "no connect of the jailed run was judged: nothing was tried"

    def reasons(self) -> Iterator[str]:
        """Every test that is left out or differs, under its reason."""
        both = self.plain["ended"], self.jailed["ended"]
        for what, names in (
            ("left out", self.client.left_out),
            ("fails with ours", self.client.differs),
            ("fails by chance", self.client.chance),
        ):
            for reason, tests in names.items():
                yield f"{self.name}: {what}, as it {reason}:"
                yield from (f"    {test}" for test in tests)
        yield from (f"{self.name}: fails here with the plain client too: {test}" for test in self.both_fail())
        for test in sorted(test for test, how in both[0].items() if how == "failed" and both[1].get(test) == "passed"):
            yield f"{self.name}: fails here with the plain client only: {test}"


def _names(table: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
    return (name for names in table.values() for name in names)


def compare(name: str) -> Comparison:
    """Both runs of one suite, side by side where they can be."""
    client = suite(name)
    python = environment(name)
    found = archive(client, python)
    began = time.monotonic()
    runs: dict[str, subprocess.Popen[bytes]] = {}
    with ExitStack() as servers:
        for way in WAYS:
            served = servers.enter_context(client.serve())
            runs[way] = start(name, client, way, python, found, served)
            if client.in_turn:
                seen(name, way, runs[way], client.patience)
        plain, jailed = (seen(name, way, runs[way], client.patience) for way in WAYS)
    return Comparison(name, client, plain, jailed, time.monotonic() - began)


def lock() -> None:
    """The newest versions that fit, with their hashes."""
    options = ["--quiet", "--universal", "--upgrade", "--generate-hashes", "--no-emit-index-url", "--no-annotate"]
    options += ["--python-version", "3.11", "--custom-compile-command", "python -m tests.suites --lock"]
    for wanted in sorted(REQUIREMENTS.glob("*.in")):
        command = ["sh", "scripts/uv", "pip", "compile", *options, str(wanted), "-o", str(wanted.with_suffix(".txt"))]
        subprocess.run(command, cwd=ROOT, check=True)


def page(done: Iterable[Comparison]) -> Iterator[str]:
    """What was measured, in Markdown."""
    done = list(done)
    yield from ("", "| client | suite | run | passed | failed | skipped | left out |", "|---|---|---|--:|--:|--:|--:|")
    for each in done:
        for row in each.counts():
            name, distribution, version, *numbers = row.split()
            yield f"| {' | '.join((name, f'{distribution} {version}', *numbers))} |"
    for each in done:
        tables = (
            ("Left out of both runs, as it", each.client.left_out),
            ("Fails with ours, as it", each.client.differs),
            ("Fails by chance,", each.client.chance),
            ("Fails with both", {"": each.both_fail()}),
        )
        yield from ("", f"## {each.name}")
        for what, names in tables:
            for reason, tests in names.items():
                if tests:
                    yield from ("", f"{what} {reason}".rstrip() + ":", "")
                    yield from (f"- `{test}`" for test in tests)


def write(file: Path, done: Iterable[Comparison]) -> None:
    """Puts ``page`` in the place of what follows the mark in ``file``."""
    mark = "<!-- measured -->"
    above, _, _ = file.read_text(encoding="utf-8").partition(mark)
    file.write_text("\n".join((above + mark, *page(done), "")), encoding="utf-8")


def main(names: Iterable[str], written: Path | None = None) -> int:
    """The number of suites in which something is wrong."""
    done: list[Comparison] = []
    for name in names:
        done.append(compare(name))
        say(f"{name}: {done[-1].jailed['judged']} connects judged, {done[-1].seconds:.0f} s")
    say("", f"{'client':9} {'suite':16} {'way':7}   passed   failed  skipped left out")
    for each in done:
        say(*each.counts())
    for each in done:
        say("", *each.reasons())
    if written is not None:
        write(written, done)
    bad = [each for each in done if any(each.wrong())]
    for each in bad:
        say("", *(f"{each.name}: WRONG: {what}" for what in each.wrong()))
    say("", f"see the logs in {TOOLS}" if bad else "ours fails nothing but what is named above")
    return len(bad)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.suites", description=__doc__)
    parser.add_argument("clients", nargs="*", help=f"of {', '.join(CLIENTS)}; all of them if none is named")
    parser.add_argument("--lock", action="store_true", help="only lock what the suites need")
    parser.add_argument("--page", type=Path, help="a page to write the table and the reasons into, below its mark")
    given = parser.parse_args()
    if unknown := set(given.clients) - set(CLIENTS):
        parser.error(f"no suite: {', '.join(sorted(unknown))}")
    if given.lock:
        lock()
    else:
        sys.exit(main(given.clients or CLIENTS, given.page) > 0)
