"""urllib3 under rules: a PoolManager whose connections are dialled by a Dialer.

This module knows urllib3's classes and nothing of addresses. What stands on urllib3 builds on it.
"""

from __future__ import annotations

import http.client
import socket
import sys
from typing import TYPE_CHECKING, Any

import urllib3
from urllib3 import connection, exceptions
from urllib3.util.connection import allowed_gai_family
from urllib3.util.timeout import Timeout

from netjail._dialer import Dialer
from netjail._errors import DeniedError as Denied

if TYPE_CHECKING:
    from collections.abc import Mapping

    from urllib3.poolmanager import PoolKey

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


class HTTPConnection(connection.HTTPConnection):
    """A connection that ``dialer`` dials. As a mixin it makes any of urllib3's connection classes one."""

    def __init__(self, *args: Any, dialer: Dialer, **kwargs: Any) -> None:
        refuse_proxy(kwargs)
        super().__init__(*args, **kwargs)
        self._dialer = dialer

    def _new_conn(self) -> socket.socket:
        """What urllib3's own does, with its errors and their words, so that its retries tell them apart."""
        host = self._dns_host.strip("[]")
        try:
            host.encode("idna")
        except UnicodeError:
            raise exceptions.LocationParseError(f"'{host}', label empty or too long") from None
        try:
            sock = self._dialer.connect(
                (host, self.port),
                Timeout.resolve_default_timeout(self.timeout),
                self.source_address,
                family=allowed_gai_family(),
                socket_options=self.socket_options or (),
            )
        except Denied as denied:
            raise _Carrier(denied) from denied
        except socket.gaierror as error:
            raise exceptions.NameResolutionError(self.host, self, error) from error
        except TimeoutError as error:
            words = f"Connection to {self.host} timed out. (connect timeout={self.timeout})"
            raise exceptions.ConnectTimeoutError(self, words) from error
        except OSError as error:
            raise exceptions.NewConnectionError(self, f"Failed to establish a new connection: {error}") from error
        sys.audit("http.client.connect", self, self.host, self.port)
        return sock

    def set_tunnel(self, host: str, *_args: Any, **_kwargs: Any) -> None:
        """Raises ValueError: what lies behind a tunnel would be dialled by somebody else."""
        raise ValueError(f"{NO_PROXY} (no tunnel to {host!r})")


class HTTPSConnection(HTTPConnection, connection.HTTPSConnection):
    """The same over TLS. The certificate is checked against the name that was asked for."""


class HTTPConnectionPool(urllib3.HTTPConnectionPool):
    """A pool in whose connections a denial ends as this module's DeniedError. Also a mixin."""

    ConnectionCls: Any = HTTPConnection

    def urlopen(self, *args: Any, **kwargs: Any) -> urllib3.BaseHTTPResponse:
        try:
            return super().urlopen(*args, **kwargs)
        except _Carrier as carrier:
            raise DeniedError.of(carrier.denied)  # noqa: B904 - of() names the cause


class HTTPSConnectionPool(HTTPConnectionPool, urllib3.HTTPSConnectionPool):
    """The same over TLS."""

    ConnectionCls: Any = HTTPSConnection


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
        self.pool_classes_by_scheme = {"http": HTTPConnectionPool, "https": HTTPSConnectionPool}
        self._dialer = Dialer(rules, resolver=resolver, connect=connect, mixed=mixed)

    def connection_from_pool_key(
        self, pool_key: PoolKey, request_context: dict[str, Any]
    ) -> urllib3.HTTPConnectionPool:
        """The pool of ``pool_key`` under the rules in force, which also judge whatever it dials later."""
        rules = self._dialer.rules_in_force()
        key: Any = (rules, pool_key)
        pool = self.pools.get(key)
        if pool is None:
            context = {**request_context, "dialer": self._dialer.pinned(rules)}
            pool = super().connection_from_pool_key(key, context)
        return pool


def refuse_proxy(arguments: Mapping[str, Any]) -> None:
    """ValueError if any of the keyword ``arguments`` names a proxy."""
    for name, value in arguments.items():
        if value is not None and ("prox" in name or "socks" in name):
            raise ValueError(f"{NO_PROXY} ({name}=)")
