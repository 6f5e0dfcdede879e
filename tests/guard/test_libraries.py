"""Libraries under the guard, none of which knows of it."""

from __future__ import annotations

import pytest

from tests.servers.names import BAD, GOOD

from .harness import Talk, needs, run_guarded

HTTP = {
    "socket.create_connection": "fetch = lambda host, port: socket.create_connection((host, port)).close()",
    "http.client": """
import http.client
def fetch(host, port):
    connection = http.client.HTTPConnection(host, port)
    connection.request("GET", "/")
    assert connection.getresponse().read() == b"hello"
    connection.close()
""",
    "urllib.request": """
import urllib.request
def fetch(host, port):
    with urllib.request.urlopen(f"http://{host}:{port}/") as response:
        assert response.read() == b"hello"
""",
    "urllib3": """
import urllib3
fetch = lambda host, port: urllib3.PoolManager().request("GET", f"http://{host}:{port}/")
""",
    "requests": """
import requests
fetch = lambda host, port: requests.get(f"http://{host}:{port}/")
""",
    "httpx": """
import httpx
fetch = lambda host, port: httpx.get(f"http://{host}:{port}/")
""",
    "httpx, async": """
import asyncio, httpx
async def get(host, port):
    async with httpx.AsyncClient() as client:
        await client.get(f"http://{host}:{port}/")
fetch = lambda host, port: asyncio.run(get(host, port))
""",
    "httpx, async on uvloop": """
import httpx, uvloop
async def get(host, port):
    async with httpx.AsyncClient() as client:
        await client.get(f"http://{host}:{port}/")
fetch = lambda host, port: uvloop.run(get(host, port))
""",
    "aiohttp": """
import aiohttp, asyncio
async def get(host, port):
    async with aiohttp.ClientSession() as session, session.get(f"http://{host}:{port}/") as response:
        assert await response.text() == "hello"
fetch = lambda host, port: asyncio.run(get(host, port))
""",
    "aiohttp on uvloop": """
import aiohttp, uvloop
async def get(host, port):
    async with aiohttp.ClientSession() as session, session.get(f"http://{host}:{port}/") as response:
        assert await response.text() == "hello"
fetch = lambda host, port: uvloop.run(get(host, port))
""",
    "asyncio": """
import asyncio
async def connect(host, port):
    _, writer = await asyncio.open_connection(host, port)
    writer.close()
fetch = lambda host, port: asyncio.run(connect(host, port))
""",
    "asyncio, happy eyeballs": """
import asyncio
async def connect(host, port):
    _, writer = await asyncio.open_connection(host, port, happy_eyeballs_delay=0.25)
    writer.close()
fetch = lambda host, port: asyncio.run(connect(host, port))
""",
    "asyncio, sock_connect": """
import asyncio
async def connect(host, port):
    with socket.socket() as sock:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (host, port))
fetch = lambda host, port: asyncio.run(connect(host, port))
""",
    "asyncio, datagrams": """
import asyncio
async def connect(host, port):
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, remote_addr=(host, port))
    transport.close()
fetch = lambda host, port: asyncio.run(connect(host, port))
""",
    "uvloop, sock_connect": """
import asyncio, uvloop
async def connect(host, port):
    with socket.socket() as sock:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (host, port))
fetch = lambda host, port: uvloop.run(connect(host, port))
""",
    "trio": """
import trio
async def connect(host, port):
    await (await trio.open_tcp_stream(host, port)).aclose()
fetch = lambda host, port: trio.run(connect, host, port)
""",
    "anyio": """
import anyio
async def connect(host, port):
    await (await anyio.connect_tcp(host, port)).aclose()
fetch = lambda host, port: anyio.run(connect, host, port)
""",
    "anyio on trio": """
import anyio, trio
async def connect(host, port):
    await (await anyio.connect_tcp(host, port)).aclose()
fetch = lambda host, port: anyio.run(connect, host, port, backend="trio")
""",
    "xmlrpc": """
import xmlrpc.client
def fetch(host, port):
    try:
        xmlrpc.client.ServerProxy(f"http://{host}:{port}/").anything()
    except xmlrpc.client.Error:
        pass  # the server speaks something else
    except SyntaxError:
        pass
    except Exception as error:
        if find_denied(error):
            raise
""",
    "multiprocessing.connection": """
import multiprocessing.connection
fetch = lambda host, port: multiprocessing.connection.Client((host, port)).close()
""",
    "logging": """
import logging.handlers
def fetch(host, port):
    logging.handlers.SocketHandler(host, port).makeSocket(1).close()
""",
}


@pytest.mark.parametrize("library", HTTP)
def test_a_library_reaches_what_the_floor_accepts_and_nothing_else(library, site, trap):
    for name in HTTP[library].strip().partition("\n")[0].removeprefix("import ").split(", "):
        if name.isidentifier():
            needs(name)
    good, bad = site(GOOD), trap(BAD)
    lines = run_guarded(
        HTTP[library]
        + """
print(outcome(fetch, GOOD, good))
print(outcome(fetch, BAD, bad))
with use_rules(Rules()):
    print(outcome(fetch, GOOD, good))
""",
        good=good.port,
        bad=bad.port,
    )
    assert lines == ["ok", "denied", "denied"]
    assert good.accepted == (0 if "datagrams" in library else 1)


@pytest.mark.parametrize("library", ["urllib.request", "requests", "httpx", "aiohttp"])
def test_a_redirect_to_inside_is_denied(library, site, trap):
    needs(library)
    good, bad = site(GOOD), trap(BAD)
    follow = {
        "urllib.request": "import urllib.request; follow = urllib.request.urlopen",
        "requests": "import requests; follow = requests.get",
        "httpx": "import httpx; follow = lambda url: httpx.get(url, follow_redirects=True)",
        "aiohttp": """
import aiohttp, asyncio
async def get(url):
    async with aiohttp.ClientSession() as session, session.get(url):
        pass
follow = lambda url: asyncio.run(get(url))
""",
    }
    url = good.url(f"/redirect?to={bad.url()}")
    assert run_guarded(follow[library] + "\nprint(outcome(follow, url))", url=url) == ["denied"]
    assert good.accepted == 1


def smtp(line: bytes) -> bytes:
    return b"221 bye\r\n" if line.startswith(b"QUIT") else b"250 fine\r\n"


def imap(line: bytes) -> bytes:
    tag, command = line.split()[:2]
    extra = {b"CAPABILITY": b"* CAPABILITY IMAP4rev1\r\n", b"LOGOUT": b"* BYE\r\n"}.get(command.upper(), b"")
    return extra + tag + b" OK done\r\n"


MAIL = {
    "smtplib": (b"220 here\r\n", smtp, "smtplib.SMTP(host, port, local_hostname='me').quit()"),
    "imaplib": (b"* OK here\r\n", imap, "imaplib.IMAP4(host, port).logout()"),
    "poplib": (b"+OK here\r\n", lambda _: b"+OK fine\r\n", "poplib.POP3(host, port).quit()"),
}


@pytest.mark.parametrize("library", MAIL)
def test_a_mail_client_reaches_what_the_floor_accepts_and_nothing_else(library, trap):
    greeting, answer, use = MAIL[library]
    with Talk(GOOD, greeting, answer) as good:
        lines = run_guarded(
            f"import {library}\ndef talk(host, port): {use}\nprint(outcome(talk, GOOD, good), outcome(talk, BAD, bad))",
            good=good.port,
            bad=trap(BAD).port,
        )
        assert good.accepted == 1
    assert lines == ["ok denied"]


def test_an_address_that_an_ftp_server_announces_is_judged(trap):
    bad = trap(BAD)
    announced = f"227 Entering Passive Mode ({BAD.replace('.', ',')},{bad.port >> 8},{bad.port & 255})\r\n".encode()

    def ftp(line: bytes) -> bytes:
        return {b"PASV": announced, b"QUIT": b"221 bye\r\n"}.get(line.strip(), b"230 fine\r\n")

    with Talk(GOOD, b"220 here\r\n", ftp) as good:
        lines = run_guarded(
            """
            import ftplib
            ftp = ftplib.FTP()
            ftp.trust_server_pasv_ipv4_address = True
            print(outcome(ftp.connect, GOOD, good), outcome(ftp.login), outcome(ftp.nlst))
            """,
            good=good.port,
        )
    assert lines == ["ok ok denied"]
