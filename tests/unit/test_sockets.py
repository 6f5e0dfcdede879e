"""netjail.sockets, over loopback: 127.0.0.2 is accepted and 127.0.0.3 is not."""

from __future__ import annotations

import asyncio
import errno
import importlib.util
import selectors
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from netjail import DeniedError, Rules, create_connection, use_rules
from netjail.sockets import Socket, socket_factory
from tests.servers.names import BAD, GOOD, Names
from tests.servers.site import Site, Trap

Make = Callable[..., Any]
RULES = Rules(allow=[GOOD])

pytestmark = pytest.mark.usefixtures("nothing_left_behind")

if importlib.util.find_spec("uvloop") is not None:
    import uvloop

    uvloop.new_event_loop().close()  # libuv opens a pipe with the first loop, and never closes it

posix = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="there are no unix sockets here")


def jailed(rules: Rules | None = RULES, **options: Any) -> type[Socket]:
    return socket_factory(rules, **{"resolver": Names(), **options})


@pytest.fixture
def echo() -> Iterator[socket.socket]:
    """A UDP socket on the accepted address; who sends to it reads what it got."""
    with socket.socket(type=socket.SOCK_DGRAM) as server:
        server.bind((GOOD, 0))
        server.settimeout(5)
        yield server


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """One on the denied address, which must get nothing."""
    with socket.socket(type=socket.SOCK_DGRAM) as server:
        server.bind((BAD, 0))
        yield server
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.recv(1)


def ask(sock: socket.socket) -> bytes:
    """The first bytes of what a Site answers."""
    sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
    return sock.recv(12)


@pytest.mark.parametrize("host", [GOOD, "good.test", "mixed.test"])
def test_a_socket_connects_to_what_is_accepted(site: Make, trap: Make, host: str) -> None:
    server: Site = site(GOOD)
    trap(BAD, port=server.port)
    names = Names()
    with jailed(resolver=names)() as sock:
        sock.connect((host, server.port))
        assert sock.getpeername() == (GOOD, server.port)
        assert ask(sock) == b"HTTP/1.1 200"
    assert names.asked == ([] if host == GOOD else [(host, socket.AF_INET)])  # once


@pytest.mark.parametrize("connect", [socket.socket.connect.__name__, socket.socket.connect_ex.__name__])
@pytest.mark.parametrize("host", [BAD, "bad.test"])
def test_a_denied_connect_opens_nothing_and_is_raised(trap: Make, connect: str, host: str) -> None:
    bad: Trap = trap(BAD)
    with jailed()() as sock, pytest.raises(DeniedError) as caught:
        getattr(sock, connect)((host, bad.port))
    assert (caught.value.host, caught.value.port) == (host, bad.port)


def test_connect_ex_gives_the_errno_of_what_the_system_refuses(trap: Make) -> None:
    with socket.socket() as unused, jailed()() as sock:
        unused.bind((GOOD, 0))  # and does not listen
        assert sock.connect_ex(unused.getsockname()) == errno.ECONNREFUSED
    with socket.socket() as unused, jailed()() as sock:
        unused.bind((GOOD, 0))
        with pytest.raises(ConnectionRefusedError):
            sock.connect(unused.getsockname())


def test_a_plain_socket_of_this_module_goes_by_the_context_when_it_connects(site: Make, trap: Make) -> None:
    server: Site = site(GOOD)
    with Socket() as sock:
        with pytest.raises(DeniedError, match="no rules are in force"):
            sock.connect((GOOD, server.port))
        with use_rules(Rules(allow=[BAD])), pytest.raises(DeniedError):
            sock.connect((GOOD, server.port))
        with use_rules(RULES):
            sock.connect((GOOD, server.port))
            assert ask(sock) == b"HTTP/1.1 200"
    assert server.accepted == 1


def test_the_context_narrows_what_the_factory_was_given(site: Make) -> None:
    server: Site = site(GOOD)
    with jailed(Rules(allow=["127.0.0.0/8"]))() as sock, use_rules(Rules(allow=[BAD])), pytest.raises(DeniedError):
        sock.connect((GOOD, server.port))
    assert not server.accepted


def test_the_factory_is_called_like_the_standard_class() -> None:
    make = jailed()
    with make(socket.AF_INET6, socket.SOCK_DGRAM, 0) as sock:
        assert isinstance(sock, socket.socket)
        assert (sock.family, sock.type) == (socket.AF_INET6, socket.SOCK_DGRAM)
        with make(fileno=sock.dup().detach()) as other:
            assert (other.family, other.type) == (socket.AF_INET6, socket.SOCK_DGRAM)
    with pytest.raises(TypeError, match="rules are"):
        socket_factory("127.0.0.1")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_a_host_may_be_bytes_as_for_a_plain_socket(site: Make, trap: Make, kind: Callable[[bytes], Any]) -> None:
    server: Site = site(GOOD)
    for host in (GOOD, "good.test"):
        with jailed()() as sock:
            sock.connect((kind(host.encode()), server.port))
            assert ask(sock) == b"HTTP/1.1 200"
    for host in (BAD, "bad.test"):
        with jailed()() as sock, pytest.raises(DeniedError):
            sock.connect((kind(host.encode()), trap(BAD).port))


def test_a_name_with_addresses_of_both_families_gives_the_first_of_the_sockets_own(site: Make) -> None:
    server: Site = site(GOOD)
    names = Names({"both.test": ["::1", BAD, GOOD]})
    with jailed(Rules(allow=[GOOD, "::1"]), resolver=names)() as sock:
        sock.connect(("both.test", server.port))
    names = Names({"both.test": [GOOD]})
    with jailed(resolver=names)(socket.AF_INET6) as sock, pytest.raises((socket.gaierror, DeniedError)):
        sock.connect(("both.test", server.port))
    names = Names({"both.test": [GOOD]})
    with jailed(Rules(allow=[GOOD, "::1"]), resolver=names)(socket.AF_INET6) as sock, pytest.raises(socket.gaierror):
        sock.connect(("both.test", server.port))


def test_ipv6_is_judged_and_a_zone_is_not_accepted(site: Make) -> None:
    server: Site = site("::1")
    for address in (("::1", server.port), ("::1", server.port, 0, 0)):
        with jailed(Rules(allow=["::/0"]))(socket.AF_INET6) as sock:
            sock.connect(address)
            assert ask(sock) == b"HTTP/1.1 200"
    with jailed(Rules(allow=["::/0"]))(socket.AF_INET6) as sock, pytest.raises(DeniedError):
        sock.connect(("::1", server.port, 0, 1))
    assert server.accepted == 2


def test_a_mapped_address_is_the_ipv4_address_that_it_lands_on(trap: Make) -> None:
    bad: Trap = trap(BAD)
    with jailed(Rules(allow=["::/0", GOOD]))(socket.AF_INET6) as sock, pytest.raises(DeniedError):
        sock.connect((f"::ffff:{BAD}", bad.port))


def test_an_unspecified_address_lands_on_loopback(trap: Make) -> None:
    bad: Trap = trap("127.0.0.1")
    with jailed()() as sock:
        for host in ("0.0.0.0", ""):
            with pytest.raises((DeniedError, socket.gaierror)):
                sock.connect((host, bad.port))


def test_a_timeout_holds_and_stays(site: Make) -> None:
    server: Site = site(GOOD)
    with jailed()() as sock:
        sock.settimeout(7)
        sock.connect(("good.test", server.port))
        assert sock.gettimeout() == 7
        assert ask(sock) == b"HTTP/1.1 200"


def test_a_timeout_ends_a_lookup_that_hangs() -> None:
    never = threading.Event()

    class Hanging:
        def lookup(self, host: str, family: int) -> list[str]:
            never.wait(10)
            return [GOOD]

    with jailed(resolver=Hanging())() as sock:
        sock.settimeout(0.05)
        with pytest.raises(TimeoutError):
            sock.connect(("good.test", 1))
        assert sock.gettimeout() == 0.05
    never.set()


def test_a_connect_that_does_not_block_goes_on_by_itself(site: Make) -> None:
    server: Site = site(GOOD)
    with jailed()() as sock, selectors.DefaultSelector() as selector:
        sock.setblocking(False)
        assert sock.connect_ex(("good.test", server.port)) in (0, errno.EINPROGRESS, errno.EWOULDBLOCK)
        selector.register(sock, selectors.EVENT_WRITE)
        assert selector.select(5)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        assert sock.getpeername() == (GOOD, server.port)
        assert sock.gettimeout() == 0


@pytest.mark.parametrize("host", ["good.test", GOOD])
def test_a_datagram_is_sent_to_what_is_accepted(echo: socket.socket, host: str) -> None:
    port = echo.getsockname()[1]
    with jailed()(type=socket.SOCK_DGRAM) as sock:
        assert sock.sendto(b"one", (host, port)) == 3
        assert sock.sendto(b"two", 0, (host, port)) == 3
        assert sock.sendmsg([b"th", b"ree"], [], 0, (host, port)) == 5
        sock.connect((host, port))
        sock.send(b"four")
        assert sock.sendmsg([b"five"]) == 4
        assert sock.sendmsg([b"six"], [], 0, None) == 3
    assert [echo.recv(10) for _ in range(6)] == [b"one", b"two", b"three", b"four", b"five", b"six"]


@pytest.mark.parametrize("host", ["bad.test", BAD])
def test_a_datagram_for_anything_else_is_not_sent(silent: socket.socket, host: str) -> None:
    address = (host, silent.getsockname()[1])
    with jailed()(type=socket.SOCK_DGRAM) as sock:
        for send in (
            lambda: sock.sendto(b"x", address),
            lambda: sock.sendto(b"x", 0, address),
            lambda: sock.sendmsg([b"x"], [], 0, address),
            lambda: sock.connect(address),
        ):
            with pytest.raises(DeniedError):
                send()


def test_a_connected_datagram_socket_is_judged_when_it_names_another_address(
    echo: socket.socket, silent: socket.socket
) -> None:
    with jailed()(type=socket.SOCK_DGRAM) as sock:
        sock.connect(echo.getsockname())
        with pytest.raises(DeniedError):
            sock.sendto(b"x", silent.getsockname())


def test_broadcast_is_judged_as_the_address_that_it_is() -> None:
    with jailed()(type=socket.SOCK_DGRAM) as sock, pytest.raises(DeniedError) as caught:
        sock.sendto(b"x", ("<broadcast>", 9))
    assert caught.value.host == "255.255.255.255"


@pytest.mark.skipif(not hasattr(socket, "MSG_FASTOPEN"), reason="there is no TCP fast open here")
def test_a_fast_open_is_judged(trap: Make, site: Make) -> None:
    bad, server = trap(BAD), site(GOOD)
    with jailed()() as sock, pytest.raises(DeniedError):
        sock.sendto(b"GET / HTTP/1.0\r\n\r\n", socket.MSG_FASTOPEN, (BAD, bad.port))
    with jailed()() as sock:
        sock.sendto(b"GET / HTTP/1.0\r\n\r\n", socket.MSG_FASTOPEN, ("good.test", server.port))
        assert sock.recv(12) == b"HTTP/1.1 200"


@posix
def test_a_path_has_no_address_that_rules_could_accept(tmp_path: Any) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener, jailed(Rules(allow=["0.0.0.0/0", "::/0"]))(socket.AF_UNIX) as sock:
        listener.bind(path)
        listener.listen()
        for connect in (sock.connect, sock.connect_ex):
            with pytest.raises(DeniedError, match="no address to judge"):
                connect(path)
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_what_a_socket_accepts_is_a_plain_one_and_a_duplicate_is_of_its_own_kind(trap: Make) -> None:
    make = jailed()
    with make() as listener, make() as sock:
        listener.bind((GOOD, 0))
        listener.listen()
        sock.connect(listener.getsockname())
        accepted, _ = listener.accept()
        with accepted, sock.dup() as other:
            assert type(accepted) is socket.socket
            assert type(other) is make
            other.sendall(b"x")
            assert accepted.recv(1) == b"x"
    with make() as first, first.dup() as second, pytest.raises(DeniedError):
        second.connect((BAD, trap(BAD).port))


def test_tls_goes_over_a_connected_socket(site: Make, server_tls: Make, client_tls: ssl.SSLContext) -> None:
    server: Site = site(GOOD, tls=server_tls("good.test"))
    with jailed()() as sock:
        sock.connect(("good.test", server.port))
        with client_tls.wrap_socket(sock, server_hostname="good.test") as tls:
            assert ask(tls) == b"HTTP/1.1 200"
    with jailed()() as sock:
        sock.connect(("good.test", server.port))
        with pytest.raises(ssl.SSLCertVerificationError):
            client_tls.wrap_socket(sock, server_hostname="wrong.test")


def test_tls_does_not_take_a_socket_that_it_would_connect_unjudged(trap: Make, client_tls: ssl.SSLContext) -> None:
    sock = jailed()()
    with pytest.raises(ValueError, match="after it is connected"):
        client_tls.wrap_socket(sock, server_hostname="good.test")
    assert sock.fileno() == -1


def test_a_server_may_listen_and_wrap_its_listener(server_tls: Make, client_tls: ssl.SSLContext) -> None:
    with jailed()() as listener:
        listener.bind((GOOD, 0))
        listener.listen()
        address = listener.getsockname()
        with server_tls("good.test").wrap_socket(listener, server_side=True, do_handshake_on_connect=False) as tls:
            with create_connection(address, rules=RULES):
                accepted, _ = tls.accept()
                accepted.close()


def test_a_socket_gives_its_descriptor_away_to_whoever_asks_for_it() -> None:
    with jailed()() as sock:
        number = sock.detach()
    socket.socket(fileno=number).close()


@pytest.mark.parametrize("new_loop", [asyncio.SelectorEventLoop])
def test_a_loop_connects_such_a_socket(site: Make, trap: Make, new_loop: Make) -> None:
    server, bad = site(GOOD), trap(BAD)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with jailed()() as sock:
            sock.setblocking(False)
            await loop.sock_connect(sock, (GOOD, server.port))
            await loop.sock_sendall(sock, b"GET / HTTP/1.0\r\n\r\n")
            assert await loop.sock_recv(sock, 12) == b"HTTP/1.1 200"
        with jailed()() as sock:
            sock.setblocking(False)
            with pytest.raises(DeniedError):
                await loop.sock_connect(sock, (BAD, bad.port))

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())


def test_uvloop_connects_such_a_socket(site: Make, trap: Make) -> None:
    pytest.importorskip("uvloop")
    test_a_loop_connects_such_a_socket(site, trap, uvloop.new_event_loop)
