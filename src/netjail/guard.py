"""The whole process as one jail: an audit hook that judges every connect and every send that Python makes.

This module knows the interpreter's audit events, how threads are started, and which modules dial from C. It
does not know what an address may be: the core judges.
"""

from __future__ import annotations

import _socket
import os
import socket
import sys
from dataclasses import dataclass
from functools import partial, wraps
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec
from itertools import count
from pathlib import Path
from threading import Lock, Thread, get_ident, local
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn
from weakref import ref

from ._addresses import is_literal
from ._context import carried_rules, checked, floors, in_force
from ._dialer import AsyncDialer, applying, judge
from ._elf import could_dial
from ._errors import DeniedError
from ._rules import Rules

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from types import CodeType, FrameType

    from ._context import RulesInForce
    from ._rules import RuleSource

__all__ = ["CANNOT_SEE", "Report", "install", "report"]

CANNOT_SEE = {
    "awscrt": ("Amazon's client in C", "boto3 and botocore without it"),
    "pycurl": ("libcurl", "httpx, requests or urllib3"),
    "curl_cffi": ("libcurl", "httpx, requests or urllib3"),
    "grpc": ("gRPC's C core", "grpclib, which dials through asyncio"),
    "psycopg": ("libpq", "asyncpg or pg8000"),
    "psycopg2": ("libpq", "asyncpg or pg8000"),
    "_mysql_connector": ("MySQL's client in C", "mysql.connector with use_pure=True, PyMySQL or aiomysql"),
    "MySQLdb": ("MySQL's client in C", "PyMySQL or aiomysql"),
    "mariadb": ("MariaDB's connector in C", "PyMySQL or aiomysql"),
    "confluent_kafka": ("librdkafka, which also dials what brokers announce,", "kafka-python or aiokafka"),
    "pymssql": ("FreeTDS", "python-tds"),
    "cx_Oracle": ("Oracle's client in C", "oracledb in its thin mode"),
    "pyodbc": ("the ODBC drivers", "a driver that is written in Python"),
    "ibm_db": ("Db2's client in C", "another process"),
    "_ldap": ("OpenLDAP's client in C, under python-ldap", "ldap3"),
    "pygit2": ("libgit2", "dulwich"),
    "zmq": ("libzmq", "another process"),
    "_pulsar": ("Pulsar's client in C++", "another process"),
    "duckdb": ("httpfs and other extensions", "another process"),
    "pyarrow._flight": ("gRPC's C++ core", "another process"),
    "pyarrow._s3fs": ("Amazon's client in C++", "s3fs, which dials through aiohttp"),
    "pyarrow._gcsfs": ("Google's client in C++", "gcsfs, which dials through aiohttp"),
    "primp": ("reqwest, in Rust,", "httpx, requests or urllib3"),
    "pyreqwest": ("reqwest, in Rust,", "httpx, requests or urllib3"),
    "rnet": ("a client in Rust", "httpx, requests or urllib3"),
    "tls_client": ("a client in Go", "httpx, requests or urllib3"),
    "obstore": ("object_store, in Rust,", "s3fs or gcsfs, which dial through aiohttp"),
    "deltalake": ("object_store, in Rust,", "another process"),
    "lancedb": ("object_store, in Rust,", "another process"),
    "polars": ("object_store, in Rust,", "pandas, or another process"),
    "connectorx": ("its database clients in Rust", "pandas over a driver that is written in Python"),
    "tensorstore": ("libcurl", "another process"),
    "adbc_driver_manager": ("the ADBC drivers", "a driver that is written in Python"),
    "aerospike": ("Aerospike's client in C", "another process"),
    "pynng": ("nng", "another process"),
    "pycares": ("c-ares", "dnspython, or the system's resolver"),
    "gevent.resolver.cares": ("c-ares", "gevent's resolver in threads, which is its default"),
    "libtorrent": ("libtorrent", "another process"),
    "cv2": ("FFmpeg", "another process"),
    "av": ("FFmpeg", "another process"),
    "netCDF4": ("libcurl", "another process"),
    "pyogrio": ("GDAL, by libcurl,", "another process"),
    "qh3": ("its QUIC in Rust", "aioquic"),
    "rloop": ("a loop in Rust, whose datagrams it sends itself,", "asyncio's own loop, or uvloop"),
    "rsloop": ("a loop in Rust", "asyncio's own loop, or uvloop"),
    "_interpreters": ("a subinterpreter, which no guard is in,", "another process"),
    "_xxsubinterpreters": ("a subinterpreter, which no guard is in,", "another process"),
}
"""The modules that ``strict=True`` refuses: what dials in each, and what to use instead."""

_PART_OF = {"psycopg_binary": "psycopg", "psycopg_c": "psycopg", "_duckdb": "duckdb"}
_UNKNOWN = ("its native code", "a library that dials from Python")
_SEEN_TO = ("uvloop", "cryptography", "hiredis", "gevent.libuv", "pyarrow")
"""Modules whose native code could dial: it is closed below, has rows for its parts, or nothing in Python calls it."""

_REPORTED = {
    "oracledb.thick_impl": ("Oracle's client in C, in thick mode", "its thin mode"),
    "asyncio.windows_events": ("the proactor loop of Windows", "asyncio.SelectorEventLoop"),
}
"""Those that have a part which the guard sees: only reported (strict mode refuses oracledb's thick mode)."""

_INET = (int(socket.AF_INET), int(socket.AF_INET6))
_Socket = _socket.socket  # C's own: gevent and eventlet replace the names that the module socket has for it
_family: Callable[[_Socket], int] = _Socket.__dict__["family"].__get__  # as a number, whatever a subclass says
_type: Callable[[_Socket], int] = _Socket.__dict__["type"].__get__
_items: Callable[[Any], Iterator[Any]] = tuple.__dict__["__iter__"]  # as C reads them


@dataclass(frozen=True, slots=True)
class Report:
    """What the guard has done in this process; a forked child goes on from its parent's figures.

    ``floors`` are the floors that every address must pass, none when no guard is installed. ``judged``
    counts the connects and sends with an IP address or a host name, ``denied`` those that were refused,
    and ``wakeups`` those that passed as a thread's connection to its own listener. ``unseen`` names the
    loaded modules that dial beside the guard, as far as it can tell.
    """

    floors: tuple[RuleSource, ...]
    strict: bool
    judged: int
    denied: int
    wakeups: int
    unseen: tuple[str, ...]


def install(floor: RuleSource, *, strict: bool = False) -> None:
    """From now on, whatever this process connects or sends to must pass ``floor`` and the context's rules.

    It cannot be undone. A second floor holds besides the first, so that an address must pass both; an
    equal one changes nothing. ``strict`` refuses the import of :data:`CANNOT_SEE`, on Linux also of any
    other extension module whose native code could dial, with an ImportError, and such libraries with the
    OSError of ctypes. It stays on once it was on.

    Raises TypeError for what is no rules; ImportError where ``strict`` comes too late, with nothing
    installed; RuntimeError where another audit hook kept this one out.
    """
    checked(floor)
    with _installing:
        if strict:
            for name in (*_loaded(CANNOT_SEE), *_loaded(["oracledb.thick_impl"]), *_dialing()):
                raise ImportError(f"{_refusal(name)} It is loaded already: install the guard first.", name=name)
        if floor not in floors:
            floors.append(floor)
        _guard.strict = _guard.strict or strict
        if not _guard.hooked:
            _hook_in()


def report() -> Report:
    """What was judged until now, and what is loaded that the guard cannot see."""
    loaded = {*_loaded(CANNOT_SEE), *_loaded(_REPORTED), *_dialing()}
    if _guard.strict:
        loaded.discard("oracledb.thick_impl")
    return Report(
        floors=tuple(floors),
        strict=_guard.strict,
        judged=_reached(_guard.judged),
        denied=_reached(_guard.denied),
        wakeups=_reached(_guard.wakeups),
        unseen=tuple(sorted(loaded)),
    )


def _loaded(names: Iterable[str]) -> list[str]:
    return [name for name in names if sys.modules.get(name) is not None]


def _dialing() -> list[str]:
    """The packages that stand in no table and have loaded native code that could dial, and libraries of ctypes."""
    native = {*_guard.native}
    libraries = [Path(file).name for file in [*_guard.libraries] if could_dial(file)]
    for name, module in list(sys.modules.items()):
        if issubclass(type(module), ModuleType):  # others only say so
            file = ModuleType.__getattribute__(module, "__dict__").get("__file__")  # which loads no lazy module
            if isinstance(file, str) and file.endswith(tuple(EXTENSION_SUFFIXES)):
                native.add((name, file))
    return libraries + [name.partition(".")[0] for name, file in native if not _row(name) and _may_dial(name, file)]


def _reached(counter: count[int]) -> int:
    """The value of a counter, which no lock protects: a signal handler may dial while the lock is held."""
    return int(repr(counter)[6:-1])


class _Bound(NamedTuple):
    """A socket that was bound to loopback at a port of the kernel's choice, and where that was done."""

    listener: ref[_Socket]
    frame: int
    code: CodeType


class _Local(local):
    bound: _Bound | None = None


class _Guard:
    """What the audit hook holds on to. It is made once, and used by the hook even while Python shuts down."""

    def __init__(self) -> None:
        self.strict = False
        self.hooked = False
        self.judged = count()
        self.denied = count()
        self.wakeups = count()
        self.asking: set[int] = set()
        self.native: set[tuple[str, str]] = set()
        self.libraries: set[str] = set()
        self.thread = _Local()
        self.finder = _Finder(self)

    def in_force(self) -> RulesInForce:
        return in_force(None) or tuple(floors)

    def dial(self, sock: Any = None, address: Any = None, *_: object) -> None:
        """A connect, or a send to an address. ``address`` is what the program passed; C has read it already."""
        if not isinstance(address, tuple):  # none, where the socket is connected; a path, where it is a unix socket
            return
        if not isinstance(sock, _Socket) or _family(sock) not in _INET:
            return
        next(self.judged)
        address = (*_items(address),)
        if (bound := self.thread.bound) is not None:
            self.thread.bound = None
            if _is_wakeup(bound, sys._getframe(1).f_back, sock, address):
                next(self.wakeups)
                return
        try:
            self._judge(*address)  # pyright: ignore[reportUnknownArgumentType]  # a tuple of what C took
        except BaseException:
            next(self.denied)
            raise

    def _judge(self, host: Any, port: int, flow: int = 0, scope: int = 0) -> None:  # noqa: ARG002 - an IPv6 address
        is_text = isinstance(host, str)
        host = str.__str__(host) if is_text else bytes(host).decode("ascii", "backslashreplace")
        if not is_text:
            is_address = False
        elif host == "<broadcast>":  # what Python calls it
            host, is_address = "255.255.255.255", True
        else:
            is_address = is_literal(host)
        if not is_address:
            raise DeniedError(host, port, reason="a name given straight to a socket is not judged: look it up first")
        if scope:
            host = f"{host}%{scope}"
        rules = self.in_force()
        for source in rules:
            if type(source) is not Rules:
                return self._ask(rules, host, port)
        return _accept(rules, host, port)

    def _ask(self, rules: RulesInForce, host: str, port: int) -> None:
        """The same for rules that are code of somebody's: if it dials, it would be asked for ever."""
        me = get_ident()
        if me in self.asking:
            raise DeniedError(host, port, reason="the rules dialled while they were asked for a verdict")
        self.asking.add(me)
        try:
            _accept(rules, host, port)
        finally:
            self.asking.discard(me)

    def bind(self, sock: Any = None, address: Any = None, *_: object) -> None:
        """Remembers the last listener that this thread may be making for itself."""
        if not isinstance(address, tuple) or not isinstance(sock, _Socket):
            return
        if _family(sock) not in _INET or _type(sock) != socket.SOCK_STREAM:
            return
        self.thread.bound = None
        frame = sys._getframe(1).f_back
        if frame is not None and address[:2] in (("127.0.0.1", 0), ("::1", 0)):
            try:
                self.thread.bound = _Bound(ref(sock), id(frame), frame.f_code)
            except TypeError:  # C's class itself, nobody's subclass, has no weak references
                return

    def importing(self, name: str = "", filename: str | None = None, *_: object) -> None:
        if filename is not None:  # native code is being loaded, whoever found it
            known = _row(name)
            if self.strict and (known or _may_dial(name, filename)):
                raise ImportError(_refusal(known or name), name=name)
            self.native.add((name, filename))
        self.finder.stand_first()

    def opening(self, library: Any = None, *_: object) -> None:
        """A library is being loaded by ctypes."""
        if not isinstance(library, (str, bytes)) and not hasattr(library, "__fspath__"):  # none: the process itself
            return
        file: str = os.fsdecode(library)
        if self.strict and could_dial(file):
            raise OSError(_refusal(file))  # what ctypes raises too, so that who has another way takes it
        self.libraries.add(file)

    def present(self) -> None:
        self.hooked = True


def _accept(rules: RulesInForce, host: str, port: int) -> None:
    judge(applying(rules, host, port), host, port, [host])


def _is_wakeup(bound: _Bound, frame: FrameType | None, sock: _Socket, address: Any) -> bool:
    """Whether this connect makes a pair of sockets for a program's own use, as socketpair does on Windows.

    It does when the very call of a function that bound a listener to loopback, at a port that the kernel
    chose, connects to just that listener, while it listens, as the next thing that its thread dials. An
    address that came from outside is dialled by some other function, whatever listener it names.
    """
    listener = bound.listener()
    if listener is None or listener is sock or frame is None:
        return False
    if bound.frame != id(frame) or bound.code is not frame.f_code:
        return False
    if not any(each is listener for each in frame.f_locals.values()):  # a later call, with its frame in the same place
        return False
    try:
        return (
            _type(sock) == socket.SOCK_STREAM
            and listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
            and listener.getsockname()[:2] == tuple(address[:2])
        )
    except OSError:  # it was closed
        return False


def _hook_in() -> None:
    sys.addaudithook(_hook_of(_guard))
    sys.audit(_PRESENT)
    if not _guard.hooked:
        floors.clear()
        _guard.strict = False
        raise RuntimeError("another audit hook of this process keeps the guard out: nothing is judged")
    _carry_rules_into_threads()
    _guard.finder.stand_first()
    for name, close in _CLOSED.items():
        if name in sys.modules:
            close(sys.modules[name])


def _hook_of(guard: _Guard) -> Callable[[str, tuple[Any, ...]], None]:
    """The hook, which is called for every audit event of the process, also when this module is gone."""
    handlers: dict[str, Callable[..., None]] = {
        "socket.connect": guard.dial,  # connect_ex too
        "socket.sendto": guard.dial,
        "socket.sendmsg": guard.dial,
        "socket.bind": guard.bind,
        "import": guard.importing,
        "ctypes.dlopen": guard.opening,
        _PRESENT: guard.present,
    }

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event in handlers:
            handlers[event](*args)

    return hook


def _carry_rules_into_threads() -> None:
    """Threads, jobs of executors and what is called after these have the rules of who asked for it, and no others."""
    from concurrent.futures import Future, ThreadPoolExecutor  # noqa: PLC0415 - it takes milliseconds to load

    add_done_callback: Callable[..., None] = Future[Any].add_done_callback
    start = Thread.start
    submit: Callable[..., Any] = ThreadPoolExecutor.submit

    @wraps(start)
    def start_under_rules(self: Thread) -> None:
        rules = carried_rules.get()
        if rules is None:
            return start(self)
        before = vars(self).get("run")
        run = self.run

        def under_rules() -> None:
            vars(self).pop("run", None)
            carried_rules.set(rules)
            run()

        vars(self)["run"] = under_rules
        try:
            return start(self)
        except BaseException:
            vars(self).pop("run", None)
            if before is not None:
                vars(self)["run"] = before
            raise

    @wraps(submit)
    def submit_under_rules(self: ThreadPoolExecutor, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        return submit(self, _under, carried_rules.get(), fn, *args, **kwargs)

    @wraps(add_done_callback)
    def add_done_callback_under_rules(self: Future[Any], fn: Any) -> None:
        add_done_callback(self, partial(_under, carried_rules.get(), fn))

    Future.add_done_callback = add_done_callback_under_rules  # type: ignore[method-assign]
    Thread.start = start_under_rules  # type: ignore[method-assign]
    ThreadPoolExecutor.submit = submit_under_rules  # type: ignore[method-assign,assignment]


def _under(rules: RuleSource | None, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """A job under the rules that it was submitted under: its worker has those of an earlier one, or none."""
    token = carried_rules.set(rules)
    try:
        return fn(*args, **kwargs)
    finally:
        carried_rules.reset(token)


class _Finder(MetaPathFinder):
    """Stands first among the finders of modules: refuses to load some, and closes others once they are loaded."""

    def __init__(self, guard: _Guard) -> None:
        self._guard = guard

    def stand_first(self) -> None:
        path: Any = getattr(sys, "meta_path", None)  # neither is left at the very end of the process
        if path is not None and self not in path:
            path.insert(0, self)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None, /
    ) -> ModuleSpec | None:
        refused = self._guard.strict and _row(fullname)
        close = _CLOSED.get(fullname)
        if not refused and close is None:
            return None
        spec = self._found_by_others(fullname, path, target)
        if spec is None or spec.loader is None:
            return spec
        if refused:
            return ModuleSpec(fullname, _Refusing(), origin=spec.origin)
        loader: Any = spec.loader
        load = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            del loader.exec_module
            load(module)
            _CLOSED[fullname](module)

        loader.exec_module = exec_module
        return spec

    def _found_by_others(self, *asked: Any) -> ModuleSpec | None:
        for finder in list(sys.meta_path):
            find: Any = getattr(finder, "find_spec", None)
            if find is not None and finder is not self and (spec := find(*asked)) is not None:
                return spec  # type: ignore[no-any-return]
        return None


class _Refusing(Loader):
    """Raises when the module is loaded, not when somebody asks whether it is installed."""

    def exec_module(self, module: ModuleType) -> NoReturn:
        name = module.__name__
        raise ImportError(_refusal(_row(name) or name), name=name)


def _row(name: str) -> str | None:
    """The row of :data:`CANNOT_SEE` to which a module belongs."""
    root = name.partition(".")[0]
    root = _PART_OF.get(root, root)
    if root in CANNOT_SEE:
        return root
    return name if name in CANNOT_SEE else None


def _refusal(name: str) -> str:
    what, instead = CANNOT_SEE.get(name) or _REPORTED.get(name, _UNKNOWN)
    return f"netjail.guard refuses {name}: {what} dials where the guard cannot see it. Use {instead}."


def _may_dial(name: str, file: str) -> bool:
    """Whether an extension module that stands in no table can open connections from native code."""
    if name.partition(".")[0] in sys.stdlib_module_names or f"{name}.".startswith(tuple(f"{of}." for of in _SEEN_TO)):
        return False
    return could_dial(file)


def _close_uvloop(module: Any) -> None:
    """What uvloop dials, it dials from C: its loops get addresses that were judged, and connected sockets."""
    from . import loop  # noqa: PLC0415 - it loads asyncio, as uvloop did

    plain_connection, plain_datagrams = module.Loop.create_connection, module.Loop.create_datagram_endpoint

    def dialer() -> AsyncDialer:
        return _CountingDialer().pinned(_guard.in_force())

    @wraps(plain_connection)
    async def create_connection(self: Any, protocol_factory: Any, *args: Any, **options: Any) -> Any:
        return await loop.connection(partial(plain_connection, self), dialer(), protocol_factory, *args, **options)

    @wraps(plain_datagrams)
    async def create_datagram_endpoint(self: Any, protocol_factory: Any, *args: Any, **options: Any) -> Any:
        return await loop.datagrams(partial(plain_datagrams, self), dialer(), protocol_factory, *args, **options)

    module.Loop.create_connection = create_connection
    module.Loop.create_datagram_endpoint = create_datagram_endpoint
    module.loop.Loop = module.Loop  # its base, which is C and cannot be closed


class _CountingDialer(AsyncDialer):
    """Counts what the hook does not see: targets without an accepted address, and uvloop's datagrams."""

    async def resolve(
        self, address: Any, *, family: int = socket.AF_UNSPEC, type: int = socket.SOCK_STREAM
    ) -> list[tuple[str, int]]:
        try:
            accepted = await super().resolve(address, family=family, type=type)
        except DeniedError:
            next(_guard.judged)
            next(_guard.denied)
            raise
        if type == socket.SOCK_DGRAM:
            next(_guard.judged)
        return accepted


def _close_thick_mode(module: Any) -> None:
    """The thin mode of oracledb dials from Python; its thick mode loads Oracle's client."""
    plain = module.init_oracle_client

    def init_oracle_client(*args: Any, **kwargs: Any) -> Any:
        if _guard.strict:
            raise ImportError(_refusal("oracledb.thick_impl"), name="oracledb.thick_impl")
        return plain(*args, **kwargs)

    module.init_oracle_client = init_oracle_client


_CLOSED: dict[str, Callable[[Any], None]] = {"uvloop": _close_uvloop, "oracledb.thick_impl": _close_thick_mode}
_PRESENT = "netjail.guard.present"
_installing = Lock()
_guard = _Guard()
