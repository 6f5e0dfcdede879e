"""aiomqtt under rules: its client over a paho client that a Dialer connects.

This module knows that aiomqtt dials in a thread of its loop's, where no context reaches, and no policy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import aiomqtt

from .. import _errors
from .._dialer import Dialer
from ._paho import NO_PROXY, jail

if TYPE_CHECKING:
    from .._dialer import Connect, Mixed
    from .._resolver import Resolver
    from .._rules import RuleSource

__all__ = ["Client", "DeniedError"]


class DeniedError(_errors.DeniedError, aiomqtt.MqttError):
    """The rules in force accept no address of the broker; also an ``aiomqtt.MqttError``."""


class Client(aiomqtt.Client):
    """``aiomqtt.Client`` that connects only to what the rules accept: ``Client("broker", rules=PUBLIC)``.

    It takes the plain client's arguments. ``rules`` and the rules of the context in which its ``async with``
    block begins must both accept an address; with neither, everything is denied. ``resolver``, ``connect``
    and ``mixed`` are as in :class:`~netjail.Dialer`: aiomqtt dials in a thread, so they are the blocking ones.

    Beginning the block raises :class:`DeniedError` and what aiomqtt raises; a unix socket is denied.
    ``proxy=`` is a ValueError, and no proxy of the environment's is used.
    """

    def __init__(
        self,
        *plain: Any,
        rules: RuleSource | None = None,
        resolver: Resolver | None = None,
        connect: Connect | None = None,
        mixed: Mixed = "skip",
        **options: Any,
    ) -> None:
        if options.get("proxy") is not None:
            raise ValueError(NO_PROXY)
        self._dialer = Dialer(rules, resolver=resolver, connect=connect, mixed=mixed)
        super().__init__(*plain, **options)

    async def __aenter__(self) -> Self:
        """Connects."""
        if not self._lock.locked():  # else it is entered already, which aiomqtt refuses
            jail(self._client, self._dialer.pinned(self._dialer.rules_in_force()))
        try:
            return await super().__aenter__()
        except aiomqtt.MqttError as error:
            if isinstance(denied := error.__context__, _errors.DeniedError):
                raise DeniedError.of(denied) from denied
            raise
