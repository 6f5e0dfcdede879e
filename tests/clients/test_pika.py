"""pika under rules, against a private RabbitMQ: 127.0.0.2 is allowed and 127.0.0.3 is not."""

from __future__ import annotations

import asyncio
import pickle
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pika
import pytest
from pika import exceptions
from pika.adapters import asyncio_connection

import netjail
from netjail import Rules, use_rules
from netjail.clients.pika import AsyncioConnection, BlockingConnection, DeniedError, SelectConnection, Workflow
from netjail.loop import new_event_loop
from tests.guard.harness import run_guarded
from tests.servers.daemon import free_port
from tests.servers.names import BAD, GOOD, Names
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


def parameters(host: str, port: int, tls: ssl.SSLContext | None = None, **options: Any) -> Any:
    ssl_options = None if tls is None else pika.SSLOptions(tls)
    return pika.ConnectionParameters(host, port, ssl_options=ssl_options, **options)


def blocking(*configurations: Any, rules: Rules | None = RULES, **options: Any) -> None:
    """Publishes, and gets what was published."""
    asked = {"resolver": Names(), **options}
    with BlockingConnection(configurations, rules=rules, **asked) as connection:
        channel = connection.channel()
        queue = channel.queue_declare("", exclusive=True).method.queue
        channel.basic_publish("", queue, b"hello")
        for _, _, body in channel.consume(queue, auto_ack=True, inactivity_timeout=10):
            assert body == b"hello"
            return


class Ended(Exception):  # noqa: N818 - it carries one
    """The connection was closed, for this reason."""


def talk(connection: Any) -> Any:
    """What ``connection``, which is opening, reports: the error, or None when a channel was had and all was closed."""
    outcome: list[Any] = []
    connection.add_on_open_error_callback(lambda _, error: ended(error), remove_default=True)
    connection.add_on_close_callback(lambda *_: ended(None))
    connection.add_on_open_callback(lambda _: connection.channel(on_open_callback=lambda _: connection.close()))

    def ended(error: Any) -> None:
        outcome.append(error)
        connection.ioloop.stop()

    return outcome


def select(*configurations: Any, rules: Rules | None = RULES, **options: Any) -> None:
    connection = SelectConnection(*configurations, rules=rules, **{"resolver": Names(), **options})
    outcome = talk(connection)
    connection.ioloop.start()
    connection.ioloop.close()
    if outcome[0] is not None:
        raise outcome[0]


def on_asyncio(*configurations: Any, rules: Rules | None = RULES, **options: Any) -> None:
    loop = asyncio.new_event_loop()
    connection = AsyncioConnection(*configurations, rules=rules, custom_ioloop=loop, **{"resolver": Names(), **options})
    outcome = talk(connection)
    loop.run_forever()
    loop.close()
    if outcome[0] is not None:
        raise outcome[0]


def by_workflow(*configurations: Any, rules: Rules | None = RULES, **options: Any) -> None:
    """pika's own SelectConnection, whose workflow is handed to it."""
    done: list[Any] = []
    loop = pika.adapters.select_connection.IOLoop()

    def on_done(result: Any) -> None:
        done.append(result)
        loop.stop()

    workflow = Workflow(rules, **{"resolver": Names(), **options})
    pika.SelectConnection.create_connection(configurations, on_done, loop, workflow)
    loop.start()
    if not isinstance(done[0], Exception):
        outcome = talk(done[0])
        done[0].channel(on_open_callback=lambda _: done[0].close())
        loop.start()
        done[0] = outcome[0]
    loop.close()
    if done[0] is not None:
        raise getattr(done[0], "exceptions", done)[-1]


ROWS = {
    blocking: "pika, BlockingConnection",
    select: "pika, SelectConnection",
    on_asyncio: "pika, AsyncioConnection",
    by_workflow: "pika, SelectConnection",
}


def ways(*proofs: str) -> Any:
    return pytest.mark.parametrize(
        "way", [pytest.param(way, marks=pytest.mark.proves(row, *proofs), id=way.__name__) for way, row in ROWS.items()]
    )


@ways("allowed")
@pytest.mark.parametrize("host", ["good.test", GOOD])
def test_messages_go_through_an_allowed_broker(way: Make, host: str, broker: Ports) -> None:
    way(parameters(host, broker.plain))


@ways("tls", "wrong-name")
def test_tls_checks_the_name_that_was_asked_for(way: Make, broker: Ports, client_tls: ssl.SSLContext) -> None:
    way(parameters("good.test", broker.tls, client_tls))
    with pytest.raises(Exception) as caught:  # the blocking one raises the SSLError, and the others wrap it
        way(parameters("wrong.test", broker.tls, client_tls))
    words = repr(getattr(caught.value, "exceptions", caught.value))
    assert "SSLCertVerificationError" in words
    assert "wrong.test" in words


def test_a_server_hostname_of_the_users_own_is_checked(broker: Ports, client_tls: ssl.SSLContext) -> None:
    options = pika.SSLOptions(client_tls, "good.test")
    blocking(pika.ConnectionParameters("wrong.test", broker.tls, ssl_options=options))


@ways("denied", "literal")
@pytest.mark.parametrize("host", ["bad.test", BAD])
def test_a_denied_broker_is_not_dialled_and_not_tried_again(way: Make, host: str, broker: Ports, trap: Make) -> None:
    trap(BAD, port=broker.plain)
    names = Names()
    with pytest.raises(DeniedError) as caught:
        way(parameters(host, broker.plain, connection_attempts=5, retry_delay=60), resolver=names)
    assert isinstance(caught.value, netjail.DeniedError)
    assert isinstance(caught.value, exceptions.AMQPConnectionError)
    assert (caught.value.host, caught.value.port) == (host, broker.plain)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), str(again)) == (DeniedError, str(caught.value))
    assert "netjail denied" in repr(again)
    assert len(names.asked) <= 1


@ways("denied")
def test_the_context_counts_and_only_narrows(way: Make, broker: Ports, trap: Make) -> None:
    trap(BAD, port=broker.plain)
    mixed = parameters("mixed.test", broker.plain)
    with use_rules(RULES):
        way(mixed, rules=None)
        with pytest.raises(DeniedError, match="not every one"):
            way(mixed, rules=None, mixed="refuse")
    with use_rules(OTHER), pytest.raises(DeniedError):
        way(parameters("good.test", broker.plain))
    with pytest.raises(DeniedError, match="no rules are in force"):
        way(parameters("good.test", broker.plain), rules=None)


@pytest.mark.parametrize("way", [blocking, by_workflow])
def test_of_several_configurations_the_denied_one_is_passed_over(way: Make, broker: Ports, trap: Make) -> None:
    trap(BAD, port=broker.plain)
    way(parameters("bad.test", broker.plain), parameters("good.test", broker.plain))
    with pytest.raises(DeniedError):
        way(parameters("bad.test", broker.plain), parameters(BAD, broker.plain, connection_attempts=9, retry_delay=60))


def test_a_retry_after_a_failure_is_judged_and_goes_by_the_rules_of_the_first(broker: Ports, trap: Make) -> None:
    dead = free_port()
    names = Names({"moves.test": iter([[GOOD], [GOOD], [BAD], [GOOD]])})
    with use_rules(RULES), pytest.raises(DeniedError):
        where = parameters("moves.test", dead, connection_attempts=9, retry_delay=0.01)
        blocking(where, rules=None, resolver=names)
    assert len(names.asked) == 3


@ways("allowed")
def test_an_accepted_address_that_is_dead_does_not_stop_the_next(way: Make, broker: Ports) -> None:
    names = Names({"half.test": ["127.0.0.9", GOOD]})
    way(parameters("half.test", broker.plain), rules=Rules(allow=["127.0.0.0/8"]), resolver=names)


@ways("allowed")
def test_ipv6_is_dialled_where_it_is_accepted(way: Make) -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:

        def accept() -> None:
            listener.accept()[0].close()  # which is no AMQP

        accepting = threading.Thread(target=accept)
        accepting.start()
        where = parameters("six.test", listener.getsockname()[1])
        with pytest.raises(Exception) as caught:  # each says it in its own way
            way(where, rules=Rules(allow=["::1"]), resolver=Names({"six.test": ["::1"]}))
        accepting.join()
    assert netjail.find_denied(caught.value) is None


def test_pikas_own_asyncio_connection_is_not_judged_by_netjails_loop(broker: Ports) -> None:
    """It opens sockets by itself, so that the page warns of it."""
    loop: Any = new_event_loop(Rules())
    connection = asyncio_connection.AsyncioConnection(parameters(GOOD, broker.plain), custom_ioloop=loop)
    outcome = talk(connection)
    loop.run_forever()
    loop.close()
    assert outcome == [None]


def test_other_errors_stay_pikas_own(broker: Ports) -> None:
    with pytest.raises(exceptions.AMQPConnectionError) as caught:
        blocking(parameters("good.test", free_port()))
    assert not isinstance(caught.value, netjail.DeniedError)
    with pytest.raises(socket.gaierror):
        blocking(parameters("unknown.test", broker.plain))


def test_a_url_and_a_single_set_of_parameters_are_taken(broker: Ports) -> None:
    url = pika.URLParameters(f"amqp://guest:guest@good.test:{broker.plain}/%2F")
    with BlockingConnection(url, rules=RULES, resolver=Names()) as connection:
        assert connection.is_open
    with pytest.raises(DeniedError, match="'localhost' port 5672"):
        BlockingConnection(rules=RULES, resolver=Names({"localhost": ["127.0.0.1"]}))


@pytest.mark.proves("pika, SelectConnection", "refused")
@pytest.mark.parametrize("kind", [SelectConnection, AsyncioConnection])
def test_create_connection_takes_no_workflow_that_judges_nothing(kind: Any) -> None:
    loop: Any = pika.adapters.select_connection.IOLoop() if kind is SelectConnection else asyncio.new_event_loop()
    workflow = pika.AMQPConnectionWorkflow()
    with pytest.raises(TypeError, match="nothing judges"):
        kind.create_connection([parameters("good.test", 5672)], print, loop, workflow)
    loop.close()


def test_create_connection_without_a_workflow_goes_by_the_context(broker: Ports, trap: Make) -> None:
    trap(BAD, port=broker.plain)
    loop = pika.adapters.select_connection.IOLoop()
    done: list[Any] = []

    def on_done(result: Any) -> None:
        done.append(result)
        loop.stop()

    with use_rules(RULES):
        SelectConnection.create_connection([parameters(BAD, broker.plain)], on_done, loop)
    loop.start()
    loop.close()
    assert isinstance(done[0].exceptions[-1], DeniedError)


@pytest.mark.parametrize("kind", [SelectConnection, AsyncioConnection])
def test_a_connection_that_is_closed_while_it_looks_up_ends(kind: Any, trap: Make) -> None:
    """The answer, when it comes, is dropped."""
    forbidden = trap(GOOD)
    asked, go_on = threading.Event(), threading.Event()

    class Slow(Names):
        def lookup(self, host: str, family: int) -> Any:
            asked.set()
            go_on.wait(10)
            return super().lookup(host, family)

    loop: Any = pika.adapters.select_connection.IOLoop() if kind is SelectConnection else asyncio.new_event_loop()
    where = parameters("good.test", forbidden.port)
    connection = kind(where, rules=RULES, resolver=Slow(), custom_ioloop=loop)
    outcome: list[Any] = []
    if kind is AsyncioConnection:
        loop.set_exception_handler(lambda _, context: outcome.append(context))

    def close() -> None:
        asked.wait(10)
        connection.close()

    def ended(error: Any) -> None:
        outcome.append(error)
        go_on.set()
        answered()

    def answered() -> None:
        """Ends the loop once it has had time for the answer, too."""
        looking_up = any(thread.name == "netjail lookup" for thread in threading.enumerate())
        loop.call_later(0.01, answered if looking_up else loop.stop)

    connection.add_on_open_error_callback(lambda _, error: ended(error), remove_default=True)
    loop.call_later(0, lambda: loop.call_later(0, close))
    (loop.start if kind is SelectConnection else loop.run_forever)()
    loop.close()
    assert [type(each) for each in outcome] == [exceptions.ConnectionOpenAborted]


@pytest.mark.proves("pika, guard", "allowed", "denied", "literal")
def test_the_plain_connection_is_judged_under_a_guard_without_loopback(broker: Ports, trap: Make) -> None:
    trap(BAD, port=broker.plain)
    lines = run_guarded(
        """
        import pika
        talk = lambda host: pika.BlockingConnection(pika.ConnectionParameters(host, port)).close()
        for host in ("good.test", "bad.test", BAD):
            print(outcome(talk, host))
        """,
        port=broker.plain,
    )
    assert lines[0] == "ok"
    assert all("denied" in line for line in lines[1:])  # pika keeps it as an exception's exception
    assert len(lines) == 3


def test_our_connection_works_under_a_guard_without_loopback(broker: Ports, trap: Make) -> None:
    """pika makes itself a pair of sockets over loopback, to wake its own loop."""
    trap(BAD, port=broker.plain)
    lines = run_guarded(
        """
        import pika
        from netjail.clients.pika import BlockingConnection, DeniedError
        floor = Rules(allow=["127.0.0.0/8"])
        def talk(host): BlockingConnection(pika.ConnectionParameters(host, port), rules=floor).close()
        print(outcome(talk, "good.test"), outcome(talk, "bad.test"))
        """,
        port=broker.plain,
    )
    assert lines == ["ok denied"]
