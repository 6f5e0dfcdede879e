"""psycopg 3 under rules: connections whose addresses are judged first and handed to libpq beside the names.

This module knows psycopg's connection classes. What libpq would dial, and the rules, are not its matter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import Row

from .. import _errors
from .._dialer import AsyncDialer, Dialer
from ._libpq import pinned, pinned_async

if TYPE_CHECKING:
    from .._dialer import Mixed
    from .._resolver import AsyncResolver, Resolver
    from .._rules import RuleSource

__all__ = ["AsyncConnection", "Connection", "DeniedError", "connect"]


class DeniedError(_errors.DeniedError, psycopg.OperationalError):
    """The rules in force accept no address of the server; also a ``psycopg.OperationalError``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        psycopg.OperationalError.__init__(self, *self.args)  # what OSError did not call


def _own(error: Exception) -> psycopg.Error:
    """The error of psycopg for what kept every host from being dialled."""
    if isinstance(error, _errors.DeniedError):
        return DeniedError.of(error)
    if isinstance(error, TimeoutError):
        return psycopg.errors.ConnectionTimeout("connection timeout expired")
    return psycopg.OperationalError(f"connection failed: {error}")


class Connection(psycopg.Connection[Row]):
    """A ``psycopg.Connection`` whose :meth:`connect` connects only to what the rules accept."""

    @classmethod
    def connect(  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        cls,
        conninfo: str = "",
        *,
        rules: RuleSource | None = None,
        resolver: Resolver | None = None,
        mixed: Mixed = "skip",
        **kwargs: Any,
    ) -> Self:
        """A connection, as ``psycopg.Connection.connect`` makes it.

        ``rules`` and the context's rules must both accept an address; with neither, everything is denied.
        ``resolver`` and ``mixed`` are as in :class:`~netjail.Dialer`, the rest as in psycopg. Every host of
        a list is judged, by its ``hostaddr`` where it has one, also where PGHOST and its like name it;
        those that are not accepted are left out. ``connect_timeout``, in seconds and for each address, has
        the time of the lookup taken off.

        Raises this module's DeniedError, also for a unix socket, a service and an ``oauth_issuer``, and
        what psycopg raises.
        """
        return cls._dialled_by(Dialer(rules, resolver=resolver, mixed=mixed), conninfo, **kwargs)

    @classmethod
    def _dialled_by(cls, dialer: Dialer, conninfo: str = "", **kwargs: Any) -> Self:
        """The same under the rules of a dialer, for what dials for others: a pool."""
        given = conninfo_to_dict(conninfo, **kwargs)
        try:
            judged: dict[str, Any] = {**kwargs, **pinned(dialer, given)}
        except (OSError, ValueError) as error:
            raise _own(error) from error
        return super().connect(conninfo, **judged)


class AsyncConnection(psycopg.AsyncConnection[Row]):
    """A ``psycopg.AsyncConnection`` whose :meth:`connect` connects only to what the rules accept."""

    @classmethod
    async def connect(  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        cls,
        conninfo: str = "",
        *,
        rules: RuleSource | None = None,
        resolver: AsyncResolver | None = None,
        mixed: Mixed = "skip",
        **kwargs: Any,
    ) -> Self:
        """The same as :meth:`Connection.connect`, awaited, with an AsyncResolver."""
        return await cls._dialled_by(AsyncDialer(rules, resolver=resolver, mixed=mixed), conninfo, **kwargs)

    @classmethod
    async def _dialled_by(cls, dialer: AsyncDialer, conninfo: str = "", **kwargs: Any) -> Self:
        """The same under the rules of a dialer, for what dials for others: a pool."""
        given = conninfo_to_dict(conninfo, **kwargs)
        try:
            judged: dict[str, Any] = {**kwargs, **await pinned_async(dialer, given)}
        except (OSError, ValueError) as error:
            raise _own(error) from error
        return await super().connect(conninfo, **judged)


connect = Connection.connect
