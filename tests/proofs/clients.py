"""Every client as one function, for proofs that run the same cases through all of them.

A URL client fetches a URL, follows redirects, and gives the body. A host client connects to a host and a port. An
entry is made by a context manager from rules and a resolver, or an awaited one for clients of asyncio.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from netjail import AsyncDialer, Dialer

Fetch = Callable[[str], bytes]
AsyncFetch = Callable[[str], Awaitable[bytes]]
TIMEOUT = 5


@contextmanager
def httpx(rules: Any, resolver: Any) -> Iterator[Fetch]:
    import httpx

    from netjail.clients.httpx import Transport

    transport = Transport(rules, resolver=resolver)
    with httpx.Client(transport=transport, timeout=TIMEOUT, follow_redirects=True) as client:
        yield lambda url: client.get(url).content


@contextmanager
def httpx2(rules: Any, resolver: Any) -> Iterator[Fetch]:
    import httpx2

    from netjail.clients.httpx2 import Transport

    transport = Transport(rules, resolver=resolver)
    with httpx2.Client(transport=transport, timeout=TIMEOUT, follow_redirects=True) as client:
        yield lambda url: client.get(url).content


@contextmanager
def requests(rules: Any, resolver: Any) -> Iterator[Fetch]:
    from netjail.clients.requests import Session

    with Session(rules, resolver=resolver) as session:
        yield lambda url: session.get(url, timeout=TIMEOUT).content


@contextmanager
def urllib3(rules: Any, resolver: Any) -> Iterator[Fetch]:
    from urllib3 import Retry

    from netjail.clients.urllib3 import PoolManager

    once = Retry(total=None, redirect=5, connect=0, read=0, other=0)
    with PoolManager(rules, resolver=resolver, timeout=TIMEOUT, retries=once) as pool:
        yield lambda url: pool.request("GET", url).data


@contextmanager
def urllib(rules: Any, resolver: Any) -> Iterator[Fetch]:
    from netjail.clients.urllib import build_opener

    opener = build_opener(rules, resolver=resolver)

    def fetch(url: str) -> bytes:
        with opener.open(url, timeout=TIMEOUT) as response:
            body: bytes = response.read()
            return body

    yield fetch


@asynccontextmanager
async def httpx_async(rules: Any, resolver: Any) -> AsyncIterator[AsyncFetch]:
    import httpx

    from netjail.clients.httpx import AsyncTransport

    transport = AsyncTransport(rules, resolver=resolver)
    async with httpx.AsyncClient(transport=transport, timeout=TIMEOUT, follow_redirects=True) as client:

        async def fetch(url: str) -> bytes:
            return (await client.get(url)).content

        yield fetch


@asynccontextmanager
async def httpx2_async(rules: Any, resolver: Any) -> AsyncIterator[AsyncFetch]:
    import httpx2

    from netjail.clients.httpx2 import AsyncTransport

    transport = AsyncTransport(rules, resolver=resolver)
    async with httpx2.AsyncClient(transport=transport, timeout=TIMEOUT, follow_redirects=True) as client:

        async def fetch(url: str) -> bytes:
            return (await client.get(url)).content

        yield fetch


@asynccontextmanager
async def aiohttp(rules: Any, resolver: Any) -> AsyncIterator[AsyncFetch]:
    import aiohttp

    from netjail.clients.aiohttp import Connector

    connector = Connector(rules, resolver=resolver)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=TIMEOUT)) as session:

        async def fetch(url: str) -> bytes:
            async with session.get(url) as response:
                return await response.read()

        yield fetch


URL_CLIENTS = {"httpx": httpx, "httpx2": httpx2, "requests": requests, "urllib3": urllib3, "urllib": urllib}
ASYNC_URL_CLIENTS = {"httpx, async": httpx_async, "httpx2, async": httpx2_async, "aiohttp": aiohttp}

Connect = Callable[[str, int], None]
AsyncConnect = Callable[[str, int], Awaitable[None]]


@contextmanager
def dialer(rules: Any, resolver: Any) -> Iterator[Connect]:
    plain = Dialer(rules, resolver=resolver)
    yield lambda host, port: plain.connect((host, port), TIMEOUT).close()


@asynccontextmanager
async def async_dialer(rules: Any, resolver: Any) -> AsyncIterator[AsyncConnect]:
    plain = AsyncDialer(rules, resolver=resolver)

    async def connect(host: str, port: int) -> None:
        (await plain.connect((host, port), TIMEOUT)).close()

    yield connect


HOST_CLIENTS = {"Dialer": dialer}
ASYNC_HOST_CLIENTS = {"AsyncDialer": async_dialer}
