"""poplib under rules: its clients over sockets that a Dialer connects.

This module knows where poplib makes a socket, and no policy.
"""

from __future__ import annotations

import poplib
from typing import TYPE_CHECKING, Any

from .. import _errors
from ._mail import Ruled, verified

if TYPE_CHECKING:
    import socket
    import ssl

    from .._dialer import Dialer

__all__ = ["POP3", "POP3_SSL", "DeniedError"]


class DeniedError(_errors.DeniedError, poplib.error_proto):
    """The rules in force accept no address of the server; also a ``poplib.error_proto``."""


class POP3(Ruled, poplib.POP3):
    """``poplib.POP3`` that connects only to what the rules accept: ``POP3("mail.example.com", rules=PUBLIC)``.

    It takes the plain client's arguments. ``rules`` and the rules of the context that connects must both
    accept an address; with neither, everything is denied. ``resolver``, ``connect`` and ``mixed`` are as in
    :class:`~netjail.Dialer`. ``timeout`` covers the lookup and all addresses of a name.

    Connecting raises :class:`DeniedError` and what poplib raises.
    """

    _dialer: Dialer

    def _create_socket(self, timeout: float | None) -> socket.socket:
        if timeout is not None and not timeout:
            raise ValueError("Non-blocking socket (timeout=0) is not supported")
        try:
            return self._dialer.connect((self.host, self.port), timeout)
        except _errors.DeniedError as denied:
            raise DeniedError.of(denied) from denied

    def stls(self, context: ssl.SSLContext | None = None) -> Any:
        """Goes over to TLS; see poplib. The default ``context`` checks the certificate and the name."""
        return super().stls(**verified("context", poplib.POP3.stls, (context,), {}))


class POP3_SSL(POP3, poplib.POP3_SSL):  # type: ignore[misc]  # noqa: N801 - what poplib calls it
    """``poplib.POP3_SSL``, just as :class:`POP3`. The default ``context`` checks the certificate and the name."""

    context: ssl.SSLContext

    def __init__(self, *plain: Any, **options: Any) -> None:
        super().__init__(**verified("context", poplib.POP3_SSL.__init__, plain, options))

    def _create_socket(self, timeout: float | None) -> socket.socket:
        return self.context.wrap_socket(super()._create_socket(timeout), server_hostname=self.host)
