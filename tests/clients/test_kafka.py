"""kafka-python under rules, against librdkafka's mock cluster: 127.0.0.2 is allowed and 127.0.0.3 is not."""

from __future__ import annotations

import gc
import importlib.util
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import netjail
from netjail import Rules, use_rules
from tests.guard.harness import run_guarded
from tests.servers.kafka import Broker
from tests.servers.names import BAD, GOOD, Names

kafka = pytest.importorskip("kafka")

if importlib.util.find_spec("kafka.net") is None:  # kafka-python 2, which has the guard alone
    explicit = pytest.mark.skip(reason="netjail.clients.kafka needs kafka-python 3")
else:
    from netjail.clients.kafka import Client, DeniedError

    explicit = pytest.mark.usefixtures("nothing_left_behind")

ONLY_GOOD = Rules(allow=[GOOD])
BOTH = Rules(allow=[GOOD, BAD])
VERSION = {"api_version": (2, 0)}  # the mock's answer about itself is one that kafka-python cannot read

Make = Callable[..., Any]


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    """A broker that announces its own address."""
    made = Broker()
    yield made
    made.close()


@pytest.fixture(scope="module")
def leading() -> Iterator[Broker]:
    """A broker that announces the denied address, at its own port."""
    made = Broker(BAD)
    yield made
    made.close()


@pytest.fixture(scope="module")
def tls_broker(server_tls: Make) -> Iterator[Broker]:
    """A broker with a certificate for good.test, which it announces."""
    made = Broker("good.test", tls=server_tls("good.test"))
    yield made
    made.close()


def options(host: str, port: int, rules: Any = ONLY_GOOD, **more: Any) -> dict[str, Any]:
    jail = Client(rules, resolver=Names()) if "kafka_client" not in more else more["kafka_client"]
    return {"bootstrap_servers": f"{host}:{port}", **VERSION, **more, "kafka_client": jail}


def send(*args: Any, **more: Any) -> int:
    """Sends one message, and gives its partition."""
    producer = kafka.KafkaProducer(**options(*args, **more))
    try:
        return producer.send("things", b"x", partition=0).get(timeout=10).partition  # type: ignore[no-any-return]
    finally:
        producer.close(timeout=5)


def fetch(*args: Any, **more: Any) -> bytes:
    """The first message."""
    fixed = {"auto_offset_reset": "earliest", "consumer_timeout_ms": 40_000}
    consumer = kafka.KafkaConsumer("things", **fixed, **options(*args, **more))
    try:
        return next(consumer).value  # type: ignore[no-any-return]
    finally:
        consumer.close()


def topics(*args: Any, **more: Any) -> list[str]:
    admin = kafka.KafkaAdminClient(**options(*args, **more))
    try:
        return admin.list_topics()  # type: ignore[no-any-return]
    finally:
        admin.close()


USES = [pytest.param(send, id="producer"), pytest.param(fetch, id="consumer"), pytest.param(topics, id="admin")]


@explicit
@pytest.mark.proves("kafka-python", "allowed")
def test_a_producer_a_consumer_and_an_admin_client_reach_an_allowed_name(broker):
    assert send("good.test", broker.port) == 0
    assert fetch("good.test", broker.port) == b"x"
    assert topics("good.test", broker.port) == ["things"]
    assert topics("mixed.test", broker.port) == ["things"]


@explicit
@pytest.mark.proves("kafka-python", "allowed")
def test_a_member_of_a_group_reaches_its_coordinator(broker):
    send("good.test", broker.port)
    assert fetch("good.test", broker.port, group_id="readers") == b"x"


@explicit
@pytest.mark.proves("kafka-python", "denied", "literal")
@pytest.mark.parametrize("host", ["bad.test", BAD])
@pytest.mark.parametrize("use", USES)
def test_a_denied_bootstrap_server_is_told_at_once_and_gets_no_packet(use, host, trap):
    server = trap(BAD)
    names = Names()
    with pytest.raises(DeniedError) as caught:
        use(host, server.port, kafka_client=Client(ONLY_GOOD, resolver=names))
    assert caught.value.host == host
    assert names.asked in ([], [(host, 2)])  # looked up once, for IPv4, or not at all
    assert isinstance(caught.value, kafka.errors.KafkaError)
    assert isinstance(caught.value, netjail.DeniedError)


@explicit
def test_with_no_rules_everything_is_denied(trap):
    names = Names()
    with pytest.raises(DeniedError):
        send("good.test", trap(GOOD).port, kafka_client=Client(resolver=names))
    assert names.asked == []


@explicit
def test_of_several_bootstrap_servers_the_accepted_ones_are_used(broker, trap):
    trap(BAD, port=broker.port)
    several = [f"bad.test:{broker.port}", f"good.test:{broker.port}"]
    assert send("", 0, kafka_client=Client(ONLY_GOOD, resolver=Names()), bootstrap_servers=several) == 0


@explicit
def test_a_name_without_an_address_is_no_denial(broker):
    with pytest.raises(kafka.errors.KafkaTimeoutError):
        send("nowhere.test", broker.port, max_block_ms=50)


@explicit
@pytest.mark.proves("kafka-python", "announced")
@pytest.mark.parametrize("use", USES)
def test_an_announced_broker_that_is_denied_gets_no_packet_and_the_denial_is_raised(use, leading, trap):
    trap(BAD, port=leading.port)
    with pytest.raises(DeniedError) as caught:
        use("good.test", leading.port)
    assert caught.value.host == BAD


@explicit
@pytest.mark.proves("kafka-python", "announced")
def test_a_group_whose_coordinator_is_denied_is_told_so(leading, trap):
    trap(BAD, port=leading.port)
    with pytest.raises(DeniedError):
        fetch("good.test", leading.port, group_id="readers")


@explicit
def test_an_announced_broker_is_dialled_where_it_is_accepted():
    made = Broker(BAD, addresses=[GOOD, BAD])
    try:
        assert send("good.test", made.port, BOTH) == 0
    finally:
        made.close()


@explicit
@pytest.mark.proves("kafka-python", "tls")
def test_tls_is_checked_against_the_name_also_for_announced_brokers(tls_broker, client_tls):
    secure = {"security_protocol": "SSL", "ssl_context": client_tls}
    assert send("good.test", tls_broker.port, **secure) == 0
    assert fetch("good.test", tls_broker.port, **secure) == b"x"


@explicit
@pytest.mark.proves("kafka-python", "wrong-name")
@pytest.mark.filterwarnings("ignore:unclosed <ssl:ResourceWarning")  # kafka-python leaves those to the collector
@pytest.mark.parametrize("host", ["wrong.test", GOOD])
def test_a_certificate_for_another_name_fails(host, tls_broker, client_tls, caplog):
    heard = tls_broker.heard
    with pytest.raises(kafka.errors.KafkaTimeoutError):  # kafka-python tries again until its time is up
        send(host, tls_broker.port, security_protocol="SSL", ssl_context=client_tls, max_block_ms=300)
    assert "CERTIFICATE_VERIFY_FAILED" in caplog.text
    assert tls_broker.heard == heard
    caplog.clear()
    gc.collect()


@explicit
@pytest.mark.proves("kafka-python", "pools")
def test_what_was_made_under_some_rules_is_of_no_use_under_others(broker):
    jail = Client(BOTH, resolver=Names())
    producer = kafka.KafkaProducer(**options("good.test", broker.port, kafka_client=jail))
    try:
        producer.send("things", b"x").get(timeout=10)
        accepted = broker.accepted
        with use_rules(Rules(allow=[BAD])), pytest.raises(DeniedError):
            topics("good.test", broker.port, kafka_client=jail)
        assert broker.accepted == accepted
    finally:
        producer.close(timeout=5)


@explicit
@pytest.mark.proves("kafka-python", "pools")
def test_what_was_made_under_some_rules_serves_nobody_under_others(broker):
    elsewhere = Rules(allow=[BAD])
    producer = kafka.KafkaProducer(**options("good.test", broker.port, BOTH))
    admin = kafka.KafkaAdminClient(**options("good.test", broker.port, BOTH))
    consumer = kafka.KafkaConsumer(
        "mine", group_id="others", auto_offset_reset="earliest", **options("good.test", broker.port, BOTH)
    )
    try:
        producer.send("mine", b"x", partition=0).get(timeout=10)
        with use_rules(elsewhere):
            for ask in (lambda: producer.send("mine", b"y"), admin.list_topics, lambda: consumer.poll(100)):
                with pytest.raises(DeniedError, match="other rules"):
                    ask()
        with use_rules(Rules(allow=[BAD, GOOD])):  # the same, spelled otherwise
            producer.send("mine", b"z", partition=0).get(timeout=10)
            assert next(consumer).value == b"x"
    finally:
        with use_rules(elsewhere):
            producer.close(timeout=5)
            admin.close()
            consumer.close()


@explicit
@pytest.mark.proves("kafka-python", "pools")
def test_what_came_under_some_rules_is_not_handed_out_under_others_and_not_lost(broker):
    producer = kafka.KafkaProducer(**options("good.test", broker.port))
    consumer = kafka.KafkaConsumer("kept", auto_offset_reset="earliest", **options("good.test", broker.port))

    def one() -> Any:
        ((record,),) = consumer.poll(10_000, max_records=1).values()
        return record.value

    try:
        for value in (b"1", b"2", b"3"):
            producer.send("kept", value, partition=0).get(timeout=10)
        assert one() == b"1"
        with use_rules(Rules(allow=[BAD])), pytest.raises(DeniedError, match="other rules"):
            one()
        assert [one(), one()] == [b"2", b"3"]
    finally:
        producer.close(timeout=5)
        consumer.close()


@explicit
@pytest.mark.proves("kafka-python", "pools")
def test_the_rules_of_the_context_in_which_it_was_made_stay(leading, trap):
    trap(BAD, port=leading.port)
    with use_rules(ONLY_GOOD):
        producer = kafka.KafkaProducer(**options("good.test", leading.port, BOTH))
    try:
        with use_rules(BOTH), pytest.raises(DeniedError):
            producer.send("things", b"x")
    finally:
        producer.close(timeout=5)


@explicit
@pytest.mark.proves("kafka-python", "refused")
@pytest.mark.parametrize("option", ["proxy_url", "socks5_proxy"])
def test_a_proxy_is_refused(option, trap):
    proxy = f"socks5://{GOOD}:{trap(GOOD).port}"
    with pytest.raises(ValueError, match="proxy"):
        send("good.test", 9, **{option: proxy})


@explicit
def test_the_error_pickles_and_can_be_kept_in_a_set(trap):
    with pytest.raises(DeniedError) as caught:
        send("bad.test", trap(BAD).port)
    again = pickle.loads(pickle.dumps(caught.value))
    assert type(again) is DeniedError
    assert str(again) == str(caught.value)
    assert len({again, caught.value}) == 1


GUARDED = """
import kafka
def send(host, port, **more):
    options = {"bootstrap_servers": f"{host}:{port}", "api_version": (2, 0), "max_block_ms": 5000, **more}
    producer = kafka.KafkaProducer(**options)
    try:
        return producer.send("things", b"x", partition=0).get(timeout=10)
    finally:
        producer.close(timeout=1)
def fetch(host, port):
    consumer = kafka.KafkaConsumer(
        "things", bootstrap_servers=f"{host}:{port}", api_version=(2, 0),
        auto_offset_reset="earliest", consumer_timeout_ms=40000)
    try:
        assert next(consumer).value == b"x"
    finally:
        consumer.close()
"""


@pytest.mark.proves("kafka-python, guard", "allowed")
def test_under_the_guard_an_allowed_name_works(broker):
    lines = run_guarded(
        GUARDED + "print(outcome(send, 'good.test', port), outcome(fetch, 'good.test', port), guard.report().denied)",
        port=broker.port,
    )
    assert lines == ["ok ok 0"]


@pytest.mark.proves("kafka-python, guard", "tls", "wrong-name")
def test_under_the_guard_tls_is_checked_against_the_name(tls_broker, ca, tmp_path):
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    lines = run_guarded(
        GUARDED
        + """
secure = {"security_protocol": "SSL", "ssl_cafile": file}
print(outcome(send, "good.test", port, **secure))
print(outcome(send, "wrong.test", port, **secure, max_block_ms=300))
""",
        port=tls_broker.port,
        file=str(tmp_path / "ca.pem"),
    )
    assert lines[0] == "ok"
    assert "KafkaTimeoutError" in lines[1]


@pytest.mark.proves("kafka-python, guard", "denied", "literal", "announced")
@pytest.mark.parametrize("host", ["bad.test", BAD, "good.test"])
def test_under_the_guard_a_denied_broker_gets_no_packet(host, leading, trap):
    """good.test is accepted, and announces the denied address."""
    trap(BAD, port=leading.port)
    lines = run_guarded(
        GUARDED.replace("5000", "500") + "print(outcome(send, host, port), guard.report().denied > 0)",
        host=host,
        port=leading.port,
    )
    assert "KafkaTimeoutError" in lines[0]  # kafka-python keeps the errno alone, and tries again until its time is up
    assert lines[0].endswith("True")


@pytest.mark.proves("kafka-python, guard", "denied")
def test_under_the_guard_a_look_before_tells_the_denial():
    assert run_guarded("print(outcome(netjail.Dialer(guard.report().floors[0]).resolve, ('bad.test', 9092)))") == [
        "denied"
    ]
