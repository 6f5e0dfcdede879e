"""clickhouse-driver under rules: a client, and a DB-API connection, whose sockets a Dialer connects.

This module knows clickhouse-driver's connection and nothing of addresses.
"""
# clickhouse-driver has no types.
# pyright: reportMissingTypeStubs=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import clickhouse_driver
from clickhouse_driver import connection, dbapi, errors
from clickhouse_driver.dbapi import connection as dbapi_connection
from clickhouse_driver.util.helpers import parse_url

from .. import _errors
from .._dialer import Dialer

if TYPE_CHECKING:
    import socket

    from .._context import RulesInForce
    from .._dialer import Connect, Mixed
    from .._resolver import Resolver
    from .._rules import RuleSource

__all__ = ["Client", "DeniedError", "connect"]


class DeniedError(_errors.DeniedError, errors.NetworkError):  # type: ignore[misc,unused-ignore]  # it has no types
    """The rules in force accept no address of the server; also a ``clickhouse_driver.errors.NetworkError``."""

    @property
    def message(self) -> str:
        """What every error of clickhouse-driver has."""
        return str(self)


class _Connection(connection.Connection):  # type: ignore[misc,unused-ignore]
    """What dials for a client: when it is used first, when a ping fails, and when the rules have changed."""

    jail: Dialer
    denied: _errors.DeniedError | None = None
    made_under: RulesInForce = ()

    def force_connect(self) -> None:
        if self.connected and self.made_under != self.jail.rules_in_force():
            self.check_query_execution()
            self.disconnect()
        super().force_connect()

    def connect(self) -> None:
        try:
            super().connect()
        except errors.NetworkError:  # it keeps nothing but the text
            if self.denied is not None:
                raise DeniedError.of(self.denied) from self.denied
            raise

    def _create_socket(self, host: str, port: int) -> socket.socket:
        self.denied = None
        rules = self.jail.rules_in_force()
        dialer = self.jail.pinned(rules)
        try:
            if self.secure_socket:
                required = ssl.CERT_REQUIRED if self.verify_cert else ssl.CERT_NONE
                context = self._create_ssl_context({**self.ssl_options, "cert_reqs": required})
                name = self.server_hostname or host
                made: Any = dialer.connect_tls(
                    (host, port), self.connect_timeout, context=context, server_hostname=name
                )
            else:
                made = dialer.connect((host, port), self.connect_timeout)
        except _errors.DeniedError as denied:
            self.denied = denied
            raise
        self.made_under = rules
        return made  # type: ignore[no-any-return]


class Client(clickhouse_driver.Client):  # type: ignore[misc,unused-ignore]
    """A ``clickhouse_driver.Client`` that connects only to what the rules accept.

    ``rules`` and the context's rules must both accept an address; with neither, everything is denied.
    ``resolver``, ``connect`` and ``mixed`` are as in :class:`~netjail.Dialer`, the rest as in
    clickhouse-driver. Each of ``alt_hosts`` is judged when it is its turn. A query under other rules than
    those that the connection was made under has a new connection. ``connect_timeout``, in seconds, covers
    the lookup, all addresses of a name and the TLS handshake.

    Queries raise this module's DeniedError, and what clickhouse-driver raises.
    """

    def __init__(
        self,
        rules: RuleSource | None = None,
        *args: Any,
        resolver: Resolver | None = None,
        connect: Connect | None = None,
        mixed: Mixed = "skip",
        **options: Any,
    ) -> None:
        jail = Dialer(rules, resolver=resolver, connect=connect, mixed=mixed)
        super().__init__(*args, **options)
        all_of_them: list[Any] = [self.connection, *self.connections]
        for made in all_of_them:
            if type(made) is not connection.Connection or made.connected:
                raise TypeError(f"netjail does not know this version of clickhouse-driver: {made!r}")
            jailed: Any = made
            jailed.__class__ = _Connection  # it has dialled nothing yet
            jailed.jail = jail

    @classmethod
    def from_url(cls, url: str, rules: RuleSource | None = None, **jail: Any) -> Client:
        """A client for ``url``. ``jail`` are ``resolver``, ``connect`` and ``mixed``."""
        host, options = parse_url(url)
        return cls(rules, host, **jail, **options)


class _DatabaseConnection(dbapi_connection.Connection):  # type: ignore[misc,unused-ignore]
    """Makes a client for each cursor."""

    jail: dict[str, Any]

    def _make_client(self) -> Client:
        if self.dsn is not None:
            return Client.from_url(self.dsn, **self.jail)
        names = ("port", "user", "password", "database")
        login = {name: getattr(self, name) for name in names}
        return Client(host=self.host, **login, **self.connection_kwargs, **self.jail)


def connect(
    rules: RuleSource | None = None,
    *args: Any,
    resolver: Resolver | None = None,
    connect: Connect | None = None,
    mixed: Mixed = "skip",
    **options: Any,
) -> Any:
    """A DB-API connection as ``clickhouse_driver.dbapi.connect`` gives it, whose cursors are such clients.

    Cursors raise ``clickhouse_driver.dbapi.OperationalError`` in place of every error:
    ``netjail.find_denied`` finds a denial in it.
    """
    made: Any = dbapi.connect(*args, **options)
    made.__class__ = _DatabaseConnection
    made.jail = {"rules": rules, "resolver": resolver, "connect": connect, "mixed": mixed}
    return made
