"""The demo's network: servers on loopback that play the inside and the public internet, and its names.

This module knows sockets and nothing of clients or rules. Nothing in here sends a packet off loopback, and
while a :class:`Network` is open nothing else in the process does.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import ssl
import sys
import threading
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingTCPServer
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SECRET = b"this is what only the inside may see"
HELLO = b"hello from the public site"
STREAM = b"x" * 1000, 1000  # a chunk, and how many of them

THIS_HOST, THIS_HOST6 = "127.0.0.1", "::1"
PUBLIC, INSIDE, METADATA, DEAD = "127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5"
CERTIFICATE = Path(__file__).with_name("public.example.pem")

# What each name answers: one list of addresses for each lookup, the last for all that follow.
NAMES: Mapping[str, list[list[str]]] = {
    "localhost": [[THIS_HOST6, THIS_HOST]],
    "public.example": [[PUBLIC]],
    "bank.example": [[PUBLIC]],
    "backup.example": [[DEAD, PUBLIC]],
    "inside.example": [[INSIDE]],
    "metadata.example": [[METADATA]],
    "this-host.example": [["0.0.0.0"]],  # noqa: S104 - an answer, not a bind
    "mapped.example": [[f"::ffff:{INSIDE}"]],
    "nat64.example": [["64:ff9b::7f00:3"]],
    "mixed.example": [[INSIDE, PUBLIC]],
    "failover.example": [[DEAD, INSIDE]],
    "rebind.example": [[PUBLIC], [INSIDE]],
}


class Network:
    """The servers and the names, for as long as this is open (a context manager).

    Raises OSError where the system has no 127.0.0.2 and so on, or no port that is free on all of them.
    """

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            self.servers = _listening()
            undo.callback(_stop, self.servers)
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(CERTIFICATE)
            self.secure = _Server(PUBLIC, 0, _PublicHandler, tls)
            undo.callback(self.secure.stop)
            self.port, self.tls_port = self.servers[PUBLIC].port, self.secure.port
            self._inside = [server for address, server in self.servers.items() if address != PUBLIC]
            self._names = _Names()
            undo.enter_context(self._names.answering())
            undo.enter_context(_fence.standing())
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def forget(self, *, lookups: bool = True) -> None:
        """Whatever was reached so far is not counted, and with ``lookups`` each name begins anew."""
        if lookups:
            self._names.asked.clear()
        self._before = self._counts()

    def reached_inside(self) -> bool:
        """Whether the inside, or a TLS server under another's name, was reached since :meth:`forget`."""
        return self._counts()[:2] != self._before[:2]

    def left_loopback(self) -> bool:
        """Whether anybody tried to leave loopback since then."""
        return self._counts()[2] != self._before[2]

    def public_connections(self) -> int:
        """How many connections the public site has accepted."""
        return self.servers[PUBLIC].settled().accepted

    def _counts(self) -> tuple[int, int, int]:
        inside = sum(server.settled().accepted + server.requests for server in self._inside)
        return inside, self.secure.misdirected, _fence.stopped


def _listening() -> dict[str, _Server]:
    """The servers, all on one port, as a name's addresses share the port of the URL."""
    handlers: dict[str, type[_Handler]] = {
        PUBLIC: _PublicHandler,
        INSIDE: _InsideHandler,
        METADATA: _MetadataHandler,
        THIS_HOST: _InsideHandler,
    }
    if socket.has_ipv6:
        handlers[THIS_HOST6] = _InsideHandler
    for _ in range(50):
        servers: dict[str, _Server] = {}
        try:
            for address, handler in handlers.items():
                port = servers[PUBLIC].port if servers else 0
                with _skipping_ipv6(address):
                    servers[address] = _Server(address, port, handler)
        except OSError as error:
            _stop(servers)
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            return servers
    raise OSError(errno.EADDRINUSE, "no port is free on all of the loopback addresses that the demo uses")


def _stop(servers: Mapping[str, _Server]) -> None:
    for server in servers.values():
        server.stop()


@contextmanager
def _skipping_ipv6(address: str) -> Iterator[None]:
    """Goes on without ::1 where the system has none, although Python knows IPv6."""
    try:
        yield
    except OSError as error:
        if ":" not in address or error.errno == errno.EADDRINUSE:
            raise


class _Server(ThreadingTCPServer):
    """Not http.server's own, which looks up the name of the address that it binds to."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, address: str, port: int, handler: type[_Handler], tls: ssl.SSLContext | None = None) -> None:
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        super().__init__((address, port), handler)
        self.port: int = self.server_address[1]
        self.accepted = 0
        self.requests = 0
        self.misdirected = 0
        self._address = address
        self._tls = tls
        self._probes: dict[int, threading.Event] = {}
        self._open: set[socket.socket] = set()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,), name=f"demo {address}", daemon=True)
        self._thread.start()

    def settled(self) -> Self:
        """This server when it has counted every connection that was made so far.

        The kernel completes a connection before the server accepts it. Connections are accepted in turn, so
        that when a probe has come through nothing is waiting in front of it.
        """
        with socket.socket(self.address_family) as probe:
            probe.bind((self._address, 0))
            came = self._probes[probe.getsockname()[1]] = threading.Event()
            probe.connect((self._address, self.port))
            came.wait(5)
        return self

    def verify_request(self, request: Any, client_address: Any) -> bool:
        probe = self._probes.pop(client_address[1], None)
        if probe is not None:
            probe.set()
            return False
        self.accepted += 1
        self._open.add(request)
        return True

    def finish_request(self, request: Any, client_address: Any) -> None:
        request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls is not None:
            request = self._tls.wrap_socket(request, server_side=True)
        with request:
            super().finish_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up, or that do not like a certificate, are what the demo is about."""

    def stop(self) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join()
        for sock in list(self._open):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server  # pyright: ignore[reportIncompatibleVariableOverride]  # no other starts a handler

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.server.requests += 1
        self.sent = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.answer()

    do_POST = do_GET  # noqa: N815 - http.server's name

    def answer(self) -> None:
        raise NotImplementedError

    def send(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


class _InsideHandler(_Handler):
    """A service that trusts whoever can reach it."""

    def answer(self) -> None:
        self.send(SECRET)


class _MetadataHandler(_Handler):
    """The cloud's metadata service, which hands the machine's credentials to whoever asks."""

    def answer(self) -> None:
        role = "/latest/meta-data/iam/security-credentials/"
        if self.path == role:
            self.send(b"demo-role")
        else:
            self.send(b'{"Code": "Success", "AccessKeyId": "not-a-real-key", "Token": "' + SECRET + b'"}')


class _PublicHandler(_Handler):
    """The public site. Some of its pages are an attacker's, and it is an open proxy as well."""

    def answer(self) -> None:
        if self.headers.get("Host", "").partition(":")[0] == "bank.example":
            self.server.misdirected += 1
        url = urlsplit(self.path)
        if url.scheme:
            self.close_connection = True
            self.wfile.write(_forwarded(url.hostname or "", url.port or 80, f"{url.path or '/'}?{url.query}"))
        elif url.path.startswith("/redirect/"):
            to = parse_qs(url.query)["to"][0]
            self.send(b"", int(url.path.rpartition("/")[2]), Location=to)
        elif url.path == "/echo":
            self.send(self.sent)
        elif url.path == "/close":
            self.send(HELLO, Connection="close")
        elif url.path == "/stream":
            self._stream()
        else:
            self.send(HELLO)

    def _stream(self) -> None:
        chunk, count = STREAM
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for _ in range(count):
            self.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        self.wfile.write(b"0\r\n\r\n")


def _forwarded(host: str, port: int, path: str) -> bytes:
    """The answer that a proxy gets for its client, who has handed it the name."""
    with socket.create_connection((host, port), 2) as sock:
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        return b"".join(iter(lambda: sock.recv(65536), b""))


class _Names:
    """Plays the DNS to the whole process: socket.getaddrinfo knows the demo's names, and otherwise numbers alone.

    So a client is attacked as it is, with no resolver of the demo's handed to it.
    """

    def __init__(self) -> None:
        self.asked: dict[str, int] = {}

    @contextmanager
    def answering(self) -> Iterator[None]:
        real = socket.getaddrinfo

        def getaddrinfo(
            host: Any,
            port: Any,
            family: int = 0,
            type: int = 0,
            proto: int = 0,
            flags: int = 0,
        ) -> list[Any]:
            host = host.decode() if isinstance(host, bytes) else host
            return self._answer(real, host, port, family, type, proto, flags=flags)

        socket.getaddrinfo = getaddrinfo
        try:
            yield
        finally:
            socket.getaddrinfo = real

    def _answer(self, real: Any, host: Any, port: Any, family: int = 0, *args: int, flags: int = 0) -> list[Any]:
        addresses = [host]
        if isinstance(host, str) and (answers := NAMES.get(host.lower())):
            asked = self.asked[host.lower()] = self.asked.get(host.lower(), 0) + 1
            addresses = answers[min(asked, len(answers)) - 1]
            if family:
                addresses = [each for each in addresses if (":" in each) == (family == socket.AF_INET6)]
        if not addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        with _fence.numbers_only():
            found = [real(each, port, family, *args, flags=flags | socket.AI_NUMERICHOST) for each in addresses]
        return [info for infos in found for info in infos]


_LOOKUPS = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo")


class _Fence:
    """Stops, by an audit hook, whatever in this process would send a packet off loopback. It cannot be removed."""

    def __init__(self) -> None:
        self.stopped = 0
        self._standing = False
        self._hooked = False
        self._thread = threading.local()

    @contextmanager
    def standing(self) -> Iterator[None]:
        if not self._hooked:
            sys.addaudithook(self._look)
            self._hooked = True
        self._standing = True
        try:
            yield
        finally:
            self._standing = False

    @contextmanager
    def numbers_only(self) -> Iterator[None]:
        """Lets a lookup pass that can ask nobody."""
        self._thread.numbers = True
        try:
            yield
        finally:
            self._thread.numbers = False

    def _look(self, event: str, args: tuple[Any, ...]) -> None:
        if not self._standing:
            return
        if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
            sock, address = args
            if sock.family in (socket.AF_INET, socket.AF_INET6) and address and not _is_on_loopback(address[0]):
                self.stopped += 1
                raise OSError(errno.ENETUNREACH, "the demo's fence: this would leave loopback")
        elif event in _LOOKUPS and not getattr(self._thread, "numbers", False):
            self.stopped += 1
            raise socket.gaierror(socket.EAI_AGAIN, "the demo's fence: this would ask a name server")


def _is_on_loopback(host: Any) -> bool:
    """Whether packets for ``host`` stay on this machine; a name would have to be looked up, so it is not."""
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return False
    ip = getattr(ip, "ipv4_mapped", None) or ip
    return ip.is_loopback or ip.is_unspecified


_fence = _Fence()


@contextmanager
def environment(proxy: str | None) -> Iterator[None]:
    """The environment without proxies, authorities and passwords of the user's, and with ``proxy``."""
    unwanted = {"http_proxy", "https_proxy", "all_proxy", "no_proxy", "netrc", "requests_ca_bundle", "curl_ca_bundle"}
    before = dict(os.environ)
    for name in before:
        if name.lower() in unwanted:
            del os.environ[name]
    # Without any proxy in the environment some clients would ask the system's settings for one.
    names = ("no_proxy", "NO_PROXY") if proxy is None else ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")
    os.environ.update(dict.fromkeys(names, proxy or "*"))
    os.environ["NETRC"] = os.devnull
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
