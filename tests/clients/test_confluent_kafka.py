"""confluent-kafka, which dials from C: what netjail can say about it, and that no hook has come to light since."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from tests.guard.harness import run, run_guarded
from tests.servers.kafka import Broker
from tests.servers.names import BAD, GOOD

pytestmark = pytest.mark.skipif(find_spec("confluent_kafka") is None, reason="confluent-kafka is not installed")


@pytest.mark.proves("confluent-kafka", "refused")
def test_strict_mode_refuses_it_and_names_what_to_use():
    lines = run_guarded(
        """
        for name in ("confluent_kafka", "confluent_kafka.admin", "confluent_kafka.cimpl"):
            try:
                __import__(name)
            except ImportError as error:
                print(error)
        print(guard.report().unseen)
        """,
        strict=True,
    )
    assert lines.pop() == "()"
    assert len(lines) == 3
    for line in lines:
        assert line.startswith("netjail.guard refuses confluent_kafka: librdkafka")
        assert line.endswith("Use kafka-python or aiokafka.")


@pytest.mark.proves("confluent-kafka", "refused")
def test_strict_mode_that_comes_too_late_is_an_error():
    lines = run(
        """
        import confluent_kafka
        try:
            guard.install(Rules(), strict=True)
        except ImportError as error:
            print(error.name)
        """
    )
    assert lines == ["confluent_kafka"]


def test_without_strict_mode_it_dials_unseen_and_the_report_names_it():
    broker = Broker(BAD, addresses=[GOOD, BAD])
    try:
        lines = run_guarded(
            """
            import confluent_kafka
            sent = []
            producer = confluent_kafka.Producer({"bootstrap.servers": f"{GOOD}:{port}"})
            producer.produce("things", b"x", on_delivery=lambda error, message: sent.append(error))
            producer.flush(10)
            done = guard.report()
            print(sent, done.judged, done.denied, done.unseen)
            """,
            port=broker.port,
        )
        assert lines == ["[None] 0 0 ('confluent_kafka',)"]
        assert broker.reached[BAD]
    finally:
        broker.close()


@pytest.mark.parametrize("hook", ["connect_cb", "socket_cb", "resolve_cb"])
def test_what_librdkafka_would_take_as_a_hook_is_not_handed_through(hook):
    """The day this fails, there is something to build on."""
    lines = run(
        """
        import confluent_kafka
        try:
            confluent_kafka.Producer({hook: lambda *_: None})
        except confluent_kafka.KafkaException as error:
            print(error.args[0].str())
        """,
        hook=hook,
    )
    assert lines == [f'Property "{hook}" must be set through dedicated .._set_..() function']
