"""A private node of RabbitMQ: AMQP plain and over TLS on 127.0.0.2, beside whatever node the machine has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .daemon import Daemon, binary, free_port

_ADDRESS = "127.0.0.2"
_SCRIPTS = ("usr/lib/rabbitmq/lib/*/sbin", "opt/homebrew/opt/rabbitmq/sbin")


@dataclass
class Ports:
    plain: int
    tls: int


def _program() -> str:
    """RabbitMQ's own script: what Debian puts on the path runs the one node of the machine, as a user of its own."""
    for folder in _SCRIPTS:
        for path in Path("/").glob(f"{folder}/rabbitmq-server"):
            return str(path)
    return binary("rabbitmq-server", "rabbitmq-server")


@contextmanager
def rabbitmq(folder: Path, *, cert: Path, key: Path, ca: Path) -> Iterator[Ports]:
    """A node whose user is guest, with password guest. It takes some seconds to start.

    Erlang's port mapper, which a node would start and leave behind, is a process of this block's too.
    """
    program, mapper = _program(), binary("epmd", "erlang-base")
    ports, names, distribution = Ports(free_port(), free_port()), free_port("127.0.0.1"), free_port("127.0.0.1")
    (folder / "enabled_plugins").write_text("[].\n")
    (folder / "rabbitmq.conf").write_text(
        f"""
listeners.tcp.1 = {_ADDRESS}:{ports.plain}
listeners.ssl.1 = {_ADDRESS}:{ports.tls}
ssl_options.certfile = {cert}
ssl_options.keyfile = {key}
ssl_options.cacertfile = {ca}
ssl_options.verify = verify_none
loopback_users = none
"""
    )
    env = {
        "HOME": str(folder),  # where the cookie is
        "ERL_EPMD_PORT": str(names),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_CONF_ENV_FILE": str(folder / "none"),
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
        "RABBITMQ_DIST_PORT": str(distribution),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_LOGS": "-",
        "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
        "RABBITMQ_NODENAME": "netjail@localhost",
        "RABBITMQ_PID_FILE": str(folder / "pid"),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-start_epmd false +sbwt none",
    }
    log = folder / "daemon.log"
    own = folder / "epmd"
    own.mkdir()
    with (
        Daemon([mapper, "-port", str(names), "-address", "127.0.0.1"], address="127.0.0.1", port=names, cwd=own),
        Daemon(
            [program],
            port=ports.tls,
            cwd=folder,
            env=env,
            ready=lambda: b"Server startup complete" in log.read_bytes(),
            within=90,
        ),
    ):
        yield ports
