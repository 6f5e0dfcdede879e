"""anyio's connect_tcp under rules, on asyncio and on trio: 127.0.0.2 is allowed and 127.0.0.3 is not."""

from __future__ import annotations

import pickle
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import anyio.abc
import pytest

import netjail
from netjail import Rules, use_rules
from netjail.clients.anyio import DeniedError, connect_tcp
from tests.guard.harness import run_guarded
from tests.servers.names import BAD, GOOD, AsyncNames
from tests.servers.site import Site

Make = Callable[..., Any]
RULES = Rules(allow=[GOOD])
REQUEST = b"GET / HTTP/1.0\r\n\r\n"
ANSWER = b"HTTP/1.1 200"

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("nothing_left_behind")]

ROWS = ("anyio, asyncio", "anyio, trio")


@pytest.fixture(scope="module", autouse=True)
def trio_keeps_no_thread() -> Iterator[None]:
    """trio's worker threads wait ten seconds for more to do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trio._core._thread_cache.IDLE_TIMEOUT", 0.01)
        yield


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


def proves(*what: str) -> Callable[[Any], Any]:
    """Marks a test, which runs on both, as the proof of both rows."""

    def mark(test: Any) -> Any:
        for row in ROWS:
            test = pytest.mark.proves(row, *what)(test)
        return test

    return mark


async def ask(stream: Any) -> bytes:
    async with stream:
        await stream.send(REQUEST)
        return bytes(await stream.receive())[: len(ANSWER)]


@proves("allowed")
@pytest.mark.parametrize("host", ["good.test", "mixed.test", GOOD])
async def test_an_allowed_name_is_reached(site: Make, trap: Make, host: str) -> None:
    server: Site = site(GOOD)
    trap(BAD, port=server.port)
    assert await ask(await connect_tcp(host, server.port, rules=RULES, resolver=AsyncNames())) == ANSWER
    with use_rules(RULES):
        assert await ask(await connect_tcp(host, server.port, resolver=AsyncNames())) == ANSWER


@proves("denied", "literal")
@pytest.mark.parametrize("host", ["bad.test", BAD])
async def test_a_denied_target_opens_nothing(trap: Make, host: str) -> None:
    bad = trap(BAD)
    with pytest.raises(DeniedError) as caught:
        await connect_tcp(host, bad.port, rules=RULES, resolver=AsyncNames())
    assert isinstance(caught.value, netjail.DeniedError)
    assert isinstance(caught.value, anyio.ConnectionFailed)
    copied = pickle.loads(pickle.dumps(caught.value))
    assert (type(copied), str(copied)) == (DeniedError, str(caught.value))
    with pytest.raises(DeniedError, match="no rules are in force"):
        await connect_tcp(host, bad.port, resolver=AsyncNames())


async def test_a_mixed_name_is_refused_where_that_is_asked_for(trap: Make) -> None:
    with pytest.raises(DeniedError, match="not every one"):
        await connect_tcp("mixed.test", trap(BAD).port, rules=RULES, resolver=AsyncNames(), mixed="refuse")


@proves("tls")
async def test_tls_checks_the_name(site: Make, server_tls: Make, client_tls: ssl.SSLContext) -> None:
    server: Site = site(GOOD, tls=server_tls("good.test"))
    options: dict[str, Any] = {
        "rules": RULES,
        "resolver": AsyncNames(),
        "ssl_context": client_tls,
        "tls_standard_compatible": False,
    }
    assert await ask(await connect_tcp("good.test", server.port, **options)) == ANSWER
    assert await ask(await connect_tcp(GOOD, server.port, tls_hostname="good.test", **options)) == ANSWER
    with pytest.raises(ssl.SSLCertVerificationError):  # which the default context does not trust
        await connect_tcp("good.test", server.port, rules=RULES, resolver=AsyncNames(), tls=True)


@proves("wrong-name")
async def test_a_certificate_for_another_name_fails(site: Make, server_tls: Make, client_tls: ssl.SSLContext) -> None:
    server: Site = site(GOOD, tls=server_tls("good.test"))
    with pytest.raises(ssl.SSLCertVerificationError):
        await connect_tcp("wrong.test", server.port, rules=RULES, resolver=AsyncNames(), ssl_context=client_tls)


async def test_all_accepted_addresses_are_tried(site: Make) -> None:
    server: Site = site(GOOD)
    names = AsyncNames({"two.test": ["127.0.0.4", GOOD], "none.test": ["127.0.0.4", "127.0.0.9"]})
    rules = Rules(allow=["127.0.0.0/8"])
    assert await ask(await connect_tcp("two.test", server.port, rules=rules, resolver=names)) == ANSWER
    with pytest.raises(OSError, match="All connection attempts failed"):
        await connect_tcp("none.test", server.port, rules=rules, resolver=names)


async def test_a_connect_of_ones_own_is_given_accepted_addresses(site: Make) -> None:
    server: Site = site(GOOD)
    asked: list[Any] = []

    async def connect(address: Any) -> socket.socket:
        asked.append(address)
        sock = socket.create_connection(address)
        sock.setblocking(False)
        return sock

    stream = await connect_tcp("mixed.test", server.port, rules=RULES, resolver=AsyncNames(), connect=connect)
    assert await ask(stream) == ANSWER
    assert asked == [(GOOD, server.port)]


async def test_the_local_address_is_the_one_given(site: Make) -> None:
    server: Site = site(GOOD)
    stream = await connect_tcp("good.test", server.port, local_host="127.0.0.9", rules=RULES, resolver=AsyncNames())
    async with stream:
        assert stream.extra(anyio.abc.SocketAttribute.local_address)[0] == "127.0.0.9"


async def test_a_name_of_the_system_is_looked_up(trap: Make) -> None:
    with pytest.raises(DeniedError):
        await connect_tcp("localhost", trap("127.0.0.1").port, rules=RULES)


async def test_a_deadline_of_the_callers_ends_a_lookup() -> None:
    class Hanging:
        async def lookup(self, host: str, family: int) -> list[str]:
            await anyio.sleep_forever()
            return []

    with pytest.raises(TimeoutError), anyio.fail_after(0.01):
        await connect_tcp("good.test", 1, rules=RULES, resolver=Hanging())


@pytest.mark.parametrize(
    "backend",
    [
        pytest.param(
            name, marks=pytest.mark.proves(f"anyio, {name}, guard", "allowed", "denied", "literal", "tls", "wrong-name")
        )
        for name in ("asyncio", "trio")
    ],
)
def test_a_program_under_the_guard_reaches_what_is_allowed(
    backend: str, site: Make, trap: Make, server_tls: Make, pem: Make
) -> None:
    plain, secure = site(GOOD), site(GOOD, tls=server_tls("good.test"))
    trap(BAD, port=plain.port)
    lines = run_guarded(
        """
        import anyio, ssl
        tls = ssl.create_default_context(cafile=CA)
        async def main(host, port, context):
            async with await anyio.connect_tcp(
                host, port, ssl_context=context, tls_standard_compatible=False
            ) as stream:
                await stream.send(REQUEST)
                assert (await stream.receive()).startswith(ANSWER)
        def fetch(*args): anyio.run(main, *args, backend=backend)
        print(outcome(fetch, "good.test", plain, None), outcome(fetch, "bad.test", plain, None))
        print(outcome(fetch, BAD, plain, None), outcome(fetch, "good.test", secure, tls))
        print("CERTIFICATE_VERIFY_FAILED" in outcome(fetch, "wrong.test", secure, tls))
        """,
        REQUEST=REQUEST,
        ANSWER=ANSWER,
        CA=str(pem("good.test").ca),
        backend=backend,
        plain=plain.port,
        secure=secure.port,
    )
    assert lines == ["ok denied", "denied ok", "True"]
