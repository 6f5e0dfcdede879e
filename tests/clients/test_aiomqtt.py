"""aiomqtt under rules, against a private Mosquitto: 127.0.0.2 is allowed and 127.0.0.3 is not."""

from __future__ import annotations

import asyncio
import pickle
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import aiomqtt
import pytest

import netjail
from netjail import Rules, use_rules
from netjail.clients.aiomqtt import Client, DeniedError
from netjail.loop import new_event_loop
from tests.guard.harness import run_guarded
from tests.servers.daemon import free_port
from tests.servers.mosquitto import Ports, mosquitto
from tests.servers.names import BAD, GOOD, Names

Make = Callable[..., Any]
RULES = Rules(allow=[GOOD])
OTHER = Rules(allow=[BAD])
EVERYTHING = Rules(allow=["0.0.0.0/0", "::/0"])

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("nothing_left_behind")]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def broker(pem: Make, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ports]:
    files = pem("good.test")
    with mosquitto(tmp_path_factory.mktemp("mosquitto"), cert=files.cert, key=files.key) as ports:
        yield ports


def client(host: str, port: int, **options: Any) -> Client:
    return Client(host, port, **{"rules": RULES, "resolver": Names(), **options})


async def echo(made: Client) -> None:
    """Connects, publishes, and gets what was published."""
    async with made as entered:
        assert entered is made
        await made.subscribe("netjail/aiomqtt", 1)
        await made.publish("netjail/aiomqtt", b"hello", 1)
        async for message in made.messages:
            assert message.payload == b"hello"
            return


@pytest.mark.proves("aiomqtt", "allowed")
@pytest.mark.parametrize("host", ["good.test", GOOD])
async def test_messages_go_through_an_allowed_broker(host: str, broker: Ports) -> None:
    await echo(client(host, broker.plain))


@pytest.mark.proves("aiomqtt", "allowed")
async def test_messages_go_through_websockets(broker: Ports) -> None:
    await echo(client("good.test", broker.websockets, transport="websockets"))


@pytest.mark.proves("aiomqtt", "tls", "wrong-name")
@pytest.mark.parametrize("by", ["tls_context", "tls_params"])
async def test_tls_checks_the_name_that_was_asked_for(
    by: str, broker: Ports, client_tls: ssl.SSLContext, pem: Make
) -> None:
    params = {"tls_context": client_tls, "tls_params": aiomqtt.TLSParameters(ca_certs=str(pem("good.test").ca))}
    tls = {by: params[by]}
    await echo(client("good.test", broker.tls, **tls))
    with pytest.raises(aiomqtt.MqttError, match=r"wrong\.test"):
        await client("wrong.test", broker.tls, **tls).__aenter__()


@pytest.mark.proves("aiomqtt", "denied", "literal")
@pytest.mark.parametrize("host", ["bad.test", BAD])
async def test_a_denied_broker_is_not_dialled(host: str, broker: Ports, trap: Make) -> None:
    trap(BAD, port=broker.plain)
    names = Names()
    with pytest.raises(DeniedError) as caught:
        await client(host, broker.plain, resolver=names).__aenter__()
    assert isinstance(caught.value, netjail.DeniedError)
    assert isinstance(caught.value, aiomqtt.MqttError)
    assert (caught.value.host, caught.value.port) == (host, broker.plain)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), str(again)) == (DeniedError, str(caught.value))
    assert str(again).startswith("netjail denied")
    assert len(names.asked) <= 1


async def test_the_context_of_the_block_counts_and_only_narrows(broker: Ports, trap: Make) -> None:
    """aiomqtt dials in a thread, which has no context."""
    trap(BAD, port=broker.plain)
    made = client("mixed.test", broker.plain, rules=None)
    with use_rules(RULES):
        await echo(made)
        with pytest.raises(DeniedError, match="not every one"):
            await client("mixed.test", broker.plain, rules=None, mixed="refuse").__aenter__()
    with use_rules(OTHER), pytest.raises(DeniedError):
        await client("good.test", broker.plain).__aenter__()
    with pytest.raises(DeniedError, match="no rules are in force"):
        await made.__aenter__()


async def test_a_client_is_used_again_under_the_rules_of_each_time(broker: Ports, trap: Make) -> None:
    trap(BAD, port=broker.plain)
    made = client("good.test", broker.plain, rules=None)
    for _ in range(2):
        with use_rules(RULES):
            await echo(made)
        with use_rules(OTHER), pytest.raises(DeniedError):
            await made.__aenter__()


async def test_whoever_enters_a_client_that_is_being_entered_changes_nothing(broker: Ports, trap: Make) -> None:
    trap(BAD, port=broker.plain)
    made = client("good.test", broker.plain, rules=None)
    free = threading.Event()
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    busy = asyncio.ensure_future(asyncio.to_thread(free.wait, 10))  # what aiomqtt dials in has no thread for it yet
    with use_rules(RULES):
        entering = asyncio.ensure_future(echo(made))
    while not made._lock.locked():  # noqa: ASYNC110
        await asyncio.sleep(0)
    with use_rules(OTHER), pytest.raises(aiomqtt.MqttReentrantError):
        await made.__aenter__()
    free.set()
    await busy
    await entering


async def test_connect_and_socket_options_are_honoured(broker: Ports) -> None:
    dialled: list[Any] = []

    def connect(address: Any, *, timeout: float | None) -> socket.socket:
        dialled.append(address)
        return socket.create_connection(address, timeout)

    option = (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    await echo(client("good.test", broker.plain, connect=connect, socket_options=[option]))
    assert dialled == [(GOOD, broker.plain)]


async def test_other_errors_stay_aiomqtts_own() -> None:
    for host in ("good.test", "unknown.test"):
        with pytest.raises(aiomqtt.MqttError) as caught:
            await client(host, free_port()).__aenter__()
        assert not isinstance(caught.value, DeniedError)


@pytest.mark.proves("aiomqtt", "refused")
async def test_a_proxy_is_refused() -> None:
    with pytest.raises(ValueError, match="no proxying"):
        client("good.test", 1883, proxy=aiomqtt.ProxySettings(proxy_type=2, proxy_addr=BAD))


@pytest.mark.proves("aiomqtt", "refused")
async def test_a_unix_socket_is_denied(tmp_path: Any) -> None:
    made = client(str(tmp_path / "mqtt"), 1883, transport="unix", rules=EVERYTHING)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "mqtt"))
        listener.listen()
        listener.setblocking(False)
        with pytest.raises(DeniedError, match="unix socket"):
            await made.__aenter__()
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_the_plain_client_is_not_judged_by_the_context_or_by_netjails_loop(broker: Ports) -> None:
    """It dials in a thread, so that the page warns of it."""

    async def main() -> None:
        with use_rules(Rules()):
            async with aiomqtt.Client(GOOD, broker.plain):
                pass

    with asyncio.Runner(loop_factory=partial(new_event_loop, Rules())) as runner:
        runner.run(main())


@pytest.mark.proves("aiomqtt, guard", "allowed", "denied", "literal")
def test_the_plain_client_is_judged_under_the_guard(broker: Ports, trap: Make) -> None:
    trap(BAD, port=broker.plain)
    lines = run_guarded(
        """
        import aiomqtt, asyncio
        async def main(host):
            async with aiomqtt.Client(host, port):
                pass
        talk = lambda host: asyncio.run(main(host))
        print(outcome(talk, "good.test"), outcome(talk, "bad.test"), outcome(talk, BAD))
        with use_rules(Rules()):
            print(outcome(talk, "good.test"))
        """,
        port=broker.plain,
    )
    assert lines == ["ok denied denied", "denied"]
