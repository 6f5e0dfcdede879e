"""A WebSocket server on loopback that echoes what it is sent."""

from __future__ import annotations

import logging
import socket
import ssl
import threading
from typing import Any
from urllib.parse import parse_qs, urlsplit

from websockets.sync.server import serve

from .site import on_a_port

_SILENT = logging.getLogger("tests.websocket")
_SILENT.setLevel(logging.CRITICAL + 1)  # a client that does not like our certificate is what tests are about


class Echo:
    """A server on ``address`` and a free (or given) port, in threads.

    ``asked`` holds the path and the Host header of each handshake. ``/redirect?to=URI`` is a 302, ``/drop``
    closes after the handshake and ``/cut`` ends the connection without a word; everywhere else messages come back.
    """

    def __init__(self, address: str = "127.0.0.2", *, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self.address = address
        self.scheme = "wss" if tls else "ws"
        self.asked: list[tuple[str, str]] = []
        options: dict[str, Any] = {"ssl": tls, "process_request": self._answer, "logger": _SILENT}
        self._server = on_a_port(address, port, lambda target: serve(self._echo, *target, **options))
        self.port: int = self._server.socket.getsockname()[1]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self._until_it_serves()

    def _until_it_serves(self) -> None:
        """The thread opens a selector first, which a test that counts descriptors must not see come."""
        with socket.create_connection((self.address, self.port)) as sock:
            sock.settimeout(10)
            sock.shutdown(socket.SHUT_WR)  # it takes us for a client that has gone, and hangs up
            try:
                while sock.recv(4096):
                    pass
            except ConnectionResetError:
                pass

    def _answer(self, connection: Any, request: Any) -> Any:
        self.asked.append((request.path, request.headers["Host"]))
        url = urlsplit(request.path)
        if url.path != "/redirect":
            return None
        response = connection.respond(302, "")
        response.headers["Location"] = parse_qs(url.query)["to"][0]
        return response

    def _echo(self, connection: Any) -> None:
        if connection.request.path == "/drop":
            return
        if connection.request.path == "/cut":
            connection.socket.shutdown(socket.SHUT_RDWR)
            return
        for message in connection:
            connection.send(message)

    def uri(self, path: str = "/", host: str | None = None) -> str:
        return f"{self.scheme}://{host or self.address}:{self.port}{path}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()

    def __enter__(self) -> Echo:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
