"""kafka-python under rules: what its producer, its consumer and its admin client take as ``kafka_client=``.

This module knows how kafka-python looks up and opens what it dials, and no policy: the dialer judges.
"""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

from kafka.cluster import ClusterMetadata
from kafka.errors import KafkaConnectionError, KafkaError
from kafka.net import KafkaNetClient, KafkaNetSocket, NetworkSelector

from .. import _errors
from .._dialer import Dialer

if TYPE_CHECKING:
    from .._dialer import Mixed
    from .._resolver import Resolver
    from .._rules import RuleSource

__all__ = ["Client", "DeniedError"]


class DeniedError(_errors.DeniedError, KafkaError):  # type: ignore[misc]  # kafka-python has no types
    """The rules in force accept no address of a broker; also a ``kafka.errors.KafkaError``, and none to be retried."""

    def __hash__(self) -> int:
        """A KafkaError has none, as it is compared by what is in it."""
        return hash(self.args)


class Client:
    """What kafka-python takes as ``kafka_client=``: ``KafkaProducer(kafka_client=Client(PUBLIC), ...)``.

    ``rules`` and the rules of the context in which a producer, a consumer or an admin client is made must
    both accept an address; with neither, everything is denied. These rules are that object's for good: to
    send, to poll or to ask under rules of a context that are not among them is denied, and a context
    without any goes by the object's. The brokers that the cluster announces are judged like those of
    ``bootstrap_servers``. ``resolver`` and ``mixed`` are as in :class:`~netjail.Dialer`.

    Making one raises :class:`DeniedError` at once when every bootstrap server is denied, and ValueError
    for ``proxy_url=`` and ``socks5_proxy=``. Using one raises :class:`DeniedError` where it has to talk
    to a broker that is denied, and what kafka-python raises.
    """

    def __init__(
        self, rules: RuleSource | None = None, *, resolver: Resolver | None = None, mixed: Mixed = "skip"
    ) -> None:
        self._dialer = Dialer(rules, resolver=resolver, mixed=mixed)

    def __call__(self, **configs: Any) -> Any:
        """The ``KafkaNetClient`` of one producer, consumer or admin client."""
        if configs.pop("socks5_proxy", None) is not None or configs.get("proxy_url") is not None:
            raise ValueError("netjail has no proxying yet: a proxy would dial the brokers itself, outside the rules")
        way = _Way("netjail:")
        way.dialer = self._dialer.pinned(self._dialer.rules_in_force())
        configs["proxy_url"] = way
        client: Any = KafkaNetClient(net=_Selector(self._dialer, way.dialer, **configs), **configs)
        client.cluster.__class__, client.cluster.net = _Cluster, client._net
        try:
            _check(client.cluster.bootstrap_brokers(), way.dialer)
        except BaseException:
            client.close()
            raise
        return client


def _check(brokers: list[Any], dialer: Dialer) -> None:
    """DeniedError if all ``brokers`` are denied: kafka-python would go on trying one after the other."""
    denied: _errors.DeniedError | None = None
    for broker in brokers:
        try:
            dialer.resolve((broker.host, broker.port))
        except _errors.DeniedError as error:
            denied = denied or error
        except OSError:
            return  # it has no address now, and may have one when it is dialled
        else:
            return
    if denied is not None:
        raise DeniedError.of(denied)


class _Selector(NetworkSelector):  # type: ignore[misc]  # as above
    """What runs in kafka-python's thread whatever others ask for, and is asked in the context of these."""

    def __init__(self, asked: Dialer, made: Dialer, **configs: Any) -> None:
        super().__init__(**configs)
        self._asked, self._made = asked, made

    def run(self, coro: Any, *args: Any) -> Any:
        if getattr(coro, "__name__", "") not in _CLOSING:
            self.belongs_here()
        return super().run(coro, *args)

    def belongs_here(self) -> None:
        rules, made_under = self._asked.rules_in_force(), self._made.rules_in_force()
        if rules != made_under and not set(rules) <= set(made_under):
            reason = "it was made under other rules than are in force here: make one under these"
            raise DeniedError("*", 0, reason=reason)


_CLOSING = ("_on_close_prepare_async", "maybe_leave_group_async")
"""How a consumer leaves its group, in whatever context it is closed."""


class _Cluster(ClusterMetadata):  # type: ignore[misc]  # as above
    """What a producer asks whenever it is to send, and a consumer before it hands out what came already."""

    net: _Selector

    def partitions_for_topic(self, topic: str) -> Any:
        self.net.belongs_here()
        return super().partitions_for_topic(topic)

    def leader_epoch_for_partition(self, partition: Any) -> Any:
        self.net.belongs_here()
        return super().leader_epoch_for_partition(partition)


class _Way(str):
    """A ``proxy_url=``, by whose scheme kafka-python finds the class that dials. It brings the dialer along."""

    __slots__ = ("dialer",)
    dialer: Dialer


class _Socket(KafkaNetSocket):  # type: ignore[misc]  # as above
    """kafka-python's own way to open sockets, for the addresses that were accepted."""

    SCHEMES = ("netjail",)

    def __init__(self, proxy_url: _Way) -> None:  # pyright: ignore[reportInconsistentConstructor]
        self._dialer = proxy_url.dialer

    def dns_lookup(self, host: str, port: int, raise_error: bool = False) -> list[Any]:  # noqa: ARG002 - the original's
        try:
            accepted = self._dialer.resolve((host, port))
        except _errors.DeniedError as denied:
            raise DeniedError.of(denied) from denied
        except OSError as error:
            raise KafkaConnectionError(f"DNS lookup failed for {host}:{port}, {error!r}") from error
        stream = socket.SOCK_STREAM, socket.IPPROTO_TCP, ""
        return [(socket.AF_INET6 if ":" in address[0] else socket.AF_INET, *stream, address) for address in accepted]
