"""gRPC under rules: channels whose target is looked up and judged here, and handed to the C core as addresses.

This module knows gRPC's targets and channel arguments, and which of them would have the core dial something else.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

import grpc
import grpc.aio

from .. import _errors
from .._dialer import AsyncDialer, Dialer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from .._dialer import Mixed, SocketAddress
    from .._resolver import AsyncResolver, Resolver
    from .._rules import RuleSource

    Options = Sequence[tuple[str, Any]]

__all__ = ["DeniedError", "aio_insecure_channel", "aio_secure_channel", "insecure_channel", "secure_channel"]

_DEFAULT_PORT = "443"
_ELSEWHERE = {
    "unix",
    "unix-abstract",
    "vsock",
    "xds",
    "google-c2p",
    "google-c2p-experimental",
    "binder",
    "http",
    "https",
}
_HELD: dict[str, Any] = {
    "grpc.enable_http_proxy": 0,
    "grpc.address_http_proxy_enabled_addresses": "",  # else those of the environment, which the line above leaves on
    "grpc.service_config_disable_resolution": 1,
    "grpc.use_local_subchannel_pool": 1,  # else channels share connections, whatever rules they were made under
}
_ARGUMENTS_THAT_DIAL = ("grpc.http_proxy", "grpc.address_http_proxy", "grpc.http_connect_server", "grpc.internal.")
_POLICIES_THAT_DIAL = ("rls", "xds", "cds", "grpclb")
_CREDENTIALS_THAT_DIAL = ("ALTS", "ComputeEngine", "XDS")


class DeniedError(_errors.DeniedError, grpc.aio.AioRpcError):
    """The rules in force accept no address of the target, or a call came under others.

    Also a ``grpc.RpcError`` and a ``grpc.aio.AioRpcError``, without metadata.
    """

    def code(self) -> grpc.StatusCode:
        """PERMISSION_DENIED."""
        return grpc.StatusCode.PERMISSION_DENIED

    def details(self) -> str:
        """The message."""
        return str(self)

    debug_error_string = details

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self}>"

    def initial_metadata(self) -> Any:
        """None: nothing was sent."""

    trailing_metadata = initial_metadata


def insecure_channel(
    target: str,
    options: Options | None = None,
    compression: grpc.Compression | None = None,
    *,
    rules: RuleSource | None = None,
    resolver: Resolver | None = None,
    mixed: Mixed = "skip",
    timeout: float | None = None,
) -> grpc.Channel:
    """``grpc.insecure_channel`` to the accepted addresses of ``target``, which is looked up here and now.

    ``rules`` and the context's rules must both accept an address; ``resolver`` and ``mixed`` are as in
    :class:`~netjail.Dialer`, and ``timeout``, in seconds, is for the lookup. The channel belongs to the
    rules in force now: it connects again to the addresses that they accepted, shares no connection with
    another channel, and raises DeniedError for a call that is made under other rules.

    Raises :class:`DeniedError`; ``socket.gaierror``; and ValueError for a target that is no name and no
    address (unix, vsock, xds) and for options that would have the core dial something else.
    """
    bound = _Bound(Dialer(rules, resolver=resolver, mixed=mixed), target, options)
    bound.look_up(timeout)
    return bound.over(grpc.insecure_channel(bound.target, bound.options, compression))


def secure_channel(
    target: str,
    credentials: grpc.ChannelCredentials,
    options: Options | None = None,
    compression: grpc.Compression | None = None,
    *,
    rules: RuleSource | None = None,
    resolver: Resolver | None = None,
    mixed: Mixed = "skip",
    timeout: float | None = None,
) -> grpc.Channel:
    """``grpc.secure_channel``, as :func:`insecure_channel`. The certificate is checked against the target's name.

    Raises ValueError for credentials with which the core dials by itself (ALTS, compute engine, xDS).
    """
    bound = _Bound(Dialer(rules, resolver=resolver, mixed=mixed), target, options, credentials)
    bound.look_up(timeout)
    return bound.over(grpc.secure_channel(bound.target, credentials, bound.options, compression))


async def aio_insecure_channel(
    target: str,
    options: Options | None = None,
    compression: grpc.Compression | None = None,
    interceptors: Sequence[grpc.aio.ClientInterceptor] | None = None,
    *,
    rules: RuleSource | None = None,
    resolver: AsyncResolver | None = None,
    mixed: Mixed = "skip",
) -> grpc.aio.Channel:
    """``grpc.aio.insecure_channel``, awaited, as :func:`insecure_channel`."""
    bound = _Bound(AsyncDialer(rules, resolver=resolver, mixed=mixed), target, options)
    await bound.look_up_async()
    return grpc.aio.insecure_channel(bound.target, bound.options, compression, bound.before(interceptors))


async def aio_secure_channel(
    target: str,
    credentials: grpc.ChannelCredentials,
    options: Options | None = None,
    compression: grpc.Compression | None = None,
    interceptors: Sequence[grpc.aio.ClientInterceptor] | None = None,
    *,
    rules: RuleSource | None = None,
    resolver: AsyncResolver | None = None,
    mixed: Mixed = "skip",
) -> grpc.aio.Channel:
    """``grpc.aio.secure_channel``, awaited, as :func:`secure_channel`."""
    bound = _Bound(AsyncDialer(rules, resolver=resolver, mixed=mixed), target, options, credentials)
    await bound.look_up_async()
    return grpc.aio.secure_channel(bound.target, credentials, bound.options, compression, bound.before(interceptors))


class _Bound:
    """One target under the rules in force when it was made, and the check that a call is made under the same."""

    target: str

    def __init__(
        self,
        dialer: Any,
        target: str,
        options: Options | None,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        self._dialer = dialer
        self._rules = dialer.rules_in_force()
        self._pinned = dialer.pinned(self._rules)
        self._asked, authority = _asked(target)
        _check_credentials(credentials)
        self.options = _checked(tuple(options or ()), authority)

    def look_up(self, timeout: float | None) -> None:
        try:
            self._pin([each for asked in self._asked for each in self._pinned.resolve(asked, timeout)])
        except _errors.DeniedError as denied:
            raise DeniedError.of(denied) from denied

    async def look_up_async(self) -> None:
        try:
            self._pin([each for asked in self._asked for each in await self._pinned.resolve(asked)])
        except _errors.DeniedError as denied:
            raise DeniedError.of(denied) from denied

    def _pin(self, accepted: list[SocketAddress]) -> None:
        """A target of addresses. gRPC has none of both families, so the IPv4 ones of such are written as IPv6."""
        six = any(":" in ip for ip, _ in accepted)
        mapped = [(ip if ":" in ip or not six else f"::ffff:{ip}", port) for ip, port in accepted]
        written = [f"[{ip}]:{port}" if six else f"{ip}:{port}" for ip, port in mapped]
        self.target = f"ipv{6 if six else 4}:{','.join(written)}"

    def check(self) -> None:
        if self._dialer.rules_in_force() != self._rules:
            host, port = self._asked[0]
            raise DeniedError(host, int(port) if port.isdigit() else 0, reason="the channel was made under other rules")

    def over(self, channel: grpc.Channel) -> grpc.Channel:
        return grpc.intercept_channel(channel, _Checks(self.check))

    def before(self, interceptors: Sequence[Any] | None) -> list[Any]:
        checks = [kind(self.check) for kind in (_AioUnaryUnary, _AioUnaryStream, _AioStreamUnary, _AioStreamStream)]
        return [*checks, *(interceptors or ())]


def _asked(target: str) -> tuple[list[tuple[str, str]], str]:
    """The hosts and ports of a target, and the authority that gRPC would make of it."""
    scheme, _, rest = target.partition(":")
    if scheme.lower() in _ELSEWHERE:
        raise ValueError(f"{target!r}: {scheme}: is no name and no address that rules could accept")
    if scheme in ("ipv4", "ipv6"):
        rest = rest.lstrip("/")
        return [_host_port(part) for part in rest.split(",")], rest.partition(",")[0]
    if scheme == "dns":
        server, _, rest = rest[2:].partition("/") if rest.startswith("//") else ("", "", rest)
        if server:
            raise ValueError(f"{target!r}: the core would ask this DNS server by itself; use resolver=")
        target = rest
    if "/" in target or not target:
        raise ValueError(f"{target!r}: give host:port")
    return [_host_port(target)], target


def _host_port(text: str) -> tuple[str, str]:
    if text.startswith("["):
        host, _, port = text[1:].partition("]")
        return host, port.removeprefix(":") or _DEFAULT_PORT
    if text.count(":") == 1:
        host, _, port = text.partition(":")
        return host, port or _DEFAULT_PORT
    return text, _DEFAULT_PORT


def _checked(options: Options, authority: str) -> list[tuple[str, Any]]:
    """The channel arguments; ValueError for those that would have the core dial something else."""
    given = [(_text(name), _text(value)) for name, value in options]
    for name, value in given:
        if value != _HELD.get(name, value) or (name not in _HELD and name.startswith(_ARGUMENTS_THAT_DIAL)):
            raise ValueError(f"{name}={value!r}: the core would dial outside the rules")
        policies = _names(json.loads(value)) if name == "grpc.service_config" else [value]
        if name in ("grpc.service_config", "grpc.lb_policy_name") and any(
            str(policy).lower().startswith(_POLICIES_THAT_DIAL) for policy in policies
        ):
            raise ValueError(f"{name}: {', '.join(_POLICIES_THAT_DIAL)} dial what a server announces")
    defaults = {"grpc.default_authority": authority, **_HELD}
    names = {name for name, _ in given}
    return [*options, *((name, value) for name, value in defaults.items() if name not in names)]


def _text(value: Any) -> Any:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _names(config: object) -> Iterator[str]:
    """Every name in a service config by which it could mean a policy."""
    if isinstance(config, list):
        for each in cast("list[object]", config):
            yield from _names(each)
    elif isinstance(config, dict):
        for name, value in cast("dict[str, object]", config).items():
            yield name
            if name == "loadBalancingPolicy":
                yield str(value)
            yield from _names(value)


def _check_credentials(credentials: grpc.ChannelCredentials | None) -> None:
    inner: Any = getattr(credentials, "_credentials", None)
    while hasattr(inner, "_channel_credentials"):  # composite
        inner = inner._channel_credentials
    if type(inner).__name__.startswith(_CREDENTIALS_THAT_DIAL):
        raise ValueError(f"{type(inner).__name__}: the core would dial with these by itself")


class _Check:
    def __init__(self, check: Callable[[], None]) -> None:
        self._check = check

    def _go_on(self, continuation: Callable[[Any, Any], Any], details: Any, request: Any) -> Any:
        self._check()
        return continuation(details, request)


_go_on: Any = _Check._go_on  # its signature serves for all kinds of calls


class _Checks(
    _Check,
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    intercept_unary_unary = intercept_unary_stream = _go_on
    intercept_stream_unary = intercept_stream_stream = _go_on


class _AioCheck(_Check):
    async def _go_on_async(self, continuation: Callable[[Any, Any], Any], details: Any, request: Any) -> Any:
        return await self._go_on(continuation, details, request)


_go_on_async: Any = _AioCheck._go_on_async


class _AioUnaryUnary(_AioCheck, grpc.aio.UnaryUnaryClientInterceptor):
    intercept_unary_unary = _go_on_async


class _AioUnaryStream(_AioCheck, grpc.aio.UnaryStreamClientInterceptor):
    intercept_unary_stream = _go_on_async


class _AioStreamUnary(_AioCheck, grpc.aio.StreamUnaryClientInterceptor):
    intercept_stream_unary = _go_on_async


class _AioStreamStream(_AioCheck, grpc.aio.StreamStreamClientInterceptor):
    intercept_stream_stream = _go_on_async
