"""websockets under rules, against real servers on loopback: 127.0.0.2 is allowed and 127.0.0.3 is not."""

from __future__ import annotations

import asyncio
import os
import pickle
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from websockets.exceptions import WebSocketException
from websockets.sync import client as plain_sync

import netjail
from netjail import Rules, use_rules
from netjail.clients import websockets as jailed
from netjail.clients.websockets import DeniedError, connect, sync_connect
from tests.guard.harness import run_guarded
from tests.servers.daemon import free_port
from tests.servers.names import AsyncNames, Names
from tests.servers.websocket import Echo

Make = Callable[..., Any]
GOOD = Rules(allow=["127.0.0.2"])
OTHER = Rules(allow=["127.0.0.3"])
LOOPBACK = Rules(allow=["127.0.0.0/8"])
SEVENTEEN = hasattr(plain_sync, "reconnect")

pytestmark = [pytest.mark.usefixtures("nothing_left_behind")]


@pytest.fixture(scope="module", autouse=True)
def _warm() -> None:
    """What the standard library keeps open once it was used: a loop's resolver threads and the like."""
    asyncio.run(asyncio.sleep(0))


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


def said_async(uri: str, rules: Rules | None = GOOD, **options: Any) -> Any:
    """What comes back for "hello", from asyncio."""

    async def talk() -> Any:
        async with connect(uri, rules=rules, **{"resolver": AsyncNames(), **options}) as ws:
            await ws.send("hello")
            return await ws.recv()

    return asyncio.run(talk())


def said_sync(uri: str, rules: Rules | None = GOOD, **options: Any) -> Any:
    with sync_connect(uri, rules=rules, **{"resolver": Names(), **options}) as ws:
        ws.send("hello")
        return ws.recv()


def both(*what: str) -> Any:
    """Once for asyncio and once for threads, each with what it proves."""
    return pytest.mark.parametrize(
        "said",
        [
            pytest.param(said_async, id="asyncio", marks=pytest.mark.proves("websockets, async", *what)),
            pytest.param(said_sync, id="threads", marks=pytest.mark.proves("websockets, sync", *what)),
        ],
    )


@both("allowed")
def test_an_allowed_name_talks(echo: Echo, said: Make) -> None:
    assert said(echo.uri(host="good.test")) == "hello"
    assert echo.asked[-1] == ("/", f"good.test:{echo.port}")


@both("denied")
@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_a_denied_name_opens_nothing(echo: Echo, trap: Make, said: Make, scheme: str) -> None:
    trap("127.0.0.3", port=echo.port)
    with pytest.raises(DeniedError) as caught:
        said(f"{scheme}://bad.test:{echo.port}/")
    assert isinstance(caught.value, netjail.DeniedError)
    assert isinstance(caught.value, WebSocketException)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), again.host, again.port) == (DeniedError, "bad.test", echo.port)


@both("literal")
def test_a_literal_is_judged(echo: Echo, trap: Make, said: Make) -> None:
    trap("127.0.0.3", port=echo.port)
    assert said(echo.uri()) == "hello"
    with pytest.raises(DeniedError):
        said(f"ws://127.0.0.3:{echo.port}/")


@both()
def test_of_a_mixed_answer_the_accepted_address_is_dialled(echo: Echo, trap: Make, said: Make) -> None:
    trap("127.0.0.3", port=echo.port)
    assert said(echo.uri(host="mixed.test")) == "hello"
    with pytest.raises(DeniedError):
        said(echo.uri(host="mixed.test"), mixed="refuse")


@both("tls", "wrong-name")
def test_tls_checks_the_name_that_was_asked_for(secure: Echo, client_tls: ssl.SSLContext, said: Make) -> None:
    assert said(secure.uri(host="good.test"), ssl=client_tls) == "hello"
    with pytest.raises(ssl.SSLCertVerificationError, match="wrong"):
        said(secure.uri(host="wrong.test"), ssl=client_tls)
    assert said(secure.uri(host="wrong.test"), ssl=client_tls, server_hostname="good.test") == "hello"


@both("announced")
def test_each_hop_of_a_redirect_is_judged(echo: Echo, other: Echo, trap: Make, said: Make) -> None:
    if said is said_sync and not SEVENTEEN:
        pytest.skip("threads follow redirects from websockets 17 on")
    trap("127.0.0.3", port=echo.port)
    assert said(echo.uri(f"/redirect?to={other.uri(host='good.test')}")) == "hello"
    assert other.asked[-1] == ("/", f"good.test:{other.port}")
    for target in (f"ws://bad.test:{echo.port}/", f"ws://127.0.0.3:{echo.port}/", f"//bad.test:{echo.port}/"):
        with pytest.raises(DeniedError):
            said(echo.uri(f"/redirect?to={target}", host="good.test"))


@pytest.mark.proves("websockets, async", "announced")
@pytest.mark.skipif(SEVENTEEN, reason="of websockets before 17")
def test_threads_before_17_follow_no_redirect(echo: Echo, trap: Make) -> None:
    trap("127.0.0.3", port=echo.port)
    with pytest.raises(WebSocketException):
        said_sync(echo.uri(f"/redirect?to=ws://bad.test:{echo.port}/"))


@both()
def test_the_rules_of_the_context_narrow_and_none_deny(echo: Echo, said: Make) -> None:
    with pytest.raises(DeniedError, match="no rules are in force"):
        said(echo.uri(), None)
    with use_rules(GOOD):
        assert said(echo.uri(), None) == "hello"
        assert said(echo.uri(), LOOPBACK) == "hello"
    with use_rules(OTHER), pytest.raises(DeniedError):
        said(echo.uri(), LOOPBACK)


PROXIES = ("http_proxy", "https_proxy", "all_proxy", "ws_proxy", "wss_proxy", "socks_proxy")


@both()
def test_the_proxies_of_the_environment_are_not_used(
    echo: Echo, trap: Make, monkeypatch: pytest.MonkeyPatch, said: Make
) -> None:
    proxy = trap("127.0.0.2")
    for name in [*PROXIES, *(each.upper() for each in PROXIES if os.name == "posix")]:
        monkeypatch.setenv(name, proxy.url())
    monkeypatch.delenv("no_proxy", raising=False)
    assert said(echo.uri(host="good.test"), LOOPBACK) == "hello"


@both("refused")
@pytest.mark.parametrize(
    "option",
    [{"proxy": "http://127.0.0.2:1"}, {"proxy": True}, {"sock": object()}, {"unix": True, "path": "/run/a.sock"}],
    ids=", ".join,
)
def test_what_would_dial_past_the_rules_is_refused(said: Make, option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(option))}="):
        said("ws://127.0.0.2:1/", **option)


@both("refused")
def test_what_is_changed_on_a_connector_dials_nothing_unjudged(echo: Echo, trap: Make, said: Make) -> None:
    bad = trap("127.0.0.3")
    if said is said_sync:
        if not SEVENTEEN:
            pytest.skip("it has no connector")
        reconnect = jailed.sync_reconnect(echo.uri(), rules=GOOD)
        with pytest.raises(ValueError, match="sock="):
            reconnect.sock = object()
        reconnect.proxy = bad.url()
        with reconnect as ws:
            ws.send("hello")
        return

    async def main() -> None:
        connector: Any = jailed.connect(echo.uri(), rules=GOOD)
        connector.proxy = bad.url()
        async with connector:
            pass
        connector.uri = f"ws://127.0.0.3:{bad.port}/"
        with pytest.raises(DeniedError):
            await connector

    asyncio.run(main())


def test_the_options_of_happy_eyeballs_change_nothing(echo: Echo) -> None:
    assert said_async(echo.uri(host="mixed.test"), happy_eyeballs_delay=0.1, interleave=1) == "hello"


@both()
def test_proxy_none_is_what_it_is_in_websockets(echo: Echo, said: Make) -> None:
    assert said(echo.uri(), proxy=None) == "hello"


@both()
def test_a_uri_and_its_ssl_must_fit(echo: Echo, said: Make, client_tls: ssl.SSLContext) -> None:
    with pytest.raises((ValueError, TypeError), match="ssl"):
        said(echo.uri(), ssl=client_tls)


def test_an_explicit_host_and_port_are_judged_and_the_name_stays(echo: Echo, trap: Make) -> None:
    trap("127.0.0.3", port=echo.port)
    assert said_async("ws://elsewhere.test/", host="good.test", port=echo.port) == "hello"
    assert echo.asked[-1] == ("/", "elsewhere.test")
    with pytest.raises(DeniedError):
        said_async("ws://good.test/", host="bad.test", port=echo.port)


@pytest.mark.skipif(not SEVENTEEN, reason="address= came with websockets 17")
def test_an_explicit_address_is_judged_and_the_name_stays(echo: Echo, trap: Make) -> None:
    trap("127.0.0.3", port=echo.port)
    assert said_sync("ws://elsewhere.test/", address=("good.test", echo.port)) == "hello"
    assert echo.asked[-1] == ("/", "elsewhere.test")
    with pytest.raises(DeniedError):
        said_sync("ws://good.test/", address=("bad.test", echo.port))


@pytest.mark.parametrize("timeout", [None, 5])
def test_a_connect_of_ones_own_gets_what_was_accepted(echo: Echo, timeout: float | None) -> None:
    dialled: list[Any] = []

    def note(address: Any, *, timeout: float | None) -> Any:
        dialled.append((address, timeout is None))
        return netjail.create_connection(address, timeout, rules=GOOD)

    async def note_async(address: Any) -> Any:
        dialled.append((address, True))
        return await netjail.AsyncDialer(GOOD).connect(address)

    assert said_sync(echo.uri(host="good.test"), connect=note, open_timeout=timeout) == "hello"
    assert said_async(echo.uri(host="good.test"), connect=note_async, open_timeout=timeout) == "hello"
    assert dialled == [(("127.0.0.2", echo.port), timeout is None), (("127.0.0.2", echo.port), True)]


def test_awaiting_gives_a_connection(echo: Echo) -> None:
    async def talk() -> Any:
        ws = await connect(echo.uri(host="good.test"), rules=GOOD, resolver=AsyncNames())
        await ws.send("hello")
        answer = await ws.recv()
        await ws.close()
        return answer

    assert asyncio.run(talk()) == "hello"


def no_delay() -> Iterator[float]:
    while True:
        yield 0


RECONNECTING: dict[str, Any] = {"reconnect_delays": no_delay} if SEVENTEEN else {}


@pytest.mark.proves("websockets, async", "announced")
def test_a_loop_that_reconnects_is_judged_each_time_and_ended_by_a_denial(echo: Echo, trap: Make) -> None:
    trap("127.0.0.3", port=echo.port)
    names = AsyncNames({"rebind.test": iter([["127.0.0.2"], ["127.0.0.2"], ["127.0.0.3"]])})

    async def loop() -> int:
        seen = 0
        with pytest.raises(DeniedError):
            async for ws in connect(echo.uri("/drop", host="rebind.test"), rules=GOOD, resolver=names, **RECONNECTING):
                seen += 1
                await ws.wait_closed()
        return seen

    assert asyncio.run(loop()) == 2
    assert len(names.asked) == 3


@pytest.mark.proves("websockets, sync", "announced")
@pytest.mark.skipif(not SEVENTEEN, reason="reconnect came with websockets 17")
def test_threads_that_reconnect_are_judged_each_time_and_ended_by_a_denial(echo: Echo, trap: Make) -> None:
    trap("127.0.0.3", port=echo.port)
    names = Names({"rebind.test": iter([["127.0.0.2"], ["127.0.0.2"], ["127.0.0.3"]])})
    seen = 0
    made = jailed.sync_reconnect(echo.uri("/drop", host="rebind.test"), rules=GOOD, resolver=names, **RECONNECTING)
    with pytest.raises(DeniedError):
        for ws in made:
            seen += 1
            list(ws)  # to its end
    assert (seen, len(names.asked)) == (2, 3)


@pytest.mark.skipif(not SEVENTEEN, reason="legacy= came with websockets 17")
def test_legacy_is_what_it_is_in_websockets(echo: Echo) -> None:
    for legacy in (False, True):
        with sync_connect(echo.uri(), rules=GOOD, legacy=legacy) as ws:
            ws.send("hello")
            assert ws.recv() == "hello"


def test_other_errors_of_a_loop_are_for_process_exception() -> None:
    class EnoughError(Exception):
        pass

    def decide(_error: Exception) -> Exception:
        return EnoughError()

    async def loop() -> None:
        async for _ in connect(f"ws://127.0.0.2:{free_port()}/", rules=GOOD, process_exception=decide):
            pass

    with pytest.raises(EnoughError):
        asyncio.run(loop())


@both()
def test_a_timeout_is_websockets_own(trap: Make, said: Make) -> None:
    """Of a handshake that nobody answers: the listener takes the connection and says nothing."""
    with socket.create_server(("127.0.0.2", 0)) as silent:
        with pytest.raises(TimeoutError):
            said(f"ws://127.0.0.2:{silent.getsockname()[1]}/", open_timeout=0.1)


@pytest.mark.proves("websockets, guard", "allowed", "denied", "literal")
def test_the_plain_clients_under_a_guard(echo: Echo, trap: Make) -> None:
    trap("127.0.0.3", port=echo.port)
    lines = run_guarded(
        """
        import asyncio
        from websockets.asyncio.client import connect as connect_async
        from websockets.sync.client import connect as connect_sync

        async def talk(host):
            async with connect_async(f"ws://{host}:{PORT}/") as ws:
                await ws.send("hello")
                assert await ws.recv() == "hello"

        def talk_sync(host):
            with connect_sync(f"ws://{host}:{PORT}/") as ws:
                ws.send("hello")
                assert ws.recv() == "hello"

        for host in ("good.test", "bad.test", BAD):
            print(outcome(lambda: asyncio.run(talk(host))), outcome(talk_sync, host))
        """,
        PORT=echo.port,
    )
    assert lines == ["ok ok", "denied denied", "denied denied"]
