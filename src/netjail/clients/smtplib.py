"""smtplib under rules: its clients over sockets that a Dialer connects.

This module knows where smtplib makes a socket, and no policy.
"""

from __future__ import annotations

import smtplib
from typing import TYPE_CHECKING, Any

from .. import _errors
from ._mail import Ruled, verified

if TYPE_CHECKING:
    import socket

    from .._dialer import Dialer

__all__ = ["LMTP", "SMTP", "SMTP_SSL", "DeniedError"]


class DeniedError(_errors.DeniedError, smtplib.SMTPException):
    """The rules in force accept no address of the server; also an ``smtplib.SMTPException``."""


class _Dialled(smtplib.SMTP):
    _dialer: Dialer
    source_address: Any
    _print_debug: Any

    def _get_socket(self, host: str, port: int, timeout: float | None) -> socket.socket:
        if timeout is not None and not timeout:
            raise ValueError("Non-blocking socket (timeout=0) is not supported")
        if self.debuglevel > 0:
            self._print_debug("connect: to", (host, port), self.source_address)
        self._host = host  # by which TLS checks, also where connect() named it and not the constructor
        try:
            return self._dialer.connect((host, port), timeout, self.source_address)
        except _errors.DeniedError as denied:
            raise DeniedError.of(denied) from denied

    def starttls(self, *plain: Any, **options: Any) -> Any:
        """Goes over to TLS; see smtplib. The default ``context`` checks the certificate and the name."""
        return super().starttls(**verified("context", smtplib.SMTP.starttls, plain, options))


class SMTP(Ruled, _Dialled):
    """``smtplib.SMTP`` that connects only to what the rules accept: ``SMTP("mail.example.com", 587, rules=PUBLIC)``.

    It takes the plain client's arguments. ``rules`` and the rules of the context that connects must both
    accept an address; with neither, everything is denied. ``resolver``, ``connect`` and ``mixed`` are as in
    :class:`~netjail.Dialer`. ``timeout`` covers the lookup and all addresses of a name.

    Connecting raises :class:`DeniedError` and what smtplib raises.
    """


class SMTP_SSL(Ruled, smtplib.SMTP_SSL, _Dialled):  # noqa: N801 - what smtplib calls it
    """``smtplib.SMTP_SSL``, just as :class:`SMTP`. The default ``context`` checks the certificate and the name."""

    def __init__(self, *plain: Any, **options: Any) -> None:
        super().__init__(**verified("context", smtplib.SMTP_SSL.__init__, plain, options))


class LMTP(Ruled, smtplib.LMTP, _Dialled):
    """``smtplib.LMTP``, just as :class:`SMTP`. A path to a unix socket as the host is denied."""

    def connect(self, host: str = "localhost", port: int = 0, source_address: Any = None) -> tuple[int, bytes]:
        """Connects to ``host``; see smtplib."""
        if host.startswith("/"):
            reason = "a path to a unix socket is no address that rules could accept"
            raise DeniedError(host, port, reason=reason)
        return super().connect(host, port, source_address)
