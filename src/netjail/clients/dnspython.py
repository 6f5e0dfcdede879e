"""Resolvers over dnspython, whose lookups end within a deadline, and which ask name servers and nothing else.

This module knows how dnspython asks and fails. It does not know which addresses are accepted.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import dns.asyncresolver
import dns.exception
import dns.resolver

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["AsyncResolver", "Resolver"]

_NO_SUCH_NAME = (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer, dns.exception.SyntaxError)


class _Asking:
    """What the two resolvers are made of."""

    _default: Any

    def __init__(self, resolver: Any = None, *, lifetime: float = 5.0, max_answers: int = 64) -> None:
        if max_answers < 1:
            raise ValueError(f"max_answers={max_answers}: a name needs at least 1")
        if lifetime <= 0:
            raise ValueError(f"lifetime={lifetime}: a lookup needs some seconds")
        self._resolver: Any = self._default() if resolver is None else resolver
        self._lifetime = lifetime
        self._max_answers = max_answers

    def _addresses(self, host: str, answers: Any) -> list[str]:
        addresses = [str(address) for address in answers.addresses()]
        if len(addresses) > self._max_answers:
            # Not cut off: what is left out could not be judged, as mixed="refuse" promises.
            words = f"{host!r} has {len(addresses)} addresses, more than the {self._max_answers} of max_answers"
            raise socket.gaierror(socket.EAI_FAIL, words)
        return addresses


def _failure(host: str, error: Exception) -> OSError:
    """A failed lookup as the system's resolver would tell of it."""
    if isinstance(error, dns.exception.Timeout):
        return TimeoutError(f"no name server answered for {host!r} in time")
    if isinstance(error, _NO_SUCH_NAME):
        return socket.gaierror(socket.EAI_NONAME, f"{host!r} does not resolve to any address")
    return socket.gaierror(socket.EAI_AGAIN, f"{host!r} could not be looked up: {type(error).__name__}")


class Resolver(_Asking):
    """A :class:`netjail.Resolver` over a ``dns.resolver.Resolver``, by default one that reads the system's settings.

    It asks for A and AAAA records, as the rules need them, once for each connection (unless the resolver
    given has a cache). The hosts file and mDNS are not asked. ``lifetime`` is in seconds and covers all
    questions of one lookup, retries included. A name with more than ``max_answers`` addresses is refused.

    ``lookup`` raises ``socket.gaierror`` and TimeoutError. The constructor raises ValueError for a limit
    that leaves nothing.
    """

    _default = dns.resolver.Resolver

    def lookup(self, host: str, family: int, /) -> Sequence[str]:
        """The addresses of ``host``, IPv6 before IPv4."""
        try:
            answers = self._resolver.resolve_name(host, family, lifetime=self._lifetime)
        except (dns.exception.DNSException, UnicodeError) as error:
            raise _failure(host, error) from error
        return self._addresses(host, answers)


class AsyncResolver(_Asking):
    """The same, awaited, on asyncio and trio: an AsyncResolver over a ``dns.asyncresolver.Resolver``."""

    _default = dns.asyncresolver.Resolver

    async def lookup(self, host: str, family: int, /) -> Sequence[str]:
        """The same as :meth:`Resolver.lookup`."""
        try:
            answers = await self._resolver.resolve_name(host, family, lifetime=self._lifetime)
        except (dns.exception.DNSException, UnicodeError) as error:
            raise _failure(host, error) from error
        return self._addresses(host, answers)
