"""Transports for httpx2 that connect only to what the rules accept.

This module names what is httpx2's own; the engine, which it shares with httpx, is in ``_httpcore``.
"""

from __future__ import annotations

from typing import Any

import httpcore2
import httpx2
from httpcore2._backends.anyio import AnyIOStream
from httpcore2._backends.sync import SyncStream

from . import _httpcore

__all__ = ["AsyncTransport", "DeniedError", "Transport"]


class DeniedError(_httpcore.RequestDeniedError, httpx2.TransportError):
    """A request that the rules in force deny: a ``netjail.DeniedError`` and an ``httpx2.TransportError``."""


class _Body(_httpcore.Body, httpx2.SyncByteStream):
    pass


class _AsyncBody(_httpcore.AsyncBody, httpx2.AsyncByteStream):
    pass


class Transport(_httpcore.Transport[httpx2.HTTPTransport, httpx2.Request, httpx2.Response], httpx2.BaseTransport):
    """An ``httpx2.HTTPTransport`` under rules: ``httpx2.Client(transport=Transport(PUBLIC))``.

    ``rules`` and the context's rules must both accept an address; with neither, everything is denied.
    Each set of rules in force has connections of its own, and the limits of an ``httpx2.Limits`` count for
    each; of more than ``max_idle_transports`` the least recently used is let go, and closed when its last
    response is. ``resolver``, ``connect`` and ``mixed`` are those of :class:`netjail.Dialer`.

    The other arguments are ``httpx2.HTTPTransport``'s own (``verify``, ``http2``, ``limits``, ``retries``
    and so on). They belong here: a client that is given a transport ignores its own ``verify``, ``cert``,
    ``http1``, ``http2`` and ``limits``. In their place ``new`` may make the HTTPTransport for one tuple of rules.

    A client's ``proxy`` and ``mounts`` go around its transport, and so around the rules: give none.

    Requests raise :class:`DeniedError` when the rules deny them. Raises ValueError for a ``proxy`` or a
    ``uds``, and TypeError for arguments that ``httpx2.HTTPTransport`` does not take.
    """

    _kit = _httpcore.Kit(
        plain=httpx2.HTTPTransport,
        pool=httpcore2.ConnectionPool,
        stream=SyncStream,
        body=_Body,
        ssl_context=httpx2.create_ssl_context,
        timed_out=httpcore2.ConnectTimeout,
        failed=httpcore2.ConnectError,
        denied=DeniedError,
    )


def _async_stream(stream: Any, *, of_trio: bool) -> Any:
    if not of_trio:
        return AnyIOStream(stream)
    from httpcore2._backends.trio import TrioStream  # noqa: PLC0415 - who uses trio has it

    return TrioStream(stream)


class AsyncTransport(
    _httpcore.AsyncTransport[httpx2.AsyncHTTPTransport, httpx2.Request, httpx2.Response], httpx2.AsyncBaseTransport
):
    """The same for ``httpx2.AsyncClient``, on asyncio and on trio.

    ``resolver`` is an AsyncResolver, and ``connect`` is awaited, as in :class:`netjail.AsyncDialer`.
    """

    _kit = _httpcore.Kit(
        plain=httpx2.AsyncHTTPTransport,
        pool=httpcore2.AsyncConnectionPool,
        stream=_async_stream,
        body=_AsyncBody,
        ssl_context=httpx2.create_ssl_context,
        timed_out=httpcore2.ConnectTimeout,
        failed=httpcore2.ConnectError,
        denied=DeniedError,
    )
