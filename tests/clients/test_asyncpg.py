"""asyncpg on netjail's loop and under the guard, against a real PostgreSQL with TLS: 127.0.0.2 is allowed."""

from __future__ import annotations

import asyncio
import importlib.util
import ssl
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import asyncpg
import pytest

from netjail import DeniedError, Rules, current_rules, find_denied, use_rules
from netjail.loop import new_event_loop
from tests.guard.harness import run_guarded
from tests.servers.daemon import Daemon
from tests.servers.names import BAD, GOOD, TABLE, AsyncNames
from tests.servers.postgresql import postgresql, tls_in_front

Make = Callable[..., Any]
RULES = Rules(allow=[GOOD])
WHOLE = Rules(allow=["127.0.0.0/8"])
WHOLE_BUT_BAD = Rules(allow=["127.0.0.0/8"], block=[BAD])
NAMES = {**TABLE, "two.test": ["127.0.0.4", GOOD]}  # nothing listens on the first
DSN = "postgresql://jail@good.test"
LOOP, GUARD = "asyncpg, loop", "asyncpg, guard"

pytestmark = pytest.mark.usefixtures("nothing_left_behind")

if importlib.util.find_spec("uvloop") is not None:
    import uvloop

    uvloop.new_event_loop().close()  # libuv opens a pipe with the first loop, and never closes it


@pytest.fixture(scope="module")
def server(pem: Make) -> Iterator[Daemon]:
    with postgresql(pem("good.test")) as daemon:
        yield daemon


@pytest.fixture
def port(server: Daemon, trap: Make) -> int:
    """The server's port on 127.0.0.2; whoever reaches it on 127.0.0.3 fails the test."""
    trap(BAD, port=server.port)
    return server.port


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGHOST", "PGPORT", "PGSERVICE", "PGSERVICEFILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(
    params=[
        False,
        pytest.param(
            True, marks=pytest.mark.skipif(not importlib.util.find_spec("uvloop"), reason="uvloop is not installed")
        ),
    ],
    ids=["asyncio", "uvloop"],
)
def run(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Runs a coroutine on a loop of netjail's."""

    def main(coroutine: Any, rules: Rules | None = RULES, names: Any = NAMES, **options: Any) -> Any:
        resolver = names if isinstance(names, AsyncNames) else AsyncNames(names)
        factory = partial(new_event_loop, rules, uvloop=request.param, resolver=resolver, **options)
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(coroutine)

    return main


async def ask(dsn: str | None = None, *, query: str = "select 42", **options: Any) -> Any:
    connection = await asyncpg.connect(dsn, **{"user": "jail", "database": "postgres", "ssl": False, **options})
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


@pytest.mark.proves(LOOP, "allowed", "tls")
def test_an_allowed_name_answers_queries_with_and_without_tls(run: Make, port: int, client_tls: ssl.SSLContext) -> None:
    encrypted = "select ssl from pg_stat_ssl where pid = pg_backend_pid()"
    assert run(ask(host="good.test", port=port, query=encrypted, ssl=client_tls)) is True
    assert run(ask(host="good.test", port=port, query=encrypted)) is False


@pytest.mark.proves(LOOP, "wrong-name")
def test_a_certificate_for_another_name_fails(run: Make, port: int, client_tls: ssl.SSLContext) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        run(ask(host="wrong.test", port=port, ssl=client_tls))


@pytest.mark.proves(LOOP, "allowed", "tls", "wrong-name")
def test_tls_from_the_first_byte_checks_the_name(
    run: Make, server: Daemon, server_tls: Make, client_tls: ssl.SSLContext
) -> None:
    with tls_in_front(server, server_tls("good.test")) as port:
        assert run(ask(host="good.test", port=port, ssl=client_tls, direct_tls=True)) == 42
        with pytest.raises(ssl.SSLCertVerificationError):
            run(ask(host="wrong.test", port=port, ssl=client_tls, direct_tls=True))
        with pytest.raises(DeniedError):
            run(ask(host="bad.test", port=port, ssl=client_tls, direct_tls=True))


@pytest.mark.proves(LOOP, "denied", "literal")
@pytest.mark.parametrize("host", ["bad.test", BAD, "::ffff:127.0.0.3", "0.0.0.0", "::1"])
def test_a_denied_name_or_literal_is_never_dialled(run: Make, port: int, host: str) -> None:
    with pytest.raises(DeniedError) as caught:
        run(ask(host=host, port=port))
    assert (caught.value.host, caught.value.port) == (host, port)


def test_lists_of_hosts_uris_and_the_environment_are_judged(
    run: Make, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(ask(f"postgresql://jail@bad.test:{port},good.test:{port}/postgres")) == 42
    assert run(ask(host=["bad.test", "two.test"], port=port), WHOLE_BUT_BAD) == 42
    assert run(ask(host="mixed.test", port=port)) == 42
    with pytest.raises(DeniedError):
        run(ask(host="mixed.test", port=port), mixed="refuse")
    with pytest.raises(OSError) as caught:
        run(ask(f"postgresql://jail@bad.test:{port},127.0.0.3:{port}/postgres"))
    assert find_denied(caught.value)
    monkeypatch.setenv("PGHOST", "bad.test")
    monkeypatch.setenv("PGPORT", str(port))
    with pytest.raises(DeniedError):
        run(ask())


def test_rules_come_from_the_loop_and_from_the_context(run: Make, port: int) -> None:
    async def under(rules: Rules) -> Any:
        with use_rules(rules):
            return await ask(host="good.test", port=port)

    with pytest.raises(DeniedError, match="no rules are in force"):
        run(ask(host="good.test", port=port), None)
    assert run(under(RULES), None) == 42
    with pytest.raises(DeniedError):
        run(under(Rules(allow=[BAD])))


@pytest.mark.parametrize("moved", [False, True])
def test_a_cancel_request_is_dialled_again_and_judged_again(run: Make, port: int, moved: bool) -> None:
    """Where the name has moved to a denied address by then, nothing is opened there and the query goes on."""
    names = AsyncNames({"good.test": iter([[GOOD], [GOOD], [BAD] if moved else [GOOD]])})
    waits = "select wait_event from pg_stat_activity where pid = $1"  # active it is called while it is only prepared

    async def main() -> None:
        target: dict[str, Any] = {"host": "good.test", "port": port, "user": "jail", "database": "postgres"}
        async with asyncio.timeout(30):
            other = await asyncpg.connect(**target, ssl=False)
            connection = await asyncpg.connect(**target, ssl=False)
            pid = connection.get_server_pid()
            query = asyncio.create_task(connection.fetchval("select pg_sleep(60)"))
            while await other.fetchval(waits, pid) != "PgSleep":
                pass
            query.cancel()
            with pytest.raises(asyncio.CancelledError):
                await query
            while len(names.asked) < 3:  # noqa: ASYNC110 - the cancel request is a task of asyncpg's own
                await asyncio.sleep(0)
            if moved:
                assert await other.fetchval(waits, pid) == "PgSleep"
                assert await other.fetchval("select pg_terminate_backend($1)", pid)
                connection.terminate()
            else:
                while await other.fetchval(waits, pid) == "PgSleep":
                    pass
                await connection.close()
            await other.close()

    run(main(), names=names)
    assert len(names.asked) == 3


def test_unix_sockets_pass(run: Make, server: Daemon) -> None:
    """The loop judges addresses; this is on the page as a trap."""
    assert run(ask(host=str(server.log.parent), port=server.port), Rules()) == 42


@pytest.mark.proves(LOOP, "pools")
def test_the_recipe_keeps_one_pool_for_each_rule_set(run: Make, port: int) -> None:
    pools: dict[Any, asyncpg.Pool] = {}

    @asynccontextmanager
    async def connection() -> Any:
        rules = current_rules()
        if rules not in pools:
            pools[rules] = await asyncpg.create_pool(f"{DSN}:{port}/postgres", ssl=False, min_size=0)
        async with pools[rules].acquire() as made:
            yield made

    async def main() -> list[int]:
        pids = []
        for rules in (RULES, WHOLE, RULES, WHOLE):
            with use_rules(rules):
                async with connection() as made:
                    pids.append(await made.fetchval("select pg_backend_pid()"))
        with use_rules(Rules(allow=[BAD])), pytest.raises(DeniedError):
            async with connection():
                pass
        for pool in pools.values():
            await pool.close()
        return pids

    first, second, third, fourth = run(main(), WHOLE)
    assert first == third
    assert second == fourth
    assert first != second


GUARDED = """
import asyncio, asyncpg, ssl

async def query(host, context=None):
    connection = await asyncpg.connect(
        host=host, port=PORT, user="jail", database="postgres", ssl=context or False
    )
    assert await connection.fetchval("select 42") == 42
    await connection.close()

ask = lambda *args: asyncio.run(query(*args))
verifying = ssl.create_default_context(cafile=CA)
print(*[outcome(ask, host) for host in ("good.test", "bad.test", BAD)])
print(outcome(ask, "good.test", verifying), "CERTIFICATE_VERIFY_FAILED" in outcome(ask, "wrong.test", verifying))
"""


@pytest.mark.proves(GUARD, "allowed", "denied", "literal", "tls", "wrong-name")
def test_under_a_strict_guard_asyncpg_goes_by_its_floor(port: int, pem: Make) -> None:
    printed = run_guarded(GUARDED, strict=True, PORT=port, CA=str(pem("ca.test").ca))
    assert printed == ["ok denied denied", "ok True"]
