"""pycurl under rules: handles whose every socket is judged by its address before libcurl gets it.

This module knows libcurl's options and which of them would dial past the rules. It resolves nothing: libcurl does.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import urlsplit

import pycurl

from .. import _errors
from .._dialer import Dialer, applying, judge, query_family
from .._pools import Pools
from .._rules import Rules

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from .._context import RulesInForce
    from .._rules import RuleSource

T = TypeVar("T")

__all__ = ["AsyncCurlMulti", "Curl", "CurlMulti", "DeniedError"]

# Options by number, as not every version of pycurl has every name.
_REFUSED = {
    10004: "PROXY: a proxy would dial the target itself, outside the rules",
    10262: "PRE_PROXY: a proxy would dial the target itself, outside the rules",
    10231: "UNIX_SOCKET_PATH: a path is no address that rules could accept",
    10264: "ABSTRACT_UNIX_SOCKET: a path is no address that rules could accept",
    10100: "SHARE: netjail keeps connections apart with it, one share for each rules in force",
    10211: "DNS_SERVERS: libcurl would send to them unjudged",
    10279: "DOH_URL: libcurl would dial it unjudged",
    10318: "PROTOCOLS_STR: use PROTOCOLS, which is checked",
    10319: "REDIR_PROTOCOLS_STR: use REDIR_PROTOCOLS, which is checked",
    20163: "OPENSOCKETFUNCTION: it is where netjail judges",
}
_WEBSOCKETS = 1 << 30 | -(1 << 31)  # libcurl's bits for ws and wss, which have no name in its headers
_WEB = pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS | _WEBSOCKETS
# What libraries of others dial by themselves, and what follows a peer that moves.
_UNJUDGED = sum(
    getattr(pycurl, f"PROTO_{name}", 0)
    for name in ("LDAP", "LDAPS", "RTMP", "RTMPE", "RTMPS", "RTMPT", "RTMPTE", "RTMPTS", "TFTP")
)
_PORTS = {"https": 443, "wss": 443, "ftp": 21, "ftps": 990}
_Async: Any = getattr(pycurl, "AsyncCurlMulti", None)  # from pycurl 7.49 on


class DeniedError(_errors.DeniedError, pycurl.error):
    """The rules in force accept no address that libcurl would have connected to; also a ``pycurl.error``.

    ``args`` are EACCES and the message, where other errors of pycurl have a code of libcurl's.
    """


class Curl(pycurl.Curl):
    """``pycurl.Curl`` under rules, which judge every socket that libcurl opens.

    ``rules`` and the rules of the context of each ``perform`` must both accept an address; with neither,
    everything is denied. Redirects, the addresses that an FTP server announces and HTTP/3 are judged like
    first requests. libcurl resolves names and tries all accepted addresses of one; rules other than
    ``Rules`` are asked about addresses. Connections are kept, for each rules in force apart.

    Only http, https and websockets are enabled, and PROTOCOLS enables more: ``PROTO_FILE`` reads files of
    this machine. Proxies of the environment are not used. ``setopt`` raises ValueError for what would dial
    past the rules: proxies, unix sockets, DNS servers, DOH_URL, SHARE, OPENSOCKETFUNCTION, and PROTOCOLS
    with LDAP, RTMP or TFTP in it.

    ``perform`` raises :class:`DeniedError` and what pycurl raises; ``denied`` is the DeniedError that ended the
    last transfer, or None. Use this module's multis: in a plain one, everything is denied.
    """

    denied: DeniedError | None  # no value here: pycurl's attributes of a class hide those of an object

    def __init__(self, rules: RuleSource | None = None) -> None:
        super().__init__()
        self._jail(Dialer(rules))
        super().setopt(pycurl.PROTOCOLS, _WEB)

    def _jail(self, dialer: Dialer) -> None:
        """What a handle that has just been made needs."""
        self.denied = None
        self._opener = _Opener()
        self._url, self._keeps = "", False
        self._dialer = dialer
        self._shares = Pools(_new_share, 16)
        self._nothing = _new_share(None)
        self._hold()
        self._rest()

    def _hold(self) -> None:
        super().setopt(pycurl.OPENSOCKETFUNCTION, self._opener.open)
        super().setopt(pycurl.PROXY, "")  # which is none, whatever the environment says

    def reset(self) -> None:
        """Resets every option but the rules."""
        super().reset()
        super().setopt(pycurl.PROTOCOLS, _WEB)
        self._url, self._keeps = "", False
        self._hold()
        self._rest()

    def duphandle(self) -> Self:
        """A handle with the same options and rules, and no connection."""
        twin = super().duphandle()
        twin._jail(self._dialer)
        twin._url, twin._keeps = self._url, self._keeps
        return twin

    def close(self) -> None:
        """Closes the handle and the connections that it has kept."""
        super().close()
        self._shares.clear()

    def __exit__(self, *_: object) -> None:
        self.close()

    def setopt(self, option: int, value: Any, **options: Any) -> None:
        """As in pycurl; ValueError for an option that would dial past the rules."""
        if option in _REFUSED:
            if option == pycurl.PROXY and value in (None, "", b""):
                return  # as it is
            raise ValueError(_REFUSED[option])
        if value is None:
            self.unsetopt(option)
            return
        if option in (pycurl.PROTOCOLS, pycurl.REDIR_PROTOCOLS) and value & _UNJUDGED:
            raise ValueError("PROTOCOLS: netjail cannot judge what LDAP, RTMP and TFTP send to; name the others")
        super().setopt(option, value, **options)
        if option == pycurl.URL:
            self._url = value if isinstance(value, str) else bytes(value).decode("ascii", "replace")
        elif option == pycurl.CONNECT_ONLY:
            self._keeps = bool(value)

    def setopt_string(self, option: int, value: str) -> None:
        """As in pycurl; ValueError for an option that would dial past the rules."""
        if option in _REFUSED:
            raise ValueError(_REFUSED[option])
        super().setopt_string(option, value)
        if option == pycurl.URL:
            self._url = value

    def unsetopt(self, option: int) -> None:
        """As in pycurl; what holds the rules stays."""
        if option in (pycurl.PROTOCOLS, pycurl.REDIR_PROTOCOLS):
            self.setopt(option, _WEB)
        elif option not in _REFUSED:
            super().unsetopt(option)

    def perform(self) -> None:
        """Transfers under the rules in force here and now."""
        self._under_rules(super().perform)

    def perform_rb(self) -> bytes:
        """The same; what it gives is the body."""
        return self._under_rules(super().perform_rb)

    def perform_rs(self) -> str:
        """The same, decoded."""
        return self._under_rules(super().perform_rs)

    def _under_rules(self, perform: Callable[[], T]) -> T:
        self._begin(self._shares)
        try:
            return perform()
        except pycurl.error as error:
            raise self._error(error)  # noqa: B904 - it is the same, or a denial that names its cause
        finally:
            self._rest()

    def _begin(self, shares: Pools[pycurl.CurlShare]) -> None:
        """Binds the transfer to the rules in force; DeniedError where they accept no address at all."""
        rules = self._dialer.rules_in_force()
        self.denied = self._opener.denial = None
        try:
            url = urlsplit(self._url if "//" in self._url else f"//{self._url}")
            host, port = url.hostname or "", url.port or _PORTS.get(url.scheme, 80)
        except ValueError:  # libcurl would say what is wrong with it
            host, port = "", 0
        try:
            known = [each for each in rules if isinstance(each, Rules)]  # others are asked of addresses
            query_family(known if rules else applying((), host, port), host, port)
        except _errors.DeniedError as denied:
            self.denied = DeniedError.of(denied)
            raise self.denied from denied
        super().unsetopt(pycurl.SHARE)
        super().setopt(pycurl.SHARE, shares.get(rules))
        self._opener.in_force = rules

    def _rest(self) -> None:
        """Binds the handle to nothing: used in a plain multi it is denied, and is lent no connection there."""
        self._opener.rest()
        if not self._keeps:  # what CONNECT_ONLY connected is found by its share
            try:
                super().unsetopt(pycurl.SHARE)
                super().setopt(pycurl.SHARE, self._nothing)
            except pycurl.error:  # it was closed
                pass

    def _error(self, error: pycurl.error) -> pycurl.error:
        """``error``, or the denial behind it, which names the host as it was asked for."""
        denied = self._opener.denial
        failed = denied is not None and error.args[0] == pycurl.E_COULDNT_CONNECT
        # OS_ERRNO is of an accepted address that failed, here or before a redirect.
        if denied is None or not failed or (self.getinfo(pycurl.OS_ERRNO) and not self.getinfo(pycurl.REDIRECT_COUNT)):
            return error
        url: str = self.getinfo(pycurl.EFFECTIVE_URL)
        host = urlsplit(url).hostname or denied.host
        named = _errors.DeniedError(host, denied.port, denied.decisions, denied.reason)
        self.denied = DeniedError.of(named)
        return self.denied


def _new_share(_: object) -> pycurl.CurlShare:
    """A place for connections, and for nothing else."""
    share = pycurl.CurlShare()
    share.setopt(pycurl.SH_SHARE, pycurl.LOCK_DATA_CONNECT)
    return share


class _Opener:
    """Judges what a handle would connect to. It does not know the handle, which is freed without a cycle."""

    in_force: RulesInForce | None = None
    denial: _errors.DeniedError | None = None
    _handed: socket.socket | None = None

    def open(self, _purpose: int, address: Any) -> socket.socket | int:
        """The socket for an address that libcurl wants to connect to. libcurl gets a duplicate of it."""
        try:
            self._judge(address)
        except _errors.DeniedError as denied:
            self.denial = denied
            return pycurl.SOCKET_BAD
        if self._handed is not None:
            self._handed.close()
        self._handed = socket.socket(address.family, address.socktype, address.protocol)
        return self._handed

    def _judge(self, address: Any) -> None:
        if address.family not in (socket.AF_INET, socket.AF_INET6):
            raise _errors.DeniedError(str(address.addr), 0, reason="it is no address that rules could accept")
        ip, port, *rest = address.addr
        if self.in_force is None:
            raise _errors.DeniedError(ip, port, reason="the handle is in a multi that netjail does not know")
        host = f"{ip}%{rest[1]}" if rest[1:] and rest[1] else ip
        judge(applying(self.in_force, host, port), host, port, [host])

    def rest(self) -> None:
        self.in_force = None
        if self._handed is not None:
            self._handed.close()
            self._handed = None


def _ours(handle: pycurl.Curl) -> Curl:
    if not isinstance(handle, Curl):
        raise TypeError(f"{handle!r} is not under rules: add a netjail.clients.pycurl.Curl")
    return handle


class CurlMulti(pycurl.CurlMulti):
    """``pycurl.CurlMulti`` for handles of this module, each bound to the rules in force when it is added.

    Its handles share connections under equal rules, and under no others. ``add_handle`` raises TypeError
    for another handle, and :class:`DeniedError` where the rules accept no address at all. ``info_read``
    reports a denial as pycurl's failure to connect; the handle's ``denied`` says why.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._shares = Pools(_new_share, 64)
        self._handles: set[Any] = set()

    def add_handle(self, obj: pycurl.Curl) -> None:
        """Adds a handle, and binds it."""
        handle = _ours(obj)
        handle._begin(self._shares)
        try:
            super().add_handle(handle)
        except BaseException:
            handle._rest()
            raise

        self._handles.add(handle)

    def remove_handle(self, obj: pycurl.Curl) -> None:
        """Takes a handle out, and binds it to nothing."""
        super().remove_handle(obj)
        self._handles.discard(obj)
        _ours(obj)._rest()

    def info_read(
        self, *args: int, **options: int
    ) -> tuple[int, list[pycurl.Curl], list[tuple[pycurl.Curl, int, str]]]:
        """As in pycurl, and sets ``denied`` on the handles that were."""
        queued, done, failed = super().info_read(*args, **options)
        for handle, code, message in failed:
            _ours(handle)._error(pycurl.error(code, message))
        return queued, done, failed

    def close(self) -> None:
        """Closes the multi. Its handles are bound to nothing."""
        super().close()
        while self._handles:
            self._handles.pop()._rest()
        self._shares.clear()


if TYPE_CHECKING:
    _AsyncBase = pycurl.AsyncCurlMulti
else:
    _AsyncBase = _Async or object


class AsyncCurlMulti(_AsyncBase):
    """``pycurl.AsyncCurlMulti`` (pycurl 7.49) for handles of this module, as in :class:`CurlMulti`.

    ``perform`` raises :class:`DeniedError`; the futures of ``add_handle`` carry pycurl's own error.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        if _Async is None:
            raise ImportError(f"this pycurl has no AsyncCurlMulti: {pycurl.version}", name="pycurl")
        super().__init__(*args, **options)
        self._shares = Pools(_new_share, 64)

    def add_handle(self, curl: pycurl.Curl) -> asyncio.Future[pycurl.Curl]:
        """Adds a handle, binds it, and gives the future of its transfer."""
        handle = _ours(curl)
        handle._begin(self._shares)
        try:
            future: asyncio.Future[pycurl.Curl] = super().add_handle(handle)
        except BaseException:
            handle._rest()
            raise

        def rest(_: object) -> None:  # pycurl has taken the handle out by then
            handle._rest()

        future.add_done_callback(rest)
        return future

    async def aclose(self) -> None:
        """Closes the multi and its connections."""
        await super().aclose()
        self._shares.clear()

    async def perform(self, curl: pycurl.Curl) -> pycurl.Curl:
        """Transfers under the rules in force here and now."""
        future = self.add_handle(curl)
        try:
            return await future
        except pycurl.error as error:
            raise _ours(curl)._error(error)  # noqa: B904 - it is the same, or a denial that names its cause
