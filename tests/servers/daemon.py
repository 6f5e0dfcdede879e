"""Real servers, each a private process on a free port with a folder of its own, for tests that need one."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest

from .site import on_a_port

_FOLDERS = ("/usr/sbin", "/usr/local/sbin", "/usr/lib/postgresql/*/bin", "/opt/homebrew/opt/*/bin")


def missing(what: str, package: str) -> NoReturn:
    """Skips the test, saying which package brings ``what``; a failure where CI=true, which has everything."""
    reason = f"{what} is not here: install {package}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def binary(name: str, package: str) -> str:
    """The path of a server's program. ``package`` is what a Debian calls its package."""
    if found := shutil.which(name):
        return found
    for folder in _FOLDERS:
        for path in sorted(Path("/").glob(f"{folder[1:]}/{name}")):
            return str(path)
    missing(name, package)


def free_port(address: str = "127.0.0.2") -> int:
    """A port that is free on every loopback address that tests use, as a trap listens on the same one elsewhere."""
    listener = on_a_port(address, 0, socket.create_server)
    with listener:
        port: int = listener.getsockname()[1]
        return port


class Daemon:
    """A server process that answers on ``address`` and ``port``; it is stopped at the end of the ``with`` block.

    ``ready`` is called until it returns something true, in place of the test that the port takes
    connections. ``user`` is whom the process runs as where the tests run as root.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        address: str = "127.0.0.2",
        port: int,
        cwd: Path,
        user: str | None = None,
        env: Mapping[str, str] | None = None,
        ready: Callable[[], Any] | None = None,
        within: float = 30,
    ) -> None:
        self.address = address
        self.port = port
        self.log = cwd / "daemon.log"
        demoted: dict[str, Any] = {"user": user, "group": user} if user and os.geteuid() == 0 else {}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [str(part) for part in command],
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                **demoted,
            )
        try:
            self._wait(ready or self._answers, within)
        except BaseException:
            self.stop()
            raise

    def _answers(self) -> bool:
        try:
            socket.create_connection((self.address, self.port), 1).close()
        except OSError:
            return False
        return True

    def _wait(self, ready: Callable[[], Any], within: float) -> None:
        end = time.monotonic() + within
        while not ready():
            if self.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{self.process.args!r} did not start:\n{self.log.read_text(errors='replace')}")
            time.sleep(0.02)

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def __enter__(self) -> Daemon:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
