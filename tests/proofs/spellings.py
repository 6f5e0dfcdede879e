"""Spellings of addresses and URLs that somebody's parser, resolver or kernel reads as an address inside.

Each is made by a rule from a target, so that new targets bring all their spellings. Nothing here knows netjail.
"""

from __future__ import annotations

import itertools
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

INSIDE = ("127.0.0.3", "127.0.0.1", "0.0.0.0", "169.254.169.254", "10.0.0.1", "168.63.129.16", "100.100.100.200")
INSIDE6 = ("::1", "::", "fe80::1", "fd00:ec2::254", "fec0::1", "ff02::1")


@dataclass(frozen=True)
class Host:
    """A host as it may stand in a setting or in a URL, and the rule that made it."""

    text: str
    rule: str

    @property
    def in_url(self) -> str:
        return f"[{self.text}]" if ":" in self.text and "[" not in self.text else self.text


def ipv4_numbers(target: str) -> Iterator[Host]:
    """inet_aton's forms: one to four parts, each in decimal, octal or hexadecimal, padded and overflowing."""
    number = int(IPv4Address(target))
    a, b, c, d = IPv4Address(target).packed
    forms = {1: [number], 2: [a, number & 0xFFFFFF], 3: [a, b, number & 0xFFFF], 4: [a, b, c, d]}
    bases = {"decimal": "{:d}", "octal": "0{:o}", "hexadecimal": "0x{:x}", "upper": "0X{:X}"}
    for length, parts in forms.items():
        for (name, base), _ in zip(bases.items(), range(4), strict=True):
            yield Host(".".join(base.format(part) for part in parts), f"ipv4, {length} parts, {name}")
        yield Host(".".join(f"0x{part:010x}" for part in parts), f"ipv4, {length} parts, padded hexadecimal")
        yield Host(".".join(f"{part:011o}".rjust(12, "0") for part in parts), f"ipv4, {length} parts, padded octal")
        yield Host(".".join(f"{part:03d}" for part in parts), f"ipv4, {length} parts, padded decimal")
        yield Host(".".join(map(str, parts)) + ".", f"ipv4, {length} parts, dot at the end")
        yield Host(".".join(map(str, parts)) + " ", f"ipv4, {length} parts, space at the end")
        mixed = itertools.cycle(bases.values())
        yield Host(".".join(next(mixed).format(part) for part in parts), f"ipv4, {length} parts, mixed")
    for extra in (1, 2, 255):
        yield Host(str(number + (extra << 32)), "ipv4, overflowing 32 bits")
        yield Host(".".join(str(part + 256 * extra) for part in (a, b, c, d)), "ipv4, parts overflowing 8 bits")
    yield Host(f"+{target}", "ipv4, a sign")
    yield Host(f"{target}.0", "ipv4, five parts")


_DIGITS = {
    "full width": "０１２３４５６７８９",
    "circled": "⓪①②③④⑤⑥⑦⑧⑨",
    "mathematical bold": "𝟎𝟏𝟐𝟑𝟒𝟓𝟔𝟕𝟖𝟗",
    "superscript": "⁰¹²³⁴⁵⁶⁷⁸⁹",
    "subscript": "₀₁₂₃₄₅₆₇₈₉",
    "Arabic-Indic": "٠١٢٣٤٥٦٧٨٩",
    "Devanagari": "०१२३४५६७८९",
}
_DOTS = {"ideographic": "。", "full width": "．", "half width": "｡", "one dot leader": "․", "middle": "·"}
_INVISIBLE = {
    "soft hyphen": "\u00ad",
    "zero width space": "\u200b",
    "zero width joiner": "\u200d",
    "word joiner": "\u2060",
}


def unicode_forms(target: str) -> Iterator[Host]:
    """Digits, dots and letters that compatibility normalisation or IDNA map to ASCII."""
    for name, digits in _DIGITS.items():
        yield Host(target.translate(str.maketrans("0123456789", digits)), f"unicode, {name} digits")
        yield Host(
            str(int(IPv4Address(target))).translate(str.maketrans("0123456789", digits)), f"unicode, {name}, 1 part"
        )
    for name, dot in _DOTS.items():
        yield Host(target.replace(".", dot), f"unicode, {name} dots")
    for name, nothing in _INVISIBLE.items():
        yield Host(target[0] + nothing + target[1:], f"unicode, {name} inside")
    yield Host("ｌｏｃａｌｈｏｓｔ", "unicode, full-width letters")
    yield Host("ⓛⓞⓒⓐⓛⓗⓞⓢⓣ", "unicode, enclosed letters")
    yield Host("ⅼocalhost", "unicode, a numeral for a letter")
    yield Host("localho\u017ft", "unicode, a long s")


def encoded(target: str) -> Iterator[Host]:
    """Percent-encoding, control characters and whitespace within the host."""
    yield Host("".join(f"%{ord(char):02x}" for char in target), "encoded, all")
    yield Host("".join(f"%25{ord(char):02x}" for char in target), "encoded, all twice")
    yield Host(target.replace(".", "%2e"), "encoded, dots")
    yield Host(f"%{ord(target[0]):02x}{target[1:]}", "encoded, first character")
    for name, char in {
        "tab": "\t",
        "newline": "\n",
        "return": "\r",
        "NUL": "\0",
        "space": " ",
        "escape": "\x1b",
    }.items():
        yield Host(f"{target[0]}{char}{target[1:]}", f"control, {name} inside")
        yield Host(f"{target}{char}.good.test", f"control, {name} before a harmless end")
        yield Host(f"good.test{char}{target}", f"control, {name} after a harmless start")
    yield Host(f"{target}%00.good.test", "encoded, NUL before a harmless end")
    yield Host(f"{target}%23.good.test", "encoded, hash before a harmless end")
    yield Host(f"{target}%2f.good.test", "encoded, slash before a harmless end")


def _rfc6052(prefix: str, length: int, v4: int) -> IPv6Address:
    """RFC 6052, section 2.2: the IPv4 address follows the prefix and jumps over bits 64 to 71."""
    base = int(IPv6Address(prefix))
    bits = f"{v4:032b}"
    before = bits[: max(0, 64 - length)] if length < 64 else ""
    after = bits[len(before) :]
    if length == 96:
        return IPv6Address(base | v4)
    packed = f"{before}{'0' * 8}{after}".ljust(128 - length, "0")
    return IPv6Address(base | int(packed, 2))


def embeddings(target: str) -> dict[str, IPv6Address]:
    """Every IPv6 address whose packets may be delivered to the IPv4 address ``target``."""
    v4 = int(IPv4Address(target))
    at: Any = IPv6Address
    return {
        "mapped": at(0xFFFF << 32 | v4),
        "compatible": at(v4),
        "SIIT": at(0xFFFF << 48 | v4),
        "NAT64": at(int(at("64:ff9b::")) | v4),
        "NAT64 local, /48": _rfc6052("64:ff9b:1::", 48, v4),
        "NAT64 local, /96": at(int(at("64:ff9b:1::")) | v4),
        "6to4": at(0x2002 << 112 | v4 << 80 | 1),
        "6to4, and more": at(0x2002 << 112 | v4 << 80 | 0xFFFF << 64 | 0xABCD),
        "Teredo": at(0x20010000 << 96 | (v4 ^ 0xFFFFFFFF)),
        "Teredo, by a public server": at(0x20010000 << 96 | 0x08080808 << 64 | (v4 ^ 0xFFFFFFFF)),
        "ISATAP": at(int(at("2001:4860::")) | 0x5EFE << 32 | v4),
        "ISATAP, universal": at(int(at("2001:4860::")) | 0x02005EFE << 32 | v4),
    }


def ipv6_forms(address: IPv6Address, rule: str) -> Iterator[Host]:
    """The ways in which one IPv6 address is written."""
    low = int(address) & 0xFFFFFFFF
    dotted = f"{':'.join(address.exploded.split(':')[:6])}:{IPv4Address(low)}"
    yield Host(address.compressed, f"{rule}, compressed")
    yield Host(address.exploded, f"{rule}, exploded")
    yield Host(address.exploded.upper(), f"{rule}, upper case")
    yield Host(dotted, f"{rule}, dotted end")
    for zone in ("%1", "%lo", "%25lo", "%"):
        yield Host(address.compressed + zone, f"{rule}, zone {zone}")
    yield Host(f"[{address.compressed}", f"{rule}, an open bracket")
    yield Host(f"{address.compressed}/128", f"{rule}, a length")


def ipv6(target: str) -> Iterator[Host]:
    for name, address in embeddings(target).items():
        yield from ipv6_forms(address, f"embedded, {name}")


def names(target: str) -> Iterator[Host]:
    """Names that lead to the target: the resolver of the tests reads them (see :func:`answer`)."""
    for rule in ("one", "after-good", "before-good", "mapped", "embedded", "many", "both", "unspecified-too"):
        yield Host(f"{rule}.{target.replace('.', '-')}.to.test", f"name, {rule}")
    yield Host(f"{target}.wildcard.test", "name, wildcard")
    yield Host(f"anything.{target.replace('.', '-')}.wildcard.test", "name, wildcard with dashes")
    yield Host(f"one.{target.replace('.', '-')}.to.test.", "name, dot at the end")
    yield Host(f"ONE.{target.replace('.', '-')}.TO.TEST", "name, upper case")
    yield Host("localhost", "name, localhost")
    yield Host("LOCALHOST.", "name, localhost with a dot")


def hosts() -> list[Host]:
    """Every spelling of every target, each text once. None of them may lead to a connection inside."""
    found: dict[str, Host] = {}
    for target in INSIDE:
        for rule in (ipv4_numbers, unicode_forms, encoded, ipv6, names):
            for host in rule(target):
                found.setdefault(host.text, host)
    for target in INSIDE6:
        for host in ipv6_forms(IPv6Address(target), f"ipv6, {target}"):
            found.setdefault(host.text, host)
    return list(found.values())


def answer(host: str) -> list[str]:
    """What the most obliging of resolvers says: every reading of ``host`` that there is, by its name or as a number."""
    name = host.rstrip(".").lower()
    if name.endswith((".to.test", ".wildcard.test")):
        words = name.removesuffix(".to.test").removesuffix(".wildcard.test").split(".")
        rule = words[0]
        target = (".".join(words) if len(words) == 4 else words[-1]).replace("-", ".")
        return {
            "after-good": ["127.0.0.2", target],
            "before-good": [target, "127.0.0.2"],
            "mapped": [f"::ffff:{target}"],
            "embedded": [str(each) for each in embeddings(target).values()],
            "many": [target] * 3 + ["127.0.0.3", "127.0.0.1", "::1"],
            "both": [target, "::1"],
            "unspecified-too": ["0.0.0.0", "::", target],
        }.get(rule, [target])
    if name == "localhost":
        return ["::1", "127.0.0.1"]
    if name == "good.test":
        return ["127.0.0.2"]
    for text in (name, name.strip(), name.split("\0", 1)[0]):
        try:
            return [socket.inet_ntoa(socket.inet_aton(text))]
        except (OSError, ValueError):
            pass
    try:
        return [str(ip_address(name.strip("[]").split("%", 1)[0]))]
    except ValueError:
        raise socket.gaierror(socket.EAI_NONAME, f"{host!r} is in no table") from None


def resolves(host: str) -> bool:
    """Whether :func:`answer` has one."""
    try:
        return bool(answer(host))
    except OSError:
        return False


def urls(host: Host) -> Iterator[tuple[str, str]]:
    """URLs with ``host`` somewhere in their authority, as (rule, template with {port} in it)."""
    at = host.in_url.replace("{", "{{").replace("}", "}}")
    yield "plain", f"http://{at}:{{port}}/"
    yield "userinfo before", f"http://good.test@{at}:{{port}}/"
    yield "userinfo with a port before", f"http://good.test:{{port}}@{at}:{{port}}/"
    yield "userinfo after", f"http://{at}:{{port}}@good.test:{{port}}/"
    yield "two at signs", f"http://a@good.test:{{port}}@{at}:{{port}}/"
    yield "backslash before", f"http://good.test:{{port}}\\@{at}:{{port}}/"
    yield "backslash after", f"http://{at}:{{port}}\\@good.test:{{port}}/"
    yield "hash before", f"http://good.test:{{port}}#@{at}:{{port}}/"
    yield "hash after", f"http://{at}:{{port}}#@good.test:{{port}}/"
    yield "question mark before", f"http://good.test:{{port}}?@{at}:{{port}}/"
    yield "three slashes", f"http:///{at}:{{port}}/"
    yield "one slash", f"http:/{at}:{{port}}/"
    yield "no slash", f"http:{at}:{{port}}/"
    yield "backslashes for slashes", f"http:\\\\{at}:{{port}}\\"
    yield "upper-case scheme", f"HTTP://{at}:{{port}}/"
    yield "space before", f" http://{at}:{{port}}/"
    yield "newline in the scheme", f"ht\ntp://{at}:{{port}}/"
    yield "padded port", f"http://{at}:0000{{port}}/"
    yield "port and colon", f"http://{at}:{{port}}:80/"
    yield "semicolon", f"http://{at}:{{port}};good.test/"
    yield "comma", f"http://good.test,{at}:{{port}}/"
