"""The pair of sockets that a library makes over loopback to wake itself up, and what must not pass for one."""

from __future__ import annotations

import socket

import pytest

from .harness import needs, run_guarded

PAIR = """
def pair(family=socket.AF_INET, host="127.0.0.1", backlog=1):
    with socket.socket(family) as listener:
        listener.bind((host, 0))
        listener.listen(backlog)
        one = socket.socket(family)
        one.connect(listener.getsockname()[:2])
        two, _ = listener.accept()
    two.sendall(b"awake")
    return one.recv(5)

def listening(host="127.0.0.1"):
    listener = socket.socket()
    listener.bind((host, 0))
    listener.listen()
    return listener

def reached(listener):
    listener.setblocking(False)
    return outcome(listener.accept) == "ok"
"""


def test_a_function_may_connect_to_the_listener_that_it_made_for_itself():
    lines = run_guarded(
        PAIR
        + """
print(pair(), pair(), pair(backlog=128))
if socket.has_ipv6:
    print(pair(socket.AF_INET6, "::1"))
with use_rules(Rules()):
    print(pair())
done = guard.report()
print(done.wakeups == done.judged > 0, done.denied)
""",
        floor=[],
    )
    assert lines[0] == "b'awake' b'awake' b'awake'"
    assert lines[-2:] == ["b'awake'", "True 0"]


@pytest.mark.parametrize(
    ("library", "make"),
    [
        ("socket", "one, two = socket._fallback_socketpair()"),
        ("paho.mqtt.client", "one, two = library._socketpair_compat()"),
        ("pika.compat", "one, two = library.nonblocking_socketpair()"),
        ("asyncio", "asyncio.new_event_loop().close(); one, two = socket.socketpair()"),
        ("multiprocessing", "one, two = library.Pipe(); one.close(); two.close(); one, two = socket.socketpair()"),
    ],
)
def test_the_wake_up_pair_of_a_library_works_under_a_floor_that_accepts_nothing(library, make, trap):
    needs(library)
    if library == "socket" and not hasattr(socket, "_fallback_socketpair"):
        pytest.skip("this Python defines its emulation on Windows only")
    lines = run_guarded(
        """
        import asyncio, importlib, select
        library = importlib.import_module(library)
        exec(make)
        one.send(b"awake")
        select.select([two], [], [])
        print(two.recv(5))
        print(outcome(dial, "127.0.0.1", bad))
        """,
        floor=[],
        library=library,
        make=make,
        bad=trap("127.0.0.1").port,
    )
    assert lines == ["b'awake'", "denied"]


def test_a_copy_of_the_module_socket_makes_pairs_too():
    """eventlet makes its pair with one, whose class is not the socket.socket of everybody else."""
    lines = run_guarded(
        """
        import importlib.util
        spec = importlib.util.find_spec("socket")
        sys.modules["socket"] = copy = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(copy)
        sys.modules["socket"], socket = socket, copy
        """
        + PAIR.replace("\n", "\n        ")
        + """
        print(pair(), guard.report().wakeups)
        """,
        floor=[],
    )
    assert lines == ["b'awake' 1"]


def test_a_socket_of_c_itself_may_bind_and_is_judged(trap):
    lines = run_guarded(
        """
        import _socket
        sock = _socket.socket()
        sock.bind(("127.0.0.1", 0))
        print(outcome(sock.connect, ("127.0.0.1", bad)))
        """,
        floor=[],
        bad=trap("127.0.0.1").port,
    )
    assert lines == ["denied"]


SERVICES = {
    "a service of this process, from another function": """
service = listening()
print(outcome(dial, *service.getsockname()), reached(service))
""",
    "a service of another thread": """
services = []
thread = threading.Thread(target=lambda: services.append(listening()))
thread.start()
thread.join()
print(outcome(dial, *services[0].getsockname()), reached(services[0]))
""",
    "a service of the server library": """
import http.server, urllib.request
service = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
service.timeout = 0
url = "http://127.0.0.1:%d/" % service.server_port
print(outcome(urllib.request.urlopen, url), reached(service.socket))
""",
    "a service of asyncio, from its own thread": """
import asyncio
async def main():
    accepted = []
    service = await asyncio.start_server(lambda reader, writer: accepted.append(writer), "127.0.0.1", 0)
    try:
        await asyncio.open_connection(*service.sockets[0].getsockname())
    except DeniedError:
        print("denied", bool(accepted))
asyncio.run(main())
""",
    "a second connection to the listener of a pair": """
def twice():
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    socket.socket().connect(listener.getsockname())
    listener.accept()
    print(outcome(socket.socket().connect, listener.getsockname()), end=" ")
    one = socket.socket()
    try:
        one.connect(listener.getsockname())
    except DeniedError:
        print(reached(listener))
twice()
""",
    "another connection first": """
def later():
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    print(outcome(dial, "127.0.0.3", 9), end=" ")
    try:
        socket.socket().connect(listener.getsockname())
    except DeniedError:
        print(reached(listener))
later()
""",
    "another listener of the same function": """
def two():
    service = listening()
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    try:
        socket.socket().connect(service.getsockname())
    except DeniedError:
        print("denied", reached(service))
two()
""",
    "a port of the program's choice": """
def chosen():
    free = listening()
    port = free.getsockname()[1]
    free.close()
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen()
    try:
        socket.socket().connect(listener.getsockname())
    except DeniedError:
        print("denied", reached(listener))
chosen()
""",
    "a listener on every address": """
def everywhere():
    listener = socket.socket()
    listener.bind(("", 0))
    listener.listen()
    try:
        socket.socket().connect(("127.0.0.1", listener.getsockname()[1]))
    except DeniedError:
        print("denied", reached(listener))
everywhere()
""",
    "the same function in another call": """
def recursive(target=None):
    listener = socket.socket()
    if target is None:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        recursive(listener.getsockname())
        print(reached(listener))
    else:
        try:
            listener.connect(target)
        except DeniedError:
            print("denied", end=" ")
recursive()
""",
    "a function that is handed the listener": """
def connects(listener):
    try:
        socket.socket().connect(listener.getsockname())
    except DeniedError:
        print("denied", reached(listener))
connects(listening())
""",
    "a later call of the same function": """
def listens_or_connects(target=None):
    sock = socket.socket()
    if target is None:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        return sock
    sock.connect(target)
service = listens_or_connects()
address = service.getsockname()
try:
    listens_or_connects(address)
except DeniedError:
    print("denied", reached(service))
""",
    "a client that binds itself first": """
service = listening()
print(outcome(socket.create_connection, service.getsockname(), 5, ("127.0.0.1", 0)), reached(service))
""",
    "datagrams": """
def datagrams():
    service = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    service.bind(("127.0.0.1", 0))
    service.setblocking(False)
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.sendto(b"x", service.getsockname())
    except DeniedError:
        print("denied", outcome(service.recv, 9) == "ok")
datagrams()
""",
}


@pytest.mark.parametrize("code", SERVICES.values(), ids=SERVICES)
def test_a_service_of_this_very_process_is_not_reached(code):
    """An address that came from outside may name a port on which the process itself listens."""
    assert run_guarded(PAIR + code) == ["denied False"]
