"""Elasticsearch under rules: node classes whose connections a dialer dials, for ``node_class=``.

This module knows elastic_transport's nodes, on urllib3 and on aiohttp, and nothing of addresses.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from elastic_transport import AiohttpHttpNode, TransportError, Urllib3HttpNode

from .. import _errors
from .._dialer import Dialer
from ._search import PoolsOf

if TYPE_CHECKING:
    from elastic_transport import NodeConfig

    from .._dialer import Connect, Mixed
    from .._resolver import AsyncResolver, Resolver
    from .._rules import RuleSource

__all__ = ["DeniedError", "async_node_class", "node_class"]


class DeniedError(_errors.DeniedError, TransportError):
    """The rules in force accept no address of the node; also an ``elastic_transport.TransportError``.

    It is no ``ConnectionError`` of theirs, as these are retried.
    """

    errors: tuple[Exception, ...] = ()

    @property
    def message(self) -> str:
        """What every error of elastic_transport has."""
        return str(self)


def node_class(
    rules: RuleSource | None = None,
    *,
    resolver: Resolver | None = None,
    connect: Connect | None = None,
    mixed: Mixed = "skip",
) -> type[Urllib3HttpNode]:
    """A ``node_class`` for ``Elasticsearch`` that connects only to what the rules accept.

    ``rules`` and the rules of the context of each request must both accept an address; with neither,
    everything is denied. ``resolver``, ``connect`` and ``mixed`` are as in :class:`~netjail.Dialer`. Nodes
    that a cluster announces (sniffing) are judged like those that were given. Connections are pooled for
    each rules in force apart, so ``connections_per_node`` counts for each.

    Requests raise this module's DeniedError, which is not retried, and what elasticsearch raises.
    """
    dialer = Dialer(rules, resolver=resolver, connect=connect, mixed=mixed)
    return type("Node", (_Node,), {"_dialer": dialer})


def async_node_class(
    rules: RuleSource | None = None, *, resolver: AsyncResolver | None = None, mixed: Mixed = "skip"
) -> type[AiohttpHttpNode]:
    """The same for ``AsyncElasticsearch``, over :class:`netjail.clients.aiohttp.Connector`. It needs aiohttp."""
    from .aiohttp import Connector  # noqa: PLC0415 - aiohttp is optional to elasticsearch

    connector = partial(Connector, rules, resolver=resolver, mixed=mixed)
    return type("AsyncNode", (_AsyncNode,), {"_connector": staticmethod(connector)})


class _Node(Urllib3HttpNode):
    _dialer: Dialer

    def __init__(self, config: NodeConfig) -> None:
        self._pools = PoolsOf(partial(_plain_pool, config), self._dialer)
        super().__init__(config)

    @property
    def pool(self) -> Any:
        """Where the plain node has its only one."""
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


def _plain_pool(config: NodeConfig) -> Any:
    return Urllib3HttpNode(config).pool


class _AsyncNode(AiohttpHttpNode):
    _connector: Any

    def _create_aiohttp_session(self) -> None:
        super()._create_aiohttp_session()  # type: ignore[no-untyped-call,unused-ignore]
        session: Any = self.session
        plain = session._connector  # it has dialled nothing yet
        session._connector = self._connector(limit_per_host=self._connections_per_node, ssl=plain._ssl)
        plain._close()

    async def perform_request(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        try:
            return await super().perform_request(*args, **kwargs)
        except TransportError as error:
            _tell(error)
            raise


def _tell(error: TransportError) -> None:
    """Raises the denial that stands behind ``error``, if one does."""
    for each in error.errors:
        if isinstance(each, _errors.DeniedError):
            raise DeniedError.of(each) from each
