"""A private Mosquitto: MQTT plain, over TLS, and over websockets, on 127.0.0.2."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .daemon import Daemon, binary, free_port

_ADDRESS = "127.0.0.2"


@dataclass
class Ports:
    plain: int
    tls: int
    websockets: int


@contextmanager
def mosquitto(folder: Path, *, cert: Path, key: Path) -> Iterator[Ports]:
    """A broker that anybody may use, with a configuration in ``folder``."""
    program = binary("mosquitto", "mosquitto")
    ports = Ports(free_port(), free_port(), free_port())
    config = folder / "mosquitto.conf"
    config.write_text(
        f"""
user root
allow_anonymous true
listener {ports.plain} {_ADDRESS}
listener {ports.websockets} {_ADDRESS}
protocol websockets
listener {ports.tls} {_ADDRESS}
certfile {cert}
keyfile {key}
"""
    )
    with Daemon([program, "-c", config], address=_ADDRESS, port=ports.tls, cwd=folder):
        yield ports
