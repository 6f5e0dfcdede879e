"""``netjail check``: which host a target names, where it leads, and what the rules say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("typer")
pytest.importorskip("rich")

from typer.testing import CliRunner

from netjail import PUBLIC, Rules, presets
from netjail.cli import _check, main
from netjail.cli._app import app
from tests.servers.names import Names

SOURCE = Path(__file__).resolve().parents[2] / "src"

NAMES = {
    "public.test": ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"],
    "inside.test": ["10.0.0.1"],
    "mixed.test": ["10.0.0.1", "93.184.215.14"],
    "nat64.test": ["64:ff9b::a00:1"],
    "xn--bcher-kva.test": ["93.184.215.14"],
    "2130706433": ["127.0.0.1"],
}


@pytest.fixture(autouse=True)
def names(monkeypatch):
    """The system's resolver, played by a table."""
    table = Names(NAMES)
    monkeypatch.setattr(_check, "SystemResolver", lambda: table)
    monkeypatch.setenv("COLUMNS", "120")
    return table


def check(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["check", *arguments])


def as_json(*arguments: str) -> Any:
    return json.loads(check(*arguments, "--json").output)


# The verdict.


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("public.test", 0),
        ("93.184.215.14", 0),
        ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", 0),
        ("http://public.test/", 0),
        ("mixed.test", 0),
        ("inside.test", 1),
        ("10.0.0.1", 1),
        ("http://[::ffff:10.0.0.1]:8080/", 1),
        ("nat64.test", 1),
        ("2130706433", 1),
        ("168.63.129.16", 1),
        ("fe80::1%eth0", 1),
        ("none.test", 2),
        ("http://", 2),
    ],
)
def test_the_exit_status_says_accepted_denied_or_cannot_be_judged(target, status):
    assert check(target).exit_code == status
    assert check(target, "--json").exit_code == status


def test_each_address_is_shown_with_its_landing_its_verdict_and_what_decided():
    shown = check("http://nat64.test/").output
    for part in (
        "nat64.test port 80",
        "64:ff9b::a00:1",
        "10.0.0.1",
        "denied",
        "block 10.0.0.0/8",
        "Private-Use, RFC 1918",
    ):
        assert part in shown


def test_the_json_carries_what_the_table_shows():
    assert as_json("https://mixed.test/") == {
        "target": "https://mixed.test/",
        "host": "mixed.test",
        "port": 443,
        "accepted": True,
        "reason": None,
        "dials": ["93.184.215.14"],
        "addresses": [
            {
                "address": "10.0.0.1",
                "landing": "10.0.0.1",
                "accepted": False,
                "prefix": "10.0.0.0/8",
                "list": "block",
                "name": "Private-Use, RFC 1918",
            },
            {
                "address": "93.184.215.14",
                "landing": "93.184.215.14",
                "accepted": True,
                "prefix": "0.0.0.0/0",
                "list": "allow",
                "name": None,
            },
        ],
    }


def test_a_name_is_asked_for_once(names):
    check("mixed.test")
    assert names.asked == [("mixed.test", 0)]


def test_a_literal_is_not_asked_for(names):
    check("http://10.0.0.1/")
    check("::1")
    assert not names.asked


def test_a_mixed_answer_is_denied_when_that_is_asked_for():
    assert check("mixed.test", "--mixed", "refuse").exit_code == 1
    assert "not every one of its addresses" in check("mixed.test", "--mixed", "refuse").output
    assert check("public.test", "--mixed", "refuse").exit_code == 0


def test_all_addresses_that_a_client_would_dial_are_named():
    assert "a client dials 93.184.215.14, then 2606:2800:21f:cb07:6820:80da:af6b:8b2c" in check("public.test").output


def test_only_the_families_that_can_be_accepted_are_asked_for_and_that_is_told(names):
    """As every client does, so that --mixed=refuse says what a client would."""
    shown = check("public.test", "--allow", "93.184.215.0/24")
    assert [family.name for _, family in names.asked] == ["AF_INET"]
    assert "not asked for IPv6" in shown.output


def test_where_nothing_can_be_accepted_nothing_is_asked(names):
    assert check("public.test", "--allow", "10.0.0.0/8", "--block", "10.0.0.0/8").exit_code == 1
    assert not names.asked


# The rules.


def test_without_rules_what_is_public_is_accepted():
    assert _check.rules_of([], [], []) == PUBLIC


def test_allow_names_everything_that_is_accepted():
    assert check("10.0.0.1", "--allow", "10.0.0.0/8").exit_code == 0
    assert check("10.0.0.1", "--allow", "10.0.0.0/8", "--block", "10.0.0.1").exit_code == 1
    assert check("11.0.0.1", "--allow", "10.0.0.0/8").exit_code == 1
    assert "no allow prefix" in check("11.0.0.1", "--allow", "10.0.0.0/8").output


def test_block_alone_allows_everything_else():
    assert check("127.0.0.1", "--block", "10.0.0.0/8").exit_code == 0
    assert check("10.0.0.1", "--block", "10.0.0.0/8").exit_code == 1


@pytest.mark.parametrize(
    ("name", "prefixes"),
    [
        ("private", presets.PRIVATE),
        ("loopback", presets.LOOPBACK),
        ("link-local", presets.LINK_LOCAL),
        ("metadata", presets.METADATA),
        ("multicast", presets.MULTICAST),
        ("special-purpose", presets.SPECIAL_PURPOSE),
    ],
)
def test_a_preset_stands_for_its_prefixes_in_either_list(name, prefixes):
    assert _check.rules_of([name], [], []) == Rules(allow=prefixes)
    assert _check.rules_of([], [name], []) == Rules(allow=["0.0.0.0/0", "::/0"], block=prefixes)


def test_public_by_itself_is_public_and_beside_others_it_is_added():
    assert _check.rules_of(["public"], [], []) == PUBLIC
    assert not _check.rules_of(["public"], ["93.184.215.14"], []).accepts("93.184.215.14")
    both = _check.rules_of(["public", "private"], [], [])
    assert [both.accepts(ip) for ip in ("93.184.215.14", "10.0.0.1", "127.0.0.1")] == [True, True, False]
    assert not _check.rules_of([], ["public"], []).accepts("93.184.215.14")


def test_a_translator_of_ones_own_is_seen_through():
    translator = ("--nat64", "2606:4700::/96", "--allow", "::/0", "--allow", "93.184.0.0/16")
    assert check("2606:4700::a00:1").exit_code == 0
    assert check("2606:4700::a00:1", "--nat64", "2606:4700::/96").exit_code == 1
    assert check("2606:4700::93.184.215.14", *translator).exit_code == 0


@pytest.mark.parametrize("option", ["--allow", "--block", "--nat64"])
@pytest.mark.parametrize("entry", ["10.0.0.1/8", "10.0.0", "everything", ""])
def test_a_bad_prefix_is_named(option, entry):
    result = check("10.0.0.1", option, entry)
    assert result.exit_code == 2
    assert f"{option[2:]} entry {entry!r}" in result.output


# The target.


@pytest.mark.parametrize(
    ("target", "host", "port"),
    [
        ("public.test", "public.test", None),
        ("public.test:8080", "public.test", 8080),
        ("PUBLIC.test", "public.test", None),
        ("http://public.test", "public.test", 80),
        ("https://public.test?q", "public.test", 443),
        ("wss://public.test:1/x", "public.test", 1),
        ("redis://public.test", "public.test", None),
        ("http://public.test:/", "public.test", 80),
        ("http://10.0.0.1:80@public.test/", "public.test", 80),
        ("http://a@b@public.test/", "public.test", 80),
        ("http://public.test#@10.0.0.1/", "public.test", 80),
        ("http://public.test/@10.0.0.1", "public.test", 80),
        ("::1", "::1", None),
        ("[::1]:80", "::1", 80),
        ("http://[::ffff:10.0.0.1]/", "::ffff:10.0.0.1", 80),
        ("http://[fe80::1%25eth0]/", "fe80::1%eth0", 80),
        ("http://bücher.test/", "xn--bcher-kva.test", 80),
        ("http://①⓪.⓪.⓪.①/", "10.0.0.1", 80),
        ("http://2130706433/", "2130706433", 80),
    ],
)
def test_the_host_that_was_taken_is_told(target, host, port):
    found = as_json(target)
    assert (found["host"], found["port"]) == (host, port)
    assert f"host {host}" in check(target).output


def test_a_user_name_that_looks_like_a_host_is_pointed_out():
    assert (
        "('10.0.0.1:80' in front of the @ is a user name, not the host)"
        in check("http://10.0.0.1:80@public.test/").output
    )


@pytest.mark.parametrize(
    "target",
    [
        "",
        "http://",
        "http:///path",
        "file:///etc/passwd",
        "mailto:somebody@public.test",
        "public.test/path",
        "user@public.test",
        "10.0.0.0/8",
        "http://10.0.0.1\\@public.test/",
        "http://public.test\t/",
        "http://public.test /",
        "http://public.test\n.evil.test/",
        "http://public\u202e.test/",
        "http://public.test:99999/",
        "http://public.test:http/",
        "http://[::1/",
        "http://[::1]x/",
        "http://[v1.x]/",
        "http://%31%30.0.0.1/",
        "http://faß.test/",
        "http://public..test/",
        f"http://{'a' * 64}.test/",
        "http://10.0.0.1\N{FULLWIDTH SOLIDUS}@public.test/",
        "none.test",
    ],
)
def test_what_cannot_be_judged_is_an_error_in_one_line(target):
    """Above all what clients read in different ways: whichever host were taken, another client would take another."""
    result = check(target)
    assert result.exit_code == 2
    assert result.output.startswith("netjail: ")
    assert len(result.output.splitlines()) == 1
    assert set(as_json(target)) == {"target", "error"}


def test_what_a_target_says_is_shown_as_it_is():
    """And not as the markup that it would be for rich."""
    assert "[bold]" in check("http://[bold]@public.test/").output


# The command line itself.


def netjail(*arguments: str, python: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *python, "-m", "netjail", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_python_m_netjail_is_the_command_line():
    done = netjail("check", "10.0.0.1")
    assert done.returncode == 1
    assert "Private-Use, RFC 1918" in done.stdout


def test_the_version_is_told():
    done = netjail("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("netjail")


def test_without_typer_one_line_says_what_to_install():
    done = netjail("check", "10.0.0.1", python=("-S",))
    assert done.returncode == 2
    assert done.stderr == "netjail: the command line needs typer: pip install 'netjail[cli]'\n"


def test_a_module_of_netjails_own_that_is_missing_is_not_blamed_on_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "netjail.cli._app", None)
    with pytest.raises(ModuleNotFoundError):
        main()
