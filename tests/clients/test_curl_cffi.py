"""curl_cffi under rules, against real servers on loopback: 127.0.0.2 is allowed and 127.0.0.3 is not."""

from __future__ import annotations

import asyncio
import base64
import gc
import hashlib
import pickle
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import netjail
from netjail import Rules, use_rules
from tests.servers.names import BAD, GOOD, TABLE

curl_cffi: Any = pytest.importorskip("curl_cffi")
from curl_cffi.requests import exceptions  # noqa: E402

from netjail.clients.curl_cffi import AsyncSession, DeniedError, Session  # noqa: E402

Make = Callable[..., Any]
RULES = Rules(allow=[GOOD])
OTHERS = Rules(allow=[GOOD, "127.9.0.0/16"])
OPTIONS: Any = curl_cffi.CurlOpt

pytestmark = pytest.mark.usefixtures("nothing_left_behind")
proves = pytest.mark.proves


@pytest.fixture
def anyio_backend() -> Any:
    return ("asyncio", {"use_uvloop": False})


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    yield
    gc.collect()


def names(port: int) -> dict[Any, Any]:
    """The option by which the names of the tests resolve at ``port``."""
    return {OPTIONS.RESOLVE: [f"{name}:{port}:{','.join(answer)}" for name, answer in TABLE.items()]}


def session(port: int, rules: Rules | None = RULES, **options: Any) -> Any:
    return Session(rules, curl_options=names(port), **options)


def asession(port: int, rules: Rules | None = RULES, **options: Any) -> Any:
    return AsyncSession(rules, curl_options=names(port), **options)


@proves("curl_cffi", "allowed", "denied", "literal")
def test_what_the_rules_accept_is_fetched_and_nothing_else_is_dialled(site: Make, trap: Make) -> None:
    server = site(GOOD)
    forbidden = trap(BAD, port=server.port)
    with session(server.port) as client:
        for host in ("good.test", GOOD, "mixed.test"):
            assert client.get(server.url(host=host)).text == "hello"
        for host in ("bad.test", BAD, f"[::ffff:{BAD}]", "0x7f000003", "2130706435"):
            with pytest.raises(DeniedError):
                client.get(forbidden.url(host=host))
        assert client.post(server.url(), data=b"x", impersonate="chrome").text == "hello"
    assert server.accepted == 3


def test_when_accepted_addresses_fail_the_error_is_curl_cffis_own(site: Make, trap: Make) -> None:
    forbidden = trap(BAD)
    with session(forbidden.port) as client:
        with pytest.raises(exceptions.RequestException) as caught:
            client.get(forbidden.url(host="mixed.test"))
    assert not isinstance(caught.value, netjail.DeniedError)


def test_a_denial_of_one_request_is_not_the_next_ones(site: Make, trap: Make) -> None:
    server = site(GOOD)
    forbidden = trap(BAD, port=server.port)
    with session(server.port) as client:
        assert client.get(server.url("/close", host="mixed.test")).text == "hello"
        with pytest.raises(exceptions.RequestException) as caught:
            client.get(f"http://{GOOD}:1/")
        assert not isinstance(caught.value, netjail.DeniedError)
        with pytest.raises(DeniedError):
            client.get(forbidden.url())


def test_a_denial_names_the_host_and_never_its_address(trap: Make) -> None:
    forbidden = trap(BAD)
    with session(forbidden.port) as client:
        with pytest.raises(exceptions.RequestException) as caught:
            client.get(forbidden.url(host="bad.test"))
    error = caught.value
    assert type(error) is DeniedError
    assert isinstance(error, PermissionError)
    assert (error.host, error.port) == ("bad.test", forbidden.port)
    assert [str(decision.address) for decision in error.decisions] == [BAD]
    assert BAD not in f"{error} {error.__cause__}"
    assert error.code == 7
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is DeniedError
    assert str(again) == str(error)


def test_the_rules_are_those_given_and_those_of_the_context_of_each_request(site: Make) -> None:
    server = site(GOOD)
    with session(server.port, None) as client:
        with pytest.raises(DeniedError, match="no rules are in force"):
            client.get(server.url())
        with use_rules(RULES):
            assert client.get(server.url()).text == "hello"
        with use_rules(Rules(allow=[BAD])), pytest.raises(DeniedError):
            client.get(server.url())
    with session(server.port) as client, use_rules(Rules(allow=[BAD])), pytest.raises(DeniedError):
        client.get(server.url())
    assert server.accepted == 1


@proves("curl_cffi", "pools")
@pytest.mark.parametrize("local", [True, False])
def test_connections_are_kept_and_each_belongs_to_its_rules(site: Make, local: bool) -> None:
    server = site(GOOD)
    with session(server.port, None, use_thread_local_curl=local) as client:
        for rules in (RULES, OTHERS, RULES, OTHERS, Rules(allow=[f"{GOOD}/32"])):
            with use_rules(rules):
                client.get(server.url())
    seen = [each.connection for each in server.seen]
    assert seen[0] == seen[2] == seen[4]
    assert seen[1] == seen[3] != seen[0]


def test_another_thread_goes_by_its_own_context(site: Make) -> None:
    server = site(GOOD)
    got: list[Any] = []
    with session(server.port, None) as client:

        def fetch(rules: Rules) -> None:
            with use_rules(rules):
                try:
                    got.append(client.get(server.url()).text)
                except DeniedError:
                    got.append("denied")

        with use_rules(RULES):
            client.get(server.url())
        for rules in (RULES, Rules(allow=[BAD])):
            thread = threading.Thread(target=fetch, args=(rules,))
            thread.start()
            thread.join()
    assert got == ["hello", "denied"]


@proves("curl_cffi", "announced")
@pytest.mark.parametrize("host", ["bad.test", BAD])
def test_a_redirect_is_judged(site: Make, trap: Make, host: str) -> None:
    server = site(GOOD)
    forbidden = trap(BAD, port=server.port)
    with session(server.port) as client:
        with pytest.raises(DeniedError) as caught:
            client.get(server.url(f"/redirect?to={forbidden.url(host=host)}", host="good.test"))
        assert client.get(server.url(f"/redirect?to={server.url(host='good.test')}")).text == "hello"
    assert caught.value.host == host


def test_a_stream_is_judged_and_read(site: Make, trap: Make) -> None:
    server = site(GOOD)
    with session(server.port) as client:
        with client.stream("GET", server.url("/stream?n=5")) as response:
            assert sum(len(chunk) for chunk in response.iter_content()) == 5000
        with pytest.raises(DeniedError):
            client.get(trap(BAD).url(), stream=True)
        client.executor.shutdown()


@proves("curl_cffi", "tls", "wrong-name")
def test_tls_checks_the_name(site: Make, server_tls: Make, pem: Make) -> None:
    server = site(GOOD, tls=server_tls("good.test"))
    with session(server.port, verify=str(pem("good.test").ca)) as client:
        assert client.get(server.url(host="good.test")).text == "hello"
        with pytest.raises(exceptions.RequestException) as caught:
            client.get(server.url(host="wrong.test"))
    assert caught.value.code == 60


def test_http3_sends_no_datagram_to_what_is_denied() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as denied, socket.socket(type=socket.SOCK_DGRAM) as allowed:
        denied.bind((BAD, 0))
        allowed.bind((GOOD, 0))
        with session(1, http_version=curl_cffi.CurlHttpVersion.V3ONLY, timeout=0.3) as client:
            with pytest.raises(exceptions.RequestException) as caught:
                client.get(f"https://{GOOD}:{allowed.getsockname()[1]}/")
            assert not isinstance(caught.value, DeniedError)
            with pytest.raises(DeniedError):
                client.get(f"https://{BAD}:{denied.getsockname()[1]}/")
        allowed.setblocking(False)
        denied.setblocking(False)
        assert allowed.recv(2000)
        with pytest.raises(BlockingIOError):
            denied.recv(2000)


@pytest.mark.skipif(not hasattr(curl_cffi.Session, "_request_once"), reason="this curl_cffi retries nothing")
def test_a_denial_is_not_retried(trap: Make) -> None:
    asked: list[str] = []

    class Counted:
        def rules_for(self, host: str, port: int) -> Rules:
            asked.append(host)
            return RULES

    with Session(Counted(), retry=3) as client, pytest.raises(DeniedError):
        client.get(trap(BAD).url())
    assert asked == [BAD]


REFUSED: list[dict[str, Any]] = [
    {"proxy": f"http://{GOOD}:3128"},
    {"proxies": {"all": f"socks5://{GOOD}:1080"}},
    {"dns": GOOD},
    {"doh_url": f"https://{GOOD}/dns-query"},
    {"curl_options": {OPTIONS.PROXY: f"http://{GOOD}:3128"}},
    {"curl_options": {OPTIONS.UNIX_SOCKET_PATH: "/var/run/docker.sock"}},
    {"curl_options": {OPTIONS.PROTOCOLS_STR: "all"}},
    {"curl_options": {OPTIONS.DOH_URL: "https://x"}},
]


@proves("curl_cffi", "refused")
@pytest.mark.parametrize("options", REFUSED, ids=lambda options: next(iter(options)))
def test_what_would_dial_past_the_rules_is_refused(site: Make, options: dict[str, Any]) -> None:
    for kind in (Session, AsyncSession):
        with pytest.raises(ValueError):
            kind(RULES, **options)
    server = site(GOOD)
    with session(server.port) as client:
        for name, value in options.items():
            if name != "curl_options":
                with pytest.raises(ValueError):
                    client.get(server.url(), **options)
            known = hasattr(client, name)
            setattr(client, name, value)
        if known:
            with pytest.raises(ValueError):
                client.get(server.url(), headers={"X-Secret": "1"})
    assert server.seen == []


@proves("curl_cffi", "refused")
def test_handles_and_shares_of_others_are_refused() -> None:
    for options in ({"curl": curl_cffi.Curl()}, {"curl_share": object()}, {"cache": True}):
        with pytest.raises(ValueError):
            Session(RULES, **options)
    with pytest.raises(ValueError):
        AsyncSession(RULES, async_curl=object())


@proves("curl_cffi", "refused")
def test_no_proxy_of_the_environment_is_used(site: Make, trap: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    server, proxy = site(GOOD), trap(GOOD)
    for name in ("http_proxy", "https_proxy", "all_proxy", "ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, f"http://{GOOD}:{proxy.port}")
    with session(server.port) as client:
        for _ in range(2):
            assert client.get(server.url()).text == "hello"


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://127.0.0.2/", "dict://127.0.0.2/"])
def test_only_the_web_is_enabled(url: str) -> None:
    with session(1) as client, pytest.raises(exceptions.RequestException) as caught:
        client.get(url)
    assert caught.value.code == 1


@contextmanager
def echo() -> Iterator[int]:
    """A websocket server that takes one handshake and says "hello"."""
    listener = socket.create_server((GOOD, 0))

    def serve() -> None:
        sock, _ = listener.accept()
        with sock, sock.makefile("rb") as lines:
            headers = dict(line.split(b": ") for line in iter(lines.readline, b"\r\n") if b": " in line)
            key = next(value for name, value in headers.items() if name.lower() == b"sec-websocket-key").strip()
            digest = hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
            accept = base64.b64encode(digest)
            head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            sock.sendall(head + b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n\x82\x05hello")
            lines.read()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        thread.join()
        listener.close()


def test_a_websocket_is_judged(trap: Make) -> None:
    forbidden = trap(BAD)
    with session(forbidden.port) as client, pytest.raises(DeniedError):
        client.ws_connect(f"ws://{BAD}:{forbidden.port}/")
    with echo() as port, session(port) as client:
        socket_ = client.ws_connect(f"ws://{GOOD}:{port}/")
        assert socket_.recv()[0] == b"hello"
        socket_.curl.close()


@pytest.mark.anyio
async def test_rules_that_accept_nothing_have_no_name_looked_up() -> None:
    """A lookup that failed would be another error."""
    url = "https://nowhere.invalid/path"
    for rules in (None, Rules()):
        with Session(rules, retry=2) as client:
            for ask in (client.get, client.ws_connect, lambda url, made=client: made.get(url, stream=True)):
                with pytest.raises(DeniedError) as caught:
                    ask(url)
                assert (caught.value.host, caught.value.port) == ("nowhere.invalid", 443)
            with pytest.raises(DeniedError, match=r"'nowhere\.invalid' port 8080:"):
                client.get("user:secret@nowhere.invalid:8080")
        async with AsyncSession(rules, max_clients=1, retry=2) as aclient:
            for method, options in (("get", {}), ("get", {"stream": True}), ("ws_connect", {})) * 2:
                with pytest.raises(DeniedError) as caught:
                    await getattr(aclient, method)(url, **options)
                assert (caught.value.host, caught.value.port) == ("nowhere.invalid", 443)


@pytest.mark.anyio
@proves("curl_cffi, async", "allowed", "denied", "literal", "announced")
async def test_async_fetches_what_the_rules_accept_and_dials_nothing_else(site: Make, trap: Make) -> None:
    server = site(GOOD)
    forbidden = trap(BAD, port=server.port)
    async with asession(server.port) as client:
        for host in ("good.test", GOOD, "mixed.test"):
            assert (await client.get(server.url(host=host))).text == "hello"
        for url in (
            forbidden.url(host="bad.test"),
            forbidden.url(),
            server.url(f"/redirect?to={forbidden.url()}"),
            server.url(f"/redirect?to={forbidden.url(host='bad.test')}"),
        ):
            with pytest.raises(DeniedError):
                await client.get(url)
            with pytest.raises(DeniedError):
                await client.get(url, stream=True)
        async with client.stream("GET", server.url("/stream?n=5")) as response:
            assert sum([len(chunk) async for chunk in response.aiter_content()]) == 5000


@pytest.mark.anyio
@proves("curl_cffi, async", "pools")
async def test_async_requests_go_by_the_rules_of_their_task(site: Make) -> None:
    server = site(GOOD)
    async with asession(server.port, None) as client:

        async def fetch(rules: Rules) -> Any:
            with use_rules(rules):
                return (await client.get(server.url())).text

        for rules in (RULES, OTHERS, RULES, OTHERS):
            assert await fetch(rules) == "hello"
        seen = [each.connection for each in server.seen]
        assert seen[0] == seen[2]
        assert seen[1] == seen[3] != seen[0]
        both = await asyncio.gather(fetch(RULES), fetch(Rules(allow=[BAD])), return_exceptions=True)
        assert both[0] == "hello"
        assert isinstance(both[1], DeniedError)


@pytest.mark.anyio
async def test_async_many_rules_take_turns_and_the_least_recently_used_are_closed(site: Make) -> None:
    server = site(GOOD)
    async with asession(server.port, None) as client:
        for number in range(70):
            with use_rules(Rules(allow=[GOOD, f"127.9.{number}.0/24"])):
                assert (await client.get(server.url())).text == "hello"
        assert len(client.acurl._made) == 64
    assert len(server.connections()) == 70


@pytest.mark.anyio
@proves("curl_cffi, async", "tls", "wrong-name")
async def test_async_tls_checks_the_name(site: Make, server_tls: Make, pem: Make) -> None:
    server = site(GOOD, tls=server_tls("good.test"))
    async with asession(server.port, verify=str(pem("good.test").ca)) as client:
        assert (await client.get(server.url(host="good.test"))).text == "hello"
        with pytest.raises(exceptions.RequestException) as caught:
            await client.get(server.url(host="wrong.test"))
    assert caught.value.code == 60


@pytest.mark.anyio
@proves("curl_cffi, async", "refused")
async def test_async_proxies_are_refused(site: Make, trap: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    server, proxy = site(GOOD), trap(GOOD)
    monkeypatch.setenv("http_proxy", f"http://{GOOD}:{proxy.port}")
    async with asession(server.port) as client:
        assert (await client.get(server.url())).text == "hello"
        with pytest.raises(ValueError):
            await client.get(server.url(), proxy=f"http://{GOOD}:{proxy.port}")
        client.proxies = {"all": f"http://{GOOD}:{proxy.port}"}
        with pytest.raises(ValueError):
            await client.get(server.url())


@pytest.mark.anyio
async def test_async_a_cancelled_request_leaves_nothing(site: Make) -> None:
    server = site(GOOD)
    async with asession(server.port) as client:
        task = asyncio.create_task(client.get(server.url("/stall")))
        while not server.seen:  # noqa: ASYNC110 - the server tells nobody
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await client.get(server.url())).text == "hello"


@pytest.mark.anyio
async def test_an_async_websocket_is_judged(trap: Make) -> None:
    forbidden = trap(BAD)
    async with asession(forbidden.port) as client:
        for host in (BAD, "localhost"):
            with pytest.raises(DeniedError) as caught:
                await client.ws_connect(f"ws://{host}:{forbidden.port}/")
            assert (caught.value.host, caught.value.port) == (host, forbidden.port)
