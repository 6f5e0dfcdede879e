"""The demo's clients: a plain one, one that checks the URL first, and every jailed one that is installed.

This module knows how each library makes a request, as its users would write it, and nothing of attacks.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
import urllib.request
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from contextvars import copy_context
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from ._network import CERTIFICATE, DEAD, PUBLIC

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from netjail import Rules

TIMEOUT = 3.0


class Fetch(Protocol):
    """Gets the body behind a URL, redirects followed; with ``sent`` it posts that."""

    def __call__(self, url: str, sent: bytes | None = None, /) -> bytes: ...


@dataclass(frozen=True)
class Client:
    """``open`` makes one client object for some rules, which is closed in the end, and gives its Fetch."""

    name: str
    column: str
    jailed: bool
    open: Callable[[Rules | None], AbstractContextManager[Fetch]]
    keeps_alive: bool = True


class RefusedError(Exception):
    """What the client that checks URLs raises."""


def plain_clients() -> list[Client]:
    """The plain client (requests where it is installed, else urllib) and the same behind a check of the URL."""
    try:
        import_module("requests")
    except ImportError:
        name, plain, keeps_alive = "urllib", _plain_urllib, False
    else:
        name, plain, keeps_alive = "requests", _plain_requests, True
    checked = partial(_checked, plain)
    return [
        Client(f"plain client ({name})", "plain", jailed=False, open=plain, keeps_alive=keeps_alive),
        Client("client that checks the URL first", "URL\ncheck", jailed=False, open=checked, keeps_alive=keeps_alive),
    ]


def jailed_clients() -> tuple[list[Client], list[str]]:
    """The jailed clients, and the names of the libraries that are not installed."""
    modules: dict[str, list[Client]] = {
        "httpx": [
            Client("httpx", "httpx", jailed=True, open=partial(_httpx, "httpx")),
            Client("httpx async", "httpx", jailed=True, open=partial(_async, partial(_httpx_async, "httpx"))),
        ],
        "httpx2": [
            Client("httpx2", "httpx\n2", jailed=True, open=partial(_httpx, "httpx2")),
            Client("httpx2 async", "httpx\n2", jailed=True, open=partial(_async, partial(_httpx_async, "httpx2"))),
        ],
        "requests": [Client("requests", "requ-\nests", jailed=True, open=_requests)],
        "urllib3": [Client("urllib3", "url-\nlib3", jailed=True, open=_urllib3)],
        "aiohttp": [Client("aiohttp", "aio-\nhttp", jailed=True, open=partial(_async, _aiohttp))],
        "urllib": [Client("urllib", "url-\nlib", jailed=True, open=_urllib, keeps_alive=False)],
    }
    installed: list[Client] = []
    missing: list[str] = []
    for module, clients in modules.items():
        try:
            import_module(f"netjail.clients.{module}")
        except ImportError as error:
            if (error.name or "").startswith("netjail"):
                raise
            missing.append(module)
        else:
            installed += clients
    return installed, missing


@cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(CERTIFICATE))


# The plain ones.


@contextmanager
def _plain_requests(_rules: Rules | None) -> Iterator[Fetch]:
    requests: Any = import_module("requests")
    with requests.Session() as session:
        yield partial(_through_requests, session)


def _through_requests(session: Any, url: str, sent: bytes | None = None) -> Any:
    method = "GET" if sent is None else "POST"
    return session.request(method, url, data=sent, timeout=TIMEOUT, verify=str(CERTIFICATE)).content


@contextmanager
def _plain_urllib(_rules: Rules | None) -> Iterator[Fetch]:
    https = urllib.request.HTTPSHandler(context=_tls())
    yield lambda url, sent=None: _through_urllib(urllib.request.build_opener(https), url, sent)


def _through_urllib(opener: urllib.request.OpenerDirector, url: str, sent: bytes | None = None) -> Any:
    with opener.open(url, sent, TIMEOUT) as response:
        return response.read()


@contextmanager
def _checked(plain: Callable[[Rules | None], AbstractContextManager[Fetch]], rules: Rules | None) -> Iterator[Fetch]:
    """What many programs do: look at where the URL leads, and then hand the URL to the client."""

    def fetch_checked(url: str, sent: bytes | None = None, /) -> bytes:
        host = urlsplit(url).hostname
        for *_, address in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM):
            # The demo's public addresses are loopback addresses, so that a check would find them private.
            if address[0] not in (PUBLIC, DEAD) and ipaddress.ip_address(address[0]).is_private:
                raise RefusedError(url)
        return fetch(url, sent)

    with plain(rules) as fetch:
        yield fetch_checked


# The jailed ones.


@contextmanager
def _httpx(name: str, rules: Rules | None) -> Iterator[Fetch]:
    httpx, jailed = import_module(name), import_module(f"netjail.clients.{name}")
    transport = jailed.Transport(rules, verify=_tls())
    with httpx.Client(transport=transport, follow_redirects=True, timeout=TIMEOUT) as client:
        yield lambda url, sent=None: client.request("GET" if sent is None else "POST", url, content=sent).content


@contextmanager
def _requests(rules: Rules | None) -> Iterator[Fetch]:
    jailed = import_module("netjail.clients.requests")
    with jailed.Session(rules) as session:
        yield partial(_through_requests, session)


@contextmanager
def _urllib3(rules: Rules | None) -> Iterator[Fetch]:
    jailed = import_module("netjail.clients.urllib3")
    with jailed.PoolManager(rules, ssl_context=_tls(), timeout=TIMEOUT) as pool:
        yield lambda url, sent=None: pool.request("GET" if sent is None else "POST", url, body=sent).data


@contextmanager
def _urllib(rules: Rules | None) -> Iterator[Fetch]:
    jailed = import_module("netjail.clients.urllib")
    yield partial(_through_urllib, jailed.build_opener(rules, context=_tls()))


@asynccontextmanager
async def _httpx_async(name: str, rules: Rules | None) -> AsyncIterator[Any]:
    httpx, jailed = import_module(name), import_module(f"netjail.clients.{name}")
    transport = jailed.AsyncTransport(rules, verify=_tls())
    async with httpx.AsyncClient(transport=transport, follow_redirects=True, timeout=TIMEOUT) as client:

        async def fetch(url: str, sent: bytes | None) -> Any:
            return (await client.request("GET" if sent is None else "POST", url, content=sent)).content

        yield fetch


@asynccontextmanager
async def _aiohttp(rules: Rules | None) -> AsyncIterator[Any]:
    aiohttp, jailed = import_module("aiohttp"), import_module("netjail.clients.aiohttp")
    connector = jailed.Connector(rules, ssl=_tls())
    timeout = aiohttp.ClientTimeout(total=TIMEOUT)
    # trust_env, which is off unless asked for, makes this session as open to the environment as the plain client.
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=True) as session:

        async def fetch(url: str, sent: bytes | None) -> Any:
            async with session.request("GET" if sent is None else "POST", url, data=sent) as response:
                return await response.read()

        yield fetch


@contextmanager
def _async(make: Callable[[Rules | None], Any], rules: Rules | None) -> Iterator[Fetch]:
    """An async client on a loop of its own, with the rules of whoever calls."""
    with asyncio.Runner() as runner:
        manager = make(rules)
        fetch = runner.run(manager.__aenter__())
        try:
            yield lambda url, sent=None: runner.run(fetch(url, sent), context=copy_context())
        finally:
            runner.run(manager.__aexit__(None, None, None))
