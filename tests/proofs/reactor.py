"""Twisted's Agent in a process of its own, as a reactor runs once in a process; names are looked up by who asks it.

Run as a program, it is that process: it is sent rules and a URL, may ask for addresses, and tells what came of it.
"""

from __future__ import annotations

import os
import pickle
import queue
import subprocess
import sys
import threading
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from netjail import use_rules
from netjail._context import carried_rules

ROOT = Path(__file__).resolve().parents[2]


class Reactor:
    """The process, as seen by who asks it."""

    def __init__(self) -> None:
        path = os.pathsep.join([str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH", "")])
        self._process: Any = subprocess.Popen(
            [sys.executable, "-m", "tests.proofs.reactor"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
        )
        if _told(self._process.stdout) != ("begun",):
            self.close()
            raise ImportError("Twisted is not installed", name="twisted")

    def fetch(self, rules: Any, resolver: Any, url: str) -> Any:
        """The body of ``url``, under ``rules`` and those of the context; names are looked up by ``resolver``."""
        _tell(self._process.stdin, (rules, carried_rules.get(), url))
        while True:
            kind, *what = _told(self._process.stdout)
            if kind == "fetched":
                return what[0]
            if kind == "failed":
                raise what[0]
            if kind == "nothing":
                pytest.fail("the process with the reactor has ended")
            try:
                answer = resolver.lookup(*what)
            except Exception as error:
                answer = error
            _tell(self._process.stdin, answer)

    def close(self) -> None:
        self._process.communicate()


def _tell(pipe: Any, what: object) -> None:
    pickle.dump(what, pipe)
    pipe.flush()


def _told(pipe: Any) -> Any:
    try:
        return pickle.load(pipe)
    except EOFError:
        return ("nothing",)


def _stays_on_loopback(event: str, args: tuple[Any, ...]) -> None:
    """Ends the process, which is no test's own, before it connects elsewhere."""
    if event == "socket.connect" and not (args[1][0].startswith("127.") or args[1][0] == "::1"):
        sys.stderr.write(f"a test tried to leave loopback: {args[1]!r}\n")
        os._exit(1)


class _Resolver:
    """Asks who asked."""

    def lookup(self, host: str, family: int) -> Any:
        _tell(sys.stdout.buffer, ("lookup", host, family))
        answer = _told(sys.stdin.buffer)
        if isinstance(answer, Exception):
            raise answer
        return answer


def _run() -> None:
    from twisted.internet import reactor as made
    from twisted.web.client import RedirectAgent, readBody

    from netjail.clients.twisted import Agent

    reactor: Any = made
    outcomes: queue.Queue[Any] = queue.Queue()

    def begin(rules: Any, carried: Any, url: str) -> None:
        try:
            plain: Any = Agent(reactor, rules, resolver=_Resolver(), connectTimeout=5)
            agent: Any = RedirectAgent(plain)
            with nullcontext() if carried is None else use_rules(carried):
                fetched = agent.request(b"GET", url.encode())
            fetched.addCallback(readBody)
        except Exception as error:
            outcomes.put(("failed", error))
        else:
            fetched.addCallbacks(lambda body: outcomes.put(("fetched", body)), failed)

    def failed(failure: Any) -> None:
        error = getattr(failure.value, "reasons", [failure])[0]
        outcomes.put(("failed", getattr(error, "value", error)))

    def serve() -> None:
        _tell(sys.stdout.buffer, ("begun",))
        while (asked := _told(sys.stdin.buffer)) != ("nothing",):
            reactor.callFromThread(begin, *asked)
            outcome = outcomes.get()
            try:
                pickle.dumps(outcome)
            except Exception:
                outcome = ("failed", RuntimeError(repr(outcome[1])))
            _tell(sys.stdout.buffer, outcome)
        reactor.callFromThread(reactor.stop)

    sys.addaudithook(_stays_on_loopback)
    threading.Thread(target=serve, daemon=True).start()
    reactor.run()


if __name__ == "__main__":
    _run()
