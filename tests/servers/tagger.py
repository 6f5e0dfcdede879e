"""A quick HTTP server in a process of its own, which answers every request with the number of its connection."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from itertools import count
from typing import Any

_numbers = count(1)


class _Connection(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        body = str(next(_numbers)).encode()
        self._answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        self._received = b""

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:  # requests without a body
            self._received = self._received[end + 4 :]
            self._transport.write(self._answer)


async def _serve(address: str) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Connection, address, 0, backlog=4096)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await loop.run_in_executor(None, sys.stdin.read)  # until who started it closes the pipe


class Tagger:
    """The server as a process, from the start to the end of a ``with`` block."""

    def __init__(self, address: str = "127.0.0.2") -> None:
        self.address = address
        self._process = subprocess.Popen(
            [sys.executable, __file__, address], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.port = int(self._stdout.readline())

    @property
    def _stdout(self) -> Any:
        return self._process.stdout

    def url(self, host: str | None = None) -> str:
        return f"http://{host or self.address}:{self.port}/"

    def __enter__(self) -> Tagger:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1]))
