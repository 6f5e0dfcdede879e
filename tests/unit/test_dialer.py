"""Dialer and AsyncDialer: one table for both, then real sockets."""

from __future__ import annotations

import asyncio
import enum
import errno
import gc
import os
import queue
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from ipaddress import ip_address
from typing import Any, ClassVar

import pytest

from netjail import (
    AsyncDialer,
    DeniedError,
    Dialer,
    Rules,
    create_connection,
    current_rules,
    open_connection,
    use_rules,
)
from netjail import _dialer as dialing
from netjail import _race as racing
from tests.servers.names import AsyncNames, Names
from tests.servers.site import BlackHole, Site, Trap

from .cases import ALL, CASES, INSIDE_OUT, Case

LOCAL = Rules(["127.0.0.0/8", "::1"])


class Recorder:
    """A bottom-most connect that connects to nothing and remembers what it was asked to."""

    def __init__(self, refusing: tuple[str, ...] = ()) -> None:
        self.refusing = refusing
        self.dialled: list[tuple[str, int]] = []
        self.pairs: list[socket.socket] = []

    def connect(self, address: tuple[str, int], *, timeout: float | None = None) -> socket.socket:
        self.dialled.append(address)
        if address[0] in self.refusing:
            raise ConnectionRefusedError(errno.ECONNREFUSED, f"refused by {address[0]}")
        ours, theirs = socket.socketpair()
        self.pairs.append(theirs)
        return ours

    async def connect_async(self, address: tuple[str, int]) -> socket.socket:
        return self.connect(address)

    def close(self) -> None:
        for each in self.pairs:
            each.close()


def dial_sync(case: Case, recorder: Recorder, names: dict[str, Any]) -> tuple[Any, list[Any]]:
    resolver = Names(names)
    dialer = Dialer(case.rules, resolver=resolver, connect=recorder.connect, mixed=case.mixed)
    try:
        return dialer.connect((case.host, case.port), timeout=30, **case.options), resolver.asked
    except Exception as error:  # noqa: BLE001 - the table says what it is
        return error, resolver.asked


def dial_async(case: Case, recorder: Recorder, names: dict[str, Any]) -> tuple[Any, list[Any]]:
    resolver = AsyncNames(names)
    dialer = AsyncDialer(case.rules, resolver=resolver, connect=recorder.connect_async, mixed=case.mixed)
    try:
        return asyncio.run(dialer.connect((case.host, case.port), timeout=30, **case.options)), resolver.asked
    except Exception as error:  # noqa: BLE001 - the table says what it is
        return error, resolver.asked


@pytest.mark.parametrize("dial", [dial_sync, dial_async])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
@pytest.mark.usefixtures("nothing_left_behind")
def test_both_dialers_do_the_same(case: Case, dial: Callable[..., tuple[Any, list[Any]]]) -> None:
    recorder = Recorder(case.refusing)
    outcome, asked = dial(case, recorder, {"a.test": case.answer})
    assert asked == ([] if case.asked is None else [("a.test", case.asked)])
    assert recorder.dialled == [(ip, 443) for ip in case.dialled]
    if case.error is None:
        assert isinstance(outcome, socket.socket)
        outcome.close()
    else:
        assert type(outcome) is case.error, outcome
    if isinstance(outcome, DeniedError):
        assert not any(ip in str(outcome) for ip in case.answer if isinstance(ip, str))
        assert outcome.port == 443
        judged = [case.host] if case.asked is None else case.answer
        assert [d.address for d in outcome.decisions] in ([], [ip_address(each) for each in judged if each != "a.test"])
    recorder.close()


def test_answers_may_be_objects() -> None:
    recorder = Recorder()
    resolver = Names({"a.test": [ip_address("10.0.0.1"), ip_address("8.8.8.8")]})
    Dialer(INSIDE_OUT, resolver=resolver, connect=recorder.connect).connect(("a.test", 1)).close()
    assert recorder.dialled == [("8.8.8.8", 1)]
    recorder.close()


def test_the_context_narrows_and_a_pinned_dialer_keeps_what_it_was_given() -> None:
    recorder = Recorder()
    dialer = Dialer(ALL, connect=recorder.connect)
    with use_rules(INSIDE_OUT):
        pinned = dialer.pinned(dialer.rules_in_force())
        with pytest.raises(DeniedError):
            dialer.connect(("10.0.0.1", 1))
    dialer.connect(("10.0.0.1", 1)).close()
    with pytest.raises(DeniedError):
        pinned.connect(("10.0.0.1", 1))
    assert pinned.rules_in_force() == (ALL, INSIDE_OUT)
    with use_rules(Rules()):
        pinned.connect(("8.8.8.8", 1)).close()
        with pytest.raises(DeniedError):
            dialer.connect(("8.8.8.8", 1))
    assert recorder.dialled == [("10.0.0.1", 1), ("8.8.8.8", 1)]
    recorder.close()


def test_judging_by_no_rule_set_accepts_nothing() -> None:
    with pytest.raises(DeniedError):
        dialing.judge([], "8.8.8.8", 1, ["8.8.8.8"])


@pytest.mark.parametrize("make", [Dialer, AsyncDialer])
def test_bad_configuration_is_refused_at_once(make: Any) -> None:
    with pytest.raises(ValueError, match="'skip'"):
        make(ALL, mixed="first")
    with pytest.raises(TypeError, match="rules are"):
        make(["10.0.0.0/8"])


def test_a_resolver_of_the_other_kind_is_refused_with_a_reason() -> None:
    with pytest.raises(TypeError, match="list of addresses, not coroutine"):
        Dialer(ALL, resolver=AsyncNames({"a.test": ["8.8.8.8"]})).connect(("a.test", 1))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="is not awaited"):
        asyncio.run(AsyncDialer(ALL, resolver=Names({"a.test": ["8.8.8.8"]})).connect(("a.test", 1)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("addresses", "order"),
    [
        ([], []),
        (["1.1.1.1"], ["1.1.1.1"]),
        (["1.1.1.1", "1.1.1.2"], ["1.1.1.1", "1.1.1.2"]),
        (["::1", "::2", "1.1.1.1"], ["::1", "1.1.1.1", "::2"]),
        (["1.1.1.1", "::1", "::2", "::3", "1.1.1.2"], ["1.1.1.1", "::1", "1.1.1.2", "::2", "::3"]),
    ],
)
def test_the_order_is_that_of_rfc_8305(addresses: list[str], order: list[str]) -> None:
    assert dialing.in_dial_order(addresses, 80) == [(address, 80) for address in order]


@pytest.mark.parametrize("family", [socket.AF_UNSPEC, socket.AF_INET, socket.AF_INET6])
def test_a_family_narrows_literals_and_what_a_resolver_answers(family: int) -> None:
    """The resolver answers with both families, whatever it is asked for. A mapped address is an IPv4 address."""
    four = Trap("127.0.0.1")  # which counts what connects; nobody listens on ::1
    names = {"both.test": ["::1", "127.0.0.1"], "four.test": ["127.0.0.1"], "mapped.test": ["::ffff:127.0.0.1"]}
    reached = {
        "both.test": family != socket.AF_INET6,
        "four.test": family != socket.AF_INET6,
        "127.0.0.1": family != socket.AF_INET6,
        "mapped.test": True,
        "::ffff:127.0.0.1": True,
    }

    async def by_socket(host: str) -> None:
        (await AsyncDialer(LOCAL, resolver=AsyncNames(names)).connect((host, four.port), family=family)).close()

    async def by_stream(host: str) -> None:
        dialer = AsyncDialer(LOCAL, resolver=AsyncNames(names))
        _, writer = await dialer.open_connection(host, four.port, family=family)
        writer.close()
        await writer.wait_closed()

    for host, there in reached.items():
        for connect in (
            lambda host: Dialer(LOCAL, resolver=Names(names)).connect((host, four.port), family=family).close(),
            lambda host: asyncio.run(by_socket(host)),
            lambda host: asyncio.run(by_stream(host)),
        ):
            if there:
                connect(host)
            elif host == "both.test":
                with pytest.raises(ConnectionRefusedError):
                    connect(host)
            else:
                with pytest.raises(socket.gaierror):
                    connect(host)
    accepted = four.accepted
    four.close()
    assert accepted == 3 * sum(reached.values())


@pytest.mark.usefixtures("nothing_left_behind")
def test_a_denied_listener_accepts_nothing(site: Callable[..., Site], trap: Callable[..., Trap]) -> None:
    good = site("127.0.0.2")
    bad = trap("127.0.0.3", port=good.port)
    rules = Rules(["127.0.0.2"])
    names = {"good.test": ["127.0.0.2"], "bad.test": ["127.0.0.3"], "mixed.test": ["127.0.0.3", "127.0.0.2"]}

    async def main() -> None:
        dialer = AsyncDialer(rules, resolver=AsyncNames(names))
        for host in ("127.0.0.2", "good.test", "mixed.test"):
            _, writer = await dialer.open_connection(host, good.port)
            assert writer.get_extra_info("peername") == ("127.0.0.2", good.port)
            writer.close()
            await writer.wait_closed()
        for host in ("127.0.0.3", "bad.test", "::ffff:127.0.0.3"):
            with pytest.raises(DeniedError):
                await dialer.open_connection(host, good.port)

    dialer = Dialer(rules, resolver=Names(names))
    for host in ("127.0.0.2", "good.test", "mixed.test"):
        with dialer.connect((host, good.port), timeout=5) as sock:
            assert sock.getpeername() == ("127.0.0.2", good.port)
            assert sock.gettimeout() == 5
    for host in ("127.0.0.3", "bad.test", "::ffff:127.0.0.3"):
        with pytest.raises(DeniedError):
            dialer((host, good.port))
    asyncio.run(main())
    assert bad.accepted == 0


@pytest.mark.usefixtures("nothing_left_behind")
@pytest.mark.parametrize("spelling", ["127.1", "2130706433", "0x7f000001", "0177.0.0.1", "①②⑦.⓪.⓪.①", "localhost"])
def test_odd_spellings_are_judged_by_what_they_become(spelling: str, trap: Callable[..., Trap]) -> None:
    listener = trap("127.0.0.1")
    outside = Rules(["0.0.0.0/0", "::/0"], ["127.0.0.0/8", "::1"])
    for timeout in (None, 10):
        with pytest.raises((DeniedError, socket.gaierror)):
            create_connection((spelling, listener.port), timeout, rules=outside)
    with pytest.raises((DeniedError, socket.gaierror)):
        asyncio.run(open_connection(spelling, listener.port, rules=outside))


@pytest.mark.parametrize("host", ["a" * 64 + ".test", "a\0b", "127.0.0.2\0.test", "no-such-name.invalid", "b" * 300])
@pytest.mark.parametrize("timeout", [None, 10])
def test_a_name_that_cannot_be_resolved_is_a_gaierror(host: str, timeout: float | None) -> None:
    with pytest.raises(socket.gaierror):
        create_connection((host, 80), timeout, rules=LOCAL)
    with pytest.raises(socket.gaierror):
        asyncio.run(open_connection(host, 80, rules=LOCAL))


@pytest.mark.parametrize("before", [True, False], ids=["before netjail came", "after"])
def test_what_stands_in_for_getaddrinfo_is_asked(before: bool) -> None:
    """gevent, say, puts one of its own there, and the standard library's own would block all that it runs."""
    imported = "from netjail import Dialer, Rules"
    program = f"""
import functools, socket
{"" if before else imported}
@functools.wraps(socket.getaddrinfo)
def getaddrinfo(host, *rest, **options):
    print("asked for", host)
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.3", 0))]
socket.getaddrinfo = getaddrinfo
{imported}
print(Dialer(Rules(["127.0.0.0/8"])).resolve(("localhost", 80)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["asked for localhost", "[('127.0.0.3', 80)]"]


@pytest.fixture
def dead() -> Iterator[tuple[str, int]]:
    """The address of a listener that does not answer."""
    with BlackHole("127.0.0.9") as hole:
        yield hole.address, hole.port


def test_a_dead_first_address_does_not_hold_up_the_second(dead: tuple[str, int], site: Callable[..., Site]) -> None:
    """No timing: without the race this would time out, as no SYN to the first is ever answered."""
    live = site("127.0.0.2", port=dead[1])
    names = {"a.test": [dead[0], "127.0.0.2"]}
    with Dialer(LOCAL, resolver=Names(names)).connect(("a.test", live.port), timeout=20) as sock:
        assert sock.getpeername()[0] == "127.0.0.2"

    async def main() -> None:
        sock = await AsyncDialer(LOCAL, resolver=AsyncNames(names)).connect(("a.test", live.port), timeout=20)
        assert sock.getpeername()[0] == "127.0.0.2"
        assert len(asyncio.all_tasks()) == 1
        sock.close()

    asyncio.run(main())


@pytest.mark.usefixtures("nothing_left_behind")
def test_a_slow_first_address_is_still_taken_when_the_others_fail() -> None:
    """Its time was over and the next was tried; the attempt goes on, and is not begun again."""
    with BlackHole("127.0.0.9") as hole:
        names = Names({"a.test": [hole.address, "127.0.0.8"]})
        answering = threading.Timer(0.4, hole.answer)
        answering.start()
        with Dialer(LOCAL, resolver=names).connect(("a.test", hole.port), timeout=20) as sock:
            assert sock.getpeername()[0] == hole.address
            assert sock.gettimeout() == 20
        answering.join()


@pytest.mark.usefixtures("nothing_left_behind")
def test_a_timeout_of_the_systems_own_ends_an_attempt(
    site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    """ETIMEDOUT is a TimeoutError too, of an attempt that is over."""

    class Slow(socket.socket):
        def connect(self, address: Any) -> None:
            if address[0] == "127.0.0.9":
                raise TimeoutError(errno.ETIMEDOUT, "Connection timed out")
            super().connect(address)

    monkeypatch.setattr(socket, "socket", Slow)
    live = site("127.0.0.2")
    names = Names({"a.test": ["127.0.0.9", "127.0.0.2"], "b.test": ["127.0.0.9", "127.0.0.9"]})
    with Dialer(LOCAL, resolver=names).connect(("a.test", live.port)) as sock:
        assert sock.getpeername()[0] == "127.0.0.2"
    with pytest.raises(TimeoutError, match="Connection timed out"):
        Dialer(LOCAL, resolver=names).connect(("b.test", live.port), all_errors=False)


@pytest.mark.usefixtures("nothing_left_behind")
def test_one_deadline_covers_every_attempt(dead: tuple[str, int]) -> None:
    names = {"two.test": [dead[0], dead[0].replace("127.0.0.9", "::ffff:127.0.0.9")], "one.test": [dead[0]]}
    for host in names:
        with pytest.raises(TimeoutError):
            Dialer(LOCAL, resolver=Names(names)).connect((host, dead[1]), timeout=0.3)
        with pytest.raises(TimeoutError):
            asyncio.run(AsyncDialer(LOCAL, resolver=AsyncNames(names)).connect((host, dead[1]), timeout=0.3))


def test_the_deadline_covers_the_lookup() -> None:
    stop = threading.Event()

    class Hanging:
        def lookup(self, host: str, family: int) -> list[str]:
            stop.wait()
            return ["127.0.0.1"]

    class AsyncHanging:
        async def lookup(self, host: str, family: int) -> list[str]:
            await asyncio.sleep(3600)
            return []

    with pytest.raises(TimeoutError):
        Dialer(LOCAL, resolver=Hanging()).connect(("a.test", 1), timeout=0.05)
    with pytest.raises(TimeoutError):
        asyncio.run(AsyncDialer(LOCAL, resolver=AsyncHanging()).connect(("a.test", 1), timeout=0.05))
    stop.set()


def test_lookups_with_a_deadline_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(racing, "_LOOKUP_THREADS", 1)
    monkeypatch.setattr(racing, "_workers", {})
    stop = threading.Event()

    class Hanging:
        def lookup(self, host: str, family: int) -> list[str]:
            stop.wait()
            return []

    dialer = Dialer(LOCAL, resolver=Hanging())
    with pytest.raises(TimeoutError, match=r"timed out$"):
        dialer.connect(("a.test", 1), timeout=0.05)
    with pytest.raises(TimeoutError, match="every lookup thread is busy"):
        dialer.connect(("b.test", 1), timeout=0.05)
    stop.set()


def test_lookup_threads_are_used_again() -> None:
    assert len({racing.within(5, threading.get_ident) for _ in range(50)}) < 50


def test_a_lookup_thread_ends_when_nothing_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(racing, "_IDLE", 0)
    workers, jobs = racing._Workers(), queue.SimpleQueue[Any]()
    workers._idle.append(jobs)
    assert workers._next(jobs) is None
    assert not workers._idle


def test_what_comes_to_a_lookup_thread_at_the_last_moment_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has given up, and is no more among the idle ones: whoever took it from there brings a job."""
    monkeypatch.setattr(racing, "_IDLE", 0)
    workers, jobs = racing._Workers(), queue.SimpleQueue[Any]()
    job = partial(partial, int)
    threading.Timer(0.05, jobs.put, (job,)).start()
    assert workers._next(jobs) is job


def test_a_lookup_that_fails_leaves_its_thread_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(racing, "_LOOKUP_THREADS", 1)
    monkeypatch.setattr(racing, "_workers", {})
    for kind in (ValueError, SystemExit, KeyboardInterrupt):
        with pytest.raises(kind):
            racing.within(5, partial(_raise, kind))
    assert racing.within(5, int) == 0


def _raise(kind: type[BaseException]) -> None:
    raise kind


def test_many_lookups_at_once_each_get_their_own_answer() -> None:
    with ThreadPoolExecutor(64) as pool:
        assert list(pool.map(lambda n: racing.within(30, lambda: n), range(3000))) == list(range(3000))


def test_a_forked_child_looks_up_with_threads_of_its_own() -> None:
    racing.within(5, lambda: None)
    child = os.fork()
    if child == 0:
        try:
            os._exit(racing.within(5, lambda: 7))
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_a_lookup_in_a_thread_sees_the_context() -> None:
    seen = []

    class Looking:
        def lookup(self, host: str, family: int) -> list[str]:
            seen.append(current_rules())
            return ["10.0.0.1"]

    with use_rules(LOCAL), pytest.raises(DeniedError):
        Dialer(resolver=Looking()).connect(("a.test", 1), timeout=5)
    assert seen == [LOCAL]


@pytest.mark.usefixtures("nothing_left_behind")
def test_connects_of_ones_own_race_and_the_losers_are_closed() -> None:
    """An injected connect may block; the race goes on beside it, and its late socket is closed."""
    release = threading.Event()
    made: list[socket.socket] = []
    late: list[socket.socket] = []

    def connect(address: tuple[str, int], *, timeout: float | None) -> socket.socket:
        if address[0] == "8.8.8.8":
            release.wait()
        ours, theirs = socket.socketpair()
        (late if address[0] == "8.8.8.8" else made).append(theirs)
        return ours

    names = Names({"a.test": ["8.8.8.8", "1.1.1.1"]})
    sock = Dialer(ALL, resolver=names, connect=connect).connect(("a.test", 1), timeout=20)
    sock.sendall(b"x")
    assert made[0].recv(1) == b"x"
    release.set()
    for thread in threading.enumerate():
        if thread.name == "netjail connect":
            thread.join()
    assert late[0].recv(1) == b"", "the loser was closed"
    for each in (sock, *made, *late):
        each.close()


@pytest.mark.usefixtures("nothing_left_behind")
def test_cancelling_a_dial_leaves_nothing(dead: tuple[str, int]) -> None:
    names = {"a.test": [dead[0], "::ffff:127.0.0.9"]}

    async def main() -> None:
        dialer = AsyncDialer(LOCAL, resolver=AsyncNames(names))
        task = asyncio.create_task(dialer.connect(("a.test", dead[1])))
        before = len(os.listdir("/proc/self/fd"))
        while len(os.listdir("/proc/self/fd")) == before:  # noqa: ASYNC110 - a socket sets no event
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(asyncio.all_tasks()) == 1
        assert len(os.listdir("/proc/self/fd")) == before

    asyncio.run(main())


def test_source_address_and_options_are_set_before_connecting(site: Callable[..., Site]) -> None:
    good = site("127.0.0.1")
    option = (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    with Dialer(LOCAL).connect(("127.0.0.1", good.port), 5, ("127.0.0.5", 0), socket_options=[option]) as sock:
        assert sock.getsockname()[0] == "127.0.0.5"
        assert sock.getsockopt(*option[:2])

    async def main() -> None:
        _, writer = await AsyncDialer(LOCAL).open_connection("127.0.0.1", good.port, local_addr=("127.0.0.6", 0))
        assert writer.get_extra_info("sockname")[0] == "127.0.0.6"
        writer.close()

    asyncio.run(main())


@pytest.mark.usefixtures("nothing_left_behind")
def test_udp_is_judged_as_well() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.2", 0))
        port = server.getsockname()[1]
        with Dialer(Rules(["127.0.0.2"])).connect(("127.0.0.2", port), type=socket.SOCK_DGRAM) as sock:
            sock.send(b"x")
            assert server.recv(1) == b"x"
        with pytest.raises(DeniedError):
            Dialer(Rules(["127.0.0.3"])).connect(("127.0.0.2", port), type=socket.SOCK_DGRAM)


def test_without_a_timeout_the_default_timeout_holds(site: Callable[..., Site]) -> None:
    good = site()
    socket.setdefaulttimeout(7)
    try:
        with create_connection((good.address, good.port), rules=LOCAL) as sock:
            assert sock.gettimeout() == 7
    finally:
        socket.setdefaulttimeout(None)
    with pytest.raises(ValueError, match="out of range"):
        create_connection((good.address, good.port), -1, rules=LOCAL)


class TestTLS:
    """The name is what the certificate is checked against, the address is what is judged."""

    NAMES: ClassVar[dict[str, list[str]]] = {
        "good.test": ["127.0.0.2"],
        "wrong.test": ["127.0.0.2"],
        "bad.test": ["127.0.0.3"],
    }

    @pytest.fixture
    def secure(self, site: Callable[..., Site], server_tls: Callable[..., ssl.SSLContext]) -> Site:
        return site("127.0.0.2", tls=server_tls("good.test"))

    @pytest.mark.usefixtures("nothing_left_behind")
    def test_sync(self, secure: Site, client_tls: ssl.SSLContext, trap: Callable[..., Trap]) -> None:
        trap("127.0.0.3", port=secure.port)
        dialer = Dialer(Rules(["127.0.0.2"]), resolver=Names(self.NAMES))
        with dialer.connect_tls(("good.test", secure.port), 10, context=client_tls) as tls:
            assert tls.getpeercert()
            assert tls.server_hostname == "good.test"
            assert tls.gettimeout() == 10
        with pytest.raises(ssl.SSLCertVerificationError):
            dialer.connect_tls(("wrong.test", secure.port), context=client_tls)
        with dialer.connect_tls(("wrong.test", secure.port), context=client_tls, server_hostname="good.test"):
            pass
        with pytest.raises(ssl.SSLCertVerificationError):
            dialer.connect_tls(("good.test", secure.port))
        with pytest.raises(DeniedError):
            dialer.connect_tls(("bad.test", secure.port), context=client_tls)

    @pytest.mark.usefixtures("nothing_left_behind")
    def test_async(self, secure: Site, client_tls: ssl.SSLContext, trap: Callable[..., Trap]) -> None:
        trap("127.0.0.3", port=secure.port)

        async def main() -> None:
            dialer = AsyncDialer(Rules(["127.0.0.2"]), resolver=AsyncNames(self.NAMES))
            port = secure.port
            for opening in (
                dialer.connect_tls(("good.test", port), 10, context=client_tls),
                dialer.open_connection("good.test", port, ssl=client_tls),
                dialer.open_connection("wrong.test", port, ssl=client_tls, server_hostname="good.test"),
            ):
                _, writer = await opening
                assert writer.get_extra_info("peercert")
                writer.close()
                await writer.wait_closed()
            for failing in (
                dialer.connect_tls(("wrong.test", port), context=client_tls),
                dialer.open_connection("wrong.test", port, ssl=client_tls),
                dialer.open_connection("good.test", port, ssl=True),
            ):
                with pytest.raises(ssl.SSLCertVerificationError):
                    await failing
            with pytest.raises(DeniedError):
                await dialer.connect_tls(("bad.test", port), context=client_tls)
            await asyncio.sleep(0)
            gc.collect()

        asyncio.run(main())

    @pytest.mark.usefixtures("nothing_left_behind")
    def test_the_deadline_covers_the_handshake(self, client_tls: ssl.SSLContext) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            target = ("127.0.0.1", silent.getsockname()[1])
            with pytest.raises(TimeoutError):
                Dialer(LOCAL).connect_tls(target, 0.1, context=client_tls)
            with pytest.raises(TimeoutError):
                asyncio.run(AsyncDialer(LOCAL).connect_tls(target, 0.1, context=client_tls))


@pytest.mark.usefixtures("nothing_left_behind")
def test_a_protocol_factory_that_fails_leaves_no_socket(site: Callable[..., Site]) -> None:
    good = site()

    async def main() -> None:
        def factory() -> asyncio.Protocol:
            raise RuntimeError("no protocol")

        with pytest.raises(RuntimeError, match="no protocol"):
            await AsyncDialer(LOCAL).create_connection(factory, good.address, good.port)
        transport, protocol = await AsyncDialer(LOCAL).create_connection(asyncio.Protocol, good.address, good.port)
        assert isinstance(protocol, asyncio.Protocol)
        transport.close()
        await asyncio.sleep(0)

    asyncio.run(main())


@pytest.mark.parametrize(
    "options", [{"server_hostname": "x"}, {"ssl_handshake_timeout": 1}, {"sock": None}, {"proto": 6}]
)
def test_options_that_mean_nothing_are_refused_before_anything_is_sent(
    options: dict[str, Any], trap: Callable[..., Trap]
) -> None:
    listener = trap()
    with pytest.raises((ValueError, TypeError)):
        asyncio.run(open_connection(listener.address, listener.port, rules=LOCAL, **options))


def test_of_two_connections_that_stand_at_once_the_other_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(racing, "STAGGER", 0.001)
    made: list[tuple[socket.socket, socket.socket]] = []

    async def race() -> socket.socket:
        both = asyncio.Event()

        async def connect(address: tuple[str, int]) -> socket.socket:
            made.append(socket.socketpair())
            mine = made[-1][0]
            if len(made) == 2:
                both.set()
            await both.wait()
            return mine

        rules = Rules(allow=["192.0.2.0/24"])
        resolver = AsyncNames({"two.test": ["192.0.2.1", "192.0.2.2"]})
        return await AsyncDialer(rules, resolver=resolver, connect=connect).connect(("two.test", 80))

    won = asyncio.run(race())
    assert sorted(mine.fileno() == -1 for mine, _ in made) == [False, True]
    assert won.fileno() != -1
    for pair in made:
        for sock in pair:
            sock.close()


class Member(str, enum.Enum):  # noqa: UP042 - a StrEnum says of itself what it holds
    HOST = "127.0.0.2"


class Spelt(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "127.0.0.3"


@pytest.mark.parametrize("host", [Member.HOST, Spelt("127.0.0.2")])
def test_a_str_of_another_class_is_dialled_as_what_it_holds_which_was_judged(host: str) -> None:
    """What it says of itself is something else."""
    recorder = Recorder()
    rules = Rules(["127.0.0.2"])
    Dialer(rules, connect=recorder.connect).connect((host, 80)).close()
    Dialer(rules, resolver=Names({"x.test": [host]}), connect=recorder.connect).connect(("x.test", 80)).close()
    recorder.close()
    assert recorder.dialled == [("127.0.0.2", 80)] * 2
    assert {type(ip) for ip, _ in recorder.dialled} == {str}


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_a_connect_that_raises_what_is_no_exception_ends_the_race(kind: type[BaseException]) -> None:
    def connect(address: Any, *, timeout: float | None) -> Any:
        raise kind

    names = Names({"x.test": ["127.0.0.2", "127.0.0.3"]})
    with pytest.raises(kind):
        Dialer(LOCAL, resolver=names, connect=connect).connect(("x.test", 80))


@pytest.mark.parametrize("host", ["fe80::1%a/b", b"\xff", b"a.\xffb"])
def test_a_host_that_nothing_can_be_is_a_gaierror(host: Any) -> None:
    with pytest.raises(socket.gaierror):
        Dialer(LOCAL).connect((host, 80))


@pytest.mark.parametrize("family", [socket.AF_UNIX, 77])
def test_no_other_family_is_taken_for_one_of_ip(trap: Callable[..., Trap], family: int) -> None:
    port = trap("127.0.0.2").port
    with pytest.raises(socket.gaierror):
        Dialer(LOCAL).connect(("127.0.0.2", port), family=family)


@pytest.mark.parametrize("answer", [["127.0.0.8"], ["127.0.0.8", "127.0.0.7"]])
def test_a_failed_connect_names_no_address_that_dns_gave(answer: list[str]) -> None:
    with pytest.raises(ConnectionRefusedError) as caught:
        Dialer(LOCAL, resolver=Names({"x.test": answer})).connect(("x.test", 9))
    assert "127.0.0." not in str(caught.value)
