"""What there is to pay besides connections: the import, the choice of a pool, and the guard."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.measure import CONTROL, Figure, Times, compare, compare_over
from benchmarks.prefixes import counted
from netjail import Dialer, Rules, use_rules
from netjail._context import in_force
from netjail._pools import Pools

if TYPE_CHECKING:
    from collections.abc import Iterator

BARE = "import socket, ipaddress"


def importing(*, full: bool) -> Iterator[Figure]:
    """``import netjail`` beyond what it needs of the standard library, in fresh interpreters."""

    with tempfile.TemporaryDirectory() as folder:
        # Compiled as an installed package is, also where this environment keeps Python from writing that down.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        environment["PYTHONPYCACHEPREFIX"] = folder

        def run(code: str) -> None:
            subprocess.run([sys.executable, "-c", code], check=True, env=environment)

        calls = {BARE: lambda: run(BARE), CONTROL: lambda: run(BARE), "netjail": lambda: run(f"{BARE}, netjail")}
        times = compare(calls, 60 if full else 15)
    over = {name: (times.median(name) - times.median(BARE)) * 1000 for name in ("netjail", CONTROL)}
    detail = {"control_ms": round(over[CONTROL], 2), "bare_ms": round(times.median(BARE) * 1000, 2)}
    yield Figure(
        "importing", "import netjail, beyond import socket, ipaddress", "", over["netjail"], "ms", 12, detail=detail
    )


def choosing(*, full: bool) -> Iterator[Figure]:
    """What a transport does before it hands a request on: the rules in force, and their pool."""
    rounds = 100_000 if full else 20_000
    for count in (1, 1000):
        every = [Rules(["127.0.0.0/8", f"10.{n >> 8}.{n & 255}.0/24"]) for n in range(count)]
        pools: Pools[Any] = Pools(lambda _: Dialer(), 1024)
        turns = itertools.cycle(every)
        with use_rules(every[0]):
            for rules in every:
                pools.get(in_force(rules))

            def choose(rounds: list[int]) -> None:
                for _ in rounds:
                    pools.get(in_force(next(turns)))

            times = compare_over({"netjail": (choose, list(range(rounds)))}, 100)
        what = f"choosing the pool, {counted(count, 'rule set')}"
        yield Figure("choosing", what, "", times.median("netjail") * 1e6, "µs", 1.5)


# A process that does one of these a number of times whenever it is told to, and tells how long it took. A guard
# cannot be removed, so with and without it are processes of their own, asked in turn.
_WORKER = """
import json, socket, sys, time
port, guarded = int(sys.argv[1]), sys.argv[2] == "guarded"
if guarded:
    from netjail import Rules, guard
    guard.install(Rules(["127.0.0.0/8"]))
address = ("127.0.0.1", port)

def event(rounds):
    audit = sys.audit
    for _ in rounds:
        audit("netjail.benchmark", 1)

def connect(rounds):
    for _ in rounds:
        sock = socket.socket()
        sock.connect(address)
        sock.close()

def opening(rounds):
    for _ in rounds:
        open("/dev/null").close()

doing = {"event": event, "connect": connect, "opening": opening}
for line in sys.stdin:
    what, count = json.loads(line)
    begin = time.perf_counter()
    doing[what](range(count))
    print((time.perf_counter() - begin) / count, flush=True)
"""


def guarding(port: int, *, full: bool) -> Iterator[Figure]:
    """An audit event that is none of the guard's, opening a file, and a connect: with the guard and without it."""
    root = Path(__file__).parents[1]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": root}
    workers = {
        name: subprocess.Popen([sys.executable, "-c", _WORKER, str(port), name], **pipes)
        for name in ("without", CONTROL, "guarded")
    }
    try:
        for what, job, count, reach in (
            ("an audit event that it passes over", "event", 500, None),
            ("opening a file", "opening", 20, None),
            ("socket.connect", "connect", 1, None),
        ):
            times: dict[str, list[float]] = {name: [] for name in workers}

            def ask(name: str) -> None:
                process = workers[name]
                assert process.stdin is not None
                assert process.stdout is not None
                process.stdin.write(json.dumps([job, count]) + "\n")
                process.stdin.flush()
                times[name].append(float(process.stdout.readline()))

            compare({name: lambda name=name: ask(name) for name in workers}, 2000 if full else 300)  # type: ignore[misc]
            both = Times(times)
            extra = (both.median("guarded") - both.median("without")) * 1e6
            figure = both.figure("guarding", f"guard: {what}", "guarded", "without", reach, extra_us=round(extra, 3))
            yield figure
    finally:
        for process in workers.values():
            process.kill()
            process.communicate()
