"""asyncssh under rules, against an SSH server on loopback: 127.0.0.2 is allowed and 127.0.0.3 is not."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import asyncssh
import pytest

import netjail
from netjail import AsyncDialer, Rules, use_rules
from netjail.clients import asyncssh as jailed
from netjail.clients.asyncssh import DeniedError
from netjail.loop import new_event_loop
from tests.guard.harness import run_guarded
from tests.servers.names import BAD, GOOD, AsyncNames
from tests.servers.ssh import PASSWORD, USER, Sshd, ssh_server

Make = Callable[..., Any]
RULES = Rules(allow=[GOOD])
NAME = "asyncssh"

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("nothing_left_behind")]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with ssh_server(tmp_path_factory.mktemp("ssh")) as running:
        yield running


def login(server: Sshd, *known: str) -> dict[str, Any]:
    """The arguments of somebody who knows the server's key under these names."""
    return {
        "port": server.port,
        "username": USER,
        "password": PASSWORD,
        "known_hosts": asyncssh.import_known_hosts("".join(map(server.known, known))),
        "client_keys": None,
        "agent_path": None,
        "config": None,
    }


def connect(server: Sshd, host: str, *known: str, **options: Any) -> Any:
    given = {"rules": RULES, "resolver": AsyncNames(), **login(server, *(known or (host,))), **options}
    return jailed.connect(host, given.pop("port"), **given)


async def ran(connection: Any) -> str:
    return str((await connection.run("date")).stdout)


@pytest.mark.proves(NAME, "allowed", "tls")
@pytest.mark.parametrize("host", ["good.test", "mixed.test", GOOD])
async def test_a_command_runs_at_an_allowed_name_whose_key_is_known(server: Sshd, trap: Make, host: str) -> None:
    trap(BAD, port=server.port)
    async with connect(server, host) as connection:
        assert await ran(connection) == "ran date\n"
        async with connection.start_sftp_client() as files:
            assert await files.listdir(".")
        assert connection.get_extra_info("peername") == (GOOD, server.port)
    connection = await connect(server, host)
    connection.close()
    await connection.wait_closed()


@pytest.mark.proves(NAME, "denied", "literal")
@pytest.mark.parametrize("host", ["bad.test", BAD])
async def test_a_denied_target_opens_nothing(server: Sshd, trap: Make, host: str) -> None:
    trap(BAD, port=server.port)
    with pytest.raises(DeniedError) as caught:
        await connect(server, host)
    assert isinstance(caught.value, OSError)
    assert DeniedError is netjail.DeniedError
    assert (caught.value.host, caught.value.port) == (host, server.port)


async def test_without_rules_everything_is_denied_and_the_context_gives_some(server: Sshd) -> None:
    with pytest.raises(DeniedError, match="no rules are in force"):
        await connect(server, "good.test", rules=None)
    with use_rules(RULES):
        async with connect(server, "good.test", rules=None) as connection:
            assert await ran(connection) == "ran date\n"


@pytest.mark.proves(NAME, "wrong-name")
async def test_a_key_that_is_known_for_another_name_is_not_for_this_one(server: Sshd) -> None:
    with pytest.raises(asyncssh.HostKeyNotVerifiable):
        await connect(server, "wrong.test", "good.test")


async def test_a_key_that_is_known_for_the_address_will_do(server: Sshd) -> None:
    """That is asyncssh's own way, with or without netjail."""
    async with connect(server, "wrong.test", GOOD) as connection:
        assert await ran(connection) == "ran date\n"


@pytest.mark.parametrize("name", ["tunnel", "proxy_command"])
@pytest.mark.proves(NAME, "refused")
async def test_what_dials_by_itself_is_refused(server: Sshd, tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="connect_ssh"):
        await connect(server, "good.test", **{name: f"touch {tmp_path}/ran"})
    assert os.listdir(tmp_path) == []


@pytest.mark.proves(NAME, "announced")
async def test_what_a_configuration_names_is_what_is_judged(server: Sshd, trap: Make, tmp_path: Path) -> None:
    trap(BAD, port=server.port)
    config = tmp_path / "config"
    config.write_text(f"Host fine\n  HostName good.test\n  Port {server.port}\nHost good.test\n  HostName bad.test\n")
    options: dict[str, Any] = {"config": [str(config)], "rules": RULES, "resolver": AsyncNames()}
    plain = {key: value for key, value in login(server, "good.test").items() if key not in ("port", "config")}
    async with jailed.connect("fine", **options, **plain) as connection:
        assert await ran(connection) == "ran date\n"
    with pytest.raises(DeniedError) as caught:
        await jailed.connect("good.test", server.port, **options, **plain)
    assert caught.value.host == "bad.test"


@pytest.mark.proves(NAME, "refused")
async def test_how_a_configuration_would_connect_is_not_used(server: Sshd, trap: Make, tmp_path: Path) -> None:
    bad = trap(BAD)
    lines = [f"ProxyJump {BAD}:{bad.port}", f"ProxyCommand touch {tmp_path}/ran", "AddressFamily inet6"]
    for number, line in enumerate(lines):
        config = tmp_path / f"config{number}"
        config.write_text(f"Host *\n  {line}\n")
        async with connect(server, "good.test", config=[str(config)]) as connection:
            assert await ran(connection) == "ran date\n"
    assert not (tmp_path / "ran").exists()


async def test_a_connection_goes_on_through_a_jump_host_that_was_judged(server: Sshd) -> None:
    """What the jump host connects to is its own to say."""
    async with connect(server, "good.test") as jump:
        async with jump.connect_ssh(GOOD, **login(server, GOOD)) as connection:
            assert await ran(connection) == "ran date\n"


async def test_a_dialer_is_a_tunnel_for_whatever_takes_one(server: Sshd, trap: Make) -> None:
    trap(BAD, port=server.port)
    tunnel: Any = AsyncDialer(RULES, resolver=AsyncNames())
    options: dict[str, Any] = {"tunnel": tunnel, "config": None}
    key = await asyncssh.get_server_host_key("good.test", server.port, **options)
    assert key is not None
    assert key.export_public_key().decode().strip() == server.key
    with pytest.raises(DeniedError):
        await asyncssh.get_server_host_key("bad.test", server.port, **options)


async def test_a_connect_of_ones_own_is_given_accepted_addresses(server: Sshd) -> None:
    asked: list[Any] = []

    async def dial(address: Any) -> socket.socket:
        asked.append(address)
        sock = socket.create_connection(address)
        sock.setblocking(False)
        return sock

    async with connect(server, "mixed.test", connect=dial) as connection:
        assert await ran(connection) == "ran date\n"
    assert asked == [(GOOD, server.port)]


async def test_the_family_and_the_local_address_hold(server: Sshd) -> None:
    async with connect(server, "good.test", family=socket.AF_INET, local_addr=("127.0.0.9", 0)) as connection:
        assert connection.get_extra_info("sockname")[0] == "127.0.0.9"
    with pytest.raises((OSError, DeniedError)):
        await connect(server, "good.test", family=socket.AF_INET6)


async def test_a_connect_timeout_covers_the_lookup(server: Sshd) -> None:
    class Hanging:
        async def lookup(self, host: str, family: int) -> list[str]:
            await asyncio.Event().wait()
            return []

    with pytest.raises(TimeoutError):
        await connect(server, "good.test", resolver=Hanging(), connect_timeout=0.01)


@pytest.mark.proves("asyncssh, loop", "allowed", "denied", "literal", "tls", "wrong-name", "announced")
def test_on_netjails_loop_jump_hosts_and_forwarded_ports_are_judged(server: Sshd, trap: Make) -> None:
    bad = trap(BAD, port=server.port)

    async def main() -> None:
        plain = {key: value for key, value in login(server, "good.test").items() if key != "port"}
        async with asyncssh.connect("good.test", server.port, **plain) as connection:
            assert await ran(connection) == "ran date\n"
            # The server listens, and whoever connects there has this side connect to the denied address.
            listener = await connection.forward_remote_port(GOOD, 0, BAD, bad.port)
            reader, writer = await asyncio.open_connection(GOOD, listener.get_port())
            assert await reader.read() == b""
            writer.close()
        for host in ("bad.test", BAD):
            with pytest.raises(DeniedError):
                await asyncssh.connect(host, server.port, **plain)
            with pytest.raises(DeniedError):
                await asyncssh.connect("good.test", server.port, tunnel=f"{host}:{bad.port}", **plain)
        with pytest.raises(asyncssh.HostKeyNotVerifiable):
            await asyncssh.connect("wrong.test", server.port, **plain)

    with asyncio.Runner(loop_factory=partial(new_event_loop, RULES, resolver=AsyncNames())) as runner:
        runner.run(main())


@pytest.mark.proves("asyncssh, guard", "allowed", "denied", "literal", "tls", "wrong-name", "announced")
def test_a_program_under_the_guard_reaches_what_is_allowed(server: Sshd, trap: Make, tmp_path: Path) -> None:
    trap(BAD, port=server.port)
    known = tmp_path / "known_hosts"
    known.write_text(server.known("good.test"))
    config = tmp_path / "config"
    config.write_text(f"Host jumping\n  HostName {GOOD}\n  ProxyJump {BAD}:{server.port}\n")
    lines = run_guarded(
        """
        import asyncio, asyncssh
        async def main(host):
            async with asyncssh.connect(host, port, username=user, password=password, known_hosts=known,
                                        client_keys=None, agent_path=None, config=[config]) as connection:
                assert (await connection.run("date")).stdout == "ran date\\n"
        def command(host): asyncio.run(main(host))
        print(outcome(command, "good.test"), outcome(command, "bad.test"), outcome(command, BAD))
        print(outcome(command, "jumping"))
        print("HostKeyNotVerifiable" in outcome(command, "wrong.test"))
        """,
        known=str(known),
        config=str(config),
        port=server.port,
        user=USER,
        password=PASSWORD,
    )
    assert lines == ["ok denied denied", "denied", "True"]
