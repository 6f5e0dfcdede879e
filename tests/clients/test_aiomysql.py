"""aiomysql on netjail's loop, against a MariaDB with TLS: 127.0.0.2 is allowed and 127.0.0.3 is not."""

from __future__ import annotations

import asyncio
import importlib.util
import ssl
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import aiomysql
import pymysql
import pytest

from netjail import Rules, current_rules, find_denied, use_rules
from netjail.loop import new_event_loop
from tests.guard.harness import run_guarded
from tests.servers.daemon import Daemon
from tests.servers.mariadb import PASSWORD, USER, mariadb
from tests.servers.names import BAD, GOOD, AsyncNames

Make = Callable[..., Any]
RULES = Rules(allow=[GOOD])
OTHER = Rules(allow=[BAD])
NAME = "aiomysql"
CIPHER = "SELECT variable_value FROM information_schema.session_status WHERE variable_name = 'Ssl_cipher'"

pytestmark = pytest.mark.usefixtures("nothing_left_behind")

if importlib.util.find_spec("uvloop") is not None:
    import uvloop

    uvloop.new_event_loop().close()  # libuv opens a pipe with the first loop, and never closes it


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, pem: Make) -> Iterator[Daemon]:
    with mariadb(tmp_path_factory.mktemp("mariadb"), pem("good.test")) as running:
        yield running


@pytest.fixture
def login(server: Daemon) -> dict[str, Any]:
    return {"port": server.port, "user": USER, "password": PASSWORD}


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Runs a coroutine on a loop with rules."""
    if request.param == "uvloop":
        pytest.importorskip("uvloop")

    def run_(coroutine: Any, rules: Rules | None = RULES) -> Any:
        factory = partial(new_event_loop, rules, uvloop=request.param == "uvloop", resolver=AsyncNames())
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(coroutine)

    return run_


async def one(connection: Any, query: str = "SELECT 1 + 1") -> Any:
    async with connection.cursor() as cursor:
        await cursor.execute(query)
        row = await cursor.fetchone()
        return row and row[0]


async def fetch(query: str = "SELECT 1 + 1", **options: Any) -> Any:
    connection = await aiomysql.connect(**options)
    try:
        return await one(connection, query)
    finally:
        await connection.ensure_closed()


@pytest.mark.proves(NAME, "allowed")
def test_a_query_goes_to_an_allowed_name(run: Make, login: dict[str, Any]) -> None:
    assert run(fetch(host="good.test", **login)) == 2


@pytest.mark.proves(NAME, "denied")
@pytest.mark.parametrize("host", ["bad.test", pytest.param(BAD, marks=pytest.mark.proves(NAME, "literal"))])
def test_a_denied_target_opens_nothing(run: Make, trap: Make, login: dict[str, Any], host: str) -> None:
    trap(BAD, port=login["port"])
    with pytest.raises(pymysql.err.OperationalError, match="Can't connect") as caught:
        run(fetch(host=host, **login))
    denied = find_denied(caught.value)
    assert denied is not None
    assert denied.host == host


def test_only_the_accepted_address_of_a_name_is_dialled(run: Make, trap: Make, login: dict[str, Any]) -> None:
    trap(BAD, port=login["port"])
    assert run(fetch(host="mixed.test", **login)) == 2


@pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("run", ["asyncio"], indirect=True)  # aiomysql does not wait until what it closes is closed
@pytest.mark.proves(NAME, "tls", "wrong-name")
def test_tls_is_checked_against_the_name(run: Make, login: dict[str, Any], client_tls: ssl.SSLContext) -> None:
    assert run(fetch(CIPHER, host="good.test", ssl=client_tls, **login))
    with pytest.raises(pymysql.err.OperationalError) as caught:
        run(fetch(CIPHER, host="wrong.test", ssl=client_tls, **login))
    assert "wrong.test" in str(caught.value.__cause__)
    assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)


@pytest.mark.proves(NAME, "pools")
def test_a_pool_for_each_rules_keeps_their_connections_apart(run: Make, login: dict[str, Any]) -> None:
    """The recipe of docs/clients/mysql.md."""
    pools: dict[Any, asyncio.Future[Any]] = {}

    def pool() -> asyncio.Future[Any]:
        rules = current_rules()
        if rules not in pools:
            made = aiomysql.create_pool(host="good.test", minsize=0, pool_recycle=-1, **login)
            pools[rules] = asyncio.ensure_future(made)
        return pools[rules]

    async def ask() -> Any:
        async with (await pool()).acquire() as connection:
            return await one(connection, "SELECT connection_id()")

    async def scenario() -> None:
        seen = []
        for rules in (RULES, Rules(allow=["127.0.0.0/8"]), RULES):
            with use_rules(rules):
                seen.append(await ask())
        assert seen[0] == seen[2] != seen[1]
        with use_rules(OTHER), pytest.raises(pymysql.err.OperationalError) as caught:
            await ask()
        assert find_denied(caught.value)
        for made in pools.values():
            (await made).close()
            await (await made).wait_closed()

    run(scenario(), None)


def test_a_connection_that_reconnects_is_judged_again(run: Make, trap: Make, login: dict[str, Any]) -> None:
    async def scenario() -> None:
        with use_rules(RULES):
            connection = await aiomysql.connect(host="good.test", **login)
            await fetch(f"KILL {await one(connection, 'SELECT connection_id()')}", host="good.test", **login)
        with use_rules(OTHER), pytest.raises(pymysql.err.OperationalError) as caught:
            await connection.ping(reconnect=True)
        assert find_denied(caught.value)
        with use_rules(RULES):
            await connection.ping(reconnect=True)
            assert await one(connection) == 2
        await connection.ensure_closed()

    run(scenario(), None)


@pytest.mark.proves("aiomysql, guard", "allowed", "denied", "literal")
def test_under_the_guard_a_query_goes_to_an_allowed_name_alone(trap: Make, login: dict[str, Any]) -> None:
    trap(BAD, port=login["port"])
    lines = run_guarded(
        """
        import aiomysql, asyncio
        async def get(host):
            connection = await aiomysql.connect(host=host, **login)
            async with connection.cursor() as cursor:
                await cursor.execute("SELECT 1 + 1")
                assert await cursor.fetchone() == (2,)
            await connection.ensure_closed()
        fetch = lambda host: asyncio.run(get(host))
        print(outcome(fetch, "good.test"), outcome(fetch, "bad.test"), outcome(fetch, BAD))
        """,
        login=login,
    )
    assert lines == ["ok denied denied"]
