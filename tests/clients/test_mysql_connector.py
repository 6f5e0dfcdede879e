"""MySQL Connector/Python under rules, against a MariaDB with TLS: 127.0.0.2 is allowed and 127.0.0.3 is not."""

from __future__ import annotations

import asyncio
import importlib.util
import pickle
import socket
import ssl
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import mysql.connector
import mysql.connector.aio
import pytest

import netjail
from netjail import Rules, use_rules
from netjail.clients.mysql_connector import AsyncMySQLConnection, DeniedError, MySQLConnection, aconnect, connect
from netjail.loop import new_event_loop
from tests.guard.harness import run_guarded
from tests.servers.daemon import Daemon
from tests.servers.mariadb import PASSWORD, USER, mariadb
from tests.servers.names import BAD, GOOD, AsyncNames, Names

Make = Callable[..., Any]
RULES = Rules(allow=[GOOD])
OTHER = Rules(allow=[BAD])
SYNC = "mysql-connector-python, sync"
ASYNC = "mysql-connector-python, async"
CIPHER = "SELECT variable_value FROM information_schema.session_status WHERE variable_name = 'Ssl_cipher'"

pytestmark = pytest.mark.usefixtures("nothing_left_behind")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, pem: Make) -> Iterator[Daemon]:
    with mariadb(tmp_path_factory.mktemp("mariadb"), pem("good.test")) as running:
        yield running


@pytest.fixture
def login(server: Daemon) -> dict[str, Any]:
    return {"port": server.port, "user": USER, "password": PASSWORD, "ssl_disabled": True}


@pytest.fixture
def options(login: dict[str, Any]) -> dict[str, Any]:
    return {**login, "resolver": Names()}


def one(connection: Any, query: str = "SELECT 1 + 1") -> Any:
    with connection.cursor() as cursor:
        cursor.execute(query)
        return cursor.fetchone()[0]


@pytest.mark.proves(SYNC, "allowed")
def test_a_query_goes_to_an_allowed_name(options: dict[str, Any]) -> None:
    ways: list[dict[str, Any]] = [{}, {"use_pure": True}]
    for given in ways:
        with connect(RULES, host="good.test", **given, **options) as connection:
            assert one(connection) == 2


@pytest.mark.proves(SYNC, "denied")
@pytest.mark.parametrize("host", ["bad.test", pytest.param(BAD, marks=pytest.mark.proves(SYNC, "literal"))])
def test_a_denied_target_opens_nothing(trap: Make, options: dict[str, Any], host: str) -> None:
    trap(BAD, port=options["port"])
    with pytest.raises(DeniedError) as caught:
        MySQLConnection(RULES, host=host, **options)
    assert isinstance(caught.value, mysql.connector.errors.InterfaceError)
    assert isinstance(caught.value, netjail.DeniedError)
    assert caught.value.msg == str(caught.value)
    assert caught.value.sqlstate is None
    copied = pickle.loads(pickle.dumps(caught.value))
    assert (type(copied), str(copied)) == (DeniedError, str(caught.value))


def test_without_rules_everything_is_denied(options: dict[str, Any]) -> None:
    with pytest.raises(DeniedError, match="no rules are in force"):
        MySQLConnection(host="good.test", **options)


def test_without_a_host_the_connectors_default_is_judged(trap: Make, options: dict[str, Any]) -> None:
    trap("127.0.0.1", port=options["port"])
    with pytest.raises(DeniedError, match=r"'127\.0\.0\.1'"):
        MySQLConnection(RULES, **options)


def test_only_the_accepted_address_of_a_name_is_dialled(trap: Make, options: dict[str, Any]) -> None:
    trap(BAD, port=options["port"])
    with MySQLConnection(RULES, host="mixed.test", **options) as connection:
        assert one(connection) == 2
    with pytest.raises(DeniedError, match="not every one"):
        MySQLConnection(RULES, host="mixed.test", mixed="refuse", **options)


@pytest.mark.proves(SYNC, "tls", "wrong-name")
def test_tls_is_checked_against_the_name(options: dict[str, Any], pem: Make) -> None:
    options |= {"ssl_ca": str(pem("other.test").ca), "ssl_verify_identity": True, "ssl_disabled": False}
    with MySQLConnection(RULES, host="good.test", **options) as connection:
        assert one(connection, CIPHER)
    with pytest.raises(mysql.connector.Error, match="certificate verify failed"):
        MySQLConnection(RULES, host="wrong.test", **options)


@pytest.mark.proves(SYNC, "pools")
@pytest.mark.parametrize("again", ["reconnect", "ping"])
def test_a_connection_reconnects_under_the_rules_that_it_was_made_under(options: dict[str, Any], again: str) -> None:
    options["resolver"] = names = Names({"host.test": [GOOD]})
    with use_rules(RULES):
        connection = MySQLConnection(host="host.test", **options)
    reconnect: Any = {"reconnect": connection.reconnect, "ping": partial(connection.ping, reconnect=True)}[again]
    connection.shutdown()
    with use_rules(OTHER):
        reconnect(attempts=1)
        assert one(connection) == 2
    names.table["host.test"] = [BAD]
    connection.shutdown()
    del names.asked[:]
    with use_rules(OTHER), pytest.raises(DeniedError):
        reconnect(attempts=9, delay=60)
    assert len(names.asked) == 1
    connection.close()


@pytest.mark.proves(SYNC, "refused")
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"use_pure": False}, "the extension in C"),
        ({"dns_srv": True}, "dns_srv= is refused"),
        ({"failover": [{"host": GOOD}]}, "failover= is refused"),
        ({"pool_name": "all"}, "pool_name= is refused"),
        ({"pool_size": 3}, "pool_size= is refused"),
        ({"pool_reset_session": True}, "pool_reset_session= is refused"),
    ],
)
def test_what_dials_or_pools_by_itself_is_refused(
    options: dict[str, Any], given: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=words):
        MySQLConnection(RULES, host="good.test", **given, **options)
    [(name, value)] = given.items()
    file = tmp_path / "my.cnf"
    file.write_text(f"[connector_python]\n{name}={value}\n")
    for option in ("option_files", "read_default_file"):
        from_file: dict[str, Any] = {**options, option: str(file)}
        with pytest.raises(ValueError, match=words):
            MySQLConnection(RULES, host="good.test", **from_file)


@pytest.mark.proves(SYNC, "refused")
def test_a_unix_socket_is_refused(options: dict[str, Any], server: Daemon, tmp_path: Path) -> None:
    path = str(server.log.parent / "mariadb.sock")
    assert Path(path).exists()
    (tmp_path / "my.cnf").write_text(f"[client]\nsocket={path}\n")
    ways: list[dict[str, Any]] = [{"unix_socket": path}, {"option_files": str(tmp_path / "my.cnf")}]
    for given in ways:
        with pytest.raises(DeniedError, match="a unix socket is no address"):
            MySQLConnection(RULES, host="good.test", **given, **options)


def test_what_an_option_file_names_is_judged(trap: Make, options: dict[str, Any], tmp_path: Path) -> None:
    trap(BAD, port=options["port"])
    port = options.pop("port")
    for name in ("good.test", "bad.test"):
        (tmp_path / name).write_text(f"[client]\nhost={name}\nport={port}\n")
    with MySQLConnection(RULES, read_default_file=str(tmp_path / "good.test"), **options) as connection:
        assert one(connection) == 2
    with pytest.raises(DeniedError):
        MySQLConnection(RULES, option_files=str(tmp_path / "bad.test"), **options)


def test_the_connection_timeout_covers_the_lookup(options: dict[str, Any]) -> None:
    given: list[float | None] = []

    def connect(address: Any, *, timeout: float | None) -> socket.socket:
        given.append(timeout)
        return socket.create_connection(address, timeout)

    options["connect"] = connect
    with MySQLConnection(RULES, host="good.test", connection_timeout=5, **options) as connection:
        assert one(connection) == 2
    [timeout] = given
    assert timeout is not None
    assert 0 < timeout <= 5


def test_other_failures_are_the_connectors_own(options: dict[str, Any]) -> None:
    with socket.create_server((GOOD, 0)) as listener:
        options["port"] = listener.getsockname()[1]
    for host in ("good.test", "unknown.test"):
        with pytest.raises(mysql.connector.errors.InterfaceError, match="2003") as caught:
            MySQLConnection(RULES, host=host, **options)
        assert not isinstance(caught.value, netjail.DeniedError)


GUARDED = """
import mysql.connector
def fetch(host, **more):
    connection = mysql.connector.connect(host=host, **login, **more)
    cursor = connection.cursor()
    cursor.execute("SELECT 1 + 1")
    assert cursor.fetchone() == (2,)
    cursor.close()
    connection.close()
"""


@pytest.mark.proves("mysql-connector-python, guard", "allowed", "denied", "literal", "announced", "refused")
def test_a_strict_guard_leaves_the_connector_its_pure_part(trap: Make, login: dict[str, Any]) -> None:
    """Its failover hosts are judged one by one, and so are the connections of its pools."""
    trap(BAD, port=login["port"])
    lines = run_guarded(
        GUARDED
        + """
print(mysql.connector.HAVE_CEXT)
print(outcome(fetch, "good.test"), outcome(fetch, "bad.test"), outcome(fetch, BAD))
print(outcome(fetch, "bad.test", failover=[{"host": "bad.test"}, {"host": "good.test"}]))
print(outcome(fetch, "good.test", pool_name="p", pool_size=1), outcome(fetch, "bad.test", pool_name="q", pool_size=1))
print(outcome(fetch, "good.test", use_pure=False))
""",
        strict=True,
        login=login,
    )
    assert lines[:4] == ["False", "ok denied denied", "ok", "ok denied"]
    assert "C Extension not available" in lines[4]


def test_without_strict_the_extension_in_c_is_reported_as_unseen() -> None:
    lines = run_guarded("import mysql.connector; print(mysql.connector.HAVE_CEXT, *guard.report().unseen)")
    assert lines == ["True _mysql_connector"]


if importlib.util.find_spec("uvloop") is not None:
    import uvloop

    uvloop.new_event_loop().close()  # libuv opens a pipe with the first loop, and never closes it


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Runs a coroutine to its end, on the loop of either."""
    factory: Any = asyncio.new_event_loop
    if request.param == "uvloop":
        factory = pytest.importorskip("uvloop").new_event_loop

    def run_(coroutine: Any) -> Any:
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(coroutine)

    return run_


@pytest.fixture
def aoptions(login: dict[str, Any]) -> dict[str, Any]:
    return {**login, "resolver": AsyncNames()}


async def aone(connection: Any, query: str = "SELECT 1 + 1") -> Any:
    cursor = await connection.cursor()
    await cursor.execute(query)
    row = await cursor.fetchone()
    await cursor.close()
    return row[0]


async def fetch(*args: Any, query: str = "SELECT 1 + 1", **options: Any) -> Any:
    connection = await aconnect(*args, **options)
    try:
        return await aone(connection, query)
    finally:
        await connection.close()


@pytest.mark.proves(ASYNC, "allowed")
def test_async_a_query_goes_to_an_allowed_name(run: Make, aoptions: dict[str, Any]) -> None:
    assert run(fetch(RULES, host="good.test", use_pure=True, **aoptions)) == 2


@pytest.mark.proves(ASYNC, "denied")
@pytest.mark.parametrize("host", ["bad.test", pytest.param(BAD, marks=pytest.mark.proves(ASYNC, "literal"))])
def test_async_a_denied_target_opens_nothing(run: Make, trap: Make, aoptions: dict[str, Any], host: str) -> None:
    trap(BAD, port=aoptions["port"])
    with pytest.raises(DeniedError) as caught:
        run(fetch(RULES, host=host, **aoptions))
    assert isinstance(caught.value, mysql.connector.errors.InterfaceError)
    with pytest.raises(DeniedError, match="no rules are in force"):
        run(fetch(host="good.test", **aoptions))


@pytest.mark.proves(ASYNC, "tls", "wrong-name")
def test_async_tls_is_checked_against_the_name(run: Make, aoptions: dict[str, Any], pem: Make) -> None:
    """The connector's async part takes an authority only together with a client certificate."""
    files = pem("client.test")
    tls = {"ssl_ca": str(files.ca), "ssl_cert": str(files.cert), "ssl_key": str(files.key)}
    options: dict[str, Any] = {**aoptions, **tls, "ssl_verify_identity": True, "ssl_disabled": False}
    assert run(fetch(RULES, host="good.test", query=CIPHER, **options))
    with pytest.raises(ssl.SSLCertVerificationError, match=r"certificate is not valid for 'wrong\.test'"):
        run(fetch(RULES, host="wrong.test", **options))


@pytest.mark.proves(ASYNC, "pools")
def test_async_a_connection_reconnects_under_the_rules_that_it_was_made_under(
    run: Make, aoptions: dict[str, Any]
) -> None:
    aoptions["resolver"] = names = AsyncNames({"host.test": [GOOD]})

    async def scenario() -> None:
        with use_rules(RULES):
            connection = await aconnect(host="host.test", **aoptions)
        with use_rules(OTHER):
            await connection.reconnect()
            assert await aone(connection) == 2
        names.table["host.test"] = [BAD]
        del names.asked[:]
        with use_rules(OTHER), pytest.raises(DeniedError):
            await connection.reconnect(attempts=9, delay=60)
        assert len(names.asked) == 1
        await connection.close()

    run(scenario())


@pytest.mark.proves(ASYNC, "refused")
def test_async_what_dials_or_pools_by_itself_is_refused(run: Make, aoptions: dict[str, Any]) -> None:
    aoptions["host"] = "good.test"
    for name in ("dns_srv", "failover", "pool_name", "pool_size", "pool_reset_session"):
        with pytest.raises(ValueError, match=f"{name}= is refused"):
            run(fetch(RULES, **{**aoptions, name: True}))
    with pytest.raises(DeniedError, match="a unix socket is no address"):
        run(fetch(RULES, unix_socket="/run/mysqld/mysqld.sock", **aoptions))


def test_async_the_connection_timeout_covers_the_lookup(run: Make, aoptions: dict[str, Any]) -> None:
    class Slow(AsyncNames):
        async def lookup(self, host: str, family: int) -> Any:  # type: ignore[override]
            await asyncio.Event().wait()

    aoptions["resolver"] = Slow()
    with pytest.raises((mysql.connector.Error, TimeoutError)):
        run(fetch(RULES, host="good.test", connection_timeout=0.05, **aoptions))


def test_async_a_cancelled_connect_leaves_no_socket(run: Make, aoptions: dict[str, Any]) -> None:
    async def cancelled() -> bytes:
        with socket.create_server((GOOD, 0)) as silent:
            silent.setblocking(False)
            loop = asyncio.get_running_loop()
            target = {**aoptions, "port": silent.getsockname()[1]}
            made: Any = AsyncMySQLConnection(RULES, host="good.test", **target)
            connecting = asyncio.ensure_future(made.connect())
            peer, _ = await loop.sock_accept(silent)
            with peer:
                for _ in range(100):
                    await asyncio.sleep(0)
                assert made._socket._writer is not None
                connecting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await connecting
                return await asyncio.wait_for(loop.sock_recv(peer, 1), 10)

    try:
        assert run(cancelled()) == b""
    except ConnectionResetError:
        pass  # that is an end, too


def test_the_plain_async_part_dials_through_the_loop_which_does_not_let_it_forget_the_name(
    login: dict[str, Any], pem: Make, trap: Make
) -> None:
    """On another loop it checks none: which is why there is an AsyncMySQLConnection, and what its page warns of."""
    files = pem("client.test")
    trap(BAD, port=login["port"])
    login |= {"ssl_ca": str(files.ca), "ssl_cert": str(files.cert), "ssl_key": str(files.key)}
    login |= {"ssl_verify_identity": True, "ssl_verify_cert": True, "ssl_disabled": False}

    async def plain(host: str) -> Any:
        connection = await mysql.connector.aio.connect(host=host, use_pure=True, **login)
        try:
            return await aone(connection, CIPHER)
        finally:
            await connection.close()

    with asyncio.Runner(loop_factory=partial(new_event_loop, RULES, resolver=AsyncNames())) as runner:
        with pytest.raises(ValueError, match="start_tls without server_hostname"):
            runner.run(plain("good.test"))
        with pytest.raises(netjail.DeniedError):
            runner.run(plain("bad.test"))
