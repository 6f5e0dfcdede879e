"""niquests under rules, against real servers on loopback: 127.0.0.2 is allowed and 127.0.0.3 is not.

niquests puts a fork in the place of urllib3, for all of an environment, so this is run in one of its own:
see test_niquests.py.
"""

from __future__ import annotations

import asyncio
import contextvars
import datetime as dt
import pickle
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import niquests
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import AuthorityInformationAccessOID, NameOID
from niquests.exceptions import RequestException

import netjail
from netjail import Rules, use_rules
from netjail.clients.niquests import AsyncSession, DeniedError, Session
from tests.guard.harness import run_guarded
from tests.servers import h2site
from tests.servers.daemon import free_port
from tests.servers.names import AsyncNames, Names
from tests.servers.site import Site
from tests.test_readme import ROOT, Block, blocks

Make = Callable[..., Any]
GOOD = Rules(allow=["127.0.0.2"])
OTHER = Rules(allow=["127.0.0.3"])
LOOPBACK = Rules(allow=["127.0.0.0/8"])


@pytest.fixture(scope="module")
def pages() -> Iterator[Site]:
    with Site("127.0.0.2") as server:
        yield server


@pytest.fixture(scope="module")
def secure(server_tls: Make) -> Iterator[Site]:
    with Site("127.0.0.2", tls=server_tls("good.test")) as server:
        yield server


@pytest.fixture
def trusted(pem: Make) -> str:
    return str(pem("unused.test").ca)


class Sync:
    """A session, and how to have a request from it."""

    name = "sync"

    def __init__(self, rules: Rules | None = GOOD, **options: Any) -> None:
        self.session = Session(rules, **{"resolver": Names(), **options})

    def get(self, *urls: str, **options: Any) -> list[Any]:
        return [self.session.get(url, **options) for url in urls]

    def close(self) -> None:
        self.session.close()

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Async:
    """The same from asyncio, on a loop of its own."""

    name = "async"

    def __init__(self, rules: Rules | None = GOOD, **options: Any) -> None:
        self.runner = asyncio.Runner()
        names: Any = options.pop("resolver", Names())
        resolver = names if isinstance(names, AsyncNames) else AsyncNames(names.table)
        resolver.asked = names.asked

        async def make() -> AsyncSession:
            return AsyncSession(rules, resolver=resolver, **options)

        try:
            self.session = self.runner.run(make())
        except BaseException:
            self.runner.close()
            raise

    def get(self, *urls: str, **options: Any) -> list[Any]:
        async def each() -> list[Any]:
            return [await self.session.get(url, **options) for url in urls]

        return self.runner.run(each(), context=contextvars.copy_context())

    def close(self) -> None:
        self.runner.run(self.session.close())
        self.runner.close()

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@pytest.fixture(params=[Sync, Async], ids=["sync", "async"])
def client(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.mark.parametrize("happy_eyeballs", [False, True])
def test_an_allowed_name_answers_and_a_denied_one_opens_nothing(
    pages: Site, trap: Make, client: Any, happy_eyeballs: bool
) -> None:
    trap("127.0.0.3", port=pages.port)
    with client(happy_eyeballs=happy_eyeballs) as session:
        for host in ("good.test", "127.0.0.2", "mixed.test"):
            assert session.get(pages.url(host=host))[0].content == b"hello"
            assert pages.seen[-1].headers["Host"] == f"{host}:{pages.port}"
        for host in ("bad.test", "127.0.0.3"):
            with pytest.raises(DeniedError) as caught:
                session.get(pages.url(host=host))
            assert isinstance(caught.value, netjail.DeniedError)
            assert isinstance(caught.value, RequestException)
            assert caught.value.request.url == pages.url(host=host)
            again = pickle.loads(pickle.dumps(caught.value))
            assert (type(again), again.host, again.port) == (DeniedError, host, pages.port)


@pytest.mark.parametrize("happy_eyeballs", [False, True])
def test_of_several_addresses_the_accepted_ones_are_dialled(
    pages: Site, trap: Make, client: Any, happy_eyeballs: bool
) -> None:
    trap("127.0.0.3", port=pages.port)
    names = Names({"many.test": ["127.0.0.3", "127.0.0.9", "127.0.0.2"]})
    with client(Rules(allow=["127.0.0.2", "127.0.0.9"]), resolver=names, happy_eyeballs=happy_eyeballs) as session:
        assert session.get(pages.url(host="many.test"))[0].content == b"hello"


def test_tls_checks_the_name_that_was_asked_for(secure: Site, trusted: str, client: Any) -> None:
    with client() as session:
        assert session.get(secure.url(host="good.test"), verify=trusted)[0].content == b"hello"
        with pytest.raises(niquests.exceptions.SSLError, match="wrong"):
            session.get(secure.url(host="wrong.test"), verify=trusted)
    with client() as session, pytest.raises(niquests.exceptions.SSLError):
        session.get(secure.url(host="good.test"))


def test_each_hop_of_a_redirect_is_judged(pages: Site, site: Make, trap: Make, client: Any) -> None:
    trap("127.0.0.3", port=pages.port)
    other = site("127.0.0.2", body=b"other")
    with client() as session:
        assert session.get(pages.url(f"/redirect?to={other.url(host='good.test')}"))[0].content == b"other"
        for host in ("bad.test", "127.0.0.3"):
            with pytest.raises(DeniedError) as caught:
                session.get(pages.url(f"/redirect?to=http://{host}:{pages.port}/", host="good.test"))
            assert caught.value.host == host


def test_no_redirect_leads_to_a_unix_socket(pages: Site, client: Any, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "sock"))
        listener.listen()
        listener.setblocking(False)
        to = "http%2bunix://" + str(tmp_path / "sock").replace("/", "%252F")
        with client() as session:
            with pytest.raises(niquests.exceptions.InvalidSchema):
                session.get(pages.url(f"/redirect?to={to}/"))
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.mark.parametrize("retries", [0, 5])
def test_a_denial_is_looked_up_once_and_leaves_the_session_as_it_was(
    pages: Site, trap: Make, client: Any, retries: int
) -> None:
    listener, names = trap("127.0.0.3"), Names()
    with client(resolver=names, retries=retries, pool_maxsize=1) as session:
        for _ in range(3):
            with pytest.raises(DeniedError):
                session.get(listener.url(host="bad.test"))
        assert len(names.asked) == 3
        assert session.get(pages.url())[0].content == b"hello"


def test_other_rules_never_ride_on_a_kept_connection(site: Make, client: Any) -> None:
    server = site("127.0.0.2")
    with client(None) as session:
        for rules in (GOOD, LOOPBACK, GOOD, Rules(allow=["127.0.0.2/32"]), LOOPBACK):
            with use_rules(rules):
                session.get(server.url(host="good.test"))
        with use_rules(OTHER), pytest.raises(DeniedError):
            session.get(server.url(host="good.test"))
        with pytest.raises(DeniedError, match="no rules are in force"):
            session.get(server.url(host="good.test"))
    assert [seen.connection for seen in server.seen] == [1, 2, 1, 1, 2]


def test_the_context_only_narrows(pages: Site, client: Any) -> None:
    with client(LOOPBACK) as session, use_rules(OTHER), pytest.raises(DeniedError):
        session.get(pages.url())


def test_a_mixed_answer_can_be_refused(pages: Site, trap: Make, client: Any) -> None:
    trap("127.0.0.3", port=pages.port)
    with client(mixed="refuse") as session, pytest.raises(DeniedError):
        session.get(pages.url(host="mixed.test"))


def test_proxies_are_refused(trap: Make, client: Any) -> None:
    proxies = {"http": trap("127.0.0.2").url()}
    with pytest.raises(ValueError, match="proxies="):
        client(proxies=proxies)
    with client() as session:
        with pytest.raises(ValueError, match="proxies="):
            session.get("http://good.test/", proxies=proxies)
        session.session.proxies = proxies
        with pytest.raises(ValueError, match="proxies="):
            session.get("http://good.test/")


def test_the_proxies_of_the_environment_are_not_used(
    pages: Site, trap: Make, monkeypatch: pytest.MonkeyPatch, client: Any
) -> None:
    proxy = trap("127.0.0.2")
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy.url())
    monkeypatch.delenv("no_proxy", raising=False)
    with client(LOOPBACK) as session:
        assert session.get(pages.url(host="good.test"))[0].content == b"hello"
        session.session.trust_env = True
        with pytest.raises(ValueError, match="proxies="):
            session.get(pages.url(host="good.test"))


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # niquests leaves sessions that were not closed to warn
def test_a_session_does_not_pickle() -> None:
    with Sync() as session, pytest.raises(TypeError, match="pickle"):
        pickle.dumps(session.session)
    with Async() as session, pytest.raises(TypeError, match="pickle"):
        pickle.dumps(session.session)


def test_other_errors_are_niquests_own(client: Any) -> None:
    with client() as session:
        for url in (f"http://good.test:{free_port()}/", "http://unknown.test/"):
            with pytest.raises(niquests.exceptions.ConnectionError):
                session.get(url)


def test_a_connect_timeout_covers_the_lookup() -> None:
    over = threading.Event()

    class Slow(Names):
        def lookup(self, host: str, family: int) -> Any:
            over.wait(10)
            return super().lookup(host, family)

    class AsyncSlow(AsyncNames):
        async def lookup(self, host: str, family: int) -> Any:  # type: ignore[override]
            await asyncio.get_running_loop().create_future()

    for session in (Sync(resolver=Slow()), Async(resolver=AsyncSlow())):
        with session, pytest.raises(niquests.exceptions.ConnectionError):
            session.get("http://good.test/", timeout=0.1)
    over.set()


# HTTP/2, requests that wait for each other, and HTTP/3.


def datagrams(address: str, port: int) -> socket.socket:
    """A socket that keeps what is sent to ``address``."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((address, port))
    sock.setblocking(False)
    return sock


def test_quic_goes_to_judged_addresses(client: Any, trusted: str) -> None:
    port = free_port()
    only = {"disable_http1": True, "disable_http2": True}
    with datagrams("127.0.0.2", port) as good, datagrams("127.0.0.3", port) as bad:
        with client(**only) as session:
            with pytest.raises(DeniedError):
                session.get(f"https://bad.test:{port}/", verify=trusted)
            with pytest.raises(DeniedError):
                session.get(f"https://127.0.0.3:{port}/", verify=trusted)
            with pytest.raises(RequestException):  # nobody answers
                session.get(f"https://mixed.test:{port}/", verify=trusted, timeout=0.3)
        assert good.recv(10_000)
        with pytest.raises(BlockingIOError):
            bad.recv(10_000)


class Moved(h2site._Connection):
    """Answers ``/redirect?to=`` too."""

    def _answer(self, number: int, stream: Any) -> None:
        url = urlsplit(stream.headers[":path"])
        if url.path != "/redirect":
            super()._answer(number, stream)
            return
        self._h2.send_headers(number, [(":status", "302"), ("location", parse_qs(url.query)["to"][0])], end_stream=True)


@pytest.fixture
def moving(server_tls: Make, monkeypatch: pytest.MonkeyPatch) -> Iterator[h2site.H2Site]:
    monkeypatch.setattr(h2site, "_Connection", Moved)
    with closing(h2site.H2Site("127.0.0.2", tls=server_tls("good.test", "bad.test", alpn=["h2"]))) as server:
        yield server


@pytest.mark.parametrize("to", ["good.test", "bad.test"])
def test_a_request_that_is_answered_later_stays_under_its_own_rules(
    moving: h2site.H2Site, trap: Make, trusted: str, to: str
) -> None:
    """Whoever gathers the answers follows their redirects, whatever rules are in force there."""
    trap("127.0.0.3", port=moving.port)
    url = moving.url(f"/redirect?to={moving.url(host=to)}", host="good.test")

    def gathered() -> bytes:
        with Session(LOOPBACK, resolver=Names(), multiplexed=True) as session:
            session.verify = trusted
            with use_rules(GOOD):
                answer = session.get(url)
            assert answer.lazy
            with use_rules(LOOPBACK):
                session.gather()
            return bytes(answer.content or b"")

    async def gathered_async() -> bytes:
        async with AsyncSession(LOOPBACK, resolver=AsyncNames(), multiplexed=True) as session:
            session.verify = trusted
            with use_rules(GOOD):
                answer = await session.get(url)
            assert answer.lazy
            with use_rules(LOOPBACK):
                await session.gather(answer)
            content: Any = answer.content
            return bytes(await content if asyncio.iscoroutine(content) else content)

    for gather in (gathered, lambda: asyncio.run(gathered_async())):
        if to == "good.test":
            assert gather() == b"hello"
        else:
            with pytest.raises(DeniedError) as caught:
                gather()
            assert caught.value.host == to


# Revocation: a certificate names the servers to ask, so whoever has it made names what is dialled.


@pytest.fixture(scope="module")
def revocable(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[ssl.SSLContext, str]]:
    """Makes a server's context and its authority's file, for good.test and with a URL of an OCSP responder."""
    folder = tmp_path_factory.mktemp("revocable")
    now = dt.datetime.now(dt.UTC)
    days = dt.timedelta(days=1)

    def signed(subject: str, key: Any, issuer: str, by: Any, *extensions: tuple[Any, bool]) -> x509.Certificate:
        builder = x509.CertificateBuilder().public_key(key.public_key()).serial_number(x509.random_serial_number())
        builder = builder.subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        builder = builder.issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        builder = builder.not_valid_before(now - days).not_valid_after(now + days)
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(by, hashes.SHA256())

    ca_key = ec.generate_private_key(ec.SECP256R1())
    usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
    ca = signed("ca", ca_key, "ca", ca_key, (x509.BasicConstraints(True, None), True), (usage, True))
    (folder / "ca.pem").write_bytes(ca.public_bytes(serialization.Encoding.PEM))

    def make(url: str) -> tuple[ssl.SSLContext, str]:
        key = ec.generate_private_key(ec.SECP256R1())
        access = [
            x509.AccessDescription(method, x509.UniformResourceIdentifier(url))
            for method in (AuthorityInformationAccessOID.OCSP, AuthorityInformationAccessOID.CA_ISSUERS)
        ]
        names = x509.SubjectAlternativeName([x509.DNSName("good.test")])
        leaf = signed("good.test", key, "ca", ca_key, (names, False), (x509.AuthorityInformationAccess(access), False))
        pem, plain = serialization.Encoding.PEM, (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        (folder / "leaf.pem").write_bytes(key.private_bytes(pem, *plain) + leaf.public_bytes(pem))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "leaf.pem")
        return context, str(folder / "ca.pem")

    return make


def checking() -> Any:
    return niquests.RevocationConfiguration()


def test_the_servers_that_a_certificate_names_are_judged(
    pages: Site, site: Make, trap: Make, revocable: Make, client: Any
) -> None:
    trap("127.0.0.3", port=pages.port)
    before = len(pages.seen)
    for host, asked in (("good.test", True), ("bad.test", False), ("127.0.0.3", False)):
        tls, ca = revocable(pages.url(host=host))
        server = site("127.0.0.2", tls=tls)
        with client(revocation_configuration=checking()) as session:
            assert session.get(server.url(host="good.test"), verify=ca)[0].content == b"hello"
        assert (len(pages.seen) > before) is asked
        before = len(pages.seen)


def test_revocation_is_not_checked_unless_asked_for(pages: Site, site: Make, revocable: Make, client: Any) -> None:
    before = len(pages.seen)
    tls, ca = revocable(pages.url())
    with client() as session:
        assert session.get(site("127.0.0.2", tls=tls).url(host="good.test"), verify=ca)[0].content == b"hello"
    assert len(pages.seen) == before


def test_the_plain_sessions_under_a_guard(pages: Site, trap: Make) -> None:
    trap("127.0.0.3", port=pages.port)
    with datagrams("127.0.0.3", pages.port) as bad:
        lines = run_guarded(
            """
            import asyncio, niquests

            def fetch(host):
                assert niquests.get(f"http://{host}:{PORT}/").text == "hello"

            async def fetch_async(host):
                async with niquests.AsyncSession() as session:
                    assert (await session.get(f"http://{host}:{PORT}/")).text == "hello"

            def quic(host):
                with niquests.Session(disable_http1=True, disable_http2=True) as session:
                    session.get(f"https://{host}:{PORT}/", timeout=5)

            for host in ("good.test", "bad.test", BAD):
                print(outcome(fetch, host), outcome(lambda: asyncio.run(fetch_async(host))))
            print(outcome(quic, "bad.test"), outcome(quic, BAD))
            """,
            PORT=pages.port,
        )
        assert lines == ["ok ok", "denied denied", "denied denied", "denied denied"]
        with pytest.raises(BlockingIOError):
            bad.recv(10_000)


@pytest.mark.parametrize(
    "block", blocks(ROOT / "docs" / "clients" / "niquests.md"), ids=lambda block: f"line {block.line}"
)
def test_the_examples_of_its_page_do_what_they_say(block: Block) -> None:
    block.skipped = None
    block.run({"__name__": "example", "PUBLIC": netjail.PUBLIC})
