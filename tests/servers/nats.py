"""nats-server as private processes."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

from .daemon import Daemon, binary, free_port
from .names import GOOD


def nats(folder: Path, *, port: int = 0, tls: Any = None, more: str = "", ready: Any = None) -> Daemon:
    """A nats-server on GOOD. ``tls`` holds the files of a certificate, ``more`` is text for its configuration."""
    port = port or free_port()
    lines = [f'listen: "{GOOD}:{port}"', more]
    if tls is not None:
        handshake_first = "handshake_first: true" if "HANDSHAKE FIRST" in more else ""
        lines.append(f'tls {{ cert_file: "{tls.cert}", key_file: "{tls.key}", {handshake_first} }}')
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "nats.conf").write_text("\n".join(lines))
    command: list[str | Path] = [binary("nats-server", "nats-server"), "-c", folder / "nats.conf"]
    return Daemon(command, address=GOOD, port=port, cwd=folder, ready=ready)


def announcing(folder: Path, announced: str) -> tuple[Daemon, Daemon]:
    """Two servers of one cluster; the first announces the second, under the host ``announced``."""
    first, second, route = free_port(), free_port(), free_port()
    cluster = f'cluster {{ name: "test", listen: "{GOOD}:{route}" }}'
    routed = f'cluster {{ name: "test", listen: "{GOOD}:{free_port()}", routes: ["nats://{GOOD}:{route}"] }}'
    advertise = f'client_advertise: "{announced}:{second}"'
    one = nats(folder / "one", port=first, more=cluster)

    def ready() -> bool:
        with socket.create_connection((GOOD, first), 1) as sock, sock.makefile("rb") as lines:
            info = json.loads(lines.readline().partition(b" ")[2])
        return f"{announced}:{second}" in info.get("connect_urls", [])

    try:
        return one, nats(folder / "two", port=second, more=f"{routed}\n{advertise}", ready=ready)
    except BaseException:
        one.stop()
        raise
