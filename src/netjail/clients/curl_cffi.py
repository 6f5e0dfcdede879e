"""curl_cffi under rules: sessions whose every socket is judged by its address before libcurl gets it.

This module knows libcurl's options, how curl_cffi's sessions get their handles, and which options dial past the
rules. It resolves nothing: libcurl does.
"""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
from __future__ import annotations

import socket
import struct
import threading
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import curl_cffi
from curl_cffi import CurlInfo, CurlOpt, ffi, lib
from curl_cffi.requests import exceptions

from .. import _errors
from .._dialer import Dialer, applying, judge, query_family
from .._pools import Pools
from .._rules import Rules

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .._context import RulesInForce
    from .._rules import RuleSource

__all__ = ["AsyncSession", "DeniedError", "Session"]

_REFUSED = {
    10004: "PROXY: a proxy would dial the target itself, outside the rules",
    10262: "PRE_PROXY: a proxy would dial the target itself, outside the rules",
    10231: "UNIX_SOCKET_PATH: a path is no address that rules could accept",
    10264: "ABSTRACT_UNIX_SOCKET: a path is no address that rules could accept",
    10100: "SHARE: connections of other rules may lie in it",
    10211: "DNS_SERVERS: libcurl would send to them unjudged",
    10279: "DOH_URL: libcurl would dial it unjudged",
    181: "PROTOCOLS: http, https and websockets are what there is",
    10318: "PROTOCOLS_STR: http, https and websockets are what there is",
    20163: "OPENSOCKETFUNCTION: it is where netjail judges",
}
_OPENSOCKETFUNCTION, _PROTOCOLS_STR, _COULDNT_CONNECT = 20163, CurlOpt.PROTOCOLS_STR, 7
_PORTS = {"https": 443, "wss": 443}
_NOT_TAKEN = {
    "proxy": "a proxy would dial the target itself, outside the rules",
    "proxies": "a proxy would dial the target itself, outside the rules",
    "dns": "libcurl would send to it unjudged",
    "doh_url": "libcurl would dial it unjudged",
    "cache": "what was fetched under some rules would be given under others",
    "curl": "netjail makes its own handles",
    "async_curl": "netjail makes its own handles",
    "curl_share": "connections of other rules may lie in it",
}
_ffi: Any = ffi
_lib: Any = lib


class DeniedError(_errors.DeniedError, exceptions.ConnectionError):
    """The rules in force accept no address that libcurl would have connected to; also a ``RequestException``."""

    code = _COULDNT_CONNECT
    response = None


class _Carrier(Exception):  # noqa: N818 - nobody is to catch it
    """Takes a denial past the retries of a session."""

    def __init__(self, denied: DeniedError) -> None:
        super().__init__(str(denied))
        self.denied = denied


class _Opener:
    """Judges what a handle would connect to, under rules that are set when the handle is taken."""

    in_force: RulesInForce = ()
    denial: _errors.DeniedError | None = None

    def __init__(self) -> None:
        callback = _ffi.callback("intptr_t(void *, int, void *)", self._open, error=-1)
        self.pointer = _ffi.cast("void *", callback)
        self._callback = callback

    def _open(self, _client: Any, _purpose: int, pointer: Any) -> int:
        """A socket for the ``struct curl_sockaddr`` at ``pointer``, or -1."""
        family, kind, protocol, _ = struct.unpack("iiiI", _ffi.buffer(pointer, 16))
        try:
            self._judge(family, bytes(_ffi.buffer(pointer + 16, 28 if family == socket.AF_INET6 else 16)))
        except _errors.DeniedError as denied:
            self.denial = denied
            return -1
        return socket.socket(family, kind, protocol).detach()

    def _judge(self, family: int, address: bytes) -> None:
        """``address`` is a ``struct sockaddr``, whose first two bytes are not the same everywhere."""
        if family not in (socket.AF_INET, socket.AF_INET6):
            raise _errors.DeniedError("", 0, reason="it is no address that rules could accept")
        port: int = struct.unpack_from("!H", address, 2)[0]
        host = socket.inet_ntop(family, address[8:24] if family == socket.AF_INET6 else address[4:8])
        if family == socket.AF_INET6 and (scope := struct.unpack_from("I", address, 24)[0]):
            host = f"{host}%{scope}"
        judge(applying(self.in_force, host, port), host, port, [host])


class _Curl(curl_cffi.Curl):
    """A handle that an opener judges for, whatever a session sets on it."""

    opener: _Opener
    asked = ""

    def hold(self) -> None:
        self._check_error(_lib._curl_easy_setopt(self._curl, _OPENSOCKETFUNCTION, self.opener.pointer), "be judged")
        super().setopt(CurlOpt.PROXY, b"")  # which is none, whatever the environment says
        super().setopt(_PROTOCOLS_STR, b"http,https,ws,wss")

    def setopt(self, option: Any, value: Any) -> int:
        if option == CurlOpt.URL:
            self.asked = value if isinstance(value, str) else bytes(value).decode("utf-8", "replace")
        if int(option) not in _REFUSED:
            return super().setopt(option, value)
        if option == CurlOpt.PROXY and value in (None, "", b""):
            return 0  # as it is
        raise ValueError(_REFUSED[int(option)])

    def reset(self) -> None:
        super().reset()
        self.opener.denial = None
        if self._curl:
            self.hold()

    def refusal(self) -> DeniedError | None:
        """The denial where the rules accept no address at all: libcurl would look the name up first."""
        try:
            url = urlsplit(self.asked if "//" in self.asked else f"//{self.asked}")
            host, port = url.hostname or "", url.port or _PORTS.get(url.scheme, 80)
        except ValueError:  # libcurl would say what is wrong with it
            host, port = "", 0
        try:
            known = [each for each in self.opener.in_force if isinstance(each, Rules)]  # others are asked of addresses
            query_family(known if self.opener.in_force else applying((), host, port), host, port)
        except _errors.DeniedError as denied:
            if "//" not in self.asked:  # a session asks for the effective URL, which there is none of without a scheme
                super().setopt(CurlOpt.URL, f"http://{self.asked}".encode())
            return DeniedError.of(denied)
        return None

    def perform(self, *args: Any, **options: Any) -> None:
        if (denied := self.refusal()) is not None:
            raise denied
        super().perform(*args, **options)

    def duphandle(self) -> curl_cffi.Curl:
        twin = _adopted(super().duphandle(), self.opener.in_force)
        twin.asked = self.asked
        return twin

    def _get_error(self, errcode: int, *args: Any) -> Any:
        denied = self.opener.denial
        if errcode != _COULDNT_CONNECT or denied is None:
            return super()._get_error(errcode, *args)
        # OS_ERRNO is of an accepted address that failed, here or before a redirect.
        if self.getinfo(CurlInfo.OS_ERRNO) and not self.getinfo(CurlInfo.REDIRECT_COUNT):
            return super()._get_error(errcode, *args)
        effective: Any = self.getinfo(CurlInfo.EFFECTIVE_URL)
        url: str = effective.decode()
        host = urlsplit(url).hostname or denied.host
        return DeniedError(host, denied.port, denied.decisions, denied.reason)


def _adopted(plain: Any, rules: RulesInForce) -> _Curl:
    """A handle of curl_cffi's as one of ours, under ``rules``."""
    if not isinstance(plain, _Curl):
        plain.__class__ = _Curl
        plain.opener = _Opener()
        plain.hold()
    plain.opener.in_force, plain.opener.denial = rules, None
    return plain  # type: ignore[no-any-return]


def _checked(options: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a session or a request; ValueError for those that would dial past the rules."""
    for name, why in _NOT_TAKEN.items():
        if options.get(name):
            raise ValueError(f"{name}=: {why}")
    given: dict[Any, Any] = options.get("curl_options") or {}
    for option, value in given.items():
        if int(option) in _REFUSED and value:
            raise ValueError(_REFUSED[int(option)])
    return options


@contextmanager
def _no_retries() -> Iterator[None]:
    try:
        yield
    except exceptions.RequestException as error:
        if (denied := _errors.find_denied(error)) is None:
            raise
        raise _Carrier(denied if isinstance(denied, DeniedError) else DeniedError.of(denied)) from None


@contextmanager
def _denials() -> Iterator[None]:
    """Raises a denial as it is, and not what a session makes of it."""
    try:
        with _no_retries():
            yield
    except _Carrier as carrier:
        raise carrier.denied from None


class Session(curl_cffi.Session):  # type: ignore[type-arg]
    """``curl_cffi.Session`` under rules, which judge every socket that libcurl opens.

    ``rules`` and the rules of the context of each request must both accept an address; with neither,
    everything is denied. Redirects and HTTP/3 are judged like first requests. libcurl resolves names and
    tries all accepted addresses of one; rules other than ``Rules`` are asked about addresses. Connections
    are kept, for each thread and each rules in force apart.

    Proxies of the environment are not used. ValueError is raised for ``proxy``, ``proxies``, ``dns``,
    ``doh_url``, ``cache``, ``curl``, ``curl_share`` and for ``curl_options`` that dial past the rules. Requests raise
    :class:`DeniedError`, which ``retry`` does not retry, and what curl_cffi raises.
    """

    def __init__(self, rules: RuleSource | None = None, **options: Any) -> None:
        self._dialer = Dialer(rules)
        local = options.get("use_thread_local_curl", True)
        self._handles: Any = threading.local() if local else SimpleNamespace()
        super().__init__(**_checked(options))

    @property
    def curl(self) -> Any:
        """The handle of this thread for the rules in force."""
        if not hasattr(self._handles, "pool"):
            self._handles.pool = Pools(self._new_handle, 64)
        return self._handles.pool.get(self._dialer.rules_in_force())

    def _new_handle(self, rules: Any) -> _Curl:
        return _adopted(curl_cffi.Curl(debug=self.debug), rules)

    def request(self, *args: Any, **options: Any) -> Any:
        """Requests under the rules in force here and now."""
        try:
            with _denials():
                return super().request(*args, **_checked(options))
        except ValueError:  # an option was refused, and those before it are set
            self.curl.reset()
            raise

    def _request_once(self, *args: Any, **options: Any) -> Any:
        with _no_retries():
            return super()._request_once(*args, **options)

    def ws_connect(self, *args: Any, **options: Any) -> Any:
        """Connects a websocket under the rules in force here and now."""
        with _denials():
            return super().ws_connect(*args, **_checked(options))

    def close(self) -> None:
        """Closes the session, and this thread's connections."""
        super().close()
        if hasattr(self._handles, "pool"):
            for handle in self._handles.pool.clear():
                handle.close()


class AsyncSession(curl_cffi.AsyncSession):  # type: ignore[type-arg]
    """``curl_cffi.AsyncSession`` under rules, as :class:`Session`.

    Connections are kept for each rules in force apart, by a multi of libcurl's for each of at most 64.
    """

    def __init__(self, rules: RuleSource | None = None, **options: Any) -> None:
        self._dialer = Dialer(rules)
        super().__init__(**_checked(options))
        self._acurl: Any = _Multis(self)

    async def pop_curl(self) -> Any:
        """A handle under the rules in force, which are those of the request that takes it."""
        return _adopted(await super().pop_curl(), self._dialer.rules_in_force())

    async def request(self, *args: Any, **options: Any) -> Any:
        """Requests under the rules in force here and now."""
        with _denials():
            return await super().request(*args, **_checked(options))

    async def _request_once(self, *args: Any, **options: Any) -> Any:
        with _no_retries():
            return await super()._request_once(*args, **options)

    def ws_connect(self, *args: Any, **options: Any) -> Any:
        """Connects a websocket under the rules in force when it is awaited."""
        return super().ws_connect(*args, **_checked(options))


class _Multis:
    """What an AsyncSession takes for its AsyncCurl: one for each rules in force, as a multi keeps connections."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session
        self._made: dict[RulesInForce, Any] = {}
        self._closing: set[Any] = set()
        self._cacert = ""

    def _of(self, handle: Any) -> Any:
        rules: RulesInForce = handle.opener.in_force
        multi = self._made.pop(rules, None)
        if multi is None:
            multi = curl_cffi.AsyncCurl(loop=self._session.loop)
            self._let_go()
        self._made[rules] = multi  # the last used is last
        return multi

    def _let_go(self) -> None:
        """Closes the least recently used of too many that are not in use."""
        idle = [rules for rules, multi in self._made.items() if not multi._curl2future]
        for rules in idle[: max(0, len(self._made) - 63)]:
            closing = self._session.loop.create_task(self._made.pop(rules).close())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    def add_handle(self, handle: Any) -> Any:
        if (denied := handle.refusal()) is None:
            return self._of(handle).add_handle(handle)
        refused = self._session.loop.create_future()
        refused.set_exception(denied)
        return refused

    def remove_handle(self, handle: Any) -> None:
        multi = self._made.get(handle.opener.in_force)
        if multi is not None:
            multi.remove_handle(handle)

    async def close(self) -> None:
        made, self._made = self._made, {}
        for multi in made.values():
            await multi.close()
        for closing in list(self._closing):
            await closing
