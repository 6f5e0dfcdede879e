"""SQLAlchemy under rules: engines whose connections a jailed driver makes, and whose pool keeps rule sets apart.

This module knows SQLAlchemy's engines and events. Of drivers it knows the names of those that dial through
asyncio's loop; how any other dials under rules is handed to it.
"""

from __future__ import annotations

import asyncio
import os
from functools import partial
from typing import TYPE_CHECKING, Any

import sqlalchemy
from sqlalchemy import event, exc

from .. import _errors
from .._context import in_force

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.ext.asyncio import AsyncEngine

    from .._context import RulesInForce
    from .._rules import RuleSource

__all__ = ["DeniedError", "create_async_engine", "create_engine"]

_DIAL_ELSEWHERE = ("creator", "async_creator", "async_creator_fn", "pool")

_RULING = ("rules", "resolver", "connect", "mixed")
"""What ``connect`` may take from its caller, and never from a URL: that may come from whoever is to be jailed."""

_DIAL_THROUGH_THE_LOOP = ("asyncpg", "aiomysql", "asyncmy")
_MAY_NAME_A_PATH = ("dsn", "service", "servicefile", "read_default_file", "read_default_group")


class DeniedError(_errors.DeniedError, exc.SQLAlchemyError):
    """The rules in force accept no address of the server; also a ``sqlalchemy.exc.SQLAlchemyError``."""


def create_engine(
    url: str | sqlalchemy.URL,
    rules: RuleSource | None = None,
    *,
    connect: Callable[..., Any],
    **options: Any,
) -> sqlalchemy.Engine:
    """A ``sqlalchemy.create_engine(url, ...)`` that connects only to what the rules accept.

    ``connect`` makes the driver's connections under rules, such as ``netjail.clients.psycopg.connect``: it
    is called with what the driver's own would be, and ``rules``. ``rules`` and the context's rules where a
    connection is asked of the engine must both accept an address; with neither, everything is denied.
    ``options`` are SQLAlchemy's. A connection from the pool that was made under other rules is replaced.

    Connecting raises this module's DeniedError and what SQLAlchemy raises. Raises ValueError for
    ``creator`` and ``pool``, which would dial in ways of their own, and for a URL whose query names
    ``rules``, ``resolver``, ``connect`` or ``mixed``.
    """
    _refuse(options)
    engine = sqlalchemy.create_engine(url, **options)
    _refuse_ruling(engine.url)
    if engine.dialect.is_async:
        raise ValueError(f"{engine.dialect.driver} is an async driver: use create_async_engine")
    _under(engine, rules, connect)
    return engine


def create_async_engine(
    url: str | sqlalchemy.URL,
    rules: RuleSource | None = None,
    *,
    connect: Callable[..., Any] | None = None,
    **options: Any,
) -> AsyncEngine:
    """The same for ``create_async_engine``, with ``netjail.clients.psycopg.AsyncConnection.connect`` and its like.

    asyncpg, aiomysql and asyncmy dial through the loop and need no ``connect``: without it the rules are the
    loop's and the context's. The loop must be one of :mod:`netjail.loop`, else everything is denied, and
    ``rules`` is a ValueError, as is any other driver without ``connect``. Unix sockets, which such a loop
    lets pass, are denied here, and option files and services, which may name one, are a ValueError.
    """
    _refuse(options)
    if connect is None and rules is not None:
        raise ValueError("rules= is for connect=: a driver that dials through the loop goes by the loop's rules")
    from sqlalchemy.ext import asyncio as plain  # noqa: PLC0415 - it needs greenlet, which only the async engines do

    engine = plain.create_async_engine(url, **options)
    _refuse_ruling(engine.url)
    if connect is None and engine.dialect.driver not in _DIAL_THROUGH_THE_LOOP:
        raise ValueError(f"{engine.dialect.driver} is not known to dial through the loop: give connect=")
    _under(engine.sync_engine, rules, connect)
    return engine


def _refuse_ruling(url: sqlalchemy.URL) -> None:
    for name in _RULING:
        if name in url.query:
            raise ValueError(f"{name}= in the URL would take the place of what connect= was given")


def _refuse_paths(driver: str, given: dict[str, Any]) -> None:
    """DeniedError for a unix socket, which a loop lets pass, and ValueError for what may name one out of sight."""
    for name in _MAY_NAME_A_PATH:
        if given.get(name):
            raise ValueError(f"{name}= may name a unix socket, which is no address that rules could accept")
    hosts: Any = given.get("host") or (os.environ.get("PGHOST", "") if driver == "asyncpg" else "localhost")
    each: list[Any] = [*hosts] if isinstance(hosts, (list, tuple)) else str(hosts).split(",")
    for host in (given.get("unix_socket"), *each):
        if host is not None and (not host or str(host).startswith(("/", "@"))):
            raise DeniedError(str(host), 0, reason="a unix socket is no address that rules could accept")


def _refuse(options: dict[str, Any]) -> None:
    for name in _DIAL_ELSEWHERE:
        if options.get(name) is not None:
            raise ValueError(f"{name}= would connect in a way of its own, outside the rules: give connect= instead")


def _under(engine: sqlalchemy.Engine, rules: RuleSource | None, connect: Callable[..., Any] | None) -> None:
    """Has the engine's dialect connect by ``connect``, and its pool hand out only what the rules in force made.

    The dialect's method is what every listener of ``do_connect`` comes before, so that they still work.
    """
    dialect: Any = engine.dialect
    plain = dialect.connect

    def under_rules(*args: Any, **kwargs: Any) -> Any:
        _refuse(kwargs)
        try:
            if connect is None:
                _refuse_paths(dialect.driver, kwargs)
                return plain(*args, **kwargs)
            jailed = partial(connect, rules=rules)
            return plain(*args, **kwargs, async_creator_fn=jailed) if dialect.is_async else jailed(*args, **kwargs)
        except Exception as error:
            if (denied := _errors.find_denied(error)) is not None:
                raise DeniedError.of(denied) from error
            raise

    def rules_in_force() -> RulesInForce:
        return _of_the_loop() if connect is None else in_force(rules)

    # Both are called where somebody asks for a connection, in whose context the rules are read.
    def asked(_dialect: Any, record: Any, *_: Any) -> None:
        record.info["netjail"] = rules_in_force()

    def checked_out(_connection: Any, record: Any, _proxy: Any) -> None:
        if record.info.get("netjail") != rules_in_force():
            raise exc.DisconnectionError("it was made under other rules than those in force")

    dialect.connect = under_rules
    event.listen(engine, "do_connect", asked)
    event.listen(engine, "checkout", checked_out)


def _of_the_loop() -> RulesInForce:
    dialer: Any = getattr(asyncio.get_running_loop(), "_netjail", None)
    if dialer is None:
        raise DeniedError("*", 0, reason="the driver dials through the loop, which is none of netjail.loop's")
    return dialer.rules_in_force()  # type: ignore[no-any-return]
