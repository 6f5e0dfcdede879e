"""psycopg 3 under rules, against a real PostgreSQL with TLS: 127.0.0.2 is allowed and 127.0.0.3 is not."""

from __future__ import annotations

import asyncio
import pickle
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

import netjail
from netjail import Rules, find_denied, use_rules
from netjail.clients import _libpq
from netjail.clients import psycopg as jailed
from netjail.clients.psycopg import AsyncConnection, Connection, DeniedError
from netjail.clients.psycopg_pool import AsyncConnectionPool, ConnectionPool
from tests.guard.harness import run_guarded
from tests.servers.daemon import Daemon
from tests.servers.names import BAD, GOOD, TABLE, AsyncNames, Names
from tests.servers.postgresql import postgresql

Make = Callable[..., Any]
RULES = Rules(allow=[GOOD])
WHOLE = Rules(allow=["127.0.0.0/8"])
CLOSED = "127.0.0.4"  # nothing listens there
NAMES = {**TABLE, "two.test": [CLOSED, GOOD], "closed.test": [CLOSED]}

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


def ask_sync(conninfo: str = "", *, query: str = "select 42", names: Any = NAMES, **options: Any) -> Any:
    """The answer of the server and the address at which it was asked."""
    given: dict[str, Any] = {"user": "jail", "dbname": "postgres", "connect_timeout": 10, "rules": RULES, **options}
    with Connection.connect(conninfo, resolver=Names(names), **given) as connection:
        assert connection.info.hostaddr in (GOOD, "")
        return connection.execute(query).fetchall()[0][0]


def ask_async(conninfo: str = "", *, query: str = "select 42", names: Any = NAMES, **options: Any) -> Any:
    given: dict[str, Any] = {"user": "jail", "dbname": "postgres", "connect_timeout": 10, "rules": RULES, **options}

    async def main() -> Any:
        async with await AsyncConnection.connect(conninfo, resolver=AsyncNames(names), **given) as connection:
            return (await (await connection.execute(query)).fetchall())[0][0]

    return run(main())


def run(main: Any) -> Any:
    with asyncio.Runner() as runner:
        return runner.run(main)


BOTH = [
    pytest.param(ask_sync, id="sync", marks=pytest.mark.proves("psycopg, sync", "allowed", "denied", "literal", "tls")),
    pytest.param(
        ask_async, id="async", marks=pytest.mark.proves("psycopg, async", "allowed", "denied", "literal", "tls")
    ),
]
both = pytest.mark.parametrize("ask", BOTH)


@pytest.fixture(autouse=True)
def nobody_else_resolves(monkeypatch: pytest.MonkeyPatch) -> None:
    """psycopg resolves names by itself where it is not given the address."""

    def refuse(*args: Any, **kwargs: Any) -> Any:
        pytest.fail(f"somebody looked up {args!r}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@both
def test_an_allowed_name_answers_queries_with_and_without_tls(ask: Make, port: int, ca_file: str) -> None:
    encrypted = "select ssl from pg_stat_ssl where pid = pg_backend_pid()"
    tls = {"sslmode": "verify-full", "sslrootcert": ca_file}
    assert ask(host="good.test", port=port, query=encrypted, **tls) is True
    assert ask(host="good.test", port=port, query=encrypted, sslmode="disable") is False


@both
@pytest.mark.parametrize("host", ["bad.test", BAD, "::ffff:127.0.0.3", "0.0.0.0", "::1", "::1%lo"])
def test_a_denied_name_or_literal_is_never_dialled(ask: Make, port: int, host: str) -> None:
    with pytest.raises(DeniedError) as caught:
        ask(host=host, port=port)
    assert caught.value.host == host
    assert caught.value.port == port
    assert isinstance(caught.value, psycopg.OperationalError)
    assert isinstance(caught.value, netjail.DeniedError)


@pytest.mark.parametrize(
    "ask",
    [
        pytest.param(ask_sync, id="sync", marks=pytest.mark.proves("psycopg, sync", "wrong-name")),
        pytest.param(ask_async, id="async", marks=pytest.mark.proves("psycopg, async", "wrong-name")),
    ],
)
def test_a_certificate_for_another_name_fails(ask: Make, port: int, ca_file: str) -> None:
    with pytest.raises(psycopg.OperationalError, match="does not match"):
        ask(host="wrong.test", port=port, sslmode="verify-full", sslrootcert=ca_file)


@both
def test_conninfo_strings_uris_and_port_lists_are_read_as_libpq_reads_them(ask: Make, port: int) -> None:
    assert ask(f"host=good.test port={port}") == 42
    assert ask(f"host=bad.test port={port}", host="good.test") == 42
    assert ask(f"postgresql://jail@good.test:{port}/postgres") == 42
    assert ask(f"postgresql://jail@bad.test:{port},good.test:{port}/postgres") == 42
    assert ask(f"postgresql://jail@nowhere.test:{port},good.test:{port}/postgres") == 42
    assert ask(f"postgresql://jail@bad.test:{port}/postgres?host=good.test") == 42
    assert ask(f"postgresql://jail@bad.test:{port}/postgres?hostaddr={GOOD}") == 42  # what is dialled is judged
    assert ask(f"host=bad.test,good.test hostaddr=,{GOOD} port={port}") == 42
    assert ask(f"host=closed.test,good.test port=1,{port}", rules=WHOLE) == 42
    assert ask(host="good.test", port=str(port)) == 42


@both
@pytest.mark.parametrize(
    "conninfo",
    [
        "host=good.test hostaddr=127.0.0.3 port={}",
        "hostaddr=127.0.0.3 port={}",
        "host=good.test hostaddr=127.3 port={}",
        "host=good.test hostaddr=2130706435 port={}",
        "host=good.test hostaddr=bad.test port={}",
        "postgresql://jail@good.test:{}/postgres?host=bad.test",
        "postgresql://jail@good.test:{}/postgres?hostaddr=127.0.0.3",
        "postgresql://jail@127.0.0.3:{0},bad.test:{0}/postgres",
        "postgresql://jail@[::ffff:127.0.0.3]:{}/postgres",
        "host=bad.test,127.0.0.3 port={}",
        "host=bad.test,nowhere.test port={}",
    ],
)
def test_no_spelling_of_a_target_reaches_what_is_denied(ask: Make, port: int, conninfo: str) -> None:
    with pytest.raises(DeniedError):
        ask(conninfo.format(port))


@both
@pytest.mark.parametrize(
    "conninfo",
    ["host=good.test,good.test hostaddr=127.0.0.2 port=1", "host=good.test port=1,2", "host=good.test port=nonsense"],
)
def test_what_libpq_would_refuse_is_an_error_of_psycopgs(ask: Make, conninfo: str) -> None:
    with pytest.raises(psycopg.OperationalError) as caught:
        ask(conninfo)
    assert find_denied(caught.value) is None


@both
def test_a_name_that_does_not_resolve_is_an_error_of_psycopgs(ask: Make) -> None:
    with pytest.raises(psycopg.OperationalError, match=r"nowhere\.test") as caught:
        ask(host="nowhere.test")
    assert find_denied(caught.value) is None


@both
def test_the_environment_is_judged_like_arguments(ask: Make, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
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
    monkeypatch.setenv("PGHOSTADDR", "")
    monkeypatch.setenv("PGHOST", "good.test")
    assert ask() == 42


@pytest.mark.parametrize(
    "ask",
    [
        pytest.param(ask_sync, id="sync", marks=pytest.mark.proves("psycopg, sync", "refused")),
        pytest.param(ask_async, id="async", marks=pytest.mark.proves("psycopg, async", "refused")),
    ],
)
def test_unix_sockets_are_denied(ask: Make, server: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = str(server.log.parent)
    with psycopg.connect(host=folder, port=server.port, user="jail", dbname="postgres") as connection:  # it would work
        assert connection.execute("select 42").fetchall() == [(42,)]
    for host in (folder, "@abstract", f"{folder},@abstract", "", None):
        with pytest.raises(DeniedError, match="unix socket"):
            ask(host=host, port=server.port, rules=WHOLE)
    with pytest.raises(DeniedError, match="unix socket"):
        ask(f"postgresql:///postgres?host={folder}&port={server.port}")
    with pytest.raises(DeniedError, match="unix socket"):
        ask(host=folder, port="nonsense")
    monkeypatch.setenv("PGHOST", folder)
    with pytest.raises(DeniedError, match="unix socket"):
        ask(port=server.port)
    assert ask(hostaddr=GOOD, port=server.port) == 42  # libpq goes by this one
    assert ask(f"host={folder},good.test port={server.port}") == 42


@pytest.mark.parametrize(
    "ask",
    [
        pytest.param(ask_sync, id="sync", marks=pytest.mark.proves("psycopg, sync", "refused")),
        pytest.param(ask_async, id="async", marks=pytest.mark.proves("psycopg, async", "refused")),
    ],
)
def test_what_libpq_looks_up_by_itself_is_refused(
    ask: Make, port: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    services = tmp_path / "pg_service.conf"
    services.write_text(f"[inside]\nhost=bad.test\nhostaddr={BAD}\nport={port}\n")
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    with pytest.raises(DeniedError, match="service=inside"):
        ask("service=inside")
    with pytest.raises(DeniedError, match="service=inside"):
        ask(host="good.test", port=port, service="inside")
    monkeypatch.setenv("PGSERVICE", "inside")
    with pytest.raises(DeniedError, match="service=inside"):
        ask(host="good.test", port=port)
    monkeypatch.delenv("PGSERVICE")
    with pytest.raises(DeniedError, match="oauth_issuer"):
        ask(host="good.test", port=port, oauth_issuer="https://127.0.0.3/")
    assert ask(host="good.test", port=port) == 42


@both
def test_all_accepted_addresses_are_tried_and_the_others_left_out(ask: Make, port: int) -> None:
    assert ask(host="two.test", port=port, rules=WHOLE) == 42
    assert ask(host="mixed.test", port=port) == 42
    with pytest.raises(DeniedError, match="not every one"):
        ask(host="mixed.test", port=port, mixed="refuse")
    with pytest.raises(psycopg.OperationalError) as caught:
        ask(host="closed.test", port=port, rules=WHOLE)
    assert find_denied(caught.value) is None


@both
def test_session_attributes_and_balancing_work_over_the_pinned_addresses(ask: Make, port: int) -> None:
    hosts = f"host=two.test,good.test port={port}"
    assert ask(f"{hosts} target_session_attrs=read-write", rules=WHOLE) == 42
    with pytest.raises(psycopg.OperationalError, match=r"read-write|hot standby|standby mode"):
        ask(f"{hosts} target_session_attrs=standby", rules=WHOLE)
    if psycopg.pq.version() >= 160000:
        assert ask(f"{hosts} load_balance_hosts=random", rules=WHOLE) == 42
    assert ask(f"{hosts} options='-c search_path=elsewhere'", rules=WHOLE, query="show search_path") == "elsewhere"


@both
def test_the_connect_timeout_covers_the_lookup(ask: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting, released = threading.Event(), threading.Event()
    given: list[float | None] = []

    def soon(timeout: float | None) -> float:
        given.append(timeout)
        return time.monotonic() + 0.05

    monkeypatch.setattr(_libpq, "deadline_after", soon)

    class Slow(Names):
        def lookup(self, host: str, family: int) -> Any:
            waiting.set()
            released.wait(30)
            return super().lookup(host, family)

    class AsyncSlow(AsyncNames):
        async def lookup(self, host: str, family: int) -> Any:  # type: ignore[override]
            waiting.set()
            await asyncio.Event().wait()

    async def main() -> None:
        await AsyncConnection.connect("host=good.test connect_timeout=1", rules=RULES, resolver=AsyncSlow())

    with pytest.raises(psycopg.errors.ConnectionTimeout):
        if ask is ask_sync:
            Connection.connect("host=good.test connect_timeout=1", rules=RULES, resolver=Slow())
        else:
            run(main())
    assert waiting.is_set()
    assert given == [2]  # as in libpq, 1 is 2
    released.set()


@both
def test_rules_come_from_the_arguments_and_from_the_context(ask: Make, port: int) -> None:
    target = {"host": "good.test", "port": port}
    with pytest.raises(DeniedError, match="no rules are in force"):
        ask(**target, rules=None)
    with use_rules(RULES):
        assert ask(**target, rules=None) == 42
        assert ask(**target, rules=WHOLE) == 42
    with use_rules(Rules(allow=[BAD])), pytest.raises(DeniedError):
        ask(**target)


def test_psycopgs_own_arguments_are_psycopgs(port: int) -> None:
    class Mine(Connection[Any]):
        pass

    connection = Mine.connect(
        f"host=good.test port={port} user=jail dbname=postgres",
        rules=RULES,
        resolver=Names(),
        autocommit=True,
        prepare_threshold=None,
        row_factory=dict_row,
        cursor_factory=psycopg.ClientCursor,
    )
    with connection:
        assert type(connection) is Mine
        assert connection.autocommit
        assert connection.prepare_threshold is None
        assert connection.execute("select 42 as it").fetchall() == [{"it": 42}]
        assert connection.cursor_factory is psycopg.ClientCursor
        assert connection.info.host == "good.test"
    with jailed.connect(
        host="good.test", port=port, user="jail", rules=RULES, resolver=Names(), dbname="postgres"
    ) as it:
        assert type(it) is Connection


@pytest.mark.parametrize("cancel", ["cancel", "cancel_safe"])
def test_a_cancel_request_goes_to_the_pinned_address(port: int, monkeypatch: pytest.MonkeyPatch, cancel: str) -> None:
    """libpq dials again for it. The name and the environment would lead elsewhere by then."""
    names = Names({"good.test": iter([[GOOD], [GOOD], [BAD]])})
    target = f"host=good.test port={port} user=jail dbname=postgres"
    with (
        Connection.connect(target, rules=RULES, resolver=names) as connection,
        Connection.connect(target, rules=RULES, resolver=names, autocommit=True) as other,
    ):
        monkeypatch.setenv("PGHOST", "bad.test")
        monkeypatch.setenv("PGHOSTADDR", BAD)
        pid = connection.info.backend_pid
        running = "select 1 from pg_stat_activity where pid = %s and wait_event = 'PgSleep'"

        def cancel_it() -> None:
            while not other.execute(running, [pid]).fetchall():
                pass
            getattr(connection, cancel, connection.cancel)()

        thread = threading.Thread(target=cancel_it)
        thread.start()
        with pytest.raises(psycopg.errors.QueryCanceled):
            connection.execute("select pg_sleep(60)")
        thread.join()
        connection.rollback()


@pytest.mark.proves("psycopg_pool, sync", "allowed", "denied", "pools")
def test_a_pool_serves_the_rules_that_it_was_made_under_and_no_others(port: int, ca_file: str) -> None:
    target = f"host=good.test port={port} user=jail dbname=postgres sslmode=verify-full sslrootcert={ca_file}"
    options: dict[str, Any] = {"min_size": 1, "resolver": Names(), "open": False, "kwargs": {"autocommit": True}}
    with ConnectionPool(target, rules=RULES, **options) as pool:  # its workers have no context
        with pool.connection() as connection:
            assert connection.execute("select 42").fetchall() == [(42,)]
            assert type(connection) is Connection
            assert connection.autocommit
        for others in (WHOLE, Rules(allow=[BAD])):
            with use_rules(others), pytest.raises(DeniedError, match="other rules"), pool.connection():
                pass
        for same in (RULES, Rules(allow=[f"{GOOD}/32"])):  # they narrow nothing
            with use_rules(same), pool.connection():
                pass
    with use_rules(RULES), ConnectionPool(target, **options) as pool:
        with pool.connection():
            pass
        with use_rules(WHOLE), pytest.raises(DeniedError, match="other rules"):
            pool.getconn()


@pytest.mark.proves("psycopg_pool, sync", "denied", "literal")
@pytest.mark.parametrize("host", ["bad.test", BAD])
def test_whoever_waits_for_a_pool_is_told_of_the_denial(port: int, host: str) -> None:
    target = f"host={host} port={port} user=jail dbname=postgres"
    with ConnectionPool(target, rules=RULES, resolver=Names(), min_size=0, max_size=1, open=False) as pool:
        with pytest.raises(DeniedError) as caught:
            pool.getconn()
    assert caught.value.host == host


def test_whoever_waits_for_a_pool_to_be_full_is_told_of_the_denial(port: int) -> None:
    target = f"host=bad.test port={port} user=jail dbname=postgres"
    options: dict[str, Any] = {"rules": RULES, "min_size": 2, "open": False}
    pool = ConnectionPool(target, resolver=Names(), **options)
    with pytest.raises(DeniedError, match=r"'bad\.test'"):
        pool.open(wait=True, timeout=60)
    assert pool.closed
    pool = ConnectionPool(target, resolver=Names(), **options)
    pool.open()
    with pytest.raises(DeniedError):
        pool.getconn()
    with pytest.raises(DeniedError):  # it has given up by now, and tries anew
        pool.wait(timeout=60)

    async def main() -> None:
        apool = AsyncConnectionPool(target, resolver=AsyncNames(), **options)
        with pytest.raises(DeniedError, match=r"'bad\.test'"):
            await apool.open(wait=True, timeout=60)
        assert apool.closed

    run(main())


def test_a_pool_that_was_denied_once_can_still_become_full(port: int) -> None:
    names = Names({"good.test": [BAD]})
    target = f"host=good.test port={port} user=jail dbname=postgres"
    with ConnectionPool(target, rules=RULES, resolver=names, min_size=1, max_size=1, open=False) as pool:
        with pytest.raises(DeniedError):
            pool.getconn(30)
        names.table["good.test"] = [GOOD]
        pool.wait(30)
        with pool.connection(timeout=30):
            pass


def test_a_denial_is_told_at_once_however_often_a_pool_is_asked(port: int) -> None:
    """psycopg_pool tries again by itself, later and later: the sixth asks would wait for half a minute."""
    target = f"host=bad.test port={port} user=jail dbname=postgres"
    names = Names()
    with ConnectionPool(target, rules=RULES, resolver=names, min_size=0, max_size=1, open=False) as pool:
        for _ in range(6):
            with pytest.raises(DeniedError):
                pool.getconn(30)
        assert len(names.asked) == 6

    async def main() -> None:
        anames = AsyncNames()
        options: dict[str, Any] = {"rules": RULES, "resolver": anames, "min_size": 0, "max_size": 1, "open": False}
        async with AsyncConnectionPool(target, **options) as apool:
            for _ in range(6):
                with pytest.raises(DeniedError):
                    await apool.getconn(30)
            assert len(anames.asked) == 6

    run(main())


def test_a_pool_tries_again_after_a_denial_and_judges_anew(port: int) -> None:
    names = Names({"good.test": iter([[BAD], [GOOD]])})
    target = f"host=good.test port={port} user=jail dbname=postgres"
    with ConnectionPool(target, rules=RULES, resolver=names, min_size=0, max_size=1, open=False) as pool:
        with pytest.raises(DeniedError):
            pool.getconn()
        with pool.connection(timeout=30) as connection:
            assert connection.execute("select 42").fetchall() == [(42,)]


@pytest.mark.proves("psycopg_pool, async", "allowed", "denied", "pools")
def test_an_async_pool_serves_the_rules_that_it_was_made_under_and_no_others(port: int, ca_file: str) -> None:
    target = f"host=good.test port={port} user=jail dbname=postgres sslmode=verify-full sslrootcert={ca_file}"
    options: dict[str, Any] = {"min_size": 1, "resolver": AsyncNames(), "open": False}

    async def main() -> None:
        async with AsyncConnectionPool(target, rules=RULES, **options) as pool:
            async with pool.connection() as connection:
                assert await (await connection.execute("select 42")).fetchall() == [(42,)]
                assert type(connection) is AsyncConnection
            for others in (WHOLE, Rules(allow=[BAD])):
                with use_rules(others), pytest.raises(DeniedError, match="other rules"):
                    await pool.getconn()
        with use_rules(WHOLE):
            pool = AsyncConnectionPool(target, **options)
        with use_rules(Rules(allow=[BAD])):
            await pool.open()  # which starts its workers, in this context
        with use_rules(WHOLE):
            async with pool.connection():
                pass
        await pool.close()

    run(main())


@pytest.mark.proves("psycopg_pool, async", "denied", "literal")
@pytest.mark.parametrize("host", ["bad.test", BAD])
def test_whoever_waits_for_an_async_pool_is_told_of_the_denial(port: int, host: str) -> None:
    target = f"host={host} port={port} user=jail dbname=postgres"

    async def main() -> None:
        names = AsyncNames()
        async with AsyncConnectionPool(target, rules=RULES, resolver=names, min_size=0, max_size=1, open=False) as pool:
            with pytest.raises(DeniedError) as caught:
                await pool.getconn()
        assert caught.value.host == host

    run(main())


def test_a_denial_pickles_and_has_what_a_psycopg_error_has() -> None:
    with pytest.raises(DeniedError) as caught:
        Connection.connect("host=127.0.0.3 port=1", rules=RULES)
    denied = caught.value
    copy = pickle.loads(pickle.dumps(denied))
    assert type(copy) is DeniedError
    assert (copy.host, copy.port, str(copy)) == (BAD, 1, str(denied))
    assert denied.sqlstate is None
    assert denied.pgconn is None
    assert denied.diag.message_primary is None


def test_a_cancelled_connect_leaves_nothing_behind(port: int) -> None:
    async def main() -> None:
        entered = asyncio.Event()

        class Waits(AsyncNames):
            async def lookup(self, host: str, family: int) -> Any:  # type: ignore[override]
                entered.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(
            AsyncConnection.connect(f"host=good.test port={port}", rules=RULES, resolver=Waits())
        )
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())


def test_the_floor_of_a_guard_holds_for_what_libpq_dials(port: int) -> None:
    printed = run_guarded(
        """
        from netjail.clients.psycopg import Connection, connect

        def ask(host, rules):
            with connect(host=host, port=PORT, user="jail", dbname="postgres", rules=rules) as connection:
                assert connection.execute("select 42").fetchall() == [(42,)]

        whole = Rules(allow=["127.0.0.0/8"])
        print(outcome(ask, "good.test", whole), outcome(ask, "bad.test", whole), outcome(ask, BAD, whole))
        print(guard.report().unseen)
        """,
        PORT=port,
    )
    assert printed == ["ok denied denied", "('psycopg',)"]


@pytest.mark.proves("psycopg, sync", "refused")
@pytest.mark.proves("psycopg, async", "refused")
def test_a_strict_guard_refuses_psycopg_and_so_this_module(port: int) -> None:
    printed = run_guarded(
        """
        try:
            import netjail.clients.psycopg
        except ImportError as error:
            print(error)
        """,
        strict=True,
    )
    assert printed == [
        "netjail.guard refuses psycopg: libpq dials where the guard cannot see it. Use asyncpg or pg8000."
    ]
