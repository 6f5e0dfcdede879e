"""SQLAlchemy under rules over real drivers and servers with TLS: 127.0.0.2 is allowed and 127.0.0.3 is not."""

from __future__ import annotations

import asyncio
import importlib.util
import pickle
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import sqlalchemy
from sqlalchemy import event, exc, text
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool, StaticPool

import netjail
from netjail import Rules, find_denied, use_rules
from netjail.clients import psycopg, psycopg2, pymysql
from netjail.clients.sqlalchemy import DeniedError, create_async_engine, create_engine
from netjail.loop import new_event_loop
from tests.servers.daemon import Daemon, missing
from tests.servers.mariadb import PASSWORD, USER, mariadb
from tests.servers.names import BAD, GOOD, TABLE, AsyncNames, Names
from tests.servers.postgresql import postgresql

Make = Callable[..., Any]
RULES = Rules(allow=[GOOD])
WHOLE = Rules(allow=["127.0.0.0/8"])
OTHER = Rules(allow=[BAD])

pytestmark = pytest.mark.usefixtures("nothing_left_behind")


@pytest.fixture(scope="module")
def postgres(pem: Make) -> Iterator[Daemon]:
    with postgresql(pem("good.test")) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def maria(tmp_path_factory: pytest.TempPathFactory, pem: Make) -> Iterator[Daemon]:
    with mariadb(tmp_path_factory.mktemp("mariadb"), pem("good.test")) as daemon:
        yield daemon


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGHOST", "PGHOSTADDR", "PGPORT", "PGSERVICE", "PGSERVICEFILE", "PGCONNECT_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)


class Driver(NamedTuple):
    """A driver, its server's port, how it connects under rules, and what verifies certificates with it."""

    name: str
    port: int
    user: str
    connect: Any
    tls: dict[str, Any]
    who: str = "select pg_backend_pid()"

    def url(self, host: str) -> str:
        return f"{self.name}://{self.user}@{host}:{self.port}/{'shop' if 'mysql' in self.name else 'postgres'}"


def _proves(row: str, *what: str) -> list[pytest.MarkDecorator]:
    return [pytest.mark.proves(f"SQLAlchemy, {row}", *what)]


SYNC = ["psycopg", "psycopg2", "PyMySQL"]
ASYNC = ["psycopg async", "asyncpg", "aiomysql", "asyncmy"]
ON_MARIADB = ["PyMySQL", "aiomysql", "asyncmy"]


def over(rows: list[str], *what: str) -> Any:
    return pytest.mark.parametrize(
        "driver", [pytest.param(r, id=r, marks=_proves(r, *what)) for r in rows], indirect=True
    )


@pytest.fixture
def driver(request: pytest.FixtureRequest, trap: Make, pem: Make, client_tls: ssl.SSLContext) -> Driver:
    name = request.param
    if name in ASYNC and not importlib.util.find_spec("greenlet"):
        missing("greenlet", "SQLAlchemy[asyncio]")
    port = request.getfixturevalue("maria" if name in ON_MARIADB else "postgres").port
    trap(BAD, port=port)
    verify_full = {"sslmode": "verify-full", "sslrootcert": str(pem("ca.test").ca)}
    made: dict[str, Driver] = {
        "psycopg": Driver("postgresql+psycopg", port, "jail", partial(psycopg.connect, resolver=Names()), verify_full),
        "psycopg2": Driver(
            "postgresql+psycopg2", port, "jail", partial(psycopg2.connect, resolver=Names()), verify_full
        ),
        "PyMySQL": Driver(
            "mysql+pymysql",
            port,
            f"{USER}:{PASSWORD}",
            partial(pymysql.connect, resolver=Names()),
            {"ssl": client_tls},
            "select connection_id()",
        ),
        "psycopg async": Driver(
            "postgresql+psycopg",
            port,
            "jail",
            partial(psycopg.AsyncConnection.connect, resolver=AsyncNames()),
            verify_full,
        ),
        "asyncpg": Driver("postgresql+asyncpg", port, "jail", None, {"ssl": client_tls}),
    }
    for each in ("aiomysql", "asyncmy"):
        made[each] = Driver(
            f"mysql+{each}", port, f"{USER}:{PASSWORD}", None, {"ssl": client_tls}, "select connection_id()"
        )
    return made[name]


@contextmanager
def engine_for(driver: Driver, host: str, rules: Rules | None = RULES, **options: Any) -> Iterator[sqlalchemy.Engine]:
    engine = create_engine(driver.url(host), rules, **{"connect": driver.connect, **options})
    try:
        yield engine
    finally:
        engine.dispose()


def who(engine: sqlalchemy.Engine, driver: Driver) -> int:
    """The number of the server's end of the connection that the engine serves."""
    with engine.connect() as connection:
        return int(connection.execute(text(driver.who)).scalar_one())


@over(SYNC, "allowed", "tls")
def test_an_allowed_name_answers_queries_over_tls(driver: Driver) -> None:
    with engine_for(driver, "good.test", connect_args=driver.tls) as engine:
        with Session(engine) as session:
            assert session.execute(text("select 42")).scalar_one() == 42
        first = who(engine, driver)
        assert who(engine, driver) == first


@over(SYNC, "denied", "literal")
@pytest.mark.parametrize("host", ["bad.test", BAD])
def test_a_denied_target_is_never_dialled_and_is_asked_for_once(driver: Driver, host: str) -> None:
    asked: list[Any] = []

    def connect(*args: Any, **kwargs: Any) -> Any:
        asked.append(kwargs)
        return driver.connect(*args, **kwargs)

    with engine_for(driver, host, connect=connect, pool_pre_ping=True) as engine:
        with pytest.raises(DeniedError) as caught:
            engine.connect()
    assert caught.value.host == host
    assert isinstance(caught.value, exc.SQLAlchemyError)
    assert isinstance(caught.value, netjail.DeniedError)
    assert find_denied(caught.value)
    assert len(asked) == 1


@over(SYNC, "wrong-name")
def test_a_certificate_for_another_name_fails(driver: Driver) -> None:
    with engine_for(driver, "wrong.test", connect_args=driver.tls) as engine:
        with pytest.raises(exc.OperationalError) as caught:
            engine.connect()
    assert find_denied(caught.value) is None


@over(SYNC, "pools")
@pytest.mark.parametrize("pool", [None, StaticPool, NullPool])
def test_a_connection_never_serves_other_rules_than_those_it_was_made_under(driver: Driver, pool: Any) -> None:
    options = {} if pool is None else {"poolclass": pool}
    with engine_for(driver, "good.test", None, **options) as engine:
        seen = []
        for rules in (RULES, Rules(allow=["127.0.0.2/32"]), WHOLE, WHOLE, RULES):
            with use_rules(rules):
                seen.append(who(engine, driver))
        assert len({*seen[:2], *seen[2:4]}) == (2 if pool is not NullPool else 4)
        if pool is not NullPool:
            assert seen[0] == seen[1]  # equal rules share
            assert seen[2] == seen[3]
        assert seen[4] not in seen[:4]
        with use_rules(OTHER), pytest.raises(DeniedError):
            engine.connect()
        with pytest.raises(DeniedError, match="no rules are in force"):
            engine.connect()
        with use_rules(RULES):
            assert who(engine, driver)


@over(SYNC)
def test_rules_stay_apart_under_concurrency(driver: Driver) -> None:
    sets = [Rules(allow=[GOOD, f"10.0.0.{n}"]) for n in range(3)]
    seen: list[set[int]] = [set() for _ in sets]

    def work(number: int) -> None:
        for _ in range(5):
            with use_rules(sets[number]):
                seen[number].add(who(engine, driver))

    with engine_for(driver, "good.test", None, pool_size=2, max_overflow=1) as engine:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not seen[0] & seen[1]
    assert not seen[1] & seen[2]
    assert not seen[0] & seen[2]


@over(["psycopg"])
def test_the_context_only_narrows_what_was_given(driver: Driver) -> None:
    with engine_for(driver, "good.test", RULES) as engine:
        assert who(engine, driver)
        with use_rules(OTHER), pytest.raises(DeniedError):
            engine.connect()
        with use_rules(WHOLE):
            assert who(engine, driver)


@over(["psycopg"])
def test_listeners_that_change_what_is_dialled_are_judged_whenever_they_were_added(driver: Driver) -> None:
    with engine_for(driver, "good.test") as engine:
        assert who(engine, driver)
        engine.dispose()

        @event.listens_for(engine, "do_connect")
        def elsewhere(dialect: Any, record: Any, cargs: Any, cparams: dict[str, Any]) -> None:
            cparams["host"] = "bad.test"

        with pytest.raises(DeniedError):
            engine.connect()


@over(["psycopg"])
def test_urls_with_lists_of_hosts_and_with_hostaddr_are_judged(driver: Driver) -> None:
    port = driver.port
    for query, works in (
        (f"host=bad.test:{port}&host=good.test:{port}", True),
        (f"host=bad.test:{port}&host=127.0.0.3:{port}", False),
        (f"host=good.test&hostaddr=127.0.0.3&port={port}", False),
        (f"host=/tmp&port={port}", False),
        (f"host=good.test&port={port}&service=inside", False),
    ):
        engine = create_engine(
            f"postgresql+psycopg://jail@/postgres?{query}", RULES, connect=driver.connect, poolclass=NullPool
        )
        if works:
            assert who(engine, driver)
        else:
            with pytest.raises(DeniedError):
                engine.connect()


@over(["psycopg"])
def test_a_ping_comes_before_the_rules_are_looked_at(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is on the page under what does not work."""
    with engine_for(driver, "good.test", None, pool_pre_ping=True) as engine:
        with use_rules(RULES):
            assert who(engine, driver)
        pings: list[Any] = []

        def ping(connection: Any) -> bool:
            pings.append(connection)
            return True

        monkeypatch.setattr(engine.dialect, "do_ping", ping)
        with use_rules(OTHER), pytest.raises(DeniedError):
            engine.connect()
    assert len(pings) == 1


@over(["psycopg"])
def test_a_listener_that_returns_a_connection_is_not_judged(driver: Driver) -> None:
    """Which is on the page under what does not work."""
    with engine_for(driver, "bad.test") as engine:

        @event.listens_for(engine, "do_connect")
        def instead(dialect: Any, record: Any, cargs: Any, cparams: dict[str, Any]) -> Any:
            return driver.connect(**{**cparams, "host": "good.test"}, rules=WHOLE)

        assert who(engine, driver)


def test_what_would_connect_past_the_rules_is_refused() -> None:
    url = "postgresql+psycopg://jail@good.test/postgres"
    for name in ("creator", "pool", "async_creator"):
        with pytest.raises(ValueError, match=name):
            create_engine(url, RULES, connect=psycopg.connect, **{name: lambda: None})
    with pytest.raises(TypeError, match="connect"):
        create_engine(url, RULES)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="async"):
        create_engine(url.replace("psycopg", "asyncpg"), RULES, connect=psycopg.connect)


@pytest.mark.parametrize("ruling", ["rules=all", "resolver=theirs", "connect=theirs", "mixed=skip"])
def test_a_url_does_not_touch_the_rules(ruling: str) -> None:
    """It may come from whoever is to be jailed, and SQLAlchemy hands on whatever its query names."""
    connect: Any = psycopg.connect
    connect = partial(connect, mixed="refuse")
    with pytest.raises(ValueError, match="in the URL"):
        create_engine(f"postgresql+psycopg://app@mixed.test/shop?{ruling}", RULES, connect=connect)
    if importlib.util.find_spec("greenlet"):
        with pytest.raises(ValueError, match="in the URL"):
            create_async_engine(f"postgresql+psycopg://app@mixed.test/shop?{ruling}", RULES, connect=connect)


@over(["psycopg"])
def test_a_connection_that_did_not_come_by_the_rules_is_not_handed_out(driver: Driver) -> None:
    """Somebody has given the pool a way of its own to connect."""
    with engine_for(driver, "good.test") as engine:
        pool: Any = engine.pool
        pool._creator = lambda: driver.connect(
            host="good.test", port=driver.port, user="jail", dbname="postgres", rules=RULES
        )
        with pytest.raises(exc.InvalidRequestError):
            engine.connect()


def test_a_denial_pickles() -> None:
    engine = create_engine("postgresql+psycopg://jail@127.0.0.3/postgres", RULES, connect=psycopg.connect)
    with pytest.raises(DeniedError) as caught:
        engine.connect()
    copy = pickle.loads(pickle.dumps(caught.value))
    assert type(copy) is DeniedError
    assert str(copy) == str(caught.value)


# Async engines.


@contextmanager
def running(driver: Driver, rules: Rules | None = RULES) -> Iterator[Callable[..., Any]]:
    """Runs a coroutine: on a loop of netjail's under ``rules`` where the driver dials through it."""
    if driver.connect is None:
        factory: Any = partial(new_event_loop, rules, resolver=AsyncNames(TABLE))
    else:
        factory = asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        yield runner.run


def async_engine(driver: Driver, host: str, rules: Rules | None = RULES, **options: Any) -> Any:
    given = None if driver.connect is None else rules
    return create_async_engine(driver.url(host), given, connect=driver.connect, **options)


async def who_async(engine: Any, driver: Driver) -> int:
    async with engine.connect() as connection:
        return int((await connection.execute(text(driver.who))).scalar_one())


@over(ASYNC, "allowed", "tls")
def test_an_async_engine_answers_queries_over_tls(driver: Driver) -> None:
    async def main() -> None:
        engine = async_engine(driver, "good.test", connect_args=driver.tls)
        first = await who_async(engine, driver)
        assert await who_async(engine, driver) == first
        await engine.dispose()

    with running(driver) as run:
        run(main())


@over(ASYNC, "denied", "literal")
@pytest.mark.parametrize("host", ["bad.test", BAD])
def test_an_async_engine_never_dials_a_denied_target(driver: Driver, host: str) -> None:
    async def main() -> None:
        engine = async_engine(driver, host, connect_args={"ssl": False} if driver.name.endswith("asyncpg") else {})
        with pytest.raises(DeniedError) as caught:
            await who_async(engine, driver)
        assert caught.value.host == host
        await engine.dispose()

    with running(driver) as run:
        run(main())


@over(["asyncpg", "aiomysql", "asyncmy"], "refused")
def test_an_async_engine_takes_no_unix_socket(driver: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, options = tmp_path / ".s.PGSQL.5432", tmp_path / "options"
    options.write_text(f"[client]\nsocket = {path}\n[here]\nhost = {tmp_path}\n")
    if driver.name.endswith("asyncpg"):
        paths = [f"/shop?host={tmp_path}", f"/shop?host={tmp_path}:5432&host=good.test:5432", "/shop"]
        files = f"good.test/shop?service=here&servicefile={options}"
    else:
        paths = [f"good.test/shop?unix_socket={path}"]
        files = f"good.test/shop?read_default_file={options}"

    async def refused(where: str, error: type[Exception]) -> None:
        engine = create_async_engine(f"{driver.name}://app@{where}")
        with pytest.raises(error, match="unix socket"):
            await who_async(engine, driver)
        await engine.dispose()

    with socket.socket(socket.AF_UNIX) as listener, running(driver) as run:
        listener.bind(str(path))
        listener.listen()
        listener.setblocking(False)
        for where in paths:
            for pghost in ("", str(tmp_path)):
                monkeypatch.setenv("PGHOST", pghost)
                run(refused(where, DeniedError))
        run(refused(files, ValueError))
        with pytest.raises(BlockingIOError):
            listener.accept()


@over(ASYNC, "wrong-name")
def test_an_async_engine_fails_on_a_certificate_for_another_name(driver: Driver) -> None:
    async def main() -> None:
        engine = async_engine(driver, "wrong.test", connect_args=driver.tls)
        with pytest.raises((exc.OperationalError, ssl.SSLCertVerificationError)) as caught:
            await who_async(engine, driver)
        assert find_denied(caught.value) is None
        await engine.dispose()

    with running(driver) as run:
        run(main())


@over(ASYNC, "pools")
def test_an_async_engine_keeps_rule_sets_apart(driver: Driver) -> None:
    async def main() -> None:
        engine = async_engine(driver, "good.test", None)
        seen = []
        for rules in (RULES, Rules(allow=["127.0.0.2/32"]), WHOLE, RULES):
            with use_rules(rules):
                seen.append(await who_async(engine, driver))
        assert seen[0] == seen[1]
        assert len(set(seen)) == 3
        with use_rules(OTHER), pytest.raises(DeniedError):
            await who_async(engine, driver)
        with pytest.raises(DeniedError):
            await who_async(engine, driver)
        await engine.dispose()

    with running(driver, None) as run:
        run(main())


@over(["asyncpg"], "refused")
def test_a_driver_that_dials_through_the_loop_is_denied_on_any_other_loop(driver: Driver) -> None:
    async def main() -> None:
        engine = create_async_engine(driver.url(GOOD))
        with use_rules(WHOLE), pytest.raises(DeniedError, match="loop"):
            await who_async(engine, driver)
        await engine.dispose()

    with asyncio.Runner() as runner:
        runner.run(main())


@over(["asyncpg"], "refused")
def test_rules_for_a_driver_that_goes_by_the_loops_are_an_error(driver: Driver) -> None:
    with pytest.raises(ValueError, match="connect="):
        create_async_engine(driver.url(GOOD), RULES)
    with pytest.raises(ValueError, match="async_creator"):
        create_async_engine(driver.url(GOOD), async_creator=lambda: None)


@over(["psycopg async"], "refused")
def test_an_async_driver_that_does_not_dial_through_the_loop_needs_a_connect(driver: Driver) -> None:
    with pytest.raises(ValueError, match="connect="):
        create_async_engine(driver.url(BAD))
    engine = create_async_engine(
        driver.url(GOOD), connect=driver.connect, connect_args={"async_creator_fn": lambda: pytest.fail("it dialled")}
    )

    async def main() -> None:
        with use_rules(WHOLE), pytest.raises(ValueError, match="async_creator_fn"):
            await who_async(engine, driver)

    with running(driver) as run:
        run(main())
