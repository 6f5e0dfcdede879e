"""From text to addresses, and from an address to where its packets may land.

This module knows the forms that addresses take. It does not know which of them are accepted.

Addresses are integers here: 32 bits for IPv4, 128 for IPv6.
"""

from __future__ import annotations

import sys
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from socket import AF_INET, AF_INET6, inet_ntoa, inet_pton
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


Version = Literal[4, 6]
BITS: dict[Version, int] = {4: 32, 6: 128}


def _strict(family: int, text: str, /) -> bytes:
    """What ``inet_pton`` makes of the canonical forms, and OSError for any other, whatever the platform takes.

    Those are four decimal numbers without leading zeros, and no zone nor group of more than four digits.
    """
    packed = inet_pton(family, text)
    if family == AF_INET:
        if inet_ntoa(packed) != text:
            raise OSError(f"{text!r} is not a dotted quad of decimal numbers without leading zeros")
        return packed
    groups, _, last = text.rpartition(":")
    if "." in last:
        _ = _strict(AF_INET, last)
    else:
        groups = text
    if "%" in text or any(len(group) > 4 for group in groups.split(":")):
        raise OSError(f"{text!r} is not an IPv6 address")
    return packed


# On Linux, glibc and musl take the canonical forms and nothing else.
pack: Callable[[int, str], bytes] = inet_pton if sys.platform == "linux" else _strict


def parse4(text: str) -> int:
    """The IPv4 address that ``text`` spells: four decimal numbers and three dots. Else a ValueError."""
    try:
        return int.from_bytes(pack(AF_INET, text), "big")
    except (OSError, ValueError):
        raise ValueError(f"{text!r} is not an IPv4 or IPv6 address") from None


def parse6(text: str) -> int | None:
    """The IPv6 address that ``text`` spells (RFC 4291, section 2.2), None where it has a zone. Else a ValueError."""
    try:
        return int.from_bytes(pack(AF_INET6, text), "big")
    except (OSError, ValueError):
        if _has_zone(text):
            return None
        raise ValueError(f"{text!r} is not an IPv4 or IPv6 address") from None


def is_literal(host: str) -> bool:
    """Whether ``host`` is an IP address as text, with or without a zone, so that nobody need resolve it."""
    if not host[-1:].isdecimal() and ":" not in host:
        return False  # nearly every name, without the cost of an exception
    try:
        _ = pack(AF_INET6 if ":" in host else AF_INET, host)
    except (OSError, ValueError):
        return _has_zone(host)
    return True


def unmapped(text: str) -> str:
    """An IPv4-mapped address as the IPv4 address that it is; any other as it stands."""
    if ":" in text and (ip := parse6(text)) is not None and is_mapped(ip):
        return str(IPv4Address(ip & 0xFFFFFFFF))
    return text


def _has_zone(text: str) -> bool:
    """Whether ``text`` is an IPv6 address with a zone (RFC 4007, section 11)."""
    address, _, zone = text.partition("%")
    return bool(zone) and "%" not in zone and "/" not in zone and ":" in address and is_literal(address)


def to_object(address: object) -> IPv4Address | IPv6Address:
    """The ``ipaddress`` object of an address; ValueError for text that is none, TypeError for anything else."""
    if isinstance(address, str):
        if ":" not in address:
            return IPv4Address(parse4(address))
        value = parse6(address)
        return IPv6Address(address if value is None else value)
    if isinstance(address, IPv4Address | IPv6Address) and not isinstance(address, IPv4Interface | IPv6Interface):
        return address
    raise TypeError(f"an address is a str, an IPv4Address or an IPv6Address, not {type(address).__name__}")


# Where the packets of an IPv6 address that carries an IPv4 address may land.

# An interface identifier of ISATAP under any prefix, with the universal bit or without (RFC 5214, section 6.1).
ISATAP, ISATAP_MASK = 0x00005EFE_00000000, 0xFDFFFFFF_00000000


def is_mapped(ip: int) -> bool:
    """Whether an IPv6 address is IPv4-mapped (RFC 4291, section 2.5.5.2), and hence an IPv4 address."""
    return ip >> 32 == 0xFFFF


def embedded(ip: int, nat64: Sequence[Prefix] = ()) -> list[int]:
    """The IPv4 addresses at which packets for the IPv6 address ``ip`` may land.

    ``nat64`` are the prefixes of translators of one's own, in the layouts of RFC 6052, section 2.2.
    """
    low = ip & 0xFFFFFFFF
    found: list[int] = []
    if ip >> 32 == 0 and ip > 1:  # IPv4-compatible, RFC 4291 section 2.5.5.1
        found.append(low)
    if ip >> 32 == 0xFFFF0000:  # SIIT, RFC 2765 section 2.1
        found.append(low)
    if ip >> 32 == 0x0064FF9B_00000000_00000000:  # NAT64 well-known, RFC 6052 section 2.1
        found.append(low)
    if ip >> 80 == 0x0064FF9B_0001:  # NAT64 local-use, RFC 8215: the layout is the operator's
        found += [_rfc6052(ip, 48), low]
    if ip >> 112 == 0x2002:  # 6to4, RFC 3056 section 2
        found.append(ip >> 80 & 0xFFFFFFFF)
    if ip >> 96 == 0x20010000:  # Teredo, RFC 4380 section 4: the client's address is inverted
        found.append(low ^ 0xFFFFFFFF)
    if ip & ISATAP_MASK == ISATAP:
        found.append(low)
    found += [_rfc6052(ip, p.length) for p in nat64 if ip >> 128 - p.length == p.start >> 128 - p.length]
    return found


def _rfc6052(ip: int, length: int) -> int:
    """The IPv4 address behind a prefix of that length: the 32 bits that follow it, leaving out bits 64 to 71."""
    if length == 96:
        return ip & 0xFFFFFFFF
    without_u = (ip >> 64 << 56) | (ip & (1 << 56) - 1)
    return without_u >> 120 - length - 32 & 0xFFFFFFFF


class Prefix(NamedTuple):
    """A network as numbers."""

    version: Version
    start: int
    length: int

    def __str__(self) -> str:
        if self.version == 4:
            return f"{IPv4Address(self.start)}/{self.length}"
        if is_mapped(self.start):  # written by hand: ipaddress changed its spelling in Python 3.13
            return f"::ffff:{IPv4Address(self.start & 0xFFFFFFFF)}/{self.length}"
        return f"{IPv6Address(self.start)}/{self.length}"

    def network(self) -> IPv4Network | IPv6Network:
        if self.version == 4:
            return IPv4Network((self.start, self.length))
        return IPv6Network((self.start, self.length))

    def unmapped(self) -> Prefix:
        """The IPv4 prefix that an IPv4-mapped one of /96 or longer is; any other as it is."""
        if self.version == 6 and self.length >= 96 and is_mapped(self.start):
            return Prefix(4, self.start & 0xFFFFFFFF, self.length - 96)
        return self

    def holds(self, version: Version, ip: int) -> bool:
        bits = BITS[version] - self.length
        return self.version == version and ip >> bits == self.start >> bits


# "08", "+8" and digits of other scripts are not in here.
_LENGTHS: dict[Version, dict[str, int]] = {v: {str(n): n for n in range(BITS[v] + 1)} for v in (4, 6)}


def parse_prefix(entry: object) -> Prefix:
    """The prefix that an entry of a rule set names: "10.0.0.0/8", "10.0.0.1", or an ``ipaddress`` object.

    Raises ValueError with the reason for anything else, host bits and zones included.
    """
    if isinstance(entry, str):
        text, slash, length_text = entry.partition("/")
        version: Version = 6 if ":" in text else 4
        start = parse6(text) if version == 6 else parse4(text)
        if start is None:
            raise ValueError("a zone has no place in a rule")
        length = _LENGTHS[version].get(length_text) if slash else BITS[version]
        if length is None:
            raise ValueError(f"the prefix length is a number from 0 to {BITS[version]}")
        if start & (1 << BITS[version] - length) - 1:
            network = Prefix(version, start >> BITS[version] - length << BITS[version] - length, length)
            raise ValueError(f"it has host bits set, the network is {network}")
        return Prefix(version, start, length)
    if isinstance(entry, IPv4Network | IPv6Network):
        return Prefix(entry.version, int(entry.network_address), entry.prefixlen)
    if isinstance(entry, IPv4Address | IPv6Address) and not isinstance(entry, IPv4Interface | IPv6Interface):
        if getattr(entry, "scope_id", None) is not None:
            raise ValueError("a zone has no place in a rule")
        return Prefix(entry.version, int(entry), entry.max_prefixlen)
    raise ValueError('an entry is a prefix like "10.0.0.0/8", an address like "10.0.0.1", or an ipaddress object')


# Whole ranges in which every address carries an IPv4 address (less :: and ::1 in the first). ISATAP, an
# interface identifier under any prefix, is no range.
CARRIERS = tuple(
    parse_prefix(text)
    for text in (
        "::/96",
        "::ffff:0:0/96",
        "::ffff:0:0:0/96",
        "64:ff9b::/96",
        "64:ff9b:1::/48",
        "2002::/16",
        "2001::/32",
    )
)
