"""Scrapy under rules: its own HTTP/1.1 download handler over a pool whose endpoints are judged.

This module knows what Scrapy's handler hands to its pool; what dials is in the module for Twisted.
"""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUntypedBaseClass=false, reportUnknownVariableType=false
from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from scrapy.core.downloader.handlers import http11
from twisted.web.client import URI

from .._rules import Rules
from .twisted import DeniedError, EndpointFactory, HTTPConnectionPool

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

__all__ = ["DOWNLOAD_HANDLERS", "DeniedError", "HTTP11DownloadHandler"]

_HERE = "netjail.clients.scrapy.HTTP11DownloadHandler"
DOWNLOAD_HANDLERS: dict[str, str | None] = {"http": _HERE, "https": _HERE, "ftp": None, "s3": None, "file": None}
"""What Scrapy's setting of this name is to be: the other handlers dial by themselves, or read local files."""

_handler: Any = http11.HTTP11DownloadHandler
_uri: Any = URI


class HTTP11DownloadHandler(_handler):  # type: ignore[misc]
    """Scrapy's handler for http and https, which connects only to what the rules accept.

    The setting ``NETJAIL_RULES`` holds the rules, or the text that ``Rules.parse`` takes; without it
    everything is denied. ``NETJAIL_RESOLVER`` is a :class:`~netjail.Resolver`, called in the reactor's
    threads, and ``NETJAIL_MIXED`` the ``mixed`` of a :class:`~netjail.Dialer`. Redirects, robots.txt and
    pipelines that fetch are judged like first requests.

    A request fails with :class:`DeniedError`, which is also Twisted's ``ConnectError``, and is not retried.
    One with a proxy fails with ValueError: it would dial the target itself.
    """

    lazy = False

    def __init__(self, crawler: Any, *args: Any) -> None:
        super().__init__(crawler, *args)
        settings = getattr(crawler, "settings", crawler)  # which is what Scrapy handed over before 2.14
        rules: Any = settings.get("NETJAIL_RULES")
        jail = {
            "rules": Rules.parse(rules) if isinstance(rules, str) else rules,
            "resolver": settings.get("NETJAIL_RESOLVER"),
            "mixed": settings.get("NETJAIL_MIXED", "skip"),
        }
        pool: Any = self._pool
        self._pool: Any = _Pool(pool, jail, self._contextFactory)

    async def _download(self, request: Any) -> Any:
        _refuse_proxy(request)
        try:
            return await super().download_request(request)
        except DeniedError:
            request.meta["dont_retry"] = True
            raise

    def _download_deferred(self, request: Any, spider: Any) -> Deferred[Any]:
        _refuse_proxy(request)

        def denied(failure: Any) -> Any:
            if failure.check(DeniedError):
                request.meta["dont_retry"] = True
            return failure

        downloaded: Any = super().download_request(request, spider)
        return downloaded.addErrback(denied)  # type: ignore[no-any-return]

    # Scrapy looks whether this is a coroutine function, and its own became one in 2.14.
    download_request: Any = _download if inspect.iscoroutinefunction(_handler.download_request) else _download_deferred


def _refuse_proxy(request: Any) -> None:
    if request.meta.get("proxy"):
        raise ValueError("netjail has no proxying yet: a proxy would dial the target itself, outside the rules")


class _Pool(HTTPConnectionPool):
    """Replaces each endpoint that Scrapy made for a pool's key by one that judges."""

    def __init__(self, pool: Any, jail: dict[str, Any], policy: Any) -> None:
        super().__init__(pool)
        self._jail = jail
        self._policy = policy

    def getConnection(self, key: Any, endpoint: Any) -> Any:  # noqa: N802 - Twisted's name
        """A connection for ``key``, which begins with a scheme, a host and a port."""
        scheme, host, port = key[:3]
        plain = getattr(endpoint, "_wrappedEndpoint", endpoint)
        factory = EndpointFactory(
            plain._reactor,
            contextFactory=self._policy,
            connectTimeout=plain._timeout,
            bindAddress=plain._bindAddress,
            **self._jail,
        )
        return super().getConnection(key, factory.endpointForURI(_uri(scheme, host, host, port, b"", b"", b"", b"")))
