"""Each client, plain and jailed, as a pair of functions that get one URL with an open client."""

from __future__ import annotations

import contextlib
import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from netjail import Rules


@dataclass
class Pair:
    """Two functions that do one GET each, ``plain`` and ``jailed``, to be awaited where ``awaited`` is true."""

    plain: Callable[[], Any]
    jailed: Callable[[], Any]
    awaited: bool = False


@contextlib.contextmanager
def urllib3(url: str, rules: Rules | None, pools: int) -> Iterator[Pair]:
    library, ours = importlib.import_module("urllib3"), importlib.import_module("netjail.clients.urllib3")
    with library.PoolManager() as plain, ours.PoolManager(rules, num_pools=pools) as jailed:
        yield Pair(lambda: plain.request("GET", url).data, lambda: jailed.request("GET", url).data)


@contextlib.contextmanager
def requests(url: str, rules: Rules | None, pools: int) -> Iterator[Pair]:
    library, ours = importlib.import_module("requests"), importlib.import_module("netjail.clients.requests")
    with library.Session() as plain, ours.Session(rules, pool_connections=pools) as jailed:
        plain.trust_env = False  # as ours; reading the environment would cost it more than rules do
        yield Pair(lambda: plain.get(url).content, lambda: jailed.get(url).content)


def _httpx(name: str) -> Any:
    @contextlib.contextmanager
    def pair(url: str, rules: Rules | None, pools: int) -> Iterator[Pair]:
        library, ours = importlib.import_module(name), importlib.import_module(f"netjail.clients.{name}")
        transport = ours.Transport(rules, max_idle_transports=pools)
        with library.Client(trust_env=False) as plain, library.Client(transport=transport) as jailed:
            yield Pair(lambda: plain.get(url).content, lambda: jailed.get(url).content)

    return pair


@contextlib.contextmanager
def urllib(url: str, rules: Rules | None, pools: int) -> Iterator[Pair]:
    """urllib has no pool, so this one measures a fresh connection each time."""
    del pools
    library, ours = importlib.import_module("urllib.request"), importlib.import_module("netjail.clients.urllib")
    plain, jailed = library.build_opener(library.ProxyHandler({})), ours.build_opener(rules)
    yield Pair(lambda: plain.open(url).read(), lambda: jailed.open(url).read())


SYNC: dict[str, Any] = {
    "urllib3": urllib3,
    "requests": requests,
    "httpx": _httpx("httpx"),
    "httpx2": _httpx("httpx2"),
    "urllib": urllib,
}


def _async_httpx(name: str) -> Any:
    @contextlib.asynccontextmanager
    async def pair(url: str, rules: Rules | None, pools: int) -> Any:
        library, ours = importlib.import_module(name), importlib.import_module(f"netjail.clients.{name}")
        transport = ours.AsyncTransport(rules, max_idle_transports=pools)
        async with library.AsyncClient(trust_env=False) as plain, library.AsyncClient(transport=transport) as jailed:
            yield Pair(lambda: plain.get(url), lambda: jailed.get(url), awaited=True)

    return pair


@contextlib.asynccontextmanager
async def aiohttp(url: str, rules: Rules | None, pools: int) -> Any:
    library, ours = importlib.import_module("aiohttp"), importlib.import_module("netjail.clients.aiohttp")

    async def get(session: Any) -> bytes:
        async with session.get(url) as response:
            return await response.read()  # type: ignore[no-any-return]

    connector = ours.Connector(rules, max_idle_transports=pools)
    async with library.ClientSession() as plain, library.ClientSession(connector=connector) as jailed:
        yield Pair(lambda: get(plain), lambda: get(jailed), awaited=True)


ASYNC: dict[str, Any] = {
    "httpx async": _async_httpx("httpx"),
    "httpx2 async": _async_httpx("httpx2"),
    "aiohttp": aiohttp,
}
