"""ftplib under rules: both the control connection and the data connections are dialled by a Dialer.

This module knows ftplib's two classes, and nothing of addresses.
"""

from __future__ import annotations

import ftplib
import ssl
import sys
from typing import TYPE_CHECKING, Any

from netjail._dialer import Dialer
from netjail._errors import DeniedError

if TYPE_CHECKING:
    import socket

    from netjail._dialer import Connect, Mixed
    from netjail._resolver import Resolver
    from netjail._rules import RuleSource

__all__ = ["FTP", "FTP_TLS", "DeniedError"]


class _Dialled(ftplib.FTP):
    """What dials in either class."""

    _dialer: Dialer
    _data_dialer: Dialer
    """The dialer under the rules that the control connection was made under."""

    def connect(
        self, host: str = "", port: int = 0, timeout: float | None = -999, source_address: tuple[str, int] | None = None
    ) -> str:
        """Connects to ``host``, as ftplib does, if the rules in force here and now accept it."""
        this: Any = self  # typeshed leaves some of ftplib's attributes out
        this.host = host or this.host
        this.port = port if port > 0 else this.port
        this.timeout = this.timeout if timeout == -999 else timeout
        this.source_address = this.source_address if source_address is None else source_address
        if this.timeout is not None and not this.timeout:
            raise ValueError("Non-blocking socket (timeout=0) is not supported")
        sys.audit("ftplib.connect", self, this.host, this.port)
        self._data_dialer = self._dialer.pinned(self._dialer.rules_in_force())
        sock = self._data_dialer.connect((this.host, this.port), this.timeout, this.source_address)
        this.sock, this.af = sock, sock.family
        this.file = sock.makefile("r", encoding=this.encoding)
        this.welcome = this.getresp()
        return this.welcome  # type: ignore[no-any-return]

    def ntransfercmd(self, cmd: str, rest: int | str | None = None) -> tuple[socket.socket, int | None]:
        """Starts a transfer. The address that a server announces for its data is judged like any other."""
        if not self.passiveserver:  # the server connects to us
            return super().ntransfercmd(cmd, rest)
        this: Any = self
        conn = self._data_dialer.connect(self.makepasv(), this.timeout, this.source_address)
        try:
            return conn, self._begin(cmd, rest)
        except BaseException:
            conn.close()
            raise

    def _begin(self, cmd: str, rest: int | str | None) -> int | None:
        """Has the server begin, over a data connection that stands; the size of what will come, where it says so."""
        if rest is not None:
            self.sendcmd(f"REST {rest}")
        answer = self.sendcmd(cmd)
        if answer.startswith("2"):  # some servers say 200 before 150
            answer = self.getresp()
        if not answer.startswith("1"):
            raise ftplib.error_reply(answer)  # noqa: S321 - it is what this module is for
        return ftplib.parse150(answer) if answer.startswith("150") else None  # noqa: S321 - as above


class FTP(_Dialled):
    """An ``ftplib.FTP`` that connects only to what the rules accept.

    ``rules`` and the rules of the context of each ``connect`` must both accept an address; with neither,
    everything is denied. Data connections are judged by the rules of their control connection.
    ``resolver``, ``connect`` and ``mixed`` are as in :class:`~netjail.Dialer`, the rest as in ftplib.

    Raises :class:`~netjail.DeniedError`, an OSError and so among ``ftplib.all_errors``, and what ftplib raises.
    """

    def __init__(
        self,
        rules: RuleSource | None = None,
        host: str = "",
        user: str = "",
        passwd: str = "",
        acct: str = "",
        *plain: Any,
        resolver: Resolver | None = None,
        connect: Connect | None = None,
        mixed: Mixed = "skip",
        **options: Any,
    ) -> None:
        self._dialer = Dialer(rules, resolver=resolver, connect=connect, mixed=mixed)
        super().__init__(host, user, passwd, acct, *plain, **options)


class FTP_TLS(ftplib.FTP_TLS, _Dialled):  # noqa: N801 - ftplib's name
    """The same for ``ftplib.FTP_TLS``. Certificates are checked against the host's name on both connections.

    Without a ``context`` that is done by ``ssl.create_default_context()``, where ftplib checks nothing.
    """

    def __init__(
        self,
        rules: RuleSource | None = None,
        host: str = "",
        user: str = "",
        passwd: str = "",
        acct: str = "",
        *,
        context: ssl.SSLContext | None = None,
        resolver: Resolver | None = None,
        connect: Connect | None = None,
        mixed: Mixed = "skip",
        **options: Any,
    ) -> None:
        self._dialer = Dialer(rules, resolver=resolver, connect=connect, mixed=mixed)
        context = ssl.create_default_context() if context is None else context
        super().__init__(host, user, passwd, acct, context=context, **options)
