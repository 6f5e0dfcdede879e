"""paramiko under rules, against an SSH server on loopback: 127.0.0.2 is allowed and 127.0.0.3 is not."""

from __future__ import annotations

import pickle
import socket
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import paramiko
import pytest
from paramiko.ssh_exception import NoValidConnectionsError

import netjail
from netjail import Rules, create_connection, use_rules
from netjail.clients.paramiko import DeniedError, SSHClient
from tests.guard.harness import run_guarded
from tests.servers.names import BAD, GOOD, Names
from tests.servers.ssh import PASSWORD, USER, Sshd, ssh_server

Make = Callable[..., Any]
RULES = Rules(allow=[GOOD])
NAME = "paramiko"
LOGIN: dict[str, Any] = {"username": USER, "password": PASSWORD, "allow_agent": False, "look_for_keys": False}

pytestmark = pytest.mark.usefixtures("nothing_left_behind")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with ssh_server(tmp_path_factory.mktemp("ssh")) as running:
        yield running


def client(server: Sshd, *hosts: str, rules: Rules | None = RULES, **options: Any) -> SSHClient:
    """A client that knows the server's key under these names."""
    made = SSHClient(rules, **{"resolver": Names(), **options})
    for host in hosts:
        kind, key = server.key.split()[:2]
        made.get_host_keys().add(f"[{host}]:{server.port}", kind, paramiko.Ed25519Key(data=b64decode(key)))
    return made


def ran(ssh: paramiko.SSHClient) -> str:
    _, out, _ = ssh.exec_command("date")
    with out:
        return str(out.read().decode())


@pytest.mark.proves(NAME, "allowed", "tls")
@pytest.mark.parametrize("host", ["good.test", "mixed.test", GOOD])
def test_a_command_runs_at_an_allowed_name_whose_key_is_known(server: Sshd, trap: Make, host: str) -> None:
    trap(BAD, port=server.port)
    with client(server, host) as ssh:
        ssh.connect(host, server.port, **LOGIN)
        assert ran(ssh) == "ran date\n"
        with ssh.open_sftp() as files:
            assert files.listdir(".") is not None


@pytest.mark.proves(NAME, "denied", "literal")
@pytest.mark.parametrize("host", ["bad.test", BAD])
def test_a_denied_target_opens_nothing(server: Sshd, trap: Make, host: str) -> None:
    trap(BAD, port=server.port)
    with client(server) as ssh, pytest.raises(DeniedError) as caught:
        ssh.connect(host, server.port, **LOGIN)
    assert isinstance(caught.value, paramiko.SSHException)
    assert isinstance(caught.value, netjail.DeniedError)
    assert (caught.value.host, caught.value.port) == (host, server.port)
    copied = pickle.loads(pickle.dumps(caught.value))
    assert (type(copied), str(copied)) == (DeniedError, str(caught.value))


def test_without_rules_everything_is_denied_and_the_context_gives_some(server: Sshd) -> None:
    with client(server, "good.test", rules=None) as ssh:
        with pytest.raises(DeniedError, match="no rules are in force"):
            ssh.connect("good.test", server.port, **LOGIN)
        with use_rules(RULES):
            ssh.connect("good.test", server.port, **LOGIN)
        assert ran(ssh) == "ran date\n"


@pytest.mark.proves(NAME, "wrong-name")
def test_a_key_that_is_known_for_another_name_is_not_for_this_one(server: Sshd) -> None:
    with client(server, "good.test", GOOD) as ssh, pytest.raises(paramiko.SSHException, match="not found in known"):
        ssh.connect("wrong.test", server.port, **LOGIN)


def test_another_key_than_the_known_one_fails(server: Sshd) -> None:
    with SSHClient(RULES, resolver=Names()) as ssh:
        ssh.get_host_keys().add(f"[good.test]:{server.port}", "ssh-rsa", paramiko.RSAKey.generate(2048))
        with pytest.raises(paramiko.BadHostKeyException):
            ssh.connect("good.test", server.port, **LOGIN)


@pytest.mark.proves(NAME, "refused")
def test_a_proxy_command_is_refused() -> None:
    command: Any = paramiko.ProxyCommand("cat")
    with command.process, closing(command), SSHClient(RULES) as ssh, pytest.raises(ValueError, match="another process"):
        ssh.connect("good.test", sock=command, **LOGIN)


@pytest.mark.proves(NAME, "refused")
def test_an_address_in_the_place_of_a_socket_is_refused(trap: Make) -> None:
    """paramiko would dial it."""
    forbidden = trap(BAD)
    for target in ((BAD, forbidden.port), f"{BAD}:{forbidden.port}"):
        sock: Any = target
        with SSHClient(RULES) as ssh, pytest.raises(ValueError, match="unjudged"):
            ssh.connect("good.test", sock=sock, **LOGIN)
    assert not forbidden.accepted


def test_a_connection_goes_on_through_a_jump_host_that_was_judged(server: Sshd) -> None:
    """What the jump host connects to is its own to say."""
    with client(server, "good.test") as jump, client(server, "inner.test") as ssh:
        jump.connect("good.test", server.port, **LOGIN)
        transport = jump.get_transport()
        assert transport is not None
        channel = transport.open_channel("direct-tcpip", (GOOD, server.port), ("", 0))
        ssh.connect("inner.test", server.port, sock=channel, **LOGIN)
        assert ran(ssh) == "ran date\n"


def test_a_transport_goes_over_a_socket_of_netjails(server: Sshd) -> None:
    sock = create_connection(("good.test", server.port), rules=RULES, resolver=Names())
    with closing(paramiko.Transport(sock)) as transport:
        transport.connect(username=USER, password=PASSWORD)
        with transport.open_session() as channel:
            channel.exec_command("date")
            assert channel.recv(20) == b"ran date\n"


def test_a_refused_connection_is_told_as_paramiko_tells_it() -> None:
    with socket.socket() as unused, SSHClient(RULES, resolver=Names()) as ssh:
        unused.bind((GOOD, 0))
        with pytest.raises(NoValidConnectionsError):
            ssh.connect("good.test", unused.getsockname()[1], **LOGIN)


def test_an_argument_that_paramiko_does_not_know_leaves_no_socket_behind(server: Sshd) -> None:
    with client(server) as ssh, pytest.raises(TypeError):
        ssh.connect("good.test", server.port, nonsense=1, **LOGIN)


def test_a_connect_of_ones_own_is_given_accepted_addresses_and_the_timeout(server: Sshd) -> None:
    asked: list[Any] = []

    def connect(address: Any, *, timeout: float | None) -> socket.socket:
        asked.append((address, timeout is not None and 0 < timeout <= 5))
        return socket.create_connection(address, timeout)

    with client(server, "mixed.test", connect=connect) as ssh:
        ssh.connect("mixed.test", server.port, timeout=5, **LOGIN)
        assert ran(ssh) == "ran date\n"
    assert asked == [((GOOD, server.port), True)]


@pytest.mark.proves("paramiko, guard", "allowed", "denied", "literal", "tls", "wrong-name")
def test_a_program_under_the_guard_reaches_what_is_allowed(server: Sshd, trap: Make, tmp_path: Path) -> None:
    trap(BAD, port=server.port)
    known = tmp_path / "known_hosts"
    known.write_text(server.known("good.test"))
    lines = run_guarded(
        """
        import paramiko
        def command(host):
            with paramiko.SSHClient() as ssh:
                ssh.load_host_keys(known)
                ssh.connect(host, port, user, password, allow_agent=False, look_for_keys=False)
                _, out, _ = ssh.exec_command("date")
                assert out.read() == b"ran date\\n"
        print(outcome(command, "good.test"), outcome(command, "bad.test"), outcome(command, BAD))
        print("not found in known_hosts" in outcome(command, "wrong.test"))
        """,
        known=str(known),
        port=server.port,
        user=USER,
        password=PASSWORD,
    )
    assert lines == ["ok denied denied", "True"]
