"""What ``netjail check`` finds out: which host a target names, where that leads, and what the rules say.

This module knows how to judge and how to show it. It does not know the command line.
"""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from rich import box
from rich.table import Table
from rich.text import Text

from netjail import PUBLIC, Rules, presets
from netjail._addresses import is_literal
from netjail._dialer import Dialer
from netjail._errors import DeniedError
from netjail._resolver import SystemResolver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from rich.console import Console

    from netjail._dialer import Mixed
    from netjail._rules import Decision, Entry

PRESETS: dict[str, Callable[[], Iterable[Entry]]] = {
    "public": PUBLIC.networks,
    "private": lambda: presets.PRIVATE,
    "loopback": lambda: presets.LOOPBACK,
    "link-local": lambda: presets.LINK_LOCAL,
    "metadata": lambda: presets.METADATA,
    "multicast": lambda: presets.MULTICAST,
    "special-purpose": lambda: presets.SPECIAL_PURPOSE,
}
DEFAULT_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443, "ftp": 21, "ssh": 22}

# IDNA 2003 and IDNA 2008 make different names of these (RFC 5894, section 7.2), and clients use either.
_IDNA_DEVIATIONS = frozenset("ß\N{GREEK SMALL LETTER FINAL SIGMA}\N{ZERO WIDTH JOINER}\N{ZERO WIDTH NON-JOINER}")


class CannotJudgeError(Exception):
    """A target that names no host on which all clients agree, or a name without an address."""


@dataclass(frozen=True)
class Target:
    """The host and the port that a client would connect to, and what a reader may have taken for the host."""

    text: str
    host: str
    port: int | None
    userinfo: str | None = None


def rules_of(allow: Sequence[str], block: Sequence[str], nat64: Sequence[str]) -> Rules:
    """The rules that the options mean; InvalidRuleError for an entry that is no prefix and no preset."""
    blocked = _expanded(block)
    if list(allow) == ["public"] or not (allow or block):
        # The same set as public's networks, in the form that can name the prefix that decided.
        return Rules(PUBLIC.allow, [*PUBLIC.block, *blocked], nat64)
    return Rules(_expanded(allow) if allow else ["0.0.0.0/0", "::/0"], blocked, nat64)


def _expanded(entries: Sequence[str]) -> list[Entry]:
    expanded: list[Entry] = []
    for entry in entries:
        preset = PRESETS.get(entry)
        expanded += [entry] if preset is None else preset()
    return expanded


def parse_target(text: str) -> Target:
    """The target of ``text``: a URL, HOST, HOST:PORT or an address. Raises CannotJudgeError."""
    if not text.isprintable() or " " in text or "\\" in text:
        raise CannotJudgeError(
            f"{text!r}: blanks, backslashes and control characters are read in different ways by clients"
        )
    if "://" not in text and is_literal(text):
        return Target(text, text, None)
    if "://" not in text and any(mark in text for mark in "/?#@"):
        raise CannotJudgeError(f"{text!r}: give a URL with its scheme, HOST, HOST:PORT or an address")
    try:
        parts = urlsplit(text if "://" in text else f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise CannotJudgeError(f"{text!r}: {error}") from None
    if not host:
        raise CannotJudgeError(f"{text!r} names no host")
    userinfo, _, host_and_port = parts.netloc.rpartition("@")
    if ":" in host and host_and_port.partition("]")[2][:1] not in ("", ":"):  # as in "[::1]x"
        raise CannotJudgeError(f"{text!r}: something stands between the address and the port")
    return Target(text, _ascii(host), DEFAULT_PORTS.get(parts.scheme) if port is None else port, userinfo or None)


def _ascii(host: str) -> str:
    """The name that is looked up, or the literal."""
    if ":" in host:
        host = host.replace("%25", "%")  # RFC 6874 writes a zone's percent sign so
        if not is_literal(host):
            raise CannotJudgeError(f"{host!r} is not an IPv6 address")
        return host
    if "%" in host:
        raise CannotJudgeError(f"{host!r}: some clients undo percent-encoding in a host and some do not")
    if _IDNA_DEVIATIONS & set(host):
        raise CannotJudgeError(f"{host!r}: clients look it up under different names; give its xn-- form")
    try:
        return host.encode("idna").decode("ascii")
    except UnicodeError as error:
        raise CannotJudgeError(f"{host!r} is not a host name: {error.__cause__ or error}") from None


class _OnceAsked:
    """The system's resolver, which remembers what it was asked for and what it answered."""

    def __init__(self) -> None:
        self.family = socket.AF_UNSPEC
        self.answer: list[str] = []

    def lookup(self, host: str, family: int) -> list[str]:
        self.family = socket.AddressFamily(family)
        self.answer = list(dict.fromkeys(SystemResolver().lookup(host, family)))
        return self.answer


def verdict_on(text: str, rules: Rules, mixed: Mixed) -> Verdict:
    """Asks and judges once, as every client does. Raises CannotJudgeError."""
    target = parse_target(text)
    asked = _OnceAsked()
    dials: list[str] = []
    reason = None
    try:
        accepted = Dialer(rules, resolver=asked, mixed=mixed).resolve((target.host, target.port or 0))
        dials = [ip for ip, _ in accepted]
    except DeniedError as denied:
        reason = denied.reason
    except OSError as error:
        raise CannotJudgeError(f"{target.host!r} does not resolve: {error.strerror or error}") from None
    judged = [target.host] if is_literal(target.host) else asked.answer
    return Verdict(target, [rules.explain(address) for address in judged], dials, reason, asked.family)


@dataclass(frozen=True)
class Verdict:
    """What a client under the rules would do about a target."""

    target: Target
    decisions: list[Decision]
    dials: list[str]
    reason: str | None
    family: socket.AddressFamily

    @property
    def accepted(self) -> bool:
        """Whether there is any address that a client would dial."""
        return bool(self.dials)

    def as_dict(self) -> dict[str, Any]:
        """The verdict as plain data."""
        return {
            "target": self.target.text,
            "host": self.target.host,
            "port": self.target.port,
            "accepted": self.accepted,
            "reason": self.reason,
            "dials": self.dials,
            "addresses": [
                {
                    "address": str(decision.address),
                    "landing": str(decision.landing),
                    "accepted": decision.accepted,
                    "prefix": None if decision.prefix is None else str(decision.prefix),
                    "list": _deciding_list(decision),
                    "name": decision.name,
                }
                for decision in self.decisions
            ],
        }

    def show(self, console: Console) -> None:
        """Writes the verdict for people."""
        port = "" if self.target.port is None else f" port {self.target.port}"
        console.print(Text.assemble("host ", (self.target.host, "bold"), port))
        if self.target.userinfo is not None:
            console.print(Text(f"({self.target.userinfo!r} in front of the @ is a user name, not the host)"))
        if self.family != socket.AF_UNSPEC:
            other = {socket.AF_INET: "IPv6", socket.AF_INET6: "IPv4"}[self.family]
            console.print(f"(not asked for {other}, of which the rules accept no address)")
        if self.decisions:
            console.print(self._table())
        if self.accepted:
            console.print(Text.assemble(("accepted", "bold green"), f": a client dials {', then '.join(self.dials)}"))
        else:
            console.print(Text.assemble(("denied", "bold red"), f": {self.reason}"))

    def _table(self) -> Table:
        table = Table("address", "lands on", "verdict", "decided by", "registered as", box=box.SIMPLE_HEAD)
        for decision in self.decisions:
            listed = _deciding_list(decision)
            table.add_row(
                str(decision.address),
                "itself" if decision.landing == decision.address else str(decision.landing),
                Text("accepted", "green") if decision.accepted else Text("denied", "red"),
                f"{listed} {decision.prefix}" if listed else _why_not(decision),
                decision.name or "",
            )
        return table


def _deciding_list(decision: Decision) -> str | None:
    if decision.prefix is None:
        return None
    return "allow" if decision.accepted else "block"


def _why_not(decision: Decision) -> str:
    return "its zone" if "%" in str(decision.address) else "no allow prefix"


def to_json(document: dict[str, Any]) -> str:
    """``document`` as JSON for people to read too."""
    return json.dumps(document, indent=2)
