"""One table of what a dial does, which drives Dialer and AsyncDialer alike."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from typing import Any

from netjail import DeniedError, Rules

ALL = Rules(["0.0.0.0/0", "::/0"])
V4, V6 = Rules(["0.0.0.0/0"]), Rules(["::/0"])
INSIDE_OUT = Rules(["0.0.0.0/0", "::/0"], ["10.0.0.0/8", "127.0.0.0/8", "::1", "fd00::/8"])
NO_NAME = socket.gaierror(socket.EAI_NONAME, "no such name")


@dataclass
class Case:
    """``dialled`` are the addresses tried, in order; ``error`` is what comes out, or None for a connection."""

    what: str
    rules: Rules | None
    host: Any
    port: Any = 443
    answer: Any = ()
    asked: int | None = None
    dialled: list[str] = field(default_factory=list)
    refusing: tuple[str, ...] = ()
    error: type[BaseException] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    mixed: Any = "skip"


UNSPEC, INET, INET6 = socket.AF_UNSPEC, socket.AF_INET, socket.AF_INET6

CASES = [
    Case("a literal is judged without a lookup", ALL, "8.8.8.8", dialled=["8.8.8.8"]),
    Case("an IPv6 literal too", ALL, "2606:4700::1111", dialled=["2606:4700::1111"]),
    Case("a denied literal is not dialled", INSIDE_OUT, "10.1.2.3", error=DeniedError),
    Case("nor one that lands inside", INSIDE_OUT, "64:ff9b::10.1.2.3", error=DeniedError),
    Case("nor a mapped one", INSIDE_OUT, "::ffff:10.1.2.3", error=DeniedError),
    Case("a zone is denied without a lookup", ALL, "fe80::1%eth0", error=DeniedError),
    Case("no rules: no lookup", None, "a.test", answer=["8.8.8.8"], error=DeniedError),
    Case("no rules: no literal", None, "8.8.8.8", error=DeniedError),
    Case("empty rules: no lookup", Rules(), "a.test", answer=["8.8.8.8"], error=DeniedError),
    Case(
        "rules that accept nothing: no lookup", Rules(["64:ff9b::/96"]), "a.test", answer=["8.8.8.8"], error=DeniedError
    ),
    Case("a name is looked up once", ALL, "a.test", answer=["8.8.8.8"], asked=UNSPEC, dialled=["8.8.8.8"]),
    Case("IPv4 rules ask for IPv4", V4, "a.test", answer=["8.8.8.8"], asked=INET, dialled=["8.8.8.8"]),
    Case("IPv6 rules ask for IPv6", V6, "a.test", answer=["2600::1"], asked=INET6, dialled=["2600::1"]),
    Case(
        "a family narrows the question",
        ALL,
        "a.test",
        answer=["8.8.8.8"],
        asked=INET,
        dialled=["8.8.8.8"],
        options={"family": INET},
    ),
    Case(
        "a family that the rules have not",
        V4,
        "a.test",
        answer=["8.8.8.8"],
        error=DeniedError,
        options={"family": INET6},
    ),
    Case("all denied", INSIDE_OUT, "a.test", answer=["10.0.0.1", "::1"], asked=UNSPEC, error=DeniedError),
    Case(
        "mixed: the accepted one",
        INSIDE_OUT,
        "a.test",
        answer=["10.0.0.1", "8.8.8.8"],
        asked=UNSPEC,
        dialled=["8.8.8.8"],
    ),
    Case(
        "mixed refused",
        INSIDE_OUT,
        "a.test",
        answer=["10.0.0.1", "8.8.8.8"],
        asked=UNSPEC,
        error=DeniedError,
        mixed="refuse",
    ),
    Case(
        "mixed=refuse with none denied",
        INSIDE_OUT,
        "a.test",
        answer=["8.8.8.8"],
        asked=UNSPEC,
        dialled=["8.8.8.8"],
        mixed="refuse",
    ),
    Case("a zone in an answer", ALL, "a.test", answer=["fe80::1%eth0", "8.8.8.8"], asked=UNSPEC, dialled=["8.8.8.8"]),
    Case("no answer", ALL, "a.test", answer=[], asked=UNSPEC, error=socket.gaierror),
    Case("a failing lookup", ALL, "a.test", answer=NO_NAME, asked=UNSPEC, error=socket.gaierror),
    Case(
        "an answer that is no address", ALL, "a.test", answer=["8.8.8.8", "localhost"], asked=UNSPEC, error=ValueError
    ),
    Case("an answer that is no list", ALL, "a.test", answer="8.8.8.8", asked=UNSPEC, error=TypeError),
    Case(
        "all refuse: the last error",
        ALL,
        "a.test",
        answer=["8.8.8.8", "1.1.1.1"],
        asked=UNSPEC,
        dialled=["8.8.8.8", "1.1.1.1"],
        refusing=("8.8.8.8", "1.1.1.1"),
        error=ConnectionRefusedError,
    ),
    Case(
        "all errors in a group",
        ALL,
        "a.test",
        answer=["8.8.8.8", "1.1.1.1"],
        asked=UNSPEC,
        options={"all_errors": True},
        dialled=["8.8.8.8", "1.1.1.1"],
        refusing=("8.8.8.8", "1.1.1.1"),
        error=ExceptionGroup,
    ),
    Case(
        "one error in a group",
        ALL,
        "8.8.8.8",
        options={"all_errors": True},
        dialled=["8.8.8.8"],
        refusing=("8.8.8.8",),
        error=ExceptionGroup,
    ),
    Case(
        "the next is tried when one refuses",
        ALL,
        "a.test",
        answer=["8.8.8.8", "1.1.1.1"],
        asked=UNSPEC,
        dialled=["8.8.8.8", "1.1.1.1"],
        refusing=("8.8.8.8",),
    ),
    Case(
        "families take turns",
        ALL,
        "a.test",
        answer=["2600::1", "2600::2", "8.8.8.8"],
        asked=UNSPEC,
        dialled=["2600::1", "8.8.8.8", "2600::2"],
        refusing=("2600::1", "8.8.8.8"),
    ),
    Case(
        "an address twice is dialled once",
        ALL,
        "a.test",
        answer=["8.8.8.8", "8.8.8.8"],
        asked=UNSPEC,
        dialled=["8.8.8.8"],
        refusing=("8.8.8.8",),
        error=ConnectionRefusedError,
    ),
    Case("a service name", ALL, "8.8.8.8", port="https", dialled=["8.8.8.8"]),
    Case("a port as text", ALL, "8.8.8.8", port="443", dialled=["8.8.8.8"]),
    Case("a port too high", ALL, "8.8.8.8", port=123456, error=socket.gaierror),
    Case("a port too low", ALL, "8.8.8.8", port=-1, error=socket.gaierror),
    Case("no service of that name", ALL, "8.8.8.8", port="no-such-service", error=socket.gaierror),
    Case("digits of another script", ALL, "8.8.8.8", port="\N{ARABIC-INDIC DIGIT FOUR}43", error=socket.gaierror),
    Case("a service with a NUL", ALL, "8.8.8.8", port="http\0", error=socket.gaierror),
    Case("a port that is none", ALL, "8.8.8.8", port=None, error=TypeError),
    Case("a host that is none", ALL, None, error=TypeError),
    Case("a host in bytes", ALL, b"8.8.8.8", dialled=["8.8.8.8"]),
]
