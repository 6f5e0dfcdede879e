"""urllib.request and http.client under rules.

This module holds what is peculiar to the two: openers without a handler that would read a file, ask a
proxy or speak FTP, and connections that dial under the rules in force.
"""

from __future__ import annotations

import http.client
import ssl
import urllib.error
import urllib.request
from functools import cache, lru_cache, partial
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

from netjail._context import in_force
from netjail._dialer import DEFAULT_TIMEOUT, Dialer
from netjail._errors import DeniedError as Denied
from netjail._rules import Rules

if TYPE_CHECKING:
    import socket

    from netjail._context import RulesInForce
    from netjail._dialer import Connect, Mixed, SocketAddress
    from netjail._resolver import Resolver
    from netjail._rules import RuleSource


_NO_TUNNEL = "netjail refuses proxies for now: a tunnel's far end would not be judged"


class DeniedError(Denied, urllib.error.URLError):
    """A denial that is a URLError as well."""

    reason: str  # pyright: ignore[reportIncompatibleVariableOverride]  # a URLError's may be an exception instead


class _Connection(http.client.HTTPConnection):
    """A connection that ``dialer`` dials."""

    def __init__(self, *plain: Any, dialer: Dialer, **options: Any) -> None:
        super().__init__(*plain, **options)
        self._dialer = dialer
        # http.client looks for a function in here. Without one it finds our method, which as an attribute would
        # tie each connection into a knot that only the garbage collector undoes.
        del self._create_connection

    def _create_connection(self, address: SocketAddress, timeout: float | None, source_address: Any) -> socket.socket:
        if self._tunnel_host:  # type: ignore[attr-defined]  # set past set_tunnel
            raise ValueError(_NO_TUNNEL)
        try:
            return self._dialer.connect(address, timeout, source_address)
        except Denied as denied:
            raise DeniedError.of(denied) from denied

    def set_tunnel(self, *_args: Any, **_options: Any) -> NoReturn:
        """Raises ValueError: a proxy would resolve the target, and nobody would judge it."""
        raise ValueError(_NO_TUNNEL)


class _TLSConnection(_Connection, http.client.HTTPSConnection):
    """The same over TLS."""


class HTTPConnection(_Connection):
    """``http.client.HTTPConnection`` that connects to what the rules accept.

    ``rules``, ``resolver``, ``connect`` and ``mixed`` are those of :class:`netjail.Dialer`; the rest is
    as in http.client. A connection that is open when a request begins under other rules than it was made
    under is left for a new one. Connecting raises :class:`DeniedError`, and ``set_tunnel`` ValueError.
    """

    _judged_under: RulesInForce | None = None

    sock: Any

    def __init__(
        self,
        *plain: Any,
        rules: RuleSource | None = None,
        resolver: Resolver | None = None,
        connect: Connect | None = None,
        mixed: Mixed = "skip",
        **options: Any,
    ) -> None:
        super().__init__(*plain, dialer=Dialer(rules, resolver=resolver, connect=connect, mixed=mixed), **options)
        self._given = rules

    def connect(self) -> None:
        """Connects under the rules in force; see http.client."""
        self._judged_under = self._dialer.rules_in_force()
        super().connect()

    def putrequest(self, method: str, url: str, skip_host: bool = False, skip_accept_encoding: bool = False) -> None:
        """Begins a request; see http.client."""
        super().putrequest(method, url, skip_host, skip_accept_encoding)  # this sends nothing yet
        judged = self._judged_under
        if self.sock is not None and judged is not None and judged != in_force(self._given):
            # Only the socket, and not self.close(): a response that is still being read keeps its own hold of it.
            self.sock.close()
            self.sock = None


class HTTPSConnection(HTTPConnection, http.client.HTTPSConnection):
    """The same for ``http.client.HTTPSConnection``, whose ``context`` checks the certificate against the name."""


class _HTTPHandler(urllib.request.HTTPHandler):
    def __init__(self, dialer: Dialer) -> None:
        super().__init__()
        self._connection = partial(_Connection, dialer=dialer)

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return _open(self, self._connection, req)


class _HTTPSHandler(urllib.request.HTTPSHandler):
    def __init__(self, dialer: Dialer, context: ssl.SSLContext | None) -> None:
        # The plain one's own initialiser would load the system's authorities, also for an opener of http: alone.
        urllib.request.AbstractHTTPHandler.__init__(self)
        self._connection = partial(_TLSConnection, dialer=dialer)
        self._tls = context

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        context = _default_context() if self._tls is None else self._tls
        return _open(self, partial(self._connection, context=context), req)


def _open(
    handler: urllib.request.AbstractHTTPHandler, connection: Any, req: urllib.request.Request
) -> http.client.HTTPResponse:
    if req.has_proxy() or req._tunnel_host:  # type: ignore[attr-defined]  # what Request.set_proxy leaves
        target = urlsplit(req.full_url)
        port = target.port or (443 if target.scheme == "https" else 80)
        raise DeniedError(target.hostname or "", port, reason="the request asks for a proxy, which is refused for now")
    try:
        return handler.do_open(connection, req)
    except urllib.error.URLError as error:
        if isinstance(error.reason, DeniedError):
            raise error.reason from error.reason.__cause__
        raise


@cache
def _default_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    context.post_handshake_auth = True
    return context


class _Opener(urllib.request.OpenerDirector):
    """An opener in which nothing but this module's own two handlers opens a connection."""

    def add_handler(self, handler: urllib.request.BaseHandler) -> None:
        kind = type(handler)
        if isinstance(handler, urllib.request.ProxyHandler):
            words = "netjail refuses proxies for now and never uses the environment's"
            raise ValueError(f"{words}: leave {kind} out")  # noqa: TRY004 - it is the right type, and unwelcome
        if kind not in (_HTTPHandler, _HTTPSHandler, urllib.request.UnknownHandler):
            for name in dir(handler):
                # The same look that OpenerDirector takes: http_open, file_open, default_open. do_open is no such hook.
                if name.partition("_")[2] == "open" and name != "do_open":
                    raise ValueError(f"{kind} opens URLs itself ({name}), past the rules: leave it out")
        super().add_handler(handler)


_DEFAULT_HANDLERS = (
    urllib.request.UnknownHandler,
    urllib.request.HTTPDefaultErrorHandler,
    urllib.request.HTTPRedirectHandler,
    urllib.request.HTTPErrorProcessor,
)


def build_opener(
    rules: RuleSource | None = None,
    *handlers: Any,
    resolver: Resolver | None = None,
    connect: Connect | None = None,
    mixed: Mixed = "skip",
    context: ssl.SSLContext | None = None,
) -> urllib.request.OpenerDirector:
    """``urllib.request.build_opener`` for http: and https: URLs at what the rules accept.

    ``handlers`` are handlers or classes of them, such as ``HTTPCookieProcessor``, which replace the default
    one that they descend from. ``rules``, ``resolver``, ``connect`` and ``mixed`` are those of
    :class:`netjail.Dialer`, and ``context`` is the TLS context for https. Opening raises :class:`DeniedError`
    for what is not accepted, each hop of a redirect included, and URLError for other schemes.

    Raises ValueError for a handler that opens URLs itself (``http_open``, ``default_open`` and the like) and
    for a ProxyHandler. The environment's proxies are never used.
    """
    dialer = Dialer(rules, resolver=resolver, connect=connect, mixed=mixed)
    given = [handler() if isinstance(handler, type) else handler for handler in handlers]
    kept = [default for default in _DEFAULT_HANDLERS if not any(isinstance(handler, default) for handler in given)]
    opener = _Opener()
    for handler in [*(default() for default in kept), _HTTPHandler(dialer), _HTTPSHandler(dialer, context), *given]:
        opener.add_handler(handler)
    return opener


@lru_cache(maxsize=16)
def _shared_opener(rules: Rules | None, mixed: Mixed, context: ssl.SSLContext | None) -> urllib.request.OpenerDirector:
    """An opener without handlers of the caller's own keeps no state, and takes longer to make than to look up."""
    return build_opener(rules, mixed=mixed, context=context)


def urlopen(
    url: str | urllib.request.Request,
    data: Any = None,
    timeout: float | None = DEFAULT_TIMEOUT,
    *,
    rules: RuleSource | None = None,
    resolver: Resolver | None = None,
    connect: Connect | None = None,
    mixed: Mixed = "skip",
    context: ssl.SSLContext | None = None,
) -> Any:
    """``urllib.request.urlopen`` for an http: or https: URL at what the rules accept; see :func:`build_opener`."""
    if resolver is None and connect is None and isinstance(rules, Rules | None):
        opener = _shared_opener(rules, mixed, context)
    else:
        opener = build_opener(rules, resolver=resolver, connect=connect, mixed=mixed, context=context)
    return opener.open(url, data, timeout)
