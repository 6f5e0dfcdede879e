"""A loopback HTTP/2 server over TLS that counts its connections, for clients that can multiplex."""

from __future__ import annotations

import select
import socket
import ssl
import threading
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import parse_qs, urlsplit

import h2.config
import h2.connection
import h2.events

from tests.servers.site import Seen, on_a_port


@dataclass
class _Stream:
    headers: dict[str, str]
    body: bytes = b""
    unsent: bytes = b""
    held: bool = False


class H2Site:
    """A server on ``address`` and a free port; ``tls`` must offer ``h2`` by ALPN.

    ``accepted`` counts connections and ``seen`` holds the requests, as in :class:`tests.servers.site.Site`.
    Paths: ``/`` text; ``/echo`` the request's body; ``/stream?n=`` that many chunks of 1,000 bytes;
    ``/hold`` headers and one byte, and the rest, ``old``, once ``release()`` was called.
    """

    def __init__(self, address: str, *, tls: ssl.SSLContext, port: int = 0) -> None:
        self.address = address
        self.accepted = 0
        self.seen: list[Seen] = []
        self.ended = threading.Semaphore(0)
        self._released = threading.Event()
        self._stopped = threading.Event()
        self._tls = tls
        self._listener = on_a_port(address, port, partial(socket.create_server, backlog=128))
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def url(self, path: str = "/", host: str | None = None) -> str:
        return f"https://{host or self.address}:{self.port}{path}"

    def connections(self) -> set[int]:
        return {seen.connection for seen in self.seen}

    def release(self) -> None:
        """Lets every ``/hold`` finish."""
        self._released.set()

    def close(self) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while not self._stopped.is_set():
            if select.select([self._listener], [], [], 0.02)[0]:
                sock, _ = self._listener.accept()
                self.accepted += 1
                arguments = (sock, self.accepted)
                self._threads.append(threading.Thread(target=self._serve, args=arguments, daemon=True))
                self._threads[-1].start()

    def _serve(self, sock: socket.socket, number: int) -> None:
        try:
            with self._tls.wrap_socket(sock, server_side=True) as tls:
                _Connection(self, tls, number).run()
        except OSError:
            sock.close()  # a client that goes away, or that does not like our certificate
        self.ended.release()


class _Connection:
    def __init__(self, site: H2Site, sock: ssl.SSLSocket, number: int) -> None:
        self._site = site
        self._sock = sock
        self._number = number
        self._streams: dict[int, _Stream] = {}
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))

    def run(self) -> None:
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._h2.initiate_connection()
        self._flush()
        while not self._site._stopped.is_set():
            if self._site._released.is_set():
                self._finish_held()
            if not self._sock.pending() and not select.select([self._sock], [], [], 0.02)[0]:
                continue
            data = self._sock.recv(65536)
            if not data:
                return
            for event in self._h2.receive_data(data):
                self._on(event)
            self._flush()

    def _flush(self) -> None:
        for number, stream in self._streams.items():
            while stream.unsent and (window := self._h2.local_flow_control_window(number)):
                size = min(window, self._h2.max_outbound_frame_size, len(stream.unsent))
                part, stream.unsent = stream.unsent[:size], stream.unsent[size:]
                self._h2.send_data(number, part, end_stream=not stream.unsent and not stream.held)
        self._sock.sendall(self._h2.data_to_send())

    def _on(self, event: Any) -> None:
        if isinstance(event, h2.events.RequestReceived):
            self._streams[event.stream_id] = _Stream({str(k): str(v) for k, v in event.headers})
        elif isinstance(event, h2.events.DataReceived):
            self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            self._streams[event.stream_id].body += event.data
        elif isinstance(event, h2.events.StreamEnded):
            self._answer(event.stream_id, self._streams[event.stream_id])
        elif isinstance(event, h2.events.StreamReset):
            self._streams.pop(event.stream_id, None)

    def _answer(self, number: int, stream: _Stream) -> None:
        headers = stream.headers
        path = headers[":path"]
        self._site.seen.append(Seen(self._number, headers[":method"], path, headers, stream.body))
        url = urlsplit(path)
        answers = {
            "/echo": stream.body,
            "/stream": b"x" * 1000 * int(parse_qs(url.query).get("n", ["10"])[0]),
            "/hold": b"x",
        }
        stream.unsent = answers.get(url.path, b"hello")
        stream.held = url.path == "/hold"
        self._h2.send_headers(
            number,
            [(":status", "200"), ("x-connection", str(self._number))],
            end_stream=not stream.unsent,
        )

    def _finish_held(self) -> None:
        for stream in self._streams.values():
            if stream.held:
                stream.held = False
                stream.unsent += b"old"
        self._flush()
