"""pymongo under rules, sync and asyncio: clients whose every connection, monitors' included, a Dialer dials.

This module knows where pymongo dials, how its clients select servers, and no policy.
"""

# The seams are pymongo's private ones, and these carry types that no subclass could repeat.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportIncompatibleMethodOverride=false, reportUnknownParameterType=false, reportMissingParameterType=false
# pyright: reportAttributeAccessIssue=false, reportIncompatibleVariableOverride=false

from __future__ import annotations

import re
import socket
from contextvars import ContextVar
from functools import partial
from types import FunctionType
from typing import TYPE_CHECKING, Any

import pymongo
from pymongo import _csot, pool_shared
from pymongo.asynchronous.pool import Pool as PlainAsyncPool
from pymongo.asynchronous.topology import Topology as PlainAsyncTopology
from pymongo.errors import AutoReconnect, PyMongoError
from pymongo.synchronous.pool import Pool as PlainPool
from pymongo.synchronous.topology import Topology as PlainTopology

from .. import _errors
from .._dialer import AsyncDialer, Dialer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .._dialer import Mixed
    from .._resolver import AsyncResolver, Resolver
    from .._rules import RuleSource

__all__ = ["AsyncMongoClient", "DeniedError", "MongoClient"]


class DeniedError(_errors.DeniedError, PyMongoError):
    """The rules that the client was made under accept no address of a server; also a ``pymongo.errors.PyMongoError``.

    It is no ``ConnectionFailure``, as pymongo retries what is.
    """

    _message = "netjail denied a connection"
    _error_labels: Any = frozenset()


class _Jail:
    """What the pools of one client share: its dialer, the rules that it was made under, and what they denied."""

    def __init__(self, dialer: Any) -> None:
        self.rules = dialer.rules_in_force()
        self.dialer = dialer.pinned(self.rules)
        self.denials: dict[Any, _errors.DeniedError] = {}
        self._asked = dialer

    def check(self, address: Any) -> None:
        """DeniedError where a context has rules that the connections of this client were not made under."""
        if not set(self._asked.rules_in_force()) <= set(self.rules):
            reason = "the client was made under other rules than are in force here: make one under these"
            raise DeniedError(address[0], address[1] or 0, reason=reason)

    def target(self, address: Any, options: Any) -> tuple[Any, float | None, int]:
        """What is dialled for ``address``, the seconds that it may take, and the family, as pymongo has it."""
        host, port = address
        if port is None or host.endswith(".sock"):
            raise DeniedError(host, 0, reason=_NO_PATH)
        timeout = _csot.remaining()
        if timeout is None:
            timeout = options.connect_timeout
        elif timeout <= 0:
            raise TimeoutError("timed out")
        return (host, port), timeout, socket.AF_INET if host == "localhost" else socket.AF_UNSPEC

    def connected(self, sock: socket.socket) -> socket.socket:
        pool_shared._set_keepalive_times(sock)
        return sock


_NO_PATH = "the path of a unix socket is no address that rules could accept"
_OPTIONS = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1), (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
_dialling: ContextVar[Any] = ContextVar("the pool for which a connection is made")
_selecting: ContextVar[Any] = ContextVar("the topology in which a server is selected")


def _create_connection(address: Any, options: Any) -> socket.socket:
    """In the place of pymongo's own."""
    jail: _Jail = _dialling.get().jail
    try:
        target, timeout, family = jail.target(address, options)
        return jail.connected(jail.dialer.connect(target, timeout, family=family, socket_options=_OPTIONS))
    except _errors.DeniedError as denied:
        jail.denials[address] = denied
        raise


async def _async_create_connection(address: Any, options: Any) -> socket.socket:
    jail: _Jail = _dialling.get().jail
    try:
        target, timeout, family = jail.target(address, options)
        return jail.connected(await jail.dialer.connect(target, timeout, family=family, socket_options=_OPTIONS))
    except TimeoutError as error:
        raise TimeoutError("timed out") from error  # asyncio's own says nothing, and pymongo hands on what it says
    except _errors.DeniedError as denied:
        jail.denials[address] = denied
        raise


def _rebound(function: Any, pattern: str, replacement: Callable[[Any], Any]) -> Any:
    """A copy of ``function`` that finds other things under those global names of its own that match ``pattern``.

    pymongo's own function stays as it is, for everybody else. ImportError if no name matches.
    """
    scope = function.__globals__
    found = {name: scope[name] for name in function.__code__.co_names if name in scope and re.fullmatch(pattern, name)}
    if not found:
        words = f"netjail does not know this version of pymongo: {function.__qualname__} has no {pattern}"
        raise ImportError(words, name="pymongo")
    replaced = {name: replacement(value) for name, value in found.items()}
    defaults, cells = function.__defaults__, function.__closure__
    copy = FunctionType(function.__code__, {**scope, **replaced}, function.__name__, defaults, cells)
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


def _connecting(plain: Any, create: Any) -> Any:
    """A pool's ``connect``, which ends in ``create`` where pymongo's ends in its own creation of a connection."""
    return _rebound(
        plain.connect,
        "_configured_(socket|protocol)_interface",
        lambda configured: _rebound(configured, "(_async)?_create_connection", lambda _: create),
    )


class _Pool:
    """What the two kinds of pool are made of."""

    address: Any
    is_sdam: bool

    def __init__(self, jail: _Jail, *args: Any, **options: Any) -> None:
        self.jail = jail
        super().__init__(*args, **options)

    def checkout(self, *args: Any, **options: Any) -> Any:
        if not self.is_sdam:  # a monitor serves no request, and keeps the context in which it was started
            self.jail.check(self.address)
        plain: Any = super()
        return plain.checkout(*args, **options)

    def _ours(self, error: AutoReconnect) -> Exception:
        """What a request gets for ``error``; a monitor gets what it knows how to note down."""
        denied = error.__cause__
        if self.is_sdam or not isinstance(denied, _errors.DeniedError):
            return error
        return DeniedError.of(denied)


class _SyncPool(_Pool, PlainPool):
    _connect = staticmethod(_connecting(PlainPool, _create_connection))

    def connect(self, *args: Any, **options: Any) -> Any:
        token = _dialling.set(self)
        try:
            return self._connect(self, *args, **options)
        except AutoReconnect as error:
            raise self._ours(error) from error.__cause__
        finally:
            _dialling.reset(token)


class _AsyncPool(_Pool, PlainAsyncPool):
    _connect = staticmethod(_connecting(PlainAsyncPool, _async_create_connection))

    async def connect(self, *args: Any, **options: Any) -> Any:
        token = _dialling.set(self)
        try:
            return await self._connect(self, *args, **options)
        except AutoReconnect as error:
            raise self._ours(error) from error.__cause__
        finally:
            _dialling.reset(token)


def _end_if_denied() -> None:
    """Raises the denial where every server is denied: there is nothing to wait for, which pymongo does for 30 s."""
    topology = _selecting.get()
    servers = topology._description.server_descriptions().values()
    found = [_errors.find_denied(server.error) for server in servers]
    if found and found[0] is not None and all(found):
        first = next(iter(servers)).address
        raise DeniedError.of(topology.jail.denials.get(first, found[0]))


def _ending(wait: Any) -> Any:
    def _wait(condition: Any, timeout: float | None) -> Any:
        _end_if_denied()
        changed = wait(condition, timeout)
        _end_if_denied()
        return changed

    return _wait


def _async_ending(wait: Any) -> Any:
    async def _wait(condition: Any, timeout: float | None) -> Any:
        _end_if_denied()
        changed = await wait(condition, timeout)
        _end_if_denied()
        return changed

    return _wait


class _Topology(PlainTopology):
    _select = staticmethod(_rebound(PlainTopology._select_servers_loop, "_cond_wait", _ending))

    def _select_servers_loop(self, *args: Any, **options: Any) -> Any:
        token = _selecting.set(self)
        try:
            return self._select(self, *args, **options)
        finally:
            _selecting.reset(token)


class _AsyncTopology(PlainAsyncTopology):
    _select = staticmethod(_rebound(PlainAsyncTopology._select_servers_loop, "_async_cond_wait", _async_ending))

    async def _select_servers_loop(self, *args: Any, **options: Any) -> Any:
        token = _selecting.set(self)
        try:
            return await self._select(self, *args, **options)
        finally:
            _selecting.reset(token)


class _Client:
    """What the two clients are made of."""

    _dialer_class: type[Any]
    _pool_class: type[Any]
    _topology_class: type[Any]
    _topology: Any

    def __init__(
        self,
        rules: RuleSource | None = None,
        *plain: Any,
        resolver: Any = None,
        mixed: Mixed = "skip",
        **options: Any,
    ) -> None:
        for name in ("_pool_class", "auto_encryption_opts"):
            if options.get(name) is not None:
                raise ValueError(f"{name}= is not supported under rules: it makes pymongo dial in other ways")
        self._jail = _Jail(self._dialer_class(rules, resolver=resolver, mixed=mixed))
        client: Any = super()
        pool: Any = self._pool_class
        client.__init__(*plain, _pool_class=partial(pool, self._jail), **options)

    def _resolve_srv(self) -> Any:
        """Asks DNS for an SRV record, but where no answer to it could be accepted."""
        if not self._jail.rules or not all(self._jail.rules):
            host = self._resolve_srv_info["fqdn"]  # type: ignore[attr-defined]
            raise DeniedError(host, 0, reason="the rules in force accept no address for what its SRV record names")
        client: Any = super()
        return client._resolve_srv()

    def _init_background(self, *args: Any, **options: Any) -> None:
        """Where pymongo knows what it will dial, and has not begun."""
        _refuse(self)
        client: Any = super()
        client._init_background(*args, **options)
        self._topology.__class__ = self._topology_class
        self._topology.jail = self._jail


def _refuse(client: Any) -> None:
    """ValueError for unix sockets and for what would dial past the pools."""
    for host, port in client._topology_settings.seeds:
        if port is None or host.endswith(".sock"):
            raise ValueError(f"{host!r}: {_NO_PATH}")
    options = client._topology_settings.pool_options
    credentials = options._credentials
    if credentials is not None:
        properties = credentials.mechanism_properties
        environment = getattr(properties, "environment", None)
        if credentials.mechanism in ("GSSAPI", "MONGODB-AWS") or environment in ("azure", "gcp"):
            words = f"authMechanism={credentials.mechanism} is not supported under rules"
            raise ValueError(f"{words}: it asks servers of its own, outside the rules")
    if hasattr(options._ssl_context, "check_ocsp_endpoint"):
        options._ssl_context.check_ocsp_endpoint = False  # it would ask whatever responder a certificate names


class MongoClient(_Client, pymongo.MongoClient[Any]):
    """``pymongo.MongoClient`` under rules: ``MongoClient(PUBLIC, "mongodb://db.example.com/?tls=true")``.

    **A client belongs to the rules that it was made under**: ``rules`` and the context's where it is made.
    It dials in threads of its own, which know no context. Every address must pass them all: seeds, the
    members that a replica set or an SRV record announces, and those that they announce later. An
    operation under rules of a context that are not among them is denied; one without any goes by the
    client's. With neither, everything is denied.

    ``resolver`` and ``mixed`` are as in :class:`~netjail.Dialer`. The other arguments are pymongo's own.

    Operations raise :class:`DeniedError` as soon as every known server is denied, and what pymongo raises:
    while some server is not denied, but unfit, they wait for ``serverSelectionTimeoutMS``, and
    ``netjail.find_denied`` finds the denial in the ServerSelectionTimeoutError.

    ValueError for what would dial outside the rules: unix sockets, automatic encryption, and
    authentication by GSSAPI, AWS or the metadata services of Azure and GCP. OCSP responders are not asked.
    """

    _dialer_class = Dialer
    _pool_class = _SyncPool
    _topology_class = _Topology

    if TYPE_CHECKING:

        def __init__(
            self,
            rules: RuleSource | None = None,
            host: str | Sequence[str] | None = None,
            port: int | None = None,
            *plain: Any,
            resolver: Resolver | None = None,
            mixed: Mixed = "skip",
            **options: Any,
        ) -> None: ...


class AsyncMongoClient(_Client, pymongo.AsyncMongoClient[Any]):
    """``pymongo.AsyncMongoClient`` under rules; the rest is as in :class:`MongoClient`."""

    _dialer_class = AsyncDialer
    _pool_class = _AsyncPool
    _topology_class = _AsyncTopology

    if TYPE_CHECKING:

        def __init__(
            self,
            rules: RuleSource | None = None,
            host: str | Sequence[str] | None = None,
            port: int | None = None,
            *plain: Any,
            resolver: AsyncResolver | None = None,
            mixed: Mixed = "skip",
            **options: Any,
        ) -> None: ...
