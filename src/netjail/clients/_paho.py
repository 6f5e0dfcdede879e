"""What netjail's clients for MQTT share: paho-mqtt's client over a Dialer.

This module knows how paho makes a socket, and when it makes one anew.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from paho.mqtt import client as mqtt

from .._errors import DeniedError

if TYPE_CHECKING:
    from .._dialer import Dialer

NO_PROXY = "netjail has no proxying yet: a proxy would dial the broker itself, outside the rules"


class Jailed(mqtt.Client):
    """A paho client that ``dialer`` connects. One that paho has made becomes one by :func:`jail`."""

    _dialer: Dialer
    _pinned: Dialer | None = None
    _ssl_context: Any
    _opened: Any = None
    _denied: DeniedError | None = None

    def connect_async(self, *target: Any, **options: Any) -> None:
        """Says what to connect to, now or when a loop begins, under the rules in force here and now."""
        self._pinned = self._dialer.pinned(self._dialer.rules_in_force())
        self._denied = None
        super().connect_async(*target, **options)

    def reinitialise(self, *session: Any, **options: Any) -> None:
        """Begins anew as if just made, under the rules that it was made with. See paho."""
        dialer = self._dialer
        try:
            super().reinitialise(*session, **options)  # it calls the constructor, which hears of no rules
        finally:
            self._dialer, self._pinned, self._denied = dialer, None, None

    def connect_srv(self, *domain: Any, **options: Any) -> Any:
        """Connects to one of the hosts that DNS names; each is judged. See paho."""
        try:
            return super().connect_srv(*domain, **options)
        except ValueError:  # paho says no more than that no host answered
            if self._denied is not None:
                raise self._denied from None
            raise

    def reconnect(self) -> Any:
        """Connects again, under the rules of the first time. See paho."""
        try:
            return super().reconnect()
        except DeniedError as denied:
            self._denied = denied
            self.disconnect()  # it has no connection: so a loop ends, which would try for ever
            raise

    def loop_forever(self, *args: Any, **options: Any) -> Any:
        """Loops until disconnected or denied. See paho."""
        code = super().loop_forever(*args, **options)
        if self._denied is not None:
            raise self._denied
        return code

    def proxy_set(self, **_proxy: Any) -> NoReturn:
        """Raises ValueError: there is no proxying under rules."""
        raise ValueError(NO_PROXY)

    def _create_socket(self) -> Any:
        try:
            return super()._create_socket()
        except BaseException:
            if self._opened is not None:  # the handshake of TLS or of a websocket has failed
                self._opened.close()
            raise
        finally:
            self._opened = None

    def _create_unix_socket_connection(self) -> Any:
        raise DeniedError(
            self._host, self._port, reason="a path to a unix socket is no address that rules could accept"
        )

    def _create_socket_connection(self) -> Any:
        source = (self._bind_address, self._bind_port)
        dialer = self._dialer if self._pinned is None else self._pinned  # None: it is told its host by ``host=``
        self._opened = dialer.connect((self._host, self._port), self._connect_timeout, source)
        return self._opened

    def _ssl_wrap_socket(self, tcp_sock: Any) -> Any:
        context = self._ssl_context
        if context.check_hostname or self._tls_insecure:
            # As paho does it, but that a socket whose handshake fails is closed.
            self._opened = context.wrap_socket(tcp_sock, server_hostname=self._host)
        else:
            self._opened = super()._ssl_wrap_socket(tcp_sock)
        return self._opened


def jail(client: Any, dialer: Dialer) -> None:
    """Makes a client of paho's one that ``dialer`` connects."""
    client.__class__ = Jailed
    client._dialer = dialer
