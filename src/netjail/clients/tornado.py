"""Tornado under rules: a resolver that hands out nothing but judged addresses, and the clients that dial through it.

This module knows where Tornado asks its resolver and which context a request comes from, and no policy.
"""

from __future__ import annotations

import socket
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Self

from tornado import netutil, simple_httpclient, tcpclient, websocket
from tornado.iostream import StreamClosedError

from .. import _errors
from .._dialer import AsyncDialer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tornado.httpclient import HTTPRequest, HTTPResponse

    from .._dialer import Mixed
    from .._resolver import AsyncResolver
    from .._rules import RuleSource

__all__ = ["AsyncHTTPClient", "DeniedError", "Resolver", "TCPClient", "websocket_connect"]


class DeniedError(_errors.DeniedError, StreamClosedError):
    """The rules in force accept no address of the host; also a ``tornado.iostream.StreamClosedError``."""

    @property
    def real_error(self) -> Self:  # type: ignore[override]
        """This error: Tornado's HTTP client raises this one in place of a stream that was closed."""
        return self


class Resolver(netutil.Resolver):
    """A ``tornado.netutil.Resolver`` whose answers were judged, for whatever of Tornado takes one.

    ``rules`` and the rules of the context that asks must both accept an address; with neither, everything
    is denied. Tornado asks it for literal addresses too. ``resolver`` is netjail's
    :class:`~netjail.AsyncResolver`; it and ``mixed`` are as in :class:`~netjail.AsyncDialer`.
    """

    def initialize(
        self, rules: RuleSource | None = None, *, resolver: AsyncResolver | None = None, mixed: Mixed = "skip"
    ) -> None:
        """What Tornado calls in place of ``__init__``."""
        self._dialer = AsyncDialer(rules, resolver=resolver, mixed=mixed)

    async def resolve(
        self, host: str, port: int, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[tuple[int, Any]]:
        """The accepted addresses of ``host``; DeniedError where there is none."""
        try:
            accepted = await self._dialer.resolve((host, port), family=family)
        except _errors.DeniedError as denied:
            raise DeniedError.of(denied) from denied
        return [(socket.AF_INET6 if ":" in address[0] else socket.AF_INET, address) for address in accepted]


class TCPClient(tcpclient.TCPClient):
    """A ``tornado.tcpclient.TCPClient`` under rules. The arguments are those of :class:`Resolver`."""

    def __init__(
        self, rules: RuleSource | None = None, *, resolver: AsyncResolver | None = None, mixed: Mixed = "skip"
    ) -> None:
        super().__init__(Resolver(rules, resolver=resolver, mixed=mixed))


class AsyncHTTPClient(simple_httpclient.SimpleAsyncHTTPClient):
    """Tornado's own HTTP client under rules, whatever ``AsyncHTTPClient.configure`` says.

    ``rules``, ``resolver`` and ``mixed`` are as in :class:`Resolver`; the other keywords are those of
    ``SimpleAsyncHTTPClient``. Each call makes a client of its own, as with ``force_instance=True``. The
    context of a request is that of its ``fetch``, also where it waits for one of ``max_clients``.

    Requests raise :class:`DeniedError` and what Tornado raises, and ValueError where one names a proxy.
    """

    def __new__(cls, rules: RuleSource | None = None, **options: Any) -> Self:
        """A new client."""
        options["force_instance"] = True
        made: Any = super().__new__(cls, rules=rules, **options)
        return made  # type: ignore[no-any-return]

    def initialize(  # type: ignore[override]
        self,
        rules: RuleSource | None = None,
        *,
        resolver: AsyncResolver | None = None,
        mixed: Mixed = "skip",
        **options: Any,
    ) -> None:
        """What Tornado calls in place of ``__init__``."""
        super().initialize(resolver=Resolver(rules, resolver=resolver, mixed=mixed), **options)

    def fetch_impl(self, request: HTTPRequest, callback: Callable[[HTTPResponse], None]) -> None:
        """Takes a request on, and notes the context that it comes from."""
        _refuse_proxy(request)
        vars(request)["_netjail_context"] = copy_context()
        is_a_hop = hasattr(request, "original_request")

        def done(response: Any) -> None:
            if isinstance(response.error, DeniedError):
                # Before 6.6, Tornado waits forever for the hop of a redirect that ends in anything but a response.
                response._error_is_response_code = is_a_hop
            callback(response)

        super().fetch_impl(request, done)

    def _handle_request(
        self,
        request: HTTPRequest,
        release_callback: Callable[[], None],
        final_callback: Callable[[HTTPResponse], None],
    ) -> None:
        """Begins a request, which may be in the middle of another one's end."""
        context = vars(request).pop("_netjail_context")
        context.run(super()._handle_request, request, release_callback, final_callback)


def websocket_connect(
    url: str | HTTPRequest,
    *args: Any,
    rules: RuleSource | None = None,
    resolver: AsyncResolver | None = None,
    mixed: Mixed = "skip",
    **options: Any,
) -> Awaitable[websocket.WebSocketClientConnection]:
    """``tornado.websocket.websocket_connect`` under rules. The new arguments are those of :class:`Resolver`."""
    _refuse_proxy(url)
    plain: Any = websocket.websocket_connect
    return plain(url, *args, resolver=Resolver(rules, resolver=resolver, mixed=mixed), **options)  # type: ignore[no-any-return]


def _refuse_proxy(request: object) -> None:
    """ValueError where ``request`` names a proxy, which only Tornado's client on libcurl knows how to use."""
    if getattr(request, "proxy_host", None):
        raise ValueError("proxy_host=: netjail has no proxying yet: a proxy would dial the target outside the rules")
