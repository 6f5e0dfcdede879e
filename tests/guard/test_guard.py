"""What the guard promises, each promise against listeners on loopback."""

from __future__ import annotations

import socket
import sys

import pytest

from netjail import guard
from tests.servers.names import BAD, GOOD

from .harness import needs, run, run_guarded

posix = pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")


def test_an_address_that_the_floor_accepts_is_connected_to_and_no_other(site, trap):
    good, bad = site(GOOD), trap(BAD)
    lines = run_guarded("print(outcome(dial, GOOD, good), outcome(dial, BAD, bad))", good=good.port, bad=bad.port)
    assert lines == ["ok denied"]
    assert good.accepted == 1


def test_connect_ex_raises_instead_of_returning_an_errno(trap):
    lines = run_guarded(
        """
        with socket.socket() as sock:
            try:
                sock.connect_ex((BAD, bad))
            except DeniedError as error:
                print(error.errno, error)
        """,
        bad=trap(BAD).port,
    )
    assert lines[0].startswith("13 netjail denied the connection to '127.0.0.3' port ")


def test_the_message_names_the_address_that_the_program_passed():
    lines = run_guarded(
        """
        try:
            dial("::ffff:127.0.0.3", 9)
        except PermissionError as error:
            print(error)
            print(error.host, error.port, error.decisions[0].landing)
        """
    )
    assert lines == [
        "netjail denied the connection to '::ffff:127.0.0.3' port 9: the address is not accepted by the rules in force",
        "::ffff:127.0.0.3 9 127.0.0.3",
    ]


@pytest.mark.parametrize("host", ["localhost", b"localhost", bytearray(b"localhost"), "", "127.2", "2130706434"])
def test_a_host_name_is_refused_wherever_it_leads(host, trap):
    lines = run_guarded("print(outcome(dial, host, bad))", floor=["0.0.0.0/0"], host=host, bad=trap("127.0.0.1").port)
    assert lines == ["denied"]


COOPERATIVE = """
import _socket, socket
class Cooperative:  # no subclass of C's class, as gevent's and eventlet's are not
    def __init__(self, *args):
        self._sock = _socket.socket(*args)
    def __enter__(self):
        return self
    def __exit__(self, *_):
        self._sock.close()
    def __getattr__(self, name):
        return getattr(self._sock, name)
socket.socket = socket.SocketType = Cooperative
"""


@pytest.mark.parametrize("when", ["before netjail was imported", "before the guard", "after the guard"])
def test_sockets_that_were_patched_are_judged(when, site, trap, tmp_path):
    install = "guard.install(Rules(allow=[GOOD]))\n"
    (tmp_path / "sitecustomize.py").write_text(COOPERATIVE if "netjail" in when else "")
    lines = run(
        {"before the guard": COOPERATIVE}.get(when, "")
        + install
        + {"after the guard": COOPERATIVE}.get(when, "")
        + """
print(outcome(dial, GOOD, good), outcome(dial, BAD, bad))
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    print(outcome(sock.sendto, b"x", (BAD, bad)))
print(guard.report().judged)
""",
        path=[tmp_path],
        good=site(GOOD).port,
        bad=trap(BAD).port,
    )
    assert lines == ["ok denied", "denied", "3"]


@pytest.mark.parametrize("library", ["gevent", "eventlet"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_the_real_patches_change_nothing(when, library, site, trap):
    needs(library)
    patch = {
        "gevent": "import gevent.monkey; gevent.monkey.patch_all()\n",
        # Its own lookups load dnspython, which loads trio, which cannot stand the patch.
        "eventlet": "import os; os.environ['EVENTLET_NO_GREENDNS'] = 'yes'\nimport eventlet; eventlet.monkey_patch()\n",
    }[library]
    install = "guard.install(Rules(allow=[GOOD]))\n"
    lines = run(
        (patch + install if when == "before" else install + patch)
        + """
print(outcome(socket.create_connection, (GOOD, good)), outcome(socket.create_connection, (BAD, bad)))
def job():
    print(outcome(socket.create_connection, (GOOD, good)))
with use_rules(Rules()):
    thread = threading.Thread(target=job); thread.start(); thread.join()
""",
        good=site(GOOD).port,
        bad=trap(BAD).port,
    )
    assert lines == ["ok denied", "denied"]


def test_an_address_is_judged_as_c_reads_it_whatever_its_classes_say(site, trap):
    good = site(GOOD)
    lines = run_guarded(
        """
        class Pair(tuple):
            __iter__ = lambda self: iter((GOOD, good))
            __getitem__ = lambda self, index: (GOOD, good)[index]
        class Text(str):
            __str__ = __format__ = lambda self, spec="": GOOD
            __eq__ = lambda self, other: True
            __hash__ = str.__hash__
        for address in (Pair((BAD, bad)), (Text(BAD), bad), (Text(GOOD), good)):
            with socket.socket() as sock:
                print(outcome(sock.connect, address))
        """,
        good=good.port,
        bad=trap(BAD).port,
    )
    assert lines == ["denied", "denied", "ok"]


def test_an_address_with_a_zone_is_refused():
    lines = run_guarded(
        """
        def scoped(*address):
            with socket.socket(socket.AF_INET6) as sock:
                sock.connect(address)
        print(outcome(scoped, "fe80::1", 9, 0, 1), outcome(scoped, "::1%1", 9))
        """,
        floor=["::/0"],
    )
    assert lines == ["denied denied"]


def test_datagrams_are_judged_when_they_are_sent_and_when_they_are_connected():
    receiver = {host: socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for host in (GOOD, BAD)}
    for host, sock in receiver.items():
        sock.bind((host, 0))
        sock.setblocking(False)
    lines = run_guarded(
        """
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        for host, port in ((GOOD, good), (BAD, bad)):
            print(
                outcome(sock.sendto, b"to", (host, port)),
                outcome(sock.sendto, b"to", 0, (host, port)),
                outcome(sock.sendmsg, [b"msg"], [], 0, (host, port)),
                outcome(sock.connect, (host, port)),
            )
        sock.connect((GOOD, good))
        print(outcome(sock.send, b"connected"), outcome(sock.sendmsg, [b"connected"]))
        print(outcome(sock.sendto, b"x", ("<broadcast>", 9)))
        """,
        good=receiver[GOOD].getsockname()[1],
        bad=receiver[BAD].getsockname()[1],
    )
    assert lines == ["ok ok ok ok", "denied denied denied denied", "ok ok", "denied"]
    assert [receiver[GOOD].recv(99) for _ in range(5)] == [b"to", b"to", b"msg", b"connected", b"connected"]
    with pytest.raises(BlockingIOError):
        receiver[BAD].recv(99)
    for sock in receiver.values():
        sock.close()


@pytest.mark.skipif(not hasattr(socket, "MSG_FASTOPEN"), reason="TCP Fast Open is the system's")
def test_a_send_that_connects_is_judged(trap):
    lines = run_guarded(
        """
        with socket.socket() as sock:
            print(outcome(sock.sendto, b"x", socket.MSG_FASTOPEN, (BAD, bad)))
        """,
        bad=trap(BAD).port,
    )
    assert lines == ["denied"]


@posix
def test_unix_sockets_and_other_families_pass(tmp_path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        lines = run_guarded(
            """
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(file)
            pair = socket.socketpair()
            datagrams = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
            datagrams[0].sendmsg([b"x"])
            print(pair[0].send(b"x"), datagrams[1].recv(9), guard.report().judged)
            """,
            file=str(tmp_path / "s"),
        )
    assert lines == ["1 b'x' 0"]


def test_the_context_narrows_the_floor_and_never_widens_it(site, trap):
    good, bad, other = site(GOOD), trap(BAD), site("127.0.0.4")
    lines = run_guarded(
        """
        targets = [(GOOD, good), ("127.0.0.4", other), (BAD, bad)]
        def each():
            print(*(outcome(dial, *target) for target in targets))
        each()
        with use_rules(Rules(allow=[GOOD])):
            each()
        with use_rules(Rules(allow=["127.0.0.0/8"])):
            each()
        with use_rules(Rules()):
            each()
        each()
        """,
        floor=[GOOD, "127.0.0.4"],
        good=good.port,
        other=other.port,
        bad=bad.port,
    )
    ok, narrowed = "ok ok denied", "ok denied denied"
    assert lines == [ok, narrowed, ok, "denied denied denied", ok]


def test_what_a_dialer_of_netjail_connects_is_judged_by_the_floor_as_well(site, trap):
    lines = run_guarded(
        """
        everything = Rules(allow=["0.0.0.0/0"])
        dialer = netjail.Dialer(everything)
        print(outcome(dialer.connect, (GOOD, good)), outcome(dialer.connect, (BAD, bad)))
        import asyncio
        async def connect(*target):
            (await netjail.AsyncDialer(everything).connect(target)).close()
        print(*(outcome(asyncio.run, connect(*target)) for target in ((GOOD, good), (BAD, bad))))
        """,
        good=site(GOOD).port,
        bad=trap(BAD).port,
    )
    assert lines == ["ok denied", "ok denied"]


def test_the_floor_is_among_the_rules_of_netjails_own_dialers_and_gives_them_no_access(site):
    """What such a dialer pins for a library in C is not seen by the hook, and no name is looked up in vain."""
    lines = run_guarded(
        """
        class Resolver:
            def lookup(self, host, family):
                asked.append(host)
                return [GOOD, BAD]

        asked = []
        floor = guard.report().floors
        everything = Rules(allow=["0.0.0.0/0"])
        dialer = netjail.Dialer(everything, resolver=Resolver())
        print(dialer.rules_in_force() == (everything, *floor), dialer.resolve(("any.test", good)) == [(GOOD, good)])
        print(netjail.Dialer(resolver=Resolver()).rules_in_force())
        print(outcome(netjail.Dialer(resolver=Resolver()).connect, ("any.test", good)))
        guard.install(Rules())
        print(outcome(dialer.connect, ("any.test", good)), asked)
        """,
        good=site(GOOD).port,
    )
    assert lines == ["True True", "()", "denied", "denied ['any.test']"]


def test_a_source_of_rules_is_asked_for_the_address_and_the_port(site, trap):
    good, bad = site(GOOD), trap(GOOD)
    lines = run(
        """
        class Policy:
            asked = []
            def rules_for(self, host, port):
                self.asked.append((host, port))
                return Rules(allow=[GOOD]) if port == good else Rules()
        guard.install(Policy())
        print(outcome(dial, GOOD, good), outcome(dial, GOOD, bad))
        print(Policy.asked == [(GOOD, good), (GOOD, bad)])
        """,
        good=good.port,
        bad=bad.port,
    )
    assert lines == ["ok denied", "True"]


def test_rules_that_dial_or_fail_when_they_are_asked_deny(trap):
    lines = run(
        """
        class Dials:
            def rules_for(self, host, port):
                dial(BAD, bad)
                return Rules(allow=["0.0.0.0/0"])
        class Fails:
            def rules_for(self, host, port):
                raise LookupError("no such target")
        guard.install(Rules(allow=["0.0.0.0/0"]))
        for source in (Dials(), Fails()):
            with use_rules(source):
                print(outcome(dial, BAD, bad))
        print(guard.report().denied)
        """,
        bad=trap(BAD).port,
    )
    assert lines == ["denied", "LookupError('no such target')", "3"]


THREADS = {
    "Thread": "thread = threading.Thread(target=job); thread.start(); thread.join()",
    "a subclass of Thread": """
class Own(threading.Thread):
    def run(self):
        job()
own = Own(); own.start(); own.join()
""",
    "Timer": "timer = threading.Timer(0, job); timer.start(); timer.join()",
    "submit": "pool.submit(job).result()",
    "map": "list(pool.map(lambda _: job(), [1]))",
    "run_in_executor": """
async def main():
    await asyncio.get_running_loop().run_in_executor(pool, job)
asyncio.run(main())
""",
    "the default executor": """
async def main():
    await asyncio.get_running_loop().run_in_executor(None, job)
asyncio.run(main())
""",
    "to_thread": "asyncio.run(asyncio.to_thread(job))",
}


def test_threads_and_jobs_carry_the_rules_of_who_started_them_and_only_them(site, trap):
    """The workers of ``pool`` were started by a job under rules, and then serve jobs under others and under none."""
    good, other = site(GOOD), site("127.0.0.4")
    lines = run_guarded(
        """
        import asyncio
        from concurrent.futures import ThreadPoolExecutor

        targets = [(GOOD, good), ("127.0.0.4", other), (BAD, bad)]
        pool = ThreadPoolExecutor(1)
        with use_rules(Rules(allow=["127.0.0.9"])):
            pool.submit(int).result()
        def job():
            print(*(outcome(dial, *target) for target in targets))
        for source in sources:
            for rules in ([GOOD], ["127.0.0.4"]):
                with use_rules(Rules(allow=rules)):
                    exec(source)
            exec(source)
        """,
        floor=[GOOD, "127.0.0.4"],
        good=good.port,
        other=other.port,
        bad=trap(BAD).port,
        sources=list(THREADS.values()),
    )
    expected = ["ok denied denied", "denied ok denied", "ok ok denied"]
    assert dict(zip(THREADS, zip(*[iter(lines)] * 3, strict=True), strict=True)) == dict.fromkeys(
        THREADS, tuple(expected)
    )


def test_what_is_called_when_a_job_is_done_has_the_rules_of_who_asked_for_it(site):
    """The worker that calls it was started under other rules."""
    lines = run_guarded(
        """
        from concurrent.futures import Future, ThreadPoolExecutor
        begin = threading.Event()
        def then(future):
            print(outcome(dial, GOOD, good), future is job)
        with ThreadPoolExecutor(1) as pool:
            with use_rules(Rules(allow=[GOOD])):
                job = pool.submit(begin.wait)
            with use_rules(Rules()):
                job.add_done_callback(then)
            job.add_done_callback(then)
            begin.set()
        with use_rules(Rules()):
            job.add_done_callback(then)
            print(outcome(dial, GOOD, good))
        """,
        good=site(GOOD).port,
    )
    assert lines == ["denied True", "ok True", "denied True", "denied"]


def test_a_thread_is_left_as_it_was_and_starts_only_once():
    lines = run_guarded(
        """
        import gc, weakref
        with use_rules(Rules()):
            thread = threading.Thread(target=int)
            thread.start()
            thread.join()
            plain = vars(threading.Thread(target=int)).keys() - {"_target", "_args", "_kwargs"}
            print(vars(thread).keys() == plain)
            try:
                thread.start()
            except RuntimeError as error:
                print(error)
        print("run" in vars(thread))
        gc.disable()
        gone = weakref.ref(thread)
        del thread
        print(gone())
        """
    )
    assert lines == ["True", "threads can only be started once", "False", "None"]


@posix
def test_a_forked_child_falls_under_the_floor(site, trap):
    lines = run_guarded(
        """
        import multiprocessing
        def child():
            print(outcome(dial, GOOD, good), outcome(dial, BAD, bad), flush=True)
        if os.fork() == 0:
            child()
            os._exit(0)
        os.wait()
        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        process.join()
        """,
        good=site(GOOD).port,
        bad=trap(BAD).port,
    )
    assert lines == ["ok denied", "ok denied"]


def test_a_spawned_child_is_a_new_interpreter_without_a_guard(tmp_path):
    script = tmp_path / "spawning.py"
    script.write_text(
        "import multiprocessing\n"
        "from netjail import Rules, guard\n"
        "def child():\n"
        "    print(guard.report().floors, flush=True)\n"
        "if __name__ == '__main__':\n"
        "    guard.install(Rules())\n"
        "    process = multiprocessing.get_context('spawn').Process(target=child)\n"
        "    process.start()\n"
        "    process.join()\n"
    )
    assert run("import runpy; runpy.run_path(script, run_name='__main__')", script=str(script)) == ["()"]


def test_floors_add_up_and_an_equal_one_changes_nothing(site, trap):
    lines = run_guarded(
        """
        guard.install(Rules(allow=["127.0.0.2/32"]))
        print(len(guard.report().floors), outcome(dial, GOOD, good))
        guard.install(Rules(allow=["0.0.0.0/0"]))
        print(len(guard.report().floors), outcome(dial, GOOD, good), outcome(dial, BAD, bad))
        guard.install(Rules(allow=["0.0.0.0/0"], block=[GOOD]))
        print(len(guard.report().floors), outcome(dial, GOOD, good), outcome(dial, BAD, bad))
        """,
        good=site(GOOD).port,
        bad=trap(BAD).port,
    )
    assert lines == ["1 ok", "2 ok denied", "3 denied denied"]


def test_a_floor_is_rules_and_nothing_else():
    for wrong in (None, "10.0.0.0/8", ["10.0.0.0/8"], 1):
        with pytest.raises(TypeError):
            guard.install(wrong)  # type: ignore[arg-type]
    assert guard.report() == guard.Report((), strict=False, judged=0, denied=0, wakeups=0, unseen=guard.report().unseen)


def test_a_guard_that_another_hook_keeps_out_is_an_error():
    lines = run(
        """
        def jealous(event, args):
            if event == "sys.addaudithook":
                raise RuntimeError
        sys.addaudithook(jealous)
        print(outcome(guard.install, Rules(), strict=True))
        print(guard.report().floors, guard.report().strict)
        """
    )
    assert lines == [
        "RuntimeError('another audit hook of this process keeps the guard out: nothing is judged')",
        "() False",
    ]


def test_the_report_counts_what_was_judged_and_denied_in_every_thread(site, trap):
    lines = run_guarded(
        """
        def job():
            for _ in range(50):
                outcome(dial, BAD, bad)
        threads = [threading.Thread(target=job) for _ in range(8)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        dial(GOOD, good)
        done = guard.report()
        print(done.judged, done.denied, done.wakeups, done.strict, done.floors, done.unseen)
        print(outcome(setattr, done, "denied", 0).partition("(")[0])
        """,
        good=site(GOOD).port,
        bad=trap(BAD).port,
    )
    assert lines == ["401 400 0 False (<Rules ALLOW 127.0.0.2/32>,) ()", "FrozenInstanceError"]


def test_events_of_others_pass_whatever_they_carry():
    lines = run_guarded(
        """
        for event, args in [
            ("socket.connect", ("no socket", None)), ("socket.sendto", (1, ("127.0.0.3", 9))),
            ("socket.sendmsg", (None, None)), ("socket.bind", (None, ("127.0.0.1", 0))), ("mine", ()),
            ("socket.connect", ()), ("socket.bind", (1,)), ("import", ("mine",)), ("import", ()),
        ]:
            sys.audit(event, *args)
        print(guard.report().judged)
        """
    )
    assert lines == ["0"]


def test_what_dials_while_the_interpreter_ends_is_still_judged(trap):
    lines = run_guarded(
        """
        import atexit
        class Last:
            def __init__(self, name):
                self.name, self.sock = name, socket.socket()
            def __del__(self, address=(BAD, bad), write=os.write):
                try:
                    self.sock.connect(address)
                except BaseException:
                    write(1, f"{self.name} refused\\n".encode())
        sys.last = Last("sys")
        sys.modules["kept"] = Last("modules")
        threading.last = Last("threading")
        guard.last = Last("guard")
        guard.install.last = Last("install")
        atexit.register(Last("atexit").__del__)
        """,
        bad=trap(BAD).port,
    )
    assert {line.removesuffix(" refused") for line in lines} >= {"atexit", "sys", "modules", "threading", "guard"}


def test_a_signal_handler_that_dials_meets_no_lock(site, trap):
    lines = run_guarded(
        """
        import signal
        seen = []
        signal.signal(signal.SIGINT, lambda *_: seen.append(outcome(dial, BAD, bad)))
        class Interrupting:
            def rules_for(self, host, port):
                if host == GOOD:
                    signal.raise_signal(signal.SIGINT)
                return Rules(allow=[GOOD])
        with use_rules(Interrupting()):
            print(outcome(dial, GOOD, good), seen)
        """,
        good=site(GOOD).port,
        bad=trap(BAD).port,
    )
    assert lines == ["ok ['denied']"]


def test_a_guard_of_an_environment_is_on_before_the_program(tmp_path, trap):
    """The file that the documentation advises: a sitecustomize.py on the path."""
    (tmp_path / "sitecustomize.py").write_text("from netjail import Rules, guard\nguard.install(Rules())\n")
    lines = run("print(outcome(dial, BAD, bad))", path=[tmp_path], bad=trap(BAD).port)
    assert lines == ["denied"]
