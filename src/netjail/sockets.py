"""``socket.socket`` under rules, for what takes a socket, a class of sockets or a factory of them.

This module knows which methods of a socket send something off, and holds no policy: the dialer judges.
"""

from __future__ import annotations

import socket
import sys
from typing import TYPE_CHECKING, Any

from ._addresses import is_literal
from ._dialer import Dialer
from ._errors import DeniedError
from ._race import deadline_after, left_until
from ._resolver import unresolvable

if TYPE_CHECKING:
    from ._dialer import Mixed
    from ._resolver import Resolver
    from ._rules import RuleSource

__all__ = ["Socket", "socket_factory"]

_INET = (socket.AF_INET, socket.AF_INET6)


class Socket(socket.socket):
    """A ``socket.socket`` that connects and sends only to what the rules in force accept.

    The rules are those of the context at the time of the call, and those of :func:`socket_factory`; with
    none, everything is denied. ``connect``, ``connect_ex`` and the addresses of ``sendto`` and ``sendmsg``
    are judged. A name is looked up once, and the first accepted address of the socket's family is used:
    a socket can try one only. A timeout covers the lookup too.

    A denial is raised, also by ``connect_ex``. Families other than IPv4 and IPv6 may listen and accept;
    to connect or send they are denied, since a path has no address that rules could accept. What
    ``accept`` returns is a plain socket, as it is connected already; ``dup`` gives a Socket.
    """

    _dialer = Dialer()

    def connect(self, address: Any, /) -> None:
        """Connects to an accepted address. Raises DeniedError, and what a plain socket raises."""
        self._within_timeout(super().connect, address)

    def connect_ex(self, address: Any, /) -> int:
        """The same with an errno for a failure, but for one to resolve and a denial, which are raised."""
        return self._within_timeout(super().connect_ex, address)  # type: ignore[no-any-return]

    def sendto(self, data: Any, *flags_and_address: Any) -> int:
        """Sends to an accepted address: ``sendto(data, address)`` or ``sendto(data, flags, address)``."""
        if flags_and_address:
            *flags, address = flags_and_address
            flags_and_address = (*flags, self._judged(address))
        return super().sendto(data, *flags_and_address)

    def sendmsg(self, buffers: Any, ancdata: Any = (), flags: int = 0, address: Any = None, /) -> int:
        """Sends to an accepted address, or to the peer if there is no ``address``."""
        return super().sendmsg(buffers, ancdata, flags, None if address is None else self._judged(address))

    def detach(self) -> int:
        """Gives the descriptor away. Raises ValueError if ssl would take a socket that it has yet to connect."""
        caller = sys._getframe(1)
        if caller.f_globals.get("__name__") == "ssl" and not self._needs_no_judging():
            super().detach()
            caller.f_locals["self"].close()  # the SSLSocket in the making has the descriptor now
            raise ValueError("wrap a socket in TLS after it is connected: an SSLSocket connects without being judged")
        return super().detach()

    def _needs_no_judging(self) -> bool:
        """Whether this socket will dial nobody: it is connected, or it listens."""
        if hasattr(socket, "SO_ACCEPTCONN") and self.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return True
        try:
            self.getpeername()
        except OSError:
            return False
        return True

    def _within_timeout(self, connect: Any, address: Any) -> Any:
        timeout = self.gettimeout()
        if not timeout:
            return connect(self._judged(address))
        deadline = deadline_after(timeout)
        judged = self._judged(address)
        self.settimeout(left_until(deadline))
        try:
            return connect(judged)
        finally:
            self.settimeout(timeout)

    def _judged(self, address: Any) -> Any:
        """The address to hand to C for the one that was asked for."""
        if self.family not in _INET:
            raise DeniedError(str(address), 0, reason=f"a socket of {self.family!s} has no address to judge")
        host, port, *rest = address
        if isinstance(host, (bytes, bytearray)):
            host = host.decode("ascii")
        if host == "<broadcast>":  # what Python calls it
            host = "255.255.255.255"
        if rest[1:] and rest[1] and is_literal(host):
            host = f"{host}%{rest[1]}"  # a zone by number
        accepted = self._dialer.resolve((host, port), self.gettimeout() or None, family=self.family, type=self.type)
        for judged in accepted:
            if is_literal(host) or (":" in judged[0]) == (self.family == socket.AF_INET6):
                return judged
        raise unresolvable(host)


def socket_factory(
    rules: RuleSource | None = None, *, resolver: Resolver | None = None, mixed: Mixed = "skip"
) -> type[Socket]:
    """A class of sockets under ``rules``, called like ``socket.socket``, for a library that takes one.

    ``resolver`` and ``mixed`` are those of :class:`~netjail.Dialer`.

    >>> from netjail import PUBLIC
    >>> from netjail.sockets import socket_factory
    >>> with socket_factory(PUBLIC)() as sock:
    ...     sock.connect(("127.0.0.1", 80))
    Traceback (most recent call last):
    netjail.DeniedError: netjail denied the connection to '127.0.0.1' port 80: ...
    """
    return type("Socket", (Socket,), {"_dialer": Dialer(rules, resolver=resolver, mixed=mixed)})
