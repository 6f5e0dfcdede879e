"""paho-mqtt under rules: a client whose sockets a Dialer connects.

This module knows how such a client is made. What it does differently stands in the engine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._dialer import Dialer
from .._errors import DeniedError
from ._paho import Jailed

if TYPE_CHECKING:
    from .._dialer import Connect, Mixed
    from .._resolver import Resolver
    from .._rules import RuleSource

__all__ = ["Client", "DeniedError"]


class Client(Jailed):
    """``paho.mqtt.client.Client`` that connects only to what the rules accept.

    It takes the plain client's arguments. ``rules`` and the rules of the context that calls ``connect``,
    ``connect_async`` or ``connect_srv`` must both accept an address; with neither, everything is denied.
    Whatever is dialled later, such as reconnects of a loop's thread, goes by the rules of that moment.
    ``resolver``, ``connect`` and ``mixed`` are as in :class:`~netjail.Dialer`. ``connect_timeout`` covers the
    lookup and all addresses of a name.

    ``connect`` raises :class:`netjail.DeniedError` and what paho raises. A denial ends a loop:
    ``loop_forever`` raises it, also in the thread of ``loop_start``, after ``on_connect_fail``. A unix
    socket (``transport="unix"``) is denied, ``proxy_set`` raises ValueError, and no proxy of the
    environment's or of PySocks' is used.
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
        self._dialer = Dialer(rules, resolver=resolver, connect=connect, mixed=mixed)
        super().__init__(*plain, **options)
