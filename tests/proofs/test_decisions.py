"""Decisions against the slow reference: at every boundary of every preset, and at random, ten million by night."""

from __future__ import annotations

import random
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest

from netjail import PUBLIC, Rules, presets
from tests.unit import oracle

from .conftest import NIGHTLY

DECISIONS = 10_000_000 if NIGHTLY else 40_000
RULE_SETS = 2_000 if NIGHTLY else 40
NAMED = ["LOOPBACK", "PRIVATE", "LINK_LOCAL", "METADATA", "MULTICAST", "SPECIAL_PURPOSE"]
EVERYTHING = [(4, 0, 0), (6, 0, 0)]
# Where an IPv6 address carries an IPv4 address: what stands above it, and how far it is shifted.
CARRIERS = [(0xFFFF << 32, 0), (0, 0), (0xFFFF0000 << 32, 0), (0x64FF9B << 96, 0), (0x64FF9B0001 << 80, 0)]
CARRIERS += [(0x64FF9B0001 << 80, 48), (0x2002 << 112, 80), (0x20010000 << 96, 0), (0x20010DB8 << 96 | 0x5EFE << 32, 0)]


def numbers(networks: Any) -> list[oracle.Prefix]:
    return [(each.version, int(each.network_address), each.prefixlen) for each in networks]


def address(version: int, ip: int) -> IPv4Address | IPv6Address:
    return IPv4Address(ip) if version == 4 else IPv6Address(ip)


def both_sides(prefixes: list[oracle.Prefix]) -> list[tuple[int, int]]:
    found = []
    for version, first, length in prefixes:
        size = 1 << (32 if version == 4 else 128) - length
        top = 1 << (32 if version == 4 else 128)
        found += [(version, (first + step) % top) for step in (-1, 0, size - 1, size)]
    return found


@pytest.mark.parametrize("name", NAMED)
def test_a_preset_holds_what_it_says_on_both_sides_of_every_boundary(name):
    entries = getattr(presets, name)
    members = numbers(Rules(allow=entries).allow)
    cases: list[tuple[Rules, oracle.Rule]] = [
        (Rules(allow=entries), (members, [], [])),
        (Rules(allow=["0.0.0.0/0", "::/0"], block=entries), (EVERYTHING, members, [])),
    ]
    for rules, reference in cases:
        for version, ip in carried_too(both_sides(members)):
            assert rules.accepts(address(version, ip)) is oracle.accepts(reference, version, ip), (name, version, ip)


def carried_too(edges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The addresses, and every IPv6 address that carries one of the IPv4 ones."""
    carried = [(6, form | ip << shift) for version, ip in edges if version == 4 for form, shift in CARRIERS]
    return edges + carried + [(6, 0x20010000 << 96 | ip ^ 0xFFFFFFFF) for version, ip in edges if version == 4]


def test_public_is_right_on_both_sides_of_every_boundary_of_its_own():
    reference: oracle.Rule = (numbers(PUBLIC.allow), numbers(PUBLIC.block), [])
    for version, ip in carried_too(both_sides(numbers([*PUBLIC.networks(), *PUBLIC.block]))):
        assert PUBLIC.accepts(address(version, ip)) is oracle.accepts(reference, version, ip), (version, ip)


def drawn(draw: random.Random, near: list[int]) -> tuple[int, int]:
    """An address, more often than not close to a boundary or carrying an address that is."""
    ip4 = draw.choice(near) + draw.randint(-2, 2) if draw.random() < 0.7 else draw.getrandbits(32)
    ip4 &= 0xFFFFFFFF
    kind = draw.randrange(4)
    if kind == 0:
        return 4, ip4
    if kind == 1:
        return 6, draw.getrandbits(128)
    form, shift = draw.choice(CARRIERS)
    return 6, (form | ip4 << shift) ^ (1 << draw.randrange(128) if kind == 3 else 0)


def drawn_prefix(draw: random.Random) -> oracle.Prefix:
    if draw.random() < 0.7:
        length = draw.randint(4, 32)
        return 4, draw.getrandbits(32) >> 32 - length << 32 - length, length
    length = draw.choice([8, 16, 20, 32, 48, 64, 96, 104, 112, 128])
    form, shift = draw.choice(CARRIERS)
    return 6, (form | draw.getrandbits(32) << shift) >> 128 - length << 128 - length, length


def test_random_decisions_are_those_of_the_reference():
    draw = random.Random(DECISIONS)
    different = []
    for _ in range(RULE_SETS):
        allow = draw.choice([[], [(4, 0, 0)], [(6, 0, 0)], EVERYTHING]) + [drawn_prefix(draw) for _ in range(3)]
        block = [drawn_prefix(draw) for _ in range(4)]
        nat64 = [(6, 0x20010DB8 << 96, 96)] if draw.random() < 0.3 else []
        given = [
            [f"{address(version, first)}/{length}" for version, first, length in part] for part in (allow, block, nat64)
        ]
        rules = Rules(given[0], given[1], given[2])
        near = [ip for version, ip in both_sides(allow + block) if version == 4] or [0]
        for _ in range(DECISIONS // RULE_SETS):
            version, ip = drawn(draw, near)
            if rules.accepts(address(version, ip)) is not oracle.accepts((allow, block, nat64), version, ip):
                different.append((str(rules), version, ip))
    assert not different


FILLING = [(6, 0x2A00 << 112 | n << 81, 48) for n in range(600)]
"""So many prefixes that the set is looked up by the upper halves of addresses."""


def test_large_sets_decide_like_the_reference_also_behind_ones_own_translators():
    draw = random.Random(2)
    different = []
    for _ in range(200 if NIGHTLY else 8):
        allow, block = [drawn_prefix(draw) for _ in range(6)], [drawn_prefix(draw) for _ in range(3)]
        if draw.random() < 0.3:
            allow, block = [*EVERYTHING, *allow], [*FILLING, *block]
        else:
            allow = [*FILLING, *allow]
        # Boundaries within upper halves, next to whole ones.
        hosts = [(6, first | draw.getrandbits(80) >> draw.choice([0, 30, 79]), 128) for _, first, _ in FILLING[:9]]
        (block if draw.random() < 0.5 else allow).extend(hosts)
        lengths = draw.sample([32, 40, 48, 56, 64, 96], 2)
        nat64 = [(6, draw.choice(FILLING)[1] >> 128 - length << 128 - length, length) for length in lengths]
        given = [[f"{address(version, first)}/{length}" for version, first, length in part] for part in (allow, block)]
        rules = Rules(given[0], given[1], [f"{address(6, first)}/{length}" for _, first, length in nat64])
        assert rules._in6._below == 64
        edges = both_sides([*draw.sample(FILLING, 20), *hosts, *block[-3:], *allow[-6:], *nat64])
        near = [ip for version, ip in edges if version == 4] or [0]
        asked = [*edges, *(drawn(draw, near) for _ in range(200))]
        asked += [(6, first | draw.getrandbits(128 - length)) for _, first, length in nat64 * 50]
        for version, ip in asked:
            if rules.accepts(address(version, ip)) is not oracle.accepts((allow, block, nat64), version, ip):
                different.append((version, ip))
    assert not different
