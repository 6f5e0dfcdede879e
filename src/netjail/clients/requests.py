"""requests under rules: an adapter over netjail's PoolManager, and a session that uses nothing else.

This module knows requests' classes; what dials is in the module for urllib3.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.exceptions import ConnectionError as RequestsConnectionError
from requests.exceptions import RequestException
from requests.utils import select_proxy

from netjail._errors import DeniedError as Denied

from .urllib3 import NO_PROXY, PoolManager, refuse_proxy

if TYPE_CHECKING:
    from collections.abc import Mapping

    import urllib3
    from requests import PreparedRequest, Request, Response

    from netjail._dialer import Connect, Mixed
    from netjail._resolver import Resolver
    from netjail._rules import RuleSource

_log = logging.getLogger("netjail")


class DeniedError(Denied, RequestException):
    """The rules in force do not accept the target of ``request``. There is no ``response``."""

    request: Request | PreparedRequest | None = None
    response: Response | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return (*super().__reduce__(), {"request": self.request})


class Adapter(HTTPAdapter):
    """A ``requests.adapters.HTTPAdapter`` that connects only to what the rules accept.

    Mount it for ``http://`` and ``https://`` both. ``rules`` and the rules of the context of each request
    must both accept an address; with neither, everything is denied. ``resolver``, ``connect`` and
    ``mixed`` are as in :class:`~netjail.Dialer`, the rest as in HTTPAdapter, whose ``pool_connections``
    here counts one pool for each host under each set of rules. Each hop of a redirect is judged.

    Proxies that a session hands over, from its environment perhaps, are left out with a warning on the
    ``netjail`` logger, and the target is dialled under the rules.

    Raises ValueError for proxy arguments. Requests raise this module's DeniedError, which
    ``max_retries`` does not retry, and what requests raises.
    """

    poolmanager: urllib3.PoolManager
    __attrs__: list[str] = [*HTTPAdapter.__attrs__, "_jail"]  # noqa: RUF012 - what is pickled

    def __init__(
        self,
        rules: RuleSource | None = None,
        *,
        resolver: Resolver | None = None,
        connect: Connect | None = None,
        mixed: Mixed = "skip",
        **http_adapter: Any,
    ) -> None:
        refuse_proxy(http_adapter)
        self._jail = {"rules": rules, "resolver": resolver, "connect": connect, "mixed": mixed}
        super().__init__(**http_adapter)
        if not isinstance(self.poolmanager, PoolManager):
            raise TypeError(f"{type(self).__name__}.init_poolmanager must leave the pool manager to netjail's Adapter")

    def init_poolmanager(
        self,
        connections: int,
        maxsize: int,
        block: bool = False,
        **pool_kwargs: Any,
    ) -> None:
        """Makes the jailed PoolManager; a subclass may add ``pool_kwargs`` such as ``ssl_context``."""
        self._pool_connections = connections
        self._pool_maxsize = maxsize
        self._pool_block = block
        jailed: dict[str, Any] = {**self._jail, **pool_kwargs}
        self.poolmanager = PoolManager(num_pools=connections, maxsize=maxsize, block=block, **jailed)

    def proxy_manager_for(self, proxy: str, **proxy_kwargs: Any) -> Any:  # noqa: ARG002 - HTTPAdapter's signature
        """Raises ValueError: there is none."""
        raise ValueError(NO_PROXY)

    def send(
        self,
        request: PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Mapping[str, str] | None = None,
    ) -> Response:
        """Sends ``request`` under the rules in force; the arguments are HTTPAdapter's."""
        if proxies:
            self._leave_out(proxies, request)
        try:
            return super().send(request, stream, timeout, verify, cert)
        except RequestsConnectionError as error:
            denied = error.args[0] if error.args else None
            if not isinstance(denied, Denied):
                raise
            own = DeniedError.of(denied)
            own.request = request
            raise own  # noqa: B904 - of() names the cause

    def _leave_out(self, proxies: Mapping[str, str], request: PreparedRequest) -> None:
        """Says so where one of ``proxies`` would have been used."""
        if select_proxy(str(request.url), dict(proxies)):
            _log.warning("a proxy for %s is left out: %s", urlsplit(str(request.url)).hostname, NO_PROXY)
            request.headers.pop("Proxy-Authorization", None)  # a session adds it for the proxy, on redirects


class _SessionsAdapter(Adapter):
    """What a netjail Session mounts: where all is ours, proxies are an error."""

    def _leave_out(self, proxies: Mapping[str, str], request: PreparedRequest) -> None:  # noqa: ARG002
        if any(proxy for scheme, proxy in proxies.items() if scheme != "no_proxy"):
            raise ValueError(f"{NO_PROXY} (proxies=)")


class Session(requests.Session):
    """A ``requests.Session`` that connects only to what the rules accept.

    The arguments are those of :class:`Adapter`, of which it mounts two. What is mounted over these is not
    under the rules.

    The environment is left out (``trust_env`` is False): no proxies, no netrc, no REQUESTS_CA_BUNDLE or
    CURL_CA_BUNDLE. Use ``auth`` and ``verify``.

    Requests raise ValueError when ``proxies`` are given, to them or to the session, or come from the
    environment where ``trust_env`` was set again.
    """

    def __init__(
        self,
        rules: RuleSource | None = None,
        *,
        resolver: Resolver | None = None,
        connect: Connect | None = None,
        mixed: Mixed = "skip",
        **http_adapter: Any,
    ) -> None:
        super().__init__()
        self.trust_env = False
        for prefix in ("https://", "http://"):
            adapter = _SessionsAdapter(rules, resolver=resolver, connect=connect, mixed=mixed, **http_adapter)
            self.mount(prefix, adapter)
