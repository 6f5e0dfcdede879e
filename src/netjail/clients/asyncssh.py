"""asyncssh's ``connect`` under rules: the place of its tunnel is taken by an AsyncDialer.

This module knows what asyncssh asks a tunnel for, and nothing of addresses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import asyncssh

from netjail._dialer import AsyncDialer
from netjail._errors import DeniedError

if TYPE_CHECKING:
    from netjail._dialer import AsyncConnect, Mixed
    from netjail._resolver import AsyncResolver
    from netjail._rules import RuleSource

__all__ = ["DeniedError", "connect"]


class _Tunnel:
    """Asked for a connection once asyncssh has settled on a host and a port, whatever its configuration said."""

    def __init__(self, dialer: AsyncDialer, options: dict[str, Any]) -> None:
        self._dialer = dialer
        self._options = options

    async def create_connection(self, session_factory: Any, remote_host: str, remote_port: int) -> Any:
        return await self._dialer.create_connection(session_factory, remote_host, remote_port, **self._options)


def connect(
    host: str = "",
    port: Any = (),
    *,
    rules: RuleSource | None = None,
    resolver: AsyncResolver | None = None,
    connect: AsyncConnect | None = None,
    mixed: Mixed = "skip",
    **options: Any,
) -> Any:
    """``asyncssh.connect`` to what the context's rules and ``rules`` accept, to be awaited or entered.

    ``resolver``, ``connect`` and ``mixed`` are those of :class:`~netjail.AsyncDialer`, ``options`` those of
    ``asyncssh.connect``. Host keys are looked up by name. A ``ProxyJump`` or ``ProxyCommand`` of a
    configuration file is not used. A ``sock`` that is given was connected elsewhere, and is taken as it is.

    Raises ValueError for ``tunnel`` and ``proxy_command``, :class:`~netjail.DeniedError`, an OSError, if no
    address is accepted, and what asyncssh raises.
    """
    for name in ("tunnel", "proxy_command"):
        if options.pop(name, None):
            raise ValueError(f"{name}= dials what nobody has judged: connect to a jump host, then connect_ssh on it")
    local = {name: options.pop(name) for name in ("family", "local_addr") if options.get(name)}
    tunnel = _Tunnel(AsyncDialer(rules, resolver=resolver, connect=connect, mixed=mixed), local)
    return asyncssh.connect(host, port, tunnel=tunnel, **options)
