"""From names to addresses: what a resolver is, and the system's own.

This module does not know which addresses are accepted.
"""

from __future__ import annotations

import _socket
import socket
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from ipaddress import IPv4Address, IPv6Address

_getaddrinfo: Any = socket.getaddrinfo
_STANDARD = _getaddrinfo if getattr(_getaddrinfo, "__globals__", None) is vars(socket) else None
"""The standard library's own, unless something (gevent, say) has put another in its place by now."""


class Resolver(Protocol):
    """Anything that looks names up."""

    def lookup(self, host: str, family: int, /) -> Sequence[str | IPv4Address | IPv6Address]:
        """The addresses of ``host``, best first.

        ``family`` is ``socket.AF_INET``, ``AF_INET6`` or ``AF_UNSPEC`` for both. Raises an OSError, such
        as ``socket.gaierror``, when the lookup fails.
        """
        ...


class AsyncResolver(Protocol):
    """Anything that looks names up and is awaited for it."""

    async def lookup(self, host: str, family: int, /) -> Sequence[str | IPv4Address | IPv6Address]:
        """The same as :meth:`Resolver.lookup`."""
        ...


class SystemResolver:
    """The resolver of the operating system (getaddrinfo): hosts file, search domains, DNS.

    getaddrinfo cannot be stopped; what gives it a deadline goes on without it.
    """

    def lookup(self, host: str, family: int, /) -> Sequence[str]:
        # The standard library's own makes enums of two numbers in each answer, an eighth of what a cached lookup takes.
        ask = _socket.getaddrinfo if socket.getaddrinfo is _STANDARD else socket.getaddrinfo
        try:
            answers = ask(host, None, family, socket.SOCK_STREAM)
        except ValueError:  # an over-long label or a NUL, and UnicodeError is a ValueError
            raise unresolvable(host) from None
        return [str(sockaddr[0]) for *_, sockaddr in answers]


class AsyncSystemResolver:
    """The same, in the running asyncio loop's default executor."""

    async def lookup(self, host: str, family: int, /) -> Sequence[str]:
        from asyncio import get_running_loop  # noqa: PLC0415 - it takes longer to load than all of netjail

        try:
            answers = await get_running_loop().getaddrinfo(host, None, family=family, type=socket.SOCK_STREAM)
        except ValueError:
            raise unresolvable(host) from None
        return [str(sockaddr[0]) for *_, sockaddr in answers]


def unresolvable(host: str) -> socket.gaierror:
    """The error for a name that has no address."""
    return socket.gaierror(socket.EAI_NONAME, f"{host!r} does not resolve to any address")


def port_number(port: int | str, type: int = socket.SOCK_STREAM) -> int:
    """The number of ``port``, which may be a service name. gaierror if there is none."""
    if isinstance(port, str):
        try:
            number = int(port) if port.isascii() and port.isdigit() else -1
            if number < 0:
                number = socket.getservbyname(port, "udp" if type == socket.SOCK_DGRAM else "tcp")
        except (OSError, ValueError):
            number = -1
    else:
        number = port
    if not isinstance(number, int):
        raise TypeError(f"a port is a number or a service name, not {port!r}")
    if not 0 <= number <= 0xFFFF:
        raise socket.gaierror(socket.EAI_SERVICE, f"{port!r} is no port number from 0 to 65535 and no service name")
    return number
