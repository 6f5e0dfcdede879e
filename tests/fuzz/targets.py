"""What the fuzzer tries, one function for each parser. Each target's docstring is its invariant."""

from __future__ import annotations

import ipaddress
import socket

from netjail import DeniedError, InvalidRuleError, Rules, find_denied
from tests.unit import oracle

_EVERYTHING = Rules(allow=["0.0.0.0/0", "::/0"])
_RULES = Rules(allow=["0.0.0.0/0", "::/0"], block=["10.0.0.0/8", "127.0.0.0/8", "::1/128", "fc00::/7"])
_REFERENCE: oracle.Rule = (
    [(4, 0, 0), (6, 0, 0)],
    [(4, 0x0A000000, 8), (4, 0x7F000000, 8), (6, 1, 128), (6, 0xFC << 120, 7)],
    [],
)


def addresses(text: str) -> None:
    """Text is an address exactly where inet_pton takes it, or it has a zone; its verdict is the reference's."""
    try:
        accepted = _RULES.accepts(text)
    except ValueError:
        accepted = None
    version = 6 if ":" in text else 4
    try:
        packed = socket.inet_pton(socket.AF_INET6 if version == 6 else socket.AF_INET, text)
    except (OSError, ValueError):
        assert not accepted, text
        if accepted is False:  # an address with a zone, which is never accepted
            plain, _, zone = text.partition("%")
            assert zone, text
            socket.inet_pton(socket.AF_INET6, plain)
        return
    assert accepted is oracle.accepts(_REFERENCE, version, int.from_bytes(packed, "big")), text
    assert _EVERYTHING.explain(text).accepted


def rules(text: str) -> None:
    """Text that parses comes back from str() as equal rules; any other raises InvalidRuleError and nothing else."""
    try:
        parsed = Rules.parse(text)
    except InvalidRuleError:
        return
    again = Rules.parse(str(parsed))
    assert again == parsed, text
    assert hash(again) == hash(parsed), text
    assert str(again) == str(parsed), text
    networks = list(parsed.networks())
    assert Rules(allow=networks, nat64=parsed.nat64) == parsed, text
    for network in networks[:8]:
        if network.version == 4:
            assert parsed.accepts(network[0]) or network[0] == ipaddress.IPv4Address(0), text


def denials(text: str) -> None:
    """A denial whose host is any text is found again in the text of whatever wraps it, with that host."""
    denied = DeniedError(text, 443, reason="none of its addresses is accepted by the rules in force")
    found = find_denied(RuntimeError(f"could not connect: {denied}"))
    assert found is not None, text
    assert (found.host, found.port, found.reason) == (denied.host, denied.port, denied.reason), text
    find_denied(RuntimeError(text))  # never raises


TARGETS = {"addresses": addresses, "rules": rules, "denials": denials}
