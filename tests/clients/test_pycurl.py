"""pycurl under rules, against real servers on loopback: 127.0.0.2 is allowed and 127.0.0.3 is not."""

from __future__ import annotations

import asyncio
import gc
import pickle
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import trustme

import netjail
from netjail import Rules, use_rules
from tests.servers.names import BAD, GOOD, TABLE

pycurl: Any = pytest.importorskip("pycurl")
from netjail.clients.pycurl import AsyncCurlMulti, Curl, CurlMulti, DeniedError  # noqa: E402

Make = Callable[..., Any]
RULES = Rules(allow=[GOOD])
OTHERS = Rules(allow=[GOOD, "127.9.0.0/16"])

pytestmark = pytest.mark.usefixtures("nothing_left_behind")
proves = pytest.mark.proves


@pytest.fixture
def anyio_backend() -> Any:
    return ("asyncio", {"use_uvloop": False})


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    yield
    gc.collect()


def handle(port: int, rules: Rules | None = RULES, **options: Any) -> Any:
    """A handle for which the names of the tests resolve at ``port``."""
    curl = Curl(rules)
    curl.setopt(pycurl.RESOLVE, [f"{name}:{port}:{','.join(answer)}" for name, answer in TABLE.items()])
    curl.setopt(pycurl.TIMEOUT, 20)
    for name, value in options.items():
        curl.setopt(getattr(pycurl, name), value)
    return curl


def get(curl: Any, url: str) -> bytes:
    curl.setopt(pycurl.URL, url)
    return curl.perform_rb()  # type: ignore[no-any-return]


@contextmanager
def closing(curl: Any) -> Iterator[Any]:
    try:
        yield curl
    finally:
        curl.close()


@proves("pycurl", "allowed", "denied")
@proves("pycurl", "literal")
def test_what_the_rules_accept_is_fetched_and_nothing_else_is_dialled(site: Make, trap: Make) -> None:
    server = site(GOOD)
    forbidden = trap(BAD, port=server.port)
    with closing(handle(server.port)) as curl:
        for host in ("good.test", GOOD):
            assert get(curl, server.url(host=host)) == b"hello"
        for host in ("bad.test", BAD, f"[::ffff:{BAD}]", "0x7f000003", "2130706435"):
            with pytest.raises(DeniedError):
                get(curl, forbidden.url(host=host))
        assert get(curl, server.url(host="good.test")) == b"hello"
        assert curl.denied is None
    assert server.accepted == 2


def test_a_name_with_one_denied_address_reaches_the_other(site: Make, trap: Make) -> None:
    server = site(GOOD)
    trap(BAD, port=server.port)
    with closing(handle(server.port)) as curl:
        assert get(curl, server.url(host="mixed.test")) == b"hello"
        assert curl.denied is None


def test_when_accepted_addresses_fail_the_error_is_pycurls_own(trap: Make) -> None:
    forbidden = trap(BAD)
    with closing(handle(forbidden.port)) as curl:
        with pytest.raises(pycurl.error) as caught:
            get(curl, forbidden.url(host="mixed.test"))
    assert not isinstance(caught.value, netjail.DeniedError)
    assert caught.value.args[0] == pycurl.E_COULDNT_CONNECT


def test_a_denial_names_the_host_and_never_its_address(trap: Make) -> None:
    forbidden = trap(BAD)
    with closing(handle(forbidden.port)) as curl:
        with pytest.raises(pycurl.error) as caught:
            get(curl, forbidden.url(host="bad.test"))
    error = caught.value
    assert type(error) is DeniedError
    assert isinstance(error, PermissionError)
    assert (error.host, error.port) == ("bad.test", forbidden.port)
    assert [str(decision.address) for decision in error.decisions] == [BAD]
    assert BAD not in f"{error} {error.__cause__}"
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is DeniedError
    assert str(again) == str(error)


@pytest.mark.parametrize("perform", ["perform", "perform_rb", "perform_rs"])
def test_every_way_to_perform_is_judged(trap: Make, perform: str) -> None:
    forbidden = trap(BAD)
    with closing(handle(forbidden.port, URL=forbidden.url())) as curl:
        with pytest.raises(DeniedError):
            getattr(curl, perform)()
        assert type(curl.denied) is DeniedError


def test_the_rules_are_those_given_and_those_of_the_context_of_each_perform(site: Make) -> None:
    server = site(GOOD)
    with closing(handle(server.port, None)) as curl:
        with pytest.raises(DeniedError, match="no rules are in force"):
            get(curl, server.url())
        with use_rules(RULES):
            assert get(curl, server.url()) == b"hello"
        with use_rules(Rules(allow=[BAD])), pytest.raises(DeniedError):
            get(curl, server.url())
    with closing(handle(server.port)) as curl, use_rules(Rules(allow=[BAD])), pytest.raises(DeniedError):
        get(curl, server.url())
    assert server.accepted == 1


def test_rules_that_accept_nothing_have_no_name_looked_up() -> None:
    curl = Curl(Rules())
    curl.setopt(pycurl.URL, "http://no-such-name.test/")
    with closing(curl), pytest.raises(DeniedError, match=r"'no-such-name.test' port 80:"):
        curl.perform()
    curl = Curl(Rules())
    curl.setopt_string(pycurl.URL, "https://no-such-name.test/")
    with closing(curl), pytest.raises(DeniedError, match=r"'no-such-name.test' port 443:"):
        curl.perform()


def test_what_is_no_rule_set_is_asked_about_addresses_and_not_about_names(site: Make) -> None:
    asked: list[str] = []

    class ByAddress:
        def rules_for(self, host: str, port: int) -> Rules:
            asked.append(host)
            return RULES if host == GOOD else Rules()

    server = site(GOOD)
    rules: Any = ByAddress()
    with closing(handle(server.port, rules)) as curl:
        assert get(curl, server.url(host="good.test")) == b"hello"
    assert asked == [GOOD]


@proves("pycurl", "pools")
def test_connections_are_kept_and_each_belongs_to_its_rules(site: Make) -> None:
    server = site(GOOD)
    with closing(handle(server.port, None)) as curl:
        for rules in (RULES, OTHERS, RULES, OTHERS, Rules(allow=[f"{GOOD}/32"])):
            with use_rules(rules):
                get(curl, server.url())
    seen = [each.connection for each in server.seen]
    assert seen[0] == seen[2] == seen[4]
    assert seen[1] == seen[3] != seen[0]


def test_a_redirect_within_a_transfer_takes_no_connection_of_other_rules(site: Make) -> None:
    server = site(GOOD)
    with closing(handle(server.port, None, FOLLOWLOCATION=1)) as curl:
        with use_rules(RULES):
            get(curl, server.url())
        with use_rules(OTHERS):
            get(curl, server.url(f"/redirect?to={server.url(host='good.test')}"))
    assert server.seen[0].connection not in [each.connection for each in server.seen[1:]]


@proves("pycurl", "announced")
@pytest.mark.parametrize("host", ["bad.test", BAD])
def test_a_redirect_is_judged(site: Make, trap: Make, host: str) -> None:
    server = site(GOOD)
    forbidden = trap(BAD, port=server.port)
    with closing(handle(server.port, FOLLOWLOCATION=1)) as curl:
        with pytest.raises(DeniedError) as caught:
            get(curl, server.url(f"/redirect?to={forbidden.url(host=host)}", host="good.test"))
    assert caught.value.host == host
    assert server.accepted == 1


class _Ftp(socketserver.StreamRequestHandler):
    """An FTP server that announces an address for its data, and has none."""

    def handle(self) -> None:
        answers = {
            b"USER": "331 and the password?",
            b"PWD": '257 "/"',
            b"EPSV": "500 only the old way",
            b"PASV": "227 Entering Passive Mode ({},{},{})".format(
                BAD.replace(".", ","),
                *divmod(self.server.announced, 256),  # type: ignore[attr-defined]
            ),
        }
        self.wfile.write(b"220 here\r\n")
        for line in self.rfile:
            self.wfile.write(answers.get(line.split()[0].upper(), "200 fine").encode() + b"\r\n")


@proves("pycurl", "announced")
def test_an_address_that_an_ftp_server_announces_is_judged(trap: Make) -> None:
    server = socketserver.ThreadingTCPServer((GOOD, 0), _Ftp)
    server.announced = trap(BAD).port  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        with closing(handle(server.server_address[1])) as curl:
            url = f"ftp://{GOOD}:{server.server_address[1]}/file"
            with pytest.raises(pycurl.error) as caught:
                get(curl, url)
            assert caught.value.args[0] == pycurl.E_UNSUPPORTED_PROTOCOL
            curl.setopt(pycurl.PROTOCOLS, pycurl.PROTO_FTP)
            curl.setopt(137, 0)  # FTP_SKIP_PASV_IP, which pycurl does not name: take the address that is announced
            with pytest.raises(DeniedError):
                get(curl, url)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_where_connect_to_leads_is_judged(site: Make, trap: Make) -> None:
    server, forbidden = site(GOOD), trap(BAD)
    with closing(handle(server.port, CONNECT_TO=[f"::{BAD}:{forbidden.port}"])) as curl:
        with pytest.raises(DeniedError):
            get(curl, server.url())


@proves("pycurl", "tls", "wrong-name")
def test_tls_checks_the_name(site: Make, server_tls: Make, pem: Make) -> None:
    server = site(GOOD, tls=server_tls("good.test"))
    with closing(handle(server.port, CAINFO=str(pem("good.test").ca))) as curl:
        assert get(curl, server.url(host="good.test")) == b"hello"
        with pytest.raises(pycurl.error) as caught:
            get(curl, server.url(host="wrong.test"))
    assert caught.value.args[0] in (pycurl.E_PEER_FAILED_VERIFICATION, 60)


@pytest.mark.skipif("ngtcp2" not in pycurl.version, reason="this libcurl has no HTTP/3")
def test_http3_sends_no_datagram_to_what_is_denied() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as denied, socket.socket(type=socket.SOCK_DGRAM) as allowed:
        denied.bind((BAD, 0))
        allowed.bind((GOOD, 0))
        with closing(handle(1, HTTP_VERSION=pycurl.CURL_HTTP_VERSION_3ONLY, TIMEOUT_MS=300)) as curl:
            with pytest.raises(pycurl.error) as caught:
                get(curl, f"https://{GOOD}:{allowed.getsockname()[1]}/")
            assert not isinstance(caught.value, DeniedError)
            with pytest.raises(DeniedError):
                get(curl, f"https://{BAD}:{denied.getsockname()[1]}/")
        allowed.setblocking(False)
        denied.setblocking(False)
        assert allowed.recv(2000)
        with pytest.raises(BlockingIOError):
            denied.recv(2000)


@proves("pycurl", "refused")
@pytest.mark.parametrize(
    ("option", "value"),
    [
        (10004, f"http://{GOOD}:3128"),
        (10262, f"socks5://{GOOD}:1080"),
        (10231, "/var/run/docker.sock"),
        (10264, "docker"),
        (10279, f"https://{GOOD}/dns-query"),
        (10211, GOOD),
        (20163, lambda *_: -1),
        (20163, None),
        (10318, "all"),
        (10319, "all"),
        (181, -1),
        (182, -1),
        (181, 1 << 7),
    ],
)
def test_what_would_dial_past_the_rules_is_refused(option: int, value: Any) -> None:
    with closing(Curl(RULES)) as curl:
        with pytest.raises(ValueError):
            curl.setopt(option, value)
        if isinstance(value, str):
            with pytest.raises(ValueError):
                curl.setopt_string(option, value)


@proves("pycurl", "refused")
def test_a_share_is_refused_as_connections_of_other_rules_may_lie_in_it() -> None:
    with closing(Curl(RULES)) as curl, pytest.raises(ValueError):
        curl.setopt(pycurl.SHARE, pycurl.CurlShare())


@proves("pycurl", "refused")
def test_no_proxy_of_the_environment_is_used(site: Make, trap: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    server, proxy = site(GOOD), trap(GOOD)
    for name in ("http_proxy", "https_proxy", "all_proxy", "ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, f"http://{GOOD}:{proxy.port}")
    with closing(handle(server.port)) as curl:
        assert get(curl, server.url()) == b"hello"
        for undo in (lambda: curl.unsetopt(pycurl.PROXY), lambda: curl.setopt(pycurl.PROXY, None), curl.reset):
            undo()
            assert get(curl, server.url()) == b"hello"


def test_rules_stay_when_a_handle_is_reset_or_duplicated(site: Make, trap: Make) -> None:
    server, forbidden = site(GOOD), trap(BAD)
    with closing(handle(server.port)) as curl, closing(curl.duphandle()) as twin:
        curl.reset()
        curl.unsetopt(20163)
        for each in (curl, twin):
            assert get(each, server.url()) == b"hello"
            with pytest.raises(DeniedError):
                get(each, forbidden.url())
            with pytest.raises(pycurl.error, match="disabled"):
                get(each, "file:///etc/hostname")
    assert server.accepted == 2


def test_protocols_can_be_widened_and_go_back(tmp_path: Any) -> None:
    path = tmp_path / "page"
    path.write_bytes(b"a page")
    with closing(Curl(RULES)) as curl:
        curl.setopt(pycurl.PROTOCOLS, pycurl.PROTO_HTTPS | pycurl.PROTO_FILE)
        assert get(curl, path.as_uri()) == b"a page"
        curl.setopt(pycurl.PROTOCOLS, None)
        with pytest.raises(pycurl.error, match="disabled"):
            get(curl, path.as_uri())


def run(multi: Any) -> list[Any]:
    """What ``multi`` reports when all of its transfers are over."""
    failed = []
    while True:
        _, active = multi.perform()
        while True:
            queued, _, bad = multi.info_read()
            failed += bad
            if not queued:
                break
        if not active:
            return failed
        multi.select(1)


def added(multi: Any, *handles: Any) -> list[Any]:
    for each in handles:
        multi.add_handle(each)
    failed = run(multi)
    for each in handles:
        multi.remove_handle(each)
    return failed


@proves("pycurl", "pools")
def test_in_a_multi_handles_share_connections_under_equal_rules_only(site: Make, trap: Make) -> None:
    server, forbidden = site(GOOD), trap(BAD)
    one = handle(server.port, None, URL=server.url(), WRITEFUNCTION=lambda _: None)
    two = one.duphandle()
    bad = handle(forbidden.port, None, URL=forbidden.url(host="bad.test"))
    multi = CurlMulti()
    for rules in (RULES, OTHERS):
        with use_rules(rules):
            assert [failed for failed, *_ in added(multi, one, bad)] == [bad]
            assert added(multi, two) == []
            assert (bad.denied.host, bad.denied.port) == ("bad.test", forbidden.port)
    seen = [each.connection for each in server.seen]
    assert seen[0] == seen[1] != seen[2] == seen[3]
    with pytest.raises(DeniedError, match="no rules"):
        multi.add_handle(one)
    with pytest.raises(TypeError, match="not under rules"):
        multi.add_handle(pycurl.Curl())
    for each in (one, two, bad, multi):
        each.close()


@pytest.mark.skipif(not hasattr(pycurl.Curl, "multi"), reason="this pycurl leaves the handle where it was")
def test_a_handle_left_in_a_closed_multi_is_bound_to_nothing(site: Make) -> None:
    server = site(GOOD)
    curl = handle(server.port, URL=server.url(), WRITEFUNCTION=lambda _: None)
    multi = CurlMulti()
    multi.add_handle(curl)
    run(multi)
    multi.close()
    plain = pycurl.CurlMulti()
    assert [code for _, code, _ in added(plain, curl)] == [pycurl.E_COULDNT_CONNECT]
    plain.close()
    curl.close()
    assert server.accepted == 1


def test_in_a_plain_multi_nothing_is_dialled_and_no_connection_lent(site: Make) -> None:
    server = site(GOOD)
    multi = pycurl.CurlMulti()
    plain = pycurl.Curl()
    plain.setopt(pycurl.URL, server.url())
    plain.setopt(pycurl.PROXY, "")
    plain.setopt(pycurl.WRITEFUNCTION, lambda _: None)
    with closing(handle(server.port, URL=server.url(), WRITEFUNCTION=lambda _: None)) as curl:
        curl.perform()
        assert added(multi, plain) == []
        assert [code for _, code, _ in added(multi, curl)] == [pycurl.E_COULDNT_CONNECT]
    plain.close()
    multi.close()
    assert server.accepted == 2


@pytest.mark.skipif(not hasattr(pycurl, "AsyncCurlMulti"), reason="from pycurl 7.49 on")
@pytest.mark.anyio
@proves("pycurl, async", "allowed", "denied", "pools")
async def test_async_transfers_go_by_the_rules_of_their_task(site: Make, trap: Make) -> None:
    server = site(GOOD)
    forbidden = trap(BAD, port=server.port)
    async with AsyncCurlMulti() as multi:

        async def fetch(rules: Rules, host: str) -> bytes:
            got: list[bytes] = []
            with use_rules(rules), closing(handle(server.port, None, WRITEFUNCTION=got.append)) as curl:
                curl.setopt(pycurl.URL, server.url(host=host))
                await multi.perform(curl)
            return b"".join(got)

        for rules in (RULES, OTHERS, RULES):
            assert await fetch(rules, "good.test") == b"hello"
        both = await asyncio.gather(fetch(RULES, "good.test"), fetch(RULES, "bad.test"), return_exceptions=True)
        assert both[0] == b"hello"
        assert isinstance(both[1], DeniedError)
        assert both[1].host == "bad.test"
        with pytest.raises(TypeError):
            await multi.perform(pycurl.Curl())
    seen = [each.connection for each in server.seen]
    assert seen[0] == seen[2] != seen[1]
    assert not forbidden.accepted


@pytest.mark.skipif(not hasattr(pycurl, "AsyncCurlMulti"), reason="from pycurl 7.49 on")
@pytest.mark.anyio
@proves("pycurl, async", "tls", "wrong-name", "literal", "announced")
async def test_async_tls_checks_the_name_and_redirects_are_judged(
    site: Make, trap: Make, server_tls: Make, pem: Make
) -> None:
    server = site(GOOD, tls=server_tls("good.test"))
    forbidden = trap(BAD)
    got: list[bytes] = []
    options: Any = {"CAINFO": str(pem("good.test").ca), "FOLLOWLOCATION": 1, "WRITEFUNCTION": got.append}
    async with AsyncCurlMulti() as multi:
        with closing(handle(server.port, **options)) as curl:
            curl.setopt(pycurl.URL, server.url(host="good.test"))
            await multi.perform(curl)
            assert got == [b"hello"]
            curl.setopt(pycurl.URL, server.url(host="wrong.test"))
            with pytest.raises(pycurl.error) as caught:
                await multi.perform(curl)
            assert caught.value.args[0] == 60
            for url in (forbidden.url(), server.url(f"/redirect?to={forbidden.url()}", host="good.test")):
                curl.setopt(pycurl.URL, url)
                with pytest.raises(DeniedError):
                    await multi.perform(curl)


@pytest.mark.skipif(not hasattr(pycurl, "AsyncCurlMulti"), reason="from pycurl 7.49 on")
@pytest.mark.anyio
async def test_a_cancelled_transfer_leaves_the_handle_bound_to_nothing(site: Make) -> None:
    server = site(GOOD)
    async with AsyncCurlMulti() as multi:
        with closing(handle(server.port, URL=server.url("/stall"), WRITEFUNCTION=lambda _: None)) as curl:
            future = multi.add_handle(curl)
            while not server.seen:  # noqa: ASYNC110 - the server tells nobody
                await asyncio.sleep(0.001)
            future.cancel()
            with pytest.raises(asyncio.CancelledError):
                await future
            await asyncio.sleep(0)  # pycurl takes the handle out in the next round of the loop
            curl.setopt(pycurl.URL, server.url())
            assert await multi.perform(curl) is curl


def test_a_certificate_authority_is_what_plain_pycurl_takes(ca: trustme.CA, site: Make, server_tls: Make) -> None:
    server = site(GOOD, tls=server_tls("good.test"))
    with closing(handle(server.port)) as curl:
        curl.set_ca_certs(ca.cert_pem.bytes().decode())
        assert get(curl, server.url(host="good.test")) == b"hello"
