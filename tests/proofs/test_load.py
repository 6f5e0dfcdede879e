"""A thousand tenants with rules of their own on one client at once: no connection ever serves two of them.

The server answers with the number of the connection, which belongs to the tenant that first got it.
"""

from __future__ import annotations

import asyncio
import gc
import os
import pickle
import random
import threading
from array import array
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from typing import Any

import pytest

from netjail import Rules, use_rules
from tests.servers.names import GOOD
from tests.servers.tagger import Tagger

from .conftest import NIGHTLY

TENANTS = [Rules(allow=[GOOD, ip_address("192.0.2.0") + number]) for number in range(1_000)]
REQUESTS = 200_000 if NIGHTLY else 3_000  # for each of five clients
THREADS = 64
KEPT = 50
"""Pools that a client keeps, so that a thousand tenants evict one another all the time."""
DESCRIPTORS = 4 * THREADS + 2 * KEPT

pytestmark = pytest.mark.usefixtures("nothing_left_behind")


@pytest.fixture(scope="module")
def server() -> Iterator[Tagger]:
    with Tagger() as server:
        yield server


class Owners:
    """Which tenant has which connection, and how much the process holds while they are used."""

    def __init__(self) -> None:
        self._owner = array("h")  # by connection, -1 for none: two bytes each, as memory is measured as well
        self._lock = threading.Lock()
        self.answered = 0
        self.most_descriptors = 0

    def got(self, tenant: int, connection: bytes) -> None:
        number = int(connection)
        with self._lock:
            if number >= len(self._owner):
                self._owner.extend([-1] * (number + 1 - len(self._owner)))
            if self._owner[number] == -1:
                self._owner[number] = tenant
            assert self._owner[number] == tenant, "a connection served two tenants"
            self.answered += 1
            if self.answered % 50 == 0 and os.path.isdir("/proc/self/fd"):
                self.most_descriptors = max(self.most_descriptors, len(os.listdir("/proc/self/fd")))

    @property
    def connections(self) -> int:
        return len(self._owner) - self._owner.count(-1)


def memory() -> int:
    """Resident bytes, where the system tells."""
    gc.collect()
    try:
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def visits(seed: int, number: int) -> Iterator[int]:
    """Tenants to visit: now and again the same one several times in a row, so that connections are kept."""
    draw = random.Random(seed)
    while number > 0:
        tenant = draw.randrange(len(TENANTS))
        for _ in range(min(number, draw.choice((1, 1, 3)))):
            number -= 1
            yield tenant


def by_requests() -> Any:
    from netjail.clients.requests import Session

    session = Session(pool_connections=KEPT)
    return session, lambda url: session.get(url, timeout=30).content


def by_urllib3() -> Any:
    from netjail.clients.urllib3 import PoolManager

    pool = PoolManager(num_pools=KEPT)
    pool.close = pool.clear  # type: ignore[attr-defined]
    return pool, lambda url: pool.request("GET", url, timeout=30).data


def by_httpx() -> Any:
    import httpx

    from netjail.clients.httpx import Transport

    client = httpx.Client(transport=Transport(max_idle_transports=KEPT), timeout=30)
    return client, lambda url: client.get(url).content


@pytest.mark.parametrize("make", [by_requests, by_urllib3, by_httpx])
def test_no_connection_serves_two_tenants_from_many_threads(make, server):
    owners = Owners()
    client, fetch = make()

    def work(seed: int, number: int) -> None:
        for tenant in visits(seed, number):
            with use_rules(TENANTS[tenant]):
                owners.got(tenant, fetch(server.url()))

    def all_of_them(number: int) -> None:
        with ThreadPoolExecutor(THREADS) as threads:
            for done in [threads.submit(work, seed, number // THREADS) for seed in range(THREADS)]:
                done.result()

    all_of_them(REQUESTS // 4)
    before = memory()
    all_of_them(REQUESTS)
    client.close()
    assert owners.answered > REQUESTS
    assert owners.connections < owners.answered, "connections were kept and used again"
    assert owners.most_descriptors < DESCRIPTORS
    assert memory() - before < 30 * 2**20


def by_aiohttp() -> Any:
    import aiohttp

    from netjail.clients.aiohttp import Connector

    session = aiohttp.ClientSession(connector=Connector(max_idle_transports=KEPT))

    async def fetch(url: str) -> bytes:
        async with session.get(url) as response:
            return await response.read()

    return session, fetch


def by_httpx_async() -> Any:
    import httpx

    from netjail.clients.httpx import AsyncTransport

    client = httpx.AsyncClient(transport=AsyncTransport(max_idle_transports=KEPT), timeout=30)

    async def fetch(url: str) -> bytes:
        return (await client.get(url)).content

    client.close = client.aclose  # type: ignore[attr-defined]
    return client, fetch


@pytest.mark.parametrize("make", [by_aiohttp, by_httpx_async])
def test_no_connection_serves_two_tenants_on_an_event_loop(make, server):
    owners = Owners()

    async def all_of_them() -> None:
        client, fetch = make()

        async def work(seed: int, number: int) -> None:
            for tenant in visits(seed, number):
                with use_rules(TENANTS[tenant]):
                    owners.got(tenant, await fetch(server.url()))

        await asyncio.gather(*(work(seed, REQUESTS // 4 // THREADS) for seed in range(THREADS)))
        before = memory()
        await asyncio.gather(*(work(seed, REQUESTS // THREADS) for seed in range(THREADS)))
        await client.close()
        await asyncio.sleep(0.05)  # transports close one turn of the loop later
        assert memory() - before < 30 * 2**20

    asyncio.run(all_of_them())
    assert owners.answered > REQUESTS
    assert owners.connections < owners.answered, "connections were kept and used again"
    assert owners.most_descriptors < DESCRIPTORS


def test_rules_are_built_hashed_and_pickled_from_many_threads_at_once():
    shared = Rules(allow=["0.0.0.0/0", "::/0"], block=[f"10.{number}.0.0/16" for number in range(0, 200, 2)])
    start = threading.Barrier(16)

    def work(seed: int) -> tuple[Any, ...]:
        start.wait()
        built = Rules(allow=["0.0.0.0/0", "::/0"], block=[f"10.{number}.0.0/16" for number in range(0, 200, 2)])
        copied = pickle.loads(pickle.dumps(shared))
        narrowed = shared & Rules(allow=[f"10.{2 * seed + 1}.0.0/16"])
        return hash(shared), hash(built), hash(copied), built == shared == copied, len(shared.block), bool(narrowed)

    with ThreadPoolExecutor(16) as threads:
        outcomes = set(threads.map(work, range(16)))
    assert outcomes == {(hash(shared), hash(shared), hash(shared), True, 100, True)}
