"""Tornado under rules, against real servers on loopback: 127.0.0.2 is allowed and 127.0.0.3 is not."""

from __future__ import annotations

import asyncio
import pickle
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import tornado.httpclient
from tornado.httpclient import HTTPRequest
from tornado.iostream import StreamClosedError
from tornado.simple_httpclient import HTTPTimeoutError, SimpleAsyncHTTPClient

import netjail
from netjail import Rules, use_rules
from netjail.clients import tornado as jailed
from netjail.clients.tornado import AsyncHTTPClient, DeniedError
from tests.guard.harness import run_guarded
from tests.servers.daemon import free_port
from tests.servers.names import AsyncNames
from tests.servers.site import Site
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
def secure_echo(server_tls: Make) -> Iterator[Echo]:
    with Echo(tls=server_tls("good.test")) as server:
        yield server


@pytest.fixture(scope="module")
def pages() -> Iterator[Site]:
    with Site("127.0.0.2") as server:
        yield server


@pytest.fixture(scope="module")
def secure_pages(server_tls: Make) -> Iterator[Site]:
    with Site("127.0.0.2", tls=server_tls("good.test")) as server:
        yield server


async def fetch(url: str | HTTPRequest, rules: Rules | None = GOOD, *, made: Any = None, **options: Any) -> bytes:
    client = AsyncHTTPClient(rules, **{"resolver": AsyncNames(), **(made or {})})
    try:
        return bytes((await client.fetch(url, **options)).body)
    finally:
        client.close()


def fetched(*args: Any, **options: Any) -> bytes:
    return asyncio.run(fetch(*args, **options))


async def by_tcp(host: str, port: int, rules: Rules | None = GOOD, **options: Any) -> bytes:
    """What a site answers to a client that speaks for itself."""
    client = jailed.TCPClient(rules, resolver=AsyncNames())
    stream = await client.connect(host, port, **options)
    await stream.write(b"GET / HTTP/1.0\r\n\r\n")
    answer = await stream.read_until_close()
    return bytes(answer.rpartition(b"\r\n")[2])


async def by_websocket(host: str, port: int, rules: Rules | None = GOOD, **options: Any) -> bytes:
    given = {name: options.pop(name) for name in ("mixed",) if name in options}
    request = HTTPRequest(f"{'wss' if options else 'ws'}://{host}:{port}/", **options)
    conn = await jailed.websocket_connect(request, rules=rules, resolver=AsyncNames(), **given)
    await conn.write_message("hello")
    answer: Any = await conn.read_message()
    conn.close()
    assert await conn.read_message() is None
    return bytes(answer.encode())


async def by_fetch(host: str, port: int, rules: Rules | None = GOOD, **options: Any) -> bytes:
    return await fetch(f"http{'s' if options else ''}://{host}:{port}/", rules, **options)


def ways(*what: str) -> Any:
    """Once for each client, with what it proves."""
    return pytest.mark.parametrize(
        "way",
        [
            pytest.param(by_fetch, id="AsyncHTTPClient", marks=pytest.mark.proves("tornado, AsyncHTTPClient", *what)),
            pytest.param(by_tcp, id="TCPClient", marks=pytest.mark.proves("tornado, TCPClient", *what)),
            pytest.param(by_websocket, id="websocket_connect", marks=pytest.mark.proves("tornado, websocket", *what)),
        ],
    )


@ways("allowed", "literal", "denied")
def test_an_allowed_name_answers_and_a_denied_one_opens_nothing(pages: Site, echo: Echo, trap: Make, way: Make) -> None:
    port = echo.port if way is by_websocket else pages.port
    trap("127.0.0.3", port=port)
    for host in ("good.test", "127.0.0.2", "mixed.test"):
        assert asyncio.run(way(host, port)) == b"hello"
    for host in ("bad.test", "127.0.0.3"):
        with pytest.raises(DeniedError) as caught:
            asyncio.run(way(host, port))
        assert isinstance(caught.value, netjail.DeniedError)
        assert isinstance(caught.value, StreamClosedError)
        again = pickle.loads(pickle.dumps(caught.value))
        assert (type(again), again.host, again.port) == (DeniedError, host, port)


@ways("tls", "wrong-name")
def test_tls_checks_the_name_that_was_asked_for(
    secure_pages: Site, secure_echo: Echo, client_tls: ssl.SSLContext, way: Make
) -> None:
    port = secure_echo.port if way is by_websocket else secure_pages.port
    given = {"ssl_options": client_tls}
    assert asyncio.run(way("good.test", port, **given)) == b"hello"
    with pytest.raises(ssl.SSLError, match="wrong"):
        asyncio.run(way("wrong.test", port, **given))


@ways()
def test_the_rules_of_the_context_narrow_and_none_deny(pages: Site, echo: Echo, way: Make) -> None:
    port = echo.port if way is by_websocket else pages.port
    with pytest.raises(DeniedError, match="no rules are in force"):
        asyncio.run(way("good.test", port, None))
    with use_rules(GOOD):
        assert asyncio.run(way("good.test", port, None)) == b"hello"
        assert asyncio.run(way("good.test", port, LOOPBACK)) == b"hello"
    with use_rules(OTHER), pytest.raises(DeniedError):
        asyncio.run(way("good.test", port, LOOPBACK))


@pytest.mark.proves("tornado, AsyncHTTPClient", "announced")
def test_each_hop_of_a_redirect_is_judged(pages: Site, site: Make, trap: Make) -> None:
    trap("127.0.0.3", port=pages.port)
    other = site("127.0.0.2", body=b"other")
    assert fetched(pages.url(f"/redirect?to={other.url(host='good.test')}")) == b"other"
    for host in ("bad.test", "127.0.0.3"):
        with pytest.raises(DeniedError):
            fetched(pages.url(f"/redirect?to=http://{host}:{pages.port}/", host="good.test"))


def test_a_websocket_follows_no_redirect(echo: Echo, trap: Make) -> None:
    trap("127.0.0.3", port=echo.port)

    async def connect() -> None:
        uri = echo.uri(f"/redirect?to=ws://bad.test:{echo.port}/")
        await jailed.websocket_connect(uri, rules=GOOD)

    with pytest.raises(tornado.httpclient.HTTPClientError, match="302"):
        asyncio.run(connect())


def test_a_mixed_answer_can_be_refused(pages: Site, echo: Echo, trap: Make) -> None:
    trap("127.0.0.3", port=pages.port)
    trap("127.0.0.3", port=echo.port)
    with pytest.raises(DeniedError):
        fetched(pages.url(host="mixed.test"), made={"mixed": "refuse"})
    with pytest.raises(DeniedError):
        asyncio.run(by_websocket("mixed.test", echo.port, mixed="refuse"))


@pytest.mark.proves("tornado, AsyncHTTPClient", "pools")
def test_a_request_that_waits_for_its_turn_keeps_the_rules_of_its_fetch(pages: Site, trap: Make) -> None:
    """Tornado begins it in the context of the request that ends before it."""
    trap("127.0.0.3", port=pages.port)

    async def turns() -> list[str]:
        client = AsyncHTTPClient(resolver=AsyncNames(), max_clients=1)
        waiting = []
        for host, rules in [("good.test", GOOD), ("bad.test", GOOD), ("good.test", OTHER), ("good.test", GOOD)]:
            with use_rules(rules):
                waiting.append(client.fetch(pages.url(host=host)))
        waiting.append(client.fetch(pages.url()))
        done = await asyncio.gather(*waiting, return_exceptions=True)
        client.close()
        return [type(each).__name__ for each in done]

    answer, denied = "HTTPResponse", "DeniedError"
    assert asyncio.run(turns()) == [answer, denied, denied, answer, denied]


@pytest.mark.proves("tornado, AsyncHTTPClient", "pools")
def test_a_client_is_nobody_elses(pages: Site) -> None:
    """Tornado keeps one for each loop, and gives it to whoever asks next."""

    async def two() -> list[Any]:
        first, second = AsyncHTTPClient(OTHER), AsyncHTTPClient(GOOD)
        try:
            both = first.fetch(pages.url()), second.fetch(pages.url())
            return list(await asyncio.gather(*both, return_exceptions=True))
        finally:
            first.close()
            second.close()

    first, second = asyncio.run(two())
    assert isinstance(first, DeniedError)
    assert second.body == b"hello"


def test_a_hostname_mapping_leads_to_what_is_judged(pages: Site, trap: Make) -> None:
    trap("127.0.0.3", port=pages.port)
    mapping = {"made.test": "good.test", "evil.test": "bad.test"}
    assert fetched(pages.url(host="made.test"), made={"hostname_mapping": mapping}) == b"hello"
    with pytest.raises(DeniedError):
        fetched(pages.url(host="evil.test"), made={"hostname_mapping": mapping})


def test_the_client_on_libcurl_is_not_used(pages: Site) -> None:
    """Not even where the process has it configured."""

    class Other(SimpleAsyncHTTPClient):
        def fetch_impl(self, request: Any, callback: Any) -> None:
            raise AssertionError

    plain = tornado.httpclient.AsyncHTTPClient
    plain.configure(Other, max_clients=3)
    try:
        assert fetched(pages.url()) == b"hello"
    finally:
        plain.configure(None)


@pytest.mark.proves("tornado, AsyncHTTPClient", "refused")
def test_a_request_through_a_proxy_is_refused(trap: Make) -> None:
    proxy = trap("127.0.0.2")
    options = {"proxy_host": "127.0.0.2", "proxy_port": proxy.port}
    with pytest.raises(ValueError, match="proxy_host"):
        fetched(HTTPRequest("http://good.test/", **options))
    with pytest.raises(ValueError, match="proxy_host"):
        fetched("http://good.test/", made={"defaults": options})


@pytest.mark.proves("tornado, websocket", "refused")
def test_a_websocket_through_a_proxy_is_refused() -> None:
    async def connect() -> None:
        request = HTTPRequest("ws://good.test/", proxy_host="127.0.0.2", proxy_port=1)
        await jailed.websocket_connect(request, rules=GOOD)

    with pytest.raises(ValueError, match="proxy_host"):
        asyncio.run(connect())


def test_the_proxies_of_the_environment_are_not_used(pages: Site, trap: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = trap("127.0.0.2")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy.url())
    assert fetched(pages.url(host="good.test"), LOOPBACK) == b"hello"


def test_other_errors_are_tornados_own() -> None:
    with pytest.raises(ConnectionRefusedError):
        fetched(f"http://good.test:{free_port()}/")
    with pytest.raises(socket.gaierror):
        fetched("http://unknown.test/")


def test_a_connect_timeout_covers_the_lookup() -> None:
    class Never(AsyncNames):
        async def lookup(self, host: str, family: int) -> Any:  # type: ignore[override]
            await asyncio.get_running_loop().create_future()

    with pytest.raises(HTTPTimeoutError):
        fetched("http://slow.test/", made={"resolver": Never()}, connect_timeout=0.1)


def test_a_denial_is_raised_with_raise_error_false_too(pages: Site) -> None:
    for url in ("http://bad.test/", pages.url("/redirect?to=http://bad.test/")):
        with pytest.raises(DeniedError):
            fetched(url, raise_error=False)


@pytest.mark.proves("tornado, guard", "allowed", "denied", "literal")
def test_the_plain_clients_under_a_guard(pages: Site, echo: Echo, trap: Make) -> None:
    trap("127.0.0.3", port=pages.port)
    trap("127.0.0.3", port=echo.port)
    lines = run_guarded(
        """
        import asyncio
        from tornado.httpclient import AsyncHTTPClient
        from tornado.websocket import websocket_connect

        async def fetch(host):
            assert (await AsyncHTTPClient().fetch(f"http://{host}:{HTTP}/")).body == b"hello"

        async def talk(host):
            conn = await websocket_connect(f"ws://{host}:{WS}/")
            conn.close()
            await conn.read_message()

        for host in ("good.test", "bad.test", BAD):
            print(*(outcome(lambda: asyncio.run(call(host))) for call in (fetch, talk)))
        """,
        HTTP=pages.port,
        WS=echo.port,
    )
    assert lines == ["ok ok", "denied denied", "denied denied"]
