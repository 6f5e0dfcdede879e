"""Dialing over dnspython, against a hostile name server; 127.0.0.2 is allowed and 127.0.0.3 is not."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import threading
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import dns.flags
import dns.rcode
import dns.resolver
import pytest

from netjail import AsyncDialer, DeniedError, Dialer, Rules
from netjail.clients.dnspython import AsyncResolver, Resolver
from tests.servers.dns import NameServer, Question
from tests.servers.names import BAD, GOOD
from tests.servers.site import Trap

RULES = Rules(allow=[GOOD])
BOTH = Rules(allow=[GOOD, "::/0"], block=["::1"])
FLIPS = 100_000 if os.environ.get("NETJAIL_NIGHTLY") else 1_000
MANY = [f"127.1.{number >> 8}.{number & 255}" for number in range(1_000)]

pytestmark = pytest.mark.usefixtures("nothing_left_behind")


def loop(question: Question) -> bytes:
    owners = ["loop.test", "a.loop.test", "b.loop.test", "a.loop.test"]
    return question.reply(*((owner, "CNAME", [f"{target}."]) for owner, target in pairwise(owners)))


def chain(question: Question) -> bytes:
    return question.reply((question.name, "CNAME", ["inside.test."]), ("inside.test", "A", [BAD]))


def truncated(question: Question) -> bytes:
    return question.addresses(GOOD) if question.tcp else question.reply(flags=dns.flags.TC)


def truncated_to_inside(question: Question) -> bytes:
    """Over UDP the allowed address and the mark that there is more; over TCP the denied one."""
    if question.tcp:
        return question.addresses(BAD)
    return question.reply((question.name, "A", [GOOD]), flags=dns.flags.TC)


def another_question(question: Question) -> bytes:
    wire = bytearray(question.addresses(BAD))
    wire[13] ^= 1  # a letter of the name
    return bytes(wire)


def another_id(question: Question) -> bytes:
    wire = bytearray(question.addresses(BAD))
    wire[0] ^= 0xFF
    return bytes(wire)


class Flip:
    """Answers one way, then another, and so on."""

    def __init__(self, *answers: Any) -> None:
        self._answers = itertools.cycle(answers)

    def __call__(self, question: Question) -> bytes | None:
        answer = next(self._answers)
        return answer(question) if callable(answer) else question.addresses(*answer)


def no_such_name(question: Question) -> bytes:
    return question.reply(rcode=dns.rcode.NXDOMAIN)


ZONE: dict[str, Any] = {
    "good.test": [GOOD],
    "bad.test": [BAD],
    "mixed.test": [BAD, GOOD],
    "mapped.test": [f"::ffff:{BAD}"],
    "mapped-good.test": [f"::ffff:{GOOD}"],
    "embedded.test": [f"64:ff9b::{BAD}", f"::{BAD}", "2002:7f00:3::1"],
    "unspecified.test": ["0.0.0.0", "::"],
    "empty.test": [],
    "huge.test": MANY,
    "silent.test": lambda _question: None,
    "truncated.test": truncated,
    "truncated-inside.test": truncated_to_inside,
    "loop.test": loop,
    "chain.test": chain,
    "garbage.test": lambda _question: b"\0" * 40,
    "short.test": lambda _question: b"\x01",
    "servfail.test": lambda question: question.reply(rcode=dns.rcode.SERVFAIL),
    "another-question.test": another_question,
    "another-id.test": another_id,
}

DENIED = ["bad.test", "mapped.test", "embedded.test", "unspecified.test", "chain.test", "truncated-inside.test"]
REACHED = ["good.test", "mixed.test", "mapped-good.test", "truncated.test"]
NO_NAME = ["empty.test", "no.such.test", "two..dots.test", "l" * 64 + ".test", "."]
FAILED = ["loop.test", "servfail.test"]
LATE = ["silent.test", "another-question.test", "another-id.test", "garbage.test", "short.test"]


@pytest.fixture(scope="module")
def server() -> Iterator[NameServer]:
    with NameServer(ZONE) as server:
        yield server


@pytest.fixture
def listeners(trap: Any) -> Iterator[Trap]:
    """What may be reached, with a trap on the same port of the denied addresses."""
    with Trap(GOOD) as good:
        trap(BAD, port=good.port)
        trap("127.0.0.1", port=good.port)
        yield good


def dial(server: NameServer, host: str, port: int, rules: Rules, timeout: float | None, **limits: Any) -> None:
    Dialer(rules, resolver=Resolver(server.resolver(), **limits)).connect((host, port), timeout).close()


def dial_async(server: NameServer, host: str, port: int, rules: Rules, timeout: float | None, **limits: Any) -> None:
    async def connect() -> None:
        dialer = AsyncDialer(rules, resolver=AsyncResolver(server.async_resolver(), **limits))
        (await dialer.connect((host, port), timeout)).close()

    asyncio.run(connect())


@pytest.fixture(params=[dial, dial_async], ids=["sync", "async"])
def connect(request: pytest.FixtureRequest, server: NameServer) -> Any:
    def call(host: str, port: int, rules: Rules = BOTH, timeout: float | None = None, **limits: Any) -> None:
        request.param(server, host, port, rules, timeout, **limits)

    return call


@pytest.mark.parametrize("host", REACHED)
def test_what_is_accepted_of_an_answer_is_reached(connect, listeners, host):
    connect(host, listeners.port)
    assert listeners.accepted == 1


@pytest.mark.parametrize("host", DENIED)
def test_what_is_not_accepted_is_never_dialled(connect, listeners, host):
    with pytest.raises(DeniedError):
        connect(host, listeners.port)
    assert listeners.accepted == 0


@pytest.mark.parametrize("host", NO_NAME)
def test_a_name_without_an_address_fails_as_with_the_systems_resolver(connect, listeners, host):
    with pytest.raises(socket.gaierror) as failed:
        connect(host, listeners.port)
    assert failed.value.errno == socket.EAI_NONAME


@pytest.mark.parametrize("host", FAILED)
def test_a_lookup_that_the_server_fails_is_a_gaierror(connect, listeners, host):
    with pytest.raises(socket.gaierror):
        connect(host, listeners.port, lifetime=0.5)


@pytest.mark.parametrize("host", LATE)
def test_a_lookup_ends_with_its_lifetime(connect, listeners, host):
    """Silence, and answers to other questions than the one that was asked, which dnspython lets pass by."""
    with pytest.raises(OSError) as failed:
        connect(host, listeners.port, lifetime=0.3)
    assert isinstance(failed.value, TimeoutError | socket.gaierror)
    assert not isinstance(failed.value, DeniedError)
    assert listeners.accepted == 0


def test_a_dialers_timeout_holds_where_the_lookup_has_longer(server, listeners):
    ended = threading.Event()

    class Longer(Resolver):
        def lookup(self, host: str, family: int) -> Any:
            try:
                return super().lookup(host, family)
            finally:
                ended.set()

    dialer = Dialer(RULES, resolver=Longer(server.resolver(), lifetime=1))
    with pytest.raises(TimeoutError):
        dialer.connect(("silent.test", listeners.port), 0.1)
    assert not ended.is_set()
    assert ended.wait(10)  # the lookup that was left behind ends by itself


def test_an_answer_with_too_many_addresses_is_refused_before_any_is_dialled(connect, listeners):
    with pytest.raises(socket.gaierror, match=r"'huge.test' has 1000 addresses, more than the 64"):
        connect("huge.test", listeners.port, Rules(allow=["127.0.0.0/8"]))


def test_an_answer_of_a_thousand_addresses_is_judged_where_it_is_wanted(connect, listeners):
    with pytest.raises(DeniedError) as denied:
        connect("huge.test", listeners.port, max_answers=1_000)
    assert len(denied.value.decisions) == 1_000


@pytest.mark.parametrize(("rules", "kinds"), [(RULES, {"A"}), (BOTH, {"A", "AAAA"}), (Rules(allow=["::/0"]), {"AAAA"})])
def test_a_connection_asks_once_for_each_kind_of_address_that_the_rules_could_accept(server, connect, rules, kinds):
    server.zone["once.test"] = [GOOD]
    server.asked.clear()
    with pytest.raises(OSError), Trap("127.0.0.4") as nothing:
        connect("once.test", nothing.port, rules)
    assert server.asked == {("once.test", kind): 1 for kind in kinds}


def test_rules_that_accept_nothing_ask_nothing(server, connect):
    server.asked.clear()
    with pytest.raises(DeniedError):
        connect("good.test", 9, Rules())
    assert not server.asked


def test_a_name_that_first_does_not_exist_is_judged_when_it_does(server, connect, listeners):
    server.zone["born.test"] = Flip(no_such_name, [BAD])
    with pytest.raises(socket.gaierror):
        connect("born.test", listeners.port, RULES)
    with pytest.raises(DeniedError):
        connect("born.test", listeners.port, RULES)


def test_a_name_that_flips_with_every_question_never_leads_inside(server, listeners):
    """One question for each connection: with two, every second dial would go where the first was not asked about."""
    server.zone["flip.test"] = Flip([GOOD], [BAD])
    server.asked.clear()
    dialer = Dialer(RULES, resolver=Resolver(server.resolver()))
    reached = denied = 0
    for _ in range(FLIPS):
        try:
            dialer.connect(("flip.test", listeners.port)).close()
        except DeniedError:
            denied += 1
        else:
            reached += 1
        if reached % 64 == 0:
            assert listeners.accepted <= reached  # takes them off the backlog
    assert (reached, denied) == (FLIPS // 2, FLIPS // 2)
    assert listeners.accepted == reached
    assert server.asked["flip.test", "A"] == FLIPS


def test_a_lookup_is_given_its_lifetime_and_no_more():
    given: list[Any] = []

    class Asked:
        def resolve_name(self, host: str, family: int, **options: Any) -> Any:
            given.append((host, family, options))
            raise dns.resolver.NXDOMAIN

    class AsyncAsked(Asked):
        async def resolve_name(self, host: str, family: int, **options: Any) -> Any:
            super().resolve_name(host, family, **options)

    with pytest.raises(socket.gaierror):
        Resolver(Asked(), lifetime=1.5).lookup("a.test", socket.AF_INET)
    with pytest.raises(socket.gaierror):
        asyncio.run(AsyncResolver(AsyncAsked(), lifetime=2.5).lookup("b.test", socket.AF_UNSPEC))
    assert given == [
        ("a.test", socket.AF_INET, {"lifetime": 1.5}),
        ("b.test", socket.AF_UNSPEC, {"lifetime": 2.5}),
    ]


def test_a_limit_that_leaves_nothing_is_an_error():
    with pytest.raises(ValueError, match="max_answers=0"):
        Resolver(max_answers=0)
    with pytest.raises(ValueError, match="lifetime=0"):
        AsyncResolver(lifetime=0)
