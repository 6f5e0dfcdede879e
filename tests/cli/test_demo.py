"""``netjail demo``: it shows that the jail holds, and it can tell when it does not.

Each runs in a process of its own, as the plain client in it does try to leave loopback, and the demo's own
fence is what stops it.
"""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest.importorskip("typer")
pytest.importorskip("rich")

SOURCE = Path(__file__).resolve().parents[2] / "src"

ONE_CLIENT = """
everything = _demo.jailed_clients
_demo.jailed_clients = lambda: ([client for client in everything()[0] if client.name == "urllib"], [])
"""


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Python with netjail's source, and 80 columns; what it warns of shows in stderr."""
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={"PYTHONPATH": str(SOURCE), "COLUMNS": "80", "PYTHONIOENCODING": "utf-8", **environment},
    )


def demo(rules: str, before: str = ONE_CLIENT, after: str = "") -> subprocess.CompletedProcess[str]:
    """The demo with other rules than its own, with the one client that is always installed."""
    return run(
        "-c",
        f"""
import sys
from rich.console import Console
from netjail import Rules, _demo
{before}
status = _demo.run(Console(), {rules})
{after}
sys.exit(status)
""",
    )


@pytest.fixture(scope="module")
def shown() -> subprocess.CompletedProcess[str]:
    return run("-m", "netjail", "demo")


def test_no_attack_gets_through_and_every_legitimate_request_succeeds(shown):
    assert shown.returncode == 0, shown.stdout
    assert re.search(r"^0 of \d+ attacks got through netjail: ", shown.stdout, re.MULTILINE)
    assert re.search(r"^All \d+ legitimate requests succeeded with every client\.", shown.stdout, re.MULTILINE)
    assert "FAIL" not in shown.stdout
    assert not shown.stderr


def test_thirty_attacks_are_tried_with_every_client_that_is_installed(shown):
    assert int(re.findall(r"0 of (\d+) attacks", shown.stdout)[0]) >= 30
    for library in ("httpx", "httpx2", "requests", "urllib3", "aiohttp"):
        if find_spec(library):
            assert library in shown.stdout.split("got through netjail")[1]


def test_the_plain_clients_leak(shown):
    """A demo in which nothing is at stake shows nothing."""
    flat = " ".join(shown.stdout.split())
    assert int(re.findall(r"The plain client \(\w+\) leaked (\d+),", flat)[0]) >= 20
    assert int(re.findall(r"The client that checks the URL first leaked (\d+),", flat)[0]) >= 5


def test_the_table_fits_a_terminal_of_80_columns_with_a_line_for_each_row(shown):
    lines = shown.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    rows = [line for line in lines if re.match(r" \S.*\b(deny|safe|ok|LEAK)\s*$", line)]
    ((attacks, legitimate),) = re.findall(r"0 of (\d+) attacks.*All (\d+) legitimate", shown.stdout, re.DOTALL)
    assert len(rows) == int(attacks) + int(legitimate)


def test_it_can_be_piped_to_where_there_is_no_unicode():
    piped = demo("_demo.RULES", before=ONE_CLIENT + "sys.stdout.reconfigure(encoding='ascii')")
    assert piped.returncode == 0
    assert not piped.stderr
    assert piped.stdout.isascii()


def test_it_needs_no_client_library():
    shown = demo(
        "_demo.RULES",
        before="for name in ('httpx', 'httpx2', 'requests', 'urllib3', 'aiohttp'): sys.modules[name] = None",
    )
    assert shown.returncode == 0, shown.stdout
    assert "The plain client (urllib) leaked" in shown.stdout
    assert "Not installed, and so not attacked: httpx, httpx2, requests, urllib3, aiohttp." in shown.stdout
    assert not shown.stderr


def test_rules_that_allow_everything_are_seen_to_fail():
    shown = demo("Rules(allow=['0.0.0.0/0', '::/0'])")
    assert shown.returncode == 1
    assert "LEAK: an inside address, through urllib" in shown.stdout
    assert "LEAK: this host: 0.0.0.0, through urllib" in shown.stdout
    assert "LEAK: kept connection, other rules, through urllib" in shown.stdout
    assert "OUT: name of a NAT64 address, through urllib" in shown.stdout
    assert not re.search("^0 of", shown.stdout, re.MULTILINE)


def test_a_client_that_only_claims_to_be_jailed_is_seen_to_fail():
    """Nothing is believed that a client says."""
    claims = (
        ONE_CLIENT
        + """
import dataclasses
from netjail._demo._clients import _plain_urllib
(honest,), _ = _demo.jailed_clients()
_demo.jailed_clients = lambda: ([dataclasses.replace(honest, open=_plain_urllib)], [])
"""
    )
    shown = demo("_demo.RULES", claims)
    assert shown.returncode == 1
    assert "LEAK: an inside address, through urllib" in shown.stdout


def test_rules_that_allow_nothing_are_seen_to_fail():
    shown = demo("Rules()")
    assert shown.returncode == 1
    assert re.search("^0 of", shown.stdout, re.MULTILINE)
    assert "failed, and should not have: GET by address, with urllib" in shown.stdout


def test_nothing_leaves_loopback_and_no_name_server_is_asked():
    """The hook of this test comes after the demo's fence, so it sees what the fence lets pass."""
    watching = (
        ONE_CLIENT
        + """
import ipaddress, socket
from netjail._demo._network import Network, _fence as fence
with Network():
    pass
passed = []
def look(event, args):
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg") and args[0].family != socket.AF_UNIX:
        ip = ipaddress.ip_address(args[1][0])
        ip = getattr(ip, "ipv4_mapped", None) or ip
        passed.append((ip.is_loopback or ip.is_unspecified, event, args[1]))
    elif event in ("socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo"):
        passed.append((False, event, args))
    elif event == "socket.getaddrinfo":  # the demo's names do it, with AI_NUMERICHOST, which asks nobody
        passed.append((getattr(fence._thread, "numbers", False), event, args))
sys.addaudithook(look)
"""
    )
    after = "print(len(passed), [each for each in passed if not each[0]])"
    done = demo("Rules(allow=['0.0.0.0/0', '::/0'])", watching, after)
    count, strays = done.stdout.splitlines()[-1].split(" ", 1)
    assert int(count) > 100
    assert strays == "[]"


def test_a_system_without_the_addresses_is_told_what_it_needs():
    before = """
import errno
def fails(self):
    raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
_demo.Network.__enter__ = fails
"""
    shown = demo("_demo.RULES", before)
    assert shown.returncode == 2
    assert "ifconfig lo0 alias 127.0.0.2" in shown.stdout
