"""Programs under the guard, each in a process of its own, since an audit hook cannot be removed."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.servers.names import GOOD, TABLE

ROOT = Path(__file__).resolve().parent.parent.parent
PREAMBLE = """
import os, socket, sys, threading
import netjail
from netjail import DeniedError, Rules, find_denied, guard, use_rules

GOOD, BAD = "127.0.0.2", "127.0.0.3"

def _answer(host, port, family=0, type=0, proto=0, flags=0, ask=socket.getaddrinfo):
    name = host.decode() if isinstance(host, bytes) else host
    if name not in HOSTS:
        return ask(host, port, family, type, proto, flags)
    return [each for ip in HOSTS[name] for each in ask(ip, port, family, type, proto, flags)]

socket.getaddrinfo = _answer

def outcome(call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except BaseException as error:
        return "denied" if find_denied(error) else repr(error)
    return "ok"

def dial(host, port):
    with socket.socket(socket.AF_INET6 if ":" in str(host) else socket.AF_INET) as sock:
        sock.connect((host, port))
"""


def needs(*modules: str) -> None:
    """Skips a test without these modules, which this process need not load: some take room that others need too."""
    for name in modules:
        try:
            found = importlib.util.find_spec(name)
        except ImportError:
            found = None
        if found is None:
            pytest.skip(f"{name} is not installed")


def run(code: str, *, path: Iterable[Path | str] = (), within: float = 60, **names: Any) -> list[str]:
    """The lines that ``code`` prints in a new Python, which must end well and in time. ``names`` are its globals.

    ``HOSTS``, a dict of addresses by name, is what names resolve to there, by default those of the tests.
    """
    given = "".join(f"{name} = {value!a}\n" for name, value in {"HOSTS": TABLE, **names}.items())
    search = os.pathsep.join([*map(str, path), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-"],  # it may be too long for an argument
        input=PREAMBLE + given + textwrap.dedent(code),
        capture_output=True,
        text=True,
        timeout=within,
        env={**os.environ, "PYTHONPATH": search},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def run_guarded(code: str, *, floor: Iterable[str] = (GOOD,), strict: bool = False, **names: Any) -> list[str]:
    """The same under a guard whose floor accepts ``floor``."""
    install = f"guard.install(Rules(allow={list(floor)!r}), strict={strict})\n"
    return run(install + textwrap.dedent(code), **names)


class Talk:
    """A server on ``address`` that greets and answers each line, for clients that begin with a greeting."""

    def __init__(self, address: str, greeting: bytes, answer: Callable[[bytes], bytes]) -> None:
        self.accepted = 0
        self._greeting = greeting
        self._answer = answer
        self._listener = socket.create_server((address, 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            sock, _ = self._listener.accept()
            with sock, sock.makefile("rb") as lines:
                if self._greeting == b"":  # it was closed
                    return
                self.accepted += 1
                sock.sendall(self._greeting)
                for line in lines:
                    sock.sendall(self._answer(line))

    def __enter__(self) -> Talk:
        return self

    def __exit__(self, *_: object) -> None:
        self._greeting = b""
        socket.create_connection(self._listener.getsockname()).close()
        self._thread.join()
        self._listener.close()
