"""The other ways to ask whether an address is in a set of prefixes, each as it is fastest for what is asked with."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Any

from netjail import Rules

if TYPE_CHECKING:
    from collections.abc import Callable

OURS, SCAN, NETADDR, PYTRICIA, RADIX, SUBNETTREE = (
    "netjail",
    "ipaddress scan",
    "netaddr.IPSet",
    "pytricia",
    "py-radix",
    "SubnetTree",
)


@dataclass
class Table:
    """A set that was built, and two loops over addresses: of ``ipaddress`` objects, and of texts."""

    built: Any
    objects: Callable[[list[Any]], object]
    texts: Callable[[list[Any]], object]


def netjail(prefixes: list[str]) -> Table:
    rules = Rules(prefixes)

    def ask(addresses: list[Any]) -> None:
        accepts = rules.accepts
        for address in addresses:
            accepts(address)

    return Table(rules, ask, ask)


def scan(prefixes: list[str]) -> Table:
    networks = [ip_network(text) for text in prefixes]

    def objects(addresses: list[Any]) -> None:
        for address in addresses:
            any(address in network for network in networks)

    return Table(networks, objects, lambda texts: objects([ip_address(text) for text in texts]))


def netaddr(prefixes: list[str]) -> Table:
    library = importlib.import_module("netaddr")
    held = library.IPSet(prefixes)

    def objects(addresses: list[Any]) -> None:
        for address in addresses:
            _ = library.IPAddress(int(address), address.version) in held

    def texts(addresses: list[Any]) -> None:
        for address in addresses:
            _ = library.IPAddress(address) in held

    return Table(held, objects, texts)


def pytricia(prefixes: list[str]) -> Table:
    """One tree for each version: it takes one alone."""
    trees = {version: importlib.import_module("pytricia").PyTricia(bits) for version, bits in ((4, 32), (6, 128))}
    for prefix in prefixes:
        trees[6 if ":" in prefix else 4][prefix] = True
    for tree in trees.values():
        tree.freeze()  # which makes look-ups faster

    def ask(addresses: list[Any]) -> None:
        tree = trees[6 if ":" in str(addresses[0]) else 4]
        for address in addresses:
            _ = address in tree

    return Table(trees, ask, ask)


def radix(prefixes: list[str]) -> Table:
    tree = importlib.import_module("radix").Radix()
    for prefix in prefixes:
        tree.add(prefix)
    search = tree.search_best

    def objects(addresses: list[Any]) -> None:
        for address in addresses:
            search(packed=address.packed)

    def texts(addresses: list[Any]) -> None:
        for address in addresses:
            search(address)

    return Table(tree, objects, texts)


def subnettree(prefixes: list[str]) -> Table:
    tree = importlib.import_module("SubnetTree").SubnetTree()
    for prefix in prefixes:
        tree[prefix] = True

    def objects(addresses: list[Any]) -> None:
        tree.set_binary_lookup_mode(True)
        for address in addresses:
            _ = address.packed in tree

    def texts(addresses: list[Any]) -> None:
        tree.set_binary_lookup_mode(False)
        for address in addresses:
            _ = address in tree

    return Table(tree, objects, texts)


TABLES: dict[str, Callable[[list[str]], Table]] = {
    OURS: netjail,
    SCAN: scan,
    NETADDR: netaddr,
    PYTRICIA: pytricia,
    RADIX: radix,
    SUBNETTREE: subnettree,
}


def installed() -> list[str]:
    """Those whose library is there."""
    there: list[str] = []
    for name, make in TABLES.items():
        try:
            make(["192.0.2.0/24"])
        except ImportError:
            continue
        there.append(name)
    return there
