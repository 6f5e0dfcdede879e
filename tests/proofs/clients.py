"""Every client as one function, for proofs that run the same cases through all of them.

A URL client fetches a URL, follows redirects where it does so, and gives the body, or None where it has none to give.
A host client connects to a host and a port, and may fail in what comes after that. An entry is made by a context
manager from rules and a resolver, or an awaited one for clients of asyncio.
"""

from __future__ import annotations

import asyncio
import gc
import re
import socket
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager
from functools import cache, partial
from typing import Any
from unicodedata import normalize
from urllib.parse import unquote

from netjail import AsyncDialer, Dialer, find_denied
from netjail._addresses import is_literal

from .reactor import Reactor

Fetch = Callable[[str], Any]
AsyncFetch = Callable[[str], Awaitable[Any]]
TIMEOUT = 5
SOON = 0.1
"""Seconds, for clients that do nothing but try again where a server hangs up."""


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


# HTTP, too, over engines of their own. Not every one of them gives the body, and few follow redirects.


def pieces_of(url: str) -> Iterator[str]:
    """What somebody's parser may take for the host of ``url`` or of a URL within it."""
    for text in dict.fromkeys((url, unquote(url), unquote(unquote(url)))):
        for piece in re.split(r"[/\\@#?;,:=&\s]+", text):
            for form in dict.fromkeys((piece, normalize("NFKC", piece), piece.rstrip("."), piece.lower())):
                if re.fullmatch(r"[^\[\]:]*[.\w][^\[\]:]*", form):
                    yield form


def resolved_for_libcurl(url: str, resolver: Any) -> list[str]:
    """libcurl's own table of names, as it asks nobody else then: whatever it finds in ``url`` and ``resolver`` knows.

    Any other name leads inside. Hosts in brackets are no names, and are not to be found in the table.
    """
    ports = {*re.findall(r":0*([1-9]\d{0,4})", unquote(url)), "80", "443"}
    table = {}
    for piece in pieces_of(url):
        try:
            answer = [piece] if is_literal(piece) else [str(each) for each in resolver.lookup(piece, socket.AF_UNSPEC)]
        except OSError:
            continue
        for name in (piece, answer[0]) if len(answer) == 1 and ":" not in answer[0] else (piece,):
            table[name] = ",".join(f"[{each}]" if ":" in each else each for each in answer)
    if "[" not in unquote(url):
        table["*"] = "127.0.0.3"
    return [f"{name}:{int(port)}:{answer}" for port in ports if int(port) < 65536 for name, answer in table.items()]


@contextmanager
def pycurl(rules: Any, resolver: Any) -> Iterator[Fetch]:
    import pycurl

    from netjail.clients.pycurl import Curl

    def fetch(url: str) -> bytes:
        curl = Curl(rules)
        curl.setopt(pycurl.RESOLVE, resolved_for_libcurl(url, resolver))
        curl.setopt(pycurl.TIMEOUT, TIMEOUT)
        curl.setopt(pycurl.FAILONERROR, 1)
        curl.setopt(pycurl.FOLLOWLOCATION, 1)
        curl.setopt(pycurl.URL, url.encode())
        try:
            body: bytes = curl.perform_rb()
            return body
        finally:
            curl.close()

    yield fetch


@contextmanager
def curl_cffi(rules: Any, resolver: Any) -> Iterator[Fetch]:
    from curl_cffi import CurlOpt

    from netjail.clients.curl_cffi import Session

    def fetch(url: str) -> Any:
        options = {CurlOpt.RESOLVE: resolved_for_libcurl(url, resolver)}
        with Session(rules, curl_options=options, timeout=TIMEOUT, raise_for_status=True) as session:
            return session.get(url).content

    yield fetch


@asynccontextmanager
async def curl_cffi_async(rules: Any, resolver: Any) -> AsyncIterator[AsyncFetch]:
    from curl_cffi import CurlOpt

    from netjail.clients.curl_cffi import AsyncSession

    async def fetch(url: str) -> Any:
        options = {CurlOpt.RESOLVE: resolved_for_libcurl(url, Blocking(resolver))}
        async with AsyncSession(rules, curl_options=options, timeout=TIMEOUT, raise_for_status=True) as session:
            return (await session.get(url)).content

    yield fetch


@cache
def reactor() -> Reactor:
    """The one in use, until :func:`no_reactor`."""
    return Reactor()


def no_reactor() -> None:
    if reactor.cache_info().currsize:
        reactor().close()
        reactor.cache_clear()


@contextmanager
def twisted(rules: Any, resolver: Any) -> Iterator[Fetch]:
    from netjail.clients.twisted import Agent  # noqa: F401 - it is used in the reactor's process

    yield partial(reactor().fetch, rules, resolver)


@asynccontextmanager
async def tornado(rules: Any, resolver: Any) -> AsyncIterator[AsyncFetch]:
    from netjail.clients.tornado import AsyncHTTPClient

    client = AsyncHTTPClient(rules, resolver=resolver)

    async def fetch(url: str) -> bytes:
        return (await client.fetch(url, connect_timeout=TIMEOUT, request_timeout=TIMEOUT)).body

    try:
        yield fetch
    finally:
        client.close()


def as_scheme(scheme: str, url: str) -> str:
    """``url``, and the URL within it, in another scheme."""
    first, rest = scheme[:1], scheme[1:]
    return re.sub("h(t)(\n?)tp(?=:)", rf"{first}\2{rest}", re.sub("(?i)http(?=:|%3a)", scheme, url))


@contextmanager
def websockets_sync(rules: Any, resolver: Any) -> Iterator[Fetch]:
    from websockets.exceptions import InvalidStatus

    from netjail.clients.websockets import sync_connect

    def fetch(url: str) -> Any:
        try:
            sync_connect(as_scheme("ws", url), rules=rules, resolver=resolver, open_timeout=TIMEOUT).close()
        except InvalidStatus as answered:
            if answered.response.status_code != 200:
                raise
            return answered.response.body

    yield fetch


@asynccontextmanager
async def websockets(rules: Any, resolver: Any) -> AsyncIterator[AsyncFetch]:
    from websockets.exceptions import InvalidStatus

    from netjail.clients.websockets import connect

    async def fetch(url: str) -> Any:
        try:
            await (await connect(as_scheme("ws", url), rules=rules, resolver=resolver, open_timeout=TIMEOUT)).close()
        except InvalidStatus as answered:
            if answered.response.status_code != 200:
                raise
            return answered.response.body

    yield fetch


@contextmanager
def websocket_client(rules: Any, resolver: Any) -> Iterator[Fetch]:
    import websocket

    from netjail.clients.websocket_client import create_connection

    def fetch(url: str) -> Any:
        try:
            create_connection(as_scheme("ws", url), TIMEOUT, rules=rules, resolver=resolver).close()
        except websocket.WebSocketBadStatusException as answered:
            if answered.status_code != 200:
                raise
            return answered.resp_body

    yield fetch


@cache
def _models() -> Any:
    """botocore's descriptions of services, which take longer to read than all that is done with them."""
    from botocore.loaders import create_loader

    return create_loader()


@contextmanager
def botocore(rules: Any, resolver: Any) -> Iterator[Fetch]:
    from botocore.config import Config

    from netjail.clients.botocore import Session

    session = Session(rules, resolver=resolver)
    session.set_credentials("key", "secret")
    session.register_component("data_loader", _models())
    config = Config(connect_timeout=TIMEOUT, read_timeout=TIMEOUT, retries={"max_attempts": 0, "mode": "standard"})

    def fetch(url: str) -> None:
        client = session.create_client("sts", "us-east-1", endpoint_url=url, config=config)
        try:
            client.get_caller_identity()
        finally:
            client.close()

    yield fetch


@contextmanager
def elasticsearch(rules: Any, resolver: Any) -> Iterator[Fetch]:
    from elasticsearch import Elasticsearch

    from netjail.clients.elasticsearch import node_class

    node = node_class(rules, resolver=resolver)

    def fetch(url: str) -> None:
        with Elasticsearch(url, node_class=node, request_timeout=TIMEOUT, max_retries=0) as client:
            client.info()

    yield fetch


@asynccontextmanager
async def elasticsearch_async(rules: Any, resolver: Any) -> AsyncIterator[AsyncFetch]:
    from elasticsearch import AsyncElasticsearch

    from netjail.clients.elasticsearch import async_node_class

    node = async_node_class(rules, resolver=resolver)

    async def fetch(url: str) -> None:
        async with AsyncElasticsearch(url, node_class=node, request_timeout=TIMEOUT, max_retries=0) as client:
            await client.info()

    yield fetch


@contextmanager
def opensearch(rules: Any, resolver: Any) -> Iterator[Fetch]:
    from opensearchpy import OpenSearch

    from netjail.clients.opensearch import connection_class

    made = connection_class(rules, resolver=resolver)

    def fetch(url: str) -> None:
        with OpenSearch(url, connection_class=made, timeout=TIMEOUT, max_retries=0) as client:
            client.info()

    yield fetch


@asynccontextmanager
async def opensearch_async(rules: Any, resolver: Any) -> AsyncIterator[AsyncFetch]:
    from opensearchpy import AsyncOpenSearch

    from netjail.clients.opensearch import async_connection_class

    made = async_connection_class(rules, resolver=resolver)

    async def fetch(url: str) -> None:
        async with AsyncOpenSearch(url, connection_class=made, timeout=TIMEOUT, max_retries=0) as client:
            await client.info()

    yield fetch


ENGINES = {
    "pycurl": pycurl,
    "curl_cffi": curl_cffi,
    "Twisted": twisted,
    "websockets, threading": websockets_sync,
    "websocket-client": websocket_client,
    "botocore": botocore,
    "elasticsearch": elasticsearch,
    "opensearch-py": opensearch,
}
ASYNC_ENGINES = {
    "curl_cffi, async": curl_cffi_async,
    "tornado": tornado,
    "websockets": websockets,
    "elasticsearch, async": elasticsearch_async,
    "opensearch-py, async": opensearch_async,
}

Connect = Callable[[str, int], None]
AsyncConnect = Callable[[str, int], Awaitable[None]]
HOST_CLIENTS: dict[str, Callable[..., AbstractContextManager[Connect]]] = {}
ASYNC_HOST_CLIENTS: dict[str, Callable[..., AbstractAsyncContextManager[AsyncConnect]]] = {}


def host_client(name: str) -> Callable[[Any], Any]:
    """Puts a function of rules, a resolver, a host and a port among the clients of hosts."""

    def put(connect: Any) -> Any:
        @contextmanager
        def made(rules: Any, resolver: Any) -> Iterator[Connect]:
            yield partial(connect, rules, resolver)

        HOST_CLIENTS[name] = made
        return connect

    return put


def async_host_client(name: str) -> Callable[[Any], Any]:
    """The same for a coroutine function."""

    def put(connect: Any) -> Any:
        @asynccontextmanager
        async def made(rules: Any, resolver: Any) -> AsyncIterator[AsyncConnect]:
            yield partial(connect, rules, resolver)

        ASYNC_HOST_CLIENTS[name] = made
        return connect

    return put


def dsn_client(scheme: str, name: str) -> Callable[[Any], Any]:
    """Puts a function of rules, a resolver and a URL of ``scheme`` among what is given URLs that are not of the web."""

    def put(connect: Any) -> Any:
        @contextmanager
        def made(rules: Any, resolver: Any) -> Iterator[Fetch]:
            yield lambda url: connect(rules, resolver, as_scheme(scheme, url))

        DSN_CLIENTS[name] = made
        return connect

    return put


def async_dsn_client(scheme: str, name: str) -> Callable[[Any], Any]:
    """The same for a coroutine function."""

    def put(connect: Any) -> Any:
        @asynccontextmanager
        async def made(rules: Any, resolver: Any) -> AsyncIterator[AsyncFetch]:
            yield lambda url: connect(rules, resolver, as_scheme(scheme, url))

        ASYNC_DSN_CLIENTS[name] = made
        return connect

    return put


DSN_CLIENTS: dict[str, Callable[..., AbstractContextManager[Fetch]]] = {}
ASYNC_DSN_CLIENTS: dict[str, Callable[..., AbstractAsyncContextManager[AsyncFetch]]] = {}


def left_to_the_collector(make: Callable[[], Any]) -> Any:
    """What ``make`` gives; where it fails, what the library itself leaves open then is collected unheard."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            return make()
        except Exception as error:
            failed = error.with_traceback(None)
        if find_denied(failed) is None:
            gc.collect()
        raise failed


class Awaited:
    """The AsyncResolver that answers as a Resolver does, for a loop inside of a client that blocks."""

    def __init__(self, resolver: Any) -> None:
        self._resolver = resolver

    async def lookup(self, host: str, family: int) -> Any:
        return self._resolver.lookup(host, family)


class Blocking:
    """The Resolver that answers as an AsyncResolver of these tests does, which never waits."""

    def __init__(self, resolver: Any) -> None:
        self._resolver = resolver

    def lookup(self, host: str, family: int) -> Any:
        try:
            self._resolver.lookup(host, family).send(None)
        except StopIteration as end:
            return end.value
        raise AssertionError("it waits")


# What dials plainly.


@host_client("Dialer")
def dialer(rules, resolver, host, port):
    Dialer(rules, resolver=resolver).connect((host, port), TIMEOUT).close()


@async_host_client("AsyncDialer")
async def async_dialer(rules, resolver, host, port):
    (await AsyncDialer(rules, resolver=resolver).connect((host, port), TIMEOUT)).close()


@host_client("netjail.sockets")
def sockets(rules, resolver, host, port):
    from netjail.sockets import socket_factory

    factory = socket_factory(rules, resolver=resolver)
    failed: Any = None
    for family in (socket.AF_INET, socket.AF_INET6):
        with factory(family) as sock:
            sock.settimeout(TIMEOUT)
            try:
                sock.connect((host, port))
            except Exception as error:
                failed = error if failed is None or find_denied(error) else failed
            else:
                return
    raise failed


def on_loop(rules: Any, resolver: Any, work: Any, **options: Any) -> Any:
    """The outcome of a coroutine function on a loop of netjail's."""
    from netjail.loop import new_event_loop

    made = partial(new_event_loop, rules, resolver=Awaited(resolver), **options)
    with asyncio.Runner(loop_factory=made) as runner:
        return runner.run(work())


async def streams(host: str, port: int) -> None:
    _, writer = await asyncio.open_connection(host, port)
    writer.transport.abort()


@host_client("netjail.loop")
def loop(rules, resolver, host, port):
    on_loop(rules, resolver, partial(streams, host, port))


@host_client("netjail.loop on uvloop")
def loop_uvloop(rules, resolver, host, port):
    on_loop(rules, resolver, partial(streams, host, port), uvloop=True)


@async_host_client("anyio")
async def anyio(rules, resolver, host, port):
    from netjail.clients.anyio import connect_tcp

    await (await connect_tcp(host, port, rules=rules, resolver=resolver)).aclose()


@host_client("anyio on trio")
def anyio_trio(rules, resolver, host, port):
    import trio

    trio.run(anyio, rules, Awaited(resolver), host, port)


@host_client("trio")
def trio(rules, resolver, host, port):
    import trio

    from netjail.clients.trio import open_tcp_stream

    async def connect() -> None:
        await (await open_tcp_stream(host, port, rules=rules, resolver=Awaited(resolver))).aclose()

    trio.run(connect)


@host_client("http.client")
def http_client(rules, resolver, host, port):
    from netjail.clients.urllib import HTTPConnection

    connection = HTTPConnection(host, port, timeout=TIMEOUT, rules=rules, resolver=resolver)
    try:
        connection.request("GET", "/")
    finally:
        connection.close()


# Databases.


@host_client("psycopg")
def psycopg(rules, resolver, host, port):
    from netjail.clients.psycopg import connect

    connect(**_libpq(host, port), rules=rules, resolver=resolver).close()


def _libpq(host: str, port: int) -> dict[str, Any]:
    plain = {"user": "u", "dbname": "d", "sslmode": "disable", "gssencmode": "disable", "connect_timeout": 2}
    return {"host": host, "port": port, **plain}


@async_host_client("psycopg, async")
async def psycopg_async(rules, resolver, host, port):
    from netjail.clients.psycopg import AsyncConnection

    await (await AsyncConnection.connect(**_libpq(host, port), rules=rules, resolver=resolver)).close()


@host_client("psycopg_pool")
def psycopg_pool(rules, resolver, host, port):
    from netjail.clients.psycopg_pool import ConnectionPool

    options: dict[str, Any] = {
        "kwargs": _libpq(host, port),
        "min_size": 0,
        "max_size": 1,
        "open": True,
        "timeout": SOON,
    }
    with ConnectionPool("", rules=rules, resolver=resolver, **options) as pool:
        pool.getconn()


@async_host_client("psycopg_pool, async")
async def psycopg_pool_async(rules, resolver, host, port):
    from netjail.clients.psycopg_pool import AsyncConnectionPool

    options: dict[str, Any] = {
        "kwargs": _libpq(host, port),
        "min_size": 0,
        "max_size": 1,
        "open": False,
        "timeout": SOON,
    }
    async with AsyncConnectionPool("", rules=rules, resolver=resolver, **options) as pool:
        await pool.getconn()


@host_client("psycopg2")
def psycopg2(rules, resolver, host, port):
    from netjail.clients.psycopg2 import connect

    connect(**_libpq(host, port), rules=rules, resolver=resolver).close()


@dsn_client("postgresql", "psycopg, URI")
def psycopg_uri(rules, resolver, url):
    from netjail.clients.psycopg import connect

    connect(url, user="u", dbname="d", connect_timeout=2, rules=rules, resolver=resolver).close()


@dsn_client("postgresql", "psycopg2, URI")
def psycopg2_uri(rules, resolver, url):
    from netjail.clients.psycopg2 import connect

    connect(url, user="u", dbname="d", connect_timeout=2, rules=rules, resolver=resolver).close()


@host_client("PyMySQL")
def pymysql(rules, resolver, host, port):
    from netjail.clients.pymysql import connect

    connect(
        rules, host=host, port=port, user="u", ssl_disabled=True, connect_timeout=TIMEOUT, resolver=resolver
    ).close()


@host_client("MySQL Connector/Python")
def mysql_connector(rules, resolver, host, port):
    from netjail.clients.mysql_connector import connect

    login: dict[str, Any] = {"user": "u", "password": "p", "connection_timeout": TIMEOUT}
    connect(rules, host=host, port=port, resolver=resolver, **login).close()


@async_host_client("MySQL Connector/Python, async")
async def mysql_connector_async(rules, resolver, host, port):
    from netjail.clients.mysql_connector import aconnect

    login: dict[str, Any] = {"user": "u", "password": "p", "connection_timeout": TIMEOUT}
    await (await aconnect(rules, host=host, port=port, resolver=resolver, **login)).close()


@host_client("SQLAlchemy")
def sqlalchemy(rules, resolver, host, port):
    from sqlalchemy import URL

    from netjail.clients.pymysql import connect
    from netjail.clients.sqlalchemy import create_engine

    url = URL.create("mysql+pymysql", "u", "p", host, port, "d")
    _sqlalchemy(create_engine, url, rules, partial(connect, resolver=resolver, ssl_disabled=True))


def _sqlalchemy(create_engine: Any, url: Any, rules: Any, connect: Any) -> None:
    engine = create_engine(url, rules, connect=lambda *args, rules, **options: connect(rules, *args, **options))
    try:
        engine.connect().close()
    finally:
        engine.dispose()


@dsn_client("mysql+pymysql", "SQLAlchemy, URL")
def sqlalchemy_url(rules, resolver, url):
    from netjail.clients.pymysql import connect
    from netjail.clients.sqlalchemy import create_engine

    _sqlalchemy(create_engine, url, rules, partial(connect, resolver=resolver, ssl_disabled=True))


@async_host_client("SQLAlchemy, async")
async def sqlalchemy_async(rules, resolver, host, port):
    from sqlalchemy import URL

    from netjail.clients.psycopg import AsyncConnection
    from netjail.clients.sqlalchemy import create_async_engine

    url = URL.create("postgresql+psycopg", "u", "p", host, port, "d", {"sslmode": "disable", "gssencmode": "disable"})
    plain: Any = AsyncConnection.connect
    connect = partial(plain, resolver=resolver, connect_timeout=2)
    engine = create_async_engine(url, rules, connect=connect)
    try:
        await (await engine.connect()).close()
    finally:
        await engine.dispose()


def _redis() -> dict[str, Any]:
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    return {"socket_connect_timeout": TIMEOUT, "socket_timeout": TIMEOUT, "retry": Retry(NoBackoff(), 0)}


def _redis_async() -> dict[str, Any]:
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    return {"socket_connect_timeout": TIMEOUT, "socket_timeout": TIMEOUT, "retry": Retry(NoBackoff(), 0)}


@host_client("redis")
def redis(rules, resolver, host, port):
    from netjail.clients.redis import Redis

    with Redis(rules, host=host, port=port, resolver=resolver, **_redis()) as client:
        client.ping()


@async_host_client("redis, async")
async def redis_async(rules, resolver, host, port):
    from netjail.clients.redis import AsyncRedis

    async with AsyncRedis(rules, host=host, port=port, resolver=resolver, **_redis_async()) as client:
        await client.ping()


@dsn_client("redis", "redis, URL")
def redis_url(rules, resolver, url):
    from netjail.clients.redis import Redis

    with Redis.from_url(url, rules, resolver=resolver, **_redis()) as client:
        client.ping()


@host_client("redis, cluster")
def redis_cluster(rules, resolver, host, port):
    from netjail.clients.redis import RedisCluster

    RedisCluster(rules, host=host, port=port, resolver=resolver, **_redis()).close()


@async_host_client("redis, async cluster")
async def redis_async_cluster(rules, resolver, host, port):
    from netjail.clients.redis import AsyncRedisCluster

    async with AsyncRedisCluster(rules, host=host, port=port, resolver=resolver, **_redis_async()) as client:
        await client.ping()


@host_client("redis, sentinel")
def redis_sentinel(rules, resolver, host, port):
    from netjail.clients.redis import Sentinel

    sentinel = Sentinel(rules, [(host, port)], resolver=resolver, sentinel_kwargs=_redis())
    try:
        sentinel.discover_master("mine")
    finally:
        for each in sentinel.sentinels:
            each.close()


@async_host_client("redis, async sentinel")
async def redis_async_sentinel(rules, resolver, host, port):
    from netjail.clients.redis import AsyncSentinel

    sentinel = AsyncSentinel(rules, [(host, port)], resolver=resolver, sentinel_kwargs=_redis_async())
    try:
        await sentinel.discover_master("mine")
    finally:
        for each in sentinel.sentinels:
            await each.aclose()


def bracketed(host: str) -> str:
    """``host`` as the authority of a URL has it."""
    return f"[{host}]" if ":" in host and "[" not in host else host


MONGO: dict[str, Any] = {
    "serverSelectionTimeoutMS": 1_000 * SOON,
    "connectTimeoutMS": 1_000 * TIMEOUT,
    "directConnection": True,
}


@host_client("pymongo")
def pymongo(rules, resolver, host, port):
    from netjail.clients.pymongo import MongoClient

    with MongoClient(rules, bracketed(host), port, resolver=resolver, **MONGO) as client:
        client.admin.command("ping")


@dsn_client("mongodb", "pymongo, URL")
def pymongo_url(rules, resolver, url):
    from netjail.clients.pymongo import MongoClient

    with MongoClient(rules, url, resolver=resolver, **MONGO) as client:
        client.admin.command("ping")


@async_host_client("pymongo, async")
async def pymongo_async(rules, resolver, host, port):
    from netjail.clients.pymongo import AsyncMongoClient

    async with AsyncMongoClient(rules, bracketed(host), port, resolver=resolver, **MONGO) as client:
        await client.admin.command("ping")


@host_client("clickhouse-driver")
def clickhouse_driver(rules, resolver, host, port):
    from netjail.clients.clickhouse_driver import Client

    with Client(rules, host, port, resolver=resolver, connect_timeout=TIMEOUT) as client:
        client.execute("SELECT 1")


@dsn_client("clickhouse", "clickhouse-driver, URL")
def clickhouse_driver_url(rules, resolver, url):
    from netjail.clients.clickhouse_driver import Client

    with Client.from_url(url, rules, resolver=resolver) as client:
        client.execute("SELECT 1")


@host_client("clickhouse-connect")
def clickhouse_connect(rules, resolver, host, port):
    import clickhouse_connect

    from netjail.clients.urllib3 import PoolManager

    with PoolManager(rules, resolver=resolver, retries=False) as pool:
        clickhouse_connect.get_client(host=bracketed(host), port=port, pool_mgr=pool, interface="http").close()


@async_host_client("clickhouse-connect, async")
async def clickhouse_connect_async(rules, resolver, host, port):
    from netjail.clients.clickhouse_connect import get_async_client

    options: dict[str, Any] = {"interface": "http", "connect_timeout": TIMEOUT}
    await (await get_async_client(rules, resolver=resolver, host=bracketed(host), port=port, **options)).close()


# Brokers.


@host_client("kafka-python")
def kafka(rules, resolver, host, port):
    from netjail.clients.kafka import Client

    options: dict[str, Any] = {"bootstrap_servers": f"{bracketed(host)}:{port}", "reconnect_backoff_ms": 1_000}
    client = left_to_the_collector(partial(Client(rules, resolver=resolver), **options))  # a host with an open bracket
    try:
        client.check_version(timeout_ms=1_000 * SOON)
    finally:
        client.close()


@async_host_client("nats-py")
async def nats(rules, resolver, host, port):
    await nats_url(rules, resolver, f"nats://{bracketed(host)}:{port}")


@async_dsn_client("nats", "nats-py, URL")
async def nats_url(rules, resolver, url):
    from netjail.clients.nats import Client

    async def unheard(_: Exception) -> None:
        """nats-py logs what nobody hears."""

    options: dict[str, Any] = {
        "connect_timeout": 1,
        "allow_reconnect": False,
        "max_reconnect_attempts": 1,
        "reconnect_time_wait": 0,
    }
    client = Client(rules, resolver=resolver)
    try:
        await client.connect(url, error_cb=unheard, **options)
    finally:
        await client.close()


def _pika(parameters: Any) -> Any:
    parameters.connection_attempts, parameters.retry_delay = 1, 0
    parameters.socket_timeout = parameters.stack_timeout = TIMEOUT
    return parameters


@host_client("pika")
def pika(rules, resolver, host, port):
    from pika import ConnectionParameters

    from netjail.clients.pika import BlockingConnection

    parameters = _pika(ConnectionParameters(host, port))
    BlockingConnection(parameters, rules=rules, resolver=resolver).close()


@dsn_client("amqp", "pika, URL")
def pika_url(rules, resolver, url):
    from pika import URLParameters

    from netjail.clients.pika import BlockingConnection

    BlockingConnection(_pika(URLParameters(url)), rules=rules, resolver=resolver).close()


@async_host_client("pika, asyncio")
async def pika_asyncio(rules, resolver, host, port):
    from pika import ConnectionParameters

    from netjail.clients.pika import AsyncioConnection

    ended: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    AsyncioConnection(
        _pika(ConnectionParameters(host, port)),
        on_open_error_callback=lambda _, error: ended.set_result(error),
        rules=rules,
        resolver=Blocking(resolver),
    )
    raise await ended


@host_client("paho-mqtt")
def paho(rules, resolver, host, port):
    from paho.mqtt.enums import CallbackAPIVersion

    from netjail.clients.paho import Client

    client = Client(CallbackAPIVersion.VERSION2, rules=rules, resolver=resolver)
    client.connect_timeout = TIMEOUT
    client.connect(host, port)
    client.disconnect()
    client.loop_forever()


@async_host_client("aiomqtt")
async def aiomqtt(rules, resolver, host, port):
    from netjail.clients.aiomqtt import Client

    async with Client(host, port, rules=rules, resolver=Blocking(resolver), timeout=SOON):
        pass


# Mail, files, directories, shells, calls.


@host_client("smtplib")
def smtplib(rules, resolver, host, port):
    from netjail.clients.smtplib import SMTP

    SMTP(host, port, "here", TIMEOUT, rules=rules, resolver=resolver).close()


@host_client("smtplib, LMTP")
def smtplib_lmtp(rules, resolver, host, port):
    from netjail.clients.smtplib import LMTP

    LMTP(host, port, "here", timeout=TIMEOUT, rules=rules, resolver=resolver).close()


@host_client("imaplib")
def imaplib(rules, resolver, host, port):
    from netjail.clients.imaplib import IMAP4

    IMAP4(host, port, TIMEOUT, rules=rules, resolver=resolver).shutdown()


@host_client("poplib")
def poplib(rules, resolver, host, port):
    from netjail.clients.poplib import POP3

    made = partial(POP3, host, port, TIMEOUT, rules=rules, resolver=resolver)
    left_to_the_collector(made).close()  # a server that does not greet


@async_host_client("aiosmtplib")
async def aiosmtplib(rules, resolver, host, port):
    from netjail.clients.aiosmtplib import SMTP

    client = SMTP(hostname=host, port=port, local_hostname="here", timeout=TIMEOUT, rules=rules, resolver=resolver)
    try:
        await client.connect()
    finally:
        client.close()


@host_client("ftplib")
def ftplib(rules, resolver, host, port):
    from netjail.clients.ftplib import FTP

    with FTP(rules, resolver=resolver, timeout=TIMEOUT) as client:
        client.connect(host, port)


@host_client("paramiko")
def paramiko(rules, resolver, host, port):
    from netjail.clients.paramiko import SSHClient

    options: dict[str, Any] = {
        "timeout": TIMEOUT,
        "banner_timeout": TIMEOUT,
        "allow_agent": False,
        "look_for_keys": False,
    }
    with SSHClient(rules, resolver=resolver) as client:
        client.connect(host, port, "u", "p", **options)


@async_host_client("asyncssh")
async def asyncssh(rules, resolver, host, port):
    from netjail.clients.asyncssh import connect

    options: dict[str, Any] = {
        "known_hosts": None,
        "config": None,
        "username": "u",
        "client_keys": None,
        "connect_timeout": TIMEOUT,
    }
    async with connect(host, port, rules=rules, resolver=resolver, **options):
        pass


@host_client("ldap3")
def ldap3(rules, resolver, host, port):
    from ldap3 import NONE, Connection

    from netjail.clients.ldap3 import Server

    server = Server(rules, host, port, resolver=resolver, get_info=NONE, connect_timeout=TIMEOUT)
    connection = Connection(server, receive_timeout=TIMEOUT)
    connection.open()
    connection.unbind()


@host_client("gRPC")
def grpc(rules, resolver, host, port):

    from netjail.clients.grpc import insecure_channel

    with insecure_channel(f"{bracketed(host)}:{port}", rules=rules, resolver=resolver) as channel:
        call: Any = channel.unary_unary("/x/y")
        call(b"", timeout=TIMEOUT)


@async_host_client("gRPC, async")
async def grpc_async(rules, resolver, host, port):
    from netjail.clients.grpc import aio_insecure_channel

    channel = await aio_insecure_channel(f"{bracketed(host)}:{port}", rules=rules, resolver=resolver)
    async with channel:
        call: Any = channel.unary_unary("/x/y")
        await call(b"", timeout=TIMEOUT)


def by_url(client: Callable[..., AbstractContextManager[Fetch]]) -> Callable[..., AbstractContextManager[Connect]]:
    """A client of URLs as one of hosts."""

    @contextmanager
    def made(rules: Any, resolver: Any) -> Iterator[Connect]:
        with client(rules, resolver) as fetch:
            yield lambda host, port: fetch(f"http://{bracketed(host)}:{port}/")

    return made


def by_url_async(
    client: Callable[..., AbstractAsyncContextManager[AsyncFetch]],
) -> Callable[..., AbstractAsyncContextManager[AsyncConnect]]:
    """The same for clients of asyncio."""

    @asynccontextmanager
    async def made(rules: Any, resolver: Any) -> AsyncIterator[AsyncConnect]:
        async with client(rules, resolver) as fetch:
            yield lambda host, port: fetch(f"http://{bracketed(host)}:{port}/")

    return made


EVERY = HOST_CLIENTS | {name: by_url(client) for name, client in (URL_CLIENTS | ENGINES).items()}
EVERY_ASYNC = ASYNC_HOST_CLIENTS | {
    name: by_url_async(client) for name, client in (ASYNC_URL_CLIENTS | ASYNC_ENGINES).items()
}

_LIBPQ = {"psycopg", "psycopg, async", "psycopg, URI", "psycopg2", "psycopg2, URI", "SQLAlchemy, async"}
_LIBCURL = {"pycurl", "curl_cffi", "curl_cffi, async"}
IN_C = {*_LIBPQ, *_LIBCURL, "psycopg_pool", "psycopg_pool, async", "gRPC", "gRPC, async"}
"""What connects where no audit hook sees it: there the errors must tell what was dialled."""


_DIALLED = re.compile(r"""(?x)
    (?: server\ at\ " (?: [^"]*"\ \( )? | connect\ to\  | via\  | ipv[46]: )  # libpq, libcurl, gRPC
    ( (?: \d+\. ){3} \d+ | [0-9a-f]* (?: %3A | : ) [0-9a-f:.%A]+ )
    """)
_WAITED = re.compile("(?i)timed out|timeout expired|deadline")


def tells_of_another(error: Exception, allowed: str) -> bool:
    """Whether ``error``, of a client that connects from C, may come from a connection to anything but ``allowed``."""
    if find_denied(error) is not None:
        return False
    text = str(error)
    return bool(_WAITED.search(text)) or any(each != allowed for each in _DIALLED.findall(text))
