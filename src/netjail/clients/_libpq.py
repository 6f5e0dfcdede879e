"""What libpq would dial for some parameters, and how it is told to dial only addresses that were judged.

libpq resolves and connects in C, but takes the address beside the name: ``host=name hostaddr=ip``. This module
knows libpq's parameters, its environment variables, and none of Python's libraries over it.
"""

from __future__ import annotations

import os
from math import ceil
from typing import TYPE_CHECKING, Any, NamedTuple

from .._addresses import is_literal
from .._errors import DeniedError
from .._race import deadline_after, left_until

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .._dialer import AsyncDialer, Dialer

_ENVIRONMENT = {
    "service": "PGSERVICE",
    "host": "PGHOST",
    "hostaddr": "PGHOSTADDR",
    "port": "PGPORT",
    "connect_timeout": "PGCONNECT_TIMEOUT",
}
_DIALS_BY_ITSELF = {
    "service": "libpq looks a service up by itself, over LDAP too: give what it stands for (is PGSERVICE set?)",
    "oauth_issuer": "libpq would fetch what it names by itself, outside the rules",
}
_DEFAULT_PORT = "5432"


class _Target(NamedTuple):
    """One host of a list: the name that TLS goes by, and the address that was given beside it, either may be empty."""

    name: str
    address: str
    port: str

    def to_resolve(self) -> tuple[str, str]:
        """The host and port to judge; DeniedError for what is no address and has none."""
        host, reason = self.address or self.name, ""
        if self.address:
            if not is_literal(host):
                reason = "hostaddr is to be an IP address in its usual spelling"
        elif not host:
            reason = "without a host libpq takes a unix socket, which is no address that rules could accept"
        elif host.startswith(("/", "@")):
            reason = "a unix socket is no address that rules could accept"
        if reason:
            raise DeniedError(host, int(self.port) if self.port.isdecimal() else 0, reason=reason)
        return host, self.port


class _Plan:
    """Everything that libpq would dial for ``given``, its parameters, and of that what was accepted.

    Raises ValueError where libpq itself would find the parameters at odds.
    """

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._given = given
        for name, reason in _DIALS_BY_ITSELF.items():
            if (value := self._value(name)) is not None:
                raise DeniedError(f"{name}={value}", 0, reason=reason)
        self.targets = self._targets()
        self.deadline = deadline_after(self._timeout())
        self._pinned: list[tuple[str, str, int]] = []
        self._errors: list[OSError] = []

    def _value(self, name: str) -> str | None:
        """A parameter as libpq finds it: where it was not given, in the environment."""
        value = self._given.get(name)
        return os.environ.get(_ENVIRONMENT.get(name, "")) if value is None else str(value)

    def _targets(self) -> list[_Target]:
        names, addresses, ports = ((self._value(name) or "").split(",") for name in ("host", "hostaddr", "port"))
        count = max(len(names), len(addresses))
        for each, what in ((names, "hosts"), (addresses, "values of hostaddr"), (ports, "ports")):
            if len(each) not in (count, 1) or (len(each) == 1 < count and each != [""] and each is not ports):
                raise ValueError(f"{len(each)} {what} do not match {count} hosts")
        rows = zip(*(each * (count // len(each)) for each in (names, addresses, ports)), strict=True)
        return [_Target(name, address, port.strip() or _DEFAULT_PORT) for name, address, port in rows]

    def _timeout(self) -> float | None:
        try:
            seconds = int(float(self._value("connect_timeout") or 0))
        except (ValueError, OverflowError):  # the library will complain, in its own words
            return None
        return max(2, seconds) if seconds > 0 else None  # 2 is libpq's least

    def pin(self, target: _Target, accepted: list[tuple[str, int]]) -> None:
        self._pinned += [(target.name, ip, port) for ip, port in accepted]

    def skip(self, error: OSError) -> None:
        """A host that cannot be dialled is left out, as libpq does where there are others."""
        self._errors.append(error)

    def parameters(self) -> dict[str, str]:
        """What to give libpq over what it was given; the error if nothing was accepted, a denial if there is one."""
        if not self._pinned:
            raise next((error for error in self._errors if isinstance(error, DeniedError)), self._errors[-1])
        names, addresses, ports = (",".join(map(str, each)) for each in zip(*self._pinned, strict=True))
        parameters = {"host": names, "hostaddr": addresses, "port": ports}
        if (left := left_until(self.deadline)) is not None:
            parameters["connect_timeout"] = str(max(2, ceil(left)))
        return parameters


def pinned(dialer: Dialer, given: Mapping[str, Any]) -> dict[str, str]:
    """The parameters that pin ``given``: one host, address and port for each address that was accepted.

    They override what was given and what the environment says. Raises DeniedError, other OSErrors where
    nothing resolves in time, and ValueError.
    """
    plan = _Plan(given)
    for target in plan.targets:
        try:
            plan.pin(target, dialer.resolve(target.to_resolve(), left_until(plan.deadline)))
        except OSError as error:
            plan.skip(error)
    return plan.parameters()


async def pinned_async(dialer: AsyncDialer, given: Mapping[str, Any]) -> dict[str, str]:
    """The same for an AsyncDialer."""
    import asyncio  # noqa: PLC0415 - it takes longer to load than all of netjail

    plan = _Plan(given)
    for target in plan.targets:
        try:
            async with asyncio.timeout(left_until(plan.deadline)):
                plan.pin(target, await dialer.resolve(target.to_resolve()))
        except OSError as error:
            plan.skip(error)
    return plan.parameters()
