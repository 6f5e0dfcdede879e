"""The prefixes that rule sets are made of: drawn by chance, or real ones where they lie beside the checkout."""

from __future__ import annotations

import gzip
import random
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

REAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "prefixes"
SETS = {"registrations by country": ("rir-country-*.txt.gz", 243_034), "cloud providers": ("cloud-*.txt.gz", 152_576)}


def made(version: int, count: int, rng: random.Random) -> list[str]:
    """``count`` prefixes, /24 or /48, drawn from all of IPv4 or from 2000::/3."""
    if version == 4:
        bits = (rng.getrandbits(24) for _ in range(count))
        return [f"{n >> 16}.{n >> 8 & 255}.{n & 255}.0/24" for n in bits]
    bits = (1 << 45 | rng.getrandbits(45) for _ in range(count))
    return [f"{n >> 32:x}:{n >> 16 & 0xFFFF:x}:{n & 0xFFFF:x}::/48" for n in bits]


def real(name: str) -> tuple[list[str], bool]:
    """The set of that name and whether it is the real one: else as many made ones, three in four of them IPv4."""
    pattern, count = SETS[name]
    for path in sorted(REAL.glob(pattern)):
        with gzip.open(path, "rt", encoding="ascii") as lines:
            return [line.split()[0] for line in lines], True
    rng = random.Random(4)
    return [*made(4, count * 3 // 4, rng), *made(6, count - count * 3 // 4, rng)], False


def counted(count: int, what: str) -> str:
    """``1 prefix``, ``1,000 prefixes``; ``1 rule set``, ``1,000 rule sets``."""
    plural = f"{what}es" if what.endswith("x") else f"{what}s"
    return f"{count:,} {what if count == 1 else plural}"


def addresses(version: int, networks: list[str], count: int, rng: random.Random) -> list[int]:
    """``count`` addresses that were drawn by chance, half of them from inside ``networks``."""
    host_bits = 8 if version == 4 else 80
    network = IPv4Network if version == 4 else IPv6Network
    starts = [int(network(text).network_address) for text in rng.choices(networks, k=count // 2)]
    inside = [start | rng.getrandbits(host_bits) for start in starts]
    others = range(count - count // 2)
    anywhere = [rng.getrandbits(32) if version == 4 else 1 << 125 | rng.getrandbits(125) for _ in others]
    mixed = [*inside, *anywhere]
    rng.shuffle(mixed)
    return mixed
