"""nats-py under rules, against nats-server: 127.0.0.2 is allowed and 127.0.0.3 is not."""

from __future__ import annotations

import asyncio
import inspect
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import nats
import pytest
from nats.aio.client import Client as Plain

import netjail
from netjail import Rules, find_denied, use_rules
from netjail.clients.nats import Client, DeniedError, connect
from netjail.loop import new_event_loop
from tests.guard.harness import run, run_guarded
from tests.servers.daemon import Daemon, free_port
from tests.servers.names import BAD, GOOD, AsyncNames
from tests.servers.nats import announcing
from tests.servers.nats import nats as start

ONLY_GOOD = Rules(allow=[GOOD])
BOTH = Rules(allow=[GOOD, BAD])
Make = Callable[..., Any]

pytestmark = pytest.mark.usefixtures("nothing_left_behind")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with start(tmp_path_factory.mktemp("nats")) as made:
        yield made


@pytest.fixture(scope="module")
def tls_server(tmp_path_factory: pytest.TempPathFactory, pem: Make) -> Iterator[Daemon]:
    with start(tmp_path_factory.mktemp("nats"), tls=pem("good.test")) as made:
        yield made


async def ask(client: Any) -> bytes:
    """What a subscriber on the same connection answers."""

    async def answer(message: Any) -> None:
        await message.respond(message.data.upper())

    await client.subscribe("question", cb=answer)
    return (await client.request("question", b"x", timeout=5)).data  # type: ignore[no-any-return]


async def use(server: str, rules: Any = ONLY_GOOD, **options: Any) -> bytes:
    client = await connect(rules, server, **{"resolver": AsyncNames(), **options})
    try:
        return await ask(client)
    finally:
        await client.close()


@pytest.mark.anyio
@pytest.mark.proves("nats-py", "allowed")
@pytest.mark.parametrize("host", ["good.test", "mixed.test", GOOD])
async def test_an_allowed_server_is_reached(host, server):
    assert await use(f"nats://{host}:{server.port}") == b"X"


@pytest.mark.anyio
@pytest.mark.proves("nats-py", "denied", "literal")
@pytest.mark.parametrize("host", ["bad.test", BAD])
@pytest.mark.parametrize("more", [{}, {"max_reconnect_attempts": -1}, {"allow_reconnect": False}])
async def test_a_denied_server_is_told_at_once_and_gets_no_packet(host, more, trap):
    names = AsyncNames()
    with pytest.raises(DeniedError) as caught:
        await use(f"nats://{host}:{trap(BAD).port}", resolver=names, **more)
    assert len(names.asked) == (host == "bad.test")
    assert caught.value.host == host
    assert isinstance(caught.value, nats.errors.NoServersError)
    assert isinstance(caught.value, netjail.DeniedError)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), str(again)) == (DeniedError, str(caught.value))


@pytest.mark.anyio
async def test_with_no_rules_everything_is_denied(trap):
    names = AsyncNames()
    with pytest.raises(DeniedError):
        await use(f"nats://good.test:{trap(GOOD).port}", None, resolver=names)
    assert names.asked == []


@pytest.mark.anyio
@pytest.mark.proves("nats-py", "denied")
async def test_a_denied_server_of_a_list_is_left_out(server, trap):
    trap(BAD, port=server.port)
    seen: list[Exception] = []

    async def error_cb(error: Exception) -> None:
        seen.append(error)

    servers = [f"nats://bad.test:{server.port}", f"nats://good.test:{server.port}"]
    assert await use(servers, dont_randomize=True, error_cb=error_cb) == b"X"  # type: ignore[arg-type]
    assert [type(each) for each in seen] == [DeniedError]


@pytest.mark.anyio
@pytest.mark.proves("nats-py", "announced")
async def test_an_announced_server_that_is_denied_gets_no_packet(tmp_path, trap):
    first, second = announcing(tmp_path, BAD)
    trap(BAD, port=second.port)
    told: asyncio.Queue[Exception] = asyncio.Queue()

    async def error_cb(error: Exception) -> None:
        if find_denied(error):
            told.put_nowait(error)

    with first, second:
        options: dict[str, Any] = {"reconnect_time_wait": 0.02, "max_reconnect_attempts": 3, "error_cb": error_cb}
        client = await connect(BOTH, f"nats://good.test:{first.port}", resolver=AsyncNames(), **options)
        await client.close()
        with use_rules(ONLY_GOOD):
            client = await connect(BOTH, f"nats://good.test:{first.port}", resolver=AsyncNames(), **options)
        assert second.port in [each.port for each in client.discovered_servers]
        first.stop()
        denied: Any = await asyncio.wait_for(told.get(), 10)
        assert (type(denied), denied.host, denied.port) == (DeniedError, BAD, second.port)
        await client.close()


@pytest.mark.anyio
@pytest.mark.proves("nats-py", "announced")
async def test_an_announced_server_that_is_accepted_is_used_when_the_first_one_goes(tmp_path):
    first, second = announcing(tmp_path, GOOD)
    back = asyncio.Event()

    async def reconnected_cb() -> None:
        back.set()

    with first, second:
        client = await connect(
            ONLY_GOOD,
            f"nats://good.test:{first.port}",
            resolver=AsyncNames(),
            reconnect_time_wait=0.02,
            reconnected_cb=reconnected_cb,
        )
        first.stop()
        await asyncio.wait_for(back.wait(), 10)
        assert client.connected_url is not None
        assert client.connected_url.port == second.port
        assert await ask(client) == b"X"
        await client.close()


@pytest.mark.anyio
@pytest.mark.proves("nats-py", "tls")
@pytest.mark.parametrize("scheme", ["nats", "tls"])
async def test_tls_is_checked_against_the_name(scheme, tls_server, client_tls):
    assert await use(f"{scheme}://good.test:{tls_server.port}", tls=client_tls) == b"X"


@pytest.mark.anyio
@pytest.mark.proves("nats-py", "tls")
@pytest.mark.skipif("tls_handshake_first" not in inspect.signature(Plain.connect).parameters, reason="a later one")
async def test_tls_may_come_first(tmp_path, pem, client_tls):
    def ready() -> bool:
        return b"Server is ready" in (tmp_path / "daemon.log").read_bytes()

    with start(tmp_path, tls=pem("good.test"), more="# HANDSHAKE FIRST", ready=ready) as server:
        options = {"tls": client_tls, "tls_handshake_first": True}
        assert await use(f"tls://good.test:{server.port}", **options) == b"X"
        with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
            await use(f"tls://wrong.test:{server.port}", allow_reconnect=False, **options)


@pytest.mark.anyio
@pytest.mark.proves("nats-py", "wrong-name")
@pytest.mark.parametrize("host", ["wrong.test", GOOD])
async def test_a_certificate_for_another_name_fails(host, tls_server, client_tls):
    url = f"tls://{host}:{tls_server.port}"
    with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
        await use(url, tls=client_tls, allow_reconnect=False)
    assert await use(url, tls=client_tls, tls_hostname="good.test") == b"X"


@pytest.mark.anyio
@pytest.mark.proves("nats-py", "pools")
async def test_a_client_keeps_the_rules_of_the_context_in_which_it_connected(server, trap):
    trap(BAD, port=server.port)
    client = Client(BOTH, resolver=AsyncNames())
    with use_rules(ONLY_GOOD):
        await client.connect(f"nats://good.test:{server.port}")
    assert client._dialer.rules_in_force() == (BOTH, ONLY_GOOD)  # what it reconnects under, whoever makes it do so
    await client.close()
    with use_rules(Rules(allow=[BAD])), pytest.raises(DeniedError):
        await use(f"nats://good.test:{server.port}", BOTH)


@pytest.mark.anyio
@pytest.mark.proves("nats-py", "pools")
async def test_a_client_serves_nobody_under_other_rules(server):
    heard: asyncio.Queue[Any] = asyncio.Queue()
    client = await connect(BOTH, f"nats://good.test:{server.port}", resolver=AsyncNames())
    try:
        await client.subscribe("things", cb=heard.put)
        with use_rules(Rules(allow=[BAD])):
            for ask_for in (client.publish("things", b"x"), client.request("things"), client.subscribe("other")):
                with pytest.raises(DeniedError, match="other rules") as caught:
                    await ask_for
                assert (caught.value.host, caught.value.port) == ("good.test", server.port)
        with use_rules(Rules(allow=[BAD, GOOD])):  # the same, spelled otherwise
            await client.publish("things", b"y")
        assert (await asyncio.wait_for(heard.get(), 10)).data == b"y"
    finally:
        await client.close()


@pytest.mark.anyio
@pytest.mark.proves("nats-py", "pools")
async def test_a_client_that_connects_again_goes_by_the_rules_of_that_moment(server, trap):
    trap(BAD, port=server.port)
    client = Client(resolver=AsyncNames())
    with use_rules(BOTH):
        await client.connect(f"nats://good.test:{server.port}")
    await client.close()
    with use_rules(ONLY_GOOD), pytest.raises(DeniedError):
        await client.connect(f"nats://bad.test:{server.port}")
    with pytest.raises(DeniedError, match="no rules are in force"):
        await client.connect(f"nats://good.test:{server.port}")


@pytest.mark.anyio
@pytest.mark.proves("nats-py", "refused")
@pytest.mark.parametrize("scheme", ["ws", "wss"])
async def test_websockets_are_refused(scheme, trap):
    with pytest.raises(ValueError, match="aiohttp"):
        await use(f"{scheme}://good.test:{trap(GOOD).port}")


@pytest.mark.anyio
async def test_a_name_without_an_address_is_no_denial():
    with pytest.raises(nats.errors.NoServersError) as caught:
        await use("nats://nowhere.test:4222", max_reconnect_attempts=1, reconnect_time_wait=0)
    assert find_denied(caught.value) is None


def on_the_loop(work: Callable[[], Any], rules: Rules = ONLY_GOOD) -> Any:
    loop = new_event_loop(rules, resolver=AsyncNames())
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(work())


async def plain(url: str, **options: Any) -> bytes:
    client = await nats.connect(url, **options)
    try:
        return await ask(client)
    finally:
        await client.close()


@pytest.mark.proves("nats-py, loop", "allowed")
def test_the_plain_client_works_on_the_loop(server):
    assert on_the_loop(lambda: plain(f"nats://good.test:{server.port}")) == b"X"


@pytest.mark.proves("nats-py, loop", "denied", "literal")
@pytest.mark.parametrize("host", ["bad.test", BAD])
def test_on_the_loop_a_denied_server_gets_no_packet(host, trap):
    told: list[Exception] = []

    async def error_cb(error: Exception) -> None:
        told.append(error)

    options = {"max_reconnect_attempts": 1, "reconnect_time_wait": 0, "error_cb": error_cb}
    with pytest.raises(nats.errors.NoServersError) as caught:
        on_the_loop(lambda: plain(f"nats://{host}:{trap(BAD).port}", **options))
    assert all(find_denied(each) for each in told)
    assert told
    assert caught.value is not told[0]


@pytest.mark.proves("nats-py, loop", "announced")
def test_on_the_loop_an_announced_server_that_is_denied_gets_no_packet(tmp_path, trap):
    first, second = announcing(tmp_path, BAD)
    trap(BAD, port=second.port)

    async def lose_the_first_one() -> None:
        denied = asyncio.Event()

        async def error_cb(error: Exception) -> None:
            if find_denied(error):
                denied.set()

        options: dict[str, Any] = {"reconnect_time_wait": 0.02, "max_reconnect_attempts": 3, "error_cb": error_cb}
        client = await nats.connect(f"nats://good.test:{first.port}", **options)
        first.stop()
        await asyncio.wait_for(denied.wait(), 10)
        await client.close()

    with first, second:
        on_the_loop(lose_the_first_one)


@pytest.mark.proves("nats-py, loop", "tls", "wrong-name")
def test_on_the_loop_tls_is_checked_against_the_name(tls_server, client_tls):
    assert on_the_loop(lambda: plain(f"tls://good.test:{tls_server.port}", tls=client_tls)) == b"X"
    with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
        on_the_loop(lambda: plain(f"tls://wrong.test:{tls_server.port}", tls=client_tls, allow_reconnect=False))


@pytest.mark.proves("nats-py, loop", "allowed", "denied")
def test_on_the_loop_websockets_are_judged_too(tmp_path, trap):
    """In a process of its own, as nats-py leaves aiohttp's session open when it fails."""
    pytest.importorskip("aiohttp")
    port = free_port()
    trap(BAD, port=port)
    with start(tmp_path, more=f'websocket {{ listen: "{GOOD}:{port}", no_tls: true }}'):
        lines = run(
            """
            import asyncio, nats
            from netjail.loop import new_event_loop
            async def use(host):
                denied = []
                async def error_cb(error):
                    denied.append(bool(find_denied(error)))
                options = {"max_reconnect_attempts": 1, "reconnect_time_wait": 0, "error_cb": error_cb}
                try:
                    client = await nats.connect(f"ws://{host}:{port}", **options)
                    await client.flush()
                    await client.close()
                except nats.errors.NoServersError:
                    assert denied and all(denied)
                    raise DeniedError(host, port)
            for host in ("good.test", GOOD, "bad.test", BAD):
                with asyncio.Runner(loop_factory=lambda: new_event_loop(Rules(allow=[GOOD]))) as runner:
                    print(outcome(runner.run, use(host)))
            """,
            port=port,
        )
    assert lines == ["ok", "ok", "denied", "denied"]


def test_under_the_guard_a_denied_server_gets_no_packet(server, trap):
    trap(BAD, port=server.port)
    lines = run_guarded(
        """
        import asyncio, nats
        async def use(host):
            denied = []
            async def error_cb(error):
                denied.append(bool(find_denied(error)))
            options = {"max_reconnect_attempts": 1, "reconnect_time_wait": 0, "error_cb": error_cb}
            try:
                client = await nats.connect(f"nats://{host}:{port}", **options)
                await client.flush()
                await client.close()
            except nats.errors.NoServersError:
                assert denied and all(denied)
                raise DeniedError(host, port)
        for host in ("good.test", "bad.test", BAD):
            print(outcome(asyncio.run, use(host)))
        """,
        port=server.port,
    )
    assert lines == ["ok", "denied", "denied"]
