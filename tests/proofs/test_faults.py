"""Whatever goes wrong, and whenever: nothing is left behind, nothing inside is dialled, and the next request works."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import struct
import subprocess
import sys
import textwrap
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from netjail import AsyncDialer, Rules
from tests.servers.names import GOOD, AsyncNames, Names
from tests.servers.site import BlackHole, Site

from .clients import ASYNC_URL_CLIENTS, URL_CLIENTS

ROOT = Path(__file__).resolve().parents[2]
RULES = Rules(allow=[GOOD, "127.0.0.4"])

pytestmark = pytest.mark.usefixtures("nothing_left_behind")


@pytest.fixture
def dead() -> Iterator[BlackHole]:
    """A listener on 127.0.0.4 that does not answer."""
    with BlackHole("127.0.0.4") as hole:
        yield hole


class CancelledAt:
    """Awaits something and cancels its own task at the given await; ``reached`` tells whether there were so many."""

    def __init__(self, awaited: Awaitable[Any], at: int) -> None:
        self._awaited = awaited
        self._at = at
        self.reached = False

    def __await__(self) -> Any:
        steps = self._awaited.__await__()
        value: Any = None
        number = 0
        while True:
            try:
                future = steps.send(value) if not isinstance(value, BaseException) else steps.throw(value)
            except StopIteration as end:
                return end.value
            if number == self._at:
                self.reached = True
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
            number += 1
            try:
                value = yield future
            except BaseException as error:
                value = error


def cancelled_everywhere(call: Callable[[], Awaitable[Any]]) -> int:
    """Runs ``call`` again and again, cancelled at its first await, its second, and so on; how many there were."""
    for at in range(10_000):

        async def once(at: int = at) -> bool:
            step = CancelledAt(call(), at)
            task = asyncio.ensure_future(step_through(step))
            try:
                await task
            except asyncio.CancelledError:
                assert step.reached
            others = asyncio.all_tasks() - {asyncio.current_task()}
            if others:
                await asyncio.wait(others, timeout=5)
            assert not asyncio.all_tasks() - {asyncio.current_task()}
            return step.reached

        if not asyncio.run(once()):
            return at
        gc.collect()
    raise AssertionError("it never came to an end")


async def step_through(step: CancelledAt) -> Any:
    return await step


def test_a_dial_is_cancelled_at_any_of_its_awaits(site):
    good = site(GOOD)
    names = AsyncNames({"two.test": ["127.0.0.4", GOOD]})

    async def dial() -> None:
        await asyncio.sleep(0)
        (await AsyncDialer(RULES, resolver=names).connect(("two.test", good.port))).close()

    assert cancelled_everywhere(dial) >= 3


def test_a_race_with_a_dead_address_is_cancelled_at_any_of_its_awaits(dead):
    port = dead.port
    with Site(GOOD, port=port):
        names = AsyncNames({"two.test": ["127.0.0.4", GOOD]})

        async def dial() -> None:
            (await AsyncDialer(RULES, resolver=names).connect(("two.test", port))).close()

        assert cancelled_everywhere(dial) >= 2


def test_a_dial_with_tls_is_cancelled_at_any_of_its_awaits(site, server_tls, client_tls):
    good = site(GOOD, tls=server_tls("good.test"))

    async def dial() -> None:
        dialer = AsyncDialer(RULES, resolver=AsyncNames())
        _, writer = await dialer.open_connection("good.test", good.port, ssl=client_tls)
        writer.transport.abort()

    assert cancelled_everywhere(dial) >= 2


@pytest.mark.parametrize("client", ASYNC_URL_CLIENTS.values(), ids=ASYNC_URL_CLIENTS)
def test_a_request_is_cancelled_at_any_of_its_awaits_and_the_next_one_works(client, site):
    good = site(GOOD)

    async def request() -> None:
        async with client(RULES, AsyncNames()) as fetch:
            assert await fetch(good.url("/stream?n=3", "good.test")) == b"x" * 3_000

    async def after_a_cancelled_one() -> None:
        async with client(RULES, AsyncNames()) as fetch:
            for at in range(1_000):
                step = CancelledAt(fetch(good.url("/stream?n=3", "good.test")), at)
                try:
                    await asyncio.ensure_future(step_through(step))
                except asyncio.CancelledError:
                    assert step.reached
                assert await fetch(good.url("/", "good.test")) == b"hello"
                if not step.reached:
                    return
            raise AssertionError("it never came to an end")

    assert cancelled_everywhere(request) >= 3
    asyncio.run(after_a_cancelled_one())


@pytest.mark.parametrize("client", ASYNC_URL_CLIENTS.values(), ids=ASYNC_URL_CLIENTS)
def test_a_request_that_races_is_cancelled_at_any_of_its_awaits(client, dead):
    names = AsyncNames({"two.test": ["127.0.0.4", GOOD]})

    async def request() -> None:
        async with client(RULES, names) as fetch:
            assert await fetch(good.url("/", "two.test")) == b"hello"

    with Site(GOOD, port=dead.port) as good:
        assert cancelled_everywhere(request) >= 3


@pytest.mark.parametrize("client", ["httpx, async", "httpx2, async"])
def test_a_request_on_trio_is_cancelled_at_any_of_its_steps(client, site):
    import trio

    good = site(GOOD)

    class Cancels(trio.abc.Instrument):
        def __init__(self, at: int) -> None:
            self.at, self.number, self.scope = at, 0, trio.CancelScope()
            self.task: Any = None

        def before_task_step(self, task: Any) -> None:
            if task is self.task:
                if self.number == self.at:
                    self.scope.cancel()
                self.number += 1

    async def request(instrument: Cancels) -> None:
        async with ASYNC_URL_CLIENTS[client](RULES, AsyncNames()) as fetch:
            instrument.task = trio.lowlevel.current_task()
            with instrument.scope:
                assert await fetch(good.url("/stream?n=3", "good.test")) == b"x" * 3_000
            instrument.task = None
            assert await fetch(good.url("/", "good.test")) == b"hello"

    for at in range(10_000):
        instrument = Cancels(at)
        trio.run(request, instrument, instruments=[instrument])
        if not instrument.scope.cancel_called:
            assert at >= 3
            return
    pytest.fail("it never came to an end")


class Rude:
    """A server that does to each connection what it is told to, until it is closed."""

    def __init__(self, manner: Callable[[socket.socket], None], address: str = GOOD) -> None:
        self._listener = socket.create_server((address, 0))
        self._open: list[socket.socket] = []
        self._manner = manner
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            sock, _ = self._listener.accept()
            if self._manner is None:
                sock.close()
                return
            self._open.append(sock)
            try:
                self._manner(sock)
            except OSError:
                pass

    def __enter__(self) -> Rude:
        return self

    def __exit__(self, *_: object) -> None:
        self._manner = None  # type: ignore[assignment]
        socket.create_connection(self._listener.getsockname()).close()
        self._thread.join()
        for sock in (*self._open, self._listener):
            sock.close()


def stalls(sock: socket.socket) -> None:
    """Accepts, and says nothing."""


def hangs_up(sock: socket.socket) -> None:
    sock.close()


def resets(sock: socket.socket) -> None:
    sock.recv(1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def talks_garbage(sock: socket.socket) -> None:
    sock.recv(1)
    sock.sendall(b"\x00\xff\x16\x03 garbage \r\n\r\n" * 20)
    sock.close()


def stops_in_the_headers(sock: socket.socket) -> None:
    sock.recv(1)
    sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Len")


def stops_in_the_body(sock: socket.socket) -> None:
    sock.recv(1)
    sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")


def cuts_the_body_off(sock: socket.socket) -> None:
    stops_in_the_body(sock)
    sock.close()


MANNERS = [stalls, hangs_up, resets, talks_garbage, stops_in_the_headers, stops_in_the_body, cuts_the_body_off]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.proofs.clients.TIMEOUT", 0.2)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("manner", MANNERS, ids=lambda manner: manner.__name__)
@pytest.mark.parametrize("client", URL_CLIENTS.values(), ids=URL_CLIENTS)
def test_a_rude_server_costs_one_request_and_nothing_more(client, manner, scheme, site):
    good = site(GOOD)
    with Rude(manner) as rude, client(RULES, Names()) as fetch:
        for _ in range(2):
            with pytest.raises(Exception) as failed:
                fetch(f"{scheme}://good.test:{rude.port}/")
            del failed
        assert fetch(good.url("/", "good.test")) == b"hello"


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("manner", MANNERS, ids=lambda manner: manner.__name__)
@pytest.mark.parametrize("client", ASYNC_URL_CLIENTS.values(), ids=ASYNC_URL_CLIENTS)
def test_a_rude_server_costs_one_request_on_an_event_loop_too(client, manner, scheme, site):
    good = site(GOOD)

    async def requests() -> None:
        async with client(RULES, AsyncNames()) as fetch:
            for _ in range(2):
                with pytest.raises(Exception) as failed:
                    await fetch(f"{scheme}://good.test:{rude.port}/")
                del failed
            assert await fetch(good.url("/", "good.test")) == b"hello"

    with Rude(manner) as rude:
        asyncio.run(requests())


class Hangs(Names):
    """A resolver that does not answer for hang.test until it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.released = threading.Event()
        self.over = threading.Event()

    def lookup(self, host: str, family: int) -> Any:
        if host == "hang.test":
            self.released.wait(30)
            self.over.set()
        return super().lookup("good.test" if host == "hang.test" else host, family)


class AsyncHangs(AsyncNames):
    async def lookup(self, host: str, family: int) -> Any:  # type: ignore[override]
        if host == "hang.test":
            await asyncio.Event().wait()
        return await super().lookup(host, family)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("client", URL_CLIENTS.values(), ids=URL_CLIENTS)
def test_a_lookup_that_hangs_ends_with_the_requests_timeout(client, site):
    good, names = site(GOOD), Hangs()
    with client(RULES, names) as fetch:
        with pytest.raises(Exception) as failed:
            fetch(good.url("/", "hang.test"))
        del failed
        assert not names.over.is_set()
        assert good.accepted == 0
        names.released.set()
        assert names.over.wait(10)
        assert fetch(good.url("/", "good.test")) == b"hello"


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("client", ASYNC_URL_CLIENTS.values(), ids=ASYNC_URL_CLIENTS)
def test_a_lookup_that_hangs_ends_with_the_requests_timeout_on_an_event_loop_too(client, site):
    good = site(GOOD)

    async def requests() -> None:
        async with client(RULES, AsyncHangs()) as fetch:
            with pytest.raises(Exception) as failed:
                await fetch(good.url("/", "hang.test"))
            del failed
            assert good.accepted == 0
            assert await fetch(good.url("/", "good.test")) == b"hello"

    asyncio.run(requests())


@pytest.mark.parametrize("client", URL_CLIENTS.values(), ids=URL_CLIENTS)
def test_a_dead_first_address_does_not_keep_the_living_one_from_being_reached(client, dead):
    with Site(GOOD, port=dead.port) as good:
        with client(RULES, Names({"two.test": ["127.0.0.4", GOOD]})) as fetch:
            assert fetch(good.url("/", "two.test")) == b"hello"


@pytest.mark.parametrize("client", ASYNC_URL_CLIENTS.values(), ids=ASYNC_URL_CLIENTS)
def test_a_dead_first_address_is_no_matter_on_an_event_loop_either(client, dead):
    async def request() -> None:
        async with client(RULES, AsyncNames({"two.test": ["127.0.0.4", GOOD]})) as fetch:
            assert await fetch(good.url("/", "two.test")) == b"hello"

    with Site(GOOD, port=dead.port) as good:
        asyncio.run(request())


def program(code: str, **names: Any) -> subprocess.CompletedProcess[str]:
    given = "".join(f"{name} = {value!r}\n" for name, value in names.items())
    head = "from netjail import *\nfrom tests.proofs.clients import *\nfrom tests.servers.names import *\n"
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", given + head + textwrap.dedent(code)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


needs_posix = pytest.mark.skipif(sys.platform == "win32", reason="resource limits and fork are POSIX")


@needs_posix
@pytest.mark.parametrize("client", URL_CLIENTS)
def test_a_process_out_of_descriptors_fails_and_recovers(client, site):
    done = program(
        """
        import resource, socket
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        with URL_CLIENTS[client](Rules(allow=[GOOD]), Names({"two.test": [GOOD, GOOD]})) as fetch:
            assert fetch(other) == b"hello"  # everything is imported
            taken = []
            try:
                while True:
                    taken.append(socket.socket())
            except OSError:
                pass
            try:
                fetch(url)
            except Exception as error:
                failed = error
            for each in taken:
                each.close()
            print(find_denied(failed))
            assert fetch(url) == b"hello"
            print("recovered")
        """,
        client=client,
        url=site(GOOD).url("/", "two.test"),
        other=site(GOOD).url("/close"),
    )
    assert done.stdout.splitlines() == ["None", "recovered"], done


@needs_posix
@pytest.mark.parametrize("client", URL_CLIENTS)
def test_a_forked_child_dials_for_itself_and_is_judged(client, site, trap):
    good = site(GOOD)
    bad = trap("127.0.0.3", port=good.port)
    done = program(
        """
        import os, warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # there may be lookup threads when it forks
        names = Names({"good.test": [GOOD], "bad.test": [BAD]})
        with URL_CLIENTS[client](Rules(allow=[GOOD]), names) as fetch:
            assert fetch(good + "close") == b"hello"
            pid = os.fork()
            if pid == 0:
                assert fetch(good) == b"hello"
                try:
                    fetch(bad)
                except Exception as error:
                    os._exit(0 if find_denied(error) else 1)
                os._exit(2)
            print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
            assert fetch(good) == b"hello"
        """,
        client=client,
        good=good.url("/", "good.test"),
        bad=bad.url("/", "bad.test"),
    )
    assert done.stdout == "0\n", done
    assert good.accepted >= 3


@pytest.mark.parametrize("client", URL_CLIENTS)
def test_an_interpreter_ends_in_silence_with_live_pools(client, site):
    done = program(
        """
        made = URL_CLIENTS[client](Rules(allow=[GOOD]), Names())
        fetch = made.__enter__()
        assert fetch(url) == b"hello"
        print("fetched")
        """,
        client=client,
        url=site(GOOD).url("/", "good.test"),
    )
    assert (done.returncode, done.stdout) == (0, "fetched\n"), done
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr.replace("Exception ignored in: <socket", ""), done.stderr


@pytest.mark.parametrize("client", ASYNC_URL_CLIENTS)
def test_an_interpreter_ends_in_silence_with_live_pools_of_a_loop_that_is_over(client, site):
    done = program(
        """
        import asyncio
        made = ASYNC_URL_CLIENTS[client](Rules(allow=[GOOD]), AsyncNames())
        async def main():
            async with made as fetch:
                assert await fetch(url) == b"hello"
        asyncio.run(main())
        print("fetched")
        """,
        client=client,
        url=site(GOOD).url("/", "good.test"),
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "fetched\n", ""), done
