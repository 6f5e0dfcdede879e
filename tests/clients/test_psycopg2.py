"""psycopg2 under rules, against a real PostgreSQL with TLS: 127.0.0.2 is allowed and 127.0.0.3 is not."""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import psycopg2
import psycopg2.errors
import pytest
from psycopg2.extensions import POLL_OK, POLL_READ, connection
from psycopg2.extras import DictCursor
from psycopg2.pool import ThreadedConnectionPool

import netjail
from netjail import Rules, find_denied, use_rules
from netjail.clients import _libpq
from netjail.clients.psycopg2 import DeniedError, connect
from tests.guard.harness import run_guarded
from tests.servers.daemon import Daemon
from tests.servers.names import BAD, GOOD, TABLE, Names
from tests.servers.postgresql import postgresql

Make = Callable[..., Any]
RULES = Rules(allow=[GOOD])
WHOLE = Rules(allow=["127.0.0.0/8"])
NAMES = {**TABLE, "two.test": ["127.0.0.4", GOOD]}  # nothing listens on the first

pytestmark = pytest.mark.usefixtures("nothing_left_behind")


@pytest.fixture(scope="module")
def server(pem: Make) -> Iterator[Daemon]:
    with postgresql(pem("good.test")) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def ca_file(pem: Make) -> str:
    return str(pem("ca.test").ca)


@pytest.fixture
def port(server: Daemon, trap: Make) -> int:
    """The server's port on 127.0.0.2; whoever reaches it on 127.0.0.3 fails the test."""
    trap(BAD, port=server.port)
    return server.port


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGHOST", "PGHOSTADDR", "PGPORT", "PGSERVICE", "PGSERVICEFILE", "PGCONNECT_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)


def ask(dsn: str | None = None, *, query: str = "select 42", **options: Any) -> Any:
    given: dict[str, Any] = {"user": "jail", "dbname": "postgres", "connect_timeout": 10, "rules": RULES, **options}
    with closing(connect(dsn, **{"resolver": Names(NAMES), **given})) as made, made.cursor() as cursor:
        cursor.execute(query)
        return cursor.fetchall()[0][0]


@pytest.mark.proves("psycopg2", "allowed", "tls")
def test_an_allowed_name_answers_queries_with_and_without_tls(port: int, ca_file: str) -> None:
    encrypted = "select ssl from pg_stat_ssl where pid = pg_backend_pid()"
    tls = {"sslmode": "verify-full", "sslrootcert": ca_file}
    assert ask(host="good.test", port=port, query=encrypted, **tls) is True
    assert ask(host="good.test", port=port, query=encrypted, sslmode="disable") is False


@pytest.mark.proves("psycopg2", "denied", "literal")
@pytest.mark.parametrize("host", ["bad.test", BAD, "::ffff:127.0.0.3", "0.0.0.0", "::1%lo"])
def test_a_denied_name_or_literal_is_never_dialled(port: int, host: str) -> None:
    with pytest.raises(DeniedError) as caught:
        ask(host=host, port=port)
    assert (caught.value.host, caught.value.port) == (host, port)
    assert DeniedError is netjail.DeniedError


@pytest.mark.proves("psycopg2", "wrong-name")
def test_a_certificate_for_another_name_fails(port: int, ca_file: str) -> None:
    with pytest.raises(psycopg2.OperationalError, match="does not match"):
        ask(host="wrong.test", port=port, sslmode="verify-full", sslrootcert=ca_file)


def test_dsns_uris_and_port_lists_are_read_as_libpq_reads_them(port: int) -> None:
    assert ask(f"host=good.test port={port}") == 42
    assert ask(f"host=bad.test port={port}", host="good.test") == 42
    assert ask(f"postgresql://jail@good.test:{port}/postgres") == 42
    assert ask(f"postgresql://jail@bad.test:{port},good.test:{port}/postgres") == 42
    assert ask(f"postgresql://jail@bad.test:{port}/postgres?hostaddr={GOOD}") == 42  # what is dialled is judged
    assert ask(f"host=two.test,good.test port=1,{port}", rules=WHOLE) == 42
    assert ask(f"host=two.test,good.test port={port} target_session_attrs=read-write", rules=WHOLE) == 42
    connect(f"port={port} user=jail", host="good.test", database="postgres", rules=RULES, resolver=Names()).close()


@pytest.mark.parametrize(
    "dsn",
    [
        "host=good.test hostaddr=127.0.0.3 port={}",
        "hostaddr=127.0.0.3 port={}",
        "host=good.test hostaddr=127.3 port={}",
        "host=good.test hostaddr=bad.test port={}",
        "postgresql://jail@good.test:{}/postgres?host=bad.test",
        "postgresql://jail@good.test:{}/postgres?hostaddr=127.0.0.3",
        "postgresql://jail@127.0.0.3:{0},bad.test:{0}/postgres",
    ],
)
def test_no_spelling_of_a_target_reaches_what_is_denied(port: int, dsn: str) -> None:
    with pytest.raises(DeniedError):
        ask(dsn.format(port))


def test_what_cannot_be_resolved_is_an_error_of_psycopg2s() -> None:
    for dsn in ("host=nowhere.test", "host=good.test port=nonsense", "host=good.test port=1,2"):
        with pytest.raises(psycopg2.OperationalError) as caught:
            ask(dsn)
        assert find_denied(caught.value) is None
    with pytest.raises(psycopg2.ProgrammingError):
        ask("nonsense")


def test_the_environment_is_judged_like_arguments(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPORT", str(port))
    monkeypatch.setenv("PGHOST", "bad.test")
    assert ask(host="good.test") == 42
    with pytest.raises(DeniedError):
        ask()
    monkeypatch.setenv("PGHOSTADDR", BAD)
    with pytest.raises(DeniedError):
        ask(host="good.test")
    monkeypatch.setenv("PGHOSTADDR", GOOD)
    assert ask(host="good.test") == 42


@pytest.mark.proves("psycopg2", "refused")
def test_unix_sockets_services_and_oauth_are_denied(
    server: Daemon, port: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    folder = str(server.log.parent)
    with closing(psycopg2.connect(host=folder, port=port, user="jail", dbname="postgres")):  # it would work
        pass
    for host in (folder, "@abstract", "", None):
        with pytest.raises(DeniedError, match="unix socket"):
            ask(host=host, port=port)
    monkeypatch.setenv("PGHOST", folder)
    with pytest.raises(DeniedError, match="unix socket"):
        ask(port=port)
    (tmp_path / "services").write_text(f"[inside]\nhostaddr={BAD}\nport={port}\n")
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    with pytest.raises(DeniedError, match="service=inside"):
        ask("service=inside", host="good.test", port=port)
    monkeypatch.setenv("PGSERVICE", "inside")
    with pytest.raises(DeniedError, match="service=inside"):
        ask(host="good.test", port=port)
    monkeypatch.delenv("PGSERVICE")
    with pytest.raises((DeniedError, psycopg2.ProgrammingError), match="oauth_issuer"):  # libpq knows it from 18 on
        ask(host="good.test", port=port, oauth_issuer="https://127.0.0.3/")


def test_all_accepted_addresses_are_tried_and_the_others_left_out(port: int) -> None:
    assert ask(host="two.test", port=port, rules=WHOLE) == 42
    assert ask(host="mixed.test", port=port) == 42
    with pytest.raises(DeniedError, match="not every one"):
        ask(host="mixed.test", port=port, mixed="refuse")


def test_the_connect_timeout_covers_the_lookup(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    class Slow(Names):
        def lookup(self, host: str, family: int) -> Any:
            released.wait(30)
            return super().lookup(host, family)

    monkeypatch.setattr(_libpq, "deadline_after", lambda _: time.monotonic() + 0.05)
    with pytest.raises(psycopg2.OperationalError, match="timed out"):
        connect("host=good.test connect_timeout=5", rules=RULES, resolver=Slow())
    released.set()


def test_rules_come_from_the_arguments_and_from_the_context(port: int) -> None:
    target: dict[str, Any] = {"host": "good.test", "port": port}
    with pytest.raises(DeniedError, match="no rules are in force"):
        ask(**target, rules=None)
    with use_rules(RULES):
        assert ask(**target, rules=None) == 42
    with use_rules(Rules(allow=[BAD])), pytest.raises(DeniedError):
        ask(**target)


def test_psycopg2s_own_arguments_are_psycopg2s(port: int) -> None:
    class Mine(connection):
        pass

    dsn = f"host=good.test port={port} user=jail dbname=postgres"
    made = connect(dsn, Mine, DictCursor, rules=RULES, resolver=Names())
    with closing(made), made.cursor() as cursor:
        assert type(made) is Mine
        cursor.execute("select 42 as it")
        assert cursor.fetchall()[0]["it"] == 42


def test_an_asynchronous_connection_is_pinned_too(port: int) -> None:
    dsn = f"host=good.test port={port} user=jail dbname=postgres"
    with pytest.raises(DeniedError):
        connect(dsn, host="bad.test", async_=True, rules=RULES, resolver=Names())
    with closing(connect(dsn, async_=True, rules=RULES, resolver=Names())) as made:
        while (state := made.poll()) != POLL_OK:
            select.select([made] * (state == POLL_READ), [made] * (state != POLL_READ), [], 10)
        assert made.info.host == "good.test"


def test_a_cancel_request_goes_to_the_pinned_address(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """libpq dials again for it. The name and the environment would lead elsewhere by then."""
    names = Names({"good.test": iter([[GOOD], [GOOD], [BAD]])})
    dsn = f"host=good.test port={port} user=jail dbname=postgres"
    with (
        closing(connect(dsn, rules=RULES, resolver=names)) as made,
        closing(connect(dsn, rules=RULES, resolver=names)) as other,
    ):
        monkeypatch.setenv("PGHOST", "bad.test")
        monkeypatch.setenv("PGHOSTADDR", BAD)
        other.autocommit = True
        running = f"select 1 from pg_stat_activity where pid = {made.info.backend_pid} and wait_event = 'PgSleep'"

        def cancel() -> None:
            with other.cursor() as cursor:
                cursor.execute(running)
                while not cursor.fetchall():
                    cursor.execute(running)
            made.cancel()

        thread = threading.Thread(target=cancel)
        with made.cursor() as cursor:
            cursor.execute("begin")
            thread.start()
            with pytest.raises(psycopg2.errors.QueryCanceled):
                cursor.execute("select pg_sleep(60)")
        thread.join()


@pytest.mark.proves("psycopg2", "pools")
def test_the_pools_recipe_keeps_one_pool_for_each_rule_set(port: int) -> None:
    dsn = f"host=good.test port={port} user=jail dbname=postgres"

    def pool_for(rules: Rules) -> ThreadedConnectionPool:
        def dial(dsn: str) -> Any:
            return connect(dsn, rules=rules, resolver=Names())

        return ThreadedConnectionPool(1, 4, dsn, connection_factory=dial)

    pool = pool_for(RULES)
    first = pool.getconn()
    pool.putconn(first)
    assert pool.getconn() is first
    pool.closeall()
    with pytest.raises(DeniedError):
        pool_for(Rules(allow=[BAD]))


def test_the_floor_of_a_guard_holds_for_what_libpq_dials(port: int) -> None:
    printed = run_guarded(
        """
        from netjail.clients.psycopg2 import connect

        def ask(host):
            rules = Rules(allow=["127.0.0.0/8"])
            connect(host=host, port=PORT, user="jail", dbname="postgres", rules=rules).close()

        print(outcome(ask, "good.test"), outcome(ask, "bad.test"), outcome(ask, BAD))
        """,
        PORT=port,
    )
    assert printed == ["ok denied denied"]


@pytest.mark.proves("psycopg2", "refused")
def test_a_strict_guard_refuses_psycopg2_and_so_this_module() -> None:
    printed = run_guarded(
        """
        try:
            import netjail.clients.psycopg2
        except ImportError as error:
            print(error)
        """,
        strict=True,
    )
    assert printed == [
        "netjail.guard refuses psycopg2: libpq dials where the guard cannot see it. Use asyncpg or pg8000."
    ]
