"""paramiko's SSHClient under rules: it is handed a socket that a Dialer connected.

This module knows how an SSHClient connects, and nothing of addresses.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

import paramiko
from paramiko.ssh_exception import NoValidConnectionsError

from netjail._dialer import DEFAULT_TIMEOUT, Dialer
from netjail._errors import DeniedError as Denied

if TYPE_CHECKING:
    from netjail._dialer import Connect, Mixed
    from netjail._resolver import Resolver
    from netjail._rules import RuleSource

__all__ = ["DeniedError", "SSHClient"]


class DeniedError(Denied, paramiko.SSHException):
    """The rules in force do not accept the target. Nothing was sent to it."""


class SSHClient(paramiko.SSHClient):
    """A ``paramiko.SSHClient`` that connects only to what the rules accept.

    ``rules`` and the rules of the context of each ``connect`` must both accept an address; with neither,
    everything is denied. ``resolver``, ``connect`` and ``mixed`` are as in :class:`~netjail.Dialer`.
    """

    def __init__(
        self,
        rules: RuleSource | None = None,
        *,
        resolver: Resolver | None = None,
        connect: Connect | None = None,
        mixed: Mixed = "skip",
    ) -> None:
        super().__init__()
        self._dialer = Dialer(rules, resolver=resolver, connect=connect, mixed=mixed)

    def connect(
        self,
        hostname: str,
        port: int = 22,
        username: str | None = None,
        password: str | None = None,
        pkey: Any = None,
        key_filename: Any = None,
        timeout: float | None = None,
        allow_agent: bool = True,
        look_for_keys: bool = True,
        compress: bool = False,
        sock: Any = None,
        *args: Any,
        **options: Any,
    ) -> Any:
        """Connects and logs in, as paramiko does. Host keys are looked up by ``hostname``.

        ``timeout``, in seconds, covers the lookup and all addresses of the name. A ``sock`` that is given
        was connected elsewhere, like the channel of a jump host, and is taken as it is.

        Raises this module's DeniedError, ValueError for a ``paramiko.ProxyCommand`` and for an address as
        ``sock``, and what paramiko raises.
        """
        if isinstance(sock, paramiko.ProxyCommand):
            raise ValueError("a ProxyCommand is another process, which dials the target itself, unjudged")  # noqa: TRY004
        if isinstance(sock, str | tuple):
            raise ValueError(f"sock={sock!r} is a target, which paramiko would dial itself, unjudged")  # noqa: TRY004
        dialled = None
        if not sock:
            sock = dialled = self._dial(hostname, port, timeout)
        credentials = (username, password, pkey, key_filename, timeout, allow_agent, look_for_keys, compress)
        before = self.get_transport()
        try:
            plain: Any = super().connect
            return plain(hostname, port, *credentials, sock, *args, **options)
        except BaseException:
            if dialled is not None and self.get_transport() is before:  # nobody has taken it over
                dialled.close()
            raise

    def _dial(self, hostname: str, port: int, timeout: float | None) -> Any:
        try:
            return self._dialer.connect((hostname, port), DEFAULT_TIMEOUT if timeout is None else timeout)
        except Denied as denied:
            raise DeniedError.of(denied) from denied
        except OSError as error:
            if error.errno in (errno.ECONNREFUSED, errno.EHOSTUNREACH):
                raise NoValidConnectionsError({(hostname, port): error}) from error
            raise
