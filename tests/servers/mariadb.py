"""A MariaDB of a test's own, with TLS, on 127.0.0.2."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from .daemon import Daemon, binary, free_port

USER, PASSWORD = "jailed", "secret"
_PACKAGE = "mariadb-server"


@contextmanager
def mariadb(folder: Path, pem: Any) -> Iterator[Daemon]:
    """A running server whose certificate is ``pem``'s, with the user of :data:`USER` and :data:`PASSWORD`.

    It keeps its files in ``folder``. Where the tests run as root it runs as ``mysql``, and has a folder elsewhere:
    each pytest that starts closes those of pytest to other users again.
    """
    if os.name == "posix" and os.geteuid() == 0:
        with TemporaryDirectory(prefix="netjail-mariadb-") as other, _running(Path(other), pem, "mysql") as daemon:
            yield daemon
    else:
        with _running(folder, pem, None) as daemon:
            yield daemon


@contextmanager
def _running(folder: Path, pem: Any, user: str | None) -> Iterator[Daemon]:
    server = binary("mariadbd", _PACKAGE)
    install = binary("mariadb-install-db", _PACKAGE)
    folder.chmod(0o755)
    data = folder / "data"
    data.mkdir()
    cert, key, ca = (Path(shutil.copy(path, folder)) for path in pem)
    key.chmod(0o600)
    if user is not None:
        for each in (folder, data, key):
            shutil.chown(each, user, user)
    common = ["--no-defaults", f"--datadir={data}"]
    small = ["--innodb-buffer-pool-size=8M", "--innodb-log-file-size=4M", "--innodb-flush-method=fsync"]
    subprocess.run(
        [
            install,
            *common,
            f"--user={user or getpass.getuser()}",
            "--skip-test-db",
            "--auth-root-authentication-method=normal",
            *small,
        ],
        check=True,
        capture_output=True,
    )
    script = folder / "users.sql"
    script.write_text(
        f"CREATE USER {USER}@'%' IDENTIFIED BY '{PASSWORD}';\nGRANT ALL ON *.* TO {USER}@'%';\nCREATE DATABASE shop;\n"
    )
    port = free_port()
    command: list[str | Path] = [
        server,
        *common,
        *small,
        f"--port={port}",
        "--bind-address=127.0.0.2",
        f"--socket={folder / 'mariadb.sock'}",
        f"--pid-file={folder / 'mariadb.pid'}",
        f"--init-file={script}",
        f"--ssl-cert={cert}",
        f"--ssl-key={key}",
        f"--ssl-ca={ca}",
        "--skip-name-resolve",
        "--skip-log-bin",
    ]
    with Daemon(command, port=port, cwd=folder, user=user, ready=_greets(port)) as daemon:
        yield daemon


def _greets(port: int) -> Callable[[], bool]:
    """Whether the server has greeted, which it does when its users are there."""

    def greets() -> bool:
        try:
            with socket.create_connection(("127.0.0.2", port), 1) as sock:
                return b"mysql_native_password" in sock.recv(256)
        except OSError:
            return False

    return greets
