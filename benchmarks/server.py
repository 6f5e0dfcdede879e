"""A loopback HTTP/1.1 server for measuring: answers each request in one segment, with Nagle's algorithm off.

Run as a program it prints its port and serves until its standard input ends. It is a process of its own, so that
what it takes is not counted with a client's own work any more than the kernel's is.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n"
KEPT, CLOSED = HEAD + b"\r\nhello", HEAD + b"Connection: close\r\n\r\nhello"


class Answering(asyncio.Protocol):
    """Answers whatever ends in an empty line, and closes where it is asked to. asyncio sets TCP_NODELAY."""

    def __init__(self) -> None:
        self.received = b""
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        while (end := self.received.find(b"\r\n\r\n")) >= 0:
            head, self.received = self.received[:end].lower(), self.received[end + 4 :]
            if b"\r\nconnection: close" in head:
                self.transport.write(CLOSED)
                self.transport.close()
            else:
                self.transport.write(KEPT)


async def main(hosts: list[str]) -> None:
    """Serves on one free port of each of ``hosts``, by default 127.0.0.1."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Answering, hosts[0], 0, backlog=4096)
    port = server.sockets[0].getsockname()[1]
    others = [await loop.create_server(Answering, host, port, backlog=4096) for host in hosts[1:]]
    print(port, flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    for each in (server, *others):
        each.close()


@contextlib.contextmanager
def serving(*hosts: str) -> Iterator[int]:
    """The server in a process of its own; its port."""
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    command = [sys.executable, str(Path(__file__)), *(hosts or ("127.0.0.1",))]
    with subprocess.Popen(command, text=True, **pipes) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
