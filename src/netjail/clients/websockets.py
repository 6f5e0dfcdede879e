"""websockets under rules, asyncio and threading: its own connectors, whose connections a dialer makes.

This module knows where websockets opens a connection, and nothing of addresses.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from websockets.asyncio import client
from websockets.exceptions import WebSocketException
from websockets.sync import client as threading_client
from websockets.uri import parse_uri

from .. import _errors
from .._dialer import AsyncDialer, Dialer
from .._race import deadline_after, left_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .._dialer import AsyncConnect, Connect, Mixed
    from .._resolver import AsyncResolver, Resolver
    from .._rules import RuleSource

__all__ = ["DeniedError", "connect", "sync_connect"]

_OF_THE_SOCKET = ("timeout", "source_address", "all_errors")  # what goes to socket.create_connection
_SEVENTEEN = hasattr(threading_client, "reconnect")  # websockets 17 and later, which renamed what we override


class DeniedError(_errors.DeniedError, WebSocketException):
    """The rules in force accept no address of the URI's host; also a websockets ``WebSocketException``."""


class connect(client.connect):  # noqa: N801 - websockets' own spelling
    """``websockets.asyncio.client.connect`` under rules: ``async with connect("wss://...", rules=PUBLIC) as ws``.

    ``rules`` and the rules of the context in which a connection is opened must both accept an address;
    with neither, everything is denied. ``resolver``, ``connect`` and ``mixed`` are as in
    :class:`~netjail.AsyncDialer`, the rest as in websockets. Awaiting, ``async with`` and the loop of
    ``async for`` work; each hop of a redirect and each reconnection is resolved and judged anew, and a
    denial ends the loop.

    Raises ValueError for ``proxy=``, ``sock=`` and unix sockets; no proxy of the environment's is used.
    Opening raises :class:`DeniedError` and what websockets raises.
    """

    def __init__(
        self,
        uri: str,
        *,
        rules: RuleSource | None = None,
        resolver: AsyncResolver | None = None,
        connect: AsyncConnect | None = None,
        mixed: Mixed = "skip",
        **options: Any,
    ) -> None:
        super().__init__(uri, **_checked(options))
        self._dialer = AsyncDialer(rules, resolver=resolver, connect=connect, mixed=mixed)
        self.process_exception = partial(_unless_denied, self.process_exception)

    async def open_tcp_connection(self) -> Any:
        """The connection of one hop, before its handshake: what websockets calls for the first and each redirect."""
        new: Any = vars(self)["factory" if _SEVENTEEN else "protocol_factory"]
        options: dict[str, Any] = {**vars(self)["create_connection_kwargs" if _SEVENTEEN else "connection_kwargs"]}
        uri = parse_uri(self.uri)
        host, port = options.pop("host", uri.host), options.pop("port", uri.port)
        for name in ("happy_eyeballs_delay", "interleave"):  # the dialer has a race of its own
            options.pop(name, None)
        if uri.secure:
            options = {"ssl": True, "server_hostname": uri.host, **options}
        if uri.secure is not bool(options.get("ssl")):
            raise ValueError(f"ssl={options['ssl']!r} does not fit {self.uri}")
        with _in_words_of_websockets():
            _, connection = await self._dialer.create_connection(lambda: new(uri), host, port, **options)
        return connection

    create_connection = open_tcp_connection  # its name before websockets 17


if TYPE_CHECKING or _SEVENTEEN:

    class sync_reconnect(threading_client.reconnect):  # noqa: N801 - websockets' own spelling
        """``websockets.sync.client.reconnect`` under rules, from websockets 17 on. See :func:`sync_connect`."""

        def __init__(
            self,
            uri: str,
            *,
            rules: RuleSource | None = None,
            resolver: Resolver | None = None,
            connect: Connect | None = None,
            mixed: Mixed = "skip",
            **options: Any,
        ) -> None:
            super().__init__(uri, **_checked(options))
            self._dialer = Dialer(rules, resolver=resolver, connect=connect, mixed=mixed)
            self.process_exception = partial(_unless_denied, self.process_exception)

        @property
        def sock(self) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
            """None. Raises ValueError where it is to be a socket, which nobody has judged."""

        @sock.setter
        def sock(self, sock: Any) -> None:
            _ = _checked({"sock": sock})

        def open_socket(self, deadline: Any) -> Any:
            """The socket of one hop."""
            target = (self.ws_uri.host, self.ws_uri.port)
            options: dict[str, Any] = {"address": target, "timeout": deadline.timeout(), **self.open_socket_kwargs}
            with _in_words_of_websockets():
                sock = self._dialer.connect(**options)
            sock.settimeout(None)
            return sock

    __all__ += ["sync_reconnect"]


def sync_connect(
    uri: str,
    *,
    rules: RuleSource | None = None,
    resolver: Resolver | None = None,
    connect: Connect | None = None,
    mixed: Mixed = "skip",
    **options: Any,
) -> Any:
    """``websockets.sync.client.connect`` under rules, called in the same way.

    ``rules`` and the rules of the context must both accept an address; with neither, everything is
    denied. ``resolver``, ``connect`` and ``mixed`` are as in :class:`~netjail.Dialer`, the rest as in
    websockets, which follows redirects from version 17 on: each hop is judged.

    Raises ValueError for ``proxy=``, ``sock=`` and unix sockets; no proxy of the environment's is used.
    Raises :class:`DeniedError` and what websockets raises.
    """
    given: dict[str, Any] = {"resolver": resolver, "connect": connect, "mixed": mixed}
    if not _SEVENTEEN:
        return _connected(uri, Dialer(rules, **given), _checked(options))
    legacy = options.pop("legacy", None)
    connecter = sync_reconnect(uri, rules=rules, **given, **options)
    if legacy is False:
        return connecter
    connection = connecter.connect()
    if legacy:
        connection.pending_legacy_warning = False
    return connection


def _connected(uri: str, dialer: Dialer, options: dict[str, Any]) -> Any:
    """The same before websockets 17, which follows no redirects and takes a connected socket."""
    plain: Any = threading_client.connect
    target, deadline = parse_uri(uri), deadline_after(options.get("open_timeout", 10))
    dialing: dict[str, Any] = {"timeout": left_until(deadline)}
    dialing |= {name: options.pop(name) for name in _OF_THE_SOCKET if name in options}
    with _in_words_of_websockets():
        sock = dialer.connect((target.host, target.port), **dialing)
    try:
        sock.settimeout(None)
        return plain(uri, sock=sock, **{**options, "open_timeout": left_until(deadline)})
    except BaseException:
        sock.close()
        raise


def _checked(options: dict[str, Any]) -> dict[str, Any]:
    """``options`` for the plain thing; ValueError where one of them would connect past the dialer."""
    for name, value in options.items():
        if name.startswith("proxy") and value is not None:
            raise ValueError(f"{name}=: netjail has no proxying yet: a proxy would dial the target outside the rules")
        if name in ("sock", "unix", "path") and value is not None:
            raise ValueError(f"{name}=: nobody has judged that: netjail opens the connection (connect= replaces how)")
    return {name: value for name, value in options.items() if not name.startswith("proxy")}


def _unless_denied(decide: Callable[[Exception], Exception | None], error: Exception) -> Exception | None:
    """A ``process_exception``: a denial is fatal, whatever ``decide`` says of other errors."""
    return error if isinstance(error, _errors.DeniedError) else decide(error)


@contextmanager
def _in_words_of_websockets() -> Iterator[None]:
    try:
        yield
    except _errors.DeniedError as denied:
        raise DeniedError.of(denied) from denied
