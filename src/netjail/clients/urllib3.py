"""urllib3 under rules: a PoolManager whose connections are dialled by a Dialer.

This module knows urllib3's classes and nothing of addresses. What stands on urllib3 builds on it.
"""

from __future__ import annotations

import http.client
import socket
import sys
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any

import urllib3
from urllib3 import connection, exceptions
from urllib3.util.connection import allowed_gai_family
from urllib3.util.timeout import Timeout

from netjail._context import in_force
from netjail._dialer import Dialer
from netjail._errors import DeniedError as Denied

if TYPE_CHECKING:
    from collections.abc import Mapping

    from urllib3.poolmanager import PoolKey

    from netjail._context import RulesInForce
    from netjail._dialer import Connect, Mixed
    from netjail._resolver import Resolver
    from netjail._rules import RuleSource

__all__ = ["DeniedError", "PoolManager"]

if http.client.HTTPConnection not in connection.HTTPConnection.__mro__:
    raise ImportError(
        "netjail cannot guard this urllib3: it is urllib3-future, which niquests puts in urllib3's place and which "
        "dials in ways of its own (HTTP/3, Alt-Svc, resolvers). Have it beside urllib3 (its documentation has "
        "URLLIB3_NO_OVERRIDE=1 for that), or in another environment",
        name="urllib3",
    )

NO_PROXY = "netjail has no proxying yet: a proxy would dial the target itself, outside the rules"


class DeniedError(Denied, exceptions.HTTPError):
    """The rules in force do not accept the target. Nothing was sent to it, and nothing is retried."""


class _Carrier(Exception):  # noqa: N818 - nobody is to catch it
    """Takes a denial through a pool, which retries every OSError and every HTTPError."""

    def __init__(self, denied: Denied) -> None:
        super().__init__(str(denied))
        self.denied = denied


def _carried(pool: Any, denied: Denied) -> Exception:
    """What takes ``denied`` through ``pool``; from here on the pool tells it when it takes back what failed."""
    if pool is None:  # the connection was kept longer than its pool
        return DeniedError.of(denied)
    pool._put_conn = partial(_put_or_tell, weakref.ref(pool))
    return _Carrier(denied)


def _put_or_tell(of: weakref.ref[Any], conn: Any) -> None:
    """A pool's ``_put_conn`` once it has denied. For what failed it is called with None, on the way out of urlopen.

    In the class it would be a frame of each request: half a percent, measured.
    """
    pool: Any = of()
    plain: Any = type(pool)  # pyright: ignore[reportUnknownVariableType]
    plain._put_conn(pool, conn)
    if conn is None and isinstance(carrier := sys.exception(), _Carrier):
        raise DeniedError.of(carrier.denied)


def _dial(of: weakref.ref[Any], pool: weakref.ref[Any], dialer: Dialer) -> socket.socket:
    """A connection's ``_new_conn``, with urllib3's errors in its own words, so that retries tell them apart."""
    conn: Any = of()
    if conn.proxy or conn._tunnel_host:
        raise ValueError(NO_PROXY)
    host = conn._dns_host.strip("[]")
    try:
        host.encode("idna")
    except UnicodeError:
        raise exceptions.LocationParseError(f"'{host}', label empty or too long") from None
    try:
        sock = dialer.connect(
            (host, conn.port),
            Timeout.resolve_default_timeout(conn.timeout),
            conn.source_address,
            family=allowed_gai_family(),
            socket_options=conn.socket_options or (),
        )
    except Denied as denied:
        raise _carried(pool(), denied) from denied
    except socket.gaierror as error:
        raise exceptions.NameResolutionError(conn.host, conn, error) from error
    except TimeoutError as error:
        words = f"Connection to {conn.host} timed out. (connect timeout={conn.timeout})"
        raise exceptions.ConnectTimeoutError(conn, words) from error
    except OSError as error:
        raise exceptions.NewConnectionError(conn, f"Failed to establish a new connection: {error}") from error
    sys.audit("http.client.connect", conn, conn.host, conn.port)
    return sock


class HTTPConnectionPool(urllib3.HTTPConnectionPool):
    """A pool whose connections ``dialer`` dials. As a mixin it makes any of urllib3's pool classes one.

    The connections are of urllib3's own classes, with a ``_new_conn`` of ours, and ``urlopen`` is not
    wrapped: measured, a subclass and a wrapper cost two percent of a request on a kept connection.
    """

    def __init__(self, *args: Any, dialer: Dialer, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.proxy:
            raise ValueError(NO_PROXY)
        self.jail(dialer)

    def jail(self, dialer: Dialer) -> None:
        """From here on ``dialer`` dials, and requests must be under its rules."""
        self._dialer = dialer
        self._given, self._judged_under = dialer._rules, dialer.rules_in_force()

    def _new_conn(self) -> Any:
        conn: Any = super()._new_conn()
        conn._new_conn = partial(_dial, weakref.ref(conn), weakref.ref(self), self._dialer)
        return conn

    def _get_conn(self, timeout: float | None = None) -> Any:
        """A connection to send on. Whoever keeps a pool and asks under other rules gets none."""
        conn: Any = super()._get_conn(timeout)
        if in_force(self._given) != self._judged_under:
            conn.close()
            raise _carried(self, Denied(self.host, self.port or 0, reason="its pool belongs to other rules"))
        return conn


class HTTPSConnectionPool(HTTPConnectionPool, urllib3.HTTPSConnectionPool):
    """The same over TLS. Certificates are checked against the name that was asked for."""


class PoolManager(urllib3.PoolManager):
    """A ``urllib3.PoolManager`` that connects only to what the rules accept.

    ``rules`` and the rules of the context of each request must both accept an address; with neither,
    everything is denied. ``resolver``, ``connect`` and ``mixed`` are as in :class:`~netjail.Dialer`, the
    rest as in urllib3. Redirects and retries are judged like first requests. A connect timeout covers the
    lookup and all addresses of a name.

    A connection is reused under the rules that it was judged under, and never under others, so
    ``num_pools`` counts one pool for each host under each set of rules: raise it where many take turns.

    Raises ValueError for proxy arguments: there is no proxying under rules yet, and urllib3 itself takes
    none from the environment. Requests raise this module's DeniedError and what urllib3 raises.
    """

    def __init__(
        self,
        rules: RuleSource | None = None,
        *,
        resolver: Resolver | None = None,
        connect: Connect | None = None,
        mixed: Mixed = "skip",
        num_pools: int = 10,
        headers: Mapping[str, str] | None = None,
        **connection_pool_kw: Any,
    ) -> None:
        refuse_proxy(connection_pool_kw)
        super().__init__(num_pools, headers, **connection_pool_kw)
        self.pool_classes_by_scheme: dict[str, Any] = {"http": HTTPConnectionPool, "https": HTTPSConnectionPool}
        self._dialer = Dialer(rules, resolver=resolver, connect=connect, mixed=mixed)
        self._given = rules
        self._pinned: dict[RulesInForce, Dialer] = {}
        self._most_pinned = max(64, 2 * num_pools)

    def connection_from_pool_key(
        self, pool_key: PoolKey, request_context: dict[str, Any]
    ) -> urllib3.HTTPConnectionPool:
        """The pool of ``pool_key`` under the rules in force, which also judge whatever it dials later."""
        rules = in_force(self._given)
        dialer = self._pinned.get(rules) or self._pin(rules)
        key: Any = (dialer, pool_key)  # the dialer stands for the rules: it is hashed faster, and several times
        try:
            return self.pools[key]
        except KeyError:
            pass
        return super().connection_from_pool_key(key, {**request_context, "dialer": dialer})

    def _pin(self, rules: RulesInForce) -> Dialer:
        """The one dialer for ``rules``, for as long as any pool has it."""
        if len(self._pinned) >= self._most_pinned:
            keys: Any = self.pools.keys()
            self._pinned = {dialer.rules_in_force(): dialer for dialer, _ in keys}
        return self._pinned.setdefault(rules, self._dialer.pinned(rules))


def refuse_proxy(arguments: Mapping[str, Any]) -> None:
    """ValueError if any of the keyword ``arguments`` names a proxy."""
    for name, value in arguments.items():
        if value is not None and ("prox" in name or "socks" in name):
            raise ValueError(f"{NO_PROXY} ({name}=)")
