"""aiosmtplib under rules: its client over a socket that an AsyncDialer connects.

This module knows when aiosmtplib makes a connection, and no policy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import aiosmtplib

from .. import _errors
from .._dialer import AsyncDialer

if TYPE_CHECKING:
    from .._dialer import AsyncConnect, Mixed
    from .._resolver import AsyncResolver
    from .._rules import RuleSource

__all__ = ["SMTP", "DeniedError", "send"]

_OF_A_MESSAGE = {"sender", "recipients", "mail_options", "rcpt_options"}


class DeniedError(_errors.DeniedError, aiosmtplib.SMTPConnectError):
    """The rules in force accept no address of the server; also an ``aiosmtplib.SMTPConnectError``."""

    @property
    def message(self) -> str:  # type: ignore[override]  # pyright: ignore[reportIncompatibleVariableOverride]
        """What aiosmtplib's errors say, by their name for it."""
        return str(self)


class SMTP(aiosmtplib.SMTP):
    """``aiosmtplib.SMTP`` that connects only to what the rules accept: ``SMTP(hostname="mail", rules=PUBLIC)``.

    It takes the plain client's arguments. ``rules`` and the rules of the context that connects must both
    accept an address; with neither, everything is denied. ``resolver``, ``connect`` and ``mixed`` are as in
    :class:`~netjail.AsyncDialer`. ``timeout`` covers the lookup and all addresses of a name, and begins
    anew for TLS and the server's greeting.

    Connecting raises :class:`DeniedError` and what aiosmtplib raises. ``socket_path=`` is denied; a
    connected ``sock=`` passes.
    """

    def __init__(
        self,
        *,
        rules: RuleSource | None = None,
        resolver: AsyncResolver | None = None,
        connect: AsyncConnect | None = None,
        mixed: Mixed = "skip",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._dialer = AsyncDialer(rules, resolver=resolver, connect=connect, mixed=mixed)

    async def _create_connection(self, timeout: float | None) -> aiosmtplib.SMTPResponse:
        if self.sock is not None:
            return await super()._create_connection(timeout)
        port = self.port or self._get_default_port()
        if self.socket_path is not None:
            reason = "a path to a unix socket is no address that rules could accept"
            raise DeniedError(str(self.socket_path), port, reason=reason)
        self.hostname = host = self.hostname or "localhost"
        try:
            self.sock = await self._dialer.connect((host, port), timeout, self.source_address)
        except _errors.DeniedError as denied:
            raise DeniedError.of(denied) from denied
        except TimeoutError as error:
            raise aiosmtplib.SMTPConnectTimeoutError(f"Timed out connecting to {host} on port {port}") from error
        except OSError as error:
            raise aiosmtplib.SMTPConnectError(f"Error connecting to {host} on port {port}: {error}") from error
        try:
            return await super()._create_connection(timeout)
        finally:
            self.sock = None  # the next connection is another one


async def send(message: Any, /, **options: Any) -> Any:
    """``aiosmtplib.send`` through an :class:`SMTP`, whose arguments it takes besides its own, like ``rules=PUBLIC``."""
    of_message = {name: options.pop(name) for name in _OF_A_MESSAGE & options.keys()}
    if not isinstance(message, str | bytes):
        async with SMTP(**options) as client:
            return await client.send_message(message, **of_message)
    for name in ("recipients", "sender"):
        if not of_message.get(name):
            raise ValueError(f"{name.capitalize()} must be provided with raw messages.")
    async with SMTP(**options) as client:
        return await client.sendmail(of_message.pop("sender"), of_message.pop("recipients"), message, **of_message)
