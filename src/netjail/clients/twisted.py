"""Twisted under rules: an Agent whose endpoints dial judged addresses and whose pool keeps rules apart.

This module knows Twisted's endpoints and pools, and that a Deferred's callbacks have lost the context of the request.
"""

# pyright: reportMissingTypeStubs=false, reportUntypedClassDecorator=false, reportUnknownMemberType=false
from __future__ import annotations

import socket
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from twisted.internet import error
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import IHostnameResolver, IReactorPluggableNameResolver, IStreamClientEndpoint
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure
from twisted.web import client
from twisted.web.error import SchemeNotSupported
from twisted.web.iweb import IAgent, IAgentEndpointFactory
from zope.interface import implementer  # type: ignore[import-untyped]

from .. import _errors
from .._addresses import is_literal
from .._dialer import Dialer

if TYPE_CHECKING:
    from .._context import RulesInForce
    from .._dialer import Mixed, SocketAddress
    from .._resolver import Resolver
    from .._rules import RuleSource

__all__ = ["Agent", "DeniedError", "EndpointFactory", "HTTPConnectionPool"]

# They carry no types.
_client: Any = client
_error: Any = error
_failure: Any = Failure

_SCHEMES = {b"http": False, b"ws": False, b"https": True, b"wss": True}


class DeniedError(_errors.DeniedError, error.ConnectError):
    """The rules in force accept no address of the request's host; also Twisted's ``ConnectError``."""

    osError = None  # noqa: N815 - what a ConnectError has


@implementer(IAgent)
class Agent:
    """``twisted.web.client.Agent`` under rules.

    ``rules`` and the rules of the context of each request must both accept an address; with neither,
    everything is denied. ``resolver``, which is called in the reactor's threads, and ``mixed`` are as in
    :class:`~netjail.Dialer`, and the rest as in Twisted. ``connectTimeout``, in seconds (30 by default),
    covers the lookup and all addresses of a name.

    What a request gives fires in the context of that request, so that agents over this one (RedirectAgent,
    CookieAgent) have each hop judged under its rules. A ``pool`` lends no connection that was made under
    other rules.

    Requests fail with :class:`DeniedError` and with what Twisted fails with.
    """

    def __init__(
        self,
        reactor: Any,
        rules: RuleSource | None = None,
        contextFactory: Any = None,  # noqa: N803 - Twisted's names
        connectTimeout: float | None = None,  # noqa: N803
        bindAddress: Any = None,  # noqa: N803
        pool: Any = None,
        *,
        resolver: Resolver | None = None,
        mixed: Mixed = "skip",
    ) -> None:
        factory = EndpointFactory(
            reactor,
            rules,
            resolver=resolver,
            mixed=mixed,
            contextFactory=contextFactory,
            connectTimeout=connectTimeout,
            bindAddress=bindAddress,
        )
        inner = _client.HTTPConnectionPool(reactor, False) if pool is None else pool
        self._agent = _client.Agent.usingEndpointFactory(reactor, factory, HTTPConnectionPool(inner))

    def request(self, method: bytes, uri: bytes, headers: Any = None, bodyProducer: Any = None) -> Deferred[Any]:  # noqa: N803
        """Requests ``uri`` under the rules in force here and now."""
        context = copy_context()
        asked: Deferred[Any] = self._agent.request(method, uri, headers, bodyProducer)
        answer: Deferred[Any] = Deferred(lambda _: asked.cancel())

        def fire(result: Any) -> None:
            context.run(answer.callback, result)

        asked.addBoth(fire)
        return answer


class HTTPConnectionPool:
    """A pool of Twisted's behind an Agent, in which connections are kept for each rules in force apart."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    def getConnection(self, key: Any, endpoint: Any) -> Any:  # noqa: N802 - Twisted's name
        """A connection for ``key`` that was made under the endpoint's rules, or a new one."""
        return self._pool.getConnection((endpoint.rules, key), endpoint)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)


@implementer(IAgentEndpointFactory)
class EndpointFactory:
    """An ``IAgentEndpointFactory`` whose endpoints belong to the rules in force when they are made."""

    def __init__(
        self,
        reactor: Any,
        rules: RuleSource | None = None,
        *,
        resolver: Resolver | None = None,
        mixed: Mixed = "skip",
        contextFactory: Any = None,  # noqa: N803 - Twisted's names
        connectTimeout: float | None = None,  # noqa: N803
        bindAddress: Any = None,  # noqa: N803
    ) -> None:
        self._reactor = reactor
        self._dialer = Dialer(rules, resolver=resolver, mixed=mixed)
        self._policy = _client.BrowserLikePolicyForHTTPS() if contextFactory is None else contextFactory
        self._timeout = 30 if connectTimeout is None else connectTimeout
        self._bind = bindAddress

    def endpointForURI(self, uri: Any) -> _Endpoint:  # noqa: N802 - Twisted's name
        """The endpoint for the host and port of ``uri``, with TLS for https."""
        if uri.scheme not in _SCHEMES:
            raise SchemeNotSupported(f"Unsupported scheme: {uri.scheme!r}")
        host: str = uri.host.decode("ascii")
        creator = self._policy.creatorForNetloc(uri.host, uri.port) if _SCHEMES[uri.scheme] else None
        return _Endpoint(self._reactor, self._dialer, host, uri.port, creator, self._timeout, self._bind)


@implementer(IStreamClientEndpoint)
class _Endpoint:
    """A host and port under the rules of when this was made, also when a pool connects again."""

    def __init__(
        self, reactor: Any, dialer: Dialer, host: str, port: int, creator: Any, timeout: float, bind: Any
    ) -> None:
        self.rules: RulesInForce = dialer.rules_in_force()
        self._reactor = reactor
        self._dialer = dialer.pinned(self.rules)
        self._host = host
        self._port = port
        self._creator = creator
        self._timeout = timeout
        self._bind = bind

    def connect(self, protocolFactory: Any) -> Deferred[Any]:  # noqa: N803 - Twisted's name
        def dial(accepted: list[SocketAddress]) -> Deferred[Any]:
            reactor = _Reactor(self._reactor, accepted)
            endpoint: Any = HostnameEndpoint(reactor, self._host, self._port, self._timeout, self._bind)
            if self._creator is not None:
                endpoint = wrapClientTLS(self._creator, endpoint)
            return endpoint.connect(protocolFactory)  # type: ignore[no-any-return]

        def timed_out(_result: object, seconds: float) -> Any:
            return _failure(_error.TimeoutError(string=f"no connection in {seconds} seconds"))

        connected = self._accepted()
        connected.addErrback(_own)
        connected.addCallback(dial)
        return connected.addTimeout(self._timeout, self._reactor, timed_out)

    def _accepted(self) -> Deferred[Any]:
        target = self._host.strip("[]"), self._port
        if is_literal(target[0]):
            return maybeDeferred(self._dialer.resolve, target)
        return deferToThreadPool(self._reactor, self._reactor.getThreadPool(), self._dialer.resolve, target)


def _own(failure: Any) -> Any:
    """A failure to resolve in Twisted's own classes."""
    if isinstance(failure.value, _errors.DeniedError):
        return _failure(DeniedError.of(failure.value))
    if isinstance(failure.value, socket.gaierror):
        return _failure(_error.DNSLookupError(str(failure.value)))
    return failure


@implementer(IReactorPluggableNameResolver, IHostnameResolver)
class _Reactor:
    """A reactor on which a name, the only one that is asked for, has the addresses that were accepted."""

    def __init__(self, reactor: Any, accepted: list[SocketAddress]) -> None:
        self._reactor = reactor
        self._accepted = accepted
        self.nameResolver = self

    def resolveHostName(self, receiver: Any, *_asked: object, **_options: object) -> Any:  # noqa: N802
        receiver.resolutionBegan(self)
        for ip, port in self._accepted:
            receiver.addressResolved((IPv6Address if ":" in ip else IPv4Address)("TCP", ip, port))
        receiver.resolutionComplete()
        return self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)
