"""pyftpdlib as an FTP server of a test's own, with TLS for whoever asks for it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .daemon import Daemon, free_port, missing
from .names import GOOD

USER, PASSWORD = "jailed", "secret"
FILE = "hello.txt"
CONTENT = b"hello\n" * 1000


@contextmanager
def ftp_server(
    folder: Path, pem: Any, address: str = GOOD, *, announced: str | None = None, data_port: int | None = None
) -> Iterator[Daemon]:
    """A running server that shares ``folder`` with :data:`FILE` in it, and takes uploads.

    It announces the address ``announced`` for its data, by default the real one. Its data connections are on
    ``data_port`` or the port after it, if one is given.
    """
    if importlib.util.find_spec("pyftpdlib") is None or importlib.util.find_spec("OpenSSL") is None:
        missing("an FTP server with TLS", "pyftpdlib and pyOpenSSL")
    shared = folder / "shared"
    shared.mkdir()
    (shared / FILE).write_bytes(CONTENT)
    port = free_port()
    command: list[Any] = [sys.executable, "-m", "pyftpdlib", "-i", address, "-p", port, "-d", shared, "-w"]
    command += ["-u", USER, "-P", PASSWORD, "--tls", "--certfile", pem.cert, "--keyfile", pem.key]
    if announced:
        command += ["--nat-address", announced]
    if data_port:
        command += ["--range", f"{data_port}-{data_port + 1}"]
    with Daemon(command, address=address, port=port, cwd=folder) as daemon:
        yield daemon
