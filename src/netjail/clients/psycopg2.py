"""psycopg2 under rules: a connect whose addresses are judged first and handed to libpq beside the names.

This module knows psycopg2's connect. What libpq would dial, and the rules, are not its matter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg2
from psycopg2.extensions import make_dsn, parse_dsn

from .._dialer import Dialer
from .._errors import DeniedError
from ._libpq import pinned

if TYPE_CHECKING:
    from .._dialer import Mixed
    from .._resolver import Resolver
    from .._rules import RuleSource

__all__ = ["DeniedError", "connect"]


def connect(
    dsn: str | None = None,
    connection_factory: Any = None,
    cursor_factory: Any = None,
    *,
    rules: RuleSource | None = None,
    resolver: Resolver | None = None,
    mixed: Mixed = "skip",
    **kwargs: Any,
) -> Any:
    """A connection, as ``psycopg2.connect`` makes it, only to what the rules accept.

    ``rules`` and the context's rules must both accept an address; with neither, everything is denied.
    ``resolver`` and ``mixed`` are as in :class:`~netjail.Dialer`, the rest as in psycopg2. Every host of a
    list is judged, by its ``hostaddr`` where it has one, also where PGHOST and its like name it; those
    that are not accepted are left out. ``connect_timeout``, in seconds and for each address, has the time
    of the lookup taken off.

    Raises DeniedError, also for a unix socket, a service and an ``oauth_issuer``, and what psycopg2
    raises. The denial is netjail's own and no ``psycopg2.Error``: Python lets no class be that and an
    OSError.
    """
    given = {name: value for name, value in kwargs.items() if name not in ("async", "async_")}
    try:
        judged = pinned(Dialer(rules, resolver=resolver, mixed=mixed), parse_dsn(make_dsn(dsn, **given)))
    except DeniedError:
        raise
    except (OSError, ValueError) as error:
        raise psycopg2.OperationalError(f"connection failed: {error}") from error
    return psycopg2.connect(dsn, connection_factory, cursor_factory, **{**kwargs, **judged})
