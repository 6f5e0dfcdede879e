"""smtplib, imaplib, poplib and aiosmtplib under rules: 127.0.0.2 is allowed and 127.0.0.3 is not."""

from __future__ import annotations

import asyncio
import imaplib
import pickle
import poplib
import smtplib
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from email.message import EmailMessage
from functools import partial
from importlib.metadata import version
from typing import Any

import aiosmtplib
import pytest

import netjail
from netjail import Rules, use_rules
from netjail.clients import aiosmtplib as jailed_aiosmtplib
from netjail.clients import imaplib as jailed_imaplib
from netjail.clients import poplib as jailed_poplib
from netjail.clients import smtplib as jailed_smtplib
from tests.guard.harness import run_guarded
from tests.servers import mail
from tests.servers.daemon import free_port
from tests.servers.names import BAD, GOOD, AsyncNames, Names

Make = Callable[..., Any]
RULES = Rules(allow=[GOOD])
OTHER = Rules(allow=[BAD])

pytestmark = pytest.mark.usefixtures("nothing_left_behind")


@pytest.fixture(scope="module")
def servers(pem: Make, tmp_path_factory: pytest.TempPathFactory) -> Iterator[mail.Ports]:
    files = pem("good.test")
    with mail.servers(tmp_path_factory.mktemp("mail"), cert=files.cert, key=files.key) as ports:
        yield ports


def post(client: smtplib.SMTP) -> None:
    with client:
        assert client.sendmail("me@good.test", ["you@good.test"], "Subject: hello\r\n\r\nworld\r\n") == {}


def smtp(host: str, port: int, context: ssl.SSLContext | None = None, **options: Any) -> None:
    with jailed_smtplib.SMTP(host, port, "me.test", resolver=Names(), **options) as client:
        if context is not None:
            client.starttls(context=context)
        assert client.sendmail("me@good.test", ["you@good.test"], "Subject: hello\r\n\r\nworld\r\n") == {}


def smtps(host: str, port: int, context: ssl.SSLContext | None, **options: Any) -> None:
    post(jailed_smtplib.SMTP_SSL(host, port, "me.test", context=context, resolver=Names(), **options))


def lmtp(host: str, port: int, _context: object = None, **options: Any) -> None:
    post(jailed_smtplib.LMTP(host, port, "me.test", resolver=Names(), **options))


def fetch(client: imaplib.IMAP4) -> None:
    with client:
        client.login("me", "secret")
        client.select()
        data: Any = client.fetch("1", "(RFC822)")[1]
        assert data[0][1] == mail.MESSAGE


def imap(host: str, port: int, context: ssl.SSLContext | None = None, **options: Any) -> None:
    client = jailed_imaplib.IMAP4(host, port, resolver=Names(), **options)
    if context is not None:
        try:
            client.starttls(context)
        except ssl.SSLError:
            with suppress(OSError):  # the handshake has closed the socket already
                client.shutdown()
            raise
    fetch(client)


def imaps(host: str, port: int, context: ssl.SSLContext | None, **options: Any) -> None:
    fetch(jailed_imaplib.IMAP4_SSL(host, port, ssl_context=context, resolver=Names(), **options))


def retrieve(client: poplib.POP3) -> None:
    client.user("me")
    client.pass_("secret")
    assert client.stat() == (1, len(mail.MESSAGE))
    assert b"\r\n".join(client.retr(1)[1]) + b"\r\n" == mail.MESSAGE
    client.quit()


def pop(host: str, port: int, context: ssl.SSLContext | None = None, **options: Any) -> None:
    client = jailed_poplib.POP3(host, port, resolver=Names(), **options)
    if context is not None:
        try:
            client.stls(context)
        except ssl.SSLError:
            with suppress(OSError):  # the handshake has closed the socket already
                client.close()
            raise
    retrieve(client)


def pops(host: str, port: int, context: ssl.SSLContext | None, **options: Any) -> None:
    retrieve(jailed_poplib.POP3_SSL(host, port, context=context, resolver=Names(), **options))


def run(coroutine: Any) -> Any:
    """``asyncio.run``, which ends when the loop watches nothing any more: TLS is closed after aiosmtplib says so."""

    async def main() -> Any:
        try:
            return await coroutine
        finally:
            loop: Any = asyncio.get_running_loop()
            async with asyncio.timeout(5):
                while len(loop._selector.get_map()) > 1:  # noqa: ASYNC110 - the one is what wakes it
                    await asyncio.sleep(0)

    return asyncio.run(main())


def asmtp(host: str, port: int, context: ssl.SSLContext | None = None, **options: Any) -> None:
    async def main() -> None:
        client = jailed_aiosmtplib.SMTP(
            hostname=host,
            port=port,
            local_hostname="me.test",
            start_tls=context is not None,
            tls_context=context,
            resolver=AsyncNames(),
            **options,
        )
        async with client:
            await client.sendmail("me@good.test", ["you@good.test"], "Subject: hello\r\n\r\nworld\r\n")

    run(main())


def asmtps(host: str, port: int, context: ssl.SSLContext | None, **options: Any) -> None:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "me@good.test", "you@good.test", "hello"
    run(
        jailed_aiosmtplib.send(
            message,
            hostname=host,
            port=port,
            local_hostname="me.test",
            use_tls=True,
            tls_context=context,
            resolver=AsyncNames(),
            **options,
        )
    )


ROWS = {smtp: "smtplib", smtps: "smtplib", lmtp: "smtplib", imap: "imaplib", imaps: "imaplib"}
ROWS |= {pop: "poplib", pops: "poplib", asmtp: "aiosmtplib", asmtps: "aiosmtplib"}
OURS = {"smtplib": jailed_smtplib, "imaplib": jailed_imaplib, "poplib": jailed_poplib, "aiosmtplib": jailed_aiosmtplib}
THEIRS: dict[str, Any] = {
    "smtplib": smtplib.SMTPException,
    "imaplib": imaplib.IMAP4.error,
    "poplib": poplib.error_proto,
    "aiosmtplib": aiosmtplib.SMTPConnectError,
}


def ways(*proofs: str, but: tuple[Any, ...] = ()) -> Any:
    """Each way to use each library, as a proof for its row."""
    return pytest.mark.parametrize(
        "way",
        [
            pytest.param(way, marks=pytest.mark.proves(row, *proofs), id=way.__name__)
            for way, row in ROWS.items()
            if way not in but
        ],
    )


plainly = ways("allowed", "denied", "literal", but=(smtps, imaps, pops, asmtps))


@plainly
def test_mail_goes_to_an_allowed_name(way: Make, servers: mail.Ports) -> None:
    port = getattr(servers, way.__name__.removeprefix("a"))
    way("good.test", port, rules=RULES)
    way(GOOD, port, rules=RULES)


@ways("tls", "wrong-name", but=(lmtp,))
def test_tls_checks_the_name_that_was_asked_for(way: Make, servers: mail.Ports, client_tls: ssl.SSLContext) -> None:
    port = getattr(servers, way.__name__.removeprefix("a"))
    way("good.test", port, client_tls, rules=RULES)
    with pytest.raises((ssl.SSLCertVerificationError, aiosmtplib.SMTPException), match=r"wrong\.test"):
        way("wrong.test", port, client_tls, rules=RULES)


@pytest.mark.parametrize("way", [smtps, imaps, pops])
def test_tls_is_checked_by_default_although_the_plain_clients_check_nothing(way: Make, servers: mail.Ports) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        way("good.test", getattr(servers, way.__name__), None, rules=RULES)


def test_what_goes_over_to_tls_is_checked_by_default_too(servers: mail.Ports) -> None:
    given: dict[str, Any] = {"rules": RULES, "resolver": Names()}
    client: Any = jailed_smtplib.SMTP("good.test", servers.smtp, "me.test", **given)
    with closing(client), pytest.raises(ssl.SSLCertVerificationError):
        client.starttls()
    client = jailed_imaplib.IMAP4("good.test", servers.imap, **given)
    with pytest.raises(ssl.SSLCertVerificationError):
        client.starttls()
    with suppress(OSError):
        client.shutdown()
    client = jailed_poplib.POP3("good.test", servers.pop, **given)
    with pytest.raises(ssl.SSLCertVerificationError):
        client.stls()
    with suppress(OSError):
        client.close()


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="the plain clients have lost these arguments")
def test_positional_arguments_are_in_the_plain_order_and_tls_is_checked_with_them_too(
    servers: mail.Ports, client_tls: ssl.SSLContext, pem: Make
) -> None:
    given: dict[str, Any] = {"rules": RULES, "resolver": Names()}
    post(jailed_smtplib.SMTP_SSL("good.test", servers.smtps, "me.test", None, None, 5, None, client_tls, **given))
    fetch(jailed_imaplib.IMAP4_SSL("good.test", servers.imaps, None, None, client_tls, 5, **given))
    retrieve(jailed_poplib.POP3_SSL("good.test", servers.pops, None, None, 5, client_tls, **given))
    files = pem("me.test")
    client: Any = jailed_smtplib.SMTP("good.test", servers.smtp, "me.test", **given)
    with closing(client), pytest.raises(ssl.SSLCertVerificationError):
        client.starttls(str(files.key), str(files.cert))
    with pytest.raises(TypeError, match="multiple values"):
        jailed_smtplib.SMTP_SSL("good.test", host="good.test", **given)


def test_a_client_that_connects_later_checks_the_name_that_connect_was_given(
    servers: mail.Ports, client_tls: ssl.SSLContext
) -> None:
    client = jailed_smtplib.SMTP(local_hostname="me.test", rules=RULES, resolver=Names())
    client.connect("good.test", servers.smtp)
    assert client.starttls(context=client_tls)[0] == 220
    client.quit()
    client.connect("wrong.test", servers.smtp)
    with pytest.raises(ssl.SSLCertVerificationError, match=r"wrong\.test"):
        client.starttls(context=client_tls)
    client.close()


def test_aiosmtplibs_default_context_checks_certificates(servers: mail.Ports) -> None:
    with pytest.raises(aiosmtplib.SMTPException, match=r"self-signed|unable to get"):
        asmtps("good.test", servers.smtps, None, rules=RULES)


@ways("denied", "literal")
@pytest.mark.parametrize("host", ["bad.test", BAD])
def test_a_denied_host_is_not_dialled(
    way: Make, host: str, servers: mail.Ports, trap: Make, client_tls: ssl.SSLContext
) -> None:
    row, port = ROWS[way], getattr(servers, way.__name__.removeprefix("a"))
    trap(BAD, port=port)
    with pytest.raises(netjail.DeniedError) as caught:
        way(host, port, client_tls, rules=RULES)
    assert type(caught.value) is OURS[row].DeniedError
    assert isinstance(caught.value, THEIRS[row])
    assert (caught.value.host, caught.value.port) == (host, port)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), str(again)) == (type(caught.value), str(caught.value))
    assert str(again).startswith("netjail denied")


@plainly
def test_the_context_counts_and_only_narrows(way: Make, servers: mail.Ports, trap: Make) -> None:
    port = getattr(servers, way.__name__.removeprefix("a"))
    trap(BAD, port=port)
    with use_rules(RULES):
        way("mixed.test", port)
        with pytest.raises(netjail.DeniedError, match="not every one"):
            way("mixed.test", port, mixed="refuse")
    with use_rules(OTHER), pytest.raises(netjail.DeniedError):
        way("good.test", port, rules=RULES)
    with pytest.raises(netjail.DeniedError, match="no rules are in force"):
        way("good.test", port)


@plainly
def test_connect_and_a_dead_address_are_the_dialers(way: Make, servers: mail.Ports) -> None:
    port = getattr(servers, way.__name__.removeprefix("a"))
    dialled: list[Any] = []

    def connect(address: Any, *, timeout: float | None) -> socket.socket:
        dialled.append((address, timeout is not None))
        return socket.create_connection(address, timeout)

    async def aconnect(address: Any) -> socket.socket:
        sock = connect(address, timeout=5)
        sock.setblocking(False)
        return sock

    way("good.test", port, rules=RULES, timeout=5, connect=aconnect if way is asmtp else connect)
    assert dialled == [((GOOD, port), True)]


@plainly
def test_a_refused_connection_and_an_unknown_name_stay_the_librarys_own(way: Make, servers: mail.Ports) -> None:
    port = free_port()
    with pytest.raises(OSError) as caught:
        way("good.test", port, rules=RULES)
    assert type(caught.value) is (aiosmtplib.SMTPConnectError if way is asmtp else ConnectionRefusedError)
    with pytest.raises(OSError) as caught:
        way("unknown.test", port, rules=RULES)
    assert type(caught.value) is (aiosmtplib.SMTPConnectError if way is asmtp else socket.gaierror)


class Endless(Names):
    """A resolver that does not answer before the test is over."""

    def __init__(self) -> None:
        super().__init__()
        self.over = threading.Event()

    def lookup(self, host: str, family: int) -> Any:
        self.over.wait(30)
        return super().lookup(host, family)


class AsyncEndless(AsyncNames):
    async def lookup(self, host: str, family: int) -> Any:  # type: ignore[override]
        await asyncio.Event().wait()


@pytest.mark.parametrize("kind", [jailed_smtplib.SMTP, jailed_imaplib.IMAP4, jailed_poplib.POP3])
def test_the_timeout_covers_the_lookup(kind: Any) -> None:
    names = Endless()
    with pytest.raises(TimeoutError):
        kind("good.test", 1, timeout=0.05, rules=RULES, resolver=names)
    names.over.set()


def test_the_timeout_of_aiosmtplib_covers_the_lookup() -> None:
    client = jailed_aiosmtplib.SMTP(hostname="good.test", timeout=0.05, rules=RULES, resolver=AsyncEndless())
    with pytest.raises(aiosmtplib.SMTPConnectTimeoutError):
        run(client.connect(local_hostname="me.test"))


@pytest.mark.parametrize("kind", [jailed_smtplib.SMTP, jailed_imaplib.IMAP4, jailed_poplib.POP3])
def test_a_timeout_of_nothing_is_refused_as_ever(kind: Any) -> None:
    with pytest.raises(ValueError, match="Non-blocking"):
        kind("good.test", 1, timeout=0, rules=RULES, resolver=Names())


def test_a_client_reads_the_rules_each_time_it_connects(servers: mail.Ports, trap: Make) -> None:
    trap(BAD, port=servers.smtp)
    client = jailed_smtplib.SMTP(local_hostname="me.test", resolver=Names())
    with use_rules(RULES):
        assert client.connect("good.test", servers.smtp)[0] == 220
        client.quit()
        with pytest.raises(jailed_smtplib.DeniedError):
            client.connect("bad.test", servers.smtp)
    with pytest.raises(jailed_smtplib.DeniedError):
        client.connect("good.test", servers.smtp)


def test_a_port_in_the_host_is_read_as_ever(servers: mail.Ports) -> None:
    with jailed_smtplib.SMTP(f"good.test:{servers.smtp}", local_hostname="me.test", rules=RULES, resolver=Names()) as c:
        assert c.noop()[0] == 250


def test_the_source_address_is_used(servers: mail.Ports) -> None:
    with jailed_smtplib.SMTP(
        "good.test", servers.smtp, "me.test", source_address=("127.0.0.1", 0), rules=RULES, resolver=Names()
    ) as client:
        assert client.sock is not None
        assert client.sock.getsockname()[0] == "127.0.0.1"


def test_imap_without_a_host_is_localhost(trap: Make, servers: mail.Ports) -> None:
    with pytest.raises(jailed_imaplib.DeniedError) as caught:
        jailed_imaplib.IMAP4(port=trap("127.0.0.1").port, rules=RULES, resolver=Names({"localhost": ["127.0.0.1"]}))
    assert caught.value.host == "localhost"
    with pytest.raises(ssl.SSLCertVerificationError):
        jailed_imaplib.IMAP4_SSL(port=servers.imaps, rules=RULES, resolver=Names({"localhost": [GOOD]}))


@pytest.mark.proves("smtplib", "refused")
def test_lmtp_to_a_unix_socket_is_denied(tmp_path: Any) -> None:
    everything = Rules(allow=["0.0.0.0/0", "::/0"])
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "lmtp"))
        listener.listen()
        listener.setblocking(False)
        with pytest.raises(jailed_smtplib.DeniedError, match="unix socket"):
            jailed_smtplib.LMTP(str(tmp_path / "lmtp"), local_hostname="me.test", rules=everything)
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.mark.proves("aiosmtplib", "refused")
@pytest.mark.parametrize("late", [False, True])
def test_aiosmtplib_to_a_unix_socket_is_denied(tmp_path: Any, late: bool) -> None:
    options: dict[str, Any] = {"socket_path": str(tmp_path / "smtp"), "local_hostname": "me.test"}
    client = jailed_aiosmtplib.SMTP(rules=Rules(allow=["0.0.0.0/0", "::/0"]), **({} if late else options))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "smtp"))
        listener.listen()
        listener.setblocking(False)
        with pytest.raises(jailed_aiosmtplib.DeniedError, match="unix socket"):
            run(client.connect(**(options if late else {})))
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_a_denial_of_aiosmtplib_says_what_it_says_under_aiosmtplibs_name_too() -> None:
    with pytest.raises(jailed_aiosmtplib.DeniedError) as caught:
        asmtp("good.test", 25)
    assert caught.value.message == str(caught.value)


def test_aiosmtplib_connects_again_and_anew(servers: mail.Ports, trap: Make) -> None:
    trap(BAD, port=servers.smtp)

    async def main() -> None:
        client = jailed_aiosmtplib.SMTP(
            port=servers.smtp, local_hostname="me.test", start_tls=False, resolver=AsyncNames()
        )
        with use_rules(RULES):
            for _ in range(2):
                await client.connect(hostname="good.test")
                await client.noop()
                await client.quit()
            with pytest.raises(jailed_aiosmtplib.DeniedError):
                await client.connect(hostname="bad.test")
            await client.connect(hostname="good.test")
            client.close()
        with pytest.raises(jailed_aiosmtplib.DeniedError):
            await client.connect()

    run(main())


def test_aiosmtplib_over_a_connected_socket_passes(servers: mail.Ports) -> None:
    async def main() -> None:
        sock = socket.create_connection((GOOD, servers.smtp))
        sock.setblocking(False)
        async with jailed_aiosmtplib.SMTP(sock=sock, local_hostname="me.test", start_tls=False) as client:
            await client.noop()

    run(main())


@pytest.mark.parametrize(
    "resolver",
    [
        pytest.param(AsyncEndless(), id="while it looks up"),
        pytest.param(
            AsyncNames(),
            id="once it has dialled",
            marks=pytest.mark.skipif(
                tuple(map(int, version("aiosmtplib").split("."))) < (5, 1, 3),
                reason="aiosmtplib itself leaves the connection open before 5.1.3",
            ),
        ),
    ],
)
def test_a_cancelled_connect_of_aiosmtplib_leaves_nothing(resolver: Any) -> None:
    async def main() -> None:
        with socket.create_server((GOOD, 0)) as silent:
            client = jailed_aiosmtplib.SMTP(
                hostname="good.test",
                port=silent.getsockname()[1],
                local_hostname="me.test",
                rules=RULES,
                resolver=resolver,
            )
            task = asyncio.ensure_future(client.connect())
            await asyncio.sleep(0)
            while type(resolver) is AsyncNames and client.transport is None:  # noqa: ASYNC110 - till it awaits a greeting
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not client.is_connected

    run(main())


@pytest.mark.parametrize("raw", ["Subject: hello\r\n\r\nworld\r\n", b"Subject: hello\r\n\r\nworld\r\n"])
def test_send_takes_raw_messages_as_ever(raw: Any, servers: mail.Ports) -> None:
    send = partial(
        jailed_aiosmtplib.send,
        raw,
        hostname="good.test",
        port=servers.smtp,
        local_hostname="me.test",
        start_tls=False,
        rules=RULES,
        resolver=AsyncNames(),
    )
    errors, said = run(send(sender="me@good.test", recipients=["raw@good.test"]))
    assert errors == {}
    assert said.endswith("for raw@good.test")
    for missing in ({"sender": "me@good.test"}, {"recipients": "you@good.test"}):
        with pytest.raises(ValueError, match="must be provided with raw messages"):
            run(send(**missing))


GUARDED = {
    "smtplib": "smtplib.SMTP(host, port, 'me.test').quit()",
    "imaplib": "imaplib.IMAP4(host, port).logout()",
    "poplib": "poplib.POP3(host, port).quit()",
    "aiosmtplib": """asyncio.run(
        aiosmtplib.send('hello', sender='a@b.c', recipients='d@e.f', hostname=host, port=port, start_tls=False))""",
}


@pytest.mark.parametrize(
    "library",
    [
        pytest.param(name, marks=pytest.mark.proves(f"{name}, guard", "allowed", "denied", "literal"))
        for name in GUARDED
    ],
)
def test_the_plain_libraries_are_judged_under_the_guard(library: str, servers: mail.Ports, trap: Make) -> None:
    port = getattr(servers, library.removeprefix("aio").removesuffix("lib"))
    trap(BAD, port=port)
    lines = run_guarded(
        f"""
import asyncio, {library}
def talk(host): {GUARDED[library]}
print(outcome(talk, "good.test"), outcome(talk, "bad.test"), outcome(talk, BAD))
""",
        port=port,
    )
    assert lines == ["ok denied denied"]
