"""Resolvers for tests, which answer from a table and remember what they were asked."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Answer = Sequence[str]

GOOD, BAD = "127.0.0.2", "127.0.0.3"
"""The address that the rules of most tests accept, and one that they do not."""

TABLE: dict[str, Any] = {
    "good.test": [GOOD],
    "bad.test": [BAD],
    "wrong.test": [GOOD],  # no server has a certificate for it
    "mixed.test": [BAD, GOOD],
}
"""The names that tests of clients dial."""


class Names:
    """A Resolver: ``Names({"good.test": ["127.0.0.2"]})``.

    An answer may be an iterator of answers, one for each lookup (a name that rebinds), or an exception to
    raise. A name that is not in the table does not resolve. ``asked`` holds (host, family).
    """

    def __init__(self, table: Mapping[str, Any] = TABLE) -> None:
        self.table = dict(table)
        self.asked: list[tuple[str, int]] = []

    def lookup(self, host: str, family: int) -> Answer:
        self.asked.append((host, family))
        answer = self.table.get(host)
        if isinstance(answer, Iterator):
            answer = next(answer)
        if isinstance(answer, BaseException):
            raise answer
        if answer is None:
            raise socket.gaierror(socket.EAI_NONAME, f"{host!r} is not in the test's table")
        return answer  # type: ignore[no-any-return]


class AsyncNames(Names):
    """The same, awaited."""

    async def lookup(self, host: str, family: int) -> Answer:  # type: ignore[override]
        return super().lookup(host, family)
