"""ClickHouse's clients under rules, against stand-ins on loopback: 127.0.0.2 is allowed and 127.0.0.3 is not."""

from __future__ import annotations

import logging
import pickle
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

import clickhouse_connect
import clickhouse_driver
import pytest
from clickhouse_connect.driver import exceptions, httputil
from clickhouse_driver import dbapi

import netjail
from netjail import Rules, find_denied, use_rules
from netjail.clients.clickhouse_driver import Client, DeniedError, connect
from netjail.clients.urllib3 import PoolManager
from tests.guard.harness import run_guarded
from tests.servers.clickhouse import Http, Native
from tests.servers.names import BAD, GOOD, AsyncNames, Names

Make = Callable[..., Any]
RULES = Rules(allow=[GOOD])
OTHER = Rules(allow=[BAD])
LOOPBACK = Rules(allow=["127.0.0.0/8"])
DRIVER = "clickhouse-driver"
DBAPI = "clickhouse-driver, DB-API"

pytestmark = pytest.mark.usefixtures("nothing_left_behind")


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """What clickhouse-driver logs of a failure holds its frames, and pytest holds what was logged."""
    caplog.set_level(logging.CRITICAL, logger="clickhouse_driver.connection")


@pytest.fixture
def native() -> Iterator[Make]:
    made: list[Native] = []

    def make(*args: Any, **kwargs: Any) -> Native:
        made.append(Native(*args, **kwargs))
        return made[-1]

    yield make
    for each in made:
        each.__exit__()


def client(rules: Rules | None, host: str, port: int, **options: Any) -> Client:
    return Client(rules, host, port, resolver=options.pop("resolver", None) or Names(), **options)


def ask(made: Any) -> int:
    """The number of the connection on which the answer came."""
    [(number,)] = made.execute("SELECT 1")
    return int(number)


@pytest.mark.proves(DRIVER, "allowed")
def test_a_query_goes_to_an_allowed_name_on_a_kept_connection(native: Make) -> None:
    server = native()
    with client(RULES, "good.test", server.port) as made:
        assert [ask(made) for _ in range(3)] == [1, 1, 1]
    with Client.from_url(f"clickhouse://good.test:{server.port}/", RULES, resolver=Names()) as made:
        assert ask(made) == 2
    assert [query for _, query in server.queries] == ["SELECT 1"] * 4


@pytest.mark.proves(DRIVER, "denied")
@pytest.mark.parametrize("host", ["bad.test", pytest.param(BAD, marks=pytest.mark.proves(DRIVER, "literal"))])
def test_a_denied_target_opens_nothing(trap: Make, host: str) -> None:
    port = trap(BAD).port
    with pytest.raises(DeniedError) as caught:
        ask(client(RULES, host, port))
    assert isinstance(caught.value, clickhouse_driver.errors.NetworkError)
    assert isinstance(caught.value, netjail.DeniedError)
    assert caught.value.host == host
    assert caught.value.message == str(caught.value)
    copied = pickle.loads(pickle.dumps(caught.value))
    assert (type(copied), str(copied)) == (DeniedError, str(caught.value))
    with pytest.raises(DeniedError, match="no rules are in force"):
        ask(client(None, host, port))


@pytest.mark.proves(DRIVER, "tls", "wrong-name")
def test_tls_is_checked_against_the_name(native: Make, server_tls: Make, pem: Make) -> None:
    server = native(tls=server_tls("good.test"))
    tls = {"secure": True, "ca_certs": str(pem("other.test").ca)}
    with client(RULES, "good.test", server.port, **tls) as made:
        assert ask(made) == 1
    with pytest.raises(clickhouse_driver.errors.NetworkError):
        ask(client(RULES, "wrong.test", server.port, **tls))
    with client(RULES, "wrong.test", server.port, server_hostname="good.test", **tls) as made:
        assert ask(made)
    assert len(server.queries) == 2


@pytest.mark.proves(DRIVER, "announced")
@pytest.mark.parametrize("round_robin", [False, True])
def test_other_hosts_are_judged_when_it_is_their_turn(native: Make, trap: Make, round_robin: bool) -> None:
    server = native()
    trap(BAD, port=server.port)
    hosts = {"alt_hosts": f"good.test:{server.port}", "round_robin": round_robin}
    with client(RULES, "bad.test", server.port, **hosts) as made:
        assert ask(made)
    with client(RULES, "good.test", server.port, alt_hosts=f"{BAD}:{server.port}", round_robin=round_robin) as made:
        assert ask(made)
        made.disconnect()


@pytest.mark.proves(DRIVER, "pools")
def test_a_query_never_goes_over_a_connection_of_other_rules(native: Make) -> None:
    server = native()
    with client(None, "good.test", server.port) as made:
        seen = []
        for rules in (RULES, RULES, LOOPBACK):
            with use_rules(rules):
                seen.append(ask(made))
        assert seen == [1, 1, 2]
        with use_rules(OTHER), pytest.raises(DeniedError):
            ask(made)
        with pytest.raises(DeniedError, match="no rules are in force"):
            ask(made)


def test_a_connection_that_was_lost_is_made_again_and_judged(native: Make) -> None:
    server = native()
    names = Names({"host.test": [GOOD]})
    with client(RULES, "host.test", server.port, resolver=names) as made:
        assert ask(made) == 1
        made.connection.socket.shutdown(socket.SHUT_RDWR)
        assert ask(made) == 2
        names.table["host.test"] = [BAD]
        made.connection.socket.shutdown(socket.SHUT_RDWR)
        with pytest.raises(DeniedError):
            ask(made)


def test_the_connect_timeout_covers_the_lookup(native: Make) -> None:
    server = native()
    given: list[float | None] = []

    def connect(address: Any, *, timeout: float | None) -> socket.socket:
        given.append(timeout)
        return socket.create_connection(address, timeout)

    with client(RULES, "good.test", server.port, connect=connect, connect_timeout=5) as made:
        assert ask(made) == 1
    [timeout] = given
    assert timeout is not None
    assert 0 < timeout <= 5


def test_other_failures_are_the_drivers_own() -> None:
    with socket.create_server((GOOD, 0)) as listener:
        port = listener.getsockname()[1]
    for host in ("good.test", "unknown.test"):
        with pytest.raises(clickhouse_driver.errors.NetworkError) as caught:
            ask(client(RULES, host, port))
        assert not isinstance(caught.value, netjail.DeniedError)


@pytest.mark.proves(DBAPI, "allowed", "denied", "literal", "tls", "wrong-name")
def test_the_cursors_of_the_db_api_are_judged(native: Make, trap: Make, server_tls: Make, pem: Make) -> None:
    server = native(tls=server_tls("good.test"))
    trap(BAD, port=server.port)
    tls = {"secure": True, "ca_certs": str(pem("other.test").ca)}

    def fetch(*args: Any, **options: Any) -> Any:
        with connect(RULES, *args, resolver=Names(), **options) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            return cursor.fetchone()

    assert fetch(host="good.test", port=server.port, **tls) == (1,)
    query = f"?secure=True&ca_certs={tls['ca_certs']}"
    assert fetch(f"clickhouse://good.test:{server.port}/{query}") == (2,)
    for host in ("bad.test", BAD):
        with pytest.raises(dbapi.OperationalError) as caught:
            fetch(host=host, port=server.port, **tls)
        assert find_denied(caught.value)
        with pytest.raises(dbapi.OperationalError) as caught:
            fetch(f"clickhouse://{host}:{server.port}/{query}")
        assert find_denied(caught.value)
    with pytest.raises(dbapi.OperationalError) as caught:
        fetch(host="wrong.test", port=server.port, **tls)
    assert not find_denied(caught.value)
    assert len(server.queries) == 2


@pytest.mark.proves("clickhouse-driver, guard", "allowed", "denied", "literal", "announced")
def test_under_the_guard_a_query_goes_to_an_allowed_name_alone(native: Make, trap: Make) -> None:
    server = native()
    trap(BAD, port=server.port)
    lines = run_guarded(
        """
        import clickhouse_driver
        def fetch(host, **more):
            with clickhouse_driver.Client(host, port=port, **more) as client:
                client.execute("SELECT 1")
        print(outcome(fetch, "good.test"), outcome(fetch, "bad.test"), outcome(fetch, BAD))
        print(outcome(fetch, "bad.test", alt_hosts=f"good.test:{port}"))
        print(outcome(fetch, BAD, alt_hosts=f"bad.test:{port}"))
        """,
        port=server.port,
    )
    assert lines == ["ok denied denied", "ok", "denied"]
    assert server.accepted == 2


# clickhouse-connect, over netjail's PoolManager.

CONNECT = "clickhouse-connect, sync"
QUERY = "SELECT 1 AS n"


@pytest.fixture
def http() -> Iterator[Make]:
    made: list[Http] = []

    def make(*args: Any, **kwargs: Any) -> Http:
        made.append(Http(*args, **kwargs))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def connected() -> Iterator[Make]:
    """Makes clients of clickhouse-connect, as docs/clients/clickhouse.md does."""
    pools: list[PoolManager] = []

    def make(rules: Rules | None, host: str, port: int, **options: Any) -> Any:
        tls = {name: options.pop(name) for name in ("ca_cert", "verify") if name in options}
        names = options.pop("resolver", None) or Names()
        pools.append(PoolManager(rules, resolver=names, **httputil.get_pool_manager_options(**tls)))
        return clickhouse_connect.get_client(host=host, port=port, pool_mgr=pools[-1], **options)

    yield make
    for pool in pools:
        pool.clear()
        httputil.all_managers.pop(pool, None)


def number(made: Any) -> int:
    """The number of the connection on which the answer came."""
    return int(made.query(QUERY).result_rows[0][0])


@pytest.mark.proves(CONNECT, "allowed")
def test_every_way_of_the_client_goes_over_the_pool_manager(http: Make, connected: Make) -> None:
    server = http()
    made = connected(RULES, "good.test", server.port)
    assert [number(made) for _ in range(3)] == [1, 1, 1]
    made.insert("t", [[1]], column_names=["n"], column_type_names=["UInt8"])
    made.raw_insert("t", insert_block=iter([b"1\n", b"2\n"]), fmt="CSV")
    with made.query_row_block_stream(QUERY) as blocks:
        assert [row for block in blocks for row in block] == [(1,)]
    assert made.raw_query(QUERY)
    assert made.ping()
    made.http.clear()
    assert number(made) == 2
    assert server.accepted == 2


@pytest.mark.proves(CONNECT, "denied")
@pytest.mark.parametrize("host", ["bad.test", pytest.param(BAD, marks=pytest.mark.proves(CONNECT, "literal"))])
def test_the_client_opens_nothing_at_a_denied_target(trap: Make, connected: Make, host: str) -> None:
    names = Names()
    with pytest.raises(exceptions.OperationalError) as caught:
        connected(RULES, host, trap(BAD).port, resolver=names)
    denied = find_denied(caught.value)
    assert denied is not None
    assert denied.host == host
    assert len(names.asked) == (0 if host == BAD else 1)


@pytest.mark.proves(CONNECT, "tls", "wrong-name")
def test_the_clients_tls_is_checked_against_the_name(http: Make, connected: Make, server_tls: Make, pem: Make) -> None:
    server = http(tls=server_tls("good.test"))
    options = {"secure": True, "ca_cert": str(pem("other.test").ca)}
    assert number(connected(RULES, "good.test", server.port, **options)) == 1
    before = len(server.seen)
    with pytest.raises(exceptions.OperationalError, match="certificate is not valid for"):
        connected(RULES, "wrong.test", server.port, **options)
    assert len(server.seen) == before


@pytest.mark.proves(CONNECT, "pools")
def test_the_clients_connections_serve_their_own_rules_alone(http: Make, connected: Make) -> None:
    server = http()
    with use_rules(RULES):
        made = connected(None, "good.test", server.port)
    seen = []
    for rules in (RULES, LOOPBACK, RULES):
        with use_rules(rules):
            seen.append(number(made))
    assert seen == [1, 2, 1]
    for rules in (OTHER, Rules()):
        with use_rules(rules), pytest.raises(exceptions.OperationalError) as caught:
            number(made)
        assert find_denied(caught.value)
        with use_rules(rules):
            assert not made.ping()
    assert server.accepted == 2


@pytest.mark.proves(CONNECT, "refused")
def test_with_the_pool_manager_no_proxy_is_used(
    http: Make, connected: Make, trap: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, proxy = http(), trap("127.0.0.1")
    assert number(connected(LOOPBACK, "good.test", server.port, http_proxy=proxy.url())) == 1
    for name in ("HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, proxy.url())
        monkeypatch.setenv(name.lower(), proxy.url())
    assert number(connected(LOOPBACK, "good.test", server.port)) == 2


# clickhouse-connect's asynchronous client, which dials through aiohttp.

ASYNC = "clickhouse-connect, async"
VERSION = tuple(int(part) for part in version("clickhouse-connect").split(".")[:2])
asynchronous = pytest.mark.skipif(VERSION < (1, 6), reason="the client had its sessions elsewhere before 1.6")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def aclient(rules: Rules | None, host: str | None, port: int | None, **options: Any) -> AsyncIterator[Any]:
    from netjail.clients.clickhouse_connect import get_async_client  # noqa: PLC0415 - it needs 1.6

    names = options.pop("resolver", None) or AsyncNames()
    made = await get_async_client(rules, resolver=names, host=host, port=port, **options)
    try:
        yield made
    finally:
        await made.close()


async def anumber(made: Any) -> int:
    return int((await made.query(QUERY)).result_rows[0][0])


@asynchronous
@pytest.mark.anyio
@pytest.mark.proves(ASYNC, "allowed")
async def test_every_way_of_the_async_client_goes_over_the_connector(http: Make) -> None:
    server = http()
    async with aclient(RULES, "good.test", server.port) as made:
        assert [await anumber(made) for _ in range(3)] == [1, 1, 1]
        await made.insert("t", [[1]], column_names=["n"], column_type_names=["UInt8"])
        await made.raw_insert("t", insert_block=b"1\n", fmt="CSV")
        assert await made.raw_query(QUERY)
        assert await made.ping()
        await made.close_connections()
        assert await anumber(made) == 2
    assert server.accepted == 2


@asynchronous
@pytest.mark.anyio
@pytest.mark.proves(ASYNC, "denied")
@pytest.mark.parametrize("host", ["bad.test", pytest.param(BAD, marks=pytest.mark.proves(ASYNC, "literal"))])
async def test_the_async_client_opens_nothing_at_a_denied_target(trap: Make, host: str) -> None:
    names = AsyncNames()
    with pytest.raises(exceptions.OperationalError) as caught:
        async with aclient(RULES, host, trap(BAD).port, resolver=names):
            pass
    denied = find_denied(caught.value)
    assert denied is not None
    assert denied.host == host
    assert len(names.asked) == (0 if host == BAD else 1)


@asynchronous
@pytest.mark.anyio
@pytest.mark.proves(ASYNC, "tls", "wrong-name")
async def test_the_async_clients_tls_is_checked_against_the_name(http: Make, server_tls: Make, pem: Make) -> None:
    server = http(tls=server_tls("good.test"))
    options = {"secure": True, "ca_cert": str(pem("other.test").ca)}
    async with aclient(RULES, "good.test", server.port, **options) as made:
        assert await anumber(made) == 1
    before = len(server.seen)
    with pytest.raises(exceptions.OperationalError, match="certificate is not valid for"):
        async with aclient(RULES, "wrong.test", server.port, **options):
            pass
    assert len(server.seen) == before


@asynchronous
@pytest.mark.anyio
@pytest.mark.proves(ASYNC, "pools")
async def test_the_async_clients_connections_serve_their_own_rules_alone(http: Make) -> None:
    server = http()
    with use_rules(RULES):
        async with aclient(None, "good.test", server.port) as made:
            seen = []
            for rules in (RULES, LOOPBACK, RULES):
                with use_rules(rules):
                    seen.append(await anumber(made))
            assert seen == [1, 2, 1]
            with use_rules(OTHER), pytest.raises(exceptions.OperationalError) as caught:
                await anumber(made)
            assert find_denied(caught.value)
    assert server.accepted == 2


@asynchronous
@pytest.mark.anyio
@pytest.mark.proves(ASYNC, "refused")
async def test_a_proxy_for_the_async_client_is_refused(trap: Make) -> None:
    proxy = trap("127.0.0.1")
    in_a_dsn = f"http:?http_proxy={proxy.url()}"
    for name, value in (("http_proxy", proxy.url()), ("https_proxy", proxy.url()), ("dsn", in_a_dsn)):
        with pytest.raises(ValueError, match="a proxy"):
            async with aclient(LOOPBACK, "good.test", 1, **{name: value}):
                pass


@asynchronous
@pytest.mark.anyio
async def test_the_async_client_uses_no_proxy_of_the_environments(
    http: Make, trap: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, proxy = http(), trap("127.0.0.1")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy.url())
    async with aclient(LOOPBACK, "good.test", server.port) as made:
        assert await anumber(made) == 1
        assert await made.ping()


@asynchronous
@pytest.mark.anyio
async def test_the_async_client_takes_a_dsn_which_is_judged(http: Make, trap: Make) -> None:
    server = http()
    trap(BAD, port=server.port)
    for login, more in (("app:x@", {}), ("", {"user": "app", "password": "x", "compression": False})):
        dsn = f"clickhouse://{login}good.test:{server.port}/shop"
        async with aclient(RULES, None, None, dsn=dsn, **more) as made:
            assert await anumber(made)
            assert made.database == "shop"
    with pytest.raises(exceptions.OperationalError) as caught:
        async with aclient(RULES, None, None, dsn=f"http://bad.test:{server.port}/shop"):
            pass
    assert find_denied(caught.value)
