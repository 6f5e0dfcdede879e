"""nats-py under rules: its client, over a transport that an AsyncDialer connects.

This module knows where nats-py makes its transport and keeps its servers, and no policy: the dialer judges.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from nats.aio import client
from nats.aio.transport import TcpTransport
from nats.errors import NoServersError

from .. import _errors
from .._dialer import AsyncDialer

if TYPE_CHECKING:
    from urllib.parse import ParseResult

    from .._dialer import AsyncConnect, Mixed
    from .._resolver import AsyncResolver
    from .._rules import RuleSource

__all__ = ["Client", "DeniedError", "connect"]

_DEFAULT = "nats://localhost:4222"


class DeniedError(_errors.DeniedError, NoServersError):
    """The rules in force accept no address of a server; also a ``nats.errors.NoServersError``."""


class Client(client.Client):
    """``nats.aio.client.Client`` under rules: ``await Client(PUBLIC).connect("nats://...")``.

    ``rules`` and the rules of the context of ``connect`` must both accept an address; with neither,
    everything is denied. They stay those of this client until its next ``connect``, whatever it dials
    meanwhile: other servers of the list, servers that were announced, and all of these again. To publish,
    request or subscribe under rules of a context that are not among them is denied; a context without any
    goes by the client's. ``resolver``, ``connect`` and ``mixed`` are as in :class:`~netjail.AsyncDialer`.
    """

    def __init__(
        self,
        rules: RuleSource | None = None,
        *,
        resolver: AsyncResolver | None = None,
        connect: AsyncConnect | None = None,
        mixed: Mixed = "skip",
    ) -> None:
        self._jail = self._dialer = AsyncDialer(rules, resolver=resolver, connect=connect, mixed=mixed)
        super().__init__()

    async def connect(  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]  # keywords are
        self, servers: str | list[str] = _DEFAULT, **options: Any
    ) -> None:
        """Connects as the plain client does, with its keywords.

        Raises :class:`DeniedError` at once when every server is denied, ValueError for ``ws://`` and
        ``wss://``, and what nats-py raises. A server that is denied while another is left is reported to
        ``error_cb`` and left out from then on.
        """
        self._dialer = self._jail.pinned(self._jail.rules_in_force())
        asked = client.Client()
        asked._setup_server_pool(servers)  # type: ignore[arg-type]  # it takes one of them, too
        await self._check([each.uri for each in asked._server_pool], options.get("connect_timeout"))
        await super().connect(servers, **options)

    async def publish(self, *message: Any, **options: Any) -> None:
        """As in the plain client. Raises :class:`DeniedError` under other rules than it connected under."""
        self._belongs_here()
        await super().publish(*message, **options)

    async def subscribe(self, *subject: Any, **options: Any) -> Any:
        """The same."""
        self._belongs_here()
        plain: Any = super()
        return await plain.subscribe(*subject, **options)

    def _belongs_here(self) -> None:
        """Every request comes by here, too: it publishes. What the client's own tasks send is of its own rules."""
        rules, made_under = self._jail.rules_in_force(), self._dialer.rules_in_force()
        if rules != made_under and not set(rules) <= set(made_under):
            server = self.connected_url
            raise DeniedError(
                (server and server.hostname) or "*",
                (server and server.port) or 0,
                reason="the client was connected under other rules than are in force here: connect one under these",
            )

    async def _check(self, servers: list[ParseResult], timeout: float | None) -> None:
        """DeniedError if all ``servers`` are denied: nats-py would go on trying one after the other, for minutes."""
        if any(each.scheme in ("ws", "wss") for each in servers):
            raise ValueError("nats-py dials ws:// and wss:// through aiohttp: run it on netjail.loop, or use nats://")
        denied: _errors.DeniedError | None = None
        for each in servers:
            try:
                async with asyncio.timeout(timeout or client.DEFAULT_CONNECT_TIMEOUT):
                    await self._dialer.resolve((each.hostname or "", each.port or 0))
            except _errors.DeniedError as error:
                denied = denied or error
            except OSError:
                return  # it has no address now, and may have one when it is dialled
            else:
                return
        if denied is not None:
            raise DeniedError.of(denied)

    @property
    def _transport(self) -> Any:
        """What it speaks through. The plain client makes one when it first dials, of the class that it knows."""
        return self.__dict__.get("_judged")

    @_transport.setter
    def _transport(self, transport: Any) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        if transport is not None and type(transport) is not TcpTransport:
            raise TypeError(f"netjail does not know how {type(transport).__name__} dials")
        self.__dict__["_judged"] = None if transport is None else _Transport(self)


class _Transport(TcpTransport):
    """nats-py's own transport, connected by the dialer of the client that it belongs to."""

    def __init__(self, owner: Client) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._owner = owner

    async def connect(self, uri: ParseResult, buffer_size: int, connect_timeout: int) -> None:
        dialling = self._owner._dialer.open_connection(uri.hostname or "", uri.port or 0, limit=buffer_size)
        try:
            streams = await asyncio.wait_for(dialling, connect_timeout)
        except _errors.DeniedError as denied:
            others = [each for each in self._owner._server_pool if each.uri != uri]
            if others:
                self._owner._server_pool[:] = others
            raise DeniedError.of(denied) from denied
        self._bare_io_reader, self._bare_io_writer = self._io_reader, self._io_writer = streams


async def connect(
    rules: RuleSource | None = None,
    servers: str | list[str] = _DEFAULT,
    *,
    resolver: AsyncResolver | None = None,
    connect: AsyncConnect | None = None,
    mixed: Mixed = "skip",
    **options: Any,
) -> Client:
    """``nats.connect`` under rules: a :class:`Client` that is connected."""
    made = Client(rules, resolver=resolver, connect=connect, mixed=mixed)
    await made.connect(servers, **options)
    return made
