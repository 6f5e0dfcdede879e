"""Rules: a set of addresses, decided by one look-up.

This module knows which addresses a rule set accepts and why. It does not know who asks, nor of names,
ports, sockets or contexts.
"""

from __future__ import annotations

from array import array
from functools import cached_property
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from socket import AF_INET, AF_INET6
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, Self, final

from . import _boundaries
from ._addresses import (
    BITS,
    CARRIERS,
    ISATAP,
    ISATAP_MASK,
    Prefix,
    Version,
    embedded,
    is_mapped,
    pack,
    parse_prefix,
    to_object,
)
from ._boundaries import CLOSER, INSIDE, Table6, table4
from ._errors import InvalidRuleError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from ._boundaries import Bounds

    Address = str | IPv4Address | IPv6Address
    Entry = str | IPv4Address | IPv6Address | IPv4Network | IPv6Network

_NAT64_LENGTHS = (32, 40, 48, 56, 64, 96)  # RFC 6052, section 2.2
_MAPPED = _boundaries.span(0xFFFF_0000_0000, 96, 128)
_LOOPBACK4, _LOOPBACK6 = 0x7F000001, 1
_from_bytes = int.from_bytes  # found once, for every text


class RuleSource(Protocol):
    """What dials takes any of these: it says which rules hold for a target."""

    def rules_for(self, host: str, port: int, /) -> Rules:
        """The rules for a connection to ``host`` and ``port``; an empty ``Rules()`` denies it."""
        ...


@final
class Rules:
    """Which addresses may be connected to.

    An entry of ``allow`` or ``block`` is a prefix (``"10.0.0.0/8"``), one address (``"10.0.0.1"``), or an
    ``ipaddress`` network or address. ``nat64`` names the prefixes of NAT64 translators of one's own
    (RFC 6052; lengths 32, 40, 48, 56, 64 and 96), so that addresses behind them are judged by the IPv4
    address they lead to.

    An address is accepted when every address at which its packets may land is inside some allow prefix
    and inside no block prefix: an empty rule set accepts nothing, and block beats allow.

    Rule sets are immutable. They are equal when allow less block is the same set of addresses and
    ``nat64`` is the same, whatever the spelling and the order.

    Raises :class:`~netjail.InvalidRuleError` that names the entry.

    >>> rules = Rules(allow=["0.0.0.0/0", "::/0"], block=["10.0.0.0/8"])
    >>> rules.accepts("8.8.8.8"), rules.accepts("10.1.2.3"), rules.accepts("::ffff:10.1.2.3")
    (True, False, False)
    """

    _entries: tuple[tuple[Entry, ...], tuple[Entry, ...], tuple[Entry, ...]]
    _nat64: tuple[Prefix, ...]
    _bounds4: array[int]
    _in4: Callable[[int], bool]
    _in6: Table6

    def __init__(self, allow: Iterable[Entry] = (), block: Iterable[Entry] = (), nat64: Iterable[Entry] = ()) -> None:
        entries = (_listed("allow", allow), _listed("block", block), _listed("nat64", nat64))
        bounds4, bounds6 = _sets("allow", entries[0])
        blocked4, blocked6 = _sets("block", entries[1])
        bounds4 = _boundaries.less(bounds4, blocked4)
        bounds6 = _boundaries.less(bounds6, blocked6)
        # A connect to the unspecified address goes to loopback, so it is inside only where loopback is. An
        # IPv4-mapped address is never looked up as IPv6.
        if not _boundaries.contains(bounds4, _LOOPBACK4):
            bounds4 = _boundaries.less(bounds4, [0, 1])
        if not _boundaries.contains(bounds6, _LOOPBACK6):
            bounds6 = _boundaries.less(bounds6, [0, 1])
        bounds6 = _boundaries.less(bounds6, _MAPPED)
        put = object.__setattr__
        put(self, "_entries", entries)
        put(self, "_nat64", tuple(sorted({_nat64_prefix(entry) for entry in entries[2]})))
        put(self, "_bounds4", array("I", bounds4))
        put(self, "_in4", table4(self._bounds4))
        put(self, "_in6", Table6(bounds6, [p.start << 8 | p.length for p in (*CARRIERS, *self._nat64)]))

    def accepts(self, address: Address) -> bool:
        """Whether a connection to ``address`` is allowed, wherever its packets may land.

        An address with a zone is never accepted. Raises ValueError for text that is no IP address and
        TypeError for anything that is neither text nor an ``ipaddress`` address.
        """
        asked: Any = address  # type checkers do not follow what kind says
        kind: type[object] = type(asked)  # pyright: ignore[reportUnknownVariableType]
        if kind is IPv4Address:
            return self._in4(asked._ip)  # what int() gives, at a quarter of its cost
        try:
            if kind is str:
                if ":" not in asked:
                    return self._in4(_from_bytes(pack(AF_INET, asked)))
                ip = _from_bytes(pack(AF_INET6, asked))
            elif kind is IPv6Address and asked._scope_id is None:
                ip = asked._ip
            else:
                return self._accepts_odd(asked)
        except (OSError, ValueError):  # no address, or one with a zone
            return self._accepts_odd(asked)
        in6 = self._in6
        state = in6.states[in6.rank(ip)]
        if state == INSIDE:
            return ip & ISATAP_MASK != ISATAP or self._in4(ip & 0xFFFFFFFF)
        return state == CLOSER and self._accepts_closer(ip)

    def _accepts_closer(self, ip: int) -> bool:
        """IPv6 addresses that may be IPv4-mapped or carry an IPv4 address, or that their upper half does not decide."""
        if self._in6.holds(ip):
            return all(self._in4(ip4) for ip4 in embedded(ip, self._nat64))
        return is_mapped(ip) and self._in4(ip & 0xFFFFFFFF)

    def _accepts_odd(self, address: Address) -> bool:
        """Addresses with a zone, subclasses of what :meth:`accepts` takes, and its errors."""
        value = to_object(address)
        if isinstance(value, IPv4Address):
            return self._in4(int(value))
        return value.scope_id is None and self.accepts(IPv6Address(int(value)))

    def explain(self, address: Address) -> Decision:
        """The verdict on ``address`` with its reasons, which are looked for only when they are read."""
        return Decision(self.accepts(address), to_object(address), self)

    def rules_for(self, host: str, port: int, /) -> Rules:  # noqa: ARG002 - the signature of every RuleSource
        """These rules: they hold for every host and port."""
        return self

    def networks(self) -> Iterator[IPv4Network | IPv6Network]:
        """Allow less block as the fewest prefixes, IPv4 first, before embedded addresses are looked at."""
        yield from _networks(4, self._bounds4)
        yield from _networks(6, self._in6.bounds())

    @cached_property
    def allow(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """The allow prefixes in the order given."""
        return tuple(parse_prefix(entry).network() for entry in self._entries[0])

    @cached_property
    def block(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """The block prefixes in the order given."""
        return tuple(parse_prefix(entry).network() for entry in self._entries[1])

    @cached_property
    def nat64(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """The prefixes of one's own translators in the order given."""
        return tuple(parse_prefix(entry).network() for entry in self._entries[2])

    @cached_property
    def versions(self) -> tuple[Version, ...]:
        """The IP versions of which any address is accepted: (4, 6), (4,), (6,) or ()."""
        if self._bounds4:
            return (4, 6) if self._in6 else (4,)
        return (6,) if self._reaches6_alone() else ()

    def _reaches6_alone(self) -> bool:
        """Whether any IPv6 address is accepted although no IPv4 address is, hence none that carries one."""
        carried = _boundaries.union([p.start << 8 | p.length for p in (*CARRIERS, *self._nat64)], 128)
        rest = _boundaries.less(self._in6.bounds(), _boundaries.less(carried, [1, 2]))  # ::1 is no IPv4 address
        # Only ISATAP is left, and its addresses fill whole /96 blocks.
        return any(first >> 32 != last >> 32 or not embedded(first) for first, last in _boundaries.intervals(rest, 128))

    @classmethod
    def parse(cls, text: str) -> Self:
        """The rules that ``str(rules)`` writes: ``ALLOW 0.0.0.0/0 ::/0, BLOCK 10.0.0.0/8``."""
        parts: dict[str, list[str]] = {}
        for clause in text.split(", ") if text else ():
            word, *entries = clause.split(" ")
            if word not in ("ALLOW", "BLOCK", "NAT64") or word.lower() in parts:
                raise InvalidRuleError(f"{clause!r}: rules are written as 'ALLOW prefix ..., BLOCK prefix ...'")
            if not entries:
                raise InvalidRuleError(f"{clause!r}: {word} has no prefix")
            parts[word.lower()] = entries
        return cls(**parts)

    def __str__(self) -> str:
        named = zip(("ALLOW", "BLOCK", "NAT64"), self._entries, strict=True)
        return ", ".join(
            f"{word} {' '.join(str(parse_prefix(e)) for e in entries)}" for word, entries in named if entries
        )

    def __repr__(self) -> str:
        count = sum(map(len, self._entries))
        return f"<Rules {self}>" if 0 < count <= 32 else f"<Rules of {count} prefixes>"

    def __bool__(self) -> bool:
        return bool(self.versions)

    def __and__(self, other: object) -> Rules:
        """The rules that accept what both accept; translators of either count in the result for both."""
        if not isinstance(other, Rules):
            return NotImplemented
        both: list[Entry] = []
        both += _networks(4, _boundaries.intersection(self._bounds4, other._bounds4))
        both += _networks(6, _boundaries.intersection(self._in6.bounds(), other._in6.bounds()))
        return Rules(allow=both, nat64=[p.network() for p in sorted({*self._nat64, *other._nat64})])

    @cached_property
    def _digest(self) -> bytes:
        from hashlib import blake2b  # noqa: PLC0415 - OpenSSL takes milliseconds to load, and few programs compare rules

        data4, data6 = self._bounds4.tobytes(), self._in6.tobytes()
        sizes = repr((len(data4), len(data6), self._nat64)).encode()
        return blake2b(b"".join((sizes, data4, data6)), digest_size=16).digest()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Rules):
            return NotImplemented
        return self is other or self._digest == other._digest

    @cached_property
    def _hash(self) -> int:
        return hash(self._digest)

    def __hash__(self) -> int:
        return self._hash  # every request asks for it, to find its pool

    def __reduce__(self) -> tuple[Any, ...]:
        return Rules, self._entries

    def __copy__(self) -> Rules:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Rules:
        return self

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"rules are immutable: cannot set {name!r}")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"rules are immutable: cannot delete {name!r}")


def _listed(name: str, entries: Iterable[Entry]) -> tuple[Entry, ...]:
    if isinstance(entries, str | bytes | IPv4Network | IPv6Network) or not hasattr(entries, "__iter__"):
        raise InvalidRuleError(f"{name}={entries!r}: give a list of prefixes, like {name}=['10.0.0.0/8']")
    return tuple(entries)


def _sets(name: str, entries: Iterable[Entry]) -> tuple[list[int], list[int]]:
    """The IPv4 and the IPv6 addresses that ``entries`` hold, as boundaries."""
    keys4: list[int] = []
    keys6: list[int] = []
    for entry in entries:
        prefix = _prefix(name, entry)
        if prefix.version == 4:
            keys4.append(prefix.start << 8 | prefix.length)
            continue
        keys6.append(prefix.start << 8 | prefix.length)
        if (mapped := prefix.unmapped()) is not prefix:
            keys4.append(mapped.start << 8 | mapped.length)
    return _boundaries.union(keys4, 32), _boundaries.union(keys6, 128)


def _prefix(name: str, entry: Entry) -> Prefix:
    try:
        return parse_prefix(entry)
    except ValueError as error:
        raise InvalidRuleError(f"{name} entry {entry!r}: {error}") from None


def _nat64_prefix(entry: Entry) -> Prefix:
    prefix = _prefix("nat64", entry)
    if prefix.version == 4 or prefix.length not in _NAT64_LENGTHS or prefix.unmapped() is not prefix:
        lengths = ", ".join(map(str, _NAT64_LENGTHS))
        raise InvalidRuleError(f"nat64 entry {entry!r}: an IPv6 prefix of length {lengths} (RFC 6052, section 2.2)")
    return prefix


def _networks(version: Version, bounds: Bounds) -> Iterator[IPv4Network | IPv6Network]:
    """The fewest prefixes of a set, which may reach over addresses whose own place in it cannot matter.

    Those are 0.0.0.0 where loopback is outside, and the IPv4-mapped range. Either is taken in only where
    that makes a wider prefix: the mapped range by itself would read as all of IPv4.
    """
    if version == 4 and bounds and bounds[0] == 1 and not _boundaries.contains(bounds, _LOOPBACK4):
        bounds = [0, *bounds[1:]]
    if version == 6:
        sibling = _boundaries.span(0xFFFE_0000_0000, 96, 128)
        if _boundaries.intersection(bounds, sibling) == sibling:
            bounds = _boundaries.complement(_boundaries.less(_boundaries.complement(bounds), _MAPPED))
    for start, length in _boundaries.prefixes(bounds, BITS[version]):
        yield Prefix(version, start, length).network()


@final
class Decision:
    """A verdict on one address: ``accepted``, ``address``, and why.

    ``landing``, ``prefix`` and ``name`` take a scan of the rules and are looked for when first read.
    """

    def __init__(self, accepted: bool, address: IPv4Address | IPv6Address, rules: Rules) -> None:
        self.accepted = accepted
        self.address = address
        self._rules = rules

    @cached_property
    def _found(self) -> tuple[IPv4Address | IPv6Address, IPv4Network | IPv6Network | None]:
        return _deciding(self._rules, self.accepted, self.address)

    @property
    def landing(self) -> IPv4Address | IPv6Address:
        """Where the packets may land that decided: of several, the first that is not accepted."""
        return self._found[0]

    @property
    def prefix(self) -> IPv4Network | IPv6Network | None:
        """The block or allow prefix that decided; None where no allow prefix holds the landing."""
        return self._found[1]

    @cached_property
    def name(self) -> str | None:
        """The registered name of where the landing lies, like "Link Local, RFC 3927"; None if it has none."""
        return _registered_name(self.landing)

    def __reduce__(self) -> tuple[Any, ...]:
        return _decision, (self.accepted, self.address, self._found, self.name)

    def __repr__(self) -> str:
        return f"<Decision {self}>"

    def __str__(self) -> str:
        lands = "" if self.landing == self.address else f" lands on {self.landing},"
        by = f"by {self.prefix}" if self.prefix else "in no allow prefix"
        name = f" ({self.name})" if self.name else ""
        return f"{self.address}{lands} {'accepted' if self.accepted else 'denied'} {by}{name}"


def _decision(accepted: bool, address: Any, found: Any, name: str | None) -> Decision:
    """A decision read back from a pickle, which carries the reasons and not the rules."""
    decision = Decision.__new__(Decision)
    decision.__dict__.update(accepted=accepted, address=address, _found=found, name=name)
    return decision


def _deciding(rules: Rules, accepted: bool, address: Any) -> tuple[Any, Any]:
    """The landing of ``address`` that decided, and the prefix that decided it."""
    if getattr(address, "scope_id", None) is not None:
        return address, None
    landings = _landings(address, rules._nat64)
    for landing in landings:
        blocking = _holding(rules._entries[1], landing)
        allowing = _holding(rules._entries[0], landing)
        if blocking or not allowing:
            return landing, blocking
    return (address if accepted else landings[-1]), _holding(rules._entries[0], landings[0])


def _landings(address: IPv4Address | IPv6Address, nat64: Sequence[Prefix]) -> list[IPv4Address | IPv6Address]:
    """Where the packets of an address without a zone may land, itself first."""
    if isinstance(address, IPv4Address):
        return [address] if int(address) else [address, IPv4Address(_LOOPBACK4)]
    ip = int(address)
    if is_mapped(ip):
        return _landings(IPv4Address(ip & 0xFFFFFFFF), nat64)
    found: list[IPv4Address | IPv6Address] = [address] if ip else [address, IPv6Address(_LOOPBACK6)]
    for ip4 in embedded(ip, nat64):
        found += _landings(IPv4Address(ip4), nat64)
    return found


def _holding(entries: Iterable[Entry], landing: IPv4Address | IPv6Address) -> IPv4Network | IPv6Network | None:
    """The first of ``entries`` that holds ``landing``, as the network that it is for that IP version."""
    for entry in entries:
        prefix = parse_prefix(entry).unmapped()
        if prefix.holds(landing.version, int(landing)):
            return prefix.network()
    return None


def _registered_name(landing: IPv4Address | IPv6Address) -> str | None:
    """The name of the most specific registered network around ``landing``."""
    from ._registry import NAMES  # noqa: PLC0415 - read only when somebody asks why

    rows = ((parse_prefix(prefix), name) for prefix, name in NAMES)
    holding = [(row.length, name) for row, name in rows if row.holds(landing.version, int(landing))]
    return max(holding)[1] if holding else None
