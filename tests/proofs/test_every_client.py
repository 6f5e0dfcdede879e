"""What holds of every client, whatever it speaks: one table of them, and one test for each thing that holds."""

from __future__ import annotations

import asyncio
import json
import pkgutil
import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import netjail.clients
from netjail import Rules, find_denied, use_rules
from tests.guard.harness import ROOT, run
from tests.servers.names import BAD, GOOD, AsyncNames, Names
from tests.servers.site import Site

from . import clients
from .clients import EVERY, EVERY_ASYNC
from .conftest import NIGHTLY
from .listeners import HangsUp, Inside, all_imported, impatient_pymongo
from .spellings import hosts, urls

WITHIN = 3600 if NIGHTLY else 60
RULES = Rules(allow=[GOOD])
BOTH = Rules(allow=[GOOD, BAD])
NOWHERE = Rules()
A_THOUSAND = [f"10.{number >> 8}.{number & 255}.1" for number in range(999)]
DENIED = {
    "bad.test": [BAD],
    "mapped.test": [f"::ffff:{BAD}"],
    "both-families.test": ["::1", BAD, "::"],
    "thousand.test": [*A_THOUSAND, BAD],
    BAD: None,
    f"::ffff:{BAD}": None,
}
ALLOWED = {
    "good.test": [GOOD],
    "good-first.test": [GOOD, BAD],
    "bad-first.test": [BAD, GOOD],
    "mapped-first.test": [f"::ffff:{BAD}", GOOD],
    "thousand-and-good.test": [*A_THOUSAND, GOOD],
    GOOD: None,
}
"""Hosts and what they resolve to: what of it the rules accept, if any, is dialled."""
NAMES = DENIED | ALLOWED
LOOKS_UP_ITSELF = dict.fromkeys(
    ("pycurl", "curl_cffi", "curl_cffi, async"), "libcurl has a table of names, made before"
)
KEEPS_ANSWERS = {"aiohttp": "for ten seconds; what it dials by one is judged again"}
NO_IPV6 = {"opensearch-py, async": "it writes an IPv6 address into a URL without its brackets"}
DIALS_NOBODY = {"dnspython": "it is a resolver, whose name servers no rules are about"}
ELSEWHERE = {
    "niquests": "it stands in for urllib3, so that its tests have an environment of their own",
    "scrapy": "a crawl is a process of its own: below",
}

every_client = pytest.mark.parametrize("client", [*EVERY, *EVERY_ASYNC])


@pytest.fixture(scope="module", autouse=True)
def quick_collections() -> Iterator[None]:
    with all_imported():
        yield


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    impatient_pymongo(monkeypatch)


@pytest.fixture
def good() -> Iterator[HangsUp]:
    """A listener at the allowed address, and at the same port of others a trap that must not be reached."""
    listener = HangsUp()
    inside = Inside(listener.port)
    yield listener
    reached = inside.reached()
    inside.close()
    listener.close()
    assert not reached


class Calls:
    """One object of a client, under rules, and what came of each host that it was told to connect to."""

    def __init__(self, client: str, rules: Any, names: dict[str, Any]) -> None:
        self.client = client
        self._rules = rules
        self.names: Any = (Names if client in EVERY else AsyncNames)(names)
        self.outcomes: list[Exception | None] = []

    def to(self, port: int, *steps: str | Callable[[], object]) -> Calls:
        """Connects to each host in turn; a step that is a function is called in between."""
        if self.client in EVERY:
            self._now(port, steps)
        else:
            asyncio.run(self._later(port, steps))
        for outcome in self.outcomes:
            if isinstance(outcome, ImportError):
                pytest.skip(str(outcome))
        return self

    def _now(self, port: int, steps: Any) -> None:
        with EVERY[self.client](self._rules, self.names) as connect:
            for step in steps:
                if callable(step):
                    step()
                    continue
                try:
                    connect(step, port)
                except Exception as error:
                    self.outcomes.append(error)
                else:
                    self.outcomes.append(None)

    async def _later(self, port: int, steps: Any) -> None:
        async with EVERY_ASYNC[self.client](self._rules, self.names) as connect:
            for step in steps:
                if callable(step):
                    step()
                    continue
                try:
                    await connect(step, port)
                except Exception as error:
                    self.outcomes.append(error)
                else:
                    self.outcomes.append(None)

    @property
    def denied(self) -> list[bool]:
        return [find_denied(outcome) is not None for outcome in self.outcomes]


def test_every_module_of_a_client_is_in_the_table():
    modules = {each.name for each in pkgutil.iter_modules(netjail.clients.__path__) if not each.name.startswith("_")}
    tried = set(re.findall(r"from netjail\.clients\.(\w+) import", Path(clients.__file__).read_text(encoding="utf-8")))
    assert modules - tried == {*DIALS_NOBODY, *ELSEWHERE}


@every_client
def test_of_an_answer_what_is_accepted_is_dialled_and_nothing_else(client, good):
    calls = Calls(client, RULES, NAMES)
    accepted: list[int] = []
    steps: list[Any] = []
    denied = [host for host in DENIED if ":" not in host or client not in NO_IPV6]
    for host in (*denied, *ALLOWED):
        steps += [host, lambda: accepted.append(good.accepted)]
    calls.to(good.port, *steps)
    assert calls.denied == [True] * len(denied) + [False] * len(ALLOWED), calls.outcomes
    assert accepted[: len(denied)] == [0] * len(denied)
    reached = accepted[len(denied) - 1 :]
    assert all(after > before for before, after in pairwise(reached)), (ALLOWED, reached)


@every_client
def test_a_name_that_moves_inside_is_denied_there(client, good):
    calls = Calls(client, RULES, {"moves.test": [GOOD]})

    def moves() -> None:
        assert good.accepted > 0
        calls.names.table["moves.test"] = [BAD]

    calls.to(good.port, "moves.test", moves, "moves.test")
    assert calls.denied == [False, client not in KEEPS_ANSWERS], calls.outcomes


@every_client
def test_a_name_that_changes_with_every_lookup_leads_nowhere_else(client, good):
    def moving() -> Iterator[list[str]]:
        while True:
            yield from ([GOOD], [BAD], [GOOD], [GOOD], [f"::ffff:{BAD}"], ["::1", BAD])

    Calls(client, RULES, {"moves.test": moving()}).to(good.port, *["moves.test"] * 6)
    assert good.accepted > 0


@every_client
@pytest.mark.parametrize("rules", [None, NOWHERE], ids=["no rules at all", "empty rules"])
def test_without_rules_nothing_is_asked_and_nothing_dialled(client, rules, good):
    calls = Calls(client, rules, NAMES).to(good.port, "good.test", GOOD)
    assert calls.denied == [True, True], calls.outcomes
    assert calls.names.asked == [] or client in LOOKS_UP_ITSELF
    assert good.accepted == 0


@every_client
def test_rules_of_the_context_alone_do(client, good):
    with use_rules(RULES):
        calls = Calls(client, None, NAMES).to(good.port, "good.test", "bad.test")
    assert calls.denied == [False, True], calls.outcomes
    assert good.accepted > 0


@every_client
def test_the_context_narrows_and_cannot_widen(client, good):
    with use_rules(BOTH):
        calls = Calls(client, Rules(allow=["127.0.0.9"]), NAMES).to(good.port, "bad.test", "good.test")
    assert calls.denied == [True, True], calls.outcomes
    assert good.accepted == 0
    with use_rules(RULES):
        calls = Calls(client, BOTH, NAMES).to(good.port, "bad.test", "good.test")
    assert calls.denied == [True, False], calls.outcomes
    assert good.accepted > 0


@every_client
def test_after_a_denial_nothing_is_left_and_the_next_call_works(client, good, nothing_left_behind):
    calls = Calls(client, RULES, NAMES).to(good.port, "bad.test", BAD, "good.test")
    assert calls.denied == [True, True, False], calls.outcomes
    assert good.accepted > 0
    calls.outcomes.clear()  # they hold frames, and these what was open


GUARDED = """
guard.install(Rules(allow=[GOOD]))
import asyncio, json, logging, warnings
import http.client, smtplib
import aiohttp, httpx, pymysql, redis, requests, urllib3
from redis.backoff import NoBackoff
from redis.retry import Retry
from tests.proofs.spellings import answer

logging.disable(logging.CRITICAL)
warnings.simplefilter("ignore", ResourceWarning)
plain = socket.getaddrinfo

def obliging(host, port, *args, **kwargs):
    name = host.decode() if isinstance(host, bytes) else host
    return [each for ip in answer(name) for each in plain(ip, port, *args, **kwargs)]

socket.getaddrinfo = obliging

def by_url(fetch):
    return lambda host, port: fetch(f"http://{'[' + host + ']' if ':' in host and '[' not in host else host}:{port}/")

def by_http_client(host, port):
    connection = http.client.HTTPConnection(host, port, timeout=5)
    try:
        connection.request("GET", "/")
        connection.getresponse()
    finally:
        connection.close()

async def by_aiohttp(url):
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        await response.read()

def by_redis(host, port):
    with redis.Redis(host=host, port=port, retry=Retry(NoBackoff(), 0)) as client:
        client.ping()

LIBRARIES = {
    "http.client": by_http_client,
    "urllib3": by_url(lambda url: urllib3.PoolManager(retries=False, timeout=5).request("GET", url)),
    "requests": by_url(lambda url: requests.get(url, timeout=5)),
    "httpx": by_url(lambda url: client.get(url)),
    "aiohttp": by_url(lambda url: runner.run(by_aiohttp(url))),
    "smtplib": lambda host, port: smtplib.SMTP(host, port, "here", 5).close(),
    "PyMySQL": lambda host, port: pymysql.connect(host=host, port=port, user="u", ssl_disabled=True, connect_timeout=5),
    "redis": by_redis,
}

outcomes = {library: {"denied": 0, "failed": 0} for library in LIBRARIES}
with httpx.Client(timeout=5) as client, asyncio.Runner() as runner:
    for library, connect in LIBRARIES.items():
        for host in SPELLINGS:
            try:
                connect(host, PORT)
            except Exception as error:
                outcomes[library]["denied" if find_denied(error) else "failed"] += 1
print(json.dumps(outcomes))
print(guard.report().denied)
"""


def test_no_spelling_leads_a_plain_library_inside_under_the_guard(good, some):
    """The libraries know nothing of rules, and their process has a resolver that knows every reading of a host."""
    spelled = [host.text for host in some(hosts(), 300)]
    half_good = [host.text for host in hosts() if host.rule == "name, before-good"]
    outcomes, denied = run(GUARDED, PORT=good.port, SPELLINGS=[*spelled, *half_good], path=[ROOT], within=WITHIN)
    for library, counted in json.loads(outcomes).items():
        assert counted["denied"] > len(spelled) / 3, library
    assert int(denied) > 8 * len(spelled) / 3
    assert good.accepted >= 8 * len(half_good) - len(half_good)


CRAWL = """
import json
from scrapy import Request, Spider
from scrapy.crawler import CrawlerProcess
from netjail.clients import scrapy as jailed
from tests.proofs.spellings import answer

class Obliging:
    def lookup(self, host, family):
        return answer(host)

outcomes = {"fetched": 0, "denied": 0, "failed": 0}

class Ask(Spider):
    name = "ask"

    def start_requests(self):
        for url in URLS:
            try:
                yield Request(url, callback=self.fetched, errback=self.failed, dont_filter=True)
            except ValueError:
                outcomes["failed"] += 1

    async def start(self):
        for request in self.start_requests():
            yield request

    def fetched(self, response):
        assert response.body == b"from the allowed address"
        outcomes["fetched"] += 1

    def failed(self, failure):
        outcomes["denied" if find_denied(failure.value) else "failed"] += 1

process = CrawlerProcess({
    "DOWNLOAD_HANDLERS": jailed.DOWNLOAD_HANDLERS,
    "NETJAIL_RULES": Rules(allow=[GOOD, "::/0"], block=["::1", "fc00::/7", "fe80::/9", "ff00::/8"]),
    "NETJAIL_RESOLVER": Obliging(),
    "RETRY_ENABLED": False,
    "HTTPPROXY_ENABLED": False,
    "TELNETCONSOLE_ENABLED": False,
    "LOG_ENABLED": False,
})
process.crawl(Ask)
process.start()
print(json.dumps(outcomes))
"""


def test_no_url_leads_a_crawl_inside(some):
    pytest.importorskip("scrapy")
    with Site(GOOD, body=b"from the allowed address") as site:
        inside = Inside(site.port)
        spelled = [url.format(port=site.port) for host in hosts() for _, url in urls(host)]
        [told] = run(CRAWL, URLS=some(spelled, 500), path=[ROOT], within=WITHIN)
        outcomes = json.loads(told)
        assert not inside.reached()
        inside.close()
    assert outcomes["fetched"] > 0
    assert outcomes["denied"] > 0
