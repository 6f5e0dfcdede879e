"""The errors that netjail raises, and how to find a denial that a library has wrapped.

This module knows the builtins alone.

    NetjailError(Exception)
      InvalidRuleError(NetjailError, ValueError)
      DeniedError(NetjailError, PermissionError)

A denial is an OSError because what dials expects OSErrors: a plain Exception escapes as an
ExceptionGroup from some clients and breaks happy eyeballs in others. It always has two arguments
(EACCES and a message), since some libraries read ``args[0]`` as an errno.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any, Self, cast

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ._rules import Decision


class NetjailError(Exception):
    """The base of every error that netjail defines."""

    __module__ = "netjail"  # where users find it, in tracebacks too


class InvalidRuleError(NetjailError, ValueError):
    """A rule set or a preset name that cannot be what was meant; the message names the entry."""

    __module__ = "netjail"


class DeniedError(NetjailError, PermissionError):
    """The rules in force do not accept any address that would have been dialled.

    ``host`` and ``port`` are the target as it was asked for. ``decisions`` are the
    :class:`~netjail.Decision` objects for the addresses that were judged, in the order of the answer;
    the message never names these, as users see messages and DNS answers may be internal.
    ``reason`` is the message's last part. ``errno`` is EACCES.

    Some libraries make an error again, as ``type(error)(str(error))`` or ``type(error)(*error.args)``: that
    is the same denial, without decisions.
    """

    __module__ = "netjail"
    host: str
    port: int
    decisions: tuple[Decision, ...]
    reason: str

    def __init__(
        self,
        host: str,
        port: int | str | None = None,
        decisions: Iterable[Decision] = (),
        reason: str = "not accepted by the rules",
    ) -> None:
        if not isinstance(port, int):  # made again by a library, from the text alone or from args
            text = str(host if port is None else port)
            again = _from_text(text)
            host, port, reason = (again.host, again.port, again.reason) if again else (text, 0, reason)
        self.host = host
        self.port = port
        self.decisions = tuple(decisions)
        self.reason = reason
        super().__init__(errno.EACCES, f"netjail denied the connection to {host!r} port {port}: {reason}")

    def __str__(self) -> str:
        return str(self.strerror)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.host, self.port, self.decisions, self.reason)

    @classmethod
    def of(cls, denied: DeniedError) -> Self:
        """The same denial in this class: how a client module turns one into its library's own error."""
        error = cls(denied.host, denied.port, denied.decisions, denied.reason)
        error.__cause__ = denied
        return error


# What repr() writes: an escape is one of its own, and neither a control character nor a surrogate stands for itself.
_ESCAPE = r"""\\(?:[\\'nrt]|x[0-9a-f]{2}|u[0-9a-f]{4}|U00(?:0[0-9a-f]|10)[0-9a-f]{4})"""
_NOT_ITSELF = r"\\\0-\x1f\ud800-\udfff"
_MESSAGE = (
    "netjail denied the connection to "
    rf"""(?P<host>'(?:[^'{_NOT_ITSELF}]|{_ESCAPE})*'|"(?:[^"{_NOT_ITSELF}]|{_ESCAPE})*") """
    r"""port (?P<port>[0-9]{1,5}): (?P<reason>[^'"\\\])}>,;\n]*)"""
)


def find_denied(error: BaseException | None) -> DeniedError | None:
    """The denial inside ``error``, or None when there is none.

    Looks through causes, contexts, exception groups, ``reason`` and ``exception`` attributes, and arguments. Where a
    library kept only the text of an exception, the denial is made anew from that text, without decisions.
    """
    texts: list[str] = []
    for found in _within(error):
        if isinstance(found, DeniedError):
            return found
        if isinstance(found, str):
            texts.append(found)
    return _from_text("\n".join(texts))


def _from_text(text: str) -> DeniedError | None:
    """The denial whose message stands in ``text``."""
    from ast import literal_eval  # noqa: PLC0415 - a denial that must be dug out of text is rare
    from re import search  # noqa: PLC0415 - as above

    match = search(_MESSAGE, text)
    if match is None:
        return None
    return DeniedError(literal_eval(match["host"]), int(match["port"]), reason=match["reason"].strip())


def _within(error: BaseException | None) -> Iterator[object]:
    """Every exception and string reachable from ``error``, each once, nearest first."""
    seen: set[int] = set()
    queue: list[object] = [error]
    while queue:
        item = queue.pop(0)
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, str):
            yield item
        elif isinstance(item, list | tuple):
            queue.extend(cast("Iterable[object]", item))
        elif isinstance(item, dict):
            queue.extend(cast("Iterable[object]", item.values()))
        elif isinstance(item, BaseException):
            yield item
            held: dict[str, object] = getattr(item, "__dict__", {})  # a property might warn, raise or do anything
            queue += [item.__cause__, item.__context__, held.get("reason"), item.args]
            queue += [held.get("exception"), held.get("exceptions"), _text(item)]
            if isinstance(item, BaseExceptionGroup):
                queue += cast("BaseExceptionGroup[BaseException]", item).exceptions


def _text(error: BaseException) -> str | None:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - a broken __str__ of somebody's exception must not hide the denial behind it
        return None
