"""A real Kafka peer, librdkafka's mock cluster from the wheel of confluent-kafka, behind a relay of the tests' own.

The mock listens on 127.0.0.1 alone, at a port of the system's choice, and announces both. The relay stands on another
address and port, with or without TLS, and writes these, or another address of the same length, into what brokers
announce.
"""

from __future__ import annotations

import importlib.util
import select
import socket
import ssl
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterable
from functools import partial
from typing import Any

from .daemon import missing
from .names import GOOD
from .site import on_a_port

_MOCK = """
import sys
from confluent_kafka import Producer
producer = Producer({"test.mock.num.brokers": 1})
print(*(broker.port for broker in producer.list_topics(timeout=20).brokers.values()), flush=True)
sys.stdin.read()
"""
_MOCK_HOST = b"127.0.0.1"


class Cluster:
    """A mock cluster of one broker on 127.0.0.1 and ``port``, in a process of its own; topics come as they are used."""

    def __init__(self) -> None:
        if importlib.util.find_spec("confluent_kafka") is None:
            missing("librdkafka's mock cluster", "confluent-kafka from PyPI")
        self._process = subprocess.Popen(
            [sys.executable, "-c", _MOCK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline() or b"0")
        if not self.port:
            self.close()
            raise RuntimeError("the mock cluster did not start")

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


class Broker:
    """A relay on ``addresses``, at one port, to a :class:`Cluster` of its own.

    ``announced`` is what its metadata says in place of 127.0.0.1, nine characters too: GOOD, BAD or
    good.test. ``accepted`` counts connections, ``reached`` those to each address, and ``heard`` the pieces
    of data that came from clients.
    """

    def __init__(
        self, announced: str = GOOD, *, addresses: Iterable[str] = (GOOD,), tls: ssl.SSLContext | None = None
    ) -> None:
        assert len(announced) == len(_MOCK_HOST)
        self.accepted = 0
        self.reached: Counter[str] = Counter()
        self.heard = 0
        self._tls = tls
        self._cluster = Cluster()
        self._stopped = threading.Event()
        self._listeners: list[socket.socket] = []
        self.port = 0
        for each in addresses:
            self._listeners.append(on_a_port(each, self.port, partial(socket.create_server, backlog=128)))
            self.port = self._listeners[0].getsockname()[1]
        # A host is announced as a string, and its port follows as four bytes.
        self._mocks_own = _MOCK_HOST + self._cluster.port.to_bytes(4, "big")
        self._announced = announced.encode() + self.port.to_bytes(4, "big")
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()
        for listener in self._listeners:
            listener.close()
        self._cluster.close()

    def _accept(self) -> None:
        while not self._stopped.is_set():
            for listener in select.select(self._listeners, [], [], 0.02)[0]:
                sock, _ = listener.accept()
                self.accepted += 1
                self.reached[listener.getsockname()[0]] += 1
                self._threads.append(threading.Thread(target=self._serve, args=(sock,), daemon=True))
                self._threads[-1].start()

    def _serve(self, sock: socket.socket) -> None:
        try:
            with (
                sock if self._tls is None else self._tls.wrap_socket(sock, server_side=True) as client,
                socket.create_connection(("127.0.0.1", self._cluster.port)) as mock,
            ):
                self._relay(client, mock)
        except OSError:
            sock.close()  # a client that goes away, or that does not like our certificate

    def _relay(self, client: Any, mock: socket.socket) -> None:
        for each in (client, mock):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while not self._stopped.is_set():
            waiting = [client] if self._tls and client.pending() else select.select([client, mock], [], [], 0.02)[0]
            for each in waiting:
                data = each.recv(65536)
                if not data:
                    return
                if each is client:
                    self.heard += 1
                    mock.sendall(data)
                else:
                    client.sendall(data.replace(self._mocks_own, self._announced))
