"""The rules in force: those that this context carries, those that a dialer was given, and the floors of a guard.

This module does not know what dials.
"""

from __future__ import annotations

from contextvars import ContextVar, Token
from typing import TYPE_CHECKING

from ._rules import Rules

if TYPE_CHECKING:
    from types import TracebackType

    from ._rules import RuleSource

    RulesInForce = tuple[RuleSource, ...]

carried_rules: ContextVar[RuleSource | None] = ContextVar("netjail rules", default=None)
_NONE = Rules()

floors: list[RuleSource] = []
"""What a guard lays under every dial of this process. It narrows, and gives no access by itself here."""


def current_rules() -> RuleSource:
    """The rules that this context carries; outside any ``use_rules`` an empty ``Rules()``, which denies all."""
    carried = carried_rules.get()
    return _NONE if carried is None else carried


class use_rules:  # noqa: N801 - it is called like a function; one around it costs half as much again
    """A context manager inside which ``rules`` are the current rules; they are restored when it ends.

    asyncio tasks and ``asyncio.to_thread`` started inside inherit them. A plain thread and an executor's
    worker start without rules: hand them ``contextvars.copy_context().run``. Inside a generator the rules
    reach its caller too, until the generator ends.

    Raises TypeError for anything but rules.

    >>> from netjail import Rules, current_rules, use_rules
    >>> with use_rules(Rules(allow=["192.0.2.0/24"])):
    ...     current_rules()
    <Rules ALLOW 192.0.2.0/24>
    >>> current_rules().accepts("192.0.2.1")
    False
    """

    # Not made with contextlib, whose managers decorate functions: on a coroutine function that does nothing.
    __slots__ = ("_rules", "_tokens")

    def __init__(self, rules: RuleSource) -> None:
        self._rules = rules if type(rules) is Rules else checked(rules)
        self._tokens: list[Token[RuleSource | None]] = []

    def __enter__(self) -> RuleSource:
        self._tokens.append(carried_rules.set(self._rules))
        return self._rules

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        token = self._tokens.pop()
        try:
            carried_rules.reset(token)
        except ValueError:  # that of another thread or task, which has entered the same object and comes for its own
            self._tokens.append(token)
            if not any(map(self._reset, self._tokens[-2::-1])):
                raise

    def _reset(self, token: Token[RuleSource | None]) -> bool:
        try:
            carried_rules.reset(token)
        except ValueError:
            return False
        self._tokens.remove(token)
        return True


def checked(rules: RuleSource) -> RuleSource:
    """``rules``, if they are rules. Else a TypeError that says what would be."""
    if isinstance(rules, type) or not callable(getattr(rules, "rules_for", None)):
        raise TypeError(f"rules are netjail.Rules, like Rules(allow=['192.0.2.0/24']), not {rules!r}")
    if type(rules).__hash__ is None:
        raise TypeError(f"rules must be hashable, since each has connections of its own: {rules!r} is not")
    return rules


def in_force(given: RuleSource | None) -> RulesInForce:
    """The rules that a connection made here and now must pass, each of them: none at all denies it.

    The context can only narrow what was ``given``, and so can the floors.
    """
    carried = carried_rules.get()
    rules: RulesInForce
    if carried is None:
        rules = () if given is None else (given,)
    else:
        rules = (carried,) if given is None or given is carried else (given, carried)
    return (*rules, *floors) if floors and rules else rules
