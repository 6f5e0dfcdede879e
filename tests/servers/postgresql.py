"""A private PostgreSQL with TLS on loopback, whose only superuser needs no password."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .daemon import Daemon, binary, free_port
from .names import GOOD
from .site import on_a_port

_PACKAGE = "postgresql"


@contextmanager
def postgresql(pem: Any, address: str = GOOD) -> Iterator[Daemon]:
    """A server on ``address`` with the certificate of ``pem``: user ``jail``, database ``postgres``, no password.

    It takes connections with TLS and without, and by a unix socket in ``cwd`` of its process.
    """
    initdb, postgres = binary("initdb", _PACKAGE), binary("postgres", _PACKAGE)
    user = "postgres" if os.geteuid() == 0 else None
    demoted: dict[str, Any] = {"user": user, "group": user} if user else {}
    folder = Path(tempfile.mkdtemp(prefix="pg"))  # short: a unix socket's path has 107 characters at most
    try:
        if user:
            shutil.chown(folder, user, user)
        data = folder / "data"
        subprocess.run(
            [initdb, "--no-sync", "--auth=trust", "--username=jail", "--encoding=UTF8", "--locale=C", data],
            cwd=folder,
            check=True,
            capture_output=True,
            **demoted,
        )
        cert, key = folder / "cert.pem", folder / "key.pem"  # copies: another pytest closes the folder of this one's
        for copy, original in ((cert, pem.cert), (key, pem.key)):
            copy.write_bytes(original.read_bytes())
            copy.chmod(0o600)
            if user:
                shutil.chown(copy, user, user)
        with (data / "pg_hba.conf").open("a") as rules:
            rules.write("host all all 127.0.0.0/8 trust\n")
        port = free_port(address)
        settings = {
            "listen_addresses": address,
            "port": port,
            "unix_socket_directories": folder,
            "ssl": "on",
            "ssl_cert_file": cert,
            "ssl_key_file": key,
            "fsync": "off",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]

        def ready() -> bool:
            return b"ready to accept connections" in (folder / "daemon.log").read_bytes()

        with Daemon(
            [postgres, "-D", data, *options], address=address, port=port, cwd=folder, user=user, ready=ready
        ) as it:
            yield it
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def tls_in_front(server: Daemon, tls: ssl.SSLContext) -> Iterator[int]:
    """The port at which ``server`` can be reached by TLS from the first byte, which PostgreSQL 17 speaks by itself."""
    listener = on_a_port(server.address, 0, socket.create_server)
    listener.settimeout(10)
    closing = threading.Event()

    def pump(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def serve() -> None:
        while True:
            client, _ = listener.accept()
            if closing.is_set():
                client.close()
                return
            try:
                client = tls.wrap_socket(client, server_side=True)
            except OSError:
                client.close()
                continue
            upstream = socket.create_connection((server.address, server.port))
            with client, upstream:
                back = threading.Thread(target=pump, args=(upstream, client))
                back.start()
                pump(client, upstream)
                back.join()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        closing.set()
        socket.create_connection(listener.getsockname()).close()
        thread.join()
        listener.close()
