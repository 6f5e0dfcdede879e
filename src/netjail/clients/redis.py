"""redis-py under rules, sync and asyncio: connections that a Dialer dials, in pools that never mix rules.

This module knows redis-py's connections, pools and clients and how the rules reach them, and no policy.
"""

# redis-py is typed in parts, and its connections and pools are not among these.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingParameterType=false, reportIncompatibleMethodOverride=false, reportUnknownParameterType=false

from __future__ import annotations

import asyncio
import inspect
import socket
from contextvars import ContextVar
from functools import cache, partial
from queue import LifoQueue
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

import redis
import redis.asyncio
import redis.asyncio.connection
import redis.asyncio.sentinel
import redis.cluster
import redis.connection
import redis.sentinel
from redis import exceptions

from .. import _errors
from .._dialer import AsyncDialer, Dialer

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextvars import Token
    from types import TracebackType

    from .._context import RulesInForce
    from .._dialer import AsyncConnect, Connect, Mixed
    from .._resolver import AsyncResolver, Resolver
    from .._rules import RuleSource

__all__ = [
    "AsyncBlockingConnectionPool",
    "AsyncConnectionPool",
    "AsyncRedis",
    "AsyncRedisCluster",
    "AsyncSentinel",
    "BlockingConnectionPool",
    "ConnectionPool",
    "DeniedError",
    "Redis",
    "RedisCluster",
    "Sentinel",
]

_MOST_IDLE = 256
"""How many connections may idle in a pool before one that was made under other rules is dialled anew."""

_REFUSED = {
    "unix_socket_path": "a path is no address that rules could accept",
    "path": "a path is no address that rules could accept",
    "single_connection_client": "its one connection would serve whatever rules come after those it was made under",
    "cache": "what was cached under some rules would be served under others",
    "cache_config": "what was cached under some rules would be served under others",
    "ssl_validate_ocsp": "redis-py would ask a responder by a connection of its own, outside the rules",
    "ssl_validate_ocsp_stapled": "redis-py would dial the server a second time, outside the rules",
}


class DeniedError(_errors.DeniedError, exceptions.RedisError):
    """The rules in force accept no address of the server; also a ``redis.RedisError``.

    It is no ``redis.ConnectionError``, as redis-py retries these, with seconds of waiting in between.
    """

    error_type: Any = getattr(getattr(exceptions, "ExceptionType", None), "NETWORK", None)
    status_code: str | None = None
    __repr__: Any = OSError.__repr__


class _Carrier(BaseException):
    """Takes a denial through redis-py's connecting, which makes of every Exception one that it retries."""

    def __init__(self, denied: _errors.DeniedError) -> None:
        super().__init__(str(denied))
        self.denied = denied


_asked: ContextVar[RulesInForce | None] = ContextVar("the rules under which a pool is asked for a connection")
_around: ContextVar[RulesInForce] = ContextVar("the rules of a connection that is being made", default=())


def _in_force(dialer: Dialer | AsyncDialer) -> RulesInForce:
    """The rules of a connection that is asked for now.

    A sentinel that is asked while a connection to its master is made passes that connection's rules too,
    which are more than the context's where that connection is made again in another thread.
    """
    return tuple(dict.fromkeys((*dialer.rules_in_force(), *_around.get())))


class _Making:
    """While a connection is made: its rules are around it, and a denial comes out of it as ours."""

    def __init__(self, rules: RulesInForce) -> None:
        self._rules = rules

    def __enter__(self) -> None:
        self._tokens: tuple[Token[Any], Token[Any]] = _asked.set(None), _around.set(self._rules)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        asked, around = self._tokens
        _asked.reset(asked)
        _around.reset(around)
        if isinstance(error, _Carrier):
            raise DeniedError.of(error.denied) from error.denied


class _Ruled:
    """What stands in front of every connection class of ours: it knows the rules that it was made under."""

    rules: RulesInForce = ()

    def __init__(self, *args: Any, dialer: Any, **options: Any) -> None:
        self.dialer = dialer
        super().__init__(*args, **options)

    def _other_rules(self) -> bool:
        """Whether whoever asks for this connection has other rules than it was made under. They become its own."""
        rules = _asked.get(None)
        if rules is None or rules == self.rules:  # None: it is made again, for whoever has it
            return False
        self.rules = rules
        return True


class _Connection(_Ruled):
    def connect(self) -> Any:
        connection: Any = super()
        if self._other_rules():
            connection.disconnect()
        with _Making(self.rules):
            return connection.connect()

    def connect_check_health(self, *args: Any, **options: Any) -> Any:
        connection: Any = super()
        with _Making(self.rules):
            return connection.connect_check_health(*args, **options)


class _AsyncConnection(_Ruled):
    async def connect(self) -> Any:
        connection: Any = super()
        if self._other_rules():
            await connection.disconnect()
        with _Making(self.rules):
            return await connection.connect()

    async def connect_check_health(self, *args: Any, **options: Any) -> Any:
        connection: Any = super()
        with _Making(self.rules):
            return await connection.connect_check_health(*args, **options)


class _AsyncClusterConnection(_AsyncConnection):
    """The same where there is no pool that could be asked: whatever is sent asks."""

    def _other_rules(self) -> bool:
        rules = _in_force(self.dialer)
        if rules == self.rules:
            return False
        self.rules = rules
        return True

    async def send_packed_command(self, *args: Any, **options: Any) -> Any:
        connection: Any = super()
        if self._other_rules():
            await connection.disconnect()
        return await connection.send_packed_command(*args, **options)


class _Dialled(redis.connection.Connection):
    """What stands in the place of redis-py's own connecting, under TLS and whatever else is built on that."""

    rules: RulesInForce
    dialer: Dialer

    def _connect(self) -> socket.socket:
        options: list[tuple[int, int, int | bytes]] = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]
        if self.socket_keepalive:
            options.append((socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1))
            keepalive: Any = self.socket_keepalive_options
            options += [(socket.IPPROTO_TCP, name, value) for name, value in keepalive.items()]
        try:
            sock = self.dialer.pinned(self.rules).connect(
                (self.host, self.port), self.socket_connect_timeout, family=self.socket_type, socket_options=options
            )
        except _errors.DeniedError as denied:
            raise _Carrier(denied) from None
        sock.settimeout(self.socket_timeout)
        return sock


class _AsyncDialled(redis.asyncio.connection.Connection):
    """The same. redis-py goes on with the socket that was dialled."""

    rules: RulesInForce
    dialer: AsyncDialer
    _dialled: socket.socket | None = None

    async def _connect(self) -> None:
        async with asyncio.timeout(self.socket_connect_timeout):
            try:
                self._dialled = await self.dialer.pinned(self.rules).connect(
                    (self.host, self.port), family=self.socket_type
                )
                connection: Any = super()
                await connection._connect()
            except _errors.DeniedError as denied:
                raise _Carrier(denied) from None
            finally:
                if self._dialled is not None:
                    self._dialled.close()
                    self._dialled = None

    def _connection_arguments(self) -> dict[str, Any]:
        sock, self._dialled = self._dialled, None
        tls = isinstance(self, redis.asyncio.connection.SSLConnection)
        return {"sock": sock, "server_hostname": self.host if tls else None}


@cache
def _connection_class(kind: Any, front: Any, bottom: Any) -> Any:
    """``kind``, a connection class of redis-py's or one made of these, with ``front`` before and ``bottom`` under it.

    ValueError for unix sockets, and TypeError for what dials by itself.
    """
    if issubclass(kind, _Ruled):
        return kind
    plain = bottom.__mro__[1]
    if not issubclass(kind, plain):
        if any(each.__name__ == "UnixDomainSocketConnection" for each in kind.__mro__):
            raise ValueError(f"a unix socket: {_REFUSED['path']}")
        raise TypeError(f"{kind.__name__} is not made of {plain.__module__}.{plain.__name__}")
    for each in kind.__mro__:
        if not each.__module__.startswith("redis.") and vars(each).keys() & {"_connect", "_connection_arguments"}:
            raise TypeError(f"{each.__name__} dials in a way of its own, which reaches what nobody has judged")
    return type(kind.__name__, (front, bottom) if kind is plain else (front, kind, bottom), {})


def _refuse(options: dict[str, Any]) -> None:
    """ValueError for keyword arguments that lead outside the rules."""
    for name, why in _REFUSED.items():
        if options.get(name):
            raise ValueError(f"{name}= is not supported under rules: {why}")


def _bring_up(idle: list[Any], rules: RulesInForce) -> bool:
    """Moves a connection that ``rules`` may use to the end of ``idle``, whence it is taken; whether there is one."""
    for index in range(len(idle) - 1, -1, -1):
        connection = idle[index]
        if connection is not None and (connection.rules == rules or not _is_open(connection)):
            idle.append(idle.pop(index))
            return True
    return False


def _is_open(connection: Any) -> bool:
    return getattr(connection, "_sock", None) is not None or getattr(connection, "_reader", None) is not None


class _Pool:
    """What stands in front of every pool class of ours.

    redis-py's own pool takes whichever connection idled last. It is shown one that was made under the
    rules in force, or a new one, or the one that idled longest, which the connection itself then makes anew.
    """

    _dialer: Any
    _front: Any = _Connection
    _bottom: Any = _Dialled

    def _put_under(self, dialer: Any) -> None:
        pool: Any = self
        if getattr(pool, "cache", None) is not None:
            _refuse({"cache": True})
        _refuse(pool.connection_kwargs)
        pool.connection_class = _connection_class(pool.connection_class, self._front, self._bottom)
        pool.connection_kwargs["dialer"] = self._dialer = dialer

    def _show(self, rules: RulesInForce) -> None:
        pool: Any = self
        pool._checkpid()
        if isinstance(pool, redis.BlockingConnectionPool):
            if isinstance(pool.pool, LifoQueue):
                with pool.pool.mutex:
                    places: list[Any] = pool.pool.queue
                    if not _bring_up(places, rules) and places:
                        places.append(places.pop(places.index(None) if None in places else 0))
            return
        with pool._lock:
            idle: list[Any] = pool._available_connections
            if not _bring_up(idle, rules) and idle:
                is_room = pool._created_connections < pool.max_connections and len(idle) < _MOST_IDLE
                idle.append(pool.make_connection() if is_room else idle.pop(0))

    def get_connection(self, *args: Any, **options: Any) -> Any:
        pool: Any = super()
        rules = _in_force(self._dialer)
        self._show(rules)
        token = _asked.set(rules)
        try:
            return pool.get_connection(*args, **options)
        finally:
            _asked.reset(token)


class _AsyncPool(_Pool):
    _front = _AsyncConnection
    _bottom = _AsyncDialled

    def _show(self, rules: RulesInForce) -> None:
        pool: Any = self
        idle: list[Any] = pool._available_connections
        if not _bring_up(idle, rules) and idle:
            is_room = len(idle) + len(pool._in_use_connections) < pool.max_connections and len(idle) < _MOST_IDLE
            idle.append(pool.make_connection() if is_room else idle.pop(0))

    async def get_connection(self, *args: Any, **options: Any) -> Any:
        pool: Any = super(_Pool, self)
        rules = _in_force(self._dialer)
        self._show(rules)
        token = _asked.set(rules)
        try:
            return await pool.get_connection(*args, **options)
        finally:
            _asked.reset(token)


@cache
def _pool_class(kind: Any) -> Any:
    if issubclass(kind, _Pool):
        return kind
    front = _Pool if issubclass(kind, redis.ConnectionPool) else _AsyncPool
    return type(kind.__name__, (front, kind), {})


def _under(dialer: Any, pool: Any) -> Any:
    """``pool``, which redis-py has made and nobody has used, under the rules of ``dialer`` from now on."""
    kind: Any = type(pool)
    pool.__class__ = _pool_class(kind)
    pool._put_under(dialer)
    return pool


def _named(function: Any, plain: tuple[Any, ...], options: dict[str, Any]) -> dict[str, Any]:
    """Every argument by its name, so that none is overlooked for its place. TypeError for one that comes twice."""
    if not plain:
        return options
    bound = inspect.signature(function).bind_partial(None, *plain).arguments
    return dict(**dict(list(bound.items())[1:]), **options)


class _Public:
    """What the four pools are made of."""

    _dialer_class: type[Any]

    def __init__(
        self,
        rules: RuleSource | None = None,
        *plain: Any,
        resolver: Any = None,
        connect: Any = None,
        mixed: Mixed = "skip",
        **options: Any,
    ) -> None:
        pool: Any = super()
        pool.__init__(**_named(pool.__init__.__func__, plain, options))
        under: Any = self
        under._put_under(self._dialer_class(rules, resolver=resolver, connect=connect, mixed=mixed))

    @classmethod
    def from_url(cls, url: str, rules: RuleSource | None = None, **options: Any) -> Self:
        """A pool for ``url``, with the other arguments of the class.

        What a URL says in its query wins in redis-py, but it does not touch the rules.
        """
        made: Any = super()
        ours = {name: options.pop(name) for name in ("resolver", "connect", "mixed") if name in options}
        pool = made.from_url(url, **options)
        pool._put_under(cls._dialer_class(rules, **ours))
        return pool  # type: ignore[no-any-return]


class ConnectionPool(_Public, _Pool, redis.ConnectionPool):
    """``redis.ConnectionPool`` under rules: ``redis.Redis(connection_pool=ConnectionPool(PUBLIC, host=...))``.

    ``rules`` and the context's rules when a connection is asked for must both accept an address; with
    neither, everything is denied. ``resolver``, ``connect`` and ``mixed`` are as in :class:`~netjail.Dialer`;
    the other arguments are redis-py's own. No connection that was made under some rules is given out
    under others. ``max_connections`` counts all of them.

    ValueError for unix sockets, client-side caching and OCSP, TypeError for a ``connection_class`` that
    dials in a way of its own.
    """

    _dialer_class = Dialer


class BlockingConnectionPool(_Public, _Pool, redis.BlockingConnectionPool):
    """``redis.BlockingConnectionPool`` under rules; the rest is as in :class:`ConnectionPool`."""

    _dialer_class = Dialer


class AsyncConnectionPool(_Public, _AsyncPool, redis.asyncio.ConnectionPool):
    """``redis.asyncio.ConnectionPool`` under rules; the rest is as in :class:`ConnectionPool`.

    ``resolver`` and ``connect`` are as in :class:`~netjail.AsyncDialer`.
    """

    _dialer_class = AsyncDialer


class AsyncBlockingConnectionPool(_Public, _AsyncPool, redis.asyncio.BlockingConnectionPool):
    """``redis.asyncio.BlockingConnectionPool`` under rules; the rest is as in :class:`AsyncConnectionPool`."""

    _dialer_class = AsyncDialer


class _Client:
    """What the two clients are made of."""

    _dialer_class: type[Any]
    _pool_class: type[Any]

    def __init__(
        self,
        rules: RuleSource | None = None,
        *plain: Any,
        resolver: Any = None,
        connect: Any = None,
        mixed: Mixed = "skip",
        **options: Any,
    ) -> None:
        client: Any = super()
        options = _named(client.__init__.__func__, plain, options)
        _refuse(options)
        connection_pool = options.pop("connection_pool", None)
        if connection_pool is None:
            client.__init__(**options)
            pool: Any = self.connection_pool  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
            _under(self._dialer_class(rules, resolver=resolver, connect=connect, mixed=mixed), pool)
        elif not isinstance(connection_pool, _Pool):
            raise TypeError(f"connection_pool= is a pool of netjail's, not {connection_pool!r}")
        elif not (rules is resolver is connect is None) or mixed != "skip":
            raise TypeError("a connection_pool has its rules already: give them to the pool")
        else:
            client.__init__(connection_pool=connection_pool, **options)

    @classmethod
    def from_url(cls, url: str, rules: RuleSource | None = None, **options: Any) -> Self:
        """A client for ``url``, with the other arguments of the class. The client closes its pool."""
        _refuse(options)
        options.pop("single_connection_client", None)
        client: Any = cls(connection_pool=cls._pool_class.from_url(url, rules, **options))
        client.auto_close_connection_pool = True
        return client  # type: ignore[no-any-return]


class Redis(_Client, redis.Redis):
    """``redis.Redis`` under rules: ``Redis(PUBLIC, host="cache.example.com", ssl=True)``.

    ``Redis.from_url(url, rules)`` too. ``rules`` and the context's rules when a command asks for a
    connection must both accept an address; with neither, everything is denied. ``resolver``, ``connect``
    and ``mixed`` are as in :class:`~netjail.Dialer`; the other arguments are redis-py's own, and
    ``connection_pool`` is one of this module's pools.

    Pipelines that WATCH, ``pubsub()`` and ``monitor()`` keep the connection that they were given, and
    make it again under the rules that they had when they asked for it.

    Commands raise :class:`DeniedError` and what redis-py raises. ValueError for what would lead outside
    the rules: unix sockets, ``single_connection_client``, client-side caching, OCSP.
    """

    _dialer_class = Dialer
    _pool_class = ConnectionPool


class AsyncRedis(_Client, redis.asyncio.Redis):  # type: ignore[misc]  # redis-py's own bases disagree, too
    """``redis.asyncio.Redis`` under rules; the rest is as in :class:`Redis`."""

    _dialer_class = AsyncDialer
    _pool_class = AsyncConnectionPool


class _Sentinels:
    """What the two Sentinel classes are made of."""

    _dialer_class: type[Any]
    _client: type[Any]
    _plain_pool: type[Any]

    def __init__(
        self,
        rules: RuleSource | None = None,
        sentinels: Iterable[tuple[str, int]] = (),
        min_other_sentinels: int = 0,
        sentinel_kwargs: dict[str, Any] | None = None,
        *,
        resolver: Any = None,
        connect: Any = None,
        mixed: Mixed = "skip",
        **options: Any,
    ) -> None:
        sentinel: Any = super()
        _refuse(options)
        _refuse(sentinel_kwargs or {})
        sentinel.__init__(sentinels, min_other_sentinels, sentinel_kwargs, **options)
        self._dialer = self._dialer_class(rules, resolver=resolver, connect=connect, mixed=mixed)
        clients: Any = self.sentinels  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
        for client in clients:
            _under(self._dialer, client.connection_pool)

    def _pool(self, kind: Any, *args: Any, **options: Any) -> Any:
        _refuse(options)
        return _under(self._dialer, kind(*args, **options))

    def master_for(
        self, service_name: str, redis_class: Any = None, connection_pool_class: Any = None, **options: Any
    ) -> Any:
        """A client for the master of ``service_name``, whose address is asked for whenever it connects."""
        sentinel: Any = super()
        pool = partial(self._pool, connection_pool_class or self._plain_pool)
        return sentinel.master_for(service_name, redis_class or self._client, pool, **options)

    def slave_for(
        self, service_name: str, redis_class: Any = None, connection_pool_class: Any = None, **options: Any
    ) -> Any:
        """A client for the replicas of ``service_name``, in turn. One that is denied is an error."""
        sentinel: Any = super()
        pool = partial(self._pool, connection_pool_class or self._plain_pool)
        return sentinel.slave_for(service_name, redis_class or self._client, pool, **options)

    replica_for = slave_for


class Sentinel(_Sentinels, redis.sentinel.Sentinel):
    """``redis.sentinel.Sentinel`` under rules: ``Sentinel(PUBLIC, [("sentinel.example.com", 26379)])``.

    The sentinels are judged, and so are the masters and the replicas that they announce: the clients
    that ``master_for`` and ``slave_for`` give raise :class:`DeniedError` for those that are not accepted.
    The rest is as in :class:`Redis`.
    """

    _dialer_class = Dialer
    _client = Redis
    _plain_pool = redis.sentinel.SentinelConnectionPool


class AsyncSentinel(_Sentinels, redis.asyncio.sentinel.Sentinel):
    """``redis.asyncio.sentinel.Sentinel`` under rules; the rest is as in :class:`Sentinel`."""

    _dialer_class = AsyncDialer
    _client = AsyncRedis
    _plain_pool = redis.asyncio.sentinel.SentinelConnectionPool


def _cluster_error(error: exceptions.RedisClusterException) -> Exception:
    """``error``, or the denial because of which no node could be asked."""
    denied = _errors.find_denied(error)
    return error if denied is None else DeniedError.of(denied)


class RedisCluster(redis.RedisCluster):
    """``redis.RedisCluster`` under rules: ``RedisCluster(PUBLIC, host="cluster.example.com")``.

    Every node is judged, those that other nodes announce (by slots, MOVED and ASK) like the first. The
    cluster is asked for its nodes when the client is made, under the rules in force there; each command
    goes by its own. The rest is as in :class:`Redis`.
    """

    def __init__(
        self,
        rules: RuleSource | None = None,
        host: str | None = None,
        port: int = 6379,
        startup_nodes: list[Any] | None = None,
        *,
        resolver: Resolver | None = None,
        connect: Connect | None = None,
        mixed: Mixed = "skip",
        url: str | None = None,
        **options: Any,
    ) -> None:
        _refuse(options)
        if options.pop("connection_pool_class", None) is not None:
            raise ValueError("connection_pool_class= is not supported under rules")
        dialer = Dialer(rules, resolver=resolver, connect=connect, mixed=mixed)
        nodes = list(startup_nodes or ())
        if url is None and (host is not None or nodes):
            # With a URL, and not without, redis-py makes the pool of a node from the class that it is given.
            node: Any = redis.cluster.ClusterNode
            first = node(host, port) if host is not None else nodes[0]
            named = f"[{first.host}]" if ":" in first.host else quote(first.host)
            url = f"redis://{named}:{first.port}"
        more: dict[str, Any] = {} if url is None else {"url": url}
        try:
            super().__init__(startup_nodes=nodes, connection_pool_class=partial(_node_pool, dialer), **more, **options)
        except exceptions.RedisClusterException as error:
            raise _cluster_error(error) from error

    @classmethod
    def from_url(cls, url: str, rules: RuleSource | None = None, **options: Any) -> Self:
        """A cluster for ``url``, with the other arguments of the class."""
        return super().from_url(url, rules=rules, **options)  # type: ignore[return-value]

    def close(self) -> None:
        """Closes every connection to every node."""
        cluster: Any = super()
        cluster.close()
        if hasattr(self, "nodes_manager"):  # it is closed, too, where making it failed
            cluster.disconnect_connection_pools()  # which redis-py leaves to whoever made them


def _node_pool(dialer: Dialer, connection_class: Any = None, **options: Any) -> Any:
    """The pool of one node, from what redis-py gives a client or a pool."""
    if connection_class is not None and issubclass(connection_class, redis.SSLConnection):
        options["ssl"] = True
    client: Any = redis.Redis
    return _under(dialer, client(**options).connection_pool)


class AsyncRedisCluster(redis.asyncio.RedisCluster):
    """``redis.asyncio.RedisCluster`` under rules; the rest is as in :class:`RedisCluster`.

    The cluster is asked for its nodes by the first command. A connection that was made under other rules
    than those of a command is closed and made anew.
    """

    def __init__(
        self,
        rules: RuleSource | None = None,
        *plain: Any,
        resolver: AsyncResolver | None = None,
        connect: AsyncConnect | None = None,
        mixed: Mixed = "skip",
        **options: Any,
    ) -> None:
        cluster: Any = super()
        options = _named(cluster.__init__.__func__, plain, options)
        _refuse(options)
        cluster.__init__(**options)
        kwargs: Any = self.connection_kwargs
        kwargs["dialer"] = AsyncDialer(rules, resolver=resolver, connect=connect, mixed=mixed)
        kind = _connection_class(kwargs["connection_class"], _AsyncClusterConnection, _AsyncDialled)
        kwargs["connection_class"] = kind
        for node in self.nodes_manager.startup_nodes.values():
            node.connection_class = kind
            node.connection_kwargs["dialer"] = kwargs["dialer"]

    @classmethod
    def from_url(
        cls,
        url: str,
        rules: RuleSource | None = None,
        *,
        resolver: AsyncResolver | None = None,
        connect: AsyncConnect | None = None,
        mixed: Mixed = "skip",
        **options: Any,
    ) -> Self:
        """The same as :meth:`RedisCluster.from_url`. The query of the URL does not touch the rules."""
        made: Any = super()
        ours = {"resolver": resolver, "connect": connect, "mixed": mixed}
        return made.from_url.__func__(lambda **given: cls(rules, **{**given, **ours}), url, **options)  # type: ignore[no-any-return]

    async def initialize(self, *args: Any, **options: Any) -> Self:
        """Asks the cluster for its nodes, once."""
        try:
            return await super().initialize(*args, **options)  # type: ignore[return-value]
        except exceptions.RedisClusterException as error:
            raise _cluster_error(error) from error
