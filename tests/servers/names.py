"""Resolvers for tests, which answer from a table and remember what they were asked."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Answer = Sequence[str]


class Names:
    """A Resolver: ``Names({"good.test": ["127.0.0.2"]})``.

    An answer may be an iterator of answers, one for each lookup (a name that rebinds), or an exception to
    raise. A name that is not in the table does not resolve. ``asked`` holds (host, family).
    """

    def __init__(self, table: Mapping[str, Any]) -> None:
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
