"""clickhouse-connect's asynchronous client under rules: its sessions have netjail's connector for aiohttp.

This module knows clickhouse-connect's client and nothing of addresses. The synchronous client needs no module: it
takes netjail's PoolManager for urllib3.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from clickhouse_connect import driver
from clickhouse_connect.driver.asyncclient import AsyncClient

from .aiohttp import Connector

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._dialer import Mixed
    from .._resolver import AsyncResolver
    from .._rules import RuleSource

__all__ = ["get_async_client"]

_PARSED = ("host", "username", "password", "port", "database", "interface")


async def get_async_client(
    rules: RuleSource | None = None,
    *,
    resolver: AsyncResolver | None = None,
    mixed: Mixed = "skip",
    host: str | None = None,
    username: str | None = None,
    password: str = "",
    port: int | None = None,
    database: str | None = None,
    interface: str | None = None,
    secure: bool | str = False,
    dsn: str | None = None,
    **options: Any,
) -> AsyncClient:
    """A ``clickhouse_connect.get_async_client(...)`` that connects only to what the rules accept.

    ``rules`` and the rules of the context of each query must both accept an address; with neither,
    everything is denied. ``resolver`` and ``mixed`` are as in :class:`~netjail.clients.aiohttp.Connector`,
    the rest as in clickhouse-connect, but for ``generic_args``; of a ``dsn``'s query, options of the client
    are taken as they are written. Connections are kept for each rules in force apart, and so is
    ``connector_limit`` counted. A proxy of the environment's is not used.

    Raises ValueError for a proxy, also in a ``dsn``; TypeError for a version that is not known here. A
    denial is the cause of a ``clickhouse_connect.driver.exceptions.OperationalError``.
    """
    parse: Any = getattr(driver, "_parse_connection_params", None)
    if parse is None:
        raise TypeError("netjail does not know this version of clickhouse-connect")
    parsed = parse(host, username, password, port, database, interface, secure, dsn, options)
    target: dict[str, Any] = dict(zip(_PARSED, parsed, strict=True))
    options.setdefault("autogenerate_session_id", False)
    made = AsyncClient(**target, **options)
    backend: Any = getattr(made, "_backend", None)
    if not hasattr(backend, "proxy_url") or not hasattr(backend, "_new_session") or backend.session is not None:
        raise TypeError("netjail does not know this version of clickhouse-connect, or its connections are made already")
    if options.get("http_proxy") or options.get("https_proxy"):
        raise ValueError("a proxy would dial the server itself, outside the rules")
    backend.proxy_url = None  # it may be one of the environment's
    connector = partial(Connector, rules, resolver=resolver, mixed=mixed, **backend.connector_kwargs)
    backend._new_session = partial(_session, backend._new_session, connector)
    try:
        await made._initialize()
    except BaseException:
        await made.close()
        raise
    return made


def _session(plain: Callable[[], Any], connector: Callable[[], Any]) -> Any:
    """A session as the client makes it, with a connector of ours in place of its own, which has dialled nothing."""
    session = plain()
    unused, session._connector = session._connector, connector()
    unused._close()
    return session
