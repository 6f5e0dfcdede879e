"""aio-pika on netjail's loop, against a private RabbitMQ: 127.0.0.2 is allowed and 127.0.0.3 is not."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from typing import Any

import aio_pika
import aiormq
import pytest

import netjail
from netjail import Rules, use_rules
from netjail.loop import new_event_loop
from tests.guard.harness import run_guarded
from tests.servers.names import BAD, GOOD, AsyncNames
from tests.servers.rabbitmq import Ports, rabbitmq

Make = Callable[..., Any]
RULES = Rules(allow=[GOOD])
OTHER = Rules(allow=[BAD])

pytestmark = pytest.mark.usefixtures("nothing_left_behind")


@pytest.fixture(scope="module")
def broker(pem: Make, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ports]:
    files = pem("good.test")
    with rabbitmq(tmp_path_factory.mktemp("rabbitmq"), cert=files.cert, key=files.key, ca=files.ca) as ports:
        yield ports


def run(main: Coroutine[Any, Any, Any], rules: Rules | None = RULES, names: Any = None, **options: Any) -> None:
    """Runs ``main`` on netjail's loop, and ends when the loop watches nothing any more."""

    async def settled() -> None:
        try:
            await main
        finally:
            loop: Any = asyncio.get_running_loop()
            async with asyncio.timeout(5):
                while len(loop._selector.get_map()) > 1:  # noqa: ASYNC110 - the one is what wakes it
                    await asyncio.sleep(0)

    made = partial(new_event_loop, rules, resolver=AsyncNames() if names is None else names, **options)
    with asyncio.Runner(loop_factory=made) as runner:
        runner.run(settled())


async def echo(connect: Any, url: str, **options: Any) -> None:
    """Connects, publishes, and gets what was published."""
    connection = await connect(url, **options)
    async with connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(exclusive=True)
        await channel.default_exchange.publish(aio_pika.Message(b"hello"), routing_key=queue.name)
        message = await queue.get(timeout=10)
        assert message.body == b"hello"
        await message.ack()


connecting = pytest.mark.parametrize("connect", [aio_pika.connect, aio_pika.connect_robust])


@pytest.mark.proves("aio-pika", "allowed")
@connecting
@pytest.mark.parametrize("host", ["good.test", "mixed.test", GOOD])
def test_messages_go_through_an_allowed_broker(connect: Any, host: str, broker: Ports, trap: Make) -> None:
    trap(BAD, port=broker.plain)
    run(echo(connect, f"amqp://guest:guest@{host}:{broker.plain}/"))


@pytest.mark.proves("aio-pika", "tls", "wrong-name")
@connecting
def test_tls_checks_the_name_that_was_asked_for(
    connect: Any, broker: Ports, client_tls: ssl.SSLContext, pem: Make
) -> None:
    run(echo(connect, f"amqps://guest:guest@good.test:{broker.tls}/", ssl_context=client_tls))
    run(echo(connect, f"amqps://guest:guest@good.test:{broker.tls}/?cafile={pem('good.test').ca}"))
    with pytest.raises((aiormq.AMQPConnectionError, ssl.SSLError), match=r"wrong\.test"):
        run(echo(connect, f"amqps://guest:guest@wrong.test:{broker.tls}/", ssl_context=client_tls))


@pytest.mark.proves("aio-pika", "denied", "literal")
@connecting
@pytest.mark.parametrize("host", ["bad.test", BAD])
def test_a_denied_broker_is_not_dialled(connect: Any, host: str, broker: Ports, trap: Make) -> None:
    trap(BAD, port=broker.plain)
    names = AsyncNames()
    with pytest.raises(aiormq.AMQPConnectionError) as caught:
        run(echo(connect, f"amqp://guest:guest@{host}:{broker.plain}/"), names=names)
    denied = netjail.find_denied(caught.value)
    assert denied is not None
    assert (denied.host, denied.port) == (host, broker.plain)
    assert len(names.asked) <= 1


@pytest.mark.proves("aio-pika", "denied")
@connecting
def test_the_context_counts_and_only_narrows(connect: Any, broker: Ports, trap: Make) -> None:
    trap(BAD, port=broker.plain)
    url = f"amqp://guest:guest@good.test:{broker.plain}/"
    with use_rules(RULES):
        run(echo(connect, url), None)
    for rules, carried in ((RULES, OTHER), (None, Rules())):
        with use_rules(carried), pytest.raises(aiormq.AMQPConnectionError, match="netjail denied"):
            run(echo(connect, url), rules)


@pytest.mark.proves("aio-pika", "denied")
def test_a_robust_connection_is_judged_each_time_it_connects(broker: Ports, trap: Make) -> None:
    """Its task of reconnecting carries the rules of the context that made the connection."""
    trap(BAD, port=broker.plain)
    asked = asyncio.Event()

    class Moving(AsyncNames):
        async def lookup(self, host: str, family: int) -> Any:  # type: ignore[override]
            answer = await super().lookup(host, family)
            if len(self.asked) == 3:
                asked.set()
            return answer

    async def main() -> None:
        url = f"amqp://guest:guest@moves.test:{broker.plain}/"
        with use_rules(RULES):
            connection = await aio_pika.connect_robust(url, reconnect_interval=0.01)
        back = asyncio.Event()
        connection.reconnect_callbacks.add(lambda *_: back.set())
        transport: Any = connection.transport
        with use_rules(OTHER):
            await transport.connection.close(ConnectionError("it broke"))
            await asyncio.wait_for(asked.wait(), 10)  # denied the first time, and then accepted again
            await asyncio.wait_for(back.wait(), 10)
        await connection.close()

    run(main(), None, Moving({"moves.test": iter([[GOOD], [BAD], [GOOD]])}))


@pytest.mark.proves("aio-pika, guard", "allowed", "denied", "literal")
def test_it_is_judged_under_the_guard(broker: Ports, trap: Make) -> None:
    trap(BAD, port=broker.plain)
    lines = run_guarded(
        """
        import aio_pika, asyncio
        async def main(host):
            connection = await aio_pika.connect(f"amqp://guest:guest@{host}:{port}/")
            await connection.close()
        talk = lambda host: asyncio.run(main(host))
        print(outcome(talk, "good.test"), outcome(talk, "bad.test"), outcome(talk, BAD))
        """,
        port=broker.plain,
    )
    assert lines == ["ok denied denied"]
