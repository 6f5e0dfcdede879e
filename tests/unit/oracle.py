"""A slow reference for what a rule set accepts: integers and the table of landings, nothing of the library."""

from __future__ import annotations

Prefix = tuple[int, int, int]
"""(version, first address, prefix length)"""

Rule = tuple[list[Prefix], list[Prefix], list[Prefix]]
"""(allow, block, nat64)"""


def bits_of(ip: int, first: int, last: int) -> int:
    """Bits ``first`` to ``last`` (inclusive) of an IPv6 address, counted from the left as RFCs do."""
    return ip >> (127 - last) & (1 << (last - first + 1)) - 1


def rfc6052(ip: int, length: int) -> int:
    """RFC 6052, section 2.2: its table, row by row."""
    if length == 32:
        return bits_of(ip, 32, 63)
    if length == 40:
        return bits_of(ip, 40, 63) << 8 | bits_of(ip, 72, 79)
    if length == 48:
        return bits_of(ip, 48, 63) << 16 | bits_of(ip, 72, 87)
    if length == 56:
        return bits_of(ip, 56, 63) << 24 | bits_of(ip, 72, 95)
    if length == 64:
        return bits_of(ip, 72, 103)
    return bits_of(ip, 96, 127)


def landings(version: int, ip: int, nat64: list[Prefix]) -> list[tuple[int, int]]:
    """Every (version, address) at which packets for the address may land."""
    if version == 4:
        return [(4, ip)] if ip else [(4, 0), (4, 0x7F000001)]
    if bits_of(ip, 0, 95) == 0xFFFF:
        return landings(4, bits_of(ip, 96, 127), nat64)
    found = [(6, ip)]
    ip4 = []
    low = bits_of(ip, 96, 127)
    if ip == 0:
        found.append((6, 1))
    if bits_of(ip, 0, 95) == 0 and ip not in (0, 1):
        ip4.append(low)
    if bits_of(ip, 0, 95) == 0xFFFF0000:
        ip4.append(low)
    if bits_of(ip, 0, 31) == 0x64FF9B and bits_of(ip, 32, 95) == 0:
        ip4.append(low)
    if bits_of(ip, 0, 47) == 0x64FF9B0001:
        ip4 += [rfc6052(ip, 48), low]
    if bits_of(ip, 0, 15) == 0x2002:
        ip4.append(bits_of(ip, 16, 47))
    if bits_of(ip, 0, 31) == 0x20010000:
        ip4.append(0xFFFFFFFF - low)
    if bits_of(ip, 64, 95) in (0x00005EFE, 0x02005EFE):
        ip4.append(low)
    for _, first, length in nat64:
        if ip >> (128 - length) == first >> (128 - length):
            ip4.append(rfc6052(ip, length))
    for each in ip4:
        found += landings(4, each, nat64)
    return found


def inside(prefix: Prefix, version: int, ip: int) -> bool:
    of, first, length = prefix
    if of == 6 and version == 4 and length >= 96 and first >> 32 == 0xFFFF:
        of, first, length = 4, first & 0xFFFFFFFF, length - 96
    width = 32 if of == 4 else 128
    return of == version and first <= ip < first + (1 << (width - length))


def accepts(rule: Rule, version: int, ip: int) -> bool:
    """Every landing is inside some allow prefix and inside no block prefix."""
    allow, block, nat64 = rule
    return all(
        any(inside(p, v, i) for p in allow) and not any(inside(p, v, i) for p in block)
        for v, i in landings(version, ip, nat64)
    )
