"""What is known of one client's suite. It is read on both sides: by the runner and, inside the suite, by the plugin.

This module knows neither pytest nor any client.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import PurePosixPath

CLIENTS = (
    "httpx",
    "httpx2",
    "requests",
    "urllib3",
    "httpcore",
    "aiohttp",
    "redis",
    "websocket_client",
    "tornado",
    "paramiko",
)


@dataclass(frozen=True)
class Suite:
    """One client's suite, as released, and what is to be expected of it.

    A test is named by its node id. Without the part in brackets the name means all of that test's parameters, and
    the name of a class, a file or a folder means all that is in it.
    """

    distribution: str
    """The distribution whose source archive has the tests ..."""
    version: str
    sha256: str
    """... and the digest of that archive."""

    jail: Callable[[], None]
    """Puts ours in the place of what the client uses by default, with rules that accept loopback alone."""

    keep: tuple[str, ...] = ("tests", "pyproject.toml")
    """What of the archive is unpacked. The client itself is not: it is installed, unless its tests are in it."""

    tests: tuple[str, ...] = ("",)
    """What of that is the suite's, which may connect to its own servers unjudged."""

    prepare: Callable[[], None] = lambda: None
    """What is done first in both runs."""

    arguments: tuple[str, ...] = ()
    """For pytest."""

    serve: Callable[[], AbstractContextManager[tuple[str, ...]]] = lambda: nullcontext(())
    """Starts the server that the suite wants, for each run another. The runner calls it, not the plugin. It gives
    more arguments for pytest, of which ``--environ=NAME=VALUE`` is the plugin's."""

    patience: float = 420
    """Seconds after which a run is ended. None takes half of it."""

    closed: tuple[int, ...] = ()
    """Ports at which nothing answers, whatever the machine runs there: what a suite takes to be its own server."""

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

    chance: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    """Tests that fail by chance with the plain client too, by how often each way did. They are run once, as all are,
    and may end either way."""


def suite(client: str) -> Suite:
    """The suite of ``client``."""
    found: Suite = import_module(f".of_{client}", __package__).SUITE
    return found


def named(test: str, names: Mapping[str, tuple[str, ...]]) -> str | None:
    """The name by which a table names ``test``, if it does: the most particular one."""
    for each in called(test):
        if any(each in tests for tests in names.values()):
            return each
    return None


def called(test: str) -> Iterator[str]:
    """All that may name ``test``: itself, its function, its class, its file, the folders that it is in."""
    function = test.partition("[")[0]
    parts = function.split("::")
    yield from dict.fromkeys((test, *("::".join(parts[:end]) for end in range(len(parts), 0, -1))))
    yield from (str(folder) for folder in PurePosixPath(parts[0]).parents if folder.name)
