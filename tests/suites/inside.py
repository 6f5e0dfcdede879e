"""A pytest plugin that runs somebody else's suite, plain or jailed, and watches every connect that it makes.

It knows the suite's table and netjail; what it saw goes into a file, of which the runner makes sense.
"""

from __future__ import annotations

import errno
import ipaddress
import json
import os
import socket
import sys
import sysconfig
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from .suite import Suite, named, suite

_INTERNET = (socket.AF_INET, socket.AF_INET6)
_LOCAL_NAMES = ("localhost", "ip6-localhost")


class Tripwire:
    """An audit hook: nothing leaves loopback, only localhost is looked up, and jailed code dials what was judged.

    A name gets the answer that there is no such name, in both runs. A connect off loopback fails, and is kept in
    ``strays``, so that it fails the run even where somebody swallows the error.

    In the jailed run, a connect to an address and port that no ``judge`` of netjail's has accepted since the test
    began is the suite's own if the nearest frame above the standard library (and above what the table says lies
    ``beneath`` ours) is in a file of the suite's, or of a server that it starts. Any other is ``unjudged``: the
    client went past the rules.
    """

    def __init__(self, client: Suite, root: Path) -> None:
        self.test = "before the first test"
        self.strays: list[str] = []
        self.unjudged: list[str] = []
        self.judged = 0
        self._closed = client.closed
        self._accepted: set[tuple[str, int]] | None = None
        packages = Path(sysconfig.get_path("purelib"))
        own = [root / part for part in client.tests] + [packages / server for server in client.servers]
        self._own = tuple(str(folder) for folder in own)
        beneath = (str(folder / file) for folder in (packages, root) for file in client.beneath)
        self._passed_over = (sysconfig.get_path("stdlib"), "<", *beneath)

    def listen(self) -> None:
        """Has netjail's judge tell what it accepts. To be called before any module of a client is imported."""
        dialer: Any = import_module("netjail._dialer")
        plain = dialer.judge
        accepted: set[tuple[str, int]] = set()
        self._accepted = accepted

        def judge(rules: Any, host: str, port: int, addresses: Any, mixed: Any = "skip") -> list[str]:
            found: list[str] = plain(rules, host, port, addresses, mixed)
            accepted.update((ip, int(port)) for ip in found)
            return found

        dialer.judge = judge

    def begin(self, test: str) -> None:
        """What was judged for another test counts no more."""
        self.test = test
        if self._accepted is not None:
            self._accepted.clear()

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "socket.getaddrinfo":
            self._look_up(args[0])
        elif event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
            sock, address = args
            if sock.family in _INTERNET and address is not None:
                self._reach(event, str(address[0]), int(address[1]))

    def _look_up(self, host: str | bytes | None) -> None:
        name = host.decode("ascii", "replace") if isinstance(host, bytes) else host
        if name and name.rstrip(".").lower() not in _LOCAL_NAMES and not _numeric(name):
            raise socket.gaierror(socket.EAI_NONAME, "no name is looked up in this run")

    def _reach(self, event: str, host: str, port: int) -> None:
        if not _on_loopback(host):
            self.strays.append(f"{self.test}: {event} {host} {port}")
            raise OSError(f"a test tried to leave loopback: {event} {host} {port}")
        if event == "socket.connect" and port in self._closed:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "nothing answers there in this run")
        if self._accepted is None or event != "socket.connect":
            return
        if (host, port) in self._accepted:
            self.judged += 1
        elif not self._by_the_suite(sys._getframe(2)):  # whoever called the socket: behind this and the hook
            self.unjudged.append(f"{self.test}: {host} {port}")

    def _by_the_suite(self, frame: FrameType | None) -> bool:
        while frame is not None:
            file = frame.f_code.co_filename
            if file.startswith(self._own):
                return True
            if not file.startswith(self._passed_over):
                return False
            frame = frame.f_back
        return False


def _numeric(host: str) -> bool:
    """Whether the system needs no name server for ``host``: an address, or what inet_aton makes one of (127.1)."""
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        try:
            socket.inet_aton(host)
        except (OSError, UnicodeError):
            return False
    return True


def _on_loopback(host: str) -> bool:
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return host in _LOCAL_NAMES
    ip = getattr(ip, "ipv4_mapped", None) or ip
    return ip.is_loopback or ip.is_unspecified


class Watch:
    """Leaves out what is to be left out, and writes down how every other test ended."""

    def __init__(self, client: Suite, wire: Tripwire, report: Path) -> None:
        self._suite = client
        self._wire = wire
        self._report = report
        self._here = str(Path.cwd())
        self._left_out: list[str] = []
        self._ended: dict[str, str] = {}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        out = [item for item in items if named(item.nodeid, self._suite.left_out)]
        self._left_out = [item.nodeid for item in out]
        items[:] = [item for item in items if item not in out]
        config.hook.pytest_deselected(items=out)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._wire.begin(nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._end(report, "failed")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._end(report, "failed")
        elif report.skipped or hasattr(report, "wasxfail"):  # which may fail or pass, by what the suite says
            self._end(report, "skipped")
        elif report.when == "call":
            self._end(report, "passed")

    def _end(self, report: pytest.CollectReport | pytest.TestReport, how: str) -> None:
        test = report.nodeid.replace(self._here, ".")  # parameters may be paths, which are others in the other run
        if self._ended.get(test) != "failed":
            self._ended[test] = how

    def pytest_sessionfinish(self) -> None:
        seen = {
            "ended": self._ended,
            "left_out": self._left_out,
            "strays": self._wire.strays,
            "unjudged": self._wire.unjudged,
            "judged": self._wire.judged,
        }
        self._report.write_text(json.dumps(seen, indent=1), encoding="utf-8")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("netjail")
    group.addoption("--suite", help="the client whose suite this is")
    group.addoption("--way", choices=("plain", "jailed"))
    group.addoption("--seen", help="the file to write")
    group.addoption("--environ", action="append", default=[], help="NAME=VALUE, which the suite reads")


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Before the suite's own conftest has imported anything of its client."""
    options = early_config.known_args_namespace
    client = suite(options.suite)
    os.environ.update(each.split("=", 1) for each in options.environ)
    wire = Tripwire(client, Path.cwd())
    client.prepare()
    if options.way == "jailed":
        wire.listen()
        client.jail()
    sys.addaudithook(wire)
    early_config.pluginmanager.register(Watch(client, wire, Path(options.seen)))
