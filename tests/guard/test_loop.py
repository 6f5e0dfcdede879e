"""Libraries on netjail's event loop, on asyncio's loop and on uvloop's."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from netjail import AsyncDialer, DeniedError, Rules, use_rules
from netjail.loop import EventLoop, new_event_loop
from tests.servers.names import AsyncNames

GOOD, BAD = "127.0.0.2", "127.0.0.3"
RULES = Rules(allow=[GOOD])
NAMES = {"good.test": [GOOD], "bad.test": [BAD], "mixed.test": [BAD, GOOD]}


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request) -> Callable[..., Any]:
    """Runs a coroutine on a loop with the rules and the options given."""
    if request.param == "uvloop":
        pytest.importorskip("uvloop").new_event_loop().close()  # the first one opens a pipe for good
    request.getfixturevalue("nothing_left_behind")

    def run_(coroutine: Any, rules: Rules | None = RULES, **options: Any) -> Any:
        options.setdefault("resolver", AsyncNames(NAMES))
        factory = partial(new_event_loop, rules, uvloop=request.param == "uvloop", **options)
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(coroutine)

    return run_


async def read(host: Any, port: Any, **options: Any) -> bytes:
    """What a site answers on a connection that the running loop makes."""
    reader, writer = await asyncio.open_connection(host, port, **options)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer.rpartition(b"\r\n\r\n")[2]


def test_a_connection_goes_to_what_the_rules_accept(run, site):
    good = site(GOOD)
    assert run(read(GOOD, good.port)) == b"hello"
    assert run(read("good.test", good.port)) == b"hello"
    assert run(read("mixed.test", str(good.port))) == b"hello"
    assert good.accepted == 3


@pytest.mark.parametrize("host", [BAD, "bad.test", "::ffff:127.0.0.3", b"bad.test"])
def test_a_connection_elsewhere_is_denied(host, run, trap):
    with pytest.raises(DeniedError):
        run(read(host, trap(BAD).port))


def test_no_host_is_this_host(run, trap):
    """asyncio connects to loopback then."""
    with pytest.raises(DeniedError):
        run(read(None, trap("127.0.0.1").port), resolver=AsyncNames({"localhost": ["127.0.0.1"]}))


def test_a_name_of_which_any_address_is_denied_can_be_refused(run, trap):
    with pytest.raises(DeniedError):
        run(read("mixed.test", trap(GOOD).port), mixed="refuse")


def test_the_name_is_looked_up_once_and_what_was_judged_is_dialled(run, site, trap):
    good = site(GOOD)
    names = AsyncNames({"rebinds.test": iter([[GOOD], [BAD]])})
    trap(BAD, port=good.port)
    assert run(read("rebinds.test", good.port), resolver=names) == b"hello"
    assert len(names.asked) == 1


def test_the_context_of_the_calling_task_narrows_the_rules_of_the_loop(run, site, trap):
    good, other = site(GOOD), site("127.0.0.4")

    async def task(rules: Rules | None, *targets: tuple[str, int]) -> list[str]:
        seen = []
        for target in targets:
            try:
                if rules is None:
                    await read(*target)
                else:
                    with use_rules(rules):
                        await read(*target)
                seen.append("ok")
            except DeniedError:
                seen.append("denied")
        return seen

    async def main() -> list[list[str]]:
        targets = ((GOOD, good.port), ("127.0.0.4", other.port), (BAD, trap(BAD).port))
        given = (None, RULES, Rules(allow=["127.0.0.4", BAD]), Rules())
        return await asyncio.gather(*(task(rules, *targets) for rules in given))

    assert run(main(), Rules(allow=[GOOD, "127.0.0.4"])) == [
        ["ok", "ok", "denied"],
        ["ok", "denied", "denied"],
        ["denied", "ok", "denied"],
        ["denied", "denied", "denied"],
    ]


def test_without_any_rules_everything_is_denied_and_nothing_is_looked_up(run):
    names = AsyncNames(NAMES)
    with pytest.raises(DeniedError):
        run(read("good.test", 9), None, resolver=names)
    assert names.asked == []

    async def under_rules() -> None:
        with use_rules(RULES):
            await read(BAD, 9)

    with pytest.raises(DeniedError):
        run(under_rules(), None)


def test_a_dialer_on_the_loop_must_pass_the_rules_of_the_loop_as_well(run, trap):
    async def main() -> None:
        await AsyncDialer(Rules(allow=["0.0.0.0/0"])).connect((BAD, trap(BAD).port))

    with pytest.raises(DeniedError):
        run(main())


def test_tls_checks_the_name_that_was_asked_for(run, site, server_tls, client_tls):
    good = site(GOOD, tls=server_tls("good.test"))
    assert run(read("good.test", good.port, ssl=client_tls, ssl_handshake_timeout=9)) == b"hello"
    assert run(read(GOOD, good.port, ssl=client_tls, server_hostname="good.test")) == b"hello"
    with pytest.raises(ssl.SSLCertVerificationError):
        run(read("mixed.test", good.port, ssl=client_tls))
    with pytest.raises(ssl.SSLCertVerificationError):
        run(read(GOOD, good.port, ssl=client_tls))


def test_going_over_to_tls_needs_the_name_that_the_context_checks(run, site, server_tls, client_tls):
    good = site(GOOD, tls=server_tls("good.test"))

    async def go_over(name: str | None, context: ssl.SSLContext = client_tls) -> None:
        _, writer = await asyncio.open_connection("good.test", good.port)
        try:
            protocol = writer.transport.get_protocol()
            loop = asyncio.get_running_loop()
            transport: Any = await loop.start_tls(writer.transport, protocol, context, server_hostname=name)
            transport.abort()
        finally:
            writer.transport.abort()

    run(go_over("good.test"))
    with pytest.raises(ssl.SSLCertVerificationError):
        run(go_over("wrong.test"))
    with pytest.raises(ValueError, match="start_tls without server_hostname"):
        run(go_over(None))
    unchecked = ssl.create_default_context()
    unchecked.check_hostname, unchecked.verify_mode = False, ssl.CERT_NONE
    run(go_over(None, unchecked))


def test_the_arguments_of_the_plain_one_are_taken(run, site):
    good = site(GOOD)
    arguments: dict[str, Any] = {
        "family": socket.AF_INET,
        "proto": socket.IPPROTO_TCP,
        "flags": socket.AI_ADDRCONFIG,
        "local_addr": ("127.0.0.7", 0),
        "happy_eyeballs_delay": 0.25,
        "interleave": 1,
    }
    assert run(read("good.test", good.port, **arguments)) == b"hello"
    closed = socket.socket()
    closed.bind((GOOD, 0))
    with closed, pytest.RaisesGroup(ConnectionRefusedError):
        run(read("good.test", closed.getsockname()[1], all_errors=True))
    with pytest.raises(socket.gaierror):
        run(read("good.test", good.port, flags=socket.AI_NUMERICHOST))
    with pytest.raises(ValueError, match="proto"):
        run(read("good.test", good.port, proto=socket.IPPROTO_UDP))
    with pytest.raises(ValueError, match="ssl"):
        run(read("good.test", good.port, server_hostname="good.test"))
    with pytest.raises(TypeError):
        run(read("good.test", good.port, colour="green"))
    with pytest.raises(ValueError, match="sock"):
        run(read(None, None))
    assert good.accepted == 1


def test_a_socket_that_was_connected_elsewhere_passes(run, site):
    good = site(GOOD)
    assert run(read(None, None, sock=socket.create_connection((GOOD, good.port)))) == b"hello"
    sock = socket.create_connection((GOOD, good.port))
    with sock, pytest.raises(ValueError, match="same time"):
        run(read(GOOD, good.port, sock=sock))


def test_unix_sockets_pass(run, tmp_path):
    path = str(tmp_path / "s")

    async def main() -> bytes:
        async def serve(_: Any, writer: asyncio.StreamWriter) -> None:
            writer.write(b"hello")
            writer.close()

        async with await asyncio.start_unix_server(serve, path):
            reader, writer = await asyncio.open_unix_connection(path)
            answer = await reader.read()
            writer.close()
            return answer

    assert run(main()) == b"hello"


def test_sock_connect_judges_addresses_and_what_names_lead_to(run, site, trap):
    good, bad = site(GOOD), trap(BAD)

    async def connect(*address: Any, family: int = socket.AF_INET) -> str:
        with socket.socket(family) as sock:
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, address)
            return str(sock.getpeername()[0])

    assert run(connect(GOOD, good.port)) == GOOD
    assert run(connect("mixed.test", good.port)) == GOOD
    for host in (BAD, "bad.test"):
        with pytest.raises(DeniedError):
            run(connect(host, bad.port))
    with pytest.raises(DeniedError):
        run(connect("fe80::1", 9, 0, 1, family=socket.AF_INET6), Rules(allow=["::/0"]))


@pytest.fixture
def receivers() -> Iterator[Callable[[str], socket.socket]]:
    made: list[socket.socket] = []

    def make(host: str) -> socket.socket:
        made.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        made[-1].bind((host, 0))
        made[-1].settimeout(5)
        return made[-1]

    yield make
    for sock in made:
        sock.close()


def test_datagrams_go_to_a_remote_address_that_was_judged(run, receivers):
    good, bad = receivers(GOOD), receivers(BAD)

    async def send(data: bytes, **options: Any) -> None:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, **options)
        transport.sendto(data)
        try:
            transport.sendto(b"elsewhere", bad.getsockname())
        except (OSError, ValueError):
            pass
        transport.close()
        await asyncio.sleep(0)

    run(send(b"address", remote_addr=good.getsockname()))
    run(send(b"name", remote_addr=("mixed.test", good.getsockname()[1]), local_addr=("127.0.0.7", 0)))
    connected = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    connected.connect(good.getsockname())
    run(send(b"connected", sock=connected))
    assert [good.recv(99) for _ in range(3)] == [b"address", b"name", b"connected"]
    for options in (
        {"remote_addr": bad.getsockname()},
        {"remote_addr": ("bad.test", bad.getsockname()[1])},
        {"local_addr": (GOOD, 0)},
        {"family": socket.AF_INET},
        {"sock": good},
    ):
        with pytest.raises(DeniedError):
            run(send(b"x", **options))
    bad.setblocking(False)
    with pytest.raises(BlockingIOError):
        bad.recv(99)


def test_sock_sendto_is_judged(receivers):
    """On asyncio alone: uvloop has no sock_sendto."""
    good, bad = receivers(GOOD), receivers(BAD)

    async def send(address: Any) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_sendto(sock, b"x", address)

    with asyncio.Runner(loop_factory=partial(EventLoop, RULES)) as runner:
        runner.run(send(good.getsockname()))
        with pytest.raises(DeniedError):
            runner.run(send(bad.getsockname()))
    assert good.recv(9) == b"x"
    bad.setblocking(False)
    with pytest.raises(BlockingIOError):
        bad.recv(9)


def test_a_connection_that_another_hand_makes_is_the_one_that_is_used(run, site):
    """``connect=``, as a Dialer takes it: here 192.0.2.1 is played by loopback."""
    good = site(GOOD)

    async def connect(address: tuple[str, int]) -> socket.socket:
        assert address == ("192.0.2.1", good.port)
        sock = socket.create_connection((GOOD, good.port))
        sock.setblocking(False)
        return sock

    names = AsyncNames({"public.test": ["192.0.2.1"]})
    rules = Rules(allow=["192.0.2.0/24"])
    assert run(read("public.test", good.port), rules, resolver=names, connect=connect) == b"hello"


def test_servers_children_and_executors_of_the_loop_work(run):
    async def main() -> tuple[bytes, int]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(await reader.readline())
            writer.close()

        server = await asyncio.start_server(serve, GOOD, 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"echo\n")
        answer = await reader.read()
        writer.close()
        server.close()
        return answer, await asyncio.to_thread(int, "7")

    assert run(main()) == (b"echo\n", 7)


def test_rules_that_are_no_rules_are_an_error_of_the_constructor():
    with pytest.raises(TypeError):
        new_event_loop("10.0.0.0/8")  # type: ignore[arg-type]
