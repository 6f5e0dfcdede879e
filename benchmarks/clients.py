"""Each client, plain and jailed: what opens one, and how it gets a URL."""

from __future__ import annotations

import contextlib
import importlib
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from netjail import Rules

FRESH = {"Connection": "close"}  # asks for a connection that is not kept


@dataclass
class Client:
    """A client of one library. ``plain`` and ``jailed`` are context managers that give a function of a URL.

    ``jailed`` takes the rules, None for those of the context, and how many pools it may keep.
    """

    name: str
    plain: Callable[..., Any]
    jailed: Callable[..., Any]
    awaited: bool = False
    keeps: bool = True
    """Whether connections are kept, and not opened for each request."""


def _urllib3() -> Client:
    library, ours = importlib.import_module("urllib3"), importlib.import_module("netjail.clients.urllib3")

    @contextlib.contextmanager
    def opened(manager: Any, headers: Any, timeout: float | None) -> Iterator[Any]:
        with manager:
            yield lambda url: manager.request("GET", url, headers=headers, timeout=timeout).data

    def plain(headers: Any = None, timeout: float | None = None) -> Any:
        return opened(library.PoolManager(), headers, timeout)

    def jailed(rules: Rules | None, pools: int = 10, headers: Any = None, timeout: float | None = None) -> Any:
        return opened(ours.PoolManager(rules, num_pools=pools), headers, timeout)

    return Client("urllib3", plain, jailed)


def _requests() -> Client:
    library, ours = importlib.import_module("requests"), importlib.import_module("netjail.clients.requests")

    @contextlib.contextmanager
    def opened(session: Any, headers: Any, timeout: float | None) -> Iterator[Any]:
        session.trust_env = False  # as ours; reading the environment would cost the plain one more than rules do
        session.headers.update(headers or {})
        with session:
            yield lambda url: session.get(url, timeout=timeout).content

    def plain(headers: Any = None, timeout: float | None = None) -> Any:
        return opened(library.Session(), headers, timeout)

    def jailed(rules: Rules | None, pools: int = 10, headers: Any = None, timeout: float | None = None) -> Any:
        return opened(ours.Session(rules, pool_connections=pools), headers, timeout)

    return Client("requests", plain, jailed)


def _httpx(name: str) -> Client:
    library, ours = importlib.import_module(name), importlib.import_module(f"netjail.clients.{name}")
    verify = ssl.create_default_context()  # one for all: making one takes longer than connecting

    @contextlib.contextmanager
    def opened(**options: Any) -> Iterator[Any]:
        with library.Client(trust_env=False, **options) as client:
            yield lambda url: client.get(url).content

    def plain(headers: Any = None, timeout: float | None = None) -> Any:
        return opened(verify=verify, headers=headers, timeout=timeout)

    def jailed(rules: Rules | None, pools: int = 10, headers: Any = None, timeout: float | None = None) -> Any:
        transport = ours.Transport(rules, max_idle_transports=pools, verify=verify)
        return opened(transport=transport, headers=headers, timeout=timeout)

    return Client(name, plain, jailed)


def _async_httpx(name: str) -> Client:
    library, ours = importlib.import_module(name), importlib.import_module(f"netjail.clients.{name}")
    verify = ssl.create_default_context()  # one for all: making one takes longer than connecting

    @contextlib.asynccontextmanager
    async def opened(**options: Any) -> AsyncIterator[Any]:
        async with library.AsyncClient(trust_env=False, **options) as client:
            yield client.get

    def limits(limit: int) -> Any:
        return library.Limits(max_connections=limit, max_keepalive_connections=limit)

    def plain(headers: Any = None, timeout: float | None = None, limit: int = 100) -> Any:
        return opened(verify=verify, limits=limits(limit), headers=headers, timeout=timeout)

    def jailed(
        rules: Rules | None, pools: int = 10, headers: Any = None, timeout: float | None = None, limit: int = 100
    ) -> Any:
        transport = ours.AsyncTransport(rules, max_idle_transports=pools, verify=verify, limits=limits(limit))
        return opened(transport=transport, headers=headers, timeout=timeout)

    return Client(f"{name} async", plain, jailed, awaited=True)


def _aiohttp() -> Client:
    library, ours = importlib.import_module("aiohttp"), importlib.import_module("netjail.clients.aiohttp")

    @contextlib.asynccontextmanager
    async def opened(connector: Any, headers: Any, timeout: float | None) -> AsyncIterator[Any]:
        times = library.ClientTimeout(connect=timeout)
        async with library.ClientSession(connector=connector, headers=headers, timeout=times) as session:

            async def get(url: str) -> bytes:
                async with session.get(url) as response:
                    return await response.read()  # type: ignore[no-any-return]

            yield get

    def plain(headers: Any = None, timeout: float | None = None, limit: int = 100) -> Any:
        return opened(library.TCPConnector(limit=limit), headers, timeout)

    def jailed(
        rules: Rules | None, pools: int = 10, headers: Any = None, timeout: float | None = None, limit: int = 100
    ) -> Any:
        return opened(ours.Connector(rules, max_idle_transports=pools, limit=limit), headers, timeout)

    return Client("aiohttp", plain, jailed, awaited=True)


def _urllib() -> Client:
    library, ours = importlib.import_module("urllib.request"), importlib.import_module("netjail.clients.urllib")

    @contextlib.contextmanager
    def opened(opener: Any, timeout: float | None) -> Iterator[Any]:
        def get(url: str) -> bytes:
            with opener.open(url, timeout=timeout) as response:
                return response.read()  # type: ignore[no-any-return]

        yield get

    def plain(headers: Any = None, timeout: float | None = None) -> Any:
        del headers  # it always asks for a fresh one
        return opened(library.build_opener(library.ProxyHandler({})), timeout)

    def jailed(rules: Rules | None, pools: int = 10, headers: Any = None, timeout: float | None = None) -> Any:
        del headers, pools
        return opened(ours.build_opener(rules), timeout)

    return Client("urllib", plain, jailed, keeps=False)


def _http_client() -> Client:
    """The same module's HTTPConnection, which keeps one connection."""
    library, ours = importlib.import_module("http.client"), importlib.import_module("netjail.clients.urllib")

    @contextlib.contextmanager
    def opened(kind: Any, **options: Any) -> Iterator[Any]:
        kept: dict[str, Any] = {}

        def get(url: str) -> bytes:
            connection = kept.get(url) or kept.setdefault(url, kind(url.split("/")[2], **options))
            connection.request("GET", "/")
            return connection.getresponse().read()  # type: ignore[no-any-return]

        yield get
        for connection in kept.values():
            connection.close()

    def plain() -> Any:
        return opened(library.HTTPConnection)

    def jailed(rules: Rules | None, pools: int = 1) -> Any:
        del pools
        return opened(ours.HTTPConnection, rules=rules)

    return Client("http.client", plain, jailed)


_MAKERS = (
    _urllib3,
    _requests,
    lambda: _httpx("httpx"),
    lambda: _httpx("httpx2"),
    _urllib,
    _http_client,
    lambda: _async_httpx("httpx"),
    lambda: _async_httpx("httpx2"),
    _aiohttp,
)


def installed() -> list[Client]:
    """Those whose library is there."""
    there: list[Client] = []
    for make in _MAKERS:
        with contextlib.suppress(ImportError):
            there.append(make())
    return there
