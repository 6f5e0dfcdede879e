"""What the demo tries: attacks, each of which reaches the inside through some client, and legitimate requests.

This module is a table. {p} in a URL is the port of every server, {t} that of the TLS server.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from netjail import Rules, use_rules

from ._network import HELLO, SECRET, STREAM

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ._clients import Client, Fetch
    from ._network import Network

# The public internet of the demo is 127.0.0.2 (and 127.0.0.5, where nobody listens), and IPv6 but for ::1, so that
# addresses which carry an IPv4 address are judged by that and not just by not being listed.
RULES = Rules(allow=["127.0.0.2", "127.0.0.5", "::/0"], block=["::1"])


@dataclass(frozen=True)
class Attack:
    """One way inside: what fetches ``url``, posting ``sent`` if there is any, is led there.

    ``proxy`` is in the environment as HTTP_PROXY and ALL_PROXY. ``first`` is fetched before, and must
    succeed; with ``first_rules`` it is fetched under these, and the context carries all rules.
    """

    title: str
    url: str
    sent: bytes | None = None
    proxy: str | None = None
    first: str | None = None
    first_rules: Rules | None = None


ATTACKS: Mapping[str, list[Attack]] = {
    "addresses": [
        Attack("an inside address", "http://127.0.0.3:{p}/"),
        Attack("the metadata service", "http://127.0.0.4:{p}/latest/meta-data/iam/security-credentials/demo-role"),
        Attack("this host: 127.0.0.1", "http://127.0.0.1:{p}/"),
        Attack("this host: localhost", "http://localhost:{p}/"),
        Attack("this host: 0.0.0.0", "http://0.0.0.0:{p}/"),
        Attack("this host: [::1]", "http://[::1]:{p}/"),
        Attack("this host: [::]", "http://[::]:{p}/"),
    ],
    "the same spelled otherwise": [
        Attack("decimal: 2130706435", "http://2130706435:{p}/"),
        Attack("hexadecimal: 0x7f000003", "http://0x7f000003:{p}/"),
        Attack("octal: 0177.0.0.3", "http://0177.0.0.3:{p}/"),
        Attack("short: 127.3", "http://127.3:{p}/"),
        Attack("digits in circles", "http://①②⑦.⓪.⓪.③:{p}/"),
    ],
    "IPv6 that carries IPv4": [
        Attack("mapped: [::ffff:127.0.0.3]", "http://[::ffff:127.0.0.3]:{p}/"),
        Attack("mapped: [::ffff:7f00:3]", "http://[::ffff:7f00:3]:{p}/"),
        Attack("compatible: [::127.0.0.3]", "http://[::127.0.0.3]:{p}/"),
        Attack("NAT64: [64:ff9b::7f00:3]", "http://[64:ff9b::7f00:3]:{p}/"),
        Attack("6to4: [2002:7f00:3::1]", "http://[2002:7f00:3::1]:{p}/"),
        Attack("Teredo: [2001::80ff:fffc]", "http://[2001::80ff:fffc]:{p}/"),
    ],
    "names": [
        Attack("name of an inside address", "http://inside.example:{p}/"),
        Attack("name of the metadata service", "http://metadata.example:{p}/latest/meta-data/"),
        Attack("name of 0.0.0.0", "http://this-host.example:{p}/"),
        Attack("name of a mapped address", "http://mapped.example:{p}/"),
        Attack("name of a NAT64 address", "http://nat64.example:{p}/"),
        Attack("name of both, the inside first", "http://mixed.example:{p}/"),
        Attack("public but dead, then inside", "http://failover.example:{p}/"),
        Attack("rebinds after the check", "http://rebind.example:{p}/"),
        Attack("rebinds between two requests", "http://rebind.example:{p}/", first="http://rebind.example:{p}/close"),
    ],
    "redirects from the public site": [
        Attack("302 to an inside address", "http://public.example:{p}/redirect/302?to=http://127.0.0.3:{p}/"),
        Attack("301 to the metadata service", "http://public.example:{p}/redirect/301?to=http://127.0.0.4:{p}/"),
        Attack(
            "307 with a POST's body", "http://public.example:{p}/redirect/307?to=http://127.0.0.3:{p}/", sent=b"x=1"
        ),
        Attack("303 to a name inside", "http://public.example:{p}/redirect/303?to=http://inside.example:{p}/"),
        Attack("308 to decimal", "http://public.example:{p}/redirect/308?to=http://2130706435:{p}/"),
        Attack(
            "to the public site, then inside",
            "http://public.example:{p}/redirect/302?to=http://127.0.0.2:{p}/redirect/302%3Fto=http://127.0.0.3:{p}/",
        ),
        Attack("to ftp:", "http://public.example:{p}/redirect/302?to=ftp://127.0.0.3:{p}/x"),
    ],
    "URLs that fool a reader": [
        Attack("public.example@127.0.0.3", "http://public.example@127.0.0.3:{p}/"),
        Attack("public.example:80@127.0.0.3", "http://public.example:80@127.0.0.3:{p}/"),
        Attack("127.0.0.3\\@public.example", "http://127.0.0.3:{p}\\@public.example:{p}/"),
        Attack("127.0.0.3#@public.example", "http://127.0.0.3:{p}#@public.example/"),
    ],
    "what surrounds the request": [
        Attack("HTTP_PROXY that is inside", "http://public.example:{p}/", proxy="http://127.0.0.3:{p}"),
        Attack("public HTTP_PROXY, name inside", "http://inside.example:{p}/", proxy="http://127.0.0.2:{p}"),
        Attack(
            "public HTTP_PROXY, redirect inside",
            "http://public.example:{p}/redirect/302?to=http://inside.example:{p}/",
            proxy="http://127.0.0.2:{p}",
        ),
        Attack(
            "kept connection, other rules",
            "http://127.0.0.3:{p}/",
            first="http://127.0.0.3:{p}/",
            first_rules=Rules(allow=["127.0.0.3"]),
        ),
        Attack("TLS: another name's certificate", "https://bank.example:{t}/"),
        Attack("TLS: the same after the right one", "https://bank.example:{t}/", first="https://public.example:{t}/"),
    ],
}


@dataclass(frozen=True)
class Legitimate:
    """What must go on working: ``succeeds`` fetches, and tells whether what came is right."""

    title: str
    succeeds: Callable[[Fetch, Network, Client], bool]


def _gets(url: str, expected: bytes = HELLO, sent: bytes | None = None) -> Callable[[Fetch, Network, Client], bool]:
    return lambda fetch, network, _client: fetch(url_in(network, url), sent) == expected


def _keeps_alive(fetch: Fetch, network: Network, client: Client) -> bool:
    before = network.public_connections()
    url = url_in(network, "http://public.example:{p}/")
    bodies = [fetch(url) for _ in range(3)]
    return bodies == [HELLO] * 3 and network.public_connections() - before == (1 if client.keeps_alive else 3)


def _under_changing_rules(fetch: Fetch, network: Network, _client: Client) -> bool:
    with use_rules(Rules(allow=["127.0.0.2", "192.0.2.1"])):
        one = fetch(url_in(network, "http://public.example:{p}/"))
    with use_rules(Rules(allow=["127.0.0.2", "192.0.2.2"])):
        return one == fetch(url_in(network, "http://public.example:{p}/")) == HELLO


LEGITIMATE = [
    Legitimate("GET by address", _gets("http://127.0.0.2:{p}/")),
    Legitimate("GET by name", _gets("http://public.example:{p}/")),
    Legitimate("redirect to a name", _gets("http://127.0.0.2:{p}/redirect/302?to=http://public.example:{p}/")),
    Legitimate("POST", _gets("http://public.example:{p}/echo", b"posted", b"posted")),
    Legitimate("1 MB in chunks", _gets("http://public.example:{p}/stream", STREAM[0] * STREAM[1])),
    Legitimate("three requests, kept alive", _keeps_alive),
    Legitimate("two rule sets in turn", _under_changing_rules),
    Legitimate("a dead address, then a live one", _gets("http://backup.example:{p}/")),
    Legitimate("TLS with the name's certificate", _gets("https://public.example:{t}/")),
]


def url_in(network: Network, url: str) -> str:
    """``url`` with the ports of this run."""
    return url.replace("{p}", str(network.port)).replace("{t}", str(network.tls_port))


def shows_the_secret(body: bytes) -> bool:
    """Whether an answer came from inside."""
    return SECRET in body
