"""websocket-client under rules: its WebSocket and WebSocketApp over sockets that a Dialer connected.

This module knows how websocket-client opens a connection and follows redirects, and nothing of addresses.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false, reportUnknownParameterType=false, reportMissingParameterType=false

from __future__ import annotations

import socket
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import websocket
from websocket._handshake import SUPPORTED_REDIRECT_STATUSES
from websocket._http import _ssl_socket  # pyright: ignore[reportUnknownVariableType]
from websocket._url import parse_url

from .. import _errors
from .._dialer import Dialer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .._dialer import Connect, Mixed
    from .._resolver import Resolver
    from .._rules import RuleSource

__all__ = ["DeniedError", "WebSocket", "WebSocketApp", "create_connection"]


class DeniedError(_errors.DeniedError, websocket.WebSocketException):
    """The rules in force accept no address of the URL's host; also a ``websocket.WebSocketException``."""


class WebSocket(websocket.WebSocket):
    """A ``websocket.WebSocket`` that connects only to what the rules accept.

    ``rules`` and the rules of the context in which :meth:`connect` is called must both accept an address;
    with neither, everything is denied. ``resolver``, ``connect`` and ``mixed`` are as in
    :class:`~netjail.Dialer`, the rest are websocket-client's keywords.
    """

    def __init__(
        self,
        rules: RuleSource | None = None,
        *,
        resolver: Resolver | None = None,
        connect: Connect | None = None,
        mixed: Mixed = "skip",
        **options: Any,
    ) -> None:
        _refuse(options)
        super().__init__(**options)
        self._dialer = Dialer(rules, resolver=resolver, connect=connect, mixed=mixed)

    def connect(self, url: str, **options: Any) -> None:
        """Connects to ``url`` as in websocket-client; every hop of a redirect is resolved and judged.

        Raises ValueError for ``http_proxy_host=``, ``proxy_type=`` and ``socket=``; no proxy of the
        environment's is used. Raises :class:`DeniedError` and what websocket-client raises.
        """
        _refuse(options)
        hops = options.pop("redirect_limit", 3)
        dialer = self._dialer.pinned(self._dialer.rules_in_force())
        self.sock_opt.timeout = options.get("timeout", self.sock_opt.timeout)
        while (location := self._hop(dialer, url, options)) is not None:
            if hops < 1:
                raise websocket.WebSocketException("Redirect limit exhausted")
            hops, url = hops - 1, location

    def _hop(self, dialer: Dialer, url: str, options: dict[str, Any]) -> str | None:
        """Connects and shakes hands; where that is answered with a redirect, its target, and nothing is open."""
        self.handshake_response = None
        sock, plain = self._opened(dialer, url), cast("Any", super())
        try:
            plain.connect(url, **{**options, "socket": sock, "redirect_limit": 0})
        except websocket.WebSocketException:
            if self.status not in SUPPORTED_REDIRECT_STATUSES:
                raise  # else it is 1.9 and later, which have this said of a limit of 0
        finally:
            if not self.connected:
                sock.close()
        if self.status not in SUPPORTED_REDIRECT_STATUSES:
            return None
        sock.close()
        self.sock, self.connected = None, False
        headers: Any = self.headers
        if "location" not in headers:
            raise websocket.WebSocketException(f"Redirect response without Location header, status {self.status}")
        return str(headers["location"])

    def _opened(self, dialer: Dialer, url: str) -> Any:
        """A connected socket for ``url``, with TLS where it says so."""
        try:
            host, port, _, secure = parse_url(url)
        except ValueError as error:
            raise websocket.WebSocketException(f"{url!r} is no URL of a WebSocket: {error}") from error
        options = [*websocket.DEFAULT_SOCKET_OPTION, *self.sock_opt.sockopt]
        try:
            sock = dialer.connect((host, port), self.sock_opt.timeout, socket_options=options)
        except _errors.DeniedError as denied:
            raise DeniedError.of(denied) from denied
        except socket.gaierror as error:
            raise websocket.WebSocketAddressException(error) from error
        try:
            return _ssl_socket(sock, self.sock_opt.sslopt, host) if secure else sock
        except BaseException:
            sock.close()
            raise


def create_connection(
    url: str,
    timeout: float | None = None,
    class_: type[WebSocket] = WebSocket,
    *,
    rules: RuleSource | None = None,
    resolver: Resolver | None = None,
    connect: Connect | None = None,
    mixed: Mixed = "skip",
    **options: Any,
) -> WebSocket:
    """``websocket.create_connection`` under ``rules`` and those of the context. See :class:`WebSocket`."""
    if not issubclass(class_, WebSocket):
        raise TypeError(f"class_ is a subclass of netjail's WebSocket, not {class_!r}, which dials by itself")
    _refuse(options)
    made: Any = partial(class_, rules, resolver=resolver, connect=connect, mixed=mixed)
    plain: Any = websocket.create_connection
    return plain(url, timeout, made, **options)  # type: ignore[no-any-return]


class WebSocketApp(websocket.WebSocketApp):
    """``websocket.WebSocketApp`` under rules, which are read when :meth:`run_forever` is called.

    ``rules``, ``resolver``, ``connect`` and ``mixed`` are as in :class:`WebSocket`, the rest is
    websocket-client's. A denial reaches ``on_error`` as a :class:`DeniedError` and ends ``run_forever``,
    whatever ``reconnect`` says.
    """

    _sock: Any = None

    def __init__(
        self,
        url: str,
        *args: Any,
        rules: RuleSource | None = None,
        resolver: Resolver | None = None,
        connect: Connect | None = None,
        mixed: Mixed = "skip",
        **options: Any,
    ) -> None:
        _refuse(options)
        self._dialer = self._pinned = Dialer(rules, resolver=resolver, connect=connect, mixed=mixed)
        self._attempts = 0
        super().__init__(url, *args, **options)

    def run_forever(self, *args: Any, **options: Any) -> Any:
        """Runs as in websocket-client. Raises ValueError where a proxy is named."""
        _refuse(options)
        self._pinned = self._dialer.pinned(self._dialer.rules_in_force())
        self._attempts = 0
        return super().run_forever(*args, **options)

    @property
    def sock(self) -> Any:
        """The WebSocket in use."""
        return self._sock

    @sock.setter
    def sock(self, made: Any) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        # run_forever makes a plain one for each attempt, and puts it here before it connects it.
        if made is not None:
            made.__class__ = _OfAnApp
            made.begin(self, self._pinned)
        self._sock = made


class _OfAnApp(WebSocket):
    """A WebSocket that ``app`` has made, with what is ours in front."""

    def begin(self, app: WebSocketApp, dialer: Dialer) -> None:
        self._app = app
        self._dialer = dialer
        app._attempts += 1

    def connect(self, url: str, **options: Any) -> None:
        try:
            super().connect(url, **options)
        except DeniedError as denied:
            self._app.keep_running = False
            if self._app._attempts > 1 and self._app.on_error:  # websocket-client tells of the first alone
                self._app.on_error(self._app, denied)
            raise


def _refuse(options: Mapping[str, Any]) -> None:
    """ValueError for what would connect past the dialer."""
    for name, value in options.items():
        if value is not None and name in ("http_proxy_host", "proxy_type"):
            raise ValueError(f"{name}=: netjail has no proxying yet: a proxy would dial the target outside the rules")
        if value is not None and name == "socket":
            raise ValueError("socket=: nobody has judged it: netjail opens the connection (connect= replaces how)")
