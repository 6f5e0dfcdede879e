"""A loopback HTTP/1.1 server that remembers every connection it accepted."""

from __future__ import annotations

import errno
import json
import os
import random
import socket
import ssl
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable


Listener = TypeVar("Listener")
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 8
_PORTS = range(10_000 + 2_500 * _WORKER, 12_500 + 2_500 * _WORKER)  # so that no two processes of one run share any
_HERE = ("127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.9")


def on_a_port(address: str, port: int, listen: Callable[[tuple[str, int]], Listener]) -> Listener:
    """What ``listen`` makes of an address and a port: ``port``, or one that no client's own socket is given.

    Tests put a listener on the same port of a second address, which somebody's outgoing connection may
    hold where the system chose the port. So a ``port`` that came from the system is refused.
    """
    if port:
        assert port in _PORTS, f"port {port} may be in use on {address}: have the first listener on a port from here"
        return listen((address, port))
    for _ in range(100):
        candidate = random.choice(_PORTS)
        if all(_is_free(each, candidate) for each in _HERE):
            try:
                return listen((address, candidate))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
    raise OSError(errno.EADDRINUSE, "no port is free on every loopback address that tests use")


def _is_free(address: str, port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True


@dataclass
class Seen:
    """One request as it arrived."""

    connection: int
    method: str
    path: str
    headers: dict[str, str]
    body: bytes = field(repr=False)


class Site:
    """A server on ``address`` and a free (or given) port, in a thread.

    ``accepted`` counts the TCP connections, ``seen`` holds the requests with the number of their
    connection, ``body`` is what ``/`` answers. Paths: ``/`` text; ``/redirect?to=URL&code=302``;
    ``/echo`` the request as JSON; ``/stream?n=`` that many chunks of 1,000 bytes; ``/stall`` headers and
    one byte, then nothing until the server stops; ``/cookie?name=value`` sets one; ``/close`` answers and
    closes; ``/status?code=``.
    """

    def __init__(
        self,
        address: str = "127.0.0.1",
        *,
        port: int = 0,
        body: bytes = b"hello",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.address = address
        self.body = body
        self.accepted = 0
        self.seen: list[Seen] = []
        self.stopped = threading.Event()
        self._tls = tls
        self._server = on_a_port(address, port, lambda target: _Server(target, self, tls))
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def url(self, path: str = "/", host: str | None = None) -> str:
        """The URL of ``path`` here, under the name ``host`` instead of the address if one is given."""
        name = host or (f"[{self.address}]" if ":" in self.address else self.address)
        return f"http{'s' if self._tls else ''}://{name}:{self.port}{path}"

    def connections(self) -> set[int]:
        """The connections on which requests came."""
        return {seen.connection for seen in self.seen}

    def close(self) -> None:
        self.stopped.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Site:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], site: Site, tls: ssl.SSLContext | None) -> None:
        self.site = site
        self.tls = tls
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._open: set[socket.socket] = set()
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Without HTTPServer's own step, which asks the system for this host's full name."""
        TCPServer.server_bind(self)

    def get_request(self) -> tuple[Any, Any]:
        sock, peer = super().get_request()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.site.accepted += 1
        self._open.add(sock)
        return sock, (self.site.accepted, peer)

    def finish_request(self, request: Any, client_address: Any) -> None:
        if self.tls is not None:
            request = self.tls.wrap_socket(request, server_side=True)
        try:
            super().finish_request(request, client_address)
        finally:
            request.close()

    def close_request(self, request: Any) -> None:
        self._open.discard(request)
        super().close_request(request)

    def server_close(self) -> None:
        super().server_close()
        for sock in list(self._open):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away, or that does not like our certificate, is what tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_: object) -> None:
        pass

    def _any(self) -> None:
        site = self.server.site
        body = self._read_body()
        number: Any = self.client_address[0]
        site.seen.append(Seen(number, self.command, self.path, dict(self.headers.items()), body))
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query, keep_blank_values=True).items()}
        if url.path == "/redirect":
            self._send(int(query.get("code", "302")), b"", [("Location", query["to"])])
        elif url.path == "/echo":
            echo = {"method": self.command, "path": self.path, "headers": dict(self.headers.items())}
            self._send(200, json.dumps({**echo, "body": body.decode("latin-1")}).encode())
        elif url.path == "/stream":
            self._stream(int(query.get("n", "10")))
        elif url.path == "/stall":
            self._begin(200, [("Content-Length", "1000000")])
            self.wfile.write(b"x")
            self.wfile.flush()
            site.stopped.wait()
            self.close_connection = True
        elif url.path == "/cookie":
            self._send(200, b"", [("Set-Cookie", f"{name}={value}; Path=/") for name, value in query.items()])
        elif url.path == "/close":
            self._send(200, site.body, [("Connection", "close")])
        elif url.path == "/status":
            self._send(int(query["code"]), site.body, [("Retry-After", "0")])
        else:
            self._send(200, site.body)

    do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = do_OPTIONS = do_PATCH = _any

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", "0")))

    def _begin(self, status: int, headers: list[tuple[str, str]]) -> None:
        self.send_response(status)
        self.send_header("X-Connection", str(self.client_address[0]))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()

    def _send(self, status: int, body: bytes, headers: list[tuple[str, str]] | None = None) -> None:
        self._begin(status, [*(headers or []), ("Content-Length", str(len(body)))])
        if self.command != "HEAD":
            self.wfile.write(body)

    def _stream(self, chunks: int) -> None:
        self._begin(200, [("Transfer-Encoding", "chunked")])
        for _ in range(chunks):
            self.wfile.write(b"3e8\r\n" + b"x" * 1000 + b"\r\n")
        self.wfile.write(b"0\r\n\r\n")


class Trap:
    """A listener that must never be reached: ``accepted`` counts who did."""

    def __init__(self, address: str = "127.0.0.1", *, port: int = 0) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.address = address
        self._listener = on_a_port(address, port, lambda target: socket.create_server(target, family=family))
        self.port: int = self._listener.getsockname()[1]

    @property
    def accepted(self) -> int:
        """Whether anybody connected: the kernel completes a handshake before accept is called."""
        count = 0
        self._listener.setblocking(False)
        while True:
            try:
                self._listener.accept()[0].close()
            except BlockingIOError:
                self._count = getattr(self, "_count", 0) + count
                return self._count
            count += 1

    def url(self, path: str = "/", host: str | None = None) -> str:
        name = host or (f"[{self.address}]" if ":" in self.address else self.address)
        return f"http://{name}:{self.port}{path}"

    def close(self) -> None:
        self._listener.close()

    def __enter__(self) -> Trap:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class BlackHole:
    """A listener that answers no further SYN, since its backlog is full: a connect to it hangs."""

    def __init__(self, address: str) -> None:
        self.address = address
        listener = on_a_port(address, 0, lambda target: socket.create_server(target, backlog=0))
        self.port: int = listener.getsockname()[1]
        self._sockets = [listener]
        for _ in range(8):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex((address, self.port))
            self._sockets.append(filler)

    def answer(self) -> None:
        """Makes room, so that a SYN is answered again: that of a connect under way is sent anew after a second."""
        listener, *fillers = self._sockets
        for each in fillers:
            each.close()
        listener.settimeout(0.1)
        try:
            while True:
                self._sockets.append(listener.accept()[0])
        except TimeoutError:
            pass

    def close(self) -> None:
        for each in self._sockets:
            each.close()

    def __enter__(self) -> BlackHole:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
