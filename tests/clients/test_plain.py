"""The plain ways of dialing, against real servers on loopback: 127.0.0.2 is allowed and 127.0.0.3 is not."""

from __future__ import annotations

import asyncio
import importlib.util
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any

import pytest

import netjail
from netjail import AsyncDialer, DeniedError, Dialer, Rules, use_rules
from netjail.loop import new_event_loop
from netjail.sockets import socket_factory
from tests.guard.harness import run_guarded
from tests.servers.names import BAD, GOOD, AsyncNames, Names
from tests.servers.site import Site

Make = Callable[..., Any]
RULES = Rules(allow=[GOOD])

pytestmark = pytest.mark.usefixtures("nothing_left_behind")

uvloop: Any = None
if importlib.util.find_spec("uvloop") is not None:
    import uvloop

    uvloop.new_event_loop().close()  # libuv opens a pipe with the first loop, and never closes it

needs_uvloop = pytest.mark.skipif(uvloop is None, reason="uvloop is not installed")
REQUEST = b"GET / HTTP/1.0\r\n\r\n"
ANSWER = b"HTTP/1.1 200"


@pytest.fixture
def plain_site(site: Make, trap: Make) -> Site:
    """A server on the allowed address, with nothing reached on the same port of the other."""
    server: Site = site(GOOD)
    trap(BAD, port=server.port)
    return server


@pytest.fixture
def tls_site(site: Make, server_tls: Make) -> Site:
    made: Site = site(GOOD, tls=server_tls("good.test"))
    return made


def rows(*names: str) -> Callable[[str], list[Any]]:
    """The parameters of a test that proves ``what`` for each of these rows."""

    def proving(what: str) -> list[Any]:
        marks = {name: [needs_uvloop] if "uvloop" in name else [] for name in names}
        return [pytest.param(name, id=name, marks=[*marks[name], pytest.mark.proves(name, what)]) for name in names]

    return proving


# Sockets.

SYNC = rows("socket", "socket, factory")


def dial(row: str, host: str, port: int, rules: Rules | None = RULES) -> socket.socket:
    if row == "socket":
        return netjail.create_connection((host, port), 5, rules=rules, resolver=Names())
    sock = socket_factory(rules, resolver=Names())()
    try:
        sock.connect((host, port))
    except BaseException:
        sock.close()
        raise
    return sock


def ask(sock: socket.socket) -> bytes:
    sock.sendall(REQUEST)
    return sock.recv(len(ANSWER))


@pytest.mark.parametrize("row", SYNC("allowed"))
def test_a_socket_reaches_an_allowed_name(row: str, plain_site: Site) -> None:
    for host in ("good.test", "mixed.test", GOOD):
        with dial(row, host, plain_site.port) as sock:
            assert ask(sock) == ANSWER
    with use_rules(RULES), dial(row, "good.test", plain_site.port, None) as sock:
        assert ask(sock) == ANSWER


@pytest.mark.parametrize("row", SYNC("denied"))
def test_a_socket_opens_nothing_at_a_denied_name(row: str, plain_site: Site) -> None:
    with pytest.raises(DeniedError):
        dial(row, "bad.test", plain_site.port)


@pytest.mark.parametrize("row", SYNC("literal"))
def test_a_socket_opens_nothing_at_a_denied_address(row: str, plain_site: Site) -> None:
    with pytest.raises(DeniedError):
        dial(row, BAD, plain_site.port)


@pytest.mark.parametrize("row", SYNC("tls"))
def test_tls_over_a_socket_checks_the_name(row: str, tls_site: Site, client_tls: ssl.SSLContext) -> None:
    with client_tls.wrap_socket(dial(row, "good.test", tls_site.port), server_hostname="good.test") as sock:
        assert ask(sock) == ANSWER


@pytest.mark.parametrize("row", SYNC("wrong-name"))
def test_tls_over_a_socket_fails_for_another_name(row: str, tls_site: Site, client_tls: ssl.SSLContext) -> None:
    with dial(row, "wrong.test", tls_site.port) as sock, pytest.raises(ssl.SSLCertVerificationError):
        client_tls.wrap_socket(sock, server_hostname="wrong.test")


# Streams.

STREAMS = rows("asyncio streams", "asyncio streams, loop", "uvloop streams", "uvloop streams, loop")


def stream(row: str, use: Callable[[Any, Any], Awaitable[Any]], host: str, port: int, **options: Any) -> Any:
    """What ``use`` makes of the reader and the writer of a connection."""
    on_uvloop = row.startswith("uvloop")
    if row.endswith("loop"):
        make: Any = partial(new_event_loop, RULES, uvloop=on_uvloop, resolver=AsyncNames())
        connect: Any = asyncio.open_connection
    else:
        make = uvloop.new_event_loop if on_uvloop else asyncio.SelectorEventLoop
        connect = partial(netjail.open_connection, rules=RULES, resolver=AsyncNames())

    async def main() -> Any:
        reader, writer = await connect(host, port, **options)
        try:
            return await use(reader, writer)
        finally:
            writer.close()
            await writer.wait_closed()

    with asyncio.Runner(loop_factory=make) as runner:
        return runner.run(main())


async def first_line(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    writer.write(REQUEST)
    return (await reader.read())[: len(ANSWER)]


@pytest.mark.parametrize("row", STREAMS("allowed"))
def test_a_stream_reaches_an_allowed_name(row: str, plain_site: Site) -> None:
    for host in ("good.test", "mixed.test", GOOD):
        assert stream(row, first_line, host, plain_site.port) == ANSWER


@pytest.mark.parametrize("row", STREAMS("denied"))
def test_a_stream_opens_nothing_at_a_denied_name(row: str, plain_site: Site) -> None:
    with pytest.raises(DeniedError):
        stream(row, first_line, "bad.test", plain_site.port)


@pytest.mark.parametrize("row", STREAMS("literal"))
def test_a_stream_opens_nothing_at_a_denied_address(row: str, plain_site: Site) -> None:
    with pytest.raises(DeniedError):
        stream(row, first_line, BAD, plain_site.port)


@pytest.mark.parametrize("row", STREAMS("tls"))
def test_a_stream_over_tls_checks_the_name(row: str, tls_site: Site, client_tls: ssl.SSLContext) -> None:
    assert stream(row, first_line, "good.test", tls_site.port, ssl=client_tls) == ANSWER


@pytest.mark.parametrize("row", STREAMS("wrong-name"))
def test_a_stream_over_tls_fails_for_another_name(row: str, tls_site: Site, client_tls: ssl.SSLContext) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        stream(row, first_line, "wrong.test", tls_site.port, ssl=client_tls)


# Datagrams.


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a UDP socket on the allowed address that somebody must send to, and of one that nobody may."""
    with socket.socket(type=socket.SOCK_DGRAM) as good, socket.socket(type=socket.SOCK_DGRAM) as bad:
        good.bind((GOOD, 0))
        port = good.getsockname()[1]
        bad.bind((BAD, port))
        yield port
        good.setblocking(False)
        assert good.recv(20) == b"hello"
        bad.setblocking(False)
        with pytest.raises(BlockingIOError):
            bad.recv(1)


@pytest.mark.proves("UDP, socket", "allowed", "denied", "literal")
@pytest.mark.parametrize("how", ["dialer", "factory"])
def test_a_datagram_socket_sends_to_what_is_allowed(how: str, echo: int) -> None:
    def send(host: str) -> None:
        if how == "dialer":
            with Dialer(RULES, resolver=Names()).connect((host, echo), type=socket.SOCK_DGRAM) as sock:
                sock.send(b"hello")
        else:
            with socket_factory(RULES, resolver=Names())(type=socket.SOCK_DGRAM) as sock:
                sock.sendto(b"hello", (host, echo))

    send("good.test")
    for host in ("bad.test", BAD):
        with pytest.raises(DeniedError):
            send(host)


@pytest.mark.proves("UDP, asyncio", "allowed", "denied", "literal", "refused")
@pytest.mark.parametrize(
    "on_uvloop", [pytest.param(False, id="asyncio"), pytest.param(True, id="uvloop", marks=needs_uvloop)]
)
def test_a_datagram_endpoint_sends_to_what_is_allowed(on_uvloop: bool, echo: int) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        endpoint = partial(loop.create_datagram_endpoint, asyncio.DatagramProtocol)
        transport, _ = await endpoint(remote_addr=("good.test", echo))
        transport.sendto(b"hello")
        transport.close()
        for host in ("bad.test", BAD):
            with pytest.raises(DeniedError):
                await endpoint(remote_addr=(host, echo))
        with pytest.raises(DeniedError, match="could send to anybody"):
            await endpoint(local_addr=(GOOD, 0))

    with asyncio.Runner(loop_factory=partial(new_event_loop, RULES, uvloop=on_uvloop, resolver=AsyncNames())) as runner:
        runner.run(main())


@pytest.mark.proves("UDP, asyncio", "allowed", "denied")
def test_a_dialler_gives_a_connected_datagram_socket_to_asyncio(echo: int) -> None:
    async def main() -> None:
        dialer = AsyncDialer(RULES, resolver=AsyncNames())
        loop = asyncio.get_running_loop()
        sock = await dialer.connect(("good.test", echo), type=socket.SOCK_DGRAM)
        transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, sock=sock)
        transport.sendto(b"hello")
        transport.close()
        with pytest.raises(DeniedError):
            await dialer.connect(("bad.test", echo), type=socket.SOCK_DGRAM)

    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(main())


# Under the guard, where the program knows nothing of netjail.

TCP_PROGRAMS = {
    "socket, guard": """
def fetch(host, port, tls):
    sock = socket.create_connection((host, port))
    with tls.wrap_socket(sock, server_hostname=host) if tls else sock as sock:
        sock.sendall(REQUEST)
        assert sock.recv(12) == ANSWER
""",
    "asyncio streams, guard": """
import asyncio
async def main(host, port, tls):
    reader, writer = await asyncio.open_connection(host, port, ssl=tls)
    writer.write(REQUEST)
    assert (await reader.read()).startswith(ANSWER)
    writer.close()
def fetch(*args): asyncio.run(main(*args))
""",
    "uvloop streams, guard": """
import asyncio, uvloop
async def getaddrinfo(self, host, port, **options):
    return socket.getaddrinfo(host, port, **options)
uvloop.Loop.getaddrinfo = getaddrinfo  # the names of the tests, which its own, in C, does not know
async def main(host, port, tls):
    reader, writer = await asyncio.open_connection(host, port, ssl=tls)
    writer.write(REQUEST)
    assert (await reader.read()).startswith(ANSWER)
    writer.close()
def fetch(*args): uvloop.run(main(*args))
""",
}


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(
            row,
            id=row,
            marks=[
                *([needs_uvloop] if "uvloop" in row else []),
                pytest.mark.proves(row, "allowed", "denied", "literal", "tls", "wrong-name"),
            ],
        )
        for row in TCP_PROGRAMS
    ],
)
def test_a_program_under_the_guard_reaches_what_is_allowed(
    row: str, plain_site: Site, tls_site: Site, pem: Make
) -> None:
    lines = run_guarded(
        "import ssl\n"
        + TCP_PROGRAMS[row]
        + """
tls = ssl.create_default_context(cafile=CA)
print(outcome(fetch, "good.test", plain, None), outcome(fetch, "bad.test", plain, None))
print(outcome(fetch, BAD, plain, None), outcome(fetch, "good.test", secure, tls))
print("CERTIFICATE_VERIFY_FAILED" in outcome(fetch, "wrong.test", secure, tls))
""",
        REQUEST=REQUEST,
        ANSWER=ANSWER,
        CA=str(pem("good.test").ca),
        plain=plain_site.port,
        secure=tls_site.port,
    )
    assert lines == ["ok denied", "denied ok", "True"]


UDP_PROGRAMS = {
    "UDP, socket, guard": """
def send(host, port):
    address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0][4]
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.sendto(b"hello", address)
""",
    "UDP, asyncio, guard": """
import asyncio
async def main(host, port):
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, remote_addr=(host, port))
    transport.sendto(b"hello")
    transport.close()
def send(*args): asyncio.run(main(*args))
""",
    "UDP, anyio, guard": """
import anyio
async def main(host, port):
    async with await anyio.create_connected_udp_socket(host, port) as sock:
        await sock.send(b"hello")
def send(*args): anyio.run(main, *args)
""",
    "UDP, anyio on trio, guard": """
import anyio, trio
async def main(host, port):
    async with await anyio.create_connected_udp_socket(host, port) as sock:
        await sock.send(b"hello")
def send(*args): anyio.run(main, *args, backend="trio")
""",
    "UDP, trio, guard": """
import trio
async def main(host, port):
    address = (await trio.socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM))[0][4]
    with trio.socket.socket(type=socket.SOCK_DGRAM) as sock:
        await sock.sendto(b"hello", address)
def send(*args): trio.run(main, *args)
""",
}


@pytest.mark.parametrize(
    "row",
    [pytest.param(row, id=row, marks=pytest.mark.proves(row, "allowed", "denied", "literal")) for row in UDP_PROGRAMS],
)
def test_a_program_under_the_guard_sends_datagrams_to_what_is_allowed(row: str, echo: int) -> None:
    lines = run_guarded(
        UDP_PROGRAMS[row]
        + """
print(outcome(send, "good.test", port), outcome(send, "bad.test", port), outcome(send, BAD, port))
""",
        port=echo,
    )
    assert lines == ["ok denied denied"]
