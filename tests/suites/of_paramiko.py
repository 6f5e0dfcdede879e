"""paramiko's own suite: every SSHClient is ours."""

from __future__ import annotations

from .standing_in import put, stand_in
from .suite import Suite


def jail() -> None:
    import paramiko

    from netjail import Rules, presets
    from netjail.clients.paramiko import SSHClient

    loopback = Rules(allow=presets.LOOPBACK)
    put("paramiko", paramiko.SSHClient, stand_in(SSHClient, paramiko.SSHClient, loopback))


SUITE = Suite(
    "paramiko",
    "5.1.0",
    "239b5f9b2a53006cd54f83cf8495ee742083708ead947882c8dd2786de79f39b",
    jail,
    keep=("tests", "pyproject.toml", "pytest.ini"),
    differs={
        "has sockets and the lookup of names replaced": (
            "tests/test_client.py::SSHClientTest::test_closes_socket_on_socket_errors",
        ),
    },
)
