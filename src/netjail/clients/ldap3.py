"""ldap3's Server under rules: the addresses that a Connection tries are those that a Dialer accepted.

This module knows what a Connection asks its Server for, and nothing of addresses.
"""

# pyright: reportUnknownMemberType=false

from __future__ import annotations

import socket
import ssl
import sys
from typing import TYPE_CHECKING, Any

import ldap3
from ldap3.core.exceptions import LDAPSocketOpenError

from netjail._dialer import Dialer
from netjail._errors import DeniedError as Denied

if TYPE_CHECKING:
    from collections.abc import Iterable

    from netjail._dialer import Mixed
    from netjail._resolver import Resolver
    from netjail._rules import Decision, RuleSource

__all__ = ["DeniedError", "Server"]

_FAMILIES = {ldap3.IP_V4_ONLY: socket.AF_INET, ldap3.IP_V6_ONLY: socket.AF_INET6}


class DeniedError(Denied, LDAPSocketOpenError):
    """The rules in force do not accept the target. Nothing was sent to it."""

    def __init__(
        self,
        host: str,
        port: int | None = None,
        decisions: Iterable[Decision] = (),
        reason: str = "not accepted by the rules",
    ) -> None:
        # Where ldap3 is about to try again, it keeps a copy of the error, made of its text: this one ends that.
        if port is None:
            raise sys.exception() or TypeError("a denial has a port")
        super().__init__(host, port, decisions, reason)


class Server(ldap3.Server):
    """An ``ldap3.Server`` whose connections reach only what the rules accept.

    ``rules`` and the rules of the context in which a connection is opened must both accept an address;
    with neither, everything is denied. ``resolver`` and ``mixed`` are as in :class:`~netjail.Dialer`, the
    rest as in ldap3. With a ``connect_timeout``, in seconds, so long may the lookup take, and then the
    attempt at each address.

    Without ``tls`` a certificate must be valid, for the name of the host, where ldap3 checks nothing.
    Referrals are not followed.

    Raises ValueError for ``ldapi://`` and ``allowed_referral_hosts``. Opening a connection raises this
    module's DeniedError, and what ldap3 raises.
    """

    def __init__(
        self,
        rules: RuleSource | None = None,
        host: str = "",
        port: int | None = None,
        use_ssl: bool = False,
        allowed_referral_hosts: Any = None,
        get_info: Any = ldap3.SCHEMA,
        tls: ldap3.Tls | None = None,
        *plain: Any,
        resolver: Resolver | None = None,
        mixed: Mixed = "skip",
        **options: Any,
    ) -> None:
        self.allowed_referral_hosts = allowed_referral_hosts
        self._dialer = Dialer(rules, resolver=resolver, mixed=mixed)
        tls = ldap3.Tls(validate=ssl.CERT_REQUIRED) if tls is None else tls
        super().__init__(host, port, use_ssl, [], get_info, tls, *plain, **options)
        if self.ipc:
            raise ValueError("a unix socket has no address to judge")

    @property
    def allowed_referral_hosts(self) -> list[Any]:
        """None: ldap3 would dial them itself. Raises ValueError where it is to be others."""
        return []

    @allowed_referral_hosts.setter
    def allowed_referral_hosts(self, hosts: Any) -> None:
        if hosts:
            raise ValueError("ldap3 would dial the hosts of referrals itself, unjudged: make a Server for each instead")

    def candidate_addresses(self) -> list[list[Any]]:
        """The accepted addresses in the order to try them: a Connection asks each time that it opens a socket."""
        try:
            accepted = self._dialer.resolve(
                (self.host, self.port), self.connect_timeout, family=_FAMILIES.get(self.mode, socket.AF_UNSPEC)
            )
        except Denied as denied:
            raise DeniedError.of(denied) from denied
        if self.mode in (ldap3.IP_V4_PREFERRED, ldap3.IP_V6_PREFERRED):
            accepted.sort(key=lambda target: (":" in target[0]) == (self.mode == ldap3.IP_V4_PREFERRED))
        return [
            [socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_STREAM, 0, "", (ip, port), None, None]
            for ip, port in accepted
        ]
