"""Modules that dial from C: what strict mode refuses, what the report says, and what is closed instead."""

from __future__ import annotations

import socket

import pytest

from netjail import guard
from tests.servers.names import BAD, GOOD

from .harness import ROOT, run, run_guarded

ROWS = sorted(guard.CANNOT_SEE)


@pytest.fixture
def stand_ins(tmp_path):
    """Installs modules with the names of those that dial from C."""
    for name in (*ROWS, "dulwich"):
        package, _, module = name.rpartition(".")
        folder = tmp_path / package
        folder.mkdir(exist_ok=True)
        (folder / f"{module}.py").write_text(f"here = {name!r}\n")
    return tmp_path


def test_strict_mode_refuses_every_row_and_says_what_to_use_instead(stand_ins):
    lines = run_guarded(
        """
        import importlib
        for name in rows:
            for load in (importlib.import_module, __import__, lambda name: exec(f"from {name} import here")):
                try:
                    load(name)
                except ImportError as error:
                    print(error.name, error)
        import dulwich
        print(guard.report().unseen, guard.report().strict)
        """,
        strict=True,
        path=[stand_ins],
        rows=ROWS,
    )
    assert lines == [
        f"{name} netjail.guard refuses {name}: {what} dials where the guard cannot see it. Use {instead}."
        for name in ROWS
        for what, instead in [guard.CANNOT_SEE[name]] * 3
    ] + ["() True"]


def test_asking_whether_a_refused_module_is_installed_raises_nothing(stand_ins):
    lines = run_guarded(
        """
        from importlib.util import find_spec
        print(find_spec("pycurl") is not None)
        try:
            import grpc_is_not_installed
        except ModuleNotFoundError as error:
            print(error)
        sys.path.remove(elsewhere)
        print(find_spec("pymssql"), outcome(__import__, "pymssql"))
        """,
        strict=True,
        path=[stand_ins],
        elsewhere=str(stand_ins),
    )
    assert lines[:2] == ["True", "No module named 'grpc_is_not_installed'"]
    assert lines[2].startswith("None ModuleNotFoundError")


def test_a_module_that_is_loaded_already_is_an_error_of_install_which_then_installs_nothing(stand_ins):
    lines = run(
        """
        import psycopg
        try:
            guard.install(Rules(), strict=True)
        except ImportError as error:
            print(error.name, error)
        print(guard.report())
        """,
        path=[stand_ins],
    )
    assert lines == [
        (
            "psycopg netjail.guard refuses psycopg: libpq dials where the guard cannot see it. Use asyncpg or pg8000. "
            "It is loaded already: install the guard first."
        ),
        "Report(floors=(), strict=False, judged=0, denied=0, wakeups=0, unseen=('psycopg',))",
    ]


def test_without_strict_the_report_names_what_is_loaded_and_strict_can_come_later_but_not_go(stand_ins):
    lines = run_guarded(
        """
        import zmq
        print(guard.report().unseen)
        del sys.modules["zmq"]
        guard.install(Rules(), strict=True)
        guard.install(Rules(), strict=False)
        print(outcome(__import__, "zmq").partition("(")[0], guard.report().strict)
        """,
        path=[stand_ins],
    )
    assert lines == ["('zmq',)", "ImportError True"]


def test_code_in_c_is_refused_although_the_finder_of_modules_was_taken_away():
    """The audit hook sees each extension when it is loaded, whoever found it."""
    lines = run(
        """
        guard.CANNOT_SEE["_queue"] = ("This module of C", "another")
        sys.modules.pop("_queue", None)
        guard.install(Rules(), strict=True)
        sys.meta_path.pop(0)
        import importlib
        print(outcome(importlib.import_module, "_queue"))
        """
    )
    assert lines[0].startswith("ImportError('netjail.guard refuses _queue: This module of C dials")


@pytest.mark.parametrize("name", ["pycurl", "psycopg", "psycopg2", "grpc", "_mysql_connector", "confluent_kafka"])
def test_the_real_modules_are_refused(name):
    pytest.importorskip(name)
    assert run_guarded("print(outcome(__import__, name).partition('(')[0])", strict=True, name=name) == ["ImportError"]


def test_mysql_connector_goes_on_in_python():
    pytest.importorskip("mysql.connector")
    assert run_guarded("import mysql.connector; print(mysql.connector.HAVE_CEXT)", strict=True) == ["False"]


def test_oracledb_is_left_with_its_thin_mode(trap):
    pytest.importorskip("oracledb")
    lines = run_guarded(
        """
        import oracledb
        print(outcome(oracledb.init_oracle_client).partition("(")[0])
        print(outcome(oracledb.connect, user="u", password="p", dsn=f"{BAD}:{bad}/x"))
        print(guard.report().denied > 0, guard.report().unseen)
        """,
        strict=True,
        bad=trap(BAD).port,
    )
    assert lines == ["ImportError", "denied", "True ()"]


UVLOOP = """
import asyncio, uvloop
async def main():
    loop = asyncio.get_running_loop()
    async def attempt(*args, **kwargs):
        try:
            transport, _ = await loop.create_connection(asyncio.Protocol, *args, **kwargs)
        except DeniedError:
            return "denied"
        transport.close()
        return "ok"
    print(
        await attempt(GOOD, good), await attempt(BAD, bad), await attempt("localhost", bad),
        await attempt(host=BAD, port=bad), await attempt(None, bad),
    )
    with use_rules(Rules()):
        print(await attempt(GOOD, good))
    sock = socket.create_connection((GOOD, good))
    print(await attempt(sock=sock))
    async def datagrams(**kwargs):
        try:
            transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, **kwargs)
        except DeniedError:
            return "denied"
        transport.sendto(b"x")
        try:
            transport.sendto(b"x", (BAD, bad))
        except (ValueError, OSError):
            pass
        transport.close()
        return "ok"
    connected, loose = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    connected.connect((GOOD, good))
    loose.bind((GOOD, 0))
    print(
        await datagrams(remote_addr=(GOOD, good)), await datagrams(remote_addr=(BAD, bad)),
        await datagrams(local_addr=(GOOD, 0)), await datagrams(family=socket.AF_INET),
        await datagrams(sock=connected), await datagrams(sock=loose),
    )
uvloop.run(main())
done = guard.report()
print(done.judged, done.denied)
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_uvloop_dials_what_was_judged_whether_it_was_loaded_before_the_guard_or_after(when, site, trap):
    pytest.importorskip("uvloop")
    unseen = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    bad = trap(BAD)
    unseen.bind((BAD, bad.port))
    unseen.setblocking(False)
    install = "guard.install(Rules(allow=[GOOD]))\n"
    first = {"before": "import uvloop\n" + install, "after": install}[when]
    lines = run(first + UVLOOP, good=site(GOOD).port, bad=bad.port)
    assert lines[:4] == ["ok denied denied denied denied", "denied", "ok", "ok denied denied denied ok denied"]
    with pytest.raises(BlockingIOError):
        unseen.recv(9)
    unseen.close()


def test_uvloop_found_by_import_module_is_closed_too(trap):
    pytest.importorskip("uvloop")
    lines = run_guarded(
        """
        import asyncio, importlib
        uvloop = importlib.import_module("uvloop")
        async def main():
            await asyncio.open_connection(BAD, bad)
        print(outcome(uvloop.run, main()), uvloop.Loop.create_connection.__name__)
        print(type(uvloop.__spec__.loader).__name__, vars(uvloop.__spec__.loader).keys() & {"exec_module"})
        """,
        bad=trap(BAD).port,
    )
    assert lines == ["denied create_connection", "SourceFileLoader set()"]


def test_the_table_of_the_documentation_is_the_table_of_the_code():
    page = (ROOT / "docs" / "guard.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| `")]
    assert [(name.strip("`"), what.strip(), instead.strip()) for name, what, instead in rows] == [
        (name, what, instead) for name, (what, instead) in guard.CANNOT_SEE.items()
    ]
