"""imaplib under rules: its clients over sockets that a Dialer connects.

This module knows where imaplib makes a socket, and no policy.
"""

from __future__ import annotations

import imaplib
import sys
from typing import TYPE_CHECKING, Any

from .. import _errors
from .._dialer import DEFAULT_TIMEOUT
from ._mail import Ruled, verified

if TYPE_CHECKING:
    import socket
    import ssl

    from .._dialer import Dialer

__all__ = ["IMAP4", "IMAP4_SSL", "DeniedError"]


class DeniedError(_errors.DeniedError, imaplib.IMAP4.error):
    """The rules in force accept no address of the server; also an ``imaplib.IMAP4.error``."""


class IMAP4(Ruled, imaplib.IMAP4):
    """``imaplib.IMAP4`` that connects only to what the rules accept: ``IMAP4("mail.example.com", rules=PUBLIC)``.

    It takes the plain client's arguments. ``rules`` and the rules of the context that connects must both
    accept an address; with neither, everything is denied. ``resolver``, ``connect`` and ``mixed`` are as in
    :class:`~netjail.Dialer`. ``timeout`` covers the lookup and all addresses of a name.

    Connecting raises :class:`DeniedError` and what imaplib raises.
    """

    _dialer: Dialer

    def _create_socket(self, timeout: float | None) -> socket.socket:
        if timeout is not None and not timeout:
            raise ValueError("Non-blocking socket (timeout=0) is not supported")
        sys.audit("imaplib.open", self, self.host, self.port)
        address = (self.host or "localhost", self.port)
        try:
            return self._dialer.connect(address, DEFAULT_TIMEOUT if timeout is None else timeout)
        except _errors.DeniedError as denied:
            raise DeniedError.of(denied) from denied

    def starttls(self, ssl_context: ssl.SSLContext | None = None) -> Any:
        """Goes over to TLS; see imaplib. The default ``ssl_context`` checks the certificate and the name."""
        return super().starttls(**verified("ssl_context", imaplib.IMAP4.starttls, (ssl_context,), {}))


class IMAP4_SSL(IMAP4, imaplib.IMAP4_SSL):  # noqa: N801 - what imaplib calls it
    """``imaplib.IMAP4_SSL``, just as :class:`IMAP4`. The default ``ssl_context`` checks certificate and name."""

    def __init__(self, *plain: Any, **options: Any) -> None:
        super().__init__(**verified("ssl_context", imaplib.IMAP4_SSL.__init__, plain, options))

    def _create_socket(self, timeout: float | None) -> socket.socket:
        context: ssl.SSLContext = self.ssl_context
        return context.wrap_socket(super()._create_socket(timeout), server_hostname=self.host or "localhost")
