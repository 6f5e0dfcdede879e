"""MySQL Connector/Python under rules: its connections in pure Python, whose sockets a dialer has connected.

This module knows the connector's classes and nothing of addresses.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

from mysql.connector import connection, errors, network
from mysql.connector.aio import connection as aio_connection
from mysql.connector.aio import network as aio_network
from mysql.connector.aio.utils import open_connection
from mysql.connector.optionfiles import read_option_files

from .. import _errors
from .._dialer import AsyncDialer, Dialer

if TYPE_CHECKING:
    from .._dialer import AsyncConnect, Connect, Mixed
    from .._resolver import AsyncResolver, Resolver
    from .._rules import RuleSource

__all__ = ["AsyncMySQLConnection", "DeniedError", "MySQLConnection", "aconnect", "connect"]

_TIMED_OUT: Any = getattr(errors, "ConnectionTimeoutError", errors.InterfaceError)  # none before 9.2
_REFUSED = {
    "dns_srv": "it names hosts that nobody has asked for",
    "failover": "connect to one host after the other",
    "pool_name": "its pools serve one set of rules to all",
    "pool_size": "its pools serve one set of rules to all",
    "pool_reset_session": "its pools serve one set of rules to all",
}


class DeniedError(_errors.DeniedError, errors.InterfaceError):  # type: ignore[misc]  # OSError's errno may be None
    """The rules in force accept no address of the server; also a ``mysql.connector.InterfaceError``."""

    sqlstate: str | None = None

    @property
    def msg(self) -> str:  # type: ignore[override]  # theirs is set once and for all
        """What every error of the connector has."""
        return str(self)


class _Carrier(Exception):  # noqa: N818 - nobody is to catch it
    """Takes a denial past ``reconnect``, which retries every OSError and every error of the connector's."""

    def __init__(self, denied: _errors.DeniedError) -> None:
        super().__init__(str(denied))
        self.denied = denied


def _plain(options: dict[str, Any]) -> dict[str, Any]:
    """What a connection of the connector's takes, of what its ``connect`` does; ValueError for what dials otherwise."""
    if "read_default_file" in options:
        options["option_files"] = options.pop("read_default_file")
    options = read_option_files(**options)
    for name, why in _REFUSED.items():
        if options.pop(name, None):
            raise ValueError(f"{name}= is refused under rules: {why}")
    if not options.pop("use_pure", True):
        raise ValueError("use_pure=False is refused under rules: the extension in C dials by itself")
    return options


def _unix(path: Any) -> DeniedError:
    return DeniedError(str(path), 0, reason="a unix socket is no address that rules could accept")


class _Socket(network.MySQLTCPSocket):
    """The connector's socket, with a dialer."""

    dialer: Dialer

    def open_connection(self) -> None:
        family = socket.AF_INET6 if self.force_ipv6 else socket.AF_UNSPEC
        target = self.server_host or "", self.server_port
        try:
            self.sock = self.dialer.connect(target, self._connection_timeout, family=family)
        except _errors.DeniedError as denied:
            raise _Carrier(denied) from denied
        except OSError as error:
            kind = _TIMED_OUT if isinstance(error, TimeoutError) else errors.InterfaceError
            raise kind(errno=2003, values=(*target, str(error))) from error
        self._family = self.sock.family


class MySQLConnection(connection.MySQLConnection):
    """A ``mysql.connector.connect(...)`` in pure Python that connects only to what the rules accept.

    ``rules`` and the context's rules must both accept an address; with neither, everything is denied.
    ``resolver``, ``connect`` and ``mixed`` are as in :class:`~netjail.Dialer`, the rest as in the
    connector. The rules in force when it first connects hold for as long as it lives: ``reconnect`` and
    ``ping(reconnect=True)`` go by them, whatever the context is then, and do not retry a denial.
    ``connection_timeout``, in seconds, covers the lookup and all addresses of a name.

    Raises this module's DeniedError, also for a unix socket, and what the connector raises; ValueError for
    ``use_pure=False``, ``dns_srv``, ``failover`` and pools, from an option file too.
    """

    _dialer: Dialer | None = None
    _retries = False

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

    def config(self, **kwargs: Any) -> None:
        """Takes what ``mysql.connector.connect`` does, option files included."""
        super().config(**_plain(kwargs))

    def connect(self, **kwargs: Any) -> None:
        """Connects, under the rules in force when it is called first."""
        if self._dialer is None:
            self._dialer = self._jail.pinned(self._jail.rules_in_force())
        try:
            super().connect(**kwargs)
        except _Carrier as carrier:
            if self._retries:
                raise
            raise DeniedError.of(carrier.denied) from carrier.denied

    def reconnect(self, attempts: int = 1, delay: int = 0) -> None:
        """As in the connector, but a denial is the last attempt."""
        self._retries = True
        try:
            super().reconnect(attempts, delay)
        except _Carrier as carrier:
            raise DeniedError.of(carrier.denied) from carrier.denied
        finally:
            self._retries = False

    def _get_connection(self) -> Any:
        plain: Any = super()._get_connection()
        if not isinstance(plain, network.MySQLTCPSocket):
            raise _unix(self.unix_socket)
        sock: Any = _Socket(plain.server_host or "", plain.server_port, plain.force_ipv6)
        sock.dialer = self._dialer
        sock.set_connection_timeout(self._connection_timeout)
        return sock


connect = MySQLConnection


class _AsyncSocket(aio_network.MySQLTcpSocket):
    """The same for asyncio. It also names the host to TLS, which checks no name where it is given none."""

    dialer: AsyncDialer

    async def open_connection(self, **kwargs: Any) -> None:
        try:
            sock = await self.dialer.connect((self._host, self._port))
        except _errors.DeniedError as denied:
            raise _Carrier(denied) from denied
        self._reader, self._writer = await open_connection(sock=sock, **kwargs)
        self._is_connected = True

    async def switch_to_ssl(self, ssl_context: Any) -> None:
        writer: Any = self._writer
        await writer.start_tls(ssl_context, server_hostname=self._host)


class AsyncMySQLConnection(aio_connection.MySQLConnection):
    """The same as :class:`MySQLConnection` for asyncio: a ``mysql.connector.aio.MySQLConnection``.

    ``resolver`` and ``connect`` are as in :class:`~netjail.AsyncDialer`. With ``ssl_verify_identity`` the
    certificate is checked against the host's name, which the plain one does not do.
    """

    _dialer: AsyncDialer | None = None
    _retries = False
    _jailed: Any = None

    def __init__(
        self,
        rules: RuleSource | None = None,
        *,
        resolver: AsyncResolver | None = None,
        connect: AsyncConnect | None = None,
        mixed: Mixed = "skip",
        **options: Any,
    ) -> None:
        self._jail = AsyncDialer(rules, resolver=resolver, connect=connect, mixed=mixed)
        super().__init__(**_plain(options))

    @property
    def _socket(self) -> Any:
        return self._jailed

    @_socket.setter
    def _socket(self, plain: Any) -> None:
        self._jailed = plain
        if plain is not None:
            self._jailed = _AsyncSocket(plain._host, plain._port, plain._force_ipv6)
            self._jailed.dialer = self._dialer

    async def connect(self) -> None:
        """Connects, under the rules in force when it is called first."""
        if self._unix_socket:
            raise _unix(self._unix_socket)
        if self._dialer is None:
            self._dialer = self._jail.pinned(self._jail.rules_in_force())
        try:
            await super().connect()
        except _Carrier as carrier:
            if self._retries:
                raise
            raise DeniedError.of(carrier.denied) from carrier.denied
        except BaseException:
            if self._jailed is not None and self._jailed._writer is not None:
                self._jailed._writer.transport.abort()  # the connector forgets it when it is cancelled
            raise

    async def reconnect(self, attempts: int = 1, delay: int = 0) -> None:
        """As in the connector, but a denial is the last attempt."""
        self._retries = True
        try:
            await super().reconnect(attempts, delay)
        except _Carrier as carrier:
            raise DeniedError.of(carrier.denied) from carrier.denied
        finally:
            self._retries = False


async def aconnect(rules: RuleSource | None = None, **options: Any) -> AsyncMySQLConnection:
    """An :class:`AsyncMySQLConnection` that is connected, as ``await mysql.connector.aio.connect(...)`` gives it."""
    made = AsyncMySQLConnection(rules, **options)
    await made.connect()
    return made
