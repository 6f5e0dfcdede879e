"""Hypothesis strategies for rules and addresses that lie near each other and near every special form."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from hypothesis import strategies as st

from .oracle import Prefix, Rule

_STARTS4 = [0, 1, 0x0A000000, 0x7F000000, 0x7F000001, 0xA9FEA9FE, 0xC0A80000, 0xE0000000, 0xFFFFFFFF]
_FORMS6 = [
    0,
    1,
    0xFFFF << 32,
    0xFFFE << 32,
    1 << 48,
    0xFFFF0000 << 32,
    0x64FF9B << 96,
    0x64FF9B0001 << 80,
    0x2002 << 112,
    0x20010000 << 96,
    0x20010DB8 << 96,
    0x20010DB8 << 96 | 0x5EFE << 32,
    0x20010DB8 << 96 | 0x02005EFE << 32,
    0xFE80 << 112,
    (1 << 128) - 1,
]

ip4 = st.one_of(
    st.sampled_from(_STARTS4),
    st.builds(lambda a, d: (a + d) % 2**32, st.sampled_from(_STARTS4), st.integers(-300, 300)),
    st.integers(0, 2**32 - 1),
)


@st.composite
def ip6s(draw: st.DrawFn) -> int:
    """An IPv6 address, more often than not one that carries an IPv4 address somewhere."""
    form = draw(st.sampled_from(_FORMS6))
    carried = draw(ip4)
    shift = draw(st.sampled_from([0, 24, 40, 48, 56, 64, 80]))
    kind = draw(st.integers(0, 3))
    if kind == 0:
        return (form + draw(st.integers(-3, 3))) % 2**128
    if kind == 1:
        return (form | carried << shift) % 2**128
    if kind == 2:
        return (form | carried ^ 0xFFFFFFFF) % 2**128
    return draw(st.integers(0, 2**128 - 1))


ip6 = ip6s()
addresses = st.one_of(st.tuples(st.just(4), ip4), st.tuples(st.just(6), ip6))


@st.composite
def prefixes(draw: st.DrawFn) -> Prefix:
    version, ip = draw(addresses)
    width = 32 if version == 4 else 128
    length = draw(st.one_of(st.integers(0, width), st.sampled_from([0, width, width // 2, width - 8, width - 32])))
    host = width - length
    return version, ip >> host << host, length


@st.composite
def nat64s(draw: st.DrawFn) -> Prefix:
    length = draw(st.sampled_from([32, 40, 48, 56, 64, 96]))
    ip = draw(st.sampled_from([0x20010DB8 << 96, 0x64FF9B0001 << 80, 0x2A00 << 112])) | draw(ip4) << 32
    return 6, ip >> 128 - length << 128 - length, length


@st.composite
def rules(draw: st.DrawFn, *, nat64: bool = True) -> Rule:
    wide: list[Prefix] = draw(st.sampled_from([[], [(4, 0, 0)], [(6, 0, 0)], [(4, 0, 0), (6, 0, 0)]]))
    allow = wide + draw(st.lists(prefixes(), max_size=5))
    block = draw(st.lists(prefixes(), max_size=5))
    return allow, block, draw(st.lists(nat64s(), max_size=2)) if nat64 else []


def network(prefix: Prefix) -> IPv4Network | IPv6Network:
    version, first, length = prefix
    return IPv4Network((first, length)) if version == 4 else IPv6Network((first, length))


def address(version: int, ip: int) -> IPv4Address | IPv6Address:
    return IPv4Address(ip) if version == 4 else IPv6Address(ip)
