"""PyMySQL under rules: a connection whose socket a Dialer has connected.

This module knows PyMySQL's connection and nothing of addresses.
"""

from __future__ import annotations

import socket
import traceback
from typing import TYPE_CHECKING, Any

import pymysql
from pymysql.constants import CR

from .. import _errors
from .._dialer import Dialer

if TYPE_CHECKING:
    from .._dialer import Connect, Mixed
    from .._resolver import Resolver
    from .._rules import RuleSource

__all__ = ["Connection", "DeniedError", "connect"]


class DeniedError(_errors.DeniedError, pymysql.OperationalError):
    """The rules in force accept no address of the server; also a ``pymysql.OperationalError``."""


class Connection(pymysql.connections.Connection):
    """A ``pymysql.connect(...)`` that connects only to what the rules accept.

    ``rules`` and the context's rules must both accept an address; with neither, everything is denied.
    ``resolver``, ``connect`` and ``mixed`` are as in :class:`~netjail.Dialer`, the rest as in PyMySQL. The
    rules in force when it first connects hold for as long as it lives: ``ping(reconnect=True)`` and a
    second ``connect()`` go by them, whatever the context is then. ``connect_timeout``, in seconds, covers
    the lookup and all addresses of a name.

    Raises this module's DeniedError, also for a unix socket (``unix_socket=``, or ``socket`` in an option
    file), and what PyMySQL raises.
    """

    _dialer: Dialer | None = None
    _sock: Any = None
    _rfile: Any = None

    def __init__(
        self,
        rules: RuleSource | None = None,
        *,
        resolver: Resolver | None = None,
        connect: Connect | None = None,
        mixed: Mixed = "skip",
        **options: Any,
    ) -> None:
        self._jail = Dialer(rules, resolver=resolver, connect=connect, mixed=mixed)
        super().__init__(**options)

    def connect(self, sock: Any = None) -> None:
        """Connects. A ``sock`` that is given is connected already, and nobody judges it."""
        super().connect(self._dialled() if sock is None else sock)

    def _dialled(self) -> socket.socket:
        me: Any = self  # what was given, after the defaults of PyMySQL and of an option file
        if me.unix_socket:
            raise DeniedError(str(me.unix_socket), 0, reason="a unix socket is no address that rules could accept")
        if self._dialer is None:
            self._dialer = self._jail.pinned(self._jail.rules_in_force())
        source = None if me.bind_address is None else (me.bind_address, 0)
        try:
            sock = self._dialer.connect((me.host, me.port), me.connect_timeout, source)
        except _errors.DeniedError as denied:
            raise DeniedError.of(denied) from denied
        except OSError as error:
            words = f"Can't connect to MySQL server on {me.host!r} ({error})"
            failed: Any = pymysql.OperationalError(CR.CR_CONN_HOST_ERROR, words)
            failed.original_exception = error
            failed.traceback = traceback.format_exc()
            raise failed from error
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.settimeout(None)
        me.host_info = f"socket {me.host}:{me.port}"
        return sock


connect = Connection
