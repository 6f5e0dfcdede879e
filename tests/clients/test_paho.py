"""paho-mqtt under rules, against a private Mosquitto: 127.0.0.2 is allowed and 127.0.0.3 is not."""

from __future__ import annotations

import pickle
import queue
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import SimpleNamespace
from typing import Any

import pytest
from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

import netjail
from netjail import Rules, use_rules
from netjail.clients.paho import Client, DeniedError
from tests.guard.harness import run_guarded
from tests.servers.daemon import free_port
from tests.servers.mosquitto import Ports, mosquitto
from tests.servers.names import BAD, GOOD, Names

Make = Callable[..., Any]
RULES = Rules(allow=[GOOD])
OTHER = Rules(allow=[BAD])
EVERYTHING = Rules(allow=["0.0.0.0/0", "::/0"])

pytestmark = pytest.mark.usefixtures("nothing_left_behind")


@pytest.fixture(scope="module")
def broker(pem: Make, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ports]:
    files = pem("good.test")
    with mosquitto(tmp_path_factory.mktemp("mosquitto"), cert=files.cert, key=files.key) as ports:
        yield ports


def client(rules: Rules | None = RULES, names: Any = None, **options: Any) -> Any:
    resolver = Names() if names is None else names
    return Client(CallbackAPIVersion.VERSION2, rules=rules, resolver=resolver, **options)


def echo(made: Any, host: str, port: int) -> None:
    """Connects, publishes, and gets what was published."""
    arrived: queue.Queue[bytes] = queue.Queue()
    made.on_connect = lambda *_: made.subscribe("netjail/paho", 1)
    made.on_subscribe = lambda *_: made.publish("netjail/paho", b"hello", 1)
    made.on_message = lambda _client, _data, message: arrived.put(message.payload)
    with looping(made):
        assert made.connect(host, port) == 0
        made.loop_start()
        assert arrived.get(timeout=10) == b"hello"


@contextmanager
def looping(made: Any) -> Iterator[None]:
    """Leaves nothing of a client behind."""
    try:
        yield
    finally:
        made.disconnect()
        made.loop_stop()
        made._sock_close()
        made._reset_sockets(sockpair_only=True)


@pytest.mark.proves("paho-mqtt", "allowed")
@pytest.mark.parametrize("host", ["good.test", GOOD])
def test_messages_go_through_an_allowed_broker(host: str, broker: Ports) -> None:
    echo(client(), host, broker.plain)


@pytest.mark.proves("paho-mqtt", "allowed")
def test_messages_go_through_websockets(broker: Ports) -> None:
    echo(client(transport="websockets"), "good.test", broker.websockets)


@pytest.mark.proves("paho-mqtt", "tls", "wrong-name")
@pytest.mark.parametrize("by", ["tls_set", "tls_set_context"])
def test_tls_checks_the_name_that_was_asked_for(by: str, broker: Ports, client_tls: ssl.SSLContext, pem: Make) -> None:
    def made() -> Any:
        each = client()
        if by == "tls_set":
            each.tls_set(str(pem("good.test").ca))
        else:
            each.tls_set_context(client_tls)
        return each

    echo(made(), "good.test", broker.tls)
    with pytest.raises(ssl.SSLCertVerificationError, match=r"wrong\.test"):
        made().connect("wrong.test", broker.tls)


def test_tls_that_does_not_check_names_connects_as_ever(broker: Ports, client_tls: ssl.SSLContext) -> None:
    made = client()
    made.tls_set_context(client_tls)
    made.tls_insecure_set(True)
    echo(made, "wrong.test", broker.tls)


def test_a_failed_websocket_handshake_leaves_nothing(broker: Ports) -> None:
    with pytest.raises((OSError, mqtt.WebsocketConnectionError)):
        client(transport="websockets").connect("good.test", broker.plain)


@pytest.mark.proves("paho-mqtt", "denied", "literal")
@pytest.mark.parametrize("transport", ["tcp", "websockets"])
@pytest.mark.parametrize("host", ["bad.test", BAD])
def test_a_denied_broker_is_not_dialled(host: str, transport: str, broker: Ports, trap: Make) -> None:
    trap(BAD, port=broker.plain)
    with pytest.raises(DeniedError) as caught:
        client(transport=transport).connect(host, broker.plain)
    assert DeniedError is netjail.DeniedError
    assert (caught.value.host, caught.value.port) == (host, broker.plain)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_the_context_counts_and_only_narrows(broker: Ports, trap: Make) -> None:
    trap(BAD, port=broker.plain)
    with use_rules(RULES):
        echo(client(None), "mixed.test", broker.plain)
        with pytest.raises(DeniedError, match="not every one"):
            client(None, mixed="refuse").connect("mixed.test", broker.plain)
    with use_rules(OTHER), pytest.raises(DeniedError):
        client().connect("good.test", broker.plain)
    with pytest.raises(DeniedError, match="no rules are in force"):
        client(None).connect("good.test", broker.plain)


def test_a_loop_that_connects_later_does_it_under_the_rules_of_connect_async(broker: Ports, trap: Make) -> None:
    """The thread of ``loop_start`` has no context."""
    made, connected = client(None), threading.Event()
    made.on_connect = lambda *_: connected.set()
    with looping(made):
        with use_rules(RULES):
            made.connect_async("good.test", broker.plain)
        with use_rules(OTHER):
            made.loop_start()
        assert connected.wait(10)


def test_a_reconnect_goes_by_the_rules_of_the_first_time(broker: Ports, trap: Make) -> None:
    trap(BAD, port=broker.plain)
    made = client(None, Names({"moves.test": iter([[GOOD], [GOOD], [BAD]])}))
    with looping(made):
        with use_rules(RULES):
            made.connect("moves.test", broker.plain)
        with use_rules(OTHER):
            made.reconnect()
            with pytest.raises(DeniedError):
                made.reconnect()


def test_a_client_that_begins_anew_keeps_its_rules(broker: Ports, trap: Make) -> None:
    trap(BAD, port=broker.plain)
    made = client()
    with suppress(ValueError):  # paho 2.1 calls its own constructor wrongly
        made.reinitialise("again")
    with use_rules(EVERYTHING), looping(made):
        with pytest.raises(DeniedError):
            made.connect("bad.test", broker.plain)
        assert made.connect("good.test", broker.plain) == 0


def test_a_client_that_is_told_its_host_by_an_attribute_is_judged(broker: Ports, trap: Make) -> None:
    trap(BAD, port=broker.plain)
    made = client()
    made.host, made.port = "bad.test", broker.plain
    with pytest.raises(DeniedError):
        made.reconnect()
    made.host = "good.test"
    with looping(made):
        assert made.reconnect() == 0


def test_a_denied_reconnect_ends_the_loop_and_is_raised_from_it(broker: Ports, trap: Make) -> None:
    trap(BAD, port=broker.plain)
    names = Names({"moves.test": iter([[GOOD], [BAD]])})
    made, failures = client(names=names), []
    made.reconnect_delay_set(1, 1)
    made.on_connect_fail = lambda *_: failures.append("failed")
    made.on_connect = lambda *_: made.socket().shutdown(socket.SHUT_RDWR)
    made.connect("moves.test", broker.plain)
    with looping(made), pytest.raises(DeniedError):
        made.loop_forever()
    assert failures == ["failed"]
    assert len(names.asked) == 2


def test_a_denial_in_a_loops_thread_is_an_error_of_the_thread(broker: Ports, monkeypatch: Any) -> None:
    errors: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: errors.append(args.exc_value))
    names = Names()
    made = client(names=names)
    made.connect_async("bad.test", broker.plain)
    with looping(made):
        made.loop_start()
        thread = made._thread
        if thread is not None:  # else it has ended already
            thread.join(10)
    assert [type(error) for error in errors] == [DeniedError]
    assert len(names.asked) == 1


def test_a_client_connects_again_after_a_denial(broker: Ports) -> None:
    made = client()
    with pytest.raises(DeniedError):
        made.connect("bad.test", broker.plain)
    echo(made, "good.test", broker.plain)


def test_connect_and_the_source_address_and_the_timeout_are_honoured(broker: Ports) -> None:
    dialled: list[Any] = []

    def connect(address: Any, *, timeout: float | None) -> socket.socket:
        dialled.append((address, timeout is not None))
        return socket.create_connection(address, timeout)

    echo(client(connect=connect), "good.test", broker.plain)
    assert dialled == [((GOOD, broker.plain), True)]
    made = client()
    with looping(made):
        made.connect("good.test", broker.plain, bind_address="127.0.0.1")
        assert made.socket().getsockname()[0] == "127.0.0.1"


def test_the_connect_timeout_covers_the_lookup() -> None:
    over = threading.Event()
    names = Names()
    names.lookup = lambda *_: over.wait(30) and [GOOD]  # type: ignore[method-assign,assignment]
    made = client(names=names)
    made.connect_timeout = 0.05
    with pytest.raises(TimeoutError):
        made.connect("good.test", 1)
    over.set()


def test_other_errors_stay_the_systems_own() -> None:
    with pytest.raises(ConnectionRefusedError):
        client().connect("good.test", free_port())
    with pytest.raises(socket.gaierror):
        client().connect("unknown.test", 1883)


@pytest.mark.proves("paho-mqtt", "refused")
def test_a_proxy_is_refused() -> None:
    with pytest.raises(ValueError, match="no proxying"):
        client().proxy_set(proxy_type=2, proxy_addr=BAD, proxy_port=1080)


@pytest.mark.proves("paho-mqtt", "refused")
def test_proxies_of_the_environment_and_of_pysocks_are_not_used(broker: Ports, trap: Make, monkeypatch: Any) -> None:
    proxy = trap(BAD)
    monkeypatch.setenv("mqtt_proxy", f"socks://{BAD}:{proxy.port}")
    default = (2, BAD, proxy.port, True, None, None)
    socks = SimpleNamespace(HTTP=3, SOCKS4=1, SOCKS5=2, get_default_proxy=lambda: default)
    monkeypatch.setattr(mqtt, "socks", socks)
    assert client()._get_proxy() is not None
    echo(client(EVERYTHING), "good.test", broker.plain)


@pytest.mark.proves("paho-mqtt", "refused")
def test_a_unix_socket_is_denied(tmp_path: Any) -> None:
    made = client(EVERYTHING, transport="unix")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "mqtt"))
        listener.listen()
        listener.setblocking(False)
        with pytest.raises(DeniedError, match="unix socket"):
            made.connect(str(tmp_path / "mqtt"))
        with pytest.raises(BlockingIOError):
            listener.accept()


class Records:
    """What paho uses of dnspython."""

    def __init__(self, *hosts: tuple[str, int]) -> None:
        target = lambda host: SimpleNamespace(to_text=lambda: f"{host}.")  # noqa: E731
        answers = [SimpleNamespace(target=target(host), port=port, priority=0, weight=0) for host, port in hosts]
        errors = {name: type(name, (Exception,), {}) for name in ("NXDOMAIN", "NoAnswer", "NoNameservers")}
        self.resolver = SimpleNamespace(query=lambda *_: answers, **errors)
        self.rdatatype = SimpleNamespace(SRV="SRV")


@pytest.mark.proves("paho-mqtt", "announced")
def test_hosts_that_srv_records_name_are_judged(broker: Ports, trap: Make, monkeypatch: Any) -> None:
    trap(BAD, port=broker.plain)
    monkeypatch.setattr(mqtt, "HAVE_DNS", True)
    monkeypatch.setattr(mqtt, "dns", Records(("bad.test", broker.plain)), raising=False)
    with pytest.raises(DeniedError):
        client().connect_srv("example.test")
    monkeypatch.setattr(mqtt, "dns", Records(("bad.test", broker.plain), ("good.test", broker.plain)))
    made = client()
    with looping(made):
        assert made.connect_srv("example.test") == 0
        assert made.socket().getpeername() == (GOOD, broker.plain)
    monkeypatch.setattr(mqtt, "dns", Records())
    with pytest.raises(ValueError, match="No SRV hosts"):
        client().connect_srv("example.test")


@pytest.mark.proves("paho-mqtt, guard", "allowed", "denied", "literal")
def test_the_plain_client_is_judged_under_a_guard_without_loopback(broker: Ports, trap: Make) -> None:
    trap(BAD, port=broker.plain)
    lines = run_guarded(
        """
        from paho.mqtt import client as mqtt
        def talk(host):
            client, done = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2), threading.Event()
            client.on_connect = lambda *_: done.set()
            client.connect(host, port)
            client.loop_start()
            assert done.wait(10)
            client.disconnect()
            client.loop_stop()
        print(outcome(talk, "good.test"), outcome(talk, "bad.test"), outcome(talk, BAD))
        """,
        port=broker.plain,
    )
    assert lines == ["ok denied denied"]
