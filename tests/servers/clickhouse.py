"""Stand-ins for a ClickHouse: its native protocol, of an old revision, and its HTTP interface.

Both answer every query with one row of one UInt64, the number of the connection that it came on. ClickHouse itself
is no package of Debian's.
"""

from __future__ import annotations

import socketserver
import ssl
import struct
import threading
from io import BufferedIOBase
from typing import Any

from .names import GOOD
from .site import Seen, Site, _Handler, on_a_port

_REVISION = 50_000  # before all that newer ones have added to a query


class Native:
    """The native protocol on ``address``: hello, ping, and queries. ``queries`` holds (connection, query)."""

    def __init__(self, address: str = GOOD, *, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self.accepted = 0
        self.queries: list[tuple[int, str]] = []
        self._server = on_a_port(address, port, lambda target: _NativeServer(target, self, tls))
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def __enter__(self) -> Native:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Http(Site):
    """The HTTP interface, of which ``seen`` holds the requests."""

    def __init__(self, address: str = GOOD, *, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(address, port=port, tls=tls)
        self._server.RequestHandlerClass = _HttpHandler

    def queries(self) -> list[tuple[int, bytes]]:
        """The queries that came, each with the number of its connection."""
        return [(seen.connection, seen.body) for seen in self.seen]


class _HttpHandler(_Handler):
    def _any(self) -> None:
        body = self._read_body()
        number: Any = self.client_address[0]
        self.server.site.seen.append(Seen(number, self.command, self.path, dict(self.headers.items()), body))
        if b"version()" in body:
            self._send(200, b"24.8.1.1\tUTC\n")
        elif b"SELECT 1 AS n" in body:
            self._send(200, _block(number))
        else:
            self._send(200, b"")

    do_GET = do_POST = _any


class _NativeServer(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, address: tuple[str, int], native: Native, tls: ssl.SSLContext | None) -> None:
        self.native = native
        self.tls = tls
        super().__init__(address, _NativeHandler)

    def get_request(self) -> tuple[Any, Any]:
        sock, peer = super().get_request()
        self.native.accepted += 1
        return sock, (self.native.accepted, peer)

    def finish_request(self, request: Any, client_address: Any) -> None:
        if self.tls is not None:
            request = self.tls.wrap_socket(request, server_side=True)
        with request:
            super().finish_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away, or that does not like our certificate, is what tests are about."""


class _NativeHandler(socketserver.StreamRequestHandler):
    server: _NativeServer

    def handle(self) -> None:
        number: Any = self.client_address[0]
        while True:
            kind = _varint(self.rfile)
            if kind == 0:
                _text(self.rfile), [_varint(self.rfile) for _ in range(3)], [_text(self.rfile) for _ in range(3)]
                self.wfile.write(b"\0" + _named("ClickHouse") + bytes([20, 3]) + _number(_REVISION))
            elif kind == 4:
                self.wfile.write(b"\4")
            elif kind == 1:
                self._query(number)
            else:
                raise ValueError(f"a packet of kind {kind}")

    def _query(self, number: int) -> None:
        _text(self.rfile)  # its id
        if _text(self.rfile):
            raise ValueError("settings are not known here")
        _varint(self.rfile), _varint(self.rfile)  # the stage, and whether to compress
        self.server.native.queries.append((number, _text(self.rfile)))
        if [_varint(self.rfile) for _ in range(3)] != [2, 0, 0]:
            raise ValueError("an empty block ends a query")
        self.wfile.write(b"\1" + _block(number) + b"\5")


def _block(number: int) -> bytes:
    return b"\1\1" + _named("n") + _named("UInt64") + struct.pack("<Q", number)


def _varint(file: BufferedIOBase) -> int:
    value = shift = 0
    while True:
        byte = file.read(1)
        if not byte:
            raise EOFError
        value |= (byte[0] & 0x7F) << shift
        shift += 7
        if byte[0] < 0x80:
            return value


def _text(file: BufferedIOBase) -> str:
    return file.read(_varint(file)).decode()


def _number(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _named(text: str) -> bytes:
    return _number(len(text)) + text.encode()
