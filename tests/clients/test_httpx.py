"""httpx and httpx2 under rules: sync, on asyncio and on trio, against real servers on loopback.

127.0.0.2 is allowed and 127.0.0.3 is not, unless a test says otherwise.
"""

from __future__ import annotations

import copy
import gc
import importlib
import pickle
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from types import ModuleType
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trustme

import netjail
from netjail import PUBLIC, Rules, use_rules
from netjail.clients import _anyio
from tests.servers.h2site import H2Site
from tests.servers.names import AsyncNames, Names
from tests.servers.site import BlackHole, Site, Trap

Make = Callable[..., Any]
GOOD = Rules(allow=["127.0.0.2"])
OTHER = Rules(allow=["127.0.0.3"])
LOOPBACK = Rules(allow=["127.0.0.0/8", "::1"])
NAMES = {"good.test": ["127.0.0.2"], "bad.test": ["127.0.0.3"], "mixed.test": ["127.0.0.3", "127.0.0.2"]}

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("nothing_left_behind")]


def proves(*what: str) -> Callable[[Any], Any]:
    """Marks a test that runs in every way of both libraries."""

    def mark(test: Any) -> Any:
        for row in ("httpx, sync", "httpx, async", "httpx2, sync", "httpx2, async"):
            test = pytest.mark.proves(row, *what)(test)
        return test

    return mark


awaited = pytest.mark.parametrize("how", ["asyncio", "trio"], indirect=True)
"""For what can be cancelled or interleaved."""


class Blocking:
    """A sync client, or a response of one, behind the async one's methods."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    async def __aenter__(self) -> Blocking:
        self.inner.__enter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        self.inner.__exit__(*error)

    async def get(self, url: str, **options: Any) -> Any:
        return self.inner.get(url, **options)

    async def post(self, url: str, **options: Any) -> Any:
        return self.inner.post(url, **options)

    async def send(self, request: Any, **options: Any) -> Any:
        return Blocking(self.inner.send(request, **options))

    @asynccontextmanager
    async def stream(self, method: str, url: str, **options: Any) -> AsyncIterator[Any]:
        with self.inner.stream(method, url, **options) as response:
            yield Blocking(response)

    async def aiter_bytes(self) -> AsyncIterator[bytes]:
        for part in self.inner.iter_bytes():
            yield part

    async def aread(self) -> bytes:
        return self.inner.read()  # type: ignore[no-any-return]

    async def aclose(self) -> None:
        self.inner.close()


class Dials:
    """A ``connect=`` that remembers what was dialled, and leads it to ``to`` where that is given."""

    def __init__(self, to: Site | Trap | None = None) -> None:
        self.to = to
        self.addresses: list[str] = []

    def __call__(self, address: tuple[str, int], *, timeout: float | None) -> socket.socket:
        self.addresses.append(address[0])
        return socket.create_connection((self.to.address, self.to.port) if self.to else address, timeout)


class AsyncDials(Dials):
    async def __call__(self, address: tuple[str, int]) -> socket.socket:  # type: ignore[override]
        return super().__call__(address, timeout=5)


class Way:
    """One library used in one way: ``client(rules, ...)`` is a jailed client whose methods are awaited."""

    def __init__(self, library: str, how: str) -> None:
        self.httpx: ModuleType = importlib.import_module(library)
        self.jailed: ModuleType = importlib.import_module(f"netjail.clients.{library}")
        self.sync = how == "sync"
        self.certificate = (
            ".*" if how == "trio" else "certificate"
        )  # httpcore's trio backend keeps the reason to itself
        self.DeniedError: Any = self.jailed.DeniedError
        self.Names = Names if self.sync else AsyncNames
        self.Dials = Dials if self.sync else AsyncDials
        self.Plain = self.httpx.HTTPTransport if self.sync else self.httpx.AsyncHTTPTransport

    def transport(self, rules: Rules | None = None, **options: Any) -> Any:
        options.setdefault("resolver", self.Names(NAMES))
        options.setdefault("verify", False) if "new" not in options else None
        return (self.jailed.Transport if self.sync else self.jailed.AsyncTransport)(rules, **options)

    def client(self, rules: Rules | None = None, *, timeout: Any = 5, **options: Any) -> Any:
        return self.over(self.transport(rules, **options), timeout=timeout)

    def over(self, transport: Any, **options: Any) -> Any:
        if self.sync:
            return Blocking(self.httpx.Client(transport=transport, **options))
        return self.httpx.AsyncClient(transport=transport, **options)

    def plain(self, **options: Any) -> Any:
        return self.over(self.Plain(**options))

    async def close_idle(self, client: Any) -> None:
        closing = client._transport.close_idle_connections()
        if not self.sync:
            await closing

    def body(self, parts: list[bytes]) -> Any:
        async def awaited() -> AsyncIterator[bytes]:
            for part in parts:
                yield part

        return iter(parts) if self.sync else awaited()


@pytest.fixture(autouse=True, scope="module")
def trio_keeps_no_thread() -> Iterator[None]:
    """It would for ten seconds, which looks like one that was left behind."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trio._core._thread_cache.IDLE_TIMEOUT", 0.01)
        yield


@pytest.fixture(params=["httpx", "httpx2"])
def library(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["sync", "asyncio", "trio"])
def how(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def anyio_backend(how: str) -> str:
    return "trio" if how == "trio" else "asyncio"


@pytest.fixture
def way(library: str, how: str) -> Way:
    return Way(library, how)


@pytest.fixture
def h2site(server_tls: Make) -> Iterator[Make]:
    made: list[H2Site] = []

    def make(address: str, *names: str) -> H2Site:
        made.append(H2Site(address, tls=server_tls(*names, alpn=["h2"])))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def black_hole() -> Iterator[Make]:
    """Makes listeners that do not answer, and gives their ports."""
    with ExitStack() as stack:
        yield lambda address: stack.enter_context(BlackHole(address)).port


# What is allowed works as it does with the plain transport.


@proves("allowed")
async def test_a_name_is_fetched_and_its_connection_is_kept(site: Make, way: Way) -> None:
    server = site("127.0.0.2")
    async with way.client(GOOD) as client:
        for _ in range(3):
            assert (await client.get(server.url(host="good.test"))).text == "hello"
    assert server.accepted == 1
    assert server.seen[0].headers["Host"] == f"good.test:{server.port}"


@awaited
async def test_http2_multiplexes_on_one_connection(h2site: Make, way: Way, client_tls: ssl.SSLContext) -> None:
    server = h2site("127.0.0.2", "good.test")
    async with way.client(GOOD, http2=True, verify=client_tls) as client:
        url = server.url("/hold", host="good.test")
        first = await client.send(client.build_request("GET", url), stream=True)
        others = [await client.get(server.url("/", host="good.test")) for _ in range(5)]
        server.release()
        assert await first.aread() == b"xold"
    assert {each.http_version for each in others} == {"HTTP/2"}
    assert server.accepted == 1
    assert server.seen[0].headers[":authority"] == f"good.test:{server.port}"


async def test_http2_streams_up_and_down(h2site: Make, way: Way, client_tls: ssl.SSLContext) -> None:
    server = h2site("127.0.0.2", "good.test")
    async with way.client(GOOD, http2=True, verify=client_tls) as client:
        up = await client.post(server.url("/echo", host="good.test"), content=way.body([b"a" * 70000, b"b" * 70000]))
        async with client.stream("GET", server.url("/stream?n=300", host="good.test")) as response:
            down = b"".join([part async for part in response.aiter_bytes()])
    assert up.content == b"a" * 70000 + b"b" * 70000
    assert down == b"x" * 300_000
    assert server.accepted == 1


async def test_bodies_stream_up_and_down(site: Make, way: Way) -> None:
    server = site("127.0.0.2")
    async with way.client(GOOD) as client:
        await client.post(server.url("/", host="good.test"), content=way.body([b"one", b"two"]))
        async with client.stream("GET", server.url("/stream?n=50", host="good.test")) as response:
            parts = [part async for part in response.aiter_bytes()]
    assert server.seen[0].body == b"onetwo"
    assert b"".join(parts) == b"x" * 50_000
    assert server.accepted == 1


async def test_the_transport_alone_gives_a_stream_that_may_outlive_its_response(site: Make, way: Way) -> None:
    """Iterating keeps the transport alive, though the table has let go of it and nobody holds the response."""
    server = site("127.0.0.2")
    transport = way.transport(resolver=None, max_idle_transports=1)
    request = way.httpx.Request("GET", server.url("/stream?n=50"))
    with use_rules(GOOD):
        if way.sync:
            parts = iter(transport.handle_request(request).stream)
            first = next(parts)
        else:
            parts = (await transport.handle_async_request(request)).stream.__aiter__()
            first = await anext(parts)
    with pytest.raises(way.DeniedError) as denied:
        if way.sync:
            transport.handle_request(request)
        else:
            await transport.handle_async_request(request)
    assert denied.value.request is request
    gc.collect()
    rest = b"".join(parts) if way.sync else b"".join([part async for part in parts])
    assert first + rest == b"x" * 50_000
    del parts
    if way.sync:
        transport.close()
    else:
        await transport.aclose()


@pytest.mark.parametrize("code", [301, 302, 307])
async def test_a_redirect_is_followed_to_where_the_rules_lead(site: Make, way: Way, code: int) -> None:
    server = site("127.0.0.2")
    async with way.client(GOOD) as client:
        to = server.url("/echo", host="good.test")
        response = await client.get(server.url(f"/redirect?code={code}&to={to}"), follow_redirects=True)
    assert response.json()["headers"]["Host"] == f"good.test:{server.port}"


async def test_cookies_and_auth_are_the_clients_own(site: Make, way: Way) -> None:
    server = site("127.0.0.2")
    async with way.client(GOOD) as client:
        await client.get(server.url("/cookie?a=b"))
        echo = await client.get(server.url("/echo"), auth=("user", "secret"))
    assert echo.json()["headers"]["Cookie"] == "a=b"
    assert echo.json()["headers"]["Authorization"].startswith("Basic ")


async def test_local_address_and_socket_options_reach_the_socket(site: Make, way: Way) -> None:
    server = site("127.0.0.2")
    options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    async with way.client(GOOD, local_address="127.0.0.9", socket_options=options) as client:
        async with client.stream("GET", server.url(host="good.test")) as response:
            stream = response.extensions["network_stream"]
            assert stream.get_extra_info("client_addr")[0] == "127.0.0.9"
            assert stream.get_extra_info("server_addr")[0] == "127.0.0.2"
            sock = stream.get_extra_info("socket")
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_a_wrong_socket_option_fails_the_connect_and_leaves_no_socket(site: Make, way: Way) -> None:
    server = site("127.0.0.2")
    async with way.client(GOOD, socket_options=[(socket.SOL_SOCKET, 9999, 1)]) as client:
        with pytest.raises(way.httpx.ConnectError):
            await client.get(server.url())


async def test_a_dead_first_address_does_not_keep_the_second_waiting_for_the_timeout(
    site: Make, way: Way, black_hole: Make
) -> None:
    port = black_hole("127.0.0.4")
    server = site("127.0.0.2", port=port)
    names = way.Names({"half.test": ["127.0.0.4", "127.0.0.2"]})
    async with way.client(LOOPBACK, resolver=names, timeout=60) as client:
        assert (await client.get(server.url(host="half.test"))).text == "hello"


@pytest.mark.parametrize("answer", [["127.0.0.8"], ["127.0.0.8", "127.0.0.7"]])
async def test_a_failed_connect_says_no_more_than_the_plain_clients(way: Way, answer: list[str]) -> None:
    """On asyncio it is asyncio's own error, which names the address that refused."""
    async with way.client(LOOPBACK, resolver=way.Names({"x.test": answer})) as client:
        with pytest.raises(way.httpx.ConnectError) as caught:
            await client.get("http://x.test:9/")
    assert "127.0.0." not in str(caught.value)


async def test_a_refusing_first_address_gives_way_to_the_second(site: Make, way: Way) -> None:
    server = site("127.0.0.2")
    names = way.Names({"half.test": ["127.0.0.4", "::1", "127.0.0.2"]})
    async with way.client(LOOPBACK, resolver=names) as client:
        assert (await client.get(server.url(host="half.test"))).text == "hello"


async def test_a_public_ipv6_literal_is_dialled_as_it_is(site: Make, way: Way) -> None:
    dials = way.Dials(site("127.0.0.2"))
    async with way.client(PUBLIC, connect=dials) as client:
        response = await client.get("http://[2606:4700:4700::1111]:8080/echo")
    assert dials.addresses == ["2606:4700:4700::1111"]
    assert response.json()["headers"]["Host"] == "[2606:4700:4700::1111]:8080"


async def test_an_ipv6_url_reaches_its_server(site: Make, way: Way) -> None:
    server = site("::1")
    async with way.client(LOOPBACK) as client:
        assert (await client.get(server.url())).text == "hello"
    with pytest.raises(way.DeniedError):
        async with way.client(GOOD) as client:
            await client.get(server.url())
    assert server.accepted == 1


async def test_connect_may_give_what_is_not_tcp(way: Way) -> None:
    """As Go's dial function may give any net.Conn."""
    ours, theirs = socket.socketpair()

    def answer() -> None:
        theirs.recv(65536)
        theirs.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")

    def connect(address: tuple[str, int], *, timeout: float | None) -> socket.socket:
        return ours

    async def awaited_connect(address: tuple[str, int]) -> socket.socket:
        return ours

    thread = threading.Thread(target=answer)
    thread.start()
    async with way.client(GOOD, connect=connect if way.sync else awaited_connect) as client:
        assert (await client.get("http://good.test/")).text == "hi"
    thread.join()
    theirs.close()


async def test_plain_errors_stay_the_plain_transports(site: Make, way: Way) -> None:
    with socket.create_server(("127.0.0.2", 0)) as listener:
        port = listener.getsockname()[1]
    async with way.client(LOOPBACK) as client:
        with pytest.raises(way.httpx.ConnectError) as refused:
            await client.get(f"http://127.0.0.2:{port}/")
        with pytest.raises(way.httpx.ConnectError):
            await client.get("http://nowhere.test/")
        with pytest.raises(way.httpx.UnsupportedProtocol):
            await client.get("ftp://good.test/")
    async with way.plain(verify=False) as client:
        with pytest.raises(way.httpx.ConnectError) as plain:
            await client.get(f"http://127.0.0.2:{port}/")
    assert str(refused.value) == str(plain.value)
    assert refused.value.request.url.port == port


# What is denied.


async def test_four_fetches_of_one_url_follow_the_context(site: Make, way: Way) -> None:
    server = site("127.0.0.2")
    async with way.client() as client:
        url = server.url(host="good.test")
        with use_rules(GOOD):
            assert (await client.get(url)).text == "hello"
        with use_rules(OTHER), pytest.raises(way.DeniedError):
            await client.get(url)
        with use_rules(GOOD):
            assert (await client.get(url)).text == "hello"
        with pytest.raises(way.DeniedError):
            await client.get(url)
    assert server.accepted == 1
    assert len(server.seen) == 2


@proves("denied")
async def test_a_denial_is_the_librarys_error_and_netjails(trap: Make, way: Way) -> None:
    forbidden = trap("127.0.0.3")
    async with way.client(GOOD) as client:
        with pytest.raises(way.DeniedError) as caught:
            await client.get(forbidden.url("/x", host="bad.test"))
    error: Any = caught.value
    assert isinstance(error, netjail.DeniedError)
    assert isinstance(error, PermissionError)
    assert isinstance(error, way.httpx.TransportError)
    assert not isinstance(error, way.httpx.ConnectError)
    assert (error.host, error.port) == ("bad.test", forbidden.port)
    assert error.request.url.host == "bad.test"
    assert "127.0.0.3" not in str(error)
    assert [str(each.address) for each in error.decisions] == ["127.0.0.3"]
    assert netjail.find_denied(error) is error
    assert type(error).__module__ == way.jailed.__name__


async def test_a_denial_can_be_pickled_and_copied_with_its_request(way: Way) -> None:
    async with way.client(GOOD) as client:
        with pytest.raises(way.DeniedError) as caught:
            await client.get("http://bad.test/x")
    for again in (pickle.loads(pickle.dumps(caught.value)), copy.copy(caught.value)):
        assert type(again) is type(caught.value)
        assert str(again) == str(caught.value)
        assert (again.host, again.port, again.errno) == ("bad.test", 80, 13)
        assert again.request.url == "http://bad.test/x"


def test_a_denial_without_a_request_says_so_as_every_error_of_the_library_does(library: str) -> None:
    error = Way(library, "sync").DeniedError("bad.test", 80)
    with pytest.raises(RuntimeError, match="request"):
        _ = error.request


async def test_empty_rules_ask_no_resolver(way: Way, trap: Make) -> None:
    names = way.Names(NAMES)
    dials = way.Dials()
    for rules in (None, Rules()):
        async with way.client(rules, resolver=names, connect=dials) as client:
            for host in ("good.test", "127.0.0.2"):
                with pytest.raises(way.DeniedError):
                    await client.get(trap("127.0.0.2").url(host=host))
    assert names.asked == []
    assert dials.addresses == []


async def test_rules_without_ipv6_ask_for_ipv4_alone(site: Make, way: Way) -> None:
    names = way.Names(NAMES)
    server = site("127.0.0.2")
    async with way.client(GOOD, resolver=names) as client:
        await client.get(server.url(host="good.test"))
    assert names.asked == [("good.test", socket.AF_INET)]


async def test_a_denial_is_looked_up_once_and_never_retried(way: Way, trap: Make) -> None:
    names = way.Names(NAMES)
    async with way.client(GOOD, resolver=names, retries=3) as client:
        with pytest.raises(way.DeniedError):
            await client.get(trap("127.0.0.3").url(host="bad.test"))
    assert len(names.asked) == 1


async def test_a_failed_connect_is_retried_and_judged_again(site: Make, way: Way) -> None:
    server = site("127.0.0.2")
    names = way.Names({"turns.test": iter([["127.0.0.4"], ["127.0.0.2"]])})
    async with way.client(LOOPBACK, resolver=names, retries=1) as client:
        assert (await client.get(server.url(host="turns.test"))).text == "hello"
    assert len(names.asked) == 2
    names = way.Names({"turns.test": iter([["127.0.0.2"], ["127.0.0.3"]])})
    with socket.create_server(("127.0.0.2", 0)) as listener:
        port = listener.getsockname()[1]
    async with way.client(GOOD, resolver=names, retries=5) as client:
        with pytest.raises(way.DeniedError):
            await client.get(f"http://turns.test:{port}/")
    assert len(names.asked) == 2


async def test_a_denial_frees_the_only_place_in_the_pool(site: Make, trap: Make, way: Way) -> None:
    server, forbidden = site("127.0.0.2"), trap("127.0.0.3")
    limits = way.httpx.Limits(max_connections=1)
    async with way.client(GOOD, limits=limits, timeout=10) as client:
        for _ in range(3):
            with pytest.raises(way.DeniedError):
                await client.get(forbidden.url(host="bad.test"))
            assert (await client.get(server.url(host="good.test"))).text == "hello"
        (transport,) = client._transport._transports._made
        assert len(transport._pool.connections) == 1
    assert server.accepted <= 3


@proves("announced", "literal")
@pytest.mark.parametrize("target", ["bad.test", "127.0.0.3", "[::ffff:127.0.0.3]"])
async def test_a_redirect_to_inside_is_denied_at_its_hop(site: Make, trap: Make, way: Way, target: str) -> None:
    server, forbidden = site("127.0.0.2"), trap("127.0.0.3")
    to = forbidden.url("/secret", host=target)
    async with way.client(GOOD) as client:
        with pytest.raises(way.DeniedError) as caught:
            await client.get(server.url(f"/redirect?to={to}", host="good.test"), follow_redirects=True)
    assert caught.value.request.url == to
    assert len(server.seen) == 1


async def test_of_a_mixed_answer_only_what_is_accepted_is_dialled(site: Make, trap: Make, way: Way) -> None:
    server = site("127.0.0.2")
    trap("127.0.0.3", port=server.port)
    async with way.client(GOOD) as client:
        assert (await client.get(server.url(host="mixed.test"))).text == "hello"
    async with way.client(GOOD, mixed="refuse") as client:
        with pytest.raises(way.DeniedError):
            await client.get(server.url(host="mixed.test"))
    assert server.accepted == 1


async def test_a_name_that_rebinds_is_judged_at_each_connect(site: Make, trap: Make, way: Way) -> None:
    server = site("127.0.0.2")
    trap("127.0.0.3", port=server.port)
    names = way.Names({"rebind.test": iter([["127.0.0.2"], ["127.0.0.3"]])})
    async with way.client(GOOD, resolver=names) as client:
        await client.get(server.url("/close", host="rebind.test"))
        with pytest.raises(way.DeniedError):
            await client.get(server.url(host="rebind.test"))
    assert len(names.asked) == 2


async def test_rules_of_the_transport_and_of_the_context_must_both_accept(site: Make, trap: Make, way: Way) -> None:
    server, forbidden = site("127.0.0.2"), trap("127.0.0.3")
    async with way.client(GOOD) as client:
        with use_rules(LOOPBACK):
            assert (await client.get(server.url(host="good.test"))).text == "hello"
            with pytest.raises(way.DeniedError):
                await client.get(forbidden.url(host="bad.test"))
        with use_rules(OTHER):
            for server_or_trap, host in ((server, "good.test"), (forbidden, "bad.test")):
                with pytest.raises(way.DeniedError):
                    await client.get(server_or_trap.url(host=host))


@pytest.mark.parametrize(
    "spelling", ["2130706433", "127.1", "0x7f.1", "017700000001", "①②⑦.⓪.⓪.①", "0", "[::ffff:7f00:1]", "[::]"]
)
async def test_an_odd_spelling_is_judged_by_where_it_lands(way: Way, site: Make, spelling: str) -> None:
    server = site("127.0.0.1")
    async with way.client(GOOD, resolver=Direct() if way.sync else AsyncDirect()) as client:
        try:
            await client.get(server.url(host=spelling))
        except way.DeniedError:
            pass
        except way.httpx.InvalidURL:
            pass  # httpx has refused the URL itself
        else:
            pytest.fail("it was not denied")
    assert server.accepted == 0


class Direct:
    """The system's resolver, asked in this thread."""

    def lookup(self, host: str, family: int) -> list[str]:
        return [str(sockaddr[0]) for *_, sockaddr in socket.getaddrinfo(host, None, family, socket.SOCK_STREAM)]


class AsyncDirect(Direct):
    async def lookup(self, host: str, family: int) -> list[str]:  # type: ignore[override]
        return super().lookup(host, family)


@pytest.mark.parametrize("name", ["x" * 64 + ".test", "nul\0.test", "nowhere.invalid"])
@awaited
async def test_the_systems_resolver_says_what_does_not_resolve(how: str, name: str) -> None:
    with pytest.raises(socket.gaierror):
        await _anyio.SystemResolver().lookup(name, socket.AF_INET)


async def test_names_of_the_system_resolve(site: Make, way: Way) -> None:
    server = site("127.0.0.1")
    async with way.client(LOOPBACK, resolver=None) as client:
        assert (await client.get(server.url(host="localhost"))).text == "hello"
        with pytest.raises(way.DeniedError), use_rules(GOOD):
            await client.get(server.url(host="localhost"))
    assert server.accepted == 1


# Connections belong to the rules that they were judged under.


@proves("pools")
async def test_rules_b_never_ride_on_a_connection_of_rules_a(site: Make, way: Way) -> None:
    server = site("127.0.0.2")
    sets = [Rules(allow=["127.0.0.2", f"10.0.{n}.0/24"]) for n in range(20)]
    used: dict[int, set[int]] = {}

    async def fetch(client: Any, number: int) -> None:
        with use_rules(sets[number]):
            response = await client.get(server.url(host="good.test"))
        used.setdefault(number, set()).add(int(response.headers["X-Connection"]))

    async with way.client() as client:
        if way.sync:
            for number in range(60):
                await fetch(client, number % 20)
        else:
            async with anyio.create_task_group() as group:
                for number in range(60):
                    group.start_soon(fetch, client, number % 20)
    every = [connection for each in used.values() for connection in each]
    assert len(every) == len(set(every))
    assert len(used) == 20


def test_threads_with_rules_of_their_own_share_no_connection(site: Make, library: str) -> None:
    way = Way(library, "sync")
    server = site("127.0.0.2")
    sets = [Rules(allow=["127.0.0.2", f"10.0.{n}.0/24"]) for n in range(8)]
    used: list[set[int]] = [set() for _ in sets]
    client = way.client(max_idle_transports=4).inner

    def work(number: int) -> None:
        with use_rules(sets[number]):
            for _ in range(30):
                used[number].add(int(client.get(server.url(host="good.test")).headers["X-Connection"]))
        with pytest.raises(way.DeniedError):
            client.get(server.url(host="good.test"))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(sets))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    client.close()
    every = [connection for each in used for connection in each]
    assert len(every) == len(set(every))
    assert all(used)


@awaited
async def test_http2_under_two_rules_needs_two_connections(h2site: Make, way: Way, client_tls: ssl.SSLContext) -> None:
    server = h2site("127.0.0.2", "good.test")
    answers: dict[int, set[str]] = {0: set(), 1: set()}

    async def fetch(client: Any, number: int) -> None:
        with use_rules((GOOD, LOOPBACK)[number]):
            response = await client.get(server.url(host="good.test"))
        answers[number].add(response.headers["x-connection"])

    async with way.client(http2=True, verify=client_tls) as client:
        for _ in range(2):
            async with anyio.create_task_group() as group:
                for number in range(20):
                    group.start_soon(fetch, client, number % 2)
        with use_rules(OTHER), pytest.raises(way.DeniedError):
            await client.get(server.url(host="good.test"))
    assert not answers[0] & answers[1]
    assert server.accepted == 2


@awaited
async def test_concurrent_http2_requests_to_a_denied_name_are_each_denied(
    way: Way, trap: Make, client_tls: ssl.SSLContext
) -> None:
    url = trap("127.0.0.3").url(host="bad.test").replace("http:", "https:")
    denied = []

    async def fetch(client: Any) -> None:
        with pytest.raises(way.DeniedError) as caught:
            await client.get(url)
        denied.append(caught.value)

    async with way.client(GOOD, http2=True, verify=client_tls) as client:
        async with anyio.create_task_group() as group:
            for _ in range(10):
                group.start_soon(fetch, client)
    assert len({id(each) for each in denied}) == 10


# TLS checks the name; the rules judge the address.


@proves("tls", "wrong-name")
async def test_tls_checks_the_name_that_was_asked_for(
    site: Make, way: Way, server_tls: Make, client_tls: ssl.SSLContext
) -> None:
    """Also when another name on the same address is connected already."""
    server = site("127.0.0.2", tls=server_tls("good.test"))
    names = way.Names({"good.test": ["127.0.0.2"], "wrong.test": ["127.0.0.2"]})
    async with way.client(GOOD, resolver=names, verify=client_tls) as client:
        with pytest.raises(way.httpx.ConnectError, match=way.certificate):
            await client.get(server.url(host="wrong.test"))
        assert (await client.get(server.url(host="good.test"))).text == "hello"
        with pytest.raises(way.httpx.ConnectError, match=way.certificate):
            await client.get(server.url(host="wrong.test"))
        with pytest.raises(way.httpx.ConnectError, match=way.certificate):
            await client.get(server.url())
    assert len(server.seen) == 1


async def test_http2_checks_the_name_on_a_shared_address_too(
    h2site: Make, way: Way, client_tls: ssl.SSLContext
) -> None:
    server = h2site("127.0.0.2", "good.test")
    names = way.Names({"good.test": ["127.0.0.2"], "wrong.test": ["127.0.0.2"]})
    async with way.client(GOOD, resolver=names, verify=client_tls, http2=True) as client:
        assert (await client.get(server.url(host="good.test"))).http_version == "HTTP/2"
        with pytest.raises(way.httpx.ConnectError, match=way.certificate):
            await client.get(server.url(host="wrong.test"))
    assert len(server.seen) == 1


async def test_an_unknown_authority_is_not_trusted(site: Make, way: Way, server_tls: Make) -> None:
    server = site("127.0.0.2", tls=server_tls("good.test"))
    async with way.client(GOOD, verify=True) as client:
        with pytest.raises(way.httpx.ConnectError, match=way.certificate):
            await client.get(server.url(host="good.test"))
    assert server.seen == []


async def test_a_client_certificate_is_shown(
    site: Make, way: Way, server_tls: Make, client_tls: ssl.SSLContext, ca: trustme.CA
) -> None:
    wants = server_tls("good.test")
    wants.verify_mode = ssl.CERT_REQUIRED
    ca.configure_trust(wants)
    server = site("127.0.0.2", tls=wants)
    async with way.client(GOOD, verify=client_tls) as client:
        with pytest.raises((way.httpx.NetworkError, way.httpx.RemoteProtocolError, ssl.SSLError)):
            await client.get(server.url(host="good.test"))  # httpcore lets the SSLError through on asyncio
    ca.issue_cert("client@netjail.test").configure_cert(client_tls)
    async with way.client(GOOD, verify=client_tls) as client:
        assert (await client.get(server.url(host="good.test"))).text == "hello"


async def test_the_name_in_the_handshake_may_be_given(
    site: Make, way: Way, server_tls: Make, client_tls: ssl.SSLContext
) -> None:
    asked: list[str | None] = []
    tls = server_tls("front.test")
    tls.sni_callback = lambda sock, name, context: asked.append(name)
    server = site("127.0.0.2", tls=tls)
    async with way.client(GOOD, verify=client_tls) as client:
        extensions = {"sni_hostname": "front.test"}
        response = await client.get(server.url("/echo", host="good.test"), extensions=extensions)
    assert asked == ["front.test"]
    assert response.json()["headers"]["Host"] == f"good.test:{server.port}"


def test_one_ssl_context_serves_every_rule_set(library: str, how: str) -> None:
    way = Way(library, how)
    transport = way.transport(verify=True)
    if how == "sync":
        made = [transport._transports.get((Rules(allow=[f"10.0.0.{n}"]),)) for n in range(3)]
        assert len({each._pool._ssl_context for each in made}) == 1
        assert made[0]._pool._ssl_context.verify_mode == ssl.CERT_REQUIRED


# Timeouts, cancellation and limits.


async def test_the_connect_timeout_is_httpxs_own(way: Way, black_hole: Make) -> None:
    port = black_hole("127.0.0.2")
    timeout = way.httpx.Timeout(30, connect=0.2)
    names = way.Names({"one.test": ["127.0.0.2"], "two.test": ["127.0.0.2", "127.0.0.2", "127.0.0.4"]})
    black_hole_too = black_hole("127.0.0.4")
    async with way.client(LOOPBACK, resolver=names, timeout=timeout) as client:
        for url in (f"http://127.0.0.2:{port}/", f"http://one.test:{port}/", f"http://127.0.0.4:{black_hole_too}/"):
            with pytest.raises(way.httpx.ConnectTimeout):
                await client.get(url)


async def test_the_connect_timeout_covers_a_race(way: Way) -> None:
    """Every address of the name hangs; the one deadline ends them all."""
    over = threading.Event()

    def hang(address: tuple[str, int], *, timeout: float | None) -> socket.socket:
        over.wait(timeout)
        raise TimeoutError("timed out")

    async def hang_awaited(address: tuple[str, int]) -> socket.socket:
        await anyio.sleep_forever()
        raise AssertionError

    names = way.Names({"many.test": ["127.0.0.2", "::1", "127.0.0.4"]})
    timeout = way.httpx.Timeout(30, connect=0.4)
    async with way.client(
        LOOPBACK, resolver=names, connect=hang if way.sync else hang_awaited, timeout=timeout
    ) as client:
        with pytest.raises(way.httpx.ConnectTimeout):
            await client.get("http://many.test/")
    over.set()


async def test_the_connect_timeout_covers_the_lookup(way: Way) -> None:
    over = threading.Event()

    class Slow:
        def lookup(self, host: str, family: int) -> list[str]:
            over.wait()
            return ["127.0.0.2"]

    class AsyncSlow:
        async def lookup(self, host: str, family: int) -> list[str]:
            await anyio.sleep_forever()
            raise AssertionError

    timeout = way.httpx.Timeout(30, connect=0.2)
    async with way.client(GOOD, resolver=Slow() if way.sync else AsyncSlow(), timeout=timeout) as client:
        with pytest.raises(way.httpx.ConnectTimeout):
            await client.get("http://good.test/")
    over.set()


async def test_the_read_timeout_is_httpxs_own(site: Make, way: Way) -> None:
    server = site("127.0.0.2")
    async with way.client(GOOD, timeout=way.httpx.Timeout(30, read=0.2)) as client:
        with pytest.raises(way.httpx.ReadTimeout):
            await client.get(server.url("/stall", host="good.test"))
        assert (await client.get(server.url(host="good.test"))).text == "hello"


@pytest.mark.filterwarnings("ignore:Async generator 'httpx._content:ResourceWarning")  # the plain one leaves it too
@pytest.mark.filterwarnings("ignore:Exception ignored in. <async_generator:pytest.PytestUnraisableExceptionWarning")
async def test_the_write_timeout_is_httpxs_own(way: Way) -> None:
    with socket.create_server(("127.0.0.2", 0)) as listener:
        url = f"http://127.0.0.2:{listener.getsockname()[1]}/"
        async with way.client(GOOD, timeout=way.httpx.Timeout(30, write=0.2)) as client:
            with pytest.raises(way.httpx.WriteTimeout):
                await client.post(url, content=b"x" * 50_000_000)


async def test_the_pool_timeout_is_httpxs_own_and_counts_for_each_rule_set(site: Make, way: Way) -> None:
    server = site("127.0.0.2")
    limits = way.httpx.Limits(max_connections=1)
    url = server.url(host="good.test")
    async with way.client(limits=limits, timeout=way.httpx.Timeout(30, pool=0.2)) as client:
        with use_rules(GOOD):
            async with client.stream("GET", server.url("/stream?n=1000", host="good.test")):
                with pytest.raises(way.httpx.PoolTimeout):
                    await client.get(url)
                with use_rules(LOOPBACK):
                    assert (await client.get(url)).text == "hello"
            assert (await client.get(url)).text == "hello"


@pytest.mark.parametrize("stage", ["lookup", "connect", "race", "response", "body"])
@awaited
async def test_a_cancelled_request_leaves_the_transport_usable(site: Make, way: Way, stage: str) -> None:
    server = site("127.0.0.2")
    begun = anyio.Event()

    class Resolver:
        async def lookup(self, host: str, family: int) -> list[str]:
            if stage == "lookup" and host == "hangs.test":
                begun.set()
                await anyio.sleep_forever()
            return ["127.0.0.2", "127.0.0.4"] if stage == "race" else ["127.0.0.2"]

    async def connect(address: tuple[str, int]) -> socket.socket:
        if stage in ("connect", "race") and not begun.is_set():
            if stage == "connect" or address[0] == "127.0.0.4":
                begun.set()
            await anyio.sleep_forever()
        return socket.create_connection(("127.0.0.2", address[1]), 5)

    async def fetch(client: Any) -> None:
        path = "/stall" if stage in ("response", "body") else "/"
        async with client.stream("GET", server.url(path, host="hangs.test")) as response:
            begun.set()
            await response.aread()

    limits = way.httpx.Limits(max_connections=1)
    async with way.client(LOOPBACK, resolver=Resolver(), connect=connect, limits=limits) as client:
        async with anyio.create_task_group() as group:
            group.start_soon(fetch, client)
            await begun.wait()
            group.cancel_scope.cancel()
        assert (await client.get(server.url(host="fine.test"))).text == "hello"


@awaited
async def test_a_connection_that_stands_too_late_is_closed(site: Make, way: Way) -> None:
    """Two attempts succeed at once: one is used, the other leaves no descriptor."""
    server = site("127.0.0.2")
    both = anyio.Event()
    waiting = 0

    async def connect(address: tuple[str, int]) -> socket.socket:
        nonlocal waiting
        waiting += 1
        if waiting == 2:
            both.set()
        with anyio.CancelScope(shield=True):
            await both.wait()
        return socket.create_connection(("127.0.0.2", server.port), 5)

    names = AsyncNames({"two.test": ["127.0.0.2", "127.0.0.4"]})
    async with way.client(LOOPBACK, resolver=names, connect=connect) as client:
        assert (await client.get(server.url(host="two.test"))).text == "hello"
    assert waiting == 2
    assert len(server.seen) == 1


# The least recently used transport is let go, and closed with its last response.


class Ends:
    """Counts, by waiting, the connections of a raw server whose client has gone."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.2", 0))
        self.port = self.listener.getsockname()[1]
        self.gone = threading.Semaphore(0)
        self.rest = threading.Event()
        self.threads: list[threading.Thread] = []
        self._begin(self._accept)

    def _begin(self, work: Callable[..., None], *arguments: Any) -> None:
        self.threads.append(threading.Thread(target=work, args=arguments))
        self.threads[-1].start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            self._begin(self._serve, sock)

    def _serve(self, sock: socket.socket) -> None:
        with sock:
            try:
                while request := sock.recv(65536):
                    sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n")
                    if b"/held" in request:
                        sock.sendall(b"half")
                        self.rest.wait()
                        sock.sendall(b"rest")
                    else:
                        sock.sendall(b"complete")
            except OSError:
                pass
        self.gone.release()

    async def has_lost_one(self) -> bool:
        """Waits in a thread: the loop that closes a transport goes on meanwhile."""
        return await anyio.to_thread.run_sync(self.gone.acquire, True, 5)

    def close(self) -> None:
        self.rest.set()
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for thread in self.threads:
            thread.join()


@pytest.fixture
def ends() -> Iterator[Ends]:
    made = Ends()
    yield made
    made.close()


A, B, C = (Rules(allow=["127.0.0.2", f"10.0.0.{n}"]) for n in range(3))


async def held(client: Any, url: str, rules: Rules) -> Any:
    with use_rules(rules):
        return await client.send(client.build_request("GET", url), stream=True)


async def test_an_idle_transport_that_is_let_go_is_closed(ends: Ends, way: Way) -> None:
    async with way.client(max_idle_transports=1) as client:
        for rules in (A, B, C):
            with use_rules(rules):
                assert (await client.get(f"http://127.0.0.2:{ends.port}/")).text == "complete"
        assert await ends.has_lost_one()
        assert await ends.has_lost_one()
        assert not ends.gone.acquire(blocking=False)


async def test_a_transport_with_a_response_in_flight_is_closed_with_it(ends: Ends, way: Way) -> None:
    async with way.client(max_idle_transports=1) as client:
        response = await held(client, f"http://127.0.0.2:{ends.port}/held", A)
        with use_rules(B):
            await client.get(f"http://127.0.0.2:{ends.port}/")
        assert not ends.gone.acquire(blocking=False)
        ends.rest.set()
        assert await response.aread() == b"halfrest"
        assert await ends.has_lost_one()
        await response.aclose()


async def test_the_last_of_several_responses_closes_it(ends: Ends, way: Way) -> None:
    async with way.client(max_idle_transports=1) as client:
        responses = [await held(client, f"http://127.0.0.2:{ends.port}/held", A) for _ in range(2)]
        with use_rules(B):
            await client.get(f"http://127.0.0.2:{ends.port}/")
        await responses[0].aclose()  # unread: this closes its own connection, as it does with the plain client
        ends.rest.set()
        assert await ends.has_lost_one()
        assert not ends.gone.acquire(blocking=False)
        assert await responses[1].aread() == b"halfrest"
        assert await ends.has_lost_one()


async def test_a_response_that_is_dropped_unread_closes_it_too(ends: Ends, way: Way) -> None:
    async with way.client(max_idle_transports=1) as client:
        response = await held(client, f"http://127.0.0.2:{ends.port}/held", A)
        with use_rules(B):
            await client.get(f"http://127.0.0.2:{ends.port}/")
        del response
        gc.collect()
        ends.rest.set()
        assert await ends.has_lost_one()


@awaited
async def test_a_response_that_is_dropped_in_another_thread_closes_it_too(ends: Ends, way: Way) -> None:
    async with way.client(max_idle_transports=1) as client:
        responses = [await held(client, f"http://127.0.0.2:{ends.port}/held", A)]
        with use_rules(B):
            await client.get(f"http://127.0.0.2:{ends.port}/")

        def drop() -> None:
            responses.clear()
            gc.collect()

        thread = threading.Thread(target=drop)
        thread.start()
        thread.join()
        ends.rest.set()
        assert await ends.has_lost_one()


@awaited
async def test_a_multiplexed_connection_ends_with_its_last_response(
    h2site: Make, way: Way, client_tls: ssl.SSLContext
) -> None:
    server = h2site("127.0.0.2", "good.test")
    async with way.client(max_idle_transports=1, http2=True, verify=client_tls) as client:
        url = server.url("/hold", host="good.test")
        responses = [await held(client, url, A) for _ in range(3)]
        with use_rules(B):
            await client.get(server.url(host="good.test"))
        await responses[0].aclose()
        await anyio.lowlevel.checkpoint()
        assert not server.ended.acquire(blocking=False)
        server.release()
        assert await responses[1].aread() == b"xold"
        assert not server.ended.acquire(blocking=False)
        assert await responses[2].aread() == b"xold"
        assert server.ended.acquire(timeout=5)


def test_a_transport_that_nobody_closed_is_closed_when_it_is_dropped(ends: Ends, library: str) -> None:
    way = Way(library, "sync")
    client = way.client(A).inner
    client.get(f"http://127.0.0.2:{ends.port}/")
    del client
    gc.collect()
    assert ends.gone.acquire(timeout=5)


async def test_close_closes_every_connection_and_the_transport_can_be_used_again(ends: Ends, way: Way) -> None:
    """As the plain transport can; the client around it cannot."""
    transport = way.transport(A)
    client = way.over(transport)
    url = f"http://127.0.0.2:{ends.port}/"
    await client.get(url)
    await client.aclose()
    assert await ends.has_lost_one()
    with pytest.raises(RuntimeError, match="closed"):
        await client.get(url)
    async with way.over(transport) as again:
        assert (await again.get(url)).text == "complete"
    assert await ends.has_lost_one()


async def test_close_reaches_a_transport_that_was_let_go_and_is_in_use(ends: Ends, way: Way) -> None:
    client = way.client(max_idle_transports=1)
    response = await held(client, f"http://127.0.0.2:{ends.port}/held", A)
    with use_rules(B):
        await client.get(f"http://127.0.0.2:{ends.port}/")
    await client.aclose()
    ends.rest.set()
    assert await ends.has_lost_one()
    assert await ends.has_lost_one()
    await response.aclose()


async def test_idle_connections_can_be_closed_beside_those_in_use(ends: Ends, way: Way) -> None:
    async with way.client() as client:
        url = f"http://127.0.0.2:{ends.port}/"
        response = await held(client, url + "held", A)
        for rules in (A, B):
            with use_rules(rules):
                await client.get(url)
        await way.close_idle(client)
        assert await ends.has_lost_one()
        assert await ends.has_lost_one()
        assert not ends.gone.acquire(blocking=False)
        ends.rest.set()
        assert await response.aread() == b"halfrest"
        with use_rules(A):
            assert (await client.get(url)).text == "complete"
        assert not ends.gone.acquire(blocking=False)


# Configuration.


def test_a_proxy_or_a_unix_socket_is_refused(library: str, how: str) -> None:
    way = Way(library, how)
    for option in ({"proxy": "http://127.0.0.3:3128"}, {"uds": "/run/x.sock"}):
        with pytest.raises(ValueError, match=next(iter(option))):
            way.transport(GOOD, **option)
    way.transport(GOOD, proxy=None, uds=None)


def test_what_cannot_be_meant_is_told_at_construction(library: str, how: str) -> None:
    way = Way(library, how)
    with pytest.raises(TypeError, match="nonsense"):
        way.transport(GOOD, nonsense=1)
    with pytest.raises(TypeError, match="http2"):
        way.transport(GOOD, new=lambda rules: way.Plain(), http2=True)
    with pytest.raises(TypeError, match="rules"):
        way.transport("127.0.0.2")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="mixed"):
        way.transport(GOOD, mixed="some")
    with pytest.raises(ValueError, match="at least 1"):
        way.transport(GOOD, max_idle_transports=0)


async def test_new_makes_the_plain_transport_for_each_rules_in_force(site: Make, way: Way) -> None:
    server = site("127.0.0.2")
    asked: list[Any] = []

    def new(rules: Any) -> Any:
        asked.append(rules)
        return way.Plain(verify=False, http2=False)

    async with way.client(GOOD, new=new) as client:
        for rules in (LOOPBACK, OTHER, LOOPBACK):
            with use_rules(rules):
                try:
                    await client.get(server.url(host="good.test"))
                except way.DeniedError:
                    assert rules is OTHER
    assert [set(each) for each in asked] == [{GOOD, LOOPBACK}, {GOOD, OTHER}]
    assert server.accepted == 1


async def test_new_must_make_a_plain_transport_each_time(site: Make, trap: Make, way: Way, tmp_path: Any) -> None:
    server = site("127.0.0.2")
    one = way.Plain(verify=False)
    used = way.Plain(verify=False)

    def proxied(url: str) -> Any:
        """A pool of httpcore's own that is given a proxy, as httpx gives none."""
        transport = way.Plain(verify=False)
        core = sys.modules[type(transport._pool).__module__.partition(".")[0]]
        transport._pool = type(transport._pool)(proxy=core.Proxy(url))
        return transport

    async with way.over(used) as client:
        await client.get(server.url())
        makers: list[tuple[Any, type[Exception], str]] = [
            (lambda rules: None, TypeError, "None"),
            (lambda rules: object(), TypeError, "object"),
            (lambda rules: way.httpx.MockTransport(lambda request: None), TypeError, "MockTransport"),
            (lambda rules: way.Plain(verify=False, proxy=trap().url()), ValueError, "HTTPProxy"),
            (lambda rules: way.Plain(verify=False, proxy="socks5://127.0.0.3:1"), ValueError, "SOCKSProxy"),
            (lambda rules: way.Plain(verify=False, uds=str(tmp_path / "x")), ValueError, "unix"),
            (lambda rules: proxied(trap().url()), ValueError, "with a proxy"),
            (lambda rules: used, ValueError, "connections already"),
        ]
        for new, error, text in makers:
            jailed = way.client(GOOD, new=new)
            with pytest.raises(error, match=text):
                await jailed.get(server.url(host="good.test"))
            await jailed.aclose()
    async with way.client(new=lambda rules: one) as client:
        with use_rules(GOOD):
            assert (await client.get(server.url(host="good.test"))).text == "hello"
        with use_rules(OTHER), pytest.raises(TypeError, match="two sets of rules"):
            await client.get(server.url(host="good.test"))
    async with way.client(new=lambda rules: one) as client:
        with use_rules(OTHER), pytest.raises(TypeError, match="two sets of rules"):
            await client.get(server.url(host="good.test"))
    assert server.accepted == 2


def test_a_pool_that_netjail_does_not_know_is_refused(library: str, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    way = Way(library, how)

    class Changed(way.Plain):  # type: ignore[misc, name-defined]
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            del self._pool._network_backend

    transport = way.transport(GOOD, new=lambda rules: Changed(verify=False))
    with pytest.raises(TypeError, match="_network_backend"):
        transport._transports.get((GOOD,))


async def test_a_backend_connects_no_unix_socket(way: Way) -> None:
    transport = way.transport(GOOD)
    if way.sync:
        backend = transport._transports.get((GOOD,))._pool._network_backend
        with pytest.raises(way.DeniedError):
            backend.connect_unix_socket("/run/x.sock", timeout=1)
    else:
        backend = transport._transports.get((GOOD,))._pool._network_backend
        with pytest.raises(way.DeniedError):
            await backend.connect_unix_socket("/run/x.sock", timeout=1)


async def test_a_proxy_of_the_environment_is_never_reached(
    site: Make, trap: Make, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, proxy = site("127.0.0.2"), trap("127.0.0.1")
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy.url())
        monkeypatch.setenv(name.lower(), proxy.url())
    async with way.client(LOOPBACK) as client:
        assert (await client.get(server.url(host="good.test"))).text == "hello"
        with pytest.raises(way.DeniedError), use_rules(Rules(allow=["127.0.0.1"])):
            await client.get(server.url(host="good.test"))


@pytest.mark.parametrize(("library", "other"), [("httpx", "httpx2"), ("httpx2", "httpx")], indirect=["library"])
def test_a_module_imports_its_own_library_alone(library: str, other: str) -> None:
    foreign = {other, other.replace("x", "core")}
    script = f"import sys, netjail.clients.{library}; print(*sorted({foreign} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
