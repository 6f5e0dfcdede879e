"""trio's streams under rules, against real servers on loopback: 127.0.0.2 is allowed and 127.0.0.3 is not."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import trio

import netjail
from netjail import Rules, use_rules
from netjail.clients.trio import DeniedError, open_ssl_over_tcp_stream, open_tcp_stream
from tests.guard.harness import run_guarded
from tests.servers.names import BAD, GOOD, AsyncNames
from tests.servers.site import Site

Make = Callable[..., Any]
RULES = Rules(allow=[GOOD])
REQUEST = b"GET / HTTP/1.0\r\n\r\n"
ANSWER = b"HTTP/1.1 200"
NAME = "trio"

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("nothing_left_behind")]


@pytest.fixture(scope="module", autouse=True)
def trio_keeps_no_thread() -> Iterator[None]:
    """Its worker threads wait ten seconds for more to do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trio._core._thread_cache.IDLE_TIMEOUT", 0.01)
        yield


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


async def ask(stream: Any) -> bytes:
    async with stream:
        await stream.send_all(REQUEST)
        return bytes(await stream.receive_some())[: len(ANSWER)]


@pytest.mark.proves(NAME, "allowed")
@pytest.mark.parametrize("host", ["good.test", b"good.test", "mixed.test", GOOD])
async def test_an_allowed_name_is_reached(site: Make, trap: Make, host: str | bytes) -> None:
    server: Site = site(GOOD)
    trap(BAD, port=server.port)
    stream = await open_tcp_stream(host, server.port, rules=RULES, resolver=AsyncNames())
    assert type(stream) is trio.SocketStream
    assert await ask(stream) == ANSWER
    with use_rules(RULES):
        assert await ask(await open_tcp_stream(host, server.port, resolver=AsyncNames())) == ANSWER


@pytest.mark.proves(NAME, "denied", "literal")
@pytest.mark.parametrize("host", ["bad.test", BAD])
@pytest.mark.parametrize("dial", [open_tcp_stream, open_ssl_over_tcp_stream])
async def test_a_denied_target_opens_nothing(trap: Make, host: str, dial: Make) -> None:
    bad = trap(BAD)
    with pytest.raises(DeniedError) as caught:
        await dial(host, bad.port, rules=RULES, resolver=AsyncNames())
    assert isinstance(caught.value, OSError)
    assert DeniedError is netjail.DeniedError
    with pytest.raises(DeniedError, match="no rules are in force"):
        await dial(host, bad.port, resolver=AsyncNames())


@pytest.mark.parametrize("dial", [open_tcp_stream, open_ssl_over_tcp_stream])
async def test_a_mixed_name_is_refused_where_that_is_asked_for(trap: Make, dial: Make) -> None:
    with pytest.raises(DeniedError, match="not every one"):
        await dial("mixed.test", trap(BAD).port, rules=RULES, resolver=AsyncNames(), mixed="refuse")


@pytest.mark.proves(NAME, "tls")
async def test_tls_checks_the_name(site: Make, server_tls: Make, client_tls: ssl.SSLContext) -> None:
    server: Site = site(GOOD, tls=server_tls("good.test"))
    options: dict[str, Any] = {"rules": RULES, "resolver": AsyncNames(), "https_compatible": True}
    stream = await open_ssl_over_tcp_stream("good.test", server.port, ssl_context=client_tls, **options)
    assert await ask(stream) == ANSWER
    async with await open_ssl_over_tcp_stream("good.test", server.port, **options) as stream:
        with pytest.raises(trio.BrokenResourceError) as caught:  # the default context does not trust it
            await stream.do_handshake()
    assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)


@pytest.mark.proves(NAME, "wrong-name")
async def test_a_certificate_for_another_name_fails(site: Make, server_tls: Make, client_tls: ssl.SSLContext) -> None:
    server: Site = site(GOOD, tls=server_tls("good.test"))
    options: dict[str, Any] = {"rules": RULES, "resolver": AsyncNames(), "ssl_context": client_tls}
    async with await open_ssl_over_tcp_stream("wrong.test", server.port, **options) as stream:
        with pytest.raises(trio.BrokenResourceError) as caught:
            await stream.do_handshake()
    assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)


async def test_all_accepted_addresses_are_tried(site: Make) -> None:
    server: Site = site(GOOD)
    names = AsyncNames({"two.test": ["127.0.0.4", GOOD], "none.test": ["127.0.0.4", "127.0.0.9"]})
    options: dict[str, Any] = {"rules": Rules(allow=["127.0.0.0/8"]), "resolver": names}
    assert await ask(await open_tcp_stream("two.test", server.port, happy_eyeballs_delay=None, **options)) == ANSWER
    with pytest.raises(OSError, match="failed"):
        await open_tcp_stream("none.test", server.port, **options)


async def test_a_connect_of_ones_own_is_given_accepted_addresses(site: Make) -> None:
    server: Site = site(GOOD)
    asked: list[Any] = []

    async def connect(address: Any) -> socket.socket:
        asked.append(address)
        return socket.create_connection(address)

    stream = await open_tcp_stream("mixed.test", server.port, rules=RULES, resolver=AsyncNames(), connect=connect)
    assert await ask(stream) == ANSWER
    assert asked == [(GOOD, server.port)]


async def test_the_local_address_is_the_one_given(site: Make) -> None:
    server: Site = site(GOOD)
    async with await open_tcp_stream(
        "good.test", server.port, local_address="127.0.0.9", rules=RULES, resolver=AsyncNames()
    ) as stream:
        assert stream.socket.getsockname()[0] == "127.0.0.9"


async def test_a_deadline_of_the_callers_ends_a_lookup() -> None:
    class Hanging:
        async def lookup(self, host: str, family: int) -> list[str]:
            await trio.sleep_forever()
            return []

    with pytest.raises(trio.TooSlowError), trio.fail_after(0.01):
        await open_tcp_stream("good.test", 1, rules=RULES, resolver=Hanging())


@pytest.mark.proves("trio, guard", "allowed", "denied", "literal", "tls", "wrong-name")
def test_a_program_under_the_guard_reaches_what_is_allowed(site: Make, trap: Make, server_tls: Make, pem: Make) -> None:
    plain, secure = site(GOOD), site(GOOD, tls=server_tls("good.test"))
    trap(BAD, port=plain.port)
    lines = run_guarded(
        """
        import ssl, trio
        tls = ssl.create_default_context(cafile=CA)
        async def main(host, port, context):
            if context:
                stream = await trio.open_ssl_over_tcp_stream(host, port, ssl_context=context, https_compatible=True)
            else:
                stream = await trio.open_tcp_stream(host, port)
            async with stream:
                await stream.send_all(REQUEST)
                assert (await stream.receive_some()).startswith(ANSWER)
        def fetch(*args):
            try:
                trio.run(main, *args)
            except trio.BrokenResourceError as error:
                raise error.__cause__
        print(outcome(fetch, "good.test", plain, None), outcome(fetch, "bad.test", plain, None))
        print(outcome(fetch, BAD, plain, None), outcome(fetch, "good.test", secure, tls))
        print("CERTIFICATE_VERIFY_FAILED" in outcome(fetch, "wrong.test", secure, tls))
        """,
        REQUEST=REQUEST,
        ANSWER=ANSWER,
        CA=str(pem("good.test").ca),
        plain=plain.port,
        secure=secure.port,
    )
    assert lines == ["ok denied", "denied ok", "True"]
