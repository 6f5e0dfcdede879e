"""Modules that dial from C: what strict mode refuses, what the report says, and what is closed instead."""

from __future__ import annotations

import importlib.util
import shutil
import socket
import struct
import sys
from collections.abc import Sequence

import pytest

from netjail import guard
from tests.servers.names import BAD, GOOD

from .harness import ROOT, needs, run, run_guarded

ROWS = sorted(guard.CANNOT_SEE)


@pytest.fixture
def stand_ins(tmp_path):
    """Installs modules with the names of those that dial from C."""
    for name in (*ROWS, "dulwich"):
        module = tmp_path.joinpath(*name.split(".")).with_suffix(".py")
        module.parent.mkdir(parents=True, exist_ok=True)
        module.write_text(f"here = {name!r}\n")
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


@pytest.fixture
def strangers(tmp_path):
    """A package whose native modules are in no table: Python's own under other names."""
    package = tmp_path / "stranger"
    package.mkdir()
    (package / "__init__.py").touch()
    for name in ("_socket", "_queue"):
        file = getattr(importlib.import_module(name), "__file__", None)
        if file is None or sys.platform != "linux":
            pytest.skip("this Python has its modules of C built in")
        shutil.copy(file, package)
    return tmp_path


def test_native_code_that_could_dial_is_refused_although_it_is_in_no_table(strangers):
    library = next(strangers.glob("stranger/_socket*"))
    lines = run_guarded(
        """
        print(outcome(exec, "import stranger._socket"))
        from stranger._queue import SimpleQueue
        print(SimpleQueue().empty(), guard.report().unseen)
        import ctypes
        try:
            ctypes.CDLL(library)
        except OSError as error:
            print(error)
        """,
        strict=True,
        path=[strangers],
        library=str(library),
    )
    says = "its native code dials where the guard cannot see it. Use a library that dials from Python."
    assert lines == [
        f"ImportError('netjail.guard refuses stranger._socket: {says}')",
        "True ()",
        f"netjail.guard refuses {library}: {says}",
    ]


def test_native_code_that_could_dial_is_reported_however_it_was_loaded_and_strict_comes_too_late_for_it(strangers):
    lines = run(
        """
        import stranger._queue, stranger._socket
        try:
            guard.install(Rules(), strict=True)
        except ImportError as error:
            print(error.name, error)
        print(guard.report())
        """,
        path=[strangers],
    )
    assert lines == [
        (
            "stranger netjail.guard refuses stranger: its native code dials where the guard cannot see it. "
            "Use a library that dials from Python. It is loaded already: install the guard first."
        ),
        "Report(floors=(), strict=False, judged=0, denied=0, wakeups=0, unseen=('stranger',))",
    ]
    lines = run_guarded(
        """
        import stranger._queue, stranger._socket
        del sys.modules["stranger._socket"]  # as packages do that put something of Python's in its place
        print(guard.report().unseen)
        """,
        path=[strangers],
    )
    assert lines == ["('stranger',)"]


def test_a_library_of_ctypes_that_could_dial_is_reported(strangers):
    library = next(strangers.glob("stranger/_socket*"))
    lines = run_guarded(
        """
        import ctypes
        ctypes.CDLL(library)
        ctypes.CDLL(None)
        print(guard.report().unseen)
        """,
        library=str(library),
    )
    assert lines == [f"('{library.name}',)"]


def shared_object(*takes: str, needs: Sequence[str] = (), beside: str = "", order: str = "<") -> bytes:
    """The parts of an ELF file that are read: what it takes from others, what it needs and where that is."""
    names = b"\0"

    def named(text: str) -> int:
        nonlocal names
        names += text.encode() + b"\0"
        return len(names) - len(text) - 1

    symbols = b"".join(struct.pack(f"{order}IBBHQQ", named(name), 18, 0, 0, 0, 0) for name in takes)
    symbols += struct.pack(f"{order}IBBHQQ", named("recvfrom"), 18, 0, 7, 64, 8)
    symbols += struct.pack(f"{order}IBBHQQ", named("sendto"), 18, 0, 7, 64, 8)  # its own, not libc's
    dynamic = b"".join(struct.pack(f"{order}qQ", 1, named(name)) for name in needs)
    dynamic += struct.pack(f"{order}qQ", 29, named(beside)) if beside else b""
    parts = [(0, b"", 0), (11, symbols, 3), (6, dynamic, 3), (3, names, 0)]
    content, table = b"", b""
    for kind, part, link in parts:
        table += struct.pack(f"{order}IIQQQQIIQQ", 0, kind, 0, 0, 64 + len(content), len(part), link, 0, 0, 0)
        content += part
    ident = b"\x7fELF\x02" + (b"\x01" if order == "<" else b"\x02") + b"\x01".ljust(10, b"\0")
    head = struct.pack(f"{order}HHIQQQIHHHHHH", 3, 62, 1, 0, 0, 64 + len(content), 0, 64, 0, 0, 64, len(parts), 0)
    return ident + head + content + table


LIBRARIES = {
    "connects": (True, {"it": shared_object("malloc", "connect")}),
    "looks up": (True, {"it": shared_object("getaddrinfo")}),
    "sends datagrams": (True, {"it": shared_object("sendmmsg", "free")}),
    "the other byte order": (True, {"it": shared_object("connect", order=">")}),
    "computes": (False, {"it": shared_object("malloc", "connect_nodes", "reconnect")}),
    "needs what connects, beside it": (
        True,
        {
            "it": shared_object(needs=["libone.so"], beside="/nowhere:$ORIGIN/it.libs"),
            "it.libs/libone.so": shared_object(needs=["libtwo.so"], beside="${ORIGIN}/."),
            "it.libs/libtwo.so": shared_object("connect"),
        },
    ),
    "needs what needs it": (
        False,
        {
            "it": shared_object(needs=["libone.so"], beside="$ORIGIN"),
            "libone.so": shared_object(needs=["it", "libone.so"], beside="$ORIGIN"),
        },
    ),
    "needs what OpenSSL connects with, and nobody asks to": (
        False,
        {
            "it": shared_object(needs=["libcrypto-1a2b.so.3"], beside="$ORIGIN"),
            "libcrypto-1a2b.so.3": shared_object("connect"),
        },
    ),
    "needs what is not there": (False, {"it": shared_object(needs=["libnowhere.so.7"])}),
    "cut off": (False, {"it": shared_object("connect")[:-100]}),
    "a 32-bit file": (False, {"it": b"\x7fELF\x01" + shared_object("connect")[5:]}),
    "no shared object": (False, {"it": b"GROUP ( libc.so.6 )"}),
    "empty": (False, {"it": b""}),
}


@pytest.mark.parametrize("kind", LIBRARIES)
def test_what_a_shared_object_takes_from_libc_tells_whether_it_could_dial(kind, tmp_path):
    could_dial, files = LIBRARIES[kind]
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    lines = run_guarded(
        """
        import ctypes
        print(outcome(ctypes.CDLL, library))  # an error in any case: none of them can be loaded
        """,
        strict=True,
        library=str(tmp_path / "it"),
    )
    assert lines[0].startswith("OSError(")
    assert ("netjail.guard refuses" in lines[0]) is could_dial


@pytest.mark.skipif(sys.platform != "linux", reason="ELF is read")
@pytest.mark.parametrize(
    ("name", "could_dial"),
    {
        "psycopg2._psycopg": True,
        "pycurl._pycurl": True,
        "curl_cffi._wrapper": True,
        "grpc._cython.cygrpc": True,
        "confluent_kafka.cimpl": True,
        "_mysql_connector": True,
        "asyncpg.protocol.protocol": False,
        "asyncmy.connection": False,
        "oracledb.thin_impl": False,
        "aiohttp._http_parser": False,
        "pymongo._cmessage": False,
        "cryptography.hazmat.bindings._rust": False,
        "uvloop.loop": False,
    }.items(),
)
def test_the_native_code_of_real_libraries_is_told_apart(name, could_dial):
    try:
        spec = importlib.util.find_spec(name)
    except ImportError:
        spec = None
    if spec is None or spec.origin is None:
        pytest.skip(f"{name} is not installed")
    assert guard._may_dial(name, spec.origin) is could_dial


@pytest.mark.parametrize("name", ["_xxsubinterpreters", "_interpreters"])
def test_a_subinterpreter_has_no_guard_and_strict_mode_makes_none(name):
    needs(name)
    assert run_guarded("print(outcome(__import__, name).partition('(')[0])", strict=True, name=name) == ["ImportError"]


@pytest.mark.parametrize("name", ["pycurl", "psycopg", "psycopg2", "grpc", "_mysql_connector", "confluent_kafka"])
def test_the_real_modules_are_refused(name):
    needs(name)
    assert run_guarded("print(outcome(__import__, name).partition('(')[0])", strict=True, name=name) == ["ImportError"]


def test_mysql_connector_goes_on_in_python():
    needs("mysql.connector")
    assert run_guarded("import mysql.connector; print(mysql.connector.HAVE_CEXT)", strict=True) == ["False"]


def test_oracledb_is_left_with_its_thin_mode(trap):
    needs("oracledb")
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
    needs("uvloop")
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


def test_the_loop_under_uvloops_own_is_closed_too(trap):
    needs("uvloop")
    lines = run_guarded(
        """
        import asyncio, uvloop
        from uvloop.loop import Loop
        async def main():
            await asyncio.open_connection(BAD, bad)
        with asyncio.Runner(loop_factory=Loop) as runner:
            print(outcome(runner.run, main()), isinstance(uvloop.new_event_loop(), Loop))
        """,
        bad=trap(BAD).port,
    )
    assert lines == ["denied True"]


def test_uvloop_found_by_import_module_is_closed_too(trap):
    needs("uvloop")
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
