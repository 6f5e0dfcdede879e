"""Every spelling of an address inside, through every client: nothing inside is ever connected to."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin

import pytest

from netjail import PUBLIC, Rules
from tests.servers.names import GOOD
from tests.servers.site import Site

from .clients import (
    ASYNC_DSN_CLIENTS,
    ASYNC_ENGINES,
    ASYNC_HOST_CLIENTS,
    ASYNC_URL_CLIENTS,
    DSN_CLIENTS,
    ENGINES,
    HOST_CLIENTS,
    IN_C,
    URL_CLIENTS,
    tells_of_another,
)
from .conftest import NIGHTLY
from .listeners import HangsUp, Inside, all_imported, impatient_pymongo
from .spellings import INSIDE, Host, answer, embeddings, hosts, resolves, urls

# All of IPv6 but loopback, so that an address which carries an IPv4 address is judged by that.
RULES = Rules(allow=[GOOD, "::/0"], block=["::1", "fc00::/7", "fe80::/9", "ff00::/8"])
HOSTS = hosts()
URLS = [(f"{rule}, {host.rule}", url) for host in HOSTS for rule, url in urls(host)]
CODES = (301, 302, 303, 307, 308)
BODY = b"from the allowed address"
RESOLVED = [host for host in HOSTS if resolves(host.text)]
HALF_GOOD = [host for host in HOSTS if host.rule in ("name, after-good", "name, before-good")][:4]
HOW_MANY = {
    "botocore": 150,
    "pymongo": 100,
    "pymongo, async": 100,
    "pymongo, URL": 100,
    "psycopg_pool": 100,
    "psycopg_pool, async": 100,
    "kafka-python": 100,
}
"""The cases of every run for those that take longer over one than others."""
THE_FIRST = {*URL_CLIENTS, *ASYNC_URL_CLIENTS}
NO_REDIRECTS = {"botocore", "elasticsearch", "opensearch-py"}
GIVE_NO_BODY = NO_REDIRECTS | {"elasticsearch, async", "opensearch-py, async"}

pytestmark = pytest.mark.usefixtures("nothing_left_behind")


def some_for(name: str, cases: Sequence[Any], number: int) -> Sequence[Any]:
    """Cases for a client: about ``number``, the same in every run; by night forty times as many, or all there are."""
    if NIGHTLY and name in THE_FIRST:
        return cases
    number = HOW_MANY.get(name, number) * (40 if NIGHTLY else 1)
    return cases if len(cases) <= number else random.Random(number).sample(cases, number)


class Obliging:
    """A resolver that knows every reading of a name."""

    table: Mapping[str, list[str]] = {}

    def lookup(self, host: str, family: int) -> list[str]:
        return self.table.get(host) or answer(host)


class AsyncObliging(Obliging):
    async def lookup(self, host: str, family: int) -> list[str]:  # type: ignore[override]
        return super().lookup(host, family)


@pytest.fixture(scope="module", autouse=True)
def quick_collections() -> Iterator[None]:
    with all_imported():
        yield


@pytest.fixture
def good() -> Iterator[Site]:
    with Site(GOOD, body=BODY) as site:
        yield site


@pytest.fixture
def inside(good: Site) -> Iterator[Inside]:
    inside = Inside(good.port)
    yield inside
    inside.close()


@pytest.fixture
def mute() -> Iterator[HangsUp]:
    """The allowed address for clients that do not speak HTTP."""
    mute = HangsUp()
    yield mute
    mute.close()


@pytest.fixture
def around(mute: HangsUp) -> Iterator[Inside]:
    inside = Inside(mute.port)
    yield inside
    inside.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    impatient_pymongo(monkeypatch)


class Tally:
    """What came of the cases of one client; every case is checked at the listeners as soon as it is over."""

    def __init__(self, inside: Inside, name: str = "") -> None:
        self.inside = inside
        self.in_c = name in IN_C
        self.refused = self.answered = 0

    def over(self, case: object, outcome: bytes | Exception | None) -> None:
        assert not self.inside.reached(), case
        if isinstance(outcome, ImportError):
            pytest.skip(str(outcome))
        if isinstance(outcome, Exception):
            self.refused += 1
            assert not (self.in_c and tells_of_another(outcome, GOOD)), (case, outcome)
        else:
            self.answered += 1
            assert outcome in (BODY, None), (case, outcome)


def run(client: Any, cases: Any, tally: Tally, rules: Rules = RULES) -> None:
    with client(rules, Obliging()) as call:
        for rule, *case in cases:
            outcome: Any
            try:
                outcome = call(*case)
            except Exception as error:
                outcome = error
            tally.over((rule, *case), outcome)
            del outcome  # it holds this frame, which holds it, and what a library left open


def run_async(client: Any, cases: Any, tally: Tally, rules: Rules = RULES) -> None:
    async def all_of_them() -> None:
        async with client(rules, AsyncObliging()) as call:
            for rule, *case in cases:
                outcome: Any
                try:
                    outcome = await call(*case)
                except Exception as error:
                    outcome = error
                tally.over((rule, *case), outcome)
                del outcome

    asyncio.run(all_of_them())


def of_both_kinds(clients: dict[str, Any], of_asyncio: dict[str, Any]) -> dict[str, Any]:
    """How to run each client, by its name."""
    return {name: (name, run, client) for name, client in clients.items()} | {
        name: (name, run_async, client) for name, client in of_asyncio.items()
    }


def each_of(clients: dict[str, Any]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("name", "runs", "client"), clients.values(), ids=clients)


ALL_URL = of_both_kinds(URL_CLIENTS | ENGINES, ASYNC_URL_CLIENTS | ASYNC_ENGINES)
ALL_DSN = of_both_kinds(DSN_CLIENTS, ASYNC_DSN_CLIENTS)
ALL_HOST = of_both_kinds(HOST_CLIENTS, ASYNC_HOST_CLIENTS)
FOLLOW = {name: each for name, each in ALL_URL.items() if name.split(",")[0] not in NO_REDIRECTS}
SEEN = {name: each for name, each in ALL_URL.items() if name not in IN_C | {"Twisted"}}  # which is another process


@each_of(ALL_URL)
def test_no_url_leads_inside(name, runs, client, good, inside):
    tally = Tally(inside, name)
    cases = [
        (rule, url.format(port=good.port)) for rule, url in some_for(name, URLS, 1_000 if name in THE_FIRST else 400)
    ]
    runs(client, cases, tally)
    assert tally.refused > len(cases) / 3
    assert good.accepted > 0  # "userinfo after" and its like are harmless, and must stay so
    assert tally.answered > 0 or name in GIVE_NO_BODY


@each_of(FOLLOW)
def test_no_redirect_leads_inside(name, runs, client, good, inside):
    if name == "tornado" and pytest.importorskip("tornado").version_info < (6, 6):
        pytest.skip("before 6.6, Tornado waits for ever where a redirect leads to a name that does not resolve")
    tally = Tally(inside, name)
    cases = [
        (
            f"redirect {code}, {rule}",
            good.url(f"/redirect?code={code}&to={quote(url.format(port=good.port))}", "good.test"),
        )
        for number, (rule, url) in enumerate(some_for(name, URLS, 250 if name in THE_FIRST else 120))
        for code in [CODES[number % len(CODES)]]
    ]
    runs(client, cases, tally)
    assert good.accepted > 0
    assert tally.refused > 0


@pytest.mark.usefixtures("impatient")
@each_of(ALL_DSN)
def test_no_url_of_a_database_or_a_broker_leads_inside(name, runs, client, mute, around):
    tally = Tally(around, name)
    cases = [(rule, url.format(port=mute.port)) for rule, url in some_for(name, URLS, 200)]
    runs(client, cases, tally)
    assert tally.refused > len(cases) / 2
    assert mute.accepted > 0


@pytest.mark.usefixtures("impatient")
@each_of(ALL_HOST)
def test_no_host_leads_inside(name, runs, client, mute, around):
    tally = Tally(around, name)
    # Those that lead nowhere cost a client that tries again its time, and tell nothing.
    known = RESOLVED if name in HOW_MANY and not NIGHTLY else HOSTS
    some_of_them = some_for(name, known, len(HOSTS) if name in ("Dialer", "AsyncDialer") else 200)
    cases = [(host.rule, host.text, mute.port) for host in [*some_of_them, *HALF_GOOD]]
    runs(client, cases, tally)
    assert tally.refused > len(cases) / 2
    assert mute.accepted > 0


PUBLISHED = Path(__file__).resolve().parents[3] / "shared" / "data" / "bypass.jsonl"
# The addresses that stand for the harmless half of these URLs are public, and must not be dialled from here.
NOT_THE_HARMLESS_HALF = Rules(allow=PUBLIC.allow, block=[*PUBLIC.block, "8.8.8.8", "1.2.3.4"])
_connects: list[Any] = []


def _remember(event: str, args: tuple[Any, ...]) -> None:
    if event == "socket.connect" and args[0].family in (socket.AF_INET, socket.AF_INET6):
        _connects.append(args[1])


sys.addaudithook(_remember)


class NoConnect:
    """In place of a Tally: a case is over well when nothing was connected to, wherever."""

    def __init__(self) -> None:
        self.over_well = 0
        _connects.clear()

    def over(self, case: object, _outcome: object) -> None:
        assert not _connects, (case, _connects)
        self.over_well += 1


@each_of(SEEN)
def test_no_published_bypass_leads_to_any_connection(name, runs, client, monkeypatch):
    """Where the collection lies beside the checkout: it is not part of it."""
    if not PUBLISHED.exists():
        pytest.skip("no bypass.jsonl beside the checkout")
    rows = [json.loads(line) for line in PUBLISHED.read_text(encoding="utf-8").splitlines()]
    table = {name: answers for row in rows for name, answers in row.get("dns", {}).items()}
    monkeypatch.setattr(Obliging, "table", table)
    cases = []
    for row in rows:
        if row["kind"] == "host":
            cases.append((row["id"], f"http://{Host(row['input'], '').in_url}/"))
        else:
            cases.append((row["id"], urljoin(row.get("base", ""), row["input"])))
    done: Any = NoConnect()
    assert len(cases) > 400
    tried = some_for(name, cases, 1_000 if name in THE_FIRST else 150)
    runs(client, tried, done, NOT_THE_HARMLESS_HALF)
    assert done.over_well == len(tried)


def test_every_embedding_of_every_target_is_refused_by_the_rules_alone():
    for target in INSIDE:
        for name, address in embeddings(target).items():
            assert not RULES.accepts(address), name


def test_there_are_at_least_five_thousand_cases_in_every_run():
    assert 1_000 * len(URL_CLIENTS | ASYNC_URL_CLIENTS) + 100 * len(ALL_URL | ALL_DSN | ALL_HOST) > 5_000
    assert len(URLS) > 30_000
