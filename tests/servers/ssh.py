"""asyncssh as an SSH server of a test's own, in a process of its own: ``python -m tests.servers.ssh ADDRESS PORT KEY``.

It says which command it was asked to run, has SFTP, connects on to wherever a client asks, as a jump host does, and
listens for a client that asks for that.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .daemon import Daemon, free_port, missing
from .names import GOOD

USER, PASSWORD = "jailed", "secret"
_ROOT = Path(__file__).resolve().parent.parent.parent


class Sshd(Daemon):
    """The running server, and its host key as a line of a known_hosts file has it."""

    key: str

    def known(self, host: str) -> str:
        """The line that says that ``host`` has this server's key."""
        return f"[{host}]:{self.port} {self.key}\n"


@contextmanager
def ssh_server(folder: Path) -> Iterator[Sshd]:
    try:
        import asyncssh  # noqa: PLC0415 - it is the server, and need not be here
    except ImportError:
        missing("an SSH server", "asyncssh")
    key = asyncssh.generate_private_key("ssh-ed25519")
    path = folder / "key"
    key.write_private_key(str(path))
    port = free_port()
    command = [sys.executable, "-m", __name__, GOOD, str(port), str(path)]
    daemon = Sshd(command, port=port, cwd=folder, env={"PYTHONPATH": str(_ROOT)})
    with daemon:
        daemon.key = key.export_public_key().decode().strip()
        yield daemon


async def _serve(address: str, port: str, key: str) -> None:
    import asyncssh  # noqa: PLC0415 - as above

    class Login(asyncssh.SSHServer):
        def password_auth_supported(self) -> bool:
            return True

        def validate_password(self, username: str, password: str) -> bool:
            return (username, password) == (USER, PASSWORD)

        def connection_requested(self, *_: Any) -> bool:
            return True

        def server_requested(self, *_: Any) -> bool:
            return True

    def ran(process: Any) -> None:
        process.stdout.write(f"ran {process.command}\n")
        process.exit(0)

    await asyncssh.listen(
        address,
        int(port),
        server_factory=Login,
        server_host_keys=[key],
        process_factory=ran,
        sftp_factory=True,
    )
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(*sys.argv[1:4]))
