"""Twisted's Agent under rules, in programs of their own, as a reactor runs once in a process."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import netjail
from tests.guard.harness import PREAMBLE, ROOT
from tests.servers.names import BAD, GOOD, TABLE

pytest.importorskip("twisted.web.client")
from twisted.internet.error import ConnectError

from netjail.clients.twisted import DeniedError

Make = Callable[..., Any]
proves = pytest.mark.proves

PROGRAM = """
import json
from twisted.internet import reactor, ssl
from twisted.internet.defer import inlineCallbacks, gatherResults
from twisted.internet.error import ConnectError
from twisted.internet.task import deferLater
from twisted.web.client import BrowserLikePolicyForHTTPS, HTTPConnectionPool, RedirectAgent, readBody
from netjail.clients.twisted import Agent, DeniedError

RULES = Rules(allow=[GOOD])
OTHERS = Rules(allow=[GOOD, "127.9.0.0/16"])

class Names:
    def lookup(self, host, family):
        if host not in HOSTS:
            raise socket.gaierror(socket.EAI_NONAME, host)
        if HOSTS[host] == "slow":
            release.wait(30)
        return HOSTS[host]

release = threading.Event()

def agent(rules=None, *in_order, **options):
    return Agent(reactor, rules, *in_order, resolver=Names(), **options)

@inlineCallbacks
def get(agent, url, show=str):
    try:
        response = yield agent.request(b"GET", url.encode())
        body = yield readBody(response)
        print(body.decode(), flush=True)
    except Exception as error:
        error = getattr(error, "reasons", [error])[0]
        error = getattr(error, "value", error)
        print("denied" if isinstance(error, DeniedError) else type(error).__name__)

def work():
    for line in sys.stdin:
        reactor.callFromThread(do, json.loads(line))
    reactor.callFromThread(reactor.stop)

def do(asked):
    release.clear()
    HOSTS.update(asked.pop("HOSTS", {}))
    names = {**globals(), **asked}
    exec(names.pop("code"), names)
    names["steps"]().addErrback(lambda failure: failure.printTraceback(sys.stdout)).addBoth(done)

def done(_):
    release.set()
    print("done", flush=True)

threading.Thread(target=work, daemon=True).start()
reactor.run()
"""


class Worker:
    """A process with a reactor, which runs bodies of functions with inlineCallbacks and gives what they print."""

    def __init__(self, program: str) -> None:
        path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"{PREAMBLE}\nHOSTS = {TABLE!r}\n{program}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )

    def __call__(self, steps: str, **names: Any) -> list[str]:
        body = "\n".join("    " + line for line in steps.strip().splitlines())
        asked = {"code": f"@inlineCallbacks\ndef steps():\n{body}\n", **names}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        told: list[str] = []
        for line in self._process.stdout:
            if line == "done\n":
                return told
            told.append(line.rstrip("\n"))
        raise AssertionError("\n".join(["it ended:", *told]))

    def close(self) -> None:
        self._process.communicate(timeout=30)


@pytest.fixture(scope="module")
def lines() -> Iterator[Worker]:
    worker = Worker(PROGRAM)
    yield worker
    worker.close()


@proves("Twisted Agent", "allowed", "denied", "literal")
def test_what_the_rules_accept_is_fetched_and_nothing_else_is_dialled(lines: Worker, site: Make, trap: Make) -> None:
    server = site(GOOD)
    trap(BAD, port=server.port)
    hosts = ["good.test", GOOD, "mixed.test", "bad.test", BAD, f"[::ffff:{BAD}]", "nowhere.test"]
    assert lines("for url in urls: yield get(agent(RULES), url)", urls=[server.url(host=host) for host in hosts]) == [
        "hello"
    ] * 3 + ["denied"] * 3 + ["DNSLookupError"]
    assert server.accepted == 3


def test_the_rules_of_each_request_are_those_given_and_those_of_the_context(lines: Worker, site: Make) -> None:
    server = site(GOOD)
    assert lines(
        """
free, given = agent(), agent(RULES)
yield get(free, url)
with use_rules(RULES):
    allowed = get(free, url)
with use_rules(Rules(allow=[BAD])):
    narrowed = gatherResults([get(given, url), get(free, url)])
yield allowed
yield narrowed
""",
        url=server.url(host="good.test"),
    ) in (["denied", "denied", "denied", "hello"], ["denied", "hello", "denied", "denied"])
    assert server.accepted == 1


@proves("Twisted Agent", "announced")
def test_each_hop_of_a_redirect_is_judged_by_the_rules_of_the_request(lines: Worker, site: Make, trap: Make) -> None:
    server = site(GOOD)
    forbidden = trap(BAD, port=server.port)
    assert lines(
        """
for url in urls:
    yield get(RedirectAgent(agent(RULES)), url)
wide = RedirectAgent(agent(Rules(allow=["127.0.0.0/8"])))
with use_rules(RULES):
    narrowed = get(wide, urls[0])
yield narrowed
free = RedirectAgent(agent())
with use_rules(RULES):
    asked = get(free, urls[2])
yield asked
""",
        urls=[
            server.url(f"/redirect?to={forbidden.url()}"),
            server.url(f"/redirect?to={forbidden.url(host='bad.test')}"),
            server.url(f"/redirect?to={server.url(host='good.test')}"),
        ],
    ) == ["denied", "denied", "hello", "denied", "hello"]


@proves("Twisted Agent", "pools")
def test_a_persistent_pool_lends_no_connection_of_other_rules(lines: Worker, site: Make) -> None:
    server = site(GOOD)
    assert (
        lines(
            """
pool = HTTPConnectionPool(reactor)
shared = agent(pool=pool)
for rules in (RULES, OTHERS, RULES, OTHERS, Rules(allow=[GOOD + "/32"])):
    with use_rules(rules):
        asked = get(shared, url)
    yield asked
yield pool.closeCachedConnections()
""",
            url=server.url(),
        )
        == ["hello"] * 5
    )
    seen = [each.connection for each in server.seen]
    assert seen[0] == seen[2] == seen[4]
    assert seen[1] == seen[3] != seen[0]


@proves("Twisted Agent", "tls", "wrong-name")
def test_tls_checks_the_name(lines: Worker, site: Make, trap: Make, server_tls: Make, pem: Make) -> None:
    server = site(GOOD, tls=server_tls("good.test"))
    trap(BAD, port=server.port)
    answers = lines(
        """
with open(ca, "rb") as file:
    policy = BrowserLikePolicyForHTTPS(ssl.Certificate.loadPEM(file.read()))
for url in urls:
    yield get(agent(RULES, policy), url)
""",
        ca=str(pem("good.test").ca),
        urls=[server.url(host=host) for host in ("good.test", "wrong.test", "bad.test")],
    )
    assert answers[0] == "hello"
    assert answers[1] not in ("hello", "denied")
    assert answers[2] == "denied"
    assert [seen.path for seen in server.seen] == ["/"]


def test_a_timeout_covers_the_lookup_and_cancelling_ends_it(lines: Worker, site: Make) -> None:
    server = site(GOOD)
    assert lines(
        """
yield get(agent(RULES, connectTimeout=0.05), url)
asked = agent(RULES).request(b"GET", url.encode())
asked.addErrback(lambda failure: print(failure.type.__name__))
asked.cancel()
yield asked
with use_rules(Rules()):
    denied = get(agent(RULES), url)
yield denied
""",
        url=server.url(host="slow.test"),
        HOSTS={**TABLE, "slow.test": "slow"},
    ) == ["TimeoutError", "CancelledError", "denied"]
    assert server.accepted == 0


def test_a_scheme_that_is_not_http_is_refused(lines: Worker) -> None:
    assert lines("yield get(agent(RULES), 'ftp://good.test/')") == ["SchemeNotSupported"]


@proves("Twisted Agent", "refused")
def test_no_proxy_of_the_environment_is_used(lines: Worker, site: Make, trap: Make) -> None:
    server, proxy = site(GOOD), trap(GOOD)
    steps = "os.environ['http_proxy'] = proxy\nyield get(agent(RULES), url)\ndel os.environ['http_proxy']"
    assert lines(steps, url=server.url(), proxy=f"http://{GOOD}:{proxy.port}") == ["hello"]


def test_a_denial_is_twisteds_own_error_and_pickles() -> None:
    error = DeniedError.of(netjail.DeniedError("bad.test", 80))
    assert isinstance(error, ConnectError)
    assert isinstance(error, PermissionError)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is DeniedError
    assert str(again) == str(error) == "netjail denied the connection to 'bad.test' port 80: not accepted by the rules"


def test_on_the_asyncio_reactor(site: Make, trap: Make) -> None:
    server, forbidden = site(GOOD), trap(BAD)
    worker = Worker(f"from twisted.internet import asyncioreactor\nasyncioreactor.install()\n{PROGRAM}")
    urls = [server.url(), forbidden.url()]
    try:
        assert worker("for url in urls: yield get(agent(RULES), url)", urls=urls) == ["hello", "denied"]
    finally:
        worker.close()
