"""PyMySQL under rules, against a MariaDB with TLS on loopback: 127.0.0.2 is allowed and 127.0.0.3 is not."""

from __future__ import annotations

import pickle
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pymysql
import pytest

import netjail
from netjail import Rules, use_rules
from netjail.clients import pymysql as jailed
from netjail.clients.pymysql import Connection, DeniedError
from tests.servers.daemon import Daemon
from tests.servers.mariadb import PASSWORD, USER, mariadb
from tests.servers.names import BAD, GOOD, Names

Make = Callable[..., Any]
RULES = Rules(allow=[GOOD])
OTHER = Rules(allow=[BAD])
NAME = "PyMySQL"
CIPHER = "SELECT variable_value FROM information_schema.session_status WHERE variable_name = 'Ssl_cipher'"

pytestmark = pytest.mark.usefixtures("nothing_left_behind")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, pem: Make) -> Iterator[Daemon]:
    with mariadb(tmp_path_factory.mktemp("mariadb"), pem("good.test")) as running:
        yield running


@pytest.fixture
def options(server: Daemon) -> dict[str, Any]:
    return {"port": server.port, "user": USER, "password": PASSWORD, "resolver": Names(), "ssl_disabled": True}


def one(connection: Any, query: str = "SELECT 1 + 1") -> Any:
    with connection.cursor() as cursor:
        cursor.execute(query)
        return cursor.fetchone()[0]


@pytest.mark.proves(NAME, "allowed")
def test_a_query_goes_to_an_allowed_name(options: dict[str, Any]) -> None:
    with jailed.connect(RULES, host="good.test", **options) as connection:
        assert one(connection) == 2
        assert connection.host_info == f"socket good.test:{options['port']}"


@pytest.mark.proves(NAME, "denied")
@pytest.mark.parametrize("host", ["bad.test", pytest.param(BAD, marks=pytest.mark.proves(NAME, "literal"))])
def test_a_denied_target_opens_nothing(trap: Make, options: dict[str, Any], host: str) -> None:
    trap(BAD, port=options["port"])
    with pytest.raises(DeniedError) as caught:
        Connection(RULES, host=host, **options)
    assert isinstance(caught.value, pymysql.err.OperationalError)
    assert isinstance(caught.value, netjail.DeniedError)
    assert caught.value.host == host
    copied = pickle.loads(pickle.dumps(caught.value))
    assert (type(copied), str(copied)) == (DeniedError, str(caught.value))


def test_without_rules_everything_is_denied(options: dict[str, Any]) -> None:
    with pytest.raises(DeniedError, match="no rules are in force"):
        Connection(host="good.test", **options)


def test_only_the_accepted_address_of_a_name_is_dialled(trap: Make, options: dict[str, Any]) -> None:
    trap(BAD, port=options["port"])
    with Connection(RULES, host="mixed.test", **options) as connection:
        assert one(connection) == 2
    with pytest.raises(DeniedError, match="not every one"):
        Connection(RULES, host="mixed.test", mixed="refuse", **options)


@pytest.mark.parametrize("spelling", ["ssl", "ssl_ca"])
@pytest.mark.proves(NAME, "tls", "wrong-name")
def test_tls_is_checked_against_the_name(options: dict[str, Any], pem: Make, spelling: str) -> None:
    authority = str(pem("other.test").ca)
    spellings: dict[str, dict[str, Any]] = {
        "ssl": {"ssl": {"ca": authority, "check_hostname": True}},
        "ssl_ca": {"ssl_ca": authority, "ssl_verify_cert": True, "ssl_verify_identity": True},
    }
    tls = spellings[spelling]
    del options["ssl_disabled"]
    with Connection(RULES, host="good.test", **tls, **options) as connection:
        assert one(connection) == 2
        assert one(connection, CIPHER)
    with pytest.raises(pymysql.err.OperationalError, match="certificate verify failed"):
        Connection(RULES, host="wrong.test", **tls, **options)


@pytest.mark.proves(NAME, "pools")
def test_a_connection_reconnects_under_the_rules_that_it_was_made_under(
    options: dict[str, Any], recwarn: pytest.WarningsRecorder
) -> None:
    options["resolver"] = names = Names({"host.test": [GOOD]})
    with use_rules(RULES):
        connection: Any = Connection(host="host.test", **options)
    connection._force_close()
    with use_rules(OTHER):
        connection.ping(reconnect=True)
        assert one(connection) == 2
    connection._force_close()
    names.table["host.test"] = [BAD]
    with use_rules(OTHER), pytest.raises(DeniedError):
        connection.ping(reconnect=True)
    assert not connection.open
    connection.close()


def test_a_connection_made_late_takes_the_rules_of_when_it_connects(options: dict[str, Any]) -> None:
    connection = Connection(host="good.test", defer_connect=True, **options)
    with pytest.raises(DeniedError, match="no rules are in force"):
        connection.connect()
    connection.close()
    connection = Connection(host="good.test", defer_connect=True, **options)
    with use_rules(RULES):
        connection.connect()
    assert one(connection) == 2
    connection.close()


@pytest.mark.proves(NAME, "refused")
def test_a_unix_socket_is_refused(options: dict[str, Any], server: Daemon, tmp_path: Path) -> None:
    path = str(server.log.parent / "mariadb.sock")
    assert Path(path).exists()
    (tmp_path / "my.cnf").write_text(f"[client]\nsocket={path}\n")
    for name, value in {"unix_socket": path, "read_default_file": str(tmp_path / "my.cnf")}.items():
        options[name] = value
        with pytest.raises(DeniedError, match="a unix socket is no address"):
            Connection(RULES, host="good.test", **options)
        del options[name]


@pytest.mark.proves(NAME, "refused")
def test_what_an_option_file_names_is_judged(trap: Make, options: dict[str, Any], tmp_path: Path) -> None:
    trap(BAD, port=options["port"])
    port = options.pop("port")
    for name in ("good.test", "bad.test"):
        (tmp_path / name).write_text(f"[client]\nhost={name}\nport={port}\n")
    with Connection(RULES, read_default_file=str(tmp_path / "good.test"), **options) as connection:
        assert one(connection) == 2
    with pytest.raises(DeniedError):
        Connection(RULES, read_default_file=str(tmp_path / "bad.test"), **options)


def test_the_address_to_bind_to_is_bound_to(options: dict[str, Any]) -> None:
    with Connection(RULES, host="good.test", bind_address="127.0.0.7", **options) as connection:
        assert "127.0.0.7" in one(connection, "SELECT host FROM information_schema.processlist")


def test_the_connect_timeout_covers_the_lookup(options: dict[str, Any]) -> None:
    given: list[float | None] = []

    def connect(address: Any, *, timeout: float | None) -> socket.socket:
        given.append(timeout)
        return socket.create_connection(address, timeout)

    with Connection(RULES, host="good.test", connect_timeout=5, connect=connect, **options) as connection:
        assert one(connection) == 2
    [timeout] = given
    assert timeout is not None
    assert 0 < timeout <= 5


def test_other_failures_are_pymysqls_own(options: dict[str, Any]) -> None:
    with socket.create_server((GOOD, 0)) as listener:
        options["port"] = listener.getsockname()[1]
    for host in ("good.test", "unknown.test"):
        with pytest.raises(pymysql.err.OperationalError, match="Can't connect to MySQL server") as caught:
            Connection(RULES, host=host, **options)
        assert not isinstance(caught.value, netjail.DeniedError)
        assert caught.value.args[0] == 2003


def test_a_socket_of_the_callers_own_is_used_as_it_is(options: dict[str, Any]) -> None:
    connection = Connection(RULES, host="good.test", defer_connect=True, **options)
    connection.connect(netjail.Dialer(RULES).connect((GOOD, options["port"])))
    assert one(connection) == 2
    connection.close()
