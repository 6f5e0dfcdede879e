"""What a proof stands on: listeners at the address that the rules accept, and at those inside."""

from __future__ import annotations

import gc
import importlib
import pkgutil
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial

import pytest

import netjail.clients
from tests.servers.names import GOOD
from tests.servers.site import on_a_port

from .clients import no_reactor, reactor


class HangsUp:
    """A listener that hangs up on whoever connects, for clients of any protocol; ``accepted`` counts them."""

    def __init__(self, address: str = GOOD, *, port: int = 0) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        create = partial(socket.create_server, family=family, backlog=128)
        self._listener = on_a_port(address, port, create)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._accepted = 0
        self._lock = threading.Lock()
        self._ended, self._end = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def accepted(self) -> int:
        """How many connected: the kernel completes a handshake before accept is called."""
        self._accept()
        return self._accepted

    def _accept(self) -> None:
        with self._lock:
            while True:
                try:
                    sock, _ = self._listener.accept()
                except BlockingIOError:
                    return
                self._accepted += 1
                sock.close()

    def _serve(self) -> None:
        while self._ended not in select.select([self._listener, self._ended], [], [])[0]:
            self._accept()

    def close(self) -> None:
        self._end.close()
        self._thread.join()
        self._ended.close()
        self._listener.close()


class Inside:
    """Listeners on the addresses inside, all on the port of the one that is allowed."""

    def __init__(self, port: int) -> None:
        self._listeners = [HangsUp(address, port=port) for address in ("127.0.0.3", "127.0.0.1", "::1")]

    def reached(self) -> bool:
        return any(listener.accepted for listener in self._listeners)

    def close(self) -> None:
        for listener in self._listeners:
            listener.close()


@contextmanager
def all_imported() -> Iterator[None]:
    """Has every client loaded, and started what it keeps for good."""
    for module in pkgutil.iter_modules(netjail.clients.__path__):
        with suppress(ImportError):
            importlib.import_module(f"netjail.clients.{module.name}")
    with suppress(ImportError):
        importlib.import_module("uvloop").new_event_loop().close()  # libuv opens a pipe with the first loop
    with suppress(ImportError):
        reactor()
    gc.collect()
    gc.freeze()  # where these tests run alone: in a run of all, every module is there before them
    yield
    no_reactor()


def impatient_pymongo(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has pymongo look after a server again before half a second is over."""
    with suppress(ImportError):
        monkeypatch.setattr("pymongo.common.MIN_HEARTBEAT_INTERVAL", 0.02)
