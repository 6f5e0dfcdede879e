"""Rules by example: construction, text, identity, explanations."""

from __future__ import annotations

import pickle
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

import pytest

from netjail import PUBLIC, InvalidRuleError, Rules

EVERYTHING = Rules(allow=["0.0.0.0/0", "::/0"])


@pytest.mark.parametrize("part", ["allow", "block", "nat64"])
@pytest.mark.parametrize("bad", ["10.0.0.0/8", b"10.0.0.0/8", None, 10, ip_network("10.0.0.0/8")])
def test_a_part_that_is_no_list_is_refused_by_name(part: str, bad: Any) -> None:
    if isinstance(bad, IPv4Network):
        bad = 4.5
    with pytest.raises(InvalidRuleError, match=part):
        Rules(**{part: bad})


@pytest.mark.parametrize("part", ["allow", "block", "nat64"])
@pytest.mark.parametrize("entry", ["10.0.0.1/8", "localhost", "fe80::1%eth0", "", 10, None])
def test_a_bad_entry_is_refused_by_name(part: str, entry: Any) -> None:
    with pytest.raises(InvalidRuleError) as caught:
        Rules(**{part: ["2001:db8::/96", entry]})
    assert part in str(caught.value)
    assert repr(entry) in str(caught.value)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("entry", ["10.0.0.0/8", "2001:db8::/33", "2001:db8::1", "::ffff:0:0/96"])
def test_a_translator_needs_a_prefix_of_rfc_6052(entry: str) -> None:
    with pytest.raises(InvalidRuleError, match="RFC 6052"):
        Rules(nat64=[entry])


def test_entries_may_be_text_or_objects() -> None:
    texts = Rules(["10.0.0.0/8", "192.0.2.1", "2001:db8::/32", "::1"])
    objects = Rules(
        [IPv4Network("10.0.0.0/8"), IPv4Address("192.0.2.1"), IPv6Network("2001:db8::/32"), IPv6Address("::1")]
    )
    assert texts == objects
    assert (
        texts.allow
        == objects.allow
        == tuple(map(ip_network, ("10.0.0.0/8", "192.0.2.1/32", "2001:db8::/32", "::1/128")))
    )
    assert Rules(entry for entry in ("10.0.0.0/8",)) == Rules({"10.0.0.0/8"})


def test_mapped_prefixes_are_ipv4_prefixes_and_shorter_ones_are_not() -> None:
    assert Rules(["::ffff:10.0.0.0/104"]).accepts("10.1.2.3")
    assert Rules(["0.0.0.0/0"], ["::ffff:0:0/96"]).accepts("8.8.8.8") is False
    assert Rules(["::/0"]).accepts("::ffff:8.8.8.8") is False
    assert Rules(["::/0"]).accepts("8.8.8.8") is False
    assert Rules(["0.0.0.0/0"]).accepts("::ffff:8.8.8.8") is True


def test_the_unspecified_addresses_are_loopback() -> None:
    assert not Rules(["0.0.0.0/0"], ["127.0.0.0/8"]).accepts("0.0.0.0")
    assert not Rules(["0.0.0.0/0"], ["127.0.0.1"]).accepts("::ffff:0.0.0.0")
    assert not Rules(["::/0"], ["::1"]).accepts("::")
    assert Rules(["0.0.0.0/0"]).accepts("0.0.0.0")
    assert not Rules(["0.0.0.0"])
    assert Rules(["::/0", "0.0.0.0/0"]).accepts("::")


def test_an_embedded_address_must_be_accepted_too() -> None:
    jail = Rules(["0.0.0.0/0", "::/0"], ["10.0.0.0/8"])
    assert jail.accepts("64:ff9b::8.8.8.8")
    assert not jail.accepts("64:ff9b::10.0.0.1")
    assert not jail.accepts("::ffff:10.0.0.1")
    assert jail.accepts("2001:db8:64::a00:1")
    assert not Rules(["0.0.0.0/0", "::/0"], ["10.0.0.0/8"], nat64=["2001:db8:64::/96"]).accepts("2001:db8:64::a00:1")


@pytest.mark.parametrize("zoned", ["fe80::1%eth0", "::1%1", "::ffff:8.8.8.8%x", IPv6Address("fe80::1%eth0")])
def test_a_zone_is_never_accepted(zoned: Any) -> None:
    assert EVERYTHING.accepts(zoned) is False
    assert EVERYTHING.explain(zoned).accepted is False


@pytest.mark.parametrize(
    "text", ["", "localhost", "127.1", "2130706433", "[::1]", "::1%", "1.2.3.4%eth0", "::ffff:1.2.3"]
)
def test_text_that_is_no_address_is_a_value_error(text: str) -> None:
    for ask in (EVERYTHING.accepts, EVERYTHING.explain, Rules().accepts):
        with pytest.raises(ValueError, match="not an IPv4 or IPv6 address"):
            ask(text)


@pytest.mark.parametrize("thing", [None, b"127.0.0.1", 2130706433, ("127.0.0.1", 80), IPv4Network("10.0.0.0/8")])
def test_anything_else_is_a_type_error(thing: Any) -> None:
    for ask in (EVERYTHING.accepts, EVERYTHING.explain):
        with pytest.raises(TypeError, match="an address is"):
            ask(thing)


def test_subclasses_of_addresses_are_addresses() -> None:
    class Host(str):
        __slots__ = ()

    class Address4(IPv4Address):
        pass

    class Address6(IPv6Address):
        pass

    jail = Rules(["10.0.0.0/8", "2001:db8::/32"])
    assert jail.accepts(Host("10.0.0.1"))
    assert jail.accepts(Address4("10.0.0.1"))
    assert jail.accepts(Address6("2001:db8::1"))
    assert not jail.accepts(Address6("2001:db8::1%x"))


def test_text_is_in_the_order_given() -> None:
    jail = Rules(["::/0", "10.0.0.1"], ["::ffff:10.0.0.0/104", "0.0.0.0/32"], nat64=["2001:db8:64::/96"])
    assert str(jail) == "ALLOW ::/0 10.0.0.1/32, BLOCK ::ffff:10.0.0.0/104 0.0.0.0/32, NAT64 2001:db8:64::/96"
    assert str(Rules()) == ""
    assert repr(Rules(["10.0.0.0/8"])) == "<Rules ALLOW 10.0.0.0/8>"
    assert repr(Rules()) == "<Rules of 0 prefixes>"
    assert len(repr(PUBLIC)) < 100


@pytest.mark.parametrize(
    "text",
    [
        "10.0.0.0/8",
        "ALLOW",
        "ALLOW ",
        "allow 10.0.0.0/8",
        "PERMIT 10.0.0.0/8",
        "ALLOW 10.0.0.0/8,BLOCK 10.1.0.0/16",
        "ALLOW 10.0.0.0/8, ALLOW 11.0.0.0/8",
        "ALLOW 10.0.0.1/8",
        "ALLOW 10.0.0.0/8  11.0.0.0/8",
        ", ",
        " ",
    ],
)
def test_text_that_is_no_rule_set_is_refused(text: str) -> None:
    with pytest.raises(InvalidRuleError):
        Rules.parse(text)


def test_rules_cannot_be_changed() -> None:
    jail = Rules(["10.0.0.0/8"])
    with pytest.raises(AttributeError):
        jail.allow = ()
    with pytest.raises(AttributeError):
        jail.anything = 1
    with pytest.raises(AttributeError):
        del jail.block
    with pytest.raises(TypeError):
        jail | Rules()  # type: ignore[operator]


def test_equality_is_by_what_is_accepted() -> None:
    assert Rules(["10.0.0.0/9", "10.128.0.0/9"]) == Rules(["10.0.0.0/8"])
    assert Rules(["0.0.0.0/0"], ["127.0.0.1"]) == Rules(["0.0.0.0/0"], ["127.0.0.1", "0.0.0.0"])
    assert Rules(["10.0.0.0/8"], ["10.0.0.0/8"]) == Rules()
    assert Rules(["10.0.0.0/8"]) != Rules(["10.0.0.0/8"], nat64=["2001:db8:64::/96"])
    assert Rules(["10.0.0.0/8"]) != Rules(["::a00:0/104"])
    assert Rules() != ""
    assert len({Rules(["10.0.0.0/8"]), Rules(["10.0.0.0/9", "10.128.0.0/9"])}) == 1


def test_networks_reach_over_what_does_not_matter() -> None:
    less_loopback = IPv4Network("0.0.0.0/0").address_exclude(IPv4Network("127.0.0.0/8"))
    networks = list(Rules(["0.0.0.0/0", "::/0"], ["127.0.0.0/8"]).networks())
    assert networks == [*sorted(less_loopback), IPv6Network("::/0")]
    assert list(Rules(["::fffe:ffff:ffff"]).networks()) == [ip_network("::fffe:ffff:ffff/128")]


@pytest.mark.parametrize(
    ("rules", "versions"),
    [
        (Rules(), ()),
        (Rules(["10.0.0.0/8"]), (4,)),
        (Rules(["2001:db8::/32"]), (6,)),
        (EVERYTHING, (4, 6)),
        (Rules(["64:ff9b::/96"]), ()),
        (Rules(["64:ff9b::/96", "10.0.0.0/8"]), (4, 6)),
        (Rules(["::ffff:0:0/96"]), (4,)),
        (Rules(["2002::/16", "2001::/32", "::2/127", "64:ff9b:1::/48"]), ()),
        (Rules(["::1"]), (6,)),
        (Rules(["::"]), ()),
        (Rules(["2001:db8::5efe:0:0/96"]), ()),
        (Rules(["2001:db8::5efe:0:0/95"]), (6,)),
        (Rules(["2001:db8:64::/96"], nat64=["2001:db8:64::/96"]), ()),
        (Rules(["0:0:0:1::5"]), (6,)),
    ],
)
def test_versions_and_truth(rules: Rules, versions: tuple[int, ...]) -> None:
    assert rules.versions == versions
    assert bool(rules) is bool(versions)


@pytest.mark.parametrize(
    ("rules", "address", "text"),
    [
        (PUBLIC, "169.254.169.254", "169.254.169.254 denied by 169.254.0.0/16 (Link Local, RFC 3927)"),
        (PUBLIC, "168.63.129.16", "168.63.129.16 denied by 168.63.129.16/32 (Azure wireserver)"),
        (PUBLIC, "64:ff9b::a00:1", "64:ff9b::a00:1 lands on 10.0.0.1, denied by 10.0.0.0/8 (Private-Use, RFC 1918)"),
        (PUBLIC, "8.8.8.8", "8.8.8.8 accepted by 0.0.0.0/0"),
        (Rules(["10.0.0.0/8"]), "11.0.0.1", "11.0.0.1 denied in no allow prefix"),
        (
            Rules(["0.0.0.0/0"], ["127.0.0.0/8"]),
            "0.0.0.0",
            "0.0.0.0 lands on 127.0.0.1, denied by 127.0.0.0/8 (Loopback, RFC 1122)",
        ),
        (Rules(["::/0"]), "::ffff:7f00:1", "lands on 127.0.0.1, denied in no allow prefix (Loopback, RFC 1122)"),
        (EVERYTHING, "fe80::1%eth0", "fe80::1%eth0 denied in no allow prefix (Link-Local Unicast, RFC 4291)"),
    ],
)
def test_a_decision_says_why(rules: Rules, address: str, text: str) -> None:
    decision = rules.explain(address)
    assert str(decision).endswith(text)
    again = pickle.loads(pickle.dumps(decision))
    assert (str(again), again.accepted, again.address) == (str(decision), decision.accepted, decision.address)


def test_a_decision_in_parts() -> None:
    decision = PUBLIC.explain("2002:a00:1::")
    assert decision.accepted is False
    assert decision.address == ip_address("2002:a00:1::")
    assert decision.landing == ip_address("2002:a00:1::")
    assert decision.prefix == ip_network("2002::/16")
    assert decision.name == "6to4, RFC 3056"


def test_rules_for_answers_with_the_rules_themselves() -> None:
    assert PUBLIC.rules_for("example.com", 443) is PUBLIC


@pytest.mark.parametrize("name", ["allow", "block", "nat64"])
@pytest.mark.parametrize("text", ["10.0.0.0/8", "", b"10.0.0.0/8", None, 10])
def test_a_bare_string_or_anything_but_a_list_is_an_error_that_says_what_to_give(name: str, text: object) -> None:
    given: dict[str, Any] = {name: text}
    with pytest.raises(InvalidRuleError, match=rf"^{name}=.*: give a list of prefixes, like {name}=\['10"):
        Rules(**given)


@pytest.mark.parametrize("network", ["10.0.0.0/24", "2001:db8::/64"])
def test_a_network_in_place_of_a_list_is_refused(network: str) -> None:
    """It would be walked address by address, 2**64 of them."""
    for name in ("allow", "block", "nat64"):
        with pytest.raises(InvalidRuleError, match="give a list of prefixes"):
            Rules(**{name: ip_network(network)})
