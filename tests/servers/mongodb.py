"""A stand-in for a MongoDB server, as no package registry has the real one: it speaks OP_MSG with pymongo's own bson.

It knows the handshake, ping, insert, find and the few commands that clients send by themselves, keeps
documents in a list, and announces the members of a replica set that it is told to.
"""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Sequence
from typing import Any

import bson

from .site import on_a_port

_OP_REPLY, _OP_QUERY, _OP_MSG = 1, 2004, 2013


class MongoDB:
    """A server on ``address``. ``accepted`` counts connections, ``commands`` holds (connection, name) of each command.

    With ``members`` it is the primary of the replica set "rs", or a secondary if it is not the first of them.
    """

    def __init__(
        self,
        address: str,
        *,
        port: int = 0,
        tls: ssl.SSLContext | None = None,
        members: Sequence[str] = (),
        me: str = "",
    ) -> None:
        self.address = address
        self.accepted = 0
        self.commands: list[tuple[int, str]] = []
        self.documents: list[dict[str, Any]] = []
        self.members = list(members)
        self.me = me
        self._tls = tls
        self._listener = on_a_port(address, port, socket.create_server)
        self.port: int = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def connections_of(self, command: str) -> list[int]:
        """The connections on which ``command`` came, in order."""
        return [number for number, name in self.commands if name == command]

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            self._open.add(sock)
            thread = threading.Thread(target=self._serve, args=(sock, self.accepted), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket, number: int) -> None:
        stream = sock
        try:
            if self._tls is not None:
                stream = self._tls.wrap_socket(sock, server_side=True)
            with stream.makefile("rb") as read:
                while header := read.read(16):
                    length, request, _, operation = struct.unpack("<iiii", header)
                    body = read.read(length - 16)
                    stream.sendall(self._reply(number, request, operation, body))
        except OSError:
            pass  # a client that goes away, or that does not like our certificate
        finally:
            stream.close()
            self._open.discard(sock)

    def _reply(self, number: int, request: int, operation: int, body: bytes) -> bytes:
        if operation == _OP_QUERY:  # the first greeting of older versions
            start = body.index(b"\0", 4) + 9
            document = bson.encode(self._answer(number, bson.decode(body[start:])))
            return struct.pack("<iiiiiqii", 36 + len(document), 0, request, _OP_REPLY, 8, 0, 0, 1) + document
        assert operation == _OP_MSG, operation
        document = bson.encode(self._answer(number, _command(body)))
        return struct.pack("<iiiiiB", 21 + len(document), 0, request, _OP_MSG, 0, 0) + document

    def _answer(self, number: int, command: dict[str, Any]) -> dict[str, Any]:
        name = next(iter(command))
        self.commands.append((number, name))
        if name.lower() in ("hello", "ismaster"):
            return self._hello(number)
        if name == "insert":
            self.documents += command["documents"]
            return {"n": len(command["documents"]), "ok": 1.0}
        if name == "find":
            found = [
                each
                for each in self.documents
                if all(each.get(key) == value for key, value in command["filter"].items())
            ]
            return {"cursor": {"id": 0, "ns": f"{command['$db']}.{command['find']}", "firstBatch": found}, "ok": 1.0}
        if name in ("ping", "endSessions", "killCursors"):
            return {"ok": 1.0}
        return {"ok": 0.0, "errmsg": f"no such command: '{name}'", "code": 59, "codeName": "CommandNotFound"}

    def _hello(self, number: int) -> dict[str, Any]:
        first = not self.members or self.members[0] == self.me
        greeting: dict[str, Any] = {
            "helloOk": True,
            "isWritablePrimary": first,
            "ismaster": first,
            "maxBsonObjectSize": 16 * 2**20,
            "maxMessageSizeBytes": 48_000_000,
            "maxWriteBatchSize": 100_000,
            "logicalSessionTimeoutMinutes": 30,
            "connectionId": number,
            "minWireVersion": 0,
            "maxWireVersion": 21,
            "readOnly": False,
            "ok": 1.0,
        }
        if self.members:
            greeting |= {"setName": "rs", "setVersion": 1, "secondary": not first, "hosts": self.members}
            greeting |= {"primary": self.members[0], "me": self.me}
        return greeting

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join()
        for sock in list(self._open):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> MongoDB:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _command(body: bytes) -> dict[str, Any]:
    """The command in an OP_MSG: a document, and lists of documents beside it."""
    flags, at = struct.unpack_from("<I", body)[0], 4
    end = len(body) - (4 if flags & 1 else 0)
    command: dict[str, Any] = {}
    while at < end:
        kind, size = body[at], struct.unpack_from("<i", body, at + 1)[0]
        section = body[at + 1 : at + 1 + size]
        if kind == 0:
            command = {**bson.decode(section), **command}
        else:
            stop = section.index(b"\0", 4)
            command[section[4:stop].decode()] = bson.decode_all(section[stop + 1 :])
        at += 1 + size
    name = next(key for key in command if key not in ("documents", "updates", "deletes"))
    return {name: command[name], **command}
