"""OpenSearch under rules: connection classes whose sockets a dialer connects, for ``connection_class=``.

This module knows opensearch-py's connections, on urllib3 and on aiohttp, and nothing of addresses.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from opensearchpy import TransportError, Urllib3HttpConnection

from .. import _errors
from .._dialer import Dialer
from ._search import PoolsOf

if TYPE_CHECKING:
    from .._dialer import Connect, Mixed
    from .._resolver import AsyncResolver, Resolver
    from .._rules import RuleSource

__all__ = ["DeniedError", "async_connection_class", "connection_class"]


class DeniedError(_errors.DeniedError, TransportError):
    """The rules in force accept no address of the node; also an ``opensearchpy.TransportError``.

    It is no ``ConnectionError`` of theirs, as these are retried.
    """

    @property
    def status_code(self) -> str:
        """There was no answer."""
        return "N/A"

    @property
    def error(self) -> str:
        """The message."""
        return str(self)

    @property
    def info(self) -> BaseException | None:
        """The denial as the engine raised it."""
        return self.__cause__


def connection_class(
    rules: RuleSource | None = None,
    *,
    resolver: Resolver | None = None,
    connect: Connect | None = None,
    mixed: Mixed = "skip",
) -> type[Urllib3HttpConnection]:
    """A ``connection_class`` for ``OpenSearch`` that connects only to what the rules accept.

    ``rules`` and the rules of the context of each request must both accept an address; with neither,
    everything is denied. ``resolver``, ``connect`` and ``mixed`` are as in :class:`~netjail.Dialer`. Nodes
    that a cluster announces (sniffing) are judged like those that were given. Connections are pooled for
    each rules in force apart, so ``pool_maxsize`` counts for each.

    Requests raise this module's DeniedError, which is not retried, and what opensearch-py raises.
    """
    dialer = Dialer(rules, resolver=resolver, connect=connect, mixed=mixed)
    return type("Connection", (_Connection,), {"_dialer": dialer})


def async_connection_class(
    rules: RuleSource | None = None, *, resolver: AsyncResolver | None = None, mixed: Mixed = "skip"
) -> Any:
    """The same for ``AsyncOpenSearch``, over :class:`netjail.clients.aiohttp.Connector`. It needs aiohttp."""
    from opensearchpy import AIOHttpConnection  # noqa: PLC0415 - it is there where aiohttp is

    from .aiohttp import Connector  # noqa: PLC0415 - aiohttp is optional to opensearch-py

    class AsyncConnection(AIOHttpConnection):  # type: ignore[misc,unused-ignore]
        async def _create_aiohttp_session(self) -> None:
            await super()._create_aiohttp_session()
            session: Any = self.session
            plain = session._connector  # it has dialled nothing yet
            session._connector = Connector(rules, resolver=resolver, mixed=mixed, limit=plain.limit, ssl=plain._ssl)
            plain._close()

        async def perform_request(self, *args: Any, **kwargs: Any) -> Any:
            try:
                return await super().perform_request(*args, **kwargs)
            except TransportError as error:
                _tell(error)
                raise

    return AsyncConnection


class _Connection(Urllib3HttpConnection):
    _dialer: Dialer

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._pools = PoolsOf(partial(_plain_pool, args, kwargs), self._dialer)
        super().__init__(*args, **kwargs)

    @property
    def pool(self) -> Any:
        """Where the plain connection has its only one."""
        return self._pools.current()

    @pool.setter
    def pool(self, plain: Any) -> None:
        plain.close()  # it is never used

    def perform_request(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().perform_request(*args, **kwargs)
        except TransportError as error:
            _tell(error)
            raise

    def close(self) -> None:
        self._pools.close()


def _plain_pool(args: Any, kwargs: Any) -> Any:
    return Urllib3HttpConnection(*args, **kwargs).pool


def _tell(error: TransportError) -> None:
    """Raises the denial that stands behind ``error``, if one does."""
    behind: Any = error.args[2] if len(error.args) > 2 else None
    if isinstance(behind, _errors.DeniedError):
        raise DeniedError.of(behind) from behind
