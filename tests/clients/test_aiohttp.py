"""aiohttp under rules, against real servers on loopback: 127.0.0.2 is allowed and 127.0.0.3 is not."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import json
import pickle
import re
import socket
import ssl
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from hashlib import sha256
from typing import Any

import aiohttp
import pytest
import trustme
from aiohttp import web
from aiohttp.resolver import ThreadedResolver

import netjail
from netjail import PUBLIC, Rules, use_rules
from netjail.clients.aiohttp import Connector, DeniedError
from tests.servers.names import AsyncNames
from tests.servers.site import Site, Trap

Make = Callable[..., Any]
GOOD = Rules(allow=["127.0.0.2"])
BAD = Rules(allow=["127.0.0.3"])
LOOPBACK = Rules(allow=["127.0.0.0/8", "::1"])
NAMES = {"good.test": ["127.0.0.2"], "bad.test": ["127.0.0.3"], "mixed.test": ["127.0.0.3", "127.0.0.2"]}

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("nothing_left_behind")]


if importlib.util.find_spec("uvloop") is not None:
    import uvloop

    uvloop.new_event_loop().close()  # libuv opens a pipe with the first loop, and never closes it


@pytest.fixture(
    params=[
        pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
        pytest.param(
            ("asyncio", {"use_uvloop": True}),
            id="uvloop",
            marks=pytest.mark.skipif(importlib.util.find_spec("uvloop") is None, reason="uvloop is not installed"),
        ),
    ]
)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@asynccontextmanager
async def client(
    rules: Rules | None = None, *, session: dict[str, Any] | None = None, names: Any = None, **options: Any
) -> AsyncIterator[aiohttp.ClientSession]:
    resolver = AsyncNames(NAMES) if names is None else names
    connector = Connector(rules, resolver=resolver, **options)
    async with aiohttp.ClientSession(connector=connector, **(session or {})) as made:
        yield made


async def fetch(session: aiohttp.ClientSession, url: str, method: str = "GET", **options: Any) -> bytes:
    async with session.request(method, url, **options) as response:
        response.raise_for_status()
        return await response.read()


async def number(session: aiohttp.ClientSession, url: str, **options: Any) -> int:
    """The number of the connection that the server saw."""
    async with session.get(url, **options) as response:
        await response.read()
        return int(response.headers["X-Connection"])


def transports(session: aiohttp.ClientSession) -> list[Any]:
    """The transports of the connections that idle."""
    connector: Any = session.connector
    return [
        protocol.transport
        for inner in connector._pools._made
        for connections in inner._conns.values()
        for protocol, _ in connections
    ]


async def soon(condition: Callable[[], bool]) -> None:
    """Lets the loop run until ``condition`` holds."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - of things that tell nobody
            await asyncio.sleep(0.001)


class Led(socket.socket):
    """A socket whose connection ends at ``to``, whatever address it was for."""

    to: tuple[str, int]
    dialled: list[Any]

    def connect(self, address: Any) -> None:
        self.dialled.append(address)
        super().connect(self.to)


def leading_to(server: Site | Trap, dialled: list[Any]) -> Callable[[Any], socket.socket]:
    """A ``socket_factory=`` that leads every connection to ``server``, and notes where it would have gone."""

    def make(addr_info: Any) -> socket.socket:
        sock = Led(socket.AF_INET6 if ":" in server.address else socket.AF_INET, addr_info[1], addr_info[2])
        sock.to, sock.dialled = (server.address, server.port), dialled
        return sock

    return make


@contextmanager
def dead_end(address: str, port: int = 0) -> Iterator[int]:
    """The port of a listener that answers no SYN, on Linux: its queue is full, and nobody accepts."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(0)
        port = listener.getsockname()[1]
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex((address, port))
        yield port


async def test_a_name_is_fetched_and_its_connection_is_kept(site: Make) -> None:
    server = site("127.0.0.2")
    async with client(GOOD) as session:
        for _ in range(3):
            assert await fetch(session, server.url(host="good.test")) == b"hello"
    assert server.accepted == 1
    assert server.seen[0].headers["Host"] == f"good.test:{server.port}"


async def test_four_fetches_of_one_url_follow_the_context(site: Make) -> None:
    server = site("127.0.0.2")
    names = AsyncNames(NAMES)
    async with client(names=names) as session:
        url = server.url(host="good.test")
        with use_rules(GOOD):
            assert await fetch(session, url) == b"hello"
        with use_rules(BAD), pytest.raises(DeniedError):
            await fetch(session, url)
        with use_rules(GOOD):
            assert await fetch(session, url) == b"hello"
        with pytest.raises(DeniedError, match="no rules are in force"):
            await fetch(session, url)
    assert server.accepted == 1


async def test_the_context_can_only_narrow_what_was_given(site: Make, trap: Make) -> None:
    async with client(GOOD) as session:
        with use_rules(Rules(allow=["127.0.0.0/8"])):
            assert await fetch(session, site("127.0.0.2").url()) == b"hello"
            with pytest.raises(DeniedError):
                await fetch(session, trap("127.0.0.3").url())
        with use_rules(BAD), pytest.raises(DeniedError):
            await fetch(session, trap("127.0.0.2").url())


async def test_no_request_rides_on_a_connection_of_other_rules(site: Make) -> None:
    server = site("127.0.0.2")
    url = server.url(host="good.test")
    sets = [Rules(allow=["127.0.0.2", f"127.1.{n}.0/24"]) for n in range(4)]
    used: list[set[int]] = [set() for _ in sets]

    async def under(session: aiohttp.ClientSession, n: int) -> None:
        with use_rules(sets[n]):
            for _ in range(5):
                used[n].add(await number(session, url))

    async with client() as session:
        for _ in range(2):
            await asyncio.gather(*(under(session, n) for n in [0, 1, 2, 3] * 3))
    assert sum(len(each) for each in used) == len({connection for each in used for connection in each})


async def test_equal_rules_share_connections(site: Make) -> None:
    server = site("127.0.0.2")
    async with client() as session:
        for spelling in ("127.0.0.2", "127.0.0.2/32", "127.0.0.2"):
            with use_rules(Rules(allow=[spelling])):
                await fetch(session, server.url())
    assert server.accepted == 1


async def test_a_name_with_one_denied_address_reaches_the_other(site: Make) -> None:
    server = site("127.0.0.2")
    with Trap("127.0.0.3", port=server.port) as forbidden:
        async with client(GOOD) as session:
            assert await fetch(session, server.url(host="mixed.test")) == b"hello"
        assert not forbidden.accepted


async def test_mixed_refuse_denies_a_name_with_one_denied_address(trap: Make) -> None:
    forbidden = trap("127.0.0.2")
    async with client(GOOD, mixed="refuse") as session:
        with pytest.raises(DeniedError, match="not every one"):
            await fetch(session, forbidden.url(host="mixed.test"))


async def test_a_dead_first_address_does_not_hold_up_the_second(site: Make) -> None:
    server = site("127.0.0.3")
    names = AsyncNames({"two.test": ["127.0.0.2", "127.0.0.3"]})
    with dead_end("127.0.0.2", server.port):
        async with client(LOOPBACK, names=names) as session:
            timeout = aiohttp.ClientTimeout(sock_connect=5)
            assert await fetch(session, server.url(host="two.test"), timeout=timeout) == b"hello"


async def test_addresses_are_dialled_in_the_order_of_the_answer_with_the_families_in_turn(site: Make) -> None:
    dialled: list[Any] = []
    names = AsyncNames({"many.test": ["127.0.0.7", "127.0.0.8", "::1", "127.0.0.2"]})
    server = site("127.0.0.2")

    def refuse(addr_info: Any) -> socket.socket:
        dialled.append(addr_info[4][0])
        if addr_info[4][0] == "127.0.0.2":
            return socket.socket(*addr_info[:3])
        raise ConnectionRefusedError(111, "refused")

    async with client(LOOPBACK, names=names, socket_factory=refuse) as session:
        assert await fetch(session, server.url(host="many.test")) == b"hello"
    assert dialled == ["127.0.0.7", "::1", "127.0.0.8", "127.0.0.2"]


@pytest.mark.parametrize("literal", ["[2606:4700:4700::1111]", "1.1.1.1", "[64:ff9b::8.8.8.8]"])
async def test_a_public_literal_is_dialled(site: Make, literal: str) -> None:
    dialled: list[Any] = []
    server, names = site("::1" if ":" in literal else "127.0.0.1"), AsyncNames({})
    async with client(PUBLIC, names=names, socket_factory=leading_to(server, dialled)) as session:
        assert await fetch(session, f"http://{literal}:{server.port}/") == b"hello"
    assert len(dialled) == 1
    assert not names.asked


async def test_a_public_name_is_dialled_by_its_address(site: Make) -> None:
    server = site("127.0.0.1")
    dialled: list[Any] = []
    names = AsyncNames({"public.test": ["10.0.0.1", "1.1.1.1"]})
    async with client(PUBLIC, names=names, socket_factory=leading_to(server, dialled)) as session:
        assert await fetch(session, "http://public.test/") == b"hello"
    assert dialled == [("1.1.1.1", 80)]
    assert server.seen[0].headers["Host"] == "public.test"


async def test_ipv6_is_fetched(site: Make) -> None:
    server = site("::1")
    async with client(LOOPBACK, names=AsyncNames({"six.test": ["::1"]})) as session:
        assert await fetch(session, server.url()) == b"hello"
        assert await fetch(session, server.url(host="six.test")) == b"hello"


async def test_the_systems_resolver_is_asked_where_none_is_given(site: Make, trap: Make) -> None:
    server, forbidden = site("127.0.0.1"), trap("127.0.0.1")
    async with aiohttp.ClientSession(connector=Connector()) as session:
        with use_rules(LOOPBACK):
            assert await fetch(session, server.url(host="localhost")) == b"hello"
        with use_rules(PUBLIC), pytest.raises(DeniedError):
            await fetch(session, forbidden.url(host="localhost"))


async def test_a_denial_is_both_libraries_own_error_and_names_no_address(trap: Make) -> None:
    forbidden = trap("127.0.0.3")
    async with client(GOOD) as session:
        with pytest.raises(aiohttp.ClientError) as caught:
            await fetch(session, forbidden.url(host="bad.test"))
    error = caught.value
    assert type(error) is DeniedError
    assert isinstance(error, netjail.DeniedError)
    assert isinstance(error, PermissionError)
    assert not isinstance(error, aiohttp.ClientOSError)  # which aiohttp would retry
    assert (error.host, error.port) == ("bad.test", forbidden.port)
    assert [str(decision.address) for decision in error.decisions] == ["127.0.0.3"]
    assert "127.0.0.3" not in f"{error} {error.__cause__}"
    assert type(error.__cause__) is netjail.DeniedError
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is DeniedError
    assert str(again) == str(error)
    assert netjail.find_denied(error) is error


@pytest.mark.proves("aiohttp", "denied")
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "POST"])
async def test_a_denial_is_dialled_once(trap: Make, method: str) -> None:
    forbidden, names = trap("127.0.0.3"), AsyncNames(NAMES)
    made: list[Any] = []
    factory = leading_to(forbidden, made)
    async with client(GOOD, names=names, socket_factory=factory) as session:
        with pytest.raises(DeniedError):
            await fetch(session, forbidden.url(host="bad.test"), method)
        with pytest.raises(DeniedError):
            await fetch(session, forbidden.url(), method)
    assert [host for host, _ in names.asked] == ["bad.test"]
    assert not made


async def test_empty_rules_send_no_query_and_ipv4_rules_ask_for_ipv4(site: Make) -> None:
    names = AsyncNames(NAMES)
    async with client(names=names) as session:
        for rules in (Rules(), Rules(allow=["127.0.0.2"], block=["127.0.0.0/8"])):
            with use_rules(rules), pytest.raises(DeniedError):
                await fetch(session, "http://good.test:1/")
        assert not names.asked
        with use_rules(GOOD):
            await fetch(session, site("127.0.0.2").url(host="good.test"))
    assert names.asked == [("good.test", socket.AF_INET)]


@pytest.mark.proves("aiohttp", "literal")
@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "[::1]",
        "0.0.0.0",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[64:ff9b::127.0.0.1]",
        "[2002:7f00:1::]",
        "[fe80::1%25lo]",
        "①②⑦.⓪.⓪.①",
        "169.254.169.254",
        "10.0.0.1",
    ],
)
async def test_a_literal_is_judged_although_no_resolver_hears_of_it(trap: Make, host: str) -> None:
    forbidden, names = trap("127.0.0.1"), AsyncNames({})
    async with client(PUBLIC, names=names) as session:
        with pytest.raises(DeniedError):
            await fetch(session, f"http://{host}:{forbidden.port}/")
    assert not names.asked


@pytest.mark.parametrize("host", ["127.1", "2130706433", "017700000001", "0177.0.0.1"])
async def test_odd_numbers_are_refused_by_aiohttp_itself_or_denied(trap: Make, host: str) -> None:
    forbidden = trap("127.0.0.1")
    async with client(LOOPBACK) as session:
        with pytest.raises((aiohttp.InvalidURL, DeniedError)):
            await fetch(session, f"http://{host}:{forbidden.port}/")


@pytest.mark.parametrize("host", ["0x7f000001", "0x7f.1", "localhost"])
async def test_a_spelling_that_only_the_system_understands_is_judged_by_its_answer(trap: Make, host: str) -> None:
    forbidden = trap("127.0.0.1")
    async with aiohttp.ClientSession(connector=Connector(PUBLIC)) as session:
        with pytest.raises(DeniedError):
            await fetch(session, f"http://{host}:{forbidden.port}/")


@pytest.mark.parametrize(
    "answer",
    ["::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "0.0.0.0", "::", "127.0.0.1", "::1", "fe80::1%lo"],
)
async def test_an_answer_is_judged_by_where_its_packets_land(trap: Make, answer: str) -> None:
    forbidden = trap("127.0.0.1")
    async with client(PUBLIC, names=AsyncNames({"odd.test": [answer]})) as session:
        with pytest.raises(DeniedError):
            await fetch(session, forbidden.url(host="odd.test"))


async def test_a_name_that_rebinds_is_denied_at_its_next_lookup(site: Make) -> None:
    server = site("127.0.0.2")
    names = AsyncNames({"rebinds.test": iter([["127.0.0.2"], ["127.0.0.3"]])})
    with Trap("127.0.0.3", port=server.port) as forbidden:
        async with client(GOOD, names=names, use_dns_cache=False, force_close=True) as session:
            assert await fetch(session, server.url(host="rebinds.test")) == b"hello"
            with pytest.raises(DeniedError):
                await fetch(session, server.url(host="rebinds.test"))
        assert not forbidden.accepted


async def test_the_cache_of_names_holds_what_was_accepted_for_the_same_rules(site: Make, trap: Make) -> None:
    server = site("127.0.0.2")
    names = AsyncNames({"rebinds.test": iter([["127.0.0.2"], ["127.0.0.3"], ["127.0.0.2"]])})
    async with client(names=names, force_close=True) as session:
        with use_rules(GOOD):
            for _ in range(3):
                assert await fetch(session, server.url(host="rebinds.test")) == b"hello"
            assert len(names.asked) == 1
        with use_rules(Rules(allow=["127.0.0.2", "127.9.0.0/16"])), pytest.raises(DeniedError):
            await fetch(session, server.url(host="rebinds.test"))
        assert len(names.asked) == 2
        assert isinstance(session.connector, Connector)
        session.connector.clear_dns_cache()
        with use_rules(GOOD):
            assert await fetch(session, server.url(host="rebinds.test")) == b"hello"
        assert len(names.asked) == 3
        with pytest.raises(ValueError, match="host and port"):
            session.connector.clear_dns_cache("rebinds.test")


async def test_requests_that_wait_for_one_lookup_are_denied_each(trap: Make) -> None:
    forbidden, names = trap("127.0.0.3"), AsyncNames(NAMES)
    async with client(GOOD, names=names) as session:
        outcomes = await asyncio.gather(
            *(fetch(session, forbidden.url(host="bad.test")) for _ in range(5)), return_exceptions=True
        )
    assert [type(outcome) for outcome in outcomes] == [DeniedError] * 5
    assert len({id(outcome) for outcome in outcomes}) == 5


@pytest.mark.proves("aiohttp", "announced")
@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
async def test_every_hop_of_a_redirect_is_judged(site: Make, trap: Make, code: int) -> None:
    server, forbidden = site("127.0.0.2"), trap("127.0.0.3")
    async with client(GOOD) as session:
        good = server.url(f"/redirect?code={code}&to={server.url(host='good.test')}", host="good.test")
        assert await fetch(session, good) == b"hello"
        for target in (forbidden.url(host="bad.test"), forbidden.url(), f"//127.0.0.3:{forbidden.port}/"):
            with pytest.raises(DeniedError):
                await fetch(session, server.url(f"/redirect?code={code}&to={target}"), "POST", data=b"x")


async def test_rules_for_a_host_hold_for_its_addresses_and_not_for_the_addresses_as_hosts(site: Make) -> None:
    class ByName:
        def rules_for(self, host: str, port: int) -> Rules:
            return GOOD if host == "good.test" else Rules()

    server = site("127.0.0.2")
    async with aiohttp.ClientSession(connector=Connector(ByName(), resolver=AsyncNames(NAMES))) as session:
        assert await fetch(session, server.url(host="good.test")) == b"hello"
        with pytest.raises(DeniedError):
            await fetch(session, server.url())
    assert server.accepted == 1


async def test_other_failures_are_aiohttps_own() -> None:
    with socket.create_server(("127.0.0.2", 0)) as gone:
        port = gone.getsockname()[1]
    async with client(GOOD) as session:
        with pytest.raises(aiohttp.ClientConnectorDNSError):
            await fetch(session, "http://unknown.test/")
        with pytest.raises(aiohttp.ClientConnectorError) as caught:
            await fetch(session, f"http://good.test:{port}/")
        assert netjail.find_denied(caught.value) is None


async def test_a_request_that_carries_a_proxy_is_denied(trap: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy, target = trap("127.0.0.2"), trap("127.0.0.2")
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, proxy.url())
    monkeypatch.delenv("REQUEST_METHOD", raising=False)
    for url in (target.url(), target.url().replace("http", "https"), target.url(host="good.test")):
        for options, session_options in (
            ({"proxy": proxy.url()}, {}),
            ({}, {"proxy": proxy.url()}),
            ({}, {"trust_env": True}),
        ):
            async with client(GOOD, session=session_options) as session:
                with pytest.raises(DeniedError, match="proxy"):
                    await fetch(session, url, **options)


async def test_proxies_of_the_environment_are_not_used(site: Make, trap: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, trap("127.0.0.2").url())
    async with client(GOOD) as session:
        assert await fetch(session, site("127.0.0.2").url(host="good.test")) == b"hello"


async def test_proxy_as_a_keyword_is_refused() -> None:
    with pytest.raises(ValueError, match="proxy"):
        Connector(GOOD, proxy="http://127.0.0.2:1")


@pytest.mark.proves("aiohttp", "tls", "wrong-name")
async def test_tls_checks_the_name_that_was_asked_for(site: Make, server_tls: Make, client_tls: ssl.SSLContext) -> None:
    server = site("127.0.0.2", tls=server_tls("good.test"))
    names = AsyncNames({**NAMES, "wrong.test": ["127.0.0.2"]})
    async with client(GOOD, names=names, ssl=client_tls) as session:
        for _ in range(2):
            assert await fetch(session, server.url(host="good.test")) == b"hello"
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await fetch(session, server.url(host="wrong.test"))
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await fetch(session, server.url())
        assert await fetch(session, server.url(host="wrong.test"), server_hostname="good.test") == b"hello"
        assert await fetch(session, server.url(host="wrong.test"), ssl=False) == b"hello"
    assert len(server.connections()) == 3


async def test_two_names_on_one_address_never_share_a_connection(
    site: Make, server_tls: Make, client_tls: ssl.SSLContext
) -> None:
    server = site("127.0.0.2", tls=server_tls("good.test", "other.test"))
    names = AsyncNames({**NAMES, "other.test": ["127.0.0.2"]})
    async with client(GOOD, names=names, ssl=client_tls) as session:
        first = await number(session, server.url(host="good.test"))
        assert await number(session, server.url(host="other.test")) != first


async def test_a_context_for_one_request_and_a_client_certificate(
    site: Make, ca: trustme.CA, server_tls: Make, client_tls: ssl.SSLContext
) -> None:
    asking = server_tls("good.test")
    asking.verify_mode = ssl.CERT_REQUIRED
    ca.configure_trust(asking)
    server = site("127.0.0.2", tls=asking)
    ca.issue_cert("client.test").configure_cert(client_tls)
    async with client(GOOD) as session:
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await fetch(session, server.url(host="good.test"))
        assert await fetch(session, server.url(host="good.test"), ssl=client_tls) == b"hello"


async def test_fingerprints(site: Make, ca: trustme.CA) -> None:
    certificate = ca.issue_cert("good.test")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    der = ssl.PEM_cert_to_DER_cert(certificate.cert_chain_pems[0].bytes().decode())
    right, wrong = aiohttp.Fingerprint(sha256(der).digest()), aiohttp.Fingerprint(bytes(32))
    server = site("127.0.0.2", tls=context)
    made: list[socket.socket] = []

    def factory(addr_info: Any) -> socket.socket:
        made.append(socket.socket(*addr_info[:3]))
        return made[-1]

    async with client(GOOD, ssl=right, socket_factory=factory) as session:
        assert await fetch(session, server.url(host="good.test")) == b"hello"
        with pytest.raises(aiohttp.ServerFingerprintMismatch):
            await fetch(session, server.url(host="good.test"), ssl=wrong)
    await soon(lambda: all(sock.fileno() < 0 for sock in made))  # aiohttp says goodbye to the wrong one first


async def test_websockets_are_judged_and_held_and_leave_with_their_rules(trap: Make) -> None:
    async def echo(request: web.Request) -> web.WebSocketResponse:
        socket_ = web.WebSocketResponse()
        await socket_.prepare(request)
        async for message in socket_:
            await socket_.send_str(message.data)
        return socket_

    app = web.Application()
    app.router.add_get("/", echo)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.2", 0).start()
    port = runner.addresses[0][1]
    try:
        async with client(max_idle_transports=1) as session:
            with use_rules(GOOD):
                held = await session.ws_connect(f"ws://good.test:{port}/")
            for rules in (LOOPBACK, BAD, Rules()):  # the first one is let go
                with use_rules(rules), pytest.raises((DeniedError, aiohttp.ClientConnectorError)):
                    await session.ws_connect(f"ws://127.0.0.3:{port if rules is LOOPBACK else 1}/")
            for text in ("one", "two"):
                await held.send_str(text)
                assert await held.receive_str() == text
            await held.close()
        async with client(GOOD) as session:
            with pytest.raises(DeniedError):
                await session.ws_connect(trap("127.0.0.3").url().replace("http", "ws"))
    finally:
        await runner.cleanup()


@pytest.mark.proves("aiohttp", "allowed")
async def test_bodies_stream_both_ways(site: Make) -> None:
    server = site("127.0.0.2")

    async def parts() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b"y" * 1000

    async with client(GOOD) as session:
        async with session.post(server.url("/echo", host="good.test"), data=parts()) as response:
            assert json.loads(await response.read())["body"] == "y" * 100_000
        size = 0
        async with session.get(server.url("/stream?n=500", host="good.test")) as response:
            async for part in response.content.iter_chunked(4096):
                size += len(part)
        assert size == 500_000
    assert server.accepted == 1


async def test_cookies_and_auth(site: Make) -> None:
    server = site("127.0.0.2")
    async with client(GOOD) as session:
        await fetch(session, server.url("/cookie?name=value", host="good.test"))
        await fetch(session, server.url(host="good.test"), headers={"Authorization": "Basic dTpw"})
    assert server.seen[1].headers["Cookie"] == "name=value"
    assert server.seen[1].headers["Authorization"] == "Basic dTpw"


async def test_timeouts_are_aiohttps_own(site: Make) -> None:
    class Never:
        async def lookup(self, host: str, family: int) -> list[str]:
            await asyncio.Event().wait()
            raise AssertionError

    server = site("127.0.0.2")
    async with client(GOOD) as session:
        with pytest.raises(aiohttp.SocketTimeoutError):
            await fetch(session, server.url("/stall"), timeout=aiohttp.ClientTimeout(sock_read=0.05))
        with pytest.raises(TimeoutError):
            await fetch(session, server.url("/stall"), timeout=aiohttp.ClientTimeout(total=0.05))
        with dead_end("127.0.0.2") as port, pytest.raises(aiohttp.ConnectionTimeoutError):
            await fetch(session, f"http://good.test:{port}/", timeout=aiohttp.ClientTimeout(sock_connect=0.05))
    async with client(GOOD, names=Never()) as session:
        with pytest.raises(aiohttp.ConnectionTimeoutError):
            await fetch(session, "http://good.test:1/", timeout=aiohttp.ClientTimeout(connect=0.05))


async def test_a_cancelled_request_leaves_nothing_and_its_connector_works_on(site: Make) -> None:
    server = site("127.0.0.2")
    async with client(GOOD, limit=1) as session:
        stalled = asyncio.ensure_future(fetch(session, server.url("/stall")))
        await soon(lambda: bool(server.seen))
        waiting = asyncio.ensure_future(fetch(session, server.url()))
        await asyncio.sleep(0)
        for task in (waiting, stalled):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert await fetch(session, server.url()) == b"hello"


@pytest.mark.parametrize("option", ["limit", "limit_per_host"])
async def test_limits_count_for_each_rules_in_force(site: Make, option: str) -> None:
    server = site("127.0.0.2")
    options: dict[str, Any] = {option: 1}
    async with client(**options) as session:
        with use_rules(GOOD):
            first = await session.get(server.url("/stall"))
            waiting = asyncio.ensure_future(fetch(session, server.url()))
        with use_rules(LOOPBACK):
            assert await fetch(session, server.url()) == b"hello"
        assert not waiting.done()
        first.close()
        assert await waiting == b"hello"
    assert server.accepted == 3


async def test_force_close_keepalive_timeout_and_local_addr(site: Make) -> None:
    server = site("127.0.0.2")
    options: list[dict[str, Any]] = [{"force_close": True}, {"keepalive_timeout": -1}]
    for each in options:
        async with client(GOOD, **each) as session:
            assert await number(session, server.url()) != await number(session, server.url())
    async with client(GOOD, local_addr=("127.0.0.9", 0)) as session:
        response = await session.get(server.url("/stall"))
        assert response.connection is not None
        assert response.connection.transport is not None
        assert response.connection.transport.get_extra_info("sockname")[0] == "127.0.0.9"
        response.close()


async def test_family_narrows_what_is_asked_and_dialled(site: Make) -> None:
    names = AsyncNames({"both.test": ["::1", "127.0.0.2"]})
    async with client(LOOPBACK, names=names, family=socket.AF_INET) as session:
        assert await fetch(session, site("127.0.0.2").url(host="both.test")) == b"hello"
    assert names.asked == [("both.test", socket.AF_INET)]
    async with client(GOOD, names=names, family=socket.AF_INET6) as session:
        with pytest.raises(DeniedError):
            await fetch(session, "http://both.test:1/")


async def test_a_socket_factory_is_called_for_accepted_addresses_alone(site: Make, trap: Make) -> None:
    server, forbidden = site("127.0.0.2"), trap("127.0.0.3")
    asked: list[Any] = []

    def factory(addr_info: Any) -> socket.socket:
        asked.append(addr_info[4])
        return socket.socket(*addr_info[:3])

    async with client(GOOD, socket_factory=factory) as session:
        for url in (forbidden.url(), forbidden.url(host="bad.test")):
            with pytest.raises(DeniedError):
                await fetch(session, url)
        assert await fetch(session, server.url(host="good.test")) == b"hello"
    assert asked == [("127.0.0.2", server.port)]


async def test_traces_tell_what_happens(site: Make, trap: Make) -> None:
    told: list[str] = []
    config = aiohttp.TraceConfig()

    def tells(name: str) -> Callable[..., Any]:
        async def tell(*_: Any) -> None:
            told.append(name)

        return tell

    for event in (
        "request_start",
        "request_end",
        "request_exception",
        "connection_create_start",
        "connection_create_end",
        "connection_reuseconn",
        "dns_cache_miss",
        "dns_resolvehost_start",
        "dns_resolvehost_end",
    ):
        getattr(config, f"on_{event}").append(tells(event))
    server = site("127.0.0.2")
    async with client(GOOD, session={"trace_configs": [config]}) as session:
        await fetch(session, server.url(host="good.test"))
        dns = ["dns_cache_miss", "dns_resolvehost_start", "dns_resolvehost_end"]
        assert told == ["request_start", "connection_create_start", *dns, "connection_create_end", "request_end"]
        told.clear()
        await fetch(session, server.url(host="good.test"))
        assert told == ["request_start", "connection_reuseconn", "request_end"]
        told.clear()
        with pytest.raises(DeniedError):
            await fetch(session, trap("127.0.0.3").url())
        assert told == ["request_start", "connection_create_start", "request_exception"]


async def test_a_middleware_is_judged_whatever_it_makes_of_a_request(site: Make, trap: Make) -> None:
    forbidden = trap("127.0.0.3")

    async def elsewhere(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        request.url = request.url.with_host("127.0.0.3").with_port(forbidden.port)
        return await handler(request)

    async with client(GOOD) as session:
        with pytest.raises(DeniedError):
            await fetch(session, site("127.0.0.2").url(), middlewares=[elsewhere])


async def test_it_is_a_tcp_connector_with_its_attributes() -> None:
    connector = Connector(GOOD, limit=7, limit_per_host=3, force_close=True, family=socket.AF_INET, use_dns_cache=False)
    assert isinstance(connector, aiohttp.TCPConnector)
    assert (connector.limit, connector.limit_per_host, connector.force_close) == (7, 3, True)
    assert (connector.family, connector.use_dns_cache) == (socket.AF_INET, False)
    assert connector.allowed_protocol_schema_set == aiohttp.TCPConnector.allowed_protocol_schema_set
    assert not connector.closed
    await connector.close()
    assert connector.closed


async def test_what_aiohttp_warns_of_it_warns_of_once(site: Make, server_tls: Make, client_tls: ssl.SSLContext) -> None:
    server = site("127.0.0.2", tls=server_tls("good.test"))
    with pytest.warns(DeprecationWarning, match="ssl"):
        connector = Connector(GOOD, resolver=AsyncNames(NAMES), ssl_context=client_tls, ssl_shutdown_timeout=1)
    async with aiohttp.ClientSession(connector=connector) as session:
        assert await fetch(session, server.url(host="good.test")) == b"hello"


def test_outside_a_loop_it_is_made_as_far_as_the_plain_one(anyio_backend: Any) -> None:
    for kind in (aiohttp.TCPConnector, Connector):
        with pytest.raises(RuntimeError, match="no running event loop"):
            kind()


async def test_a_mistake_is_told_when_it_is_made() -> None:
    for wrong, error in (
        ({"limt": 3}, TypeError),
        ({"mixed": "maybe"}, ValueError),
        ({"max_idle_transports": 0}, ValueError),
        ({"resolver": ThreadedResolver()}, TypeError),
        ({"rules": "127.0.0.2"}, TypeError),
        ({"new": aiohttp.TCPConnector, "limit": 3}, TypeError),
    ):
        options: dict[str, Any] = wrong
        with pytest.raises(error):
            Connector(**options)


async def test_new_makes_the_connector_for_each_rules_in_force(site: Make, trap: Make) -> None:
    server = site("127.0.0.2")
    asked: list[Any] = []
    made: list[Any] = []

    def factory(addr_info: Any) -> socket.socket:
        asked.append(addr_info[4][0])
        return socket.socket(*addr_info[:3])

    class Own(aiohttp.TCPConnector):
        pass

    def new(rules: tuple[Any, ...]) -> aiohttp.TCPConnector:
        made.append(rules)
        return Own(limit=1, socket_factory=factory)

    async with client(LOOPBACK, new=new) as session:
        with use_rules(GOOD):
            for _ in range(2):
                assert await fetch(session, server.url(host="good.test")) == b"hello"
            for url in (trap("127.0.0.3").url(), trap("127.0.0.3").url(host="bad.test")):
                with pytest.raises(DeniedError):
                    await fetch(session, url)
        assert await fetch(session, server.url()) == b"hello"
    assert made == [(LOOPBACK, GOOD), (LOOPBACK,)]
    assert asked == ["127.0.0.2", "127.0.0.2"]


async def test_what_new_may_not_make(trap: Make, tmp_path: Any) -> None:
    forbidden = trap("127.0.0.2")
    single = aiohttp.TCPConnector()
    used = aiohttp.TCPConnector()
    with Site("127.0.0.2") as server:
        async with aiohttp.ClientSession(connector=used, connector_owner=False) as plain:
            await fetch(plain, server.url())

        class Dials(aiohttp.TCPConnector):
            async def _wrap_create_connection(self, *args: Any, **options: Any) -> Any:
                return await super()._wrap_create_connection(*args, **options)

        class Delegates(aiohttp.TCPConnector):
            async def connect(self, *args: Any, **options: Any) -> Any:
                return await super().connect(*args, **options)

        cases: list[tuple[Callable[[Any], Any], type[Exception]]] = [
            (lambda _: None, TypeError),
            (lambda _: aiohttp.UnixConnector(str(tmp_path / "s")), TypeError),
            (lambda _: Dials(), TypeError),
            (lambda _: Delegates(), TypeError),
            (lambda _: Connector(PUBLIC), TypeError),
            (lambda _: aiohttp.TCPConnector(resolver=ThreadedResolver()), ValueError),
            (lambda _: used, ValueError),
        ]
        for new, error in cases:
            async with client(GOOD, new=new) as session:
                with pytest.raises(error):
                    await fetch(session, forbidden.url())
        async with client(new=lambda *_: single) as session:
            with use_rules(GOOD), pytest.raises(aiohttp.ClientConnectorError):
                await fetch(session, "http://127.0.0.2:1/")
            with use_rules(LOOPBACK), pytest.raises(TypeError, match="another one each time"):
                await fetch(session, forbidden.url())
        await used.close()


async def test_an_address_that_one_connector_accepted_counts_for_nothing_in_another(site: Make) -> None:
    shared: Any = None

    class Shares(aiohttp.TCPConnector):
        def __init__(self) -> None:
            nonlocal shared
            super().__init__()
            if shared is None:
                shared = self._cached_hosts
            self._cached_hosts = shared

    server = site("127.0.0.2")
    async with client(new=lambda *_: Shares()) as session:
        with use_rules(GOOD):
            assert await fetch(session, server.url(host="good.test")) == b"hello"
        with use_rules(BAD), pytest.raises(DeniedError):
            await fetch(session, server.url(host="good.test"))
    assert server.accepted == 1


async def test_the_least_recently_used_is_closed_when_its_last_connection_is_released(site: Make) -> None:
    server = site("127.0.0.2")
    sets = [Rules(allow=["127.0.0.2", f"127.1.{n}.0/24"]) for n in range(3)]
    async with client(max_idle_transports=1) as session:
        with use_rules(sets[0]):
            await fetch(session, server.url())
            streaming = await session.get(server.url("/stream?n=2000"))
            idle = await session.get(server.url())
            kept = idle.connection.transport if idle.connection else None
            await idle.read()
        for rules in sets[1:]:
            with use_rules(rules):
                await fetch(session, server.url())
        connector: Any = session.connector
        assert len(connector._pools._made) == 2  # that of the last rules, and that of the response in flight
        assert streaming.connection is not None
        transport = streaming.connection.transport
        assert len(await streaming.read()) == 2_000_000
        await soon(lambda: transport is not None and transport.is_closing())
        assert kept is None or kept.is_closing()
        await soon(lambda: len(connector._pools._made) == 1)


async def test_a_response_dropped_unread_lets_its_connector_go(site: Make) -> None:
    server = site("127.0.0.2")
    async with client(max_idle_transports=1) as session:
        connector: Any = session.connector
        with use_rules(GOOD):
            response = await session.get(server.url("/stall"))
            assert response.connection is not None
            transport = response.connection.transport
            del response
        with use_rules(LOOPBACK):
            await fetch(session, server.url())
        assert transport is not None
        # aiohttp itself holds it until its body is over, which here is when the server goes.
        assert not transport.is_closing()
        server.close()
        await soon(transport.is_closing)
        gc.collect()
        await soon(lambda: len(connector._pools._made) == 1)


async def test_closing_the_session_closes_all_under_whatever_rules(site: Make) -> None:
    server = site("127.0.0.2")
    async with client(max_idle_transports=1) as session:
        connector = session.connector
        assert connector is not None
        with use_rules(GOOD):
            stalled = await session.get(server.url("/stall"))
        with use_rules(LOOPBACK):
            await fetch(session, server.url())
        idle = transports(session)
        assert len(idle) == 1
        assert stalled.connection is not None
        in_use = stalled.connection.transport
    assert connector.closed
    assert idle[0].is_closing()
    assert in_use is not None
    assert in_use.is_closing()
    stalled.close()
    other = aiohttp.ClientSession(connector=connector)
    assert other.closed
    with use_rules(GOOD), pytest.raises(RuntimeError, match="closed"):
        await other.get(server.url())
    assert server.accepted == 2


async def test_a_connector_outlives_a_session_that_does_not_own_it(site: Make) -> None:
    server = site("127.0.0.2")
    async with Connector(GOOD) as connector:
        for _ in range(2):
            async with aiohttp.ClientSession(connector=connector, connector_owner=False) as session:
                assert await fetch(session, server.url()) == b"hello"
        assert not connector.closed
    assert connector.closed
    assert server.accepted == 1


async def test_a_closed_connector_dials_nothing(trap: Make) -> None:
    forbidden = trap("127.0.0.2")
    async with client(GOOD) as session:
        connector: Any = session.connector
        made = len(connector._pools._made)
        task = asyncio.ensure_future(fetch(session, forbidden.url()))
        await connector.close()
        with pytest.raises((aiohttp.ClientConnectionError, RuntimeError)):
            await task
        assert len(connector._pools._made) == made


async def test_close_idle_connections_leaves_requests_in_flight(site: Make) -> None:
    server = site("127.0.0.2")
    async with client() as session:
        connector = session.connector
        assert isinstance(connector, Connector)
        with use_rules(GOOD):
            streaming = await session.get(server.url("/stream?n=2000"))
        for rules in (GOOD, LOOPBACK):
            with use_rules(rules):
                await fetch(session, server.url())
        idle = transports(session)
        assert len(idle) == 2
        connector.close_idle_connections()
        assert all(transport.is_closing() for transport in idle)
        assert len(await streaming.read()) == 2_000_000
        with use_rules(GOOD):  # the one in flight is kept, as it was in use
            assert await number(session, server.url()) == 1


async def test_a_connector_that_is_dropped_closes_its_connections(site: Make) -> None:
    server = site("127.0.0.2")
    connector = Connector(GOOD)
    async with aiohttp.ClientSession(connector=connector, connector_owner=False) as session:
        await fetch(session, server.url())
        idle = transports(session)
    gone = weakref.ref(connector)
    del connector, session
    assert gone() is None  # without the garbage collector
    await soon(lambda: all(transport.is_closing() for transport in idle))


async def test_the_words_of_a_denial_can_be_found_in_text(trap: Make) -> None:
    async with client(GOOD) as session:
        with pytest.raises(DeniedError) as caught:
            await fetch(session, trap("127.0.0.2").url(), proxy="http://127.0.0.2:1")
    found = netjail.find_denied(RuntimeError(f"wrapped: {caught.value}"))
    assert found is not None
    assert re.search("proxy", found.reason)


@pytest.mark.parametrize("name", ["connect", "_get", "_create_direct_connection", "_wrap_create_connection"])
async def test_new_with_dialing_of_its_own_on_the_object_is_refused(name: str) -> None:
    def new(rules: Any) -> aiohttp.TCPConnector:
        made = aiohttp.TCPConnector()
        setattr(made, name, getattr(made, name))
        return made

    async with client(GOOD, new=new) as session:
        with pytest.raises(TypeError, match=f"has a {name} of its own"):
            await fetch(session, "http://127.0.0.2:9/")
