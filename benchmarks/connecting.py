"""What a connection costs with nothing else around it, and what a first address that does not answer costs."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks import clients
from benchmarks.measure import CONTROL, Figure, Times, compare, compare_async
from netjail import Rules, create_connection, open_connection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RULES = Rules(["127.0.0.0/8", "::1"])
JAILED = "netjail"


def connecting(port: int, *, full: bool) -> Iterator[Figure]:
    """A socket and an asyncio stream, to a literal, to a name of the hosts file and to one with two addresses."""
    rounds = 3000 if full else 500
    yield from _connecting("127.0.0.1", "a literal", port, rounds)
    yield from _connecting("localhost", "a name", port, rounds)
    with named(ALIVE, OTHER):
        yield from _connecting(NAME, "a name with two addresses", port, rounds)


def _connecting(host: str, kind: str, port: int, rounds: int) -> Iterator[Figure]:
    plain = "socket.create_connection"
    for timeout in (None, 5):
        calls = {
            plain: lambda: socket.create_connection((host, port), timeout).close(),
            CONTROL: lambda: socket.create_connection((host, port), timeout).close(),
            JAILED: lambda: create_connection((host, port), timeout, rules=RULES).close(),
        }
        timed = "" if timeout is None else ", with a timeout"
        what = f"create_connection to {kind}{timed}"
        yield compare(calls, rounds).figure("connecting", what, JAILED, plain, 1.12)
    times = asyncio.run(_streams(host, port, rounds))
    yield times.figure("connecting", f"open_connection to {kind}", JAILED, "asyncio.open_connection", 1.12)


async def _streams(host: str, port: int, rounds: int) -> Times:
    async def use(opening: Any) -> None:
        _, writer = await opening
        writer.close()
        await writer.wait_closed()

    calls: dict[str, Any] = {
        "asyncio.open_connection": lambda: use(asyncio.open_connection(host, port)),
        CONTROL: lambda: use(asyncio.open_connection(host, port)),
        JAILED: lambda: use(open_connection(host, port, rules=RULES)),
    }
    return await compare_async(calls, rounds)


DEAD, ALIVE, OTHER = "127.0.0.4", "127.0.0.1", "127.0.0.5"
NAME = "two-addresses.test"
TIMEOUT = {True: 2.0, False: 1.0}  # in the full form and in the quick one


@contextlib.contextmanager
def black_hole(port: int) -> Iterator[None]:
    """``port`` of 127.0.0.4 answers no connect any more: its listener accepts nothing and its backlog is full.

    Raises RuntimeError where the system answers all the same.
    """
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((DEAD, port))
        listener.listen(0)
        for _ in range(16):
            filler = stack.enter_context(socket.socket())
            filler.settimeout(0.1)
            try:
                filler.connect((DEAD, port))
            except TimeoutError:
                break
        else:
            raise RuntimeError("this system has no full backlogs")
        yield


@contextlib.contextmanager
def named(*addresses: str) -> Iterator[None]:
    """The system's resolver, as far as this process sees it, knows ``NAME``."""
    plain = socket.getaddrinfo

    def lookup(host: Any, port: Any, *rest: Any, **options: Any) -> list[Any]:
        if host not in (NAME, NAME.encode()):
            return plain(host, port, *rest, **options)
        return [answer for ip in addresses for answer in plain(ip, port, *rest, **options)]

    socket.getaddrinfo = lookup
    try:
        yield
    finally:
        socket.getaddrinfo = plain


def failing_over(port: int, *, full: bool) -> Iterator[Figure]:
    """A GET by a name whose first address does not answer, with a connect timeout."""
    url = f"http://{NAME}:{port}/"
    timeout = TIMEOUT[full]
    try:
        with black_hole(port), named(DEAD, ALIVE):
            for client in clients.installed():
                if client.name == "http.client":
                    continue
                times: dict[str, list[float]] = {"jailed": [], "plain": []}
                for _ in range(3 if full else 1):
                    times["jailed"].append(_seconds(client, partial(client.jailed, RULES, timeout=timeout), url))
                    times["plain"].append(_seconds(client, partial(client.plain, timeout=timeout), url))
                both = Times(times)
                plain = round(both.median("plain"), 3)
                detail = {"client": client.name, "plain_s": plain, "connect_timeout_s": timeout}
                what = f"{client.name}: a name whose first address does not answer"
                yield Figure("failing over", what, "", both.median("jailed"), "s", 0.5, detail=detail)
    except RuntimeError as error:
        print(f"failing over: left out, {error}")


def _seconds(client: clients.Client, opened: Callable[[], Any], url: str) -> float:
    """Seconds until the answer, or until the client gave up."""

    async def awaited() -> float:
        async with opened() as get:
            begin = time.perf_counter()
            with contextlib.suppress(Exception):
                await get(url)
            return time.perf_counter() - begin

    if client.awaited:
        return asyncio.run(awaited())
    with opened() as get:
        begin = time.perf_counter()
        with contextlib.suppress(Exception):
            get(url)
        return time.perf_counter() - begin
