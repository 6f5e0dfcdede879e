"""What is known of one client's suite. It is read on both sides: by the runner and, inside the suite, by the plugin.

This module knows neither pytest nor any client.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module

CLIENTS = ("httpx", "httpx2", "requests")


@dataclass(frozen=True)
class Suite:
    """One client's suite, as released, and what is to be expected of it.

    A test is named by its node id. Without the part in brackets the name means all of that test's parameters.
    """

    distribution: str
    """The distribution whose source archive has the tests ..."""
    version: str
    sha256: str
    """... and the digest of that archive."""

    jail: Callable[[], None]
    """Puts ours in the place of what the client uses by default, with rules that accept loopback alone."""

    keep: tuple[str, ...] = ("tests", "pyproject.toml")
    """What of the archive is unpacked. The client itself is not: it is installed."""

    prepare: Callable[[], None] = lambda: None
    """What is done first in both runs."""

    arguments: tuple[str, ...] = ()
    """For pytest."""

    in_turn: bool = False
    """Whether the two runs must not overlap, as its servers listen at a port that is written down."""

    servers: tuple[str, ...] = ()
    """Packages that connect on behalf of the suite's servers: no client of anybody's is at work there."""

    beneath: tuple[str, ...] = ()
    """Files of the client's own below what ours stands in for: it is their caller that connects."""

    left_out: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    """Tests that are run in neither way, by the reason."""

    differs: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    """Tests that pass with the plain client and fail with ours, by the reason."""


def suite(client: str) -> Suite:
    """The suite of ``client``."""
    found: Suite = import_module(f".of_{client}", __package__).SUITE
    return found


def named(test: str, names: Mapping[str, tuple[str, ...]]) -> str | None:
    """The name by which a table names ``test``, if it does."""
    for each in (test, test.partition("[")[0]):
        if any(each in tests for tests in names.values()):
            return each
    return None
