"""websocket-client under rules, against real servers on loopback: 127.0.0.2 is allowed and 127.0.0.3 is not."""

from __future__ import annotations

import pickle
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import Mock

import pytest
import websocket

import netjail
from netjail import Rules, use_rules
from netjail.clients import websocket_client as jailed
from netjail.clients.websocket_client import DeniedError
from tests.guard.harness import run_guarded
from tests.servers.daemon import free_port
from tests.servers.names import Names
from tests.servers.websocket import Echo

Make = Callable[..., Any]
GOOD = Rules(allow=["127.0.0.2"])
OTHER = Rules(allow=["127.0.0.3"])
LOOPBACK = Rules(allow=["127.0.0.0/8"])

pytestmark = [pytest.mark.usefixtures("nothing_left_behind")]


@pytest.fixture(scope="module")
def echo() -> Iterator[Echo]:
    with Echo() as server:
        yield server


@pytest.fixture(scope="module")
def other() -> Iterator[Echo]:
    with Echo() as server:
        yield server


@pytest.fixture(scope="module")
def secure(server_tls: Make) -> Iterator[Echo]:
    with Echo(tls=server_tls("good.test")) as server:
        yield server


def by_function(uri: str, rules: Rules | None = GOOD, **options: Any) -> Any:
    """What comes back for "hello"."""
    ws = jailed.create_connection(uri, rules=rules, **{"resolver": Names(), **options})
    try:
        ws.send("hello")
        return ws.recv()
    finally:
        ws.close()


OF_THE_SOCKET = ("sslopt", "sockopt", "resolver", "connect", "mixed")


def by_class(uri: str, rules: Rules | None = GOOD, **options: Any) -> Any:
    made = {name: options.pop(name) for name in OF_THE_SOCKET if name in options}
    ws = jailed.WebSocket(rules, **{"resolver": Names(), **made})
    try:
        ws.connect(uri, **options)
        ws.send("hello")
        return ws.recv()
    finally:
        ws.close()


OF_THE_APP = ("socket", "resolver", "connect", "mixed")


def by_app(uri: str, rules: Rules | None = GOOD, **options: Any) -> Any:
    """The same from an app; the error that it was told of is raised."""
    heard: list[Any] = []

    def on_message(app: Any, message: Any) -> None:
        heard.append(message)
        app.close()

    made = {name: options.pop(name) for name in OF_THE_APP if name in options}
    app = jailed.WebSocketApp(
        uri,
        on_open=lambda app: app.send("hello"),
        on_message=on_message,
        on_error=lambda _, error: heard.append(error),
        rules=rules,
        **{"resolver": Names(), **made},
    )
    app.run_forever(**options)
    if isinstance(heard[0], Exception):
        raise heard[0]
    return heard[0]


def each(*what: str) -> Any:
    """Once for each way to connect, with what it proves."""
    proves = pytest.mark.proves
    return pytest.mark.parametrize(
        "said",
        [
            pytest.param(by_function, id="create_connection", marks=proves("websocket-client", *what)),
            pytest.param(by_class, id="WebSocket", marks=proves("websocket-client", *what)),
            pytest.param(by_app, id="WebSocketApp", marks=proves("websocket-client, app", *what)),
        ],
    )


@each("allowed")
def test_an_allowed_name_talks(echo: Echo, said: Make) -> None:
    assert said(echo.uri(host="good.test")) == "hello"
    assert echo.asked[-1] == ("/", f"good.test:{echo.port}")


@each("denied")
@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_a_denied_name_opens_nothing(echo: Echo, trap: Make, said: Make, scheme: str) -> None:
    trap("127.0.0.3", port=echo.port)
    with pytest.raises(DeniedError) as caught:
        said(f"{scheme}://bad.test:{echo.port}/")
    assert isinstance(caught.value, netjail.DeniedError)
    assert isinstance(caught.value, websocket.WebSocketException)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), again.host, again.port) == (DeniedError, "bad.test", echo.port)


@each("literal")
def test_a_literal_is_judged(echo: Echo, trap: Make, said: Make) -> None:
    trap("127.0.0.3", port=echo.port)
    assert said(echo.uri()) == "hello"
    with pytest.raises(DeniedError):
        said(f"ws://127.0.0.3:{echo.port}/")


@each()
def test_of_a_mixed_answer_the_accepted_address_is_dialled(echo: Echo, trap: Make, said: Make) -> None:
    trap("127.0.0.3", port=echo.port)
    assert said(echo.uri(host="mixed.test")) == "hello"
    with pytest.raises(DeniedError):
        said(echo.uri(host="mixed.test"), mixed="refuse")


@each("tls", "wrong-name")
def test_tls_checks_the_name_that_was_asked_for(
    secure: Echo, client_tls: ssl.SSLContext, pem: Make, said: Make
) -> None:
    assert said(secure.uri(host="good.test"), sslopt={"context": client_tls}) == "hello"
    with pytest.raises(ssl.SSLCertVerificationError, match="wrong"):
        said(secure.uri(host="wrong.test"), sslopt={"context": client_tls})
    assert said(secure.uri(host="wrong.test"), sslopt={"context": client_tls, "server_hostname": "good.test"})
    files = pem("unused.test")
    assert said(secure.uri(host="good.test"), sslopt={"ca_certs": str(files.ca)}) == "hello"
    with pytest.raises(ssl.SSLCertVerificationError):
        said(secure.uri(host="good.test"))


@each("announced")
def test_each_hop_of_a_redirect_is_judged(echo: Echo, other: Echo, trap: Make, said: Make) -> None:
    trap("127.0.0.3", port=echo.port)
    assert said(echo.uri(f"/redirect?to={other.uri(host='good.test')}")) == "hello"
    assert other.asked[-1] == ("/", f"good.test:{other.port}")
    for target in (f"ws://bad.test:{echo.port}/", f"ws://127.0.0.3:{echo.port}/", f"wss://bad.test:{echo.port}/"):
        with pytest.raises(DeniedError):
            said(echo.uri(f"/redirect?to={target}", host="good.test"))


@pytest.mark.parametrize("to", ["nowhere", "//good.test/", "http://good.test/", "ws://"])
def test_a_redirect_to_what_is_no_websocket_fails(echo: Echo, to: str) -> None:
    with pytest.raises(websocket.WebSocketException):
        by_function(echo.uri(f"/redirect?to={to}"))


@each()
@pytest.mark.parametrize("url", ["nowhere", "http://good.test/", "ws:///", "wss://"])
def test_what_is_no_url_of_a_websocket_is_a_value_error_as_ever(said: Make, url: str) -> None:
    with pytest.raises(ValueError) as caught:
        said(url)
    assert not isinstance(caught.value, websocket.WebSocketException)


def test_a_redirect_limit_holds(echo: Echo, other: Echo) -> None:
    twice = echo.uri(f"/redirect?to={echo.uri('/redirect%3Fto=' + other.uri())}")
    assert by_function(twice, redirect_limit=2) == "hello"
    for limit in (0, 1):
        with pytest.raises(websocket.WebSocketException, match="limit exhausted"):
            by_function(twice, redirect_limit=limit)


@each()
def test_the_rules_of_the_context_narrow_and_none_deny(echo: Echo, said: Make) -> None:
    with pytest.raises(DeniedError, match="no rules are in force"):
        said(echo.uri(), None)
    with use_rules(GOOD):
        assert said(echo.uri(), None) == "hello"
        assert said(echo.uri(), LOOPBACK) == "hello"
    with use_rules(OTHER), pytest.raises(DeniedError):
        said(echo.uri(), LOOPBACK)


@each()
def test_the_proxies_of_the_environment_are_not_used(
    echo: Echo, other: Echo, trap: Make, monkeypatch: pytest.MonkeyPatch, said: Make
) -> None:
    proxy = trap("127.0.0.2")
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy.url())
    monkeypatch.delenv("no_proxy", raising=False)
    assert said(echo.uri(host="good.test"), LOOPBACK) == "hello"
    assert said(echo.uri(f"/redirect?to={other.uri(host='good.test')}"), LOOPBACK) == "hello"


@each("refused")
@pytest.mark.parametrize(
    "option", [{"http_proxy_host": "127.0.0.2", "http_proxy_port": 1}, {"proxy_type": "socks5"}], ids=str
)
def test_a_proxy_is_refused(said: Make, option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(option))}="):
        said("ws://127.0.0.2:1/", **option)


@each("refused")
def test_a_socket_that_nobody_has_judged_is_refused(said: Make) -> None:
    with pytest.raises(ValueError, match="socket="):
        said("ws://127.0.0.2:1/", socket=object())


def test_a_class_that_dials_by_itself_is_refused() -> None:
    plain: Any = websocket.WebSocket
    with pytest.raises(TypeError, match="subclass of netjail's"):
        jailed.create_connection("ws://127.0.0.2:1/", class_=plain, rules=GOOD)


def test_a_class_of_ones_own_is_made(echo: Echo) -> None:
    class Mine(jailed.WebSocket):
        pass

    ws = jailed.create_connection(echo.uri(), class_=Mine, rules=GOOD, enable_multithread=False)
    assert type(ws) is Mine
    ws.close()


def test_positional_arguments_come_after_the_rules_in_the_plain_order() -> None:
    def mask(_: int) -> bytes:
        return b"1234"

    made = jailed.WebSocket(GOOD, mask, [(1, 2, 3)], {"cert_reqs": ssl.CERT_NONE}, True)
    assert made.get_mask_key is mask
    assert (made.sock_opt.sockopt, made.sock_opt.sslopt) == ([(1, 2, 3)], {"cert_reqs": ssl.CERT_NONE})


def test_a_name_that_does_not_resolve_is_websocket_clients_own_error() -> None:
    with pytest.raises(websocket.WebSocketAddressException):
        by_function("ws://unknown.test/")


@each()
def test_a_refused_connection_is_websocket_clients_own_error(said: Make) -> None:
    with pytest.raises(ConnectionRefusedError):
        said(f"ws://good.test:{free_port()}/")


def test_socket_options_and_timeouts_reach_the_socket(echo: Echo) -> None:
    options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    ws = jailed.create_connection(echo.uri(), timeout=7, rules=GOOD, sockopt=options)
    assert ws.sock is not None
    assert ws.sock.gettimeout() == 7
    assert ws.sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert ws.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    ws.close()


def test_a_connect_of_ones_own_gets_what_was_accepted(echo: Echo) -> None:
    dialled: list[Any] = []

    def note(address: Any, *, timeout: float | None) -> socket.socket:
        dialled.append((address, timeout))
        return socket.create_connection(address, timeout)

    for said in (by_function, by_class, by_app):
        assert said(echo.uri(host="good.test"), connect=note) == "hello"
    assert dialled == [(("127.0.0.2", echo.port), None)] * 3


def test_what_is_put_in_the_place_of_an_apps_websocket_stays_what_it_is(echo: Echo) -> None:
    class Double:
        """A test double."""

    app = jailed.WebSocketApp(echo.uri(), rules=GOOD)
    for made in (Double(), Mock(spec=websocket.WebSocket), jailed.WebSocket(GOOD), None):
        before = vars(made).copy() if made else None
        app.sock = made
        assert app.sock is made
        assert (vars(made) if made else None) == before
    app.sock = plain = websocket.WebSocket()
    assert type(plain) is websocket.WebSocket


@pytest.mark.proves("websocket-client, app", "denied")
def test_what_connects_a_websocket_of_an_apps_is_judged(echo: Echo, trap: Make) -> None:
    """Also when a callback connects it again, and with a proxy or a socket that came in by position."""
    listener = trap("127.0.0.3")
    app = jailed.WebSocketApp(echo.uri(), rules=GOOD, resolver=Names())
    app.sock = websocket.WebSocket()
    with pytest.raises(DeniedError):
        app.sock.connect(f"ws://bad.test:{listener.port}/")
    with pytest.raises(ValueError, match="http_proxy_host="):
        app.sock.connect(echo.uri(), http_proxy_host="127.0.0.3", http_proxy_port=listener.port)
    app.sock = None
    told: list[Any] = []
    app.on_error = lambda _, error: told.append(error)
    app.run_forever(None, None, 0, None, "", "127.0.0.3", listener.port, reconnect=1)
    assert [type(error) for error in told] == [ValueError]


@pytest.mark.proves("websocket-client, app", "denied")
def test_a_denial_ends_an_app_that_would_reconnect(trap: Make) -> None:
    listener, names, told = trap("127.0.0.3"), Names(), []
    app = jailed.WebSocketApp(
        f"ws://bad.test:{listener.port}/", on_error=lambda _, error: told.append(error), rules=GOOD, resolver=names
    )
    app.run_forever(reconnect=1)
    assert [type(error) for error in told] == [DeniedError]
    assert len(names.asked) == 1


@pytest.mark.proves("websocket-client, app", "announced")
def test_each_reconnection_of_an_app_is_judged_under_the_rules_of_its_run(
    echo: Echo, trap: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    trap("127.0.0.3", port=echo.port)
    monkeypatch.setattr("time.sleep", lambda _: None)
    names, told, opened = Names({"rebind.test": iter([["127.0.0.2"], ["127.0.0.2"], ["127.0.0.3"]])}), [], []
    app = jailed.WebSocketApp(
        echo.uri("/cut", host="rebind.test"),
        on_open=lambda _: opened.append("first"),
        on_error=lambda _, error: told.append(error),
        resolver=names,
    )
    with use_rules(GOOD):
        app.run_forever(reconnect=1)
    assert len(names.asked) == 3
    assert isinstance(told[-1], DeniedError)
    assert len([error for error in told if isinstance(error, DeniedError)]) == 1
    assert opened


@pytest.mark.proves("websocket-client, guard", "allowed", "denied", "literal")
def test_the_plain_client_under_a_guard(echo: Echo, trap: Make) -> None:
    trap("127.0.0.3", port=echo.port)
    lines = run_guarded(
        """
        import websocket

        def talk(host):
            ws = websocket.create_connection(f"ws://{host}:{PORT}/")
            ws.send("hello")
            assert ws.recv() == "hello"
            ws.close()

        for host in ("good.test", "bad.test", BAD):
            print(outcome(talk, host))
        """,
        PORT=echo.port,
    )
    assert lines == ["ok", "denied", "denied"]
