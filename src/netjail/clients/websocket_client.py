"""websocket-client under rules: its WebSocket and WebSocketApp over sockets that a Dialer connected.

This module knows how websocket-client opens a connection and follows redirects, and nothing of addresses.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false, reportUnknownParameterType=false, reportMissingParameterType=false

from __future__ import annotations

import socket
from functools import partial
from typing import TYPE_CHECKING, Any

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
    :class:`~netjail.Dialer`, the rest are websocket-client's arguments.
    """

    def __init__(
        self,
        rules: RuleSource | None = None,
        *plain: Any,
        resolver: Resolver | None = None,
        connect: Connect | None = None,
        mixed: Mixed = "skip",
        **options: Any,
    ) -> None:
        _refuse(options)
        super().__init__(*plain, **options)
        self._dialer = Dialer(rules, resolver=resolver, connect=connect, mixed=mixed)

    def connect(self, url: str, **options: Any) -> None:
        """Connects to ``url`` as in websocket-client; every hop of a redirect is resolved and judged.

        Raises ValueError for ``http_proxy_host=``, ``proxy_type=`` and ``socket=``; no proxy of the
        environment's is used. Raises :class:`DeniedError` and what websocket-client raises.
        """
        _connect(self, self._dialer.pinned(self._dialer.rules_in_force()), url, options)


def _connect(ws: websocket.WebSocket, dialer: Dialer, url: str, options: dict[str, Any]) -> None:
    """What ``ws``, of netjail's or of a plain class, connects with."""
    _refuse(options)
    hops = options.pop("redirect_limit", 3)
    ws.sock_opt.timeout = options.get("timeout", ws.sock_opt.timeout)
    location = _hop(ws, dialer, url, options)
    while location is not None:
        if hops < 1:
            raise websocket.WebSocketException("Redirect limit exhausted")
        try:
            _ = parse_url(location)
        except ValueError as error:
            raise websocket.WebSocketException(f"Invalid redirect target {location!r}: {error}") from error
        hops, location = hops - 1, _hop(ws, dialer, location, options)


def _hop(ws: websocket.WebSocket, dialer: Dialer, url: str, options: dict[str, Any]) -> str | None:
    """Connects and shakes hands; where that is answered with a redirect, its target, and nothing is open."""
    ws.handshake_response = None
    sock = _opened(ws.sock_opt, dialer, url)
    try:
        plain: Any = websocket.WebSocket.connect
        plain(ws, url, **{**options, "socket": sock, "redirect_limit": 0})
    except websocket.WebSocketException:
        if ws.status not in SUPPORTED_REDIRECT_STATUSES:
            raise  # else it is 1.9 and later, which have this said of a limit of 0
    finally:
        if not ws.connected:
            sock.close()
    if ws.status not in SUPPORTED_REDIRECT_STATUSES:
        return None
    sock.close()
    ws.sock, ws.connected = None, False
    headers: Any = ws.headers
    if "location" not in headers:
        raise websocket.WebSocketException(f"Redirect response without Location header, status {ws.status}")
    return str(headers["location"])


def _opened(sock_opt: Any, dialer: Dialer, url: str) -> Any:
    """A connected socket for ``url``, with TLS where it says so."""
    host, port, _, secure = parse_url(url)
    options = [*websocket.DEFAULT_SOCKET_OPTION, *sock_opt.sockopt]
    try:
        sock = dialer.connect((host, port), sock_opt.timeout, socket_options=options)
    except _errors.DeniedError as denied:
        raise DeniedError.of(denied) from denied
    except socket.gaierror as error:
        raise websocket.WebSocketAddressException(error) from error
    try:
        return _ssl_socket(sock, sock_opt.sslopt, host) if secure else sock
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
        if issubclass(type(made), websocket.WebSocket) and not isinstance(made, WebSocket):
            made.connect = self._connect
        self._sock = made

    def _connect(self, url: str, **options: Any) -> None:
        self._attempts += 1
        try:
            _connect(self._sock, self._pinned, url, options)
        except (DeniedError, ValueError) as error:  # which another attempt would not change
            self.keep_running = False
            if self._attempts > 1:  # websocket-client tells of the first alone
                plain: Any = self
                plain._callback(self.on_error, error)
            raise


def _refuse(options: Mapping[str, Any]) -> None:
    """ValueError for what would connect past the dialer."""
    for name, value in options.items():
        if value is not None and name in ("http_proxy_host", "proxy_type"):
            raise ValueError(f"{name}=: netjail has no proxying yet: a proxy would dial the target outside the rules")
        if value is not None and name == "socket":
            raise ValueError("socket=: nobody has judged it: netjail opens the connection (connect= replaces how)")
