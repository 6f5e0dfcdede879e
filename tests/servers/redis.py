"""Private redis servers over TLS on 127.0.0.2: one alone, a cluster of three, a sentinel with what it watches."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis
from redis.crc import key_slot

from .daemon import Daemon, binary, free_port
from .names import BAD, GOOD
from .site import Trap

BYSTANDER = "127.0.0.9"
"""What a sentinel dials from, so that a trap can tell it from the client that is tested."""


@dataclass
class Server:
    """A redis server, and the plain clients with which tests look into it."""

    daemon: Daemon
    port: int
    tls: dict[str, Any]
    clients: list[redis.Redis] = field(default_factory=list)

    def ask(self, *command: Any) -> Any:
        if not self.clients:
            self.clients.append(redis.Redis(host=GOOD, port=self.port, decode_responses=True, **self.tls))
        return self.clients[0].execute_command(*command)

    def connections(self) -> int:
        """How many connections it has accepted until now, this one's own included."""
        stats: Any = self.ask("INFO", "stats")
        if isinstance(stats, str):
            stats = dict(line.split(":", 1) for line in stats.splitlines() if ":" in line)
        return int(stats["total_connections_received"])

    def close(self) -> None:
        for client in self.clients:
            client.close()
        self.daemon.stop()


@contextmanager
def serving(folder: Path, pem: Any, *options: str, mode: str = "") -> Iterator[Server]:
    """A redis server that speaks nothing but TLS, with ``options`` as in its configuration file."""
    port = free_port()
    folder.mkdir(exist_ok=True)
    (folder / "redis.conf").write_text(
        "\n".join(
            [
                f"bind {GOOD}",
                "port 0",
                f"tls-port {port}",
                f"tls-cert-file {pem.cert}",
                f"tls-key-file {pem.key}",
                f"tls-ca-cert-file {pem.ca}",
                "tls-auth-clients no",
                "tls-replication yes",
                "tls-cluster yes",
                "protected-mode no",
                f"dir {folder}",
                *options,
            ]
        )
    )
    command: list[str | Path] = [binary("redis-server", "redis-server"), folder / "redis.conf", *mode.split()]
    server = Server(
        Daemon(command, port=port, cwd=folder),
        port,
        {"ssl": True, "ssl_ca_certs": str(pem.ca), "ssl_check_hostname": False},
    )
    try:
        server.ask("PING")  # what tests look through is there before they count descriptors
        yield server
    finally:
        server.close()


@contextmanager
def alone(folder: Path, pem: Any, *options: str) -> Iterator[Server]:
    with serving(folder, pem, 'save ""', *options) as server:
        yield server


@dataclass
class Cluster:
    """Three nodes: two are announced as good.test and the third as bad.test, where a trap stands."""

    nodes: list[Server]
    slots: list[range]

    def key_of(self, node: int) -> str:
        """A key that the node holds."""
        return next(key for key in (f"key{n}" for n in range(1000)) if self.slot(key) in self.slots[node])

    def slot(self, key: str) -> int:
        return int(key_slot(key.encode()))

    def id(self, node: int) -> str:
        return str(self.nodes[node].ask("CLUSTER", "MYID"))


@contextmanager
def cluster(folder: Path, pem: Any, names: tuple[str, str, str]) -> Iterator[Cluster]:
    edges = [0, 5461, 10923, 16384]
    slots = [range(*edges[index : index + 2]) for index in range(3)]
    with ExitStack() as stack:
        nodes: list[Server] = []
        buses = [free_port() for _ in names]
        for name, bus in zip(names, buses, strict=True):
            options = (
                'save ""',
                "cluster-enabled yes",
                f"cluster-port {bus}",
                f"cluster-announce-ip {GOOD}",
                f"bind-source-addr {GOOD}",
                f"cluster-announce-hostname {name}",
                "cluster-preferred-endpoint-type hostname",
            )
            nodes.append(stack.enter_context(serving(folder / f"node{len(nodes)}", pem, *options)))
        for node, held in zip(nodes, slots, strict=True):
            node.ask("CLUSTER", "ADDSLOTSRANGE", held.start, held.stop - 1)
        for node, bus in zip(nodes[1:], buses[1:], strict=True):
            nodes[0].ask("CLUSTER", "MEET", GOOD, node.port, bus)
        _until(lambda: all(_knows_all(node, names) for node in nodes))
        yield Cluster(nodes, slots)


def _knows_all(node: Server, names: tuple[str, str, str]) -> bool:
    info: Any = node.ask("CLUSTER", "INFO")
    if isinstance(info, dict):  # how redis-py gives it depends on its version, and so below
        info = f"cluster_state:{info['cluster_state']}"
    return "cluster_state:ok" in info and sorted(_hosts(node.ask("CLUSTER", "SLOTS"))) == sorted(names)


def _hosts(slots: Any) -> list[str]:
    if isinstance(slots, dict):
        return [value["primary"][0] for value in slots.values()]
    return [row[2][0] for row in slots]


def _until(done: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not done():
        if time.monotonic() > end:
            raise RuntimeError("the servers did not find each other")
        time.sleep(0.05)


class Watched(Trap):
    """A trap that a sentinel may reach, and nobody else."""

    @property
    def accepted(self) -> int:
        self._listener.setblocking(False)
        while True:
            try:
                sock, peer = self._listener.accept()
            except BlockingIOError:
                return getattr(self, "_count", 0)
            sock.close()
            if peer[0] != BYSTANDER:
                self._count = getattr(self, "_count", 0) + 1


@dataclass
class Sentinels:
    """One sentinel that knows three services.

    "good" has its master on 127.0.0.2, "bad" on 127.0.0.3, and "mixed" a master on 127.0.0.2 with a
    replica that is announced as being on 127.0.0.3. ``traps`` stand there.
    """

    sentinel: Server
    master: Server
    traps: list[Watched]


@contextmanager
def sentinels(folder: Path, pem: Any) -> Iterator[Sentinels]:
    with ExitStack() as stack:
        master = stack.enter_context(alone(folder / "master", pem))
        other = stack.enter_context(alone(folder / "other", pem))
        announced = free_port()
        traps = [Watched(BAD, port=port) for port in (free_port(), announced)]
        for each in traps:
            stack.callback(each.close)
        follows = (f"replicaof {GOOD} {other.port}", f"replica-announce-ip {BAD}", f"replica-announce-port {announced}")
        stack.enter_context(alone(folder / "replica", pem, *follows))
        watch: list[str] = [f"bind-source-addr {BYSTANDER}"]
        for name, ip, port in (("good", GOOD, master.port), ("mixed", GOOD, other.port), ("bad", BAD, traps[0].port)):
            watch += [f"sentinel monitor {name} {ip} {port} 1", f"sentinel down-after-milliseconds {name} 600000"]
        _until(lambda: _replicas(other) == 1)
        sentinel = stack.enter_context(serving(folder / "sentinel", pem, *watch, mode="--sentinel"))
        _until(lambda: bool(sentinel.ask("SENTINEL", "REPLICAS", "mixed")))
        yield Sentinels(sentinel, master, traps)


def _replicas(server: Server) -> int:
    info: Any = server.ask("INFO", "replication")
    if isinstance(info, str):
        info = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
    return int(info["connected_slaves"])
