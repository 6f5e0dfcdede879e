"""botocore under rules, hence boto3: clients and credential providers whose HTTP session is judged.

This module knows where botocore keeps its HTTP sessions. The connections are those of netjail's urllib3.
"""
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import botocore.session
from botocore.awsrequest import AWSHTTPConnectionPool, AWSHTTPSConnectionPool
from botocore.exceptions import BotoCoreError, HTTPClientError
from botocore.httpsession import ProxyConfiguration, URLLib3Session

from .. import _errors
from .urllib3 import NO_PROXY, HTTPConnectionPool, PoolManager

if TYPE_CHECKING:
    from .._dialer import Connect, Mixed
    from .._resolver import Resolver
    from .._rules import RuleSource

    Client = TypeVar("Client")

__all__ = ["DeniedError", "Session", "jailed"]


class DeniedError(_errors.DeniedError, BotoCoreError):
    """The rules in force accept no address of the endpoint's host; also a ``botocore.exceptions.BotoCoreError``.

    It is neither a ConnectionError nor an HTTPClientError of botocore's: those are retried.
    """


class _HTTPConnectionPool(HTTPConnectionPool, AWSHTTPConnectionPool):
    """botocore's pool, dialled by a Dialer."""


class _HTTPSConnectionPool(HTTPConnectionPool, AWSHTTPSConnectionPool):
    """The same over TLS."""


class _HTTPSession(URLLib3Session):
    """A ``URLLib3Session`` with the settings of ``plain``, which has not been used, but for its proxies."""

    def __init__(self, plain: URLLib3Session, rules: RuleSource | None, dialing: dict[str, Any]) -> None:
        vars(self).update(vars(plain))
        this: Any = self
        settings: dict[str, Any] = this._get_pool_manager_kwargs()
        self._proxy_config = ProxyConfiguration()
        self._manager = PoolManager(rules, **dialing, **settings)
        self._manager.pool_classes_by_scheme = {"http": _HTTPConnectionPool, "https": _HTTPSConnectionPool}

    def send(self, request: Any) -> Any:
        try:
            return super().send(request)
        except HTTPClientError as error:
            denied = error.kwargs.get("error")
            if isinstance(denied, _errors.DeniedError):
                raise DeniedError.of(denied) from denied
            raise


def jailed(
    client: Client,
    rules: RuleSource | None = None,
    *,
    resolver: Resolver | None = None,
    connect: Connect | None = None,
    mixed: Mixed = "skip",
) -> Client:
    """``client``, a client of botocore's or boto3's, which from now on connects only to what the rules accept.

    ``rules`` and the rules of the context of each request must both accept an address; with neither,
    everything is denied. ``resolver``, ``connect`` and ``mixed`` are as in :class:`~netjail.Dialer`. No
    connection is used by requests under other rules than those it was made under. The client's
    credentials come from elsewhere: see :class:`Session`.

    Raises ValueError for a client that was made with ``Config(proxies=...)`` or has rules already; no
    proxy of the environment's is used. Requests raise :class:`DeniedError` and what botocore raises.
    """
    this: Any = client
    plain = this._endpoint.http_session
    if this.meta.config.proxies:
        raise ValueError(f"{NO_PROXY} (Config(proxies=))")
    if type(plain) is not URLLib3Session:
        raise ValueError(f"the client's HTTP session is not botocore's own, but {plain!r}")
    dialing = {"resolver": resolver, "connect": connect, "mixed": mixed}
    this._endpoint.http_session = _HTTPSession(plain, rules, dialing)
    return client


class Session(botocore.session.Session):
    """A ``botocore.session.Session`` all of whose clients are :func:`jailed`: ``boto3.Session(botocore_session=...)``.

    So are its credential providers that ask over the network: those that use a client (STS, SSO), and the
    instance metadata and container services. The arguments are those of :func:`jailed`, and botocore's.
    Client-side monitoring (``csm_enabled``), which sends datagrams, is off.
    """

    def __init__(
        self,
        rules: RuleSource | None = None,
        *plain: Any,
        resolver: Resolver | None = None,
        connect: Connect | None = None,
        mixed: Mixed = "skip",
        **options: Any,
    ) -> None:
        self._netjail: Any = rules, {"resolver": resolver, "connect": connect, "mixed": mixed}
        super().__init__(*plain, **options)

    def create_client(self, *args: Any, **options: Any) -> Any:
        """A client under the rules."""
        rules, dialing = self._netjail
        client: Any = super().create_client(*args, **options)
        return jailed(client, rules, **dialing)

    def _create_credential_resolver(self) -> Any:
        plain: Any = super()
        made = plain._create_credential_resolver()
        for provider in made.providers:
            for fetcher in (getattr(provider, "_role_fetcher", None), getattr(provider, "_fetcher", None)):
                self._judge(fetcher)
        return made

    def _get_internal_component(self, name: str) -> Any:
        plain: Any = super()
        made = plain._get_internal_component(name)
        if name == "smart_defaults_factory":  # defaults_mode="auto" asks the metadata service for the region
            provider = made._imds_region_provider
            if provider._fetcher is None:
                provider._fetcher = provider._create_fetcher()
            self._judge(provider._fetcher)
        return made

    def _judge(self, fetcher: Any) -> None:
        """Puts ``fetcher``, which asks a metadata service, under the rules."""
        plain = getattr(fetcher, "_session", None)
        if type(plain) is URLLib3Session:
            fetcher._session = _HTTPSession(plain, *self._netjail)

    def _create_csm_monitor(self) -> None:
        """None: a monitor sends datagrams to a host of the environment's."""
