"""aiokafka on netjail's loop, against librdkafka's mock cluster: 127.0.0.2 is allowed and 127.0.0.3 is not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from netjail import AsyncDialer, DeniedError, Rules, find_denied
from netjail.loop import new_event_loop
from tests.guard.harness import run_guarded
from tests.servers.kafka import Broker
from tests.servers.names import BAD, GOOD, AsyncNames

aiokafka = pytest.importorskip("aiokafka")

ONLY_GOOD = Rules(allow=[GOOD])
BOTH = Rules(allow=[GOOD, BAD])
Make = Callable[..., Any]

pytestmark = pytest.mark.usefixtures("nothing_left_behind")


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    """A broker that announces its own address."""
    made = Broker()
    yield made
    made.close()


@pytest.fixture(scope="module")
def leading() -> Iterator[Broker]:
    """A broker that listens on both addresses and announces the denied one."""
    made = Broker(BAD, addresses=[GOOD, BAD])
    yield made
    made.close()


@pytest.fixture(scope="module")
def tls_broker(server_tls: Make) -> Iterator[Broker]:
    """A broker with a certificate for good.test, which it announces."""
    made = Broker("good.test", tls=server_tls("good.test"))
    yield made
    made.close()


def run(work: Any, rules: Rules = ONLY_GOOD) -> Any:
    loop = new_event_loop(rules, resolver=AsyncNames())
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(work)


async def send(host: str, port: int, **more: Any) -> int:
    """Sends one message, and gives its partition."""
    producer = aiokafka.AIOKafkaProducer(bootstrap_servers=f"{host}:{port}", request_timeout_ms=1500, **more)
    try:
        await producer.start()
        sent = await producer.send_and_wait("things", b"x", partition=0)
        return sent.partition  # type: ignore[no-any-return]
    finally:
        await producer.stop()


async def fetch(host: str, port: int, **more: Any) -> bytes:
    """The first message."""
    consumer = aiokafka.AIOKafkaConsumer(
        "things", bootstrap_servers=f"{host}:{port}", auto_offset_reset="earliest", **more
    )
    try:
        await consumer.start()
        return (await asyncio.wait_for(consumer.getone(), 10)).value  # type: ignore[no-any-return]
    finally:
        await consumer.stop()


@pytest.mark.proves("aiokafka, loop", "allowed")
def test_a_producer_and_a_consumer_reach_an_allowed_name(broker):
    assert run(send("good.test", broker.port)) == 0
    assert run(fetch("good.test", broker.port)) == b"x"
    assert run(send("mixed.test", broker.port)) == 0


@pytest.mark.proves("aiokafka, loop", "denied", "literal")
@pytest.mark.parametrize("host", ["bad.test", BAD])
def test_a_denied_bootstrap_server_gets_no_packet(host, trap, caplog):
    with pytest.raises(aiokafka.errors.KafkaConnectionError, match="Unable to bootstrap") as caught:
        run(send(host, trap(BAD).port))
    assert find_denied(caught.value) is None  # aiokafka keeps nothing of it, but in its log
    assert "netjail denied the connection" in caplog.text


@pytest.mark.proves("aiokafka, loop", "denied")
def test_a_look_before_tells_the_denial(trap):
    port = trap(BAD).port

    async def look_and_send() -> None:
        await AsyncDialer(ONLY_GOOD, resolver=AsyncNames()).resolve(("bad.test", port))
        await send("bad.test", port)

    with pytest.raises(DeniedError):
        run(look_and_send())


@pytest.mark.proves("aiokafka, loop", "announced")
def test_an_announced_broker_is_reached_where_it_is_accepted_and_gets_no_packet_elsewhere(leading, caplog):
    assert run(send("good.test", leading.port), BOTH) == 0
    before = leading.reached[BAD]
    assert before
    with pytest.raises(aiokafka.errors.KafkaError):
        run(send("good.test", leading.port))
    assert leading.reached[BAD] == before
    assert f"netjail denied the connection to '{BAD}'" in caplog.text


@pytest.mark.proves("aiokafka, loop", "tls")
def test_tls_is_checked_against_the_name_also_for_announced_brokers(tls_broker, client_tls):
    secure = {"security_protocol": "SSL", "ssl_context": client_tls}
    assert run(send("good.test", tls_broker.port, **secure)) == 0
    assert run(fetch("good.test", tls_broker.port, **secure)) == b"x"


@pytest.mark.proves("aiokafka, loop", "wrong-name")
@pytest.mark.parametrize("host", ["wrong.test", GOOD])
def test_a_certificate_for_another_name_fails(host, tls_broker, client_tls, caplog):
    heard = tls_broker.heard
    with pytest.raises(aiokafka.errors.KafkaConnectionError):
        run(send(host, tls_broker.port, security_protocol="SSL", ssl_context=client_tls))
    assert "CERTIFICATE_VERIFY_FAILED" in caplog.text
    assert tls_broker.heard == heard


def test_under_the_guard_a_denied_broker_gets_no_packet(broker, trap):
    trap(BAD, port=broker.port)
    lines = run_guarded(
        """
        import aiokafka, asyncio
        async def send(host):
            producer = aiokafka.AIOKafkaProducer(bootstrap_servers=f"{host}:{port}")
            try:
                await producer.start()
                await producer.send_and_wait("things", b"x")
            finally:
                await producer.stop()
        for host in ("good.test", "bad.test", BAD):
            before = guard.report().denied
            print(outcome(asyncio.run, send(host)).partition("(")[0], guard.report().denied > before)
        """,
        port=broker.port,
    )
    assert lines == ["ok False", "KafkaConnectionError True", "KafkaConnectionError True"]
