"""What runs the clients' released suites, on suites of two lines: nothing is downloaded."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.suites import __main__ as runner
from tests.suites import inside, standing_in
from tests.suites.suite import CLIENTS, Suite, called, named, suite

REQUIREMENTS = Path(runner.__file__).parent / "requirements"


def a_suite(**more: Any) -> Suite:
    return Suite("nothing", "1", "0" * 64, lambda: None, **more)


def a_run(ended: dict[str, str], **more: Any) -> dict[str, Any]:
    return {"ended": ended, "left_out": [], "strays": [], "unjudged": [], "judged": 1, **more}


def wrong(plain: dict[str, Any], jailed: dict[str, Any], **more: Any) -> list[str]:
    return list(runner.Comparison("nothing", a_suite(**more), plain, jailed, 0).wrong())


class TestNames:
    def test_a_test_goes_by_its_own_name_and_those_of_what_it_is_in(self) -> None:
        names = list(called("tests/sub/test_a.py::TestA::test_b[x::y]"))
        assert names == [
            "tests/sub/test_a.py::TestA::test_b[x::y]",
            "tests/sub/test_a.py::TestA::test_b",
            "tests/sub/test_a.py::TestA",
            "tests/sub/test_a.py",
            "tests/sub",
            "tests",
        ]

    def test_the_most_particular_name_is_found(self) -> None:
        table = {"one": ("tests/test_a.py",), "two": ("tests/test_a.py::test_b[1]",)}
        assert named("tests/test_a.py::test_b[1]", table) == "tests/test_a.py::test_b[1]"
        assert named("tests/test_a.py::test_b[2]", table) == "tests/test_a.py"
        assert named("tests/test_ab.py::test_b", table) is None


class TestComparison:
    def test_two_runs_that_end_alike_are_right(self) -> None:
        ended = {"t::a": "passed", "t::b": "failed", "t::c": "skipped"}
        assert wrong(a_run(ended), a_run(ended)) == []

    @pytest.mark.parametrize("jailed", [{"t::a": "failed"}, {"t::a": "skipped"}, {}])
    def test_what_passes_with_the_plain_client_alone_is_wrong(self, jailed: dict[str, str]) -> None:
        plain = a_run({"t::a": "passed", "t::b": "passed"})
        assert wrong(plain, a_run({"t::b": "passed", **jailed})) == ["fails with ours only: t::a"]

    @pytest.mark.parametrize("plain", [{"t::a": "skipped"}, {}])
    def test_what_fails_with_ours_alone_is_wrong_where_the_plain_run_skips_it(self, plain: dict[str, str]) -> None:
        jailed = a_run({"t::a": "failed", "t::b": "passed"})
        assert wrong(a_run({"t::b": "passed", **plain}), jailed) == ["fails with ours only: t::a"]

    def test_what_is_named_with_a_reason_may_differ(self) -> None:
        plain, jailed = a_run({"t::a": "passed"}), a_run({"t::a": "failed"})
        assert wrong(plain, jailed, differs={"a reason": ("t::a",)}) == []

    def test_what_is_named_as_differing_must_differ(self) -> None:
        ended = {"t::a": "passed"}
        assert len(wrong(a_run(ended), a_run(ended), differs={"a reason": ("t::a",)})) == 1
        assert len(wrong(a_run(ended), a_run(ended), differs={"a reason": ("t::gone",)})) == 1

    def test_what_fails_by_chance_may_end_either_way_and_must_be_there(self) -> None:
        plain, jailed = a_run({"t::a": "passed"}), a_run({"t::a": "failed"})
        for one, other in ((plain, jailed), (jailed, plain), (plain, plain)):
            assert wrong(one, other, chance={"once in ten": ("t::a",)}) == []
        assert len(wrong(plain, plain, chance={"once in ten": ("t::gone",)})) == 1

    def test_what_is_named_to_be_left_out_must_be_there(self) -> None:
        ended = {"t::a": "passed"}
        plain = a_run(ended, left_out=["t::b[1]"])
        assert wrong(plain, a_run(ended), left_out={"a reason": ("t::b",)}) == []
        assert len(wrong(plain, a_run(ended), left_out={"a reason": ("t::gone",)})) == 1

    @pytest.mark.parametrize(
        "more", [{"strays": ["192.0.2.1 80"]}, {"unjudged": ["127.0.0.1 80"]}, {"judged": 0}, {"ended": {}}]
    )
    def test_a_connect_past_the_rules_or_off_loopback_or_none_at_all_is_wrong(self, more: dict[str, Any]) -> None:
        assert wrong(a_run({"t::a": "passed"}), {**a_run({"t::a": "passed"}), **more})


SEEN = """
import socket

def dial(address):
    with socket.socket() as sock:
        sock.settimeout(5)
        sock.connect(address)
"""


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Runs a suite whose client is ``client.py`` beside it, and returns what the plugin saw."""

    def made(tests: str, way: str = "jailed", table: str = "") -> dict[str, Any]:
        package = tmp_path / "netjail_suites"
        package.mkdir()
        for name in ("__init__", "inside", "suite"):
            source = Path(runner.__file__).with_name(f"{name}.py")
            (package / source.name).write_text(source.read_text())
        (package / "of_it.py").write_text(
            f"from .suite import Suite\nSUITE = Suite('it', '1', '', lambda: None, tests=('tests',), {table})\n"
        )
        folder = tmp_path / "suite" / "tests"
        folder.mkdir(parents=True)
        (tmp_path / "pytest.ini").write_text("")
        (tmp_path / "client.py").write_text(SEEN)
        (folder / "test_it.py").write_text(f"import errno, socket, netjail, client, pytest\n{tests}")
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "netjail_suites.inside"]
        command += ["--suite=it", f"--way={way}", f"--seen={tmp_path / 'seen.json'}", "--rootdir=."]
        environ = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        subprocess.run(command, cwd=folder.parent, env=environ, check=False, capture_output=True, timeout=60)
        seen: dict[str, Any] = json.loads((tmp_path / "seen.json").read_text())
        return seen

    return made


@pytest.fixture
def port() -> Any:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


class TestTripwire:
    def test_it_tells_judged_connects_from_others_and_the_suite_from_its_client(
        self, run: Callable[..., dict[str, Any]], port: int
    ) -> None:
        seen = run(
            f"""
there = ("127.0.0.1", {port})
def test_judged():
    netjail.Dialer(netjail.Rules(allow=["127.0.0.1"])).connect(there).close()
def test_unjudged():
    client.dial(there)
def test_own():
    socket.create_connection(there).close()
def test_swallowed():
    with pytest.raises(OSError):
        client.dial(("192.0.2.1", 80))
def test_name():
    with pytest.raises(socket.gaierror):
        socket.getaddrinfo("example.com", 80)
def test_left_out():
    pass
def test_closed():
    with pytest.raises(ConnectionRefusedError):
        client.dial(("127.0.0.1", 9))
""",
            table="left_out={'so': ('tests/test_it.py::test_left_out',)}, closed=(9,)",
        )
        assert set(seen["ended"].values()) == {"passed"}
        assert seen["judged"] == 1
        assert seen["unjudged"] == [f"tests/test_it.py::test_unjudged: 127.0.0.1 {port}"]
        assert seen["strays"] == ["tests/test_it.py::test_swallowed: socket.connect 192.0.2.1 80"]
        assert seen["left_out"] == ["tests/test_it.py::test_left_out"]

    def test_the_plain_run_judges_nothing_and_stays_on_loopback(
        self, run: Callable[..., dict[str, Any]], port: int
    ) -> None:
        seen = run(
            f"""
def test_dial():
    client.dial(("127.0.0.1", {port}))
def test_stray():
    client.dial(("192.0.2.1", 80))
""",
            way="plain",
        )
        assert seen["ended"] == {"tests/test_it.py::test_dial": "passed", "tests/test_it.py::test_stray": "failed"}
        assert (seen["judged"], seen["unjudged"], len(seen["strays"])) == (0, [], 1)

    @pytest.mark.parametrize(
        ("host", "local"),
        [("127.9.9.9", True), ("::1", True), ("::ffff:127.0.0.1", True), ("10.0.0.1", False), ("example.com", False)],
    )
    def test_loopback_is_what_the_rules_call_so(self, host: str, local: bool) -> None:
        assert inside._on_loopback(host) is local


class Plain:
    def __init__(self, host: str = "", port: int = 0, **more: Any) -> None:
        self.given: Any = (host, port, more)


class Ours(Plain):
    def __init__(self, rules: Any = None, **options: Any) -> None:
        super().__init__(**options)
        self.rules = rules


def test_a_stand_in_takes_the_plain_ones_arguments_in_their_order_and_its_name() -> None:
    made: Any = standing_in.stand_in(Ours, Plain, "rules")
    assert (made("h", 1, x=2).given, made("h", port=1).rules) == (("h", 1, {"x": 2}), "rules")
    assert made(connection_pool=1).rules is None  # the pool has them
    assert (made.__name__, made.__module__) == (Plain.__name__, Plain.__module__)


def test_every_name_of_the_plain_thing_within_a_package_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = type(sys)("ape.inner")
    module.Plain = module.Other = Plain
    module.kept = 1
    monkeypatch.setitem(sys.modules, "ape.inner", module)
    was = standing_in.as_it_is(module)
    standing_in.put("ape", Plain, Ours)
    assert (module.Plain, module.Other, module.kept) == (Ours, Ours, 1)
    assert was.Plain is Plain


@pytest.mark.parametrize("client", CLIENTS)
def test_a_clients_environment_is_locked_with_hashes_at_the_version_of_its_suite(client: str) -> None:
    table = suite(client)
    locked = (REQUIREMENTS / f"{client}.txt").read_text()
    assert "--hash=sha256:" in locked
    assert "://" not in locked
    assert re.fullmatch("[0-9a-f]{64}", table.sha256)
    if client != "httpx2":  # runs through the tests of another
        assert re.search(rf"^{re.escape(table.distribution)}=={re.escape(table.version)}\b", locked, re.MULTILINE)


@pytest.mark.parametrize("client", CLIENTS)
def test_no_test_is_named_twice_and_every_reason_names_one(client: str) -> None:
    table = suite(client)
    tables = (table.left_out, table.differs, table.chance)
    names = [name for each in tables for tests in each.values() for name in tests]
    assert len(names) == len(set(names))
    assert all(tests for each in tables for tests in each.values())


def test_the_page_has_every_client_and_every_reason() -> None:
    page = (runner.ROOT / "docs" / "suites.md").read_text(encoding="utf-8")
    for client in CLIENTS:
        table = suite(client)
        assert f"| {client} | {table.distribution} {table.version} | jailed |" in page
        for tests in (table.left_out, table.differs, table.chance):
            for reason, names in tests.items():
                assert f"{reason}:" in page
                assert all(f"- `{name}`" in page for name in names)


def test_the_page_is_written_below_its_mark(tmp_path: Path) -> None:
    file = tmp_path / "page.md"
    file.write_text("above\n<!-- measured -->\nold\n")
    ended = {"t::a": "passed", "t::b": "failed"}
    client = a_suite(left_out={"is so": ("t::c",)})
    runner.write(file, [runner.Comparison("it", client, a_run(ended), a_run({**ended, "t::a": "skipped"}), 0)])
    written = file.read_text()
    assert written.startswith("above\n<!-- measured -->\n\n| client |")
    assert "| it | nothing 1 | plain | 1 | 1 | 0 | 0 |" in written
    assert "| it | nothing 1 | jailed | 0 | 1 | 1 | 0 |" in written
    assert "Left out of both runs, as it is so:\n\n- `t::c`" in written
    assert "- `t::b`" in written
    assert "old" not in written
