"""niquests under rules, sync and asyncio: sessions whose connections go to judged addresses, over TCP and over QUIC.

This module knows how a session, its adapters and its resolver of names hang together, and no policy.
"""
# niquests cannot be where the other clients are, as it puts a fork of its own in the place of urllib3.
# mypy: disallow-subclassing-any=false, disable-error-code="misc"
# pyright: reportMissingImports=false, reportUnknownVariableType=false, reportUnknownMemberType=false
# pyright: reportUnknownArgumentType=false, reportUntypedBaseClass=false, reportUnknownParameterType=false

from __future__ import annotations

import asyncio
import inspect
import socket
import weakref
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import niquests
from niquests.adapters import AsyncBaseAdapter, AsyncHTTPAdapter, BaseAdapter, HTTPAdapter
from niquests.exceptions import RequestException
from niquests.packages.urllib3.contrib.resolver import BaseResolver, ProtocolResolver
from niquests.packages.urllib3.contrib.resolver._async import AsyncBaseResolver

from .. import _errors
from .._dialer import AsyncDialer, Dialer
from .._pools import Pools
from .._race import deadline_after, left_until

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from .._dialer import Mixed, SocketAddress
    from .._resolver import AsyncResolver, Resolver
    from .._rules import RuleSource

__all__ = ["AsyncSession", "DeniedError", "Session"]


class DeniedError(_errors.DeniedError, RequestException):
    """The rules in force do not accept the target; also a ``niquests.exceptions.RequestException``."""

    request: Any = None
    response: Any = None


class _Carrier(Exception):  # noqa: N818 - nobody is to catch it
    """Takes a denial through a pool, which retries every OSError."""

    def __init__(self, denied: _errors.DeniedError) -> None:
        super().__init__(str(denied))
        self.denied = denied


@contextmanager
def _in_words_of_niquests(request: Any) -> Iterator[None]:
    try:
        yield
    except _Carrier as carrier:
        own = DeniedError.of(carrier.denied)
        own.request = request
        raise own from carrier.denied


# Resolvers, which in niquests connect as well. What they are told of ECH and of upgrades by DNS is left out.


def _records(accepted: Iterable[SocketAddress], kind: socket.SocketKind) -> list[Any]:
    """As getaddrinfo gives them."""
    return [
        (socket.AF_INET6, kind, 0, "", (*address, 0, 0))
        if ":" in address[0]
        else (socket.AF_INET, kind, 0, "", address)
        for address in accepted
    ]


def _seconds(timeout: Any) -> float | None:
    return timeout if timeout is None or isinstance(timeout, (int, float)) else socket.getdefaulttimeout()


class _Answer(BaseResolver):
    """One record, for whatever name."""

    protocol = ProtocolResolver.MANUAL
    implementation = "netjail"

    def __init__(self, record: Any) -> None:
        super().__init__(None)
        self._record = record

    def recycle(self) -> Any:
        return self

    def is_available(self) -> bool:
        return True  # where one is not, a session makes adapters of its own

    def close(self) -> None:
        pass

    def getaddrinfo(self, *_: Any, **__: Any) -> list[Any]:
        return [self._record]


class _Judged(_Answer):
    """The addresses that a Dialer accepts. A denial travels as a ``_Carrier`` where ``carried``."""

    def __init__(self, dialer: Dialer, *, carried: bool) -> None:
        super().__init__(None)
        self._dialer = dialer
        self._carried = carried

    def getaddrinfo(
        self, host: Any, port: Any, family: Any, type: Any, *_: Any, timeout: float | None = None, **__: Any
    ) -> list[Any]:
        try:
            return _records(self._dialer.resolve((host, port), timeout, family=family, type=type), type)
        except _errors.DeniedError as denied:
            if self._carried:
                raise _Carrier(denied) from denied
            raise

    def create_connection(
        self,
        address: tuple[str, int],
        timeout: Any = None,
        *args: Any,
        socket_kind: Any = socket.SOCK_STREAM,
        default_socket_family: Any = socket.AF_UNSPEC,
        **options: Any,
    ) -> Any:
        """A connection to the first accepted address that answers, within ``timeout`` for all of it."""
        seconds = _seconds(timeout)
        deadline = deadline_after(seconds)
        host, port = address[0].strip("[]"), address[1]
        failed: OSError | None = None
        for record in self.getaddrinfo(host, port, default_socket_family, socket_kind, timeout=seconds):
            try:
                return _Answer(record).create_connection(
                    address, left_until(deadline), *args, socket_kind=socket_kind, **options
                )
            except OSError as error:
                failed = error
        raise failed or OSError(f"{host!r} has no address")


class _AsyncJudged(AsyncBaseResolver):
    """The same for asyncio."""

    protocol = ProtocolResolver.MANUAL
    implementation = "netjail"

    def __init__(self, dialer: AsyncDialer, *, carried: bool) -> None:
        super().__init__(None)
        self._dialer = dialer
        self._carried = carried

    def recycle(self) -> Any:
        return self

    def is_available(self) -> bool:
        return True

    async def close(self) -> None:
        pass

    async def getaddrinfo(self, host: Any, port: Any, family: Any, type: Any, *_: Any, **__: Any) -> list[Any]:
        try:
            return _records(await self._dialer.resolve((host, port), family=family, type=type), type)
        except _errors.DeniedError as denied:
            if self._carried:
                raise _Carrier(denied) from denied
            raise

    async def create_connection(self, address: tuple[str, int], timeout: Any = None, *args: Any, **options: Any) -> Any:
        async with asyncio.timeout(_seconds(timeout)):
            return await super().create_connection(address, timeout, *args, **options)


# Adapters: one of niquests' own for each rules in force, behind one that chooses among them.


class _Inner(HTTPAdapter):
    def send(self, request: Any, *args: Any, **options: Any) -> Any:
        with _in_words_of_niquests(request):
            return super().send(request, *args, **options)


class _AsyncInner(AsyncHTTPAdapter):
    async def send(self, request: Any, *args: Any, **options: Any) -> Any:
        with _in_words_of_niquests(request):
            return await super().send(request, *args, **options)


def _new(options: Mapping[str, Any], dialer: Dialer, rules: Any) -> _Inner:
    """The adapter of ``rules``, which also judge whatever it dials later."""
    pinned = dialer.pinned(rules)
    inner = _Inner(resolver=_Judged(pinned, carried=True), **options)
    inner._resolver = _Judged(pinned, carried=False)  # with which it asks whether a certificate was revoked
    weakref.finalize(inner, inner.poolmanager.clear)
    return inner


def _new_async(options: Mapping[str, Any], dialer: AsyncDialer, rules: Any) -> _AsyncInner:
    pinned = dialer.pinned(rules)
    inner = _AsyncInner(resolver=_AsyncJudged(pinned, carried=True), **options)
    inner._resolver = _AsyncJudged(pinned, carried=False)
    weakref.finalize(inner, _clear_later, asyncio.get_running_loop(), inner.poolmanager)
    return inner


def _clear_later(loop: asyncio.AbstractEventLoop, manager: Any) -> None:
    """Closes what idles, from a garbage collection perhaps, in any thread."""
    with suppress(RuntimeError):  # the loop is closed
        loop.call_soon_threadsafe(lambda: loop.create_task(manager.clear()))


class _Adapter(BaseAdapter):
    """What a Session mounts."""

    def __init__(self, dialer: Dialer, options: Mapping[str, Any]) -> None:
        super().__init__()
        self._dialer = dialer
        self._pools: Pools[Any] = Pools(partial(_new, options, dialer), 256)

    def send(self, request: Any, *args: Any, proxies: Any = None, **options: Any) -> Any:
        _refuse(proxies)
        return self._pools.get(self._dialer.rules_in_force()).send(request, *args, **options)

    def gather(self, *responses: Any, **options: Any) -> None:
        for inner in self._pools.alive():
            inner.gather(*responses, **options)

    def close(self) -> None:
        for inner in self._pools.clear():
            inner.close()


class _AsyncAdapter(AsyncBaseAdapter):
    def __init__(self, dialer: AsyncDialer, options: Mapping[str, Any]) -> None:
        super().__init__()
        self._dialer = dialer
        self._pools: Pools[Any] = Pools(partial(_new_async, options, dialer), 256)

    async def send(self, request: Any, *args: Any, proxies: Any = None, **options: Any) -> Any:
        _refuse(proxies)
        return await self._pools.get(self._dialer.rules_in_force()).send(request, *args, **options)

    async def gather(self, *responses: Any, **options: Any) -> None:
        for inner in self._pools.alive():
            await inner.gather(*responses, **options)

    async def close(self) -> None:
        for inner in self._pools.clear():
            await inner.close()


def _refuse(proxies: Mapping[str, Any] | None) -> None:
    if any(proxy for scheme, proxy in (proxies or {}).items() if scheme != "no_proxy"):
        raise ValueError("proxies=: netjail has no proxying yet: a proxy would dial the target outside the rules")


def _checked(options: dict[str, Any]) -> dict[str, Any]:
    """A session's keywords. ValueError where they name proxies."""
    _refuse(options.get("proxies"))
    # Checks of revocation are off unless asked for: they are made by plain sessions of niquests' own, which are
    # handed our resolver, and follow redirects to unix sockets.
    return {"revocation_configuration": None, **options}


def _mount(session: Any, kind: Any, options: Mapping[str, Any], make: Any) -> None:
    """Puts adapters of ours in the place of those that niquests has mounted; there is none for unix sockets."""
    session.trust_env = False
    session.adapters.pop("http+unix://", None)
    known = inspect.signature(kind).parameters
    given = {name: value for name, value in options.items() if name in known}
    given["max_retries"] = session.retries
    session.mount("http://", make(given))
    session.mount("https://", make({**given, "quic_cache_layer": session.quic_cache_layer}))


class Session(niquests.Session):
    """A ``niquests.Session`` that connects only to what the rules accept, over TCP and over QUIC.

    ``rules`` and the rules of the context of each request must both accept an address; with neither,
    everything is denied. ``resolver`` is netjail's :class:`~netjail.Resolver`, not niquests'; it and
    ``mixed`` are as in :class:`~netjail.Dialer`. The rest are niquests' keywords; the numbers of
    connections count for each rules in force. Redirects are judged, and so is every address that a
    certificate names for a check of its revocation: where that is denied, there is no check, as
    where nobody answers.

    The environment is left out (``trust_env`` is False). Requests raise :class:`DeniedError` and what
    niquests raises, and ValueError where proxies are given. A session does not pickle.
    """

    def __init__(
        self,
        rules: RuleSource | None = None,
        *,
        resolver: Resolver | None = None,
        mixed: Mixed = "skip",
        **options: Any,
    ) -> None:
        dialer, options = Dialer(rules, resolver=resolver, mixed=mixed), _checked(options)
        super().__init__(resolver=_Judged(dialer, carried=False), **options)
        _mount(self, HTTPAdapter, options, partial(_Adapter, dialer))

    def __getstate__(self) -> Any:
        """Raises TypeError: niquests would mount plain adapters on what comes back."""
        raise TypeError("a netjail Session does not pickle")


class AsyncSession(niquests.AsyncSession):
    """The same as :class:`Session` for asyncio; ``resolver`` is an :class:`~netjail.AsyncResolver`."""

    def __init__(
        self,
        rules: RuleSource | None = None,
        *,
        resolver: AsyncResolver | None = None,
        mixed: Mixed = "skip",
        **options: Any,
    ) -> None:
        dialer, options = AsyncDialer(rules, resolver=resolver, mixed=mixed), _checked(options)
        super().__init__(resolver=_AsyncJudged(dialer, carried=False), **options)
        _mount(self, AsyncHTTPAdapter, options, partial(_AsyncAdapter, dialer))

    def __getstate__(self) -> Any:
        """Raises TypeError."""
        raise TypeError("a netjail AsyncSession does not pickle")
