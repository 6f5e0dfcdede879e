"""What a request costs: on kept connections, on fresh ones, and ten thousand at a time."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import statistics
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks import clients, prefixes
from benchmarks.measure import CONTROL, Figure, Times, compare, compare_async
from netjail import Rules, use_rules

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

LOOPBACK = "127.0.0.0/8"
MANY = 1000
PLAIN, JAILED, POOLS = "the plain client", "jailed", f"{MANY:,} plain clients"
GIVEN = "jailed, with the rules given"


def rule_sets(count: int, size: int) -> list[Rules]:
    """``count`` sets that are not equal, each of ``size`` prefixes or of one more, of which one holds loopback."""
    many = prefixes.made(4, size - 1, random.Random(3))
    if count == 1:
        return [Rules([LOOPBACK, *many])]
    return [Rules([LOOPBACK, *many, f"10.{n >> 8}.{n & 255}.0/24"]) for n in range(count)]


def keeping(port: int, *, full: bool) -> Iterator[Figure]:
    """A GET on a kept connection: by a client with rules of its own, and under rules entered for each request."""
    url = f"http://127.0.0.1:{port}/"
    sizes = [(1, 1), (100, 1), (10_000, 1), (100_000, 1), (1, MANY)] if full else [(1, 1), (1, MANY)]
    rounds = 2000 if full else 300
    for size, count in sizes:
        every = rule_sets(count, size)
        for client in clients.installed():
            if not client.keeps or (count > 1 and client.name == "http.client"):
                continue  # the latter keeps one connection, which is its user's to choose
            if client.awaited:
                times = asyncio.run(_kept_async(client, url, every, rounds))
            else:
                times = _kept(client, url, every, rounds)
            yield from _told(client.name, size, count, times)


def _told(name: str, size: int, count: int, times: Times) -> Iterator[Figure]:
    sets = prefixes.counted(count, "rule set") if count > 1 else prefixes.counted(size, "prefix")
    detail = {"client": name, "prefixes": size, "rule_sets": count}
    if GIVEN in times.of:
        yield times.figure("keeping", f"{name}: {sets}", GIVEN, PLAIN, 1.02, rules="given", **detail)
    for against in (PLAIN, POOLS):
        if against in times.of:
            what = f"{name}: {sets}, entered for each"
            yield times.figure("keeping", what, JAILED, against, 1.02, rules="entered", **detail)


def _kept(client: clients.Client, url: str, every: list[Rules], rounds: int) -> Times:
    with contextlib.ExitStack() as stack:
        plain, control = (stack.enter_context(client.plain()) for _ in range(2))
        get = stack.enter_context(client.jailed(None, pools=len(every) + 1))
        next_rules = _in_turn(every)

        def jailed() -> None:
            with use_rules(next_rules()):
                get(url)

        calls: dict[str, Any] = {PLAIN: lambda: plain(url), CONTROL: lambda: control(url), JAILED: jailed}
        if len(every) == 1:
            given = stack.enter_context(client.jailed(every[0]))
            calls[GIVEN] = lambda: given(url)
        else:
            next_get = _in_turn([stack.enter_context(client.plain()) for _ in every])
            calls[POOLS] = lambda: next_get()(url)
        for _ in every:
            jailed()
            calls.get(POOLS, jailed)()
        return compare(calls, rounds)


async def _kept_async(client: clients.Client, url: str, every: list[Rules], rounds: int) -> Times:
    async with contextlib.AsyncExitStack() as stack:
        plain, control = [await stack.enter_async_context(client.plain()) for _ in range(2)]
        get = await stack.enter_async_context(client.jailed(None, pools=len(every) + 1))
        next_rules = _in_turn(every)

        async def jailed() -> None:
            with use_rules(next_rules()):
                await get(url)

        async def as_it_is(get: Callable[[str], Awaitable[object]]) -> None:  # a coroutine around it, as above
            await get(url)

        calls: dict[str, Any] = {PLAIN: lambda: as_it_is(plain), CONTROL: lambda: as_it_is(control), JAILED: jailed}
        if len(every) == 1:
            given = await stack.enter_async_context(client.jailed(every[0]))
            calls[GIVEN] = lambda: as_it_is(given)
        else:
            next_get = _in_turn([await stack.enter_async_context(client.plain()) for _ in every])
            calls[POOLS] = lambda: as_it_is(next_get())
        for _ in every:
            await jailed()
            await calls.get(POOLS, jailed)()
        return await compare_async(calls, rounds)


def _in_turn(every: list[Any]) -> Callable[[], Any]:
    """A function that gives the next of ``every`` each time, without end."""
    return partial(next, itertools.cycle(every))


def opening(port: int, *, full: bool) -> Iterator[Figure]:
    """A GET on a connection of its own, to a literal and to a name of the hosts file."""
    rounds = 1000 if full else 200
    rules = Rules([LOOPBACK, "::1"])
    for host in ("127.0.0.1", "localhost"):
        url = f"http://{host}:{port}/"
        for client in clients.installed():
            if client.name == "http.client":
                continue  # urllib stands on it
            if client.awaited:
                times = asyncio.run(_fresh_async(client, url, rules, rounds))
            else:
                times = _fresh(client, url, rules, rounds)
            what = f"{client.name}: fresh connection to {_kind(host)}"
            yield times.figure("opening", what, JAILED, PLAIN, 1.03, client=client.name, host=_kind(host))


def _kind(host: str) -> str:
    return "a name" if host == "localhost" else "a literal"


def _fresh(client: clients.Client, url: str, rules: Rules, rounds: int) -> Times:
    fresh: Any = {"headers": clients.FRESH}
    with client.plain(**fresh) as plain, client.plain(**fresh) as control, client.jailed(rules, **fresh) as jailed:
        return compare({PLAIN: lambda: plain(url), CONTROL: lambda: control(url), JAILED: lambda: jailed(url)}, rounds)


async def _fresh_async(client: clients.Client, url: str, rules: Rules, rounds: int) -> Times:
    fresh: Any = {"headers": clients.FRESH}
    async with (
        client.plain(**fresh) as plain,
        client.plain(**fresh) as control,
        client.jailed(rules, **fresh) as jailed,
    ):
        return await compare_async(
            {PLAIN: lambda: plain(url), CONTROL: lambda: control(url), JAILED: lambda: jailed(url)}, rounds
        )


# A crowd: the clients, how many requests at once, and how many connections each may open. With more of them httpx
# settles at one of two speeds, by how many happen to be free when a response ends, and either may get the better.
_CROWDS = (("aiohttp", 10_000, 1000), ("httpx async", 500, 8))


def crowding(port: int, *, full: bool) -> Iterator[Figure]:
    """Requests of one asyncio program that are all under way at once. httpx has a queue that it goes through each
    time, which ten thousand would wait in for an hour, jailed or not: it gets five hundred."""
    url = f"http://127.0.0.1:{port}/"
    rules = Rules([LOOPBACK])
    for client in clients.installed():
        for name, at_once, limit in _CROWDS:
            if client.name == name:
                requests = at_once if full else at_once // 5
                rates = asyncio.run(_crowd(client, url, rules, requests, 7 if full else 3, {"limit": limit}))
                whole, slowest = Times(rates[0]), Times(rates[1])
                what = f"{name}: {requests:,} requests at once"
                yield whole.figure("crowding", f"{what}, time of all", JAILED, PLAIN, 1.05)
                yield slowest.figure("crowding", f"{what}, 99th percentile", JAILED, PLAIN, 1.05)


async def _crowd(
    client: clients.Client, url: str, rules: Rules, count: int, rounds: int, options: dict[str, Any]
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds for all of ``count`` requests, and for the slowest hundredth of them, of each contender in each round."""
    whole: dict[str, list[float]] = {PLAIN: [], JAILED: [], CONTROL: []}
    slowest: dict[str, list[float]] = {PLAIN: [], JAILED: [], CONTROL: []}
    clock = time.perf_counter

    async def timed(get: Any) -> float:
        begin = clock()
        await get(url)
        return clock() - begin

    async with _three(client, rules, options) as gets:
        for number in range(rounds + 1):  # the first opens the connections
            for name in random.Random(number).sample(list(gets), len(gets)):
                begin = clock()
                took = await asyncio.gather(*(timed(gets[name]) for _ in range(count)))
                if number:
                    whole[name].append(clock() - begin)
                    slowest[name].append(statistics.quantiles(took, n=100)[98])
    return whole, slowest


@contextlib.asynccontextmanager
async def _three(
    client: clients.Client, rules: Rules, options: dict[str, Any]
) -> AsyncIterator[dict[str, Callable[[str], Awaitable[Any]]]]:
    async with (
        client.plain(**options) as plain,
        client.plain(**options) as control,
        client.jailed(rules, **options) as jailed,
    ):
        yield {PLAIN: plain, CONTROL: control, JAILED: jailed}
