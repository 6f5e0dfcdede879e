"""Every spelling of an address inside, through every client: nothing inside is ever connected to."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin

import pytest

from netjail import PUBLIC, Rules
from tests.servers.names import GOOD
from tests.servers.site import Site, Trap

from .clients import ASYNC_HOST_CLIENTS, ASYNC_URL_CLIENTS, HOST_CLIENTS, URL_CLIENTS
from .spellings import INSIDE, Host, answer, embeddings, hosts, urls

# All of IPv6 but loopback, so that an address which carries an IPv4 address is judged by that.
RULES = Rules(allow=[GOOD, "::/0"], block=["::1", "fc00::/7", "fe80::/9", "ff00::/8"])
HOSTS = hosts()
URLS = [(f"{rule}, {host.rule}", url) for host in HOSTS for rule, url in urls(host)]
CODES = (301, 302, 303, 307, 308)
BODY = b"from the allowed address"

pytestmark = pytest.mark.usefixtures("nothing_left_behind")


class Obliging:
    """A resolver that knows every reading of a name."""

    table: Mapping[str, list[str]] = {}

    def lookup(self, host: str, family: int) -> list[str]:
        return self.table.get(host) or answer(host)


class AsyncObliging(Obliging):
    async def lookup(self, host: str, family: int) -> list[str]:  # type: ignore[override]
        return super().lookup(host, family)


class Inside:
    """Listeners on the addresses inside, all on the port of the one that is allowed."""

    def __init__(self, port: int) -> None:
        self.traps = [Trap(address, port=port) for address in ("127.0.0.3", "127.0.0.1", "::1")]

    def reached(self) -> bool:
        return any(trap.accepted for trap in self.traps)


@pytest.fixture
def good() -> Iterator[Site]:
    with Site(GOOD, body=BODY) as site:
        yield site


@pytest.fixture
def inside(good: Site) -> Iterator[Inside]:
    inside = Inside(good.port)
    yield inside
    for trap in inside.traps:
        trap.close()


class Tally:
    """What came of the cases of one client; every case is checked at the listeners as soon as it is over."""

    def __init__(self, inside: Inside) -> None:
        self.inside = inside
        self.refused = self.answered = 0

    def over(self, case: object, outcome: bytes | Exception | None) -> None:
        assert not self.inside.reached(), case
        if isinstance(outcome, Exception):
            self.refused += 1
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

    asyncio.run(all_of_them())


ALL_URL: dict[str, Any] = {name: (run, client) for name, client in URL_CLIENTS.items()}
ALL_URL |= {name: (run_async, client) for name, client in ASYNC_URL_CLIENTS.items()}
ALL_HOST: dict[str, Any] = {name: (run, client) for name, client in HOST_CLIENTS.items()}
ALL_HOST |= {name: (run_async, client) for name, client in ASYNC_HOST_CLIENTS.items()}
every_url_client = pytest.mark.parametrize(("runs", "client"), ALL_URL.values(), ids=ALL_URL)
every_host_client = pytest.mark.parametrize(("runs", "client"), ALL_HOST.values(), ids=ALL_HOST)


@every_url_client
def test_no_url_leads_inside(runs, client, good, inside, some):
    tally = Tally(inside)
    cases = [(rule, url.format(port=good.port)) for rule, url in some(URLS, 1_000)]
    runs(client, cases, tally)
    assert tally.refused > len(cases) / 3
    assert tally.answered > 0  # "userinfo after" and its like are harmless, and must stay so


@every_url_client
def test_no_redirect_leads_inside(runs, client, good, inside, some):
    tally = Tally(inside)
    cases = [
        (
            f"redirect {code}, {rule}",
            good.url(f"/redirect?code={code}&to={quote(url.format(port=good.port))}", "good.test"),
        )
        for number, (rule, url) in enumerate(some(URLS, 250))
        for code in [CODES[number % len(CODES)]]
    ]
    runs(client, cases, tally)
    assert good.accepted > 0
    assert tally.refused > 0


@every_host_client
def test_no_host_leads_inside(runs, client, good, inside, some):
    tally = Tally(inside)
    cases = [(host.rule, host.text, good.port) for host in some(HOSTS, len(HOSTS))]
    runs(client, cases, tally)
    assert tally.refused > len(cases) / 2


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


@every_url_client
def test_no_published_bypass_leads_to_any_connection(runs, client, monkeypatch):
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
    runs(client, cases, done, NOT_THE_HARMLESS_HALF)
    assert done.over_well == len(cases) > 400


def test_every_embedding_of_every_target_is_refused_by_the_rules_alone():
    for target in INSIDE:
        for name, address in embeddings(target).items():
            assert not RULES.accepts(address), name


def test_there_are_at_least_five_thousand_cases_in_every_run():
    assert len(ALL_URL) * (1_000 + 400) + len(ALL_HOST) * len(HOSTS) >= 5_000
    assert len(URLS) > 30_000
