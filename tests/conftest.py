"""What every test stands on: nothing may leave loopback, and nothing may be left behind."""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import json
import os
import socket
import ssl
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import hypothesis  # noqa: F401 - it looks for who holds its generators, which it could not once they are frozen
import pytest
import trustme

from tests.servers.site import Site, Trap

_strays: list[str] = []


def _stays_on_loopback(event: str, args: tuple[Any, ...]) -> None:
    """Fails whatever connects or sends elsewhere, before it does."""
    if event not in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        return
    sock, address = args
    if sock.family not in (socket.AF_INET, socket.AF_INET6) or address is None:
        return
    try:
        ip = ipaddress.ip_address(address[0])
    except ValueError:
        ip = None
    mapped = getattr(ip, "ipv4_mapped", None) or ip
    if mapped is None or not (mapped.is_loopback or mapped.is_unspecified):
        _strays.append(f"{event} {address!r}")
        raise OSError(f"a test tried to leave loopback: {event} {address!r}")


sys.addaudithook(_stays_on_loopback)


def _close_runner(self: asyncio.Runner, plain: Callable[[asyncio.Runner], None] = asyncio.Runner.close) -> None:
    """Lets a loop finish what is being closed on it: TLS takes some rounds, for which not every library waits."""
    loop: Any = self._loop  # type: ignore[attr-defined]
    end = time.monotonic() + 2
    while loop is not None and not loop.is_closed() and _is_closing(loop) and time.monotonic() < end:
        loop.run_until_complete(asyncio.sleep(0.002))
    plain(self)


def _is_closing(loop: Any) -> bool:
    transports = list(getattr(loop, "_transports", {}).values())  # uvloop has none
    states = [getattr(getattr(each, "_protocol", None), "_state", None) for each in transports]  # that of TLS, or none
    return any(getattr(state, "name", "") in ("FLUSHING", "SHUTDOWN") for state in states)


asyncio.Runner.close = _close_runner  # type: ignore[method-assign]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--proofs", help="write what tests prove of the clients, by their marks, to this file as JSON")


def pytest_collection_finish(session: pytest.Session) -> None:
    # Tests look for what they left behind after a garbage collection, which need not walk every module each time.
    gc.collect()
    gc.freeze()
    if file := session.config.getoption("--proofs"):
        proofs: dict[str, list[str]] = {}
        for item in session.items:
            for mark in item.iter_markers("proves"):
                proofs.setdefault(mark.args[0], []).extend(mark.args[1:])
        Path(file).write_text(json.dumps(proofs), encoding="utf-8")


@pytest.fixture(autouse=True)
def nothing_leaves_loopback() -> Iterator[None]:
    """A test fails when anything in it tried to connect elsewhere, even if the error was swallowed."""
    _strays.clear()
    yield
    strays, _strays[:] = list(_strays), []
    assert not strays


@pytest.fixture
def nothing_left_behind() -> Iterator[None]:
    """A test fails when it leaves more file descriptors or threads than it found."""
    gc.collect()
    before = _descriptors(), set(threading.enumerate())
    yield
    gc.collect()
    end = time.monotonic() + 5  # for what is ending, and for servers in this process, whose threads close things
    while time.monotonic() < end:
        if set(threading.enumerate()) <= before[1] and len(_descriptors()) <= len(before[0]):
            return
        time.sleep(0.01)
    assert set(threading.enumerate()) <= before[1]
    assert len(_descriptors()) <= len(before[0]), _descriptors() - before[0]


def _descriptors() -> set[str]:
    found = set()
    for number in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else []:
        try:
            found.add(f"{number} {os.readlink(f'/proc/self/fd/{number}')}")
        except FileNotFoundError:
            pass
    return found


@pytest.fixture
def site() -> Iterator[Callable[..., Site]]:
    """Makes :class:`Site` servers that are closed when the test ends."""
    made: list[Site] = []

    def make(*args: Any, **kwargs: Any) -> Site:
        made.append(Site(*args, **kwargs))
        return made[-1]

    yield make
    for server in made:
        server.close()


@pytest.fixture
def trap() -> Iterator[Callable[..., Trap]]:
    """Makes :class:`Trap` listeners; the test fails if any was reached."""
    made: list[Trap] = []

    def make(*args: Any, **kwargs: Any) -> Trap:
        made.append(Trap(*args, **kwargs))
        return made[-1]

    yield make
    reached = [f"{each.address}:{each.port}" for each in made if each.accepted]
    for each in made:
        each.close()
    assert not reached


@pytest.fixture(scope="session")
def ca() -> trustme.CA:
    """A certificate authority of this run's own."""
    return trustme.CA()


@pytest.fixture(scope="session")
def server_tls(ca: trustme.CA) -> Callable[..., ssl.SSLContext]:
    """Makes server contexts with a certificate for the given names."""

    def make(*names: str, alpn: list[str] | None = None) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ca.issue_cert(*names).configure_cert(context)
        if alpn:
            context.set_alpn_protocols(alpn)
        return context

    return make


class Pem(NamedTuple):
    """Files for a server that is no Python: its certificate chain, its key, and the authority's certificate."""

    cert: Path
    key: Path
    ca: Path


@pytest.fixture(scope="session")
def pem(ca: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Pem]:
    """Makes such files, with a certificate for the given names, which everybody may read."""

    def make(*names: str) -> Pem:
        folder = tmp_path_factory.mktemp("pem")
        for parent in (folder, *folder.parents):
            if parent == Path(tempfile.gettempdir()).resolve():
                break
            parent.chmod(0o755)
        files = Pem(folder / "cert.pem", folder / "key.pem", folder / "ca.pem")
        issued = ca.issue_cert(*names)
        for blob in issued.cert_chain_pems:
            blob.write_to_path(files.cert, append=True)
        issued.private_key_pem.write_to_path(files.key)
        ca.cert_pem.write_to_path(files.ca)
        return files

    return make


@pytest.fixture
def client_tls(ca: trustme.CA) -> ssl.SSLContext:
    """A client context that trusts ``ca``."""
    context = ssl.create_default_context()
    ca.configure_trust(context)
    return context
