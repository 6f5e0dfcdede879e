"""Spellings of addresses and prefixes, and where the packets of an address may land."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, ip_network
from typing import Any

import pytest

from netjail import _addresses
from netjail._addresses import embedded, is_literal, parse_prefix


def v4(text: str) -> int:
    return int(IPv4Address(text))


def v6(text: str) -> int:
    return int(IPv6Address(text))


LANDINGS = [
    # what, address, the IPv4 addresses it carries
    ("plain", "2606:4700::1111", []),
    ("unspecified", "::", []),
    ("loopback", "::1", []),
    ("IPv4-compatible", "::127.0.0.1", ["127.0.0.1"]),
    ("IPv4-compatible, the lowest", "::2", ["0.0.0.2"]),
    ("just above IPv4-compatible", "::1:0:0", []),
    ("SIIT", "::ffff:0:10.0.0.1", ["10.0.0.1"]),
    ("NAT64 well-known", "64:ff9b::10.0.0.1", ["10.0.0.1"]),
    ("just above NAT64 well-known", "64:ff9b::1:0:0", []),
    ("NAT64 local-use, both layouts", "64:ff9b:1:a00:0:100:7f00:1", ["10.0.0.1", "127.0.0.1"]),
    ("just above NAT64 local-use", "64:ff9b:2::1", []),
    ("6to4", "2002:a00:1::1", ["10.0.0.1"]),
    ("just above 6to4", "2003:a00:1::1", []),
    ("Teredo, inverted", "2001:0:4136:e378:8000:63bf:80ff:fffe", ["127.0.0.1"]),
    ("just above Teredo", "2001:1::80ff:fffe", []),
    ("ISATAP", "2001:db8::5efe:10.0.0.1", ["10.0.0.1"]),
    ("ISATAP with the universal bit", "2001:db8::200:5efe:10.0.0.1", ["10.0.0.1"]),
    ("not ISATAP", "2001:db8::100:5efe:10.0.0.1", []),
    ("not ISATAP either", "2606:4700::1234:5efe:a00:5", []),
    ("6to4 and ISATAP at once", "2002:808:808::5efe:10.0.0.1", ["8.8.8.8", "10.0.0.1"]),
]


@pytest.mark.parametrize(("what", "address", "carried"), LANDINGS, ids=[row[0] for row in LANDINGS])
def test_where_an_address_lands(what: str, address: str, carried: list[str]) -> None:
    assert embedded(v6(address)) == [v4(each) for each in carried]


@pytest.mark.parametrize(
    ("prefix", "address"),
    [  # RFC 6052, section 2.4, all with 192.0.2.33
        ("2001:db8::/32", "2001:db8:c000:221::"),
        ("2001:db8:100::/40", "2001:db8:1c0:2:21::"),
        ("2001:db8:122::/48", "2001:db8:122:c000:2:2100::"),
        ("2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::"),
        ("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100::"),
        ("2001:db8:122:344::/96", "2001:db8:122:344::192.0.2.33"),
    ],
)
def test_translators_of_ones_own(prefix: str, address: str) -> None:
    assert embedded(v6(address), [parse_prefix(prefix)]) == [v4("192.0.2.33")]
    assert embedded(v6("2001:db9::192.0.2.33"), [parse_prefix(prefix)]) == []


NO_ADDRESS = [
    "",
    " 127.0.0.1",
    "127.0.0.1 ",
    "127.0.0.1\n",
    "127.0.0.1\0",
    "127.1",
    "2130706433",
    "0x7f000001",
    "0177.0.0.1",
    "127.0.0.01",
    "127.0.0.256",
    "127.0.0.1.",
    "1.2.3.4%eth0",
    "①②⑦.⓪.⓪.①",
    "127。0。0。1",
    "\N{ARABIC-INDIC DIGIT ONE}.0.0.1",
    "[::1]",
    "::1%",
    "::1%a%b",
    ":::1",
    "::00001",
    "12345::",
    "1::2::3",
    "::127.1",
    "::127.0.0.01",
    "1:2:3:4:5:6:7",
    "localhost",
    "::\ud800",
]


@pytest.mark.parametrize("text", NO_ADDRESS)
def test_text_that_is_no_address_is_no_literal(text: str) -> None:
    assert not is_literal(text)


def test_platforms_agree_on_what_is_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where inet_pton is lenient, the same texts are refused and the same are taken."""
    lenient = {"0177.0.0.1": b"\x7f\0\0\1", "127.1": b"\x7f\0\0\1", "::00001": b"\0" * 15 + b"\1"}
    strict = socket.inet_pton
    monkeypatch.setattr(_addresses, "inet_pton", lambda family, text: lenient.get(text) or strict(family, text))
    monkeypatch.setattr(_addresses, "pack", _addresses._strict)
    for text in NO_ADDRESS:
        assert not is_literal(text), text
    for text in ("127.0.0.1", "255.255.255.255", "::", "::1", "::ffff:1.2.3.4", "1:2:3:4:5:6:7:8", "fe80::1%eth0"):
        assert is_literal(text), text


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("10.0.0.1/8", "host bits set, the network is 10.0.0.0/8"),
        ("2001:db8::1/32", "host bits set, the network is 2001:db8::/32"),
        ("10.0.0.0/33", "from 0 to 32"),
        ("10.0.0.0/08", "from 0 to 32"),
        ("10.0.0.0/+8", "from 0 to 32"),
        ("10.0.0.0/\N{ARABIC-INDIC DIGIT EIGHT}", "from 0 to 32"),
        ("10.0.0.0/", "from 0 to 32"),
        ("::/129", "from 0 to 128"),
        ("10.0.0.0/8/8", "from 0 to 32"),
        ("10.0.0.0/255.0.0.0", "from 0 to 32"),
        ("fe80::1%eth0", "zone"),
        ("fe80::%eth0/64", "zone"),
        ("10", "not an IPv4 or IPv6 address"),
        ("localhost", "not an IPv4 or IPv6 address"),
        ("", "not an IPv4 or IPv6 address"),
        (IPv6Address("fe80::1%eth0"), "zone"),
        (IPv4Interface("10.0.0.1/8"), "an entry is"),
        (IPv6Interface("::1/64"), "an entry is"),
        (b"10.0.0.0/8", "an entry is"),
        (10, "an entry is"),
        (None, "an entry is"),
        (("10.0.0.0", 8), "an entry is"),
    ],
)
def test_a_bad_prefix_says_what_is_wrong(entry: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_prefix(entry)


@pytest.mark.parametrize("length", [*range(33)])
def test_prefix_text_is_the_same_on_every_python(length: int) -> None:
    network = ip_network((int(IPv4Address("10.128.0.0")) >> 32 - length << 32 - length, length))
    assert str(parse_prefix(network)) == str(network)
    mapped = parse_prefix(f"::ffff:{network.network_address}/{96 + length}")
    assert str(mapped) == f"::ffff:{network.network_address}/{96 + length}"
    assert mapped.unmapped().network() == network
