"""What netjail costs, as ratios measured side by side: ``python -m benchmarks.run [--full] [--json FILE]``.

The budgets are those of docs/performance. A figure is a ratio of medians, with the lowest and highest
ratio among ten parts of the run, and with the A/A control: the plain thing against itself.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import itertools
import json
import platform
import random
import resource
import socket
import statistics
import subprocess
import sys
import time
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import netjail
from benchmarks import clients
from benchmarks.measure import Comparison, compare, compare_async
from netjail import Dialer, Rules, create_connection, open_connection, use_rules
from netjail._context import in_force
from netjail._pools import Pools

if TYPE_CHECKING:
    from collections.abc import Iterator

LOOPBACK = "127.0.0.0/8"
Row = dict[str, Any]


def prefixes4(count: int, rng: random.Random) -> list[str]:
    return [str(IPv4Network((rng.getrandbits(32) >> 8 << 8, 24))) for _ in range(count)]


def prefixes6(count: int, rng: random.Random) -> list[str]:
    return [str(IPv6Network(((1 << 125 | rng.getrandbits(125)) >> 80 << 80, 48))) for _ in range(count)]


def per_call(function: Any, arguments: list[Any], parts: int = 5) -> float:
    """Nanoseconds of one call, the median of ``parts``, over arguments never seen before."""
    size = len(arguments) // parts
    times = []
    for part in range(parts):
        chunk = arguments[part * size : (part + 1) * size]
        begin = time.perf_counter()
        for argument in chunk:
            function(argument)
        times.append((time.perf_counter() - begin) / size * 1e9)
    return statistics.median(times)


def decisions(*, full: bool) -> Iterator[Row]:
    """``accepts`` against one parse of the same text by ipaddress."""
    rng = random.Random(1)
    count = 100_000 if full else 30_000
    numbers = [rng.getrandbits(32) for _ in range(count)]
    numbers6 = [1 << 125 | rng.getrandbits(125) for _ in range(count)]
    families: list[tuple[int, Any, list[Any], tuple[float, float]]] = [
        (4, prefixes4, [IPv4Address(n) for n in numbers], (0.2, 0.35)),
        (6, prefixes6, [IPv6Address(n) for n in numbers6], (0.3, 0.5)),
    ]
    for version, make, objects, budgets in families:
        texts = [str(each) for each in objects]
        for size in (1, 100, 10_000, 100_000, 1_000_000):
            rules = Rules(make(size, rng))
            parse = per_call(ip_address, texts)
            for kind, arguments, budget in (("object", objects, budgets[0]), ("text", texts, budgets[1])):
                took = per_call(rules.accepts, arguments)
                yield {
                    "what": f"accepts IPv{version} {kind}, {size:,} prefixes",
                    "ns": round(took),
                    "ratio": round(took / parse, 3),
                    "budget": budget,
                }


BUILD = """
import json, random, time, tracemalloc
from benchmarks.run import prefixes4, prefixes6
from netjail import Rules
texts = {make}({count}, random.Random(2))
begin = time.perf_counter()
Rules(texts)
took = time.perf_counter() - begin
tracemalloc.start()  # what building takes at its peak, over the strings; it would slow the timed one
Rules(texts)
print(json.dumps([took, tracemalloc.get_traced_memory()[1] / 1e6]))
"""


def building(*, full: bool) -> Iterator[Row]:
    """Rules from a million prefix strings, each family in a process of its own for the memory."""
    del full  # the budget is for a million, and does not scale
    count = 1_000_000
    for version, seconds, megabytes in ((4, 3, 200), (6, 4, 250)):
        script = BUILD.format(make=f"prefixes{version}", count=count)
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
        took, memory = json.loads(done.stdout)
        what = f"building from {count:,} IPv{version} prefixes"
        yield {"what": f"{what}, seconds", "ratio": round(took, 3), "budget": seconds}
        yield {"what": f"{what}, MB", "ratio": round(memory, 1), "budget": megabytes}


def importing(*, full: bool) -> Iterator[Row]:
    """``import netjail`` over ``import socket, ipaddress``, in fresh interpreters in turn."""

    def run(code: str) -> float:
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return time.perf_counter() - begin

    bare, ours = "import socket, ipaddress", "import socket, ipaddress, netjail"
    times = [(run(bare), run(ours)) for _ in range(40 if full else 15)]
    over = statistics.median(each[1] for each in times) - statistics.median(each[0] for each in times)
    yield {"what": "import netjail, ms", "ratio": round(over * 1000, 1), "budget": 12}


def choosing(*, full: bool) -> Iterator[Row]:
    """What a transport does before it hands a request on: the rules in force, and their pool."""
    rounds = 100_000 if full else 20_000
    for count in (1, 1000):
        every = [Rules([LOOPBACK, f"10.{n >> 8}.{n & 255}.0/24"]) for n in range(count)]
        pools: Pools[Any] = Pools(lambda _: Dialer(), 1024)
        turns = itertools.cycle(every)
        with use_rules(every[0]):
            for rules in every:
                pools.get(in_force(rules))
            took = per_call(lambda _: pools.get(in_force(next(turns))), list(range(rounds)))
        yield {"what": f"choosing the pool, {count:,} rule sets, µs", "ratio": round(took / 1000, 3), "budget": 1.5}


@contextlib.contextmanager
def server() -> Iterator[int]:
    """The measuring server in a process of its own; its port."""
    program = Path(__file__).parent / "server.py"
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, str(program)], text=True, **pipes) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


def row(what: str, comparison: Comparison, budget: float) -> Row:
    return {"what": what, **comparison.as_dict(), "budget": budget}


def connecting(port: int, *, full: bool) -> Iterator[Row]:
    """A fresh connection with nothing else around it."""
    rounds = 3000 if full else 1000
    rules = Rules([LOOPBACK])

    def close(sock: socket.socket) -> None:
        sock.close()

    for host, timeout in (("127.0.0.1", None), ("127.0.0.1", 5), ("localhost", None), ("localhost", 5)):
        comparison = compare(
            lambda: close(socket.create_connection((host, port), timeout)),
            lambda: close(create_connection((host, port), timeout, rules=rules)),
            rounds,
        )
        yield row(f"create_connection to {host}, timeout {timeout}", comparison, 1.12)

    async def streams(host: str) -> Comparison:
        async def use(opening: Any) -> None:
            _, writer = await opening
            writer.close()
            await writer.wait_closed()

        return await compare_async(
            lambda: use(asyncio.open_connection(host, port)),
            lambda: use(open_connection(host, port, rules=rules)),
            rounds,
        )

    for host in ("127.0.0.1", "localhost"):
        yield row(f"open_connection to {host}", asyncio.run(streams(host)), 1.12)


def fetching(port: int, *, full: bool) -> Iterator[Row]:
    """A kept-alive GET by each client, the rules from the context, at 1 and many prefixes and rule sets."""
    url = f"http://127.0.0.1:{port}/"
    rounds = 3000 if full else 600
    rng = random.Random(3)
    sizes = [(1, 1), (100_000, 1), (1, 1000)] if full else [(1, 1), (1, 1000)]
    for prefixes, sets in sizes:
        many = prefixes4(prefixes - 1, rng)
        every = [Rules([LOOPBACK, *many, f"10.{n >> 8}.{n & 255}.0/24"]) for n in range(sets)]
        what = f"{prefixes:,} prefixes, {sets:,} rule sets"
        for name, pair in clients.SYNC.items():
            with contextlib.suppress(ImportError), pair(url, None, sets + 1) as two:
                comparison = compare(two.plain, in_turn(every, two.jailed), rounds)
                yield row(f"{name}: {what}", comparison, 1.03 if name == "urllib" else 1.02)
        for name, pair in clients.ASYNC.items():
            with contextlib.suppress(ImportError):
                comparison = asyncio.run(fetch_async(pair, url, every, rounds))
                yield row(f"{name}: {what}", comparison, 1.02)


def in_turn(every: list[Rules], get: Any) -> Any:
    """``get`` under each rules in turn, each connection opened before anything is measured."""
    turns = itertools.cycle(every)

    def one() -> None:
        with use_rules(next(turns)):
            get()

    for _ in every:
        one()
    return one


async def fetch_async(pair: Any, url: str, every: list[Rules], rounds: int) -> Comparison:
    async with pair(url, None, len(every) + 1) as two:
        turns = itertools.cycle(every)

        async def jailed() -> None:
            with use_rules(next(turns)):
                await two.jailed()

        for _ in every:
            await jailed()
        return await compare_async(two.plain, jailed, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--full", action="store_true", help="more rounds and larger rule sets: some ten minutes")
    parser.add_argument("--json", type=Path, help="write the rows there as well")
    parser.add_argument("--only", default="", help="only the groups whose name has this in it")
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(65536, resource.getrlimit(resource.RLIMIT_NOFILE)[1]),) * 2)
    machine = f"{platform.python_implementation()} {platform.python_version()} on {platform.platform()}"
    print(f"netjail {netjail.__name__} benchmarks, {machine}\n")
    rows: list[Row] = []
    for group in (decisions, building, importing, choosing):
        if options.only in group.__name__:
            rows += told(group(full=options.full))
    with server() as port:
        for group_on in (connecting, fetching):
            if options.only in group_on.__name__:
                rows += told(group_on(port, full=options.full))
    over = [each for each in rows if each["ratio"] > each["budget"]]
    print(f"\n{len(rows) - len(over)} of {len(rows)} within their budget")
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1), encoding="utf-8")


def told(rows: Iterator[Row]) -> list[Row]:
    """The rows, each printed when it is there."""
    kept = []
    for each in rows:
        gc.collect()
        spread = "{} to {}".format(*each["spread"]) if "spread" in each else ""
        control = f"A/A {each['control']}" if "control" in each else ""
        mark = "" if each["ratio"] <= each["budget"] else "  over"
        print(f"{each['what']:52} {each['ratio']:>8}  of {each['budget']:<6} {spread:18} {control}{mark}", flush=True)
        kept.append(each)
    return kept


if __name__ == "__main__":
    main()
