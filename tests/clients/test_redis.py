"""redis-py under rules, sync and asyncio, against real redis servers: 127.0.0.2 is allowed and 127.0.0.3 is not."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import pickle
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Any

import pytest
import redis
import redis.asyncio
import redis.asyncio.retry
import redis.backoff
import redis.retry

import netjail
from netjail import Rules, find_denied, use_rules
from netjail.clients import redis as jailed
from netjail.clients.redis import DeniedError
from tests.servers import redis as servers
from tests.servers.names import BAD, GOOD, TABLE, AsyncNames, Names

Make = Callable[..., Any]
ALLOWED = Rules(allow=[GOOD])
OTHER = Rules(allow=[GOOD, "192.0.2.1"])
NOT_HERE = Rules(allow=[BAD])

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("nothing_left_behind")]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass(frozen=True)
class Kind:
    """One of redis-py's two halves, and what netjail gives for it."""

    name: str
    Redis: Any
    Pool: Any
    BlockingPool: Any
    Sentinel: Any
    RedisCluster: Any
    Names: Any
    plain: Any
    Retry: Any

    def __str__(self) -> str:
        return self.name

    @asynccontextmanager
    async def closing(self, *clients: Any) -> AsyncIterator[Any]:
        try:
            yield clients[0] if len(clients) == 1 else clients
        finally:
            for client in clients:
                await done(client.close() if self.name == "sync" else client.aclose())


SYNC = Kind(
    "sync",
    jailed.Redis,
    jailed.ConnectionPool,
    jailed.BlockingConnectionPool,
    jailed.Sentinel,
    jailed.RedisCluster,
    Names,
    redis,
    redis.retry.Retry,
)
ASYNC = Kind(
    "async",
    jailed.AsyncRedis,
    jailed.AsyncConnectionPool,
    jailed.AsyncBlockingConnectionPool,
    jailed.AsyncSentinel,
    jailed.AsyncRedisCluster,
    AsyncNames,
    redis.asyncio,
    redis.asyncio.retry.Retry,
)


async def done(result: Any) -> Any:
    """What a call gives, whether the client is the sync one or not."""
    return await result if inspect.isawaitable(result) else result


def halves(*proofs: str) -> Any:
    """Runs a test with both halves, which proves ``proofs`` in the row of each."""
    return pytest.mark.parametrize(
        "kind",
        [
            pytest.param(
                each, id=each.name, marks=[pytest.mark.proves(f"redis, {each.name}", *proofs)] if proofs else []
            )
            for each in (SYNC, ASYNC)
        ],
    )


both = halves()


@pytest.fixture(scope="module")
def files(pem: Make) -> Any:
    return pem("good.test", "mixed.test", "bad.test", GOOD)


@pytest.fixture(scope="module")
def server(files: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    with servers.alone(tmp_path_factory.mktemp("redis"), files) as made:
        yield made


@pytest.fixture
def at(server: servers.Server, files: Any) -> dict[str, Any]:
    """The plain arguments of a client of the server."""
    return {
        "host": "good.test",
        "port": server.port,
        "ssl": True,
        "ssl_ca_certs": str(files.ca),
        "decode_responses": True,
    }


@halves("allowed", "tls")
async def test_commands_go_to_an_allowed_name_over_tls_that_checks_it(kind: Kind, at: dict[str, Any]) -> None:
    names = kind.Names()
    async with kind.closing(kind.Redis(ALLOWED, resolver=names, **at)) as client:
        assert await done(client.set("greeting", "hello"))
        assert await done(client.get("greeting")) == "hello"
        pipe = client.pipeline()
        pipe.get("greeting").strlen("greeting")
        assert await done(pipe.execute()) == ["hello", 5]
    assert [host for host, _ in names.asked] == ["good.test"]


@both
@pytest.mark.parametrize("protocol", [2, 3])
async def test_subscribers_hear_what_is_published(kind: Kind, at: dict[str, Any], protocol: int) -> None:
    async with kind.closing(kind.Redis(ALLOWED, resolver=kind.Names(), protocol=protocol, **at)) as client:
        async with kind.closing(client.pubsub(ignore_subscribe_messages=True)) as pubsub:
            await done(pubsub.subscribe("news"))
            await done(pubsub.get_message(timeout=5))
            await done(client.publish("news", "hello"))
            message = None
            while message is None:
                message = await done(pubsub.get_message(timeout=5))
            assert message["data"] == "hello"


@halves("denied")
@pytest.mark.parametrize("blocking", [False, True])
async def test_a_denied_name_opens_nothing_and_is_not_retried(
    kind: Kind, at: dict[str, Any], trap: Make, blocking: bool
) -> None:
    trap(BAD, port=at["port"])
    names = kind.Names()
    at = {**at, "host": "bad.test"}
    if blocking:
        pool = kind.BlockingPool(ALLOWED, resolver=names, host="bad.test", port=at["port"])
        client = kind.Redis(connection_pool=pool)
    else:
        client = kind.Redis(ALLOWED, resolver=names, **at)
    async with kind.closing(client):
        for _ in range(2):
            with pytest.raises(DeniedError, match=r"'bad\.test' port \d+: none of its addresses"):
                await done(client.get("key"))
        pipe = client.pipeline()
        pipe.get("key")
        with pytest.raises(DeniedError):
            await done(pipe.execute())
        async with kind.closing(client.pubsub()) as pubsub:
            with pytest.raises(DeniedError):
                await done(pubsub.subscribe("news"))
    assert len(names.asked) == 4


@both
async def test_configured_retries_do_not_retry_a_denial(kind: Kind, at: dict[str, Any], trap: Make) -> None:
    trap(BAD, port=at["port"])
    names = kind.Names()
    retry = kind.Retry(redis.backoff.NoBackoff(), 5)
    errors: list[Any] = [redis.ConnectionError, redis.TimeoutError, redis.BusyLoadingError]
    options = {**at, "host": "bad.test", "retry": retry, "retry_on_error": errors}
    async with kind.closing(kind.Redis(ALLOWED, resolver=names, **options)) as client:
        with pytest.raises(DeniedError):
            await done(client.get("key"))
    assert len(names.asked) == 1


@halves("literal")
@pytest.mark.parametrize("literal", [BAD, f"::ffff:{BAD}", "::1"])
async def test_a_literal_is_judged(kind: Kind, at: dict[str, Any], trap: Make, literal: str) -> None:
    trap(BAD, port=at["port"])
    async with kind.closing(kind.Redis(ALLOWED, **{**at, "host": literal})) as client:
        with pytest.raises(DeniedError, match="the address is not accepted"):
            await done(client.get("key"))


@halves("wrong-name")
async def test_a_certificate_for_another_name_fails(kind: Kind, at: dict[str, Any]) -> None:
    options = {
        **at,
        "host": "wrong.test",
        "retry": kind.Retry(redis.backoff.NoBackoff(), 0),
    }
    async with kind.closing(kind.Redis(ALLOWED, resolver=kind.Names(), **options)) as client:
        with pytest.raises(redis.ConnectionError, match="CERTIFICATE_VERIFY_FAILED") as caught:
            await done(client.get("key"))
    assert find_denied(caught.value) is None


@both
async def test_without_rules_everything_is_denied_and_no_name_is_looked_up(kind: Kind, at: dict[str, Any]) -> None:
    names = kind.Names()
    async with kind.closing(kind.Redis(resolver=names, **at)) as client:
        with pytest.raises(DeniedError, match="no rules are in force"):
            await done(client.get("key"))
        with use_rules(ALLOWED):
            assert await done(client.ping())
        with pytest.raises(DeniedError, match="no rules are in force"):
            await done(client.get("key"))
    assert len(names.asked) == 1


@both
async def test_the_context_only_narrows_what_was_given(kind: Kind, at: dict[str, Any]) -> None:
    async with kind.closing(kind.Redis(ALLOWED, resolver=kind.Names(), **at)) as client:
        with use_rules(OTHER):
            assert await done(client.ping())
        with use_rules(NOT_HERE), pytest.raises(DeniedError):
            await done(client.ping())


@both
async def test_an_accepted_address_of_a_name_is_dialled_and_mixed_refuse_denies_it(
    kind: Kind, at: dict[str, Any], trap: Make
) -> None:
    trap(BAD, port=at["port"])
    at["host"] = "mixed.test"
    async with kind.closing(
        kind.Redis(ALLOWED, resolver=kind.Names(), **at),
        kind.Redis(ALLOWED, resolver=kind.Names(), mixed="refuse", **at),
    ) as (skipping, refusing):
        assert await done(skipping.ping())
        with pytest.raises(DeniedError, match="not every one of its addresses"):
            await done(refusing.ping())


@halves("pools")
async def test_a_connection_serves_the_rules_it_was_made_under_and_no_others(kind: Kind, at: dict[str, Any]) -> None:
    async with kind.closing(kind.Redis(resolver=kind.Names(), **at)) as client:
        used = []
        for rules in (ALLOWED, OTHER, ALLOWED, OTHER, Rules(allow=[f"{GOOD}/32"])):
            with use_rules(rules):
                used.append(await done(client.client_id()))
    assert used[0] == used[2] == used[4] != used[1] == used[3]


@halves("pools")
@pytest.mark.parametrize("blocking", [False, True])
async def test_a_full_pool_makes_its_connection_anew_for_other_rules(
    kind: Kind, at: dict[str, Any], blocking: bool
) -> None:
    plain: Any = kind.plain
    options: dict[str, Any] = {name: value for name, value in at.items() if name != "ssl"}
    options |= {"connection_class": plain.SSLConnection, "max_connections": 1}
    pool = (kind.BlockingPool if blocking else kind.Pool)(resolver=kind.Names(), **options)
    used = []
    async with kind.closing(plain.Redis(connection_pool=pool), pool) as (client, _):
        for rules in (ALLOWED, ALLOWED, OTHER, ALLOWED):
            with use_rules(rules):
                used.append(await done(client.client_id()))
        with use_rules(NOT_HERE), pytest.raises(DeniedError):
            await done(client.client_id())
    assert used[0] == used[1]
    assert len(set(used)) == 3


@both
async def test_a_blocking_pool_keeps_connections_apart_too(kind: Kind, at: dict[str, Any]) -> None:
    options = {name: value for name, value in at.items() if name != "ssl"}
    pool = kind.BlockingPool(resolver=kind.Names(), connection_class=kind.plain.SSLConnection, timeout=5, **options)
    used = []
    async with kind.closing(kind.Redis(connection_pool=pool), pool) as (client, _):
        for rules in (ALLOWED, OTHER, ALLOWED, OTHER):
            with use_rules(rules):
                used.append(await done(client.client_id()))
    assert used[0] == used[2] != used[1] == used[3]


async def test_rules_stay_apart_in_threads_that_share_a_pool(at: dict[str, Any]) -> None:
    sets = [Rules(allow=[GOOD, f"192.0.2.{n}"]) for n in range(3)]
    used: dict[int, set[int]] = {0: set(), 1: set(), 2: set()}
    pool = jailed.BlockingConnectionPool(
        resolver=Names(), connection_class=redis.SSLConnection, max_connections=2, timeout=20, host="good.test",
        port=at["port"], ssl_ca_certs=at["ssl_ca_certs"],
    )  # fmt: skip
    with jailed.Redis(connection_pool=pool) as client:

        def work(number: int) -> None:
            with use_rules(sets[number]):
                for _ in range(20):
                    used[number].add(client.client_id())

        threads = [threading.Thread(target=work, args=(number,)) for number in used]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        pool.disconnect()
    assert not used[0] & used[1]
    assert not used[1] & used[2]
    assert not used[0] & used[2]


async def test_rules_stay_apart_in_tasks_that_share_a_pool(at: dict[str, Any]) -> None:
    sets = [Rules(allow=[GOOD, f"192.0.2.{n}"]) for n in range(3)]
    async with jailed.AsyncRedis(resolver=AsyncNames(), **at) as client:

        async def work(number: int) -> set[int]:
            with use_rules(sets[number]):
                return {await client.client_id() for _ in range(20)}

        used = await asyncio.gather(*map(work, range(3)))
    assert not used[0] & used[1]
    assert not used[1] & used[2]
    assert not used[0] & used[2]


@both
async def test_idle_connections_of_other_rules_do_not_pile_up(
    kind: Kind, at: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jailed, "_MOST_IDLE", 3)
    async with kind.closing(kind.Redis(resolver=kind.Names(), client_name="pile", **at)) as client:
        for number in range(8):
            with use_rules(Rules(allow=[GOOD, f"192.0.2.{number}"])):
                await done(client.ping())
                clients = await done(client.client_list())
        assert len([each for each in clients if each["name"] == "pile"]) == 3


@both
async def test_a_subscriber_reconnects_under_its_own_rules_wherever_it_is_read(
    kind: Kind, at: dict[str, Any], server: servers.Server
) -> None:
    names = kind.Names()
    at["retry"] = kind.Retry(redis.backoff.NoBackoff(), 3)
    async with kind.closing(kind.Redis(resolver=names, **at)) as client:
        async with kind.closing(client.pubsub(ignore_subscribe_messages=True)) as pubsub:
            with use_rules(ALLOWED):
                await done(pubsub.subscribe("news"))
                await done(pubsub.get_message(timeout=5))
            heard: list[Any] = []

            async def listen() -> None:
                while not heard:
                    if message := await done(pubsub.get_message(timeout=0.05)):
                        heard.append(message)
                    server.ask("PUBLISH", "news", "hello")

            server.ask("CLIENT", "KILL", "TYPE", "pubsub")
            if kind is SYNC:
                thread = threading.Thread(target=lambda: asyncio.run(listen()))  # no rules there
                thread.start()
                thread.join()
            else:
                await asyncio.get_running_loop().create_task(listen(), context=contextvars.Context())
            names.table["good.test"] = [BAD]
            server.ask("CLIENT", "KILL", "TYPE", "pubsub")
            with pytest.raises(DeniedError):
                while True:
                    await done(pubsub.get_message(timeout=0.05))
    assert heard[0]["data"] == "hello"
    assert len(names.asked) == 3


@both
async def test_a_lost_connection_is_made_again_and_judged_again(
    kind: Kind, at: dict[str, Any], server: servers.Server, trap: Make
) -> None:
    trap(BAD, port=at["port"])
    names = kind.Names({"good.test": iter([[GOOD], [GOOD], [BAD]])})
    at["retry"] = kind.Retry(redis.backoff.NoBackoff(), 3)
    async with kind.closing(kind.Redis(ALLOWED, resolver=names, **at)) as client:
        assert await done(client.ping())
        server.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        assert await done(client.ping())
        server.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        with pytest.raises(DeniedError):
            await done(client.ping())


@both
async def test_retries_of_every_os_error_retry_a_denial_of_a_lost_connection(
    kind: Kind, at: dict[str, Any], server: servers.Server, trap: Make
) -> None:
    trap(BAD, port=at["port"])
    names = kind.Names({"good.test": chain([[GOOD]], repeat([BAD]))})
    at |= {"retry": kind.Retry(redis.backoff.NoBackoff(), 3), "retry_on_error": [OSError]}
    async with kind.closing(kind.Redis(ALLOWED, resolver=names, **at)) as client:
        async with kind.closing(client.pubsub()) as pubsub:
            await done(pubsub.subscribe("news"))
            await done(pubsub.get_message(timeout=5))
            server.ask("CLIENT", "KILL", "TYPE", "pubsub")
            with pytest.raises(DeniedError):
                while True:
                    await done(pubsub.get_message(timeout=0.05))
    assert len(names.asked) > 1


@both
async def test_a_watching_pipeline_works(kind: Kind, at: dict[str, Any]) -> None:
    async with kind.closing(kind.Redis(ALLOWED, resolver=kind.Names(), **at)) as client:
        await done(client.set("count", 1))
        pipe = client.pipeline()
        await done(pipe.watch("count"))
        value = int(await done(pipe.get("count")))
        pipe.multi()
        pipe.set("count", value + 1)
        assert await done(pipe.execute()) == [True]
        await done(pipe.reset())
        assert await done(client.get("count")) == "2"


@both
async def test_urls_are_read_as_ever_and_their_queries_do_not_touch_the_rules(
    kind: Kind, at: dict[str, Any], trap: Make
) -> None:
    trap(BAD, port=at["port"])
    url = f"rediss://{{}}:{at['port']}/0?ssl_ca_certs={at['ssl_ca_certs']}&mixed=skip"
    refusing: dict[str, Any] = {"resolver": kind.Names(), "mixed": "refuse"}
    async with kind.closing(
        kind.Redis.from_url(url.format("good.test"), ALLOWED, **refusing),
        kind.Redis.from_url(url.format("mixed.test"), rules=ALLOWED, **refusing),
    ) as (good, mixed):
        assert await done(good.ping())
        with pytest.raises(DeniedError, match="not every one"):
            await done(mixed.ping())
    with pytest.raises(TypeError, match=r"rules are netjail\.Rules"):
        kind.Redis.from_url(url.format("good.test") + "&rules=all", ALLOWED)


async def test_arguments_go_by_their_place_as_in_redis_py_and_none_escapes_refusal_so(at: dict[str, Any]) -> None:
    tls = {name: at[name] for name in ("ssl", "ssl_ca_certs")}
    with jailed.Redis(ALLOWED, "good.test", at["port"], 0, resolver=Names(), **tls) as client:
        assert client.ping()
    pool = jailed.BlockingConnectionPool(ALLOWED, 3, 5, redis.SSLConnection, host="good.test")
    assert (pool.max_connections, pool.timeout) == (3, 5)
    assert jailed.AsyncBlockingConnectionPool(ALLOWED, 3, host="good.test").max_connections == 3
    order = list(inspect.signature(redis.Redis).parameters)
    for refused in ("unix_socket_path", "single_connection_client"):
        place = order.index(refused)
        plain: list[Any] = [inspect.signature(redis.Redis).parameters[name].default for name in order[:place]]
        with pytest.raises(ValueError, match=refused):
            jailed.Redis(ALLOWED, *plain, "/run/redis.sock")
    with pytest.raises(TypeError, match="multiple values"):
        jailed.Redis(ALLOWED, "good.test", host="bad.test")


@halves("refused")
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"unix_socket_path": "/run/redis.sock"}, "unix_socket_path"),
        ({"single_connection_client": True}, "single_connection_client"),
    ],
)
async def test_what_leads_outside_the_rules_is_refused(kind: Kind, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        kind.Redis(ALLOWED, **options)
    with pytest.raises(ValueError, match=words):
        kind.Redis.from_url("redis://good.test", ALLOWED, **options)
    with pytest.raises(ValueError, match=words):
        kind.Sentinel(ALLOWED, [("good.test", 26379)], sentinel_kwargs=options)


@halves("refused")
async def test_unix_sockets_are_refused_however_they_are_named(kind: Kind) -> None:
    for make in (kind.Redis.from_url, kind.Pool.from_url, kind.BlockingPool.from_url):
        with pytest.raises(ValueError, match="a path is no address"):
            make("unix:///run/redis.sock", ALLOWED)
    with pytest.raises(ValueError, match="a path is no address"):
        kind.Pool(ALLOWED, connection_class=kind.plain.UnixDomainSocketConnection, path="/run/redis.sock")
    with pytest.raises(ValueError, match="a path is no address"):
        kind.Sentinel(ALLOWED, [("s.test", 26379)]).master_for("x", unix_socket_path="/run/redis.sock")


@pytest.mark.proves("redis, sync", "refused")
@pytest.mark.parametrize("option", ["ssl_validate_ocsp", "ssl_validate_ocsp_stapled"])
async def test_ocsp_is_refused_as_redis_py_dials_for_it(option: str) -> None:
    options: dict[str, Any] = {option: True}
    with pytest.raises(ValueError, match=option):
        jailed.Redis(ALLOWED, host="good.test", ssl=True, **options)
    with pytest.raises(ValueError, match=option):
        jailed.ConnectionPool(ALLOWED, connection_class=redis.SSLConnection, **options)
    with pytest.raises(ValueError, match=option):
        jailed.RedisCluster(ALLOWED, host="good.test", ssl=True, **options)


@pytest.mark.proves("redis, sync", "refused")
@pytest.mark.skipif(not hasattr(redis.connection, "CacheProxyConnection"), reason="this redis-py has no such cache")
async def test_client_side_caching_is_refused_as_the_cache_does_not_know_rules() -> None:
    from redis.cache import CacheConfig  # noqa: PLC0415 - not every version has it

    for make in (jailed.Redis, jailed.ConnectionPool, jailed.RedisCluster):
        with pytest.raises(ValueError, match="under some rules would be served under others"):
            make(ALLOWED, host="good.test", protocol=3, cache_config=CacheConfig())


@both
async def test_a_client_takes_no_pool_that_knows_no_rules(kind: Kind) -> None:
    with pytest.raises(TypeError, match="a pool of netjail's"):
        kind.Redis(ALLOWED, connection_pool=kind.plain.ConnectionPool())
    with pytest.raises(TypeError, match="has its rules already"):
        kind.Redis(ALLOWED, connection_pool=kind.Pool(ALLOWED))
    with pytest.raises(ValueError, match="single_connection_client"):
        kind.Redis(ALLOWED).client()


@both
async def test_connection_classes_of_ones_own_are_kept_unless_they_dial(kind: Kind, at: dict[str, Any]) -> None:
    plain: Any = kind.plain.Connection

    class Own(kind.plain.SSLConnection):  # type: ignore[misc,name-defined]
        pass

    class Dials(plain):  # type: ignore[misc]
        def _connect(self) -> None: ...

    options = {name: value for name, value in at.items() if name != "ssl"}
    pool = kind.Pool(ALLOWED, resolver=kind.Names(), connection_class=Own, **options)
    assert issubclass(pool.connection_class, Own)
    async with kind.closing(kind.Redis(connection_pool=pool), pool) as (client, _):
        assert await done(client.ping())
    with pytest.raises(TypeError, match="dials in a way of its own"):
        kind.Pool(ALLOWED, connection_class=Dials)
    with pytest.raises(TypeError, match="is not made of"):
        kind.Pool(ALLOWED, connection_class=dict)


@both
async def test_the_denial_is_redis_pys_own_error_and_pickles(kind: Kind, at: dict[str, Any]) -> None:
    async with kind.closing(kind.Redis(ALLOWED, **{**at, "host": BAD})) as client:
        with pytest.raises(redis.RedisError) as caught:
            await done(client.ping())
    error: Any = caught.value
    assert isinstance(error, netjail.DeniedError)
    assert isinstance(error, PermissionError)
    assert not isinstance(error, redis.ConnectionError)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is DeniedError
    assert (copy.host, copy.port, str(copy)) == (BAD, at["port"], str(error))
    assert "netjail denied the connection" in repr(copy)


@both
async def test_the_connect_timeout_covers_the_lookup(kind: Kind, at: dict[str, Any]) -> None:
    over = threading.Event()

    class Slow:
        def lookup(self, host: str, family: int) -> Any:
            over.wait(30)
            return [GOOD]

    class AsyncSlow:
        async def lookup(self, host: str, family: int) -> Any:
            await asyncio.sleep(30)

    options = {**at, "socket_connect_timeout": 0.05, "retry": kind.Retry(redis.backoff.NoBackoff(), 0)}
    resolver = Slow() if kind is SYNC else AsyncSlow()
    async with kind.closing(kind.Redis(ALLOWED, resolver=resolver, **options)) as client:
        with pytest.raises(redis.TimeoutError, match="Timeout connecting to server"):
            await done(client.ping())
    over.set()


@both
async def test_other_failures_are_redis_pys_own(kind: Kind, at: dict[str, Any]) -> None:
    options = {**at, "retry": kind.Retry(redis.backoff.NoBackoff(), 0)}
    async with kind.closing(
        kind.Redis(ALLOWED, resolver=kind.Names(), **{**options, "host": "nowhere.test"}),
        kind.Redis(ALLOWED, resolver=kind.Names(), **{**options, "port": 1}),
    ) as clients:
        for client in clients:
            with pytest.raises(redis.ConnectionError) as caught:
                await done(client.ping())
            assert find_denied(caught.value) is None


async def test_connect_replaces_the_bottom_most_connect_and_socket_options_stay(at: dict[str, Any]) -> None:
    seen: list[Any] = []

    def connect(address: tuple[str, int], *, timeout: float | None) -> socket.socket:
        seen.append(address)
        return socket.create_connection(address, timeout)

    with jailed.Redis(ALLOWED, resolver=Names(), connect=connect, **at) as client:
        assert client.ping()
    assert seen == [(GOOD, at["port"])]
    with jailed.Redis(ALLOWED, resolver=Names(), socket_keepalive=True, socket_timeout=7, **at) as client:
        pool: Any = client.connection_pool
        connection = pool.get_connection()
        assert connection._sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert connection._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert connection._sock.gettimeout() == 7
        pool.release(connection)


async def test_a_cancelled_command_leaves_nothing_behind(at: dict[str, Any]) -> None:
    dialling = asyncio.Event()

    async def connect(address: tuple[str, int]) -> socket.socket:
        dialling.set()
        await asyncio.sleep(30)
        raise AssertionError

    async with jailed.AsyncRedis(ALLOWED, resolver=AsyncNames(), connect=connect, **at) as client:
        task: Any = asyncio.ensure_future(client.ping())
        await dialling.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


@both
async def test_an_address_to_move_to_is_judged(kind: Kind, at: dict[str, Any], trap: Make) -> None:
    """As redis-py moves its connections when a server sends MOVING: a temporary host, and a reconnect."""
    trap(BAD, port=at["port"])
    async with kind.closing(kind.Redis(ALLOWED, resolver=kind.Names(), **at)) as client:
        assert await done(client.ping())
        pool = client.connection_pool
        if not hasattr(pool, "_maint_notifications_pool_handler"):
            pytest.skip("this redis-py knows no maintenance notifications")
        [connection] = pool._available_connections
        connection.set_tmp_settings(tmp_host_address=BAD)
        await done(connection.disconnect())
        pool.connection_kwargs["host"] = BAD
        with pytest.raises(DeniedError, match=BAD):
            await done(client.ping())
        pool.reset()
        with pytest.raises(DeniedError, match=BAD):
            await done(client.ping())


# A sentinel and what it announces.


@pytest.fixture(scope="module")
def watched(files: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Sentinels]:
    with servers.sentinels(tmp_path_factory.mktemp("sentinel"), files) as made:
        yield made


@asynccontextmanager
async def sentinel(kind: Kind, watched: servers.Sentinels, rules: Rules | None = ALLOWED, **more: Any) -> Any:
    tls = {"ssl": True, "ssl_ca_certs": watched.sentinel.tls["ssl_ca_certs"]}
    options: dict[str, Any] = {"resolver": kind.Names(), "sentinel_kwargs": tls, **tls, **more}
    made = kind.Sentinel(rules, [("good.test", watched.sentinel.port)], **options)
    async with kind.closing(*made.sentinels):
        yield made


@both
@pytest.mark.proves("redis, sentinel", "allowed", "tls")
async def test_the_master_and_the_replicas_of_a_sentinel_are_used(kind: Kind, watched: servers.Sentinels) -> None:
    async with sentinel(kind, watched) as made:
        async with kind.closing(made.master_for("good"), made.slave_for("good")) as (master, replica):
            assert await done(master.set("key", "value"))
            assert await done(replica.get("key")) == b"value"
        assert await done(made.discover_master("good")) == (GOOD, watched.master.port)
        for make in (made.master_for, made.slave_for, made.replica_for):
            assert type(make("good")) is kind.Redis


@both
@pytest.mark.proves("redis, sentinel", "announced")
async def test_a_master_and_a_replica_that_a_sentinel_announces_are_judged(
    kind: Kind, watched: servers.Sentinels
) -> None:
    async with sentinel(kind, watched) as made:
        async with kind.closing(made.master_for("bad"), made.slave_for("mixed")) as clients:
            for client in clients:
                with pytest.raises(DeniedError, match=f"{BAD!r} port"):
                    await done(client.ping())
    assert [trap.accepted for trap in watched.traps] == [0, 0]


@both
@pytest.mark.proves("redis, sentinel", "denied", "literal")
@pytest.mark.parametrize("host", ["bad.test", BAD])
async def test_a_denied_sentinel_is_not_asked(kind: Kind, trap: Make, host: str) -> None:
    listener = trap(BAD)
    made = kind.Sentinel(ALLOWED, [(host, listener.port)], resolver=kind.Names())
    async with kind.closing(made.master_for("good"), *made.sentinels) as clients:
        with pytest.raises(DeniedError, match=host):
            await done(clients[0].ping())


@both
async def test_a_denied_sentinel_before_an_allowed_one_is_an_error(
    kind: Kind, watched: servers.Sentinels, trap: Make
) -> None:
    ports = trap(BAD).port, watched.sentinel.port
    made = kind.Sentinel(ALLOWED, [("bad.test", ports[0]), ("good.test", ports[1])], resolver=kind.Names())
    async with kind.closing(*made.sentinels):
        with pytest.raises(DeniedError, match="bad"):
            await done(made.discover_master("good"))


@both
@pytest.mark.proves("redis, sentinel", "wrong-name")
async def test_a_sentinel_with_a_certificate_for_another_name_fails(kind: Kind, watched: servers.Sentinels) -> None:
    tls = {"ssl": True, "ssl_ca_certs": watched.sentinel.tls["ssl_ca_certs"]}
    tls["retry"] = kind.Retry(redis.backoff.NoBackoff(), 0)
    options = {"resolver": kind.Names(), "sentinel_kwargs": tls}
    made = kind.Sentinel(ALLOWED, [("wrong.test", watched.sentinel.port)], **options)
    async with kind.closing(*made.sentinels):
        with pytest.raises(kind.plain.sentinel.MasterNotFoundError):
            await done(made.discover_master("good"))


@both
@pytest.mark.proves("redis, sentinel", "pools")
async def test_masters_are_asked_for_under_the_rules_of_each_command(kind: Kind, watched: servers.Sentinels) -> None:
    async with sentinel(kind, watched, rules=None) as made:
        async with kind.closing(made.master_for("good")) as master:
            used = []
            for rules in (ALLOWED, OTHER, ALLOWED):
                with use_rules(rules):
                    used.append(await done(master.client_id()))
            with pytest.raises(DeniedError, match="no rules"):
                await done(master.ping())
    assert used[0] == used[2] != used[1]


@both
async def test_a_subscriber_behind_a_sentinel_reconnects_where_there_are_no_rules(
    kind: Kind, watched: servers.Sentinels
) -> None:
    async with sentinel(kind, watched, rules=None) as made:
        retry = kind.Retry(redis.backoff.NoBackoff(), 3)
        async with kind.closing(made.master_for("good", retry=retry)) as master:
            async with kind.closing(master.pubsub(ignore_subscribe_messages=True)) as pubsub:
                with use_rules(ALLOWED):
                    await done(pubsub.subscribe("news"))
                    await done(pubsub.get_message(timeout=5))
                watched.master.ask("CLIENT", "KILL", "TYPE", "pubsub")
                heard = None
                while not heard:
                    heard = await done(pubsub.get_message(timeout=0.05))
                    watched.master.ask("PUBLISH", "news", "hello")
    assert heard["data"] == b"hello"


# A cluster, one node of which is announced as bad.test.


@pytest.fixture(scope="module")
def nodes(files: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Cluster]:
    with servers.cluster(tmp_path_factory.mktemp("cluster"), files, ("good.test", "good.test", "bad.test")) as made:
        yield made


@pytest.fixture
def trapped(nodes: servers.Cluster, trap: Make) -> servers.Cluster:
    """The cluster, with a trap where its third node is announced to be."""
    trap(BAD, port=nodes.nodes[2].port)
    return nodes


def cluster_options(kind: Kind, nodes: servers.Cluster, **more: Any) -> dict[str, Any]:
    tls = {"ssl": True, "ssl_ca_certs": nodes.nodes[0].tls["ssl_ca_certs"]}
    return {"host": "good.test", "port": nodes.nodes[0].port, "resolver": kind.Names(), **tls, **more}


@both
@pytest.mark.proves("redis, cluster", "allowed", "tls")
async def test_every_allowed_node_of_a_cluster_is_used(kind: Kind, nodes: servers.Cluster) -> None:
    options = cluster_options(kind, nodes, resolver=kind.Names({**TABLE, "bad.test": [GOOD]}))
    async with kind.closing(kind.RedisCluster(ALLOWED, **options)) as client:
        for node in range(3):
            assert await done(client.set(nodes.key_of(node), node))
            assert await done(client.get(nodes.key_of(node))) == str(node).encode()


@both
@pytest.mark.proves("redis, cluster", "announced", "denied")
@pytest.mark.filterwarnings("ignore:.*cluster_error_retry_attempts:DeprecationWarning")  # redis-py 6 warns itself
async def test_a_denied_node_that_the_slots_announce_opens_nothing(kind: Kind, trapped: servers.Cluster) -> None:
    options = cluster_options(kind, trapped)
    async with kind.closing(kind.RedisCluster(ALLOWED, **options)) as client:
        await done(client.initialize() if kind is ASYNC else None)  # else redis-py begins with a node at random
        assert await done(client.set(trapped.key_of(1), "here"))
        for _ in range(2):
            with pytest.raises(DeniedError, match=r"'bad\.test' port"):
                await done(client.get(trapped.key_of(2)))
        assert await done(client.get(trapped.key_of(1))) == b"here"
        pipe = client.pipeline()
        pipe.get(trapped.key_of(2))
        with pytest.raises(DeniedError):
            await done(pipe.execute())


@both
@pytest.mark.proves("redis, cluster", "announced")
async def test_a_denied_node_to_which_a_moved_slot_leads_opens_nothing(kind: Kind, trapped: servers.Cluster) -> None:
    key = trapped.key_of(2)
    async with kind.closing(kind.RedisCluster(ALLOWED, **cluster_options(kind, trapped))) as client:
        await done(client.initialize() if kind is ASYNC else None)
        known = await done(client.get(trapped.key_of(0)))
        slots = client.nodes_manager.slots_cache
        slots[trapped.slot(key)] = slots[trapped.slot(trapped.key_of(0))]  # as before it was moved
        with pytest.raises(DeniedError, match=r"'bad\.test' port"):
            await done(client.get(key))
        assert await done(client.get(trapped.key_of(0))) == known


@both
@pytest.mark.proves("redis, cluster", "announced")
async def test_a_denied_node_that_should_be_asked_for_a_slot_opens_nothing(
    kind: Kind, trapped: servers.Cluster
) -> None:
    key = trapped.key_of(0)
    slot = trapped.slot(key)
    trapped.nodes[0].ask("DEL", key)
    trapped.nodes[0].ask("CLUSTER", "SETSLOT", slot, "MIGRATING", trapped.id(2))
    try:
        async with kind.closing(kind.RedisCluster(ALLOWED, **cluster_options(kind, trapped))) as client:
            await done(client.initialize() if kind is ASYNC else None)
            with pytest.raises(DeniedError, match=r"'bad\.test' port"):
                await done(client.get(key))
    finally:
        trapped.nodes[0].ask("CLUSTER", "SETSLOT", slot, "STABLE")


@both
@pytest.mark.proves("redis, cluster", "denied", "literal")
@pytest.mark.parametrize("host", ["bad.test", BAD])
async def test_a_cluster_whose_only_known_node_is_denied_is_denied_at_once(kind: Kind, trap: Make, host: str) -> None:
    listener = trap(BAD)
    names = kind.Names()
    with pytest.raises(DeniedError, match=f"{host!r} port"):
        async with kind.closing(kind.RedisCluster(ALLOWED, host=host, port=listener.port, resolver=names)) as client:
            await done(client.get("key"))
    assert len(names.asked) == (host != BAD)


@both
@pytest.mark.proves("redis, cluster", "wrong-name")
async def test_a_node_with_a_certificate_for_another_name_fails(kind: Kind, nodes: servers.Cluster) -> None:
    retry = kind.Retry(redis.backoff.NoBackoff(), 0)
    options = cluster_options(kind, nodes, host="wrong.test", retry=retry)
    with pytest.raises(redis.exceptions.RedisClusterException, match="CERTIFICATE_VERIFY_FAILED") as caught:
        async with kind.closing(kind.RedisCluster(ALLOWED, **options)) as client:
            await done(client.get("key"))
    assert find_denied(caught.value) is None


@both
@pytest.mark.proves("redis, cluster", "pools")
async def test_a_cluster_keeps_connections_apart_and_follows_the_context(kind: Kind, trapped: servers.Cluster) -> None:
    key = trapped.key_of(1)
    with use_rules(ALLOWED):
        made = kind.RedisCluster(**cluster_options(kind, trapped))
        await done(made.initialize() if kind is ASYNC else None)
    node = made.get_node_from_key(key)
    used = []
    async with kind.closing(made) as client:
        for rules in (ALLOWED, ALLOWED, OTHER, ALLOWED):
            with use_rules(rules):
                used.append(await done(client.client_id(target_nodes=node)))
        with use_rules(NOT_HERE), pytest.raises(DeniedError):
            await done(client.get(key))
        with pytest.raises(DeniedError, match="no rules"):
            await done(client.get(key))
    assert used[0] == used[1] != used[2] != used[3]


@both
async def test_a_cluster_is_had_from_a_url_and_from_its_nodes(kind: Kind, nodes: servers.Cluster) -> None:
    options = cluster_options(kind, nodes)
    tls = {"ssl_ca_certs": options["ssl_ca_certs"], "resolver": kind.Names()}
    url = f"rediss://good.test:{nodes.nodes[1].port}"
    node = kind.plain.cluster.ClusterNode("good.test", nodes.nodes[1].port)
    for made in (
        kind.RedisCluster.from_url(url, rules=ALLOWED, **tls),
        kind.RedisCluster.from_url(url, ALLOWED, **tls),
        kind.RedisCluster(ALLOWED, "good.test", nodes.nodes[1].port, ssl=True, **tls),
        kind.RedisCluster(ALLOWED, startup_nodes=[node], ssl=True, **tls),
    ):
        async with kind.closing(made) as client:
            await done(client.initialize() if kind is ASYNC else None)
            assert await done(client.set(nodes.key_of(0), "x"))


async def test_the_query_of_a_clusters_url_does_not_touch_the_rules(nodes: servers.Cluster) -> None:
    """redis-py's asyncio cluster takes whatever the query names for its own arguments, which it wins over."""
    port = nodes.nodes[0].port
    url = f"redis://mixed.test:{port}?mixed=skip"
    made = jailed.AsyncRedisCluster.from_url(url, ALLOWED, mixed="refuse", resolver=AsyncNames())
    async with ASYNC.closing(made) as client:
        with pytest.raises(DeniedError, match="not every one"):
            await client.initialize()
    with pytest.raises(TypeError, match="rules"):
        jailed.AsyncRedisCluster.from_url(f"redis://good.test:{port}?rules=all", ALLOWED)


@both
async def test_a_cluster_all_of_whose_nodes_have_become_denied_tells_of_it(
    kind: Kind, trapped: servers.Cluster
) -> None:
    names = kind.Names()
    async with kind.closing(kind.RedisCluster(ALLOWED, **cluster_options(kind, trapped, resolver=names))) as client:
        await done(client.initialize() if kind is ASYNC else None)
        names.table["good.test"] = [BAD]
        for node in client.get_nodes():
            await done(node.disconnect() if kind is ASYNC else client.disconnect_connection_pools())
        with pytest.raises(redis.exceptions.RedisClusterException) as caught:
            await done(client.nodes_manager.initialize())
    found = find_denied(caught.value)
    assert found is not None
    assert found.host in ("good.test", "bad.test")


@pytest.mark.proves("redis, cluster", "refused")
async def test_a_pool_class_of_ones_own_is_refused_in_a_cluster() -> None:
    with pytest.raises(ValueError, match="connection_pool_class"):
        jailed.RedisCluster(ALLOWED, host="good.test", connection_pool_class=redis.ConnectionPool)
