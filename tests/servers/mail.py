"""Mail servers on 127.0.0.2, in a process of their own: SMTP by aiosmtpd, and stand-ins for IMAP and POP.

The stand-ins speak as much of their protocols as a client needs to log in and to read the one message.
"""

from __future__ import annotations

import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.lmtp import LMTP

from tests.servers.daemon import Daemon, free_port

_ADDRESS = "127.0.0.2"


@dataclass
class Ports:
    """Where each listens. The three of an ``s`` speak TLS from the first byte; the others but LMTP offer it."""

    smtp: int
    smtps: int
    lmtp: int
    imap: int
    imaps: int
    pop: int
    pops: int


class _Inbox:
    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:
        return f"250 kept {len(envelope.content)} bytes for {' '.join(envelope.rcpt_tos)}"


class _LMTPController(Controller):
    def factory(self) -> LMTP:
        return LMTP(self.handler, **self.SMTP_kwargs)


Answer = Callable[[bytes], bytes]
MESSAGE = b"Subject: hello\r\n\r\nfrom the stand-in\r\n"


def imap(line: bytes) -> bytes:
    """An IMAP4rev1 server (RFC 3501) with one mailbox, in which one message is."""
    tag, command, *_ = line.split()
    size = str(len(MESSAGE)).encode()
    extra = {
        b"CAPABILITY": b"* CAPABILITY IMAP4rev1 STARTTLS\r\n",
        b"SELECT": b"* 1 EXISTS\r\n",
        b"FETCH": b"* 1 FETCH (RFC822 {" + size + b"}\r\n" + MESSAGE + b")\r\n",
        b"LOGOUT": b"* BYE\r\n",
    }.get(command.upper(), b"")
    return extra + tag + b" OK done\r\n"


def pop(line: bytes) -> bytes:
    """A POP3 server (RFC 1939, 2449 and 2595) with one message."""
    more = {b"CAPA": b"STLS\r\n.\r\n", b"RETR": MESSAGE + b".\r\n", b"STAT": b""}
    command = line.split()[0].upper()
    return (b"+OK 1 %d\r\n" % len(MESSAGE) if command == b"STAT" else b"+OK\r\n") + more.get(command, b"")


GREETINGS: dict[Answer, bytes] = {imap: b"* OK here\r\n", pop: b"+OK here\r\n"}


class StandIn:
    """Greets, and answers line by line. STARTTLS and STLS begin TLS, as the first byte does with ``implicit``."""

    def __init__(self, answer: Answer, port: int, tls: ssl.SSLContext, *, implicit: bool = False) -> None:
        self._answer, self._tls, self._implicit = answer, tls, implicit
        self._listener = socket.create_server((_ADDRESS, port))
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        """One client after the other, none of which may keep the next one waiting for long."""
        while True:
            sock, _ = self._listener.accept()
            with sock:
                sock.settimeout(10)
                try:
                    self._talk(sock)
                except OSError:  # a client that does not like our certificate, or has gone, is what tests are about
                    pass

    def _talk(self, sock: socket.socket) -> None:
        if self._implicit:
            sock = self._tls.wrap_socket(sock, server_side=True)
        with sock:
            sock.sendall(GREETINGS[self._answer])
            self._converse(sock, upgradable=not self._implicit)

    def _converse(self, sock: socket.socket, *, upgradable: bool) -> None:
        with sock.makefile("rb", 0) as lines:  # unbuffered: what follows STARTTLS is not a line
            for line in lines:
                sock.sendall(self._answer(line))
                if upgradable and line.split()[-1].upper() in (b"STARTTLS", b"STLS"):
                    break
            else:
                return
        with self._tls.wrap_socket(sock, server_side=True) as tls:
            self._converse(tls, upgradable=False)


def _serve(ports: Ports, tls: ssl.SSLContext) -> None:
    controllers: list[tuple[type[Controller], int, dict[str, Any]]] = [
        (Controller, ports.smtp, {"tls_context": tls}),
        (Controller, ports.smtps, {"ssl_context": tls}),
        (_LMTPController, ports.lmtp, {}),
    ]
    for made, port, options in controllers:
        made(_Inbox(), hostname=_ADDRESS, port=port, server_hostname="good.test", ready_timeout=30, **options).start()
    StandIn(imap, ports.imap, tls)
    StandIn(imap, ports.imaps, tls, implicit=True)
    StandIn(pop, ports.pop, tls)
    StandIn(pop, ports.pops, tls, implicit=True)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    threading.Event().wait()


@contextmanager
def servers(folder: Path, *, cert: Path, key: Path) -> Iterator[Ports]:
    """All of them, with their log in ``folder``."""
    ports = Ports(*(free_port(_ADDRESS) for _ in fields(Ports)))
    command = [sys.executable, "-m", __name__, str(cert), str(key), *map(str, astuple(ports))]
    log = folder / "daemon.log"
    env = {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    with Daemon(command, port=ports.smtp, cwd=folder, env=env, ready=lambda: b"ready" in log.read_bytes()):
        yield ports


if __name__ == "__main__":
    cert, key, *numbers = sys.argv[1:]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    _serve(Ports(*map(int, numbers)), context)
