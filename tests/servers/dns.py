"""A name server on loopback, over UDP and TCP, whose answers are as hostile as a test wants them."""

from __future__ import annotations

import socketserver
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import dns.asyncresolver
import dns.flags
import dns.message
import dns.rcode
import dns.resolver
import dns.rrset

from .site import on_a_port

Reply = Callable[["Question"], "bytes | None"]


class Question:
    """One query as it arrived."""

    def __init__(self, wire: bytes, name_server: NameServer, *, tcp: bool) -> None:
        self.message = dns.message.from_wire(wire)
        asked = self.message.question[0]
        self.name = asked.name.to_text(omit_final_dot=True).lower()
        self.kind = "AAAA" if asked.rdtype == 28 else "A"
        self.tcp = tcp
        self.server = name_server

    def reply(
        self, *records: tuple[str, str, Iterable[str]], rcode: dns.rcode.Rcode = dns.rcode.NOERROR, flags: int = 0
    ) -> bytes:
        """A reply with ``records`` of (owner, kind, values), all with a TTL of 0."""
        message = dns.message.make_response(self.message)
        message.flags |= dns.flags.RA | flags
        message.set_rcode(rcode)
        for owner, kind, values in records:
            message.answer.append(dns.rrset.from_text_list(f"{owner}.", 0, "IN", kind, list(values)))
        return message.to_wire(max_size=65535)

    def addresses(self, *addresses: str) -> bytes:
        """A reply with those of ``addresses`` that are of the kind that was asked for."""
        mine = [each for each in addresses if (":" in each) == (self.kind == "AAAA")]
        return self.reply((self.name, self.kind, mine)) if mine else self.reply()


class NameServer:
    """Answers on ``address`` as ``zone`` says: a name's addresses, or a function from Question to wire (None: silence).

    ``asked`` counts the questions by name and kind.
    """

    def __init__(self, zone: dict[str, Iterable[str] | Reply], address: str = "127.0.0.9") -> None:
        self.zone = zone
        self.asked: Counter[tuple[str, str]] = Counter()
        self.address = address
        self._tcp = on_a_port(address, 0, lambda target: _Tcp(target, self))
        self.port: int = self._tcp.server_address[1]
        self._udp = _Udp((address, self.port), self)
        self._threads = [
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
            for server in (self._tcp, self._udp)
        ]
        for thread in self._threads:
            thread.start()

    def answer(self, wire: bytes, *, tcp: bool) -> bytes | None:
        question = Question(wire, self, tcp=tcp)
        self.asked[question.name, question.kind] += 1
        entry = self.zone.get(question.name)
        if entry is None:
            return question.reply(rcode=dns.rcode.NXDOMAIN)
        return entry(question) if callable(entry) else question.addresses(*entry)

    def _pointed_here(self, resolver: Any) -> Any:
        resolver.nameservers = [self.address]
        resolver.port = self.port
        return resolver

    def resolver(self) -> dns.resolver.Resolver:
        """dnspython's resolver, which asks here."""
        return self._pointed_here(dns.resolver.Resolver(configure=False))  # type: ignore[no-any-return]

    def async_resolver(self) -> dns.asyncresolver.Resolver:
        """The same, awaited."""
        return self._pointed_here(dns.asyncresolver.Resolver(configure=False))  # type: ignore[no-any-return]

    def close(self) -> None:
        for server in (self._tcp, self._udp):
            server.shutdown()
            server.server_close()
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> NameServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Udp(socketserver.UDPServer):
    max_packet_size = 65535

    def __init__(self, target: tuple[str, int], name_server: NameServer) -> None:
        self.name_server = name_server
        super().__init__(target, socketserver.BaseRequestHandler)

    def finish_request(self, request: Any, client_address: Any) -> None:
        wire, sock = request
        if (reply := self.name_server.answer(wire, tcp=False)) is not None:
            sock.sendto(reply, client_address)


class _Tcp(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, target: tuple[str, int], name_server: NameServer) -> None:
        self.name_server = name_server
        super().__init__(target, socketserver.BaseRequestHandler)

    def finish_request(self, request: Any, client_address: Any) -> None:
        with request.makefile("rb") as stream:
            head = stream.read(2)
            if len(head) == 2:
                reply = self.name_server.answer(stream.read(*struct.unpack("!H", head)), tcp=True)
                if reply is not None:
                    request.sendall(struct.pack("!H", len(reply)) + reply)
