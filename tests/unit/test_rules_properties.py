"""Properties of rule sets, against the slow reference in oracle.py."""

from __future__ import annotations

import copy
import pickle
from ipaddress import IPv4Address, IPv6Address, collapse_addresses
from random import Random
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from netjail import PUBLIC, Rules

from . import oracle
from .strategies import address, addresses, network, rules


def made(rule: oracle.Rule) -> Rules:
    allow, block, nat64 = ([network(p) for p in part] for part in rule)
    return Rules(allow, block, nat64=nat64)


def edges(rule: oracle.Rule) -> list[tuple[int, int]]:
    """Both sides of every boundary of a rule."""
    found = []
    for version, first, length in (*rule[0], *rule[1], *rule[2]):
        size = 1 << (32 if version == 4 else 128) - length
        top = 2**32 if version == 4 else 2**128
        found += [(version, (first + d) % top) for d in (-1, 0, size - 1, size)]
    return found


@settings(max_examples=600)
@given(rules(), st.lists(addresses, min_size=1, max_size=20))
@example(([(6, 0, 0)], [], []), [(6, 0xFFFF7F000001)])
@example(([(4, 0, 0)], [(4, 0x7F000000, 8)], []), [(4, 0)])
def test_accepts_agrees_with_the_reference(rule: oracle.Rule, chosen: list[tuple[int, int]]) -> None:
    jail = made(rule)
    for version, ip in chosen + edges(rule):
        expected = oracle.accepts(rule, version, ip)
        as_object = address(version, ip)
        assert jail.accepts(as_object) is expected
        assert jail.accepts(str(as_object)) is expected


@given(rules(), addresses)
def test_a_decision_explains_the_verdict(rule: oracle.Rule, chosen: tuple[int, int]) -> None:
    jail, asked = made(rule), address(*chosen)
    decision = jail.explain(asked)
    assert decision.accepted is jail.accepts(asked)
    assert decision.address == asked
    lands = decision.landing
    landings = [(v, i) for v, i in oracle.landings(*chosen, rule[2])]
    assert (lands.version, int(lands)) in [*landings, chosen]
    if decision.accepted:
        assert decision.prefix in jail.allow or decision.prefix.version == 4  # type: ignore[union-attr]
    elif decision.prefix is None:
        assert not any(oracle.inside(p, lands.version, int(lands)) for p in rule[0])
    else:
        assert lands in decision.prefix
        assert any(oracle.inside(p, lands.version, int(lands)) for p in rule[1])


@given(rules())
def test_text_pickle_and_copies_give_the_same_rules_back(rule: oracle.Rule) -> None:
    jail = made(rule)
    again: list[Any] = [Rules.parse(str(jail)), pickle.loads(pickle.dumps(jail)), copy.copy(jail), copy.deepcopy(jail)]
    for other in again:
        assert other == jail
        assert hash(other) == hash(jail)
        assert str(other) == str(jail)
        assert (other.allow, other.block, other.nat64) == (jail.allow, jail.block, jail.nat64)


@given(rules(), st.randoms())
def test_equality_ignores_spelling_and_order(rule: oracle.Rule, random: Any) -> None:
    jail = made(rule)
    shuffled = tuple(random.sample(part, len(part)) + part[:1] for part in rule)
    split = [half for p in rule[0] for half in halves(p)]
    assert made(shuffled) == jail
    assert made((split, rule[1], rule[2])) == jail
    assert Rules([str(network(p)).upper() for p in rule[0]], jail.block, nat64=jail.nat64) == jail


def halves(prefix: oracle.Prefix) -> list[oracle.Prefix]:
    version, first, length = prefix
    width = 32 if version == 4 else 128
    if length == width or (version == 6 and length == 95 and first >> 33 == 0xFFFE >> 1):
        return [prefix]  # half of that one would be the IPv4-mapped range, which as an entry is IPv4
    return [(version, first, length + 1), (version, first | 1 << width - length - 1, length + 1)]


@given(rules(), rules(), st.lists(addresses, max_size=20))
def test_equal_rules_accept_the_same_and_different_ones_differ(a: oracle.Rule, b: oracle.Rule, chosen: Any) -> None:
    equal = made(a) == made(b)
    for version, ip in [*chosen, *edges(a), *edges(b)]:
        if oracle.accepts(a, version, ip) != oracle.accepts(b, version, ip):
            assert not equal


@given(rules(nat64=False), rules(nat64=False), st.lists(addresses, max_size=20))
def test_and_accepts_what_both_accept(a: oracle.Rule, b: oracle.Rule, chosen: list[tuple[int, int]]) -> None:
    both = made(a) & made(b)
    assert Rules.parse(str(both)) == both
    for version, ip in chosen + edges(a) + edges(b):
        assert both.accepts(address(version, ip)) is (oracle.accepts(a, version, ip) and oracle.accepts(b, version, ip))


@given(rules(), rules(), st.lists(addresses, max_size=20))
def test_and_with_translators_never_accepts_more(a: oracle.Rule, b: oracle.Rule, chosen: list[tuple[int, int]]) -> None:
    both = made(a) & made(b)
    for version, ip in chosen + edges(a) + edges(b):
        if both.accepts(address(version, ip)):
            assert oracle.accepts(a, version, ip)
            assert oracle.accepts(b, version, ip)


@given(rules())
def test_networks_are_allow_less_block_as_the_fewest_prefixes(rule: oracle.Rule) -> None:
    jail = made(rule)
    networks = list(jail.networks())
    for version in (4, 6):
        mine: Any = [n for n in networks if n.version == version]
        assert list(collapse_addresses(mine)) == mine
    assert Rules(networks, nat64=jail.nat64) == jail
    mapped = [n for n in networks if n.version == 6 and n.prefixlen >= 96 and int(n.network_address) >> 32 == 0xFFFF]
    assert not mapped  # read back, that would be IPv4


@given(rules())
def test_rules_that_accept_nothing_are_false_and_only_those(rule: oracle.Rule) -> None:
    jail = made(rule)
    if any(oracle.accepts(rule, version, ip) for version, ip in edges(rule)):
        assert jail
    if not jail:
        assert jail.versions == ()
    for version, ip in edges(rule):
        if oracle.accepts(rule, version, ip):
            is_mapped = version == 6 and ip >> 32 == 0xFFFF
            assert (4 if is_mapped else version) in jail.versions


def test_ten_thousand_random_decisions_on_the_public_rules() -> None:
    """The presets in their thousands of boundaries, where hypothesis would not go."""
    parts = (PUBLIC.allow, PUBLIC.block)
    allow, block = ([(int(n.version), int(n.network_address), n.prefixlen) for n in part] for part in parts)
    random = Random(20261124)
    for _ in range(10_000):
        version, first, length = random.choice(block)
        width = 32 if version == 4 else 128
        ip = (first + random.choice([-1, 0, random.getrandbits(width - length), (1 << width - length)])) % 2**width
        made_address = IPv4Address(ip) if version == 4 else IPv6Address(ip)
        assert PUBLIC.accepts(made_address) is oracle.accepts((allow, block, []), version, ip)
