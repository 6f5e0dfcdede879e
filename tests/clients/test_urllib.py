"""urllib.request and http.client under rules: what they reach, what they refuse, and with which errors."""

from __future__ import annotations

import base64
import http.client
import http.server
import json
import pickle
import socket
import socketserver
import ssl
import sys
import threading
import urllib.error
import urllib.request
from typing import Any, ClassVar

import pytest

import netjail
from netjail import Rules, use_rules
from netjail.clients.urllib import DeniedError, HTTPConnection, HTTPSConnection, build_opener, urlopen
from tests.servers.names import Names

GOOD = Rules(allow=["127.0.0.2"])
BOTH = Rules(allow=["127.0.0.2", "127.0.0.3"])
NAMES = {"good.test": ["127.0.0.2"], "bad.test": ["127.0.0.3"]}

pytestmark = pytest.mark.usefixtures("nothing_left_behind")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def read(opener: Any, url: Any, *args: Any, **options: Any) -> Any:
    """The whole answer to a request."""
    with opener.open(url, *args, **options) as response:
        return response.read()


def to(site: Any) -> tuple[Any, list[Any]]:
    """A stand-in for the network: whatever address is dialled, ``site`` answers; and what was dialled."""
    dialled: list[Any] = []

    def connect(address: Any, *, timeout: float | None) -> socket.socket:
        dialled.append(address)
        return socket.create_connection((site.address, site.port), timeout)

    return connect, dialled


def answering(answer: Any) -> Any:
    """A server on 127.0.0.2 that answers as the function ``answer(handler)`` does, and its port; to be shut down."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            answer(self)

        def log_message(self, *args):
            pass

    server = socketserver.ThreadingTCPServer(("127.0.0.2", 0), Handler)  # http.server's own looks its address up
    threading.Thread(target=server.serve_forever, args=(0.01,)).start()
    return server


# What is accepted works as in urllib.


@pytest.mark.proves("urllib", "allowed")
def test_an_accepted_literal_and_an_accepted_name_are_fetched(site):
    good = site("127.0.0.2")
    opener = build_opener(GOOD, resolver=Names(NAMES))
    assert read(opener, good.url()) == read(opener, good.url(host="good.test")) == b"hello"
    assert [seen.headers["Host"] for seen in good.seen] == [f"127.0.0.2:{good.port}", f"good.test:{good.port}"]


def test_urlopen_takes_what_the_plain_one_takes(site):
    good = site("127.0.0.2")
    request = urllib.request.Request(good.url("/echo", "good.test"), headers={"X-Mine": "1"}, method="PUT")
    with urlopen(request, b"body", 5, rules=GOOD, resolver=Names(NAMES)) as response:
        echo = json.loads(response.read())
        assert isinstance(response, http.client.HTTPResponse)
        assert response.url == request.full_url
    assert (echo["method"], echo["body"], echo["headers"]["X-Mine"]) == ("PUT", "body", "1")


def test_urlopen_without_a_resolver_asks_the_system(site):
    """Twice, as the second call finds the first one's opener."""
    good = site("127.0.0.2")
    for _ in range(2):
        with urlopen(good.url(), rules=GOOD) as response:
            assert response.read() == b"hello"
    with pytest.raises(DeniedError):
        urlopen(good.url(), rules=Rules(allow=["127.0.0.3"]))


def test_an_opener_can_be_installed_as_the_process_wide_one(site, trap):
    good, bad = site("127.0.0.2"), trap("127.0.0.3")
    before = urllib.request._opener  # type: ignore[attr-defined]
    urllib.request.install_opener(build_opener(GOOD))
    try:
        with urllib.request.urlopen(good.url()) as response:
            assert response.read() == b"hello"
        with pytest.raises(urllib.error.URLError):
            urllib.request.urlopen(bad.url())
    finally:
        urllib.request.install_opener(before)


def test_bodies_stream_both_ways(site):
    good = site("127.0.0.2")
    opener = build_opener(GOOD)
    upload = urllib.request.Request(good.url("/echo"), data=iter([b"one ", b"two"]), method="POST")
    assert json.loads(read(opener, upload))["body"] == "one two"
    with opener.open(good.url("/stream?n=100")) as response:
        assert sum(len(chunk) for chunk in iter(lambda: response.read(777), b"")) == 100_000


def test_a_status_that_is_an_error_is_an_http_error(site):
    good = site("127.0.0.2")
    with pytest.raises(urllib.error.HTTPError) as caught:
        build_opener(GOOD).open(good.url("/status?code=404"))
    assert (caught.value.code, caught.value.read()) == (404, b"hello")
    caught.value.close()


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirect_to_what_is_accepted_is_followed(site, code):
    good = site("127.0.0.2")
    opener = build_opener(GOOD, resolver=Names(NAMES))
    assert read(opener, good.url(f"/redirect?code={code}&to={good.url('/', 'good.test')}")) == b"hello"


def test_a_name_whose_first_address_is_dead_is_reached_at_the_next(site):
    good = site("127.0.0.2")
    names = Names({"two.test": ["127.0.0.4", "127.0.0.2"]})
    opener = build_opener(Rules(allow=["127.0.0.2", "127.0.0.4"]), resolver=names)
    assert read(opener, good.url(host="two.test"), timeout=10) == b"hello"


def test_an_ipv6_literal_is_fetched(site):
    good = site("127.0.0.2")
    connect, dialled = to(good)
    opener = build_opener(netjail.PUBLIC, connect=connect)
    assert read(opener, "http://[2606:4700::1111]:8080/") == b"hello"
    assert dialled == [("2606:4700::1111", 8080)]
    assert good.seen[0].headers["Host"] == "[2606:4700::1111]:8080"


def test_a_read_that_takes_longer_than_the_timeout_is_a_timeout_error(site):
    stalling = site("127.0.0.2")
    with build_opener(GOOD).open(stalling.url("/stall"), timeout=0.2) as response, pytest.raises(TimeoutError):
        response.read()


def test_a_lookup_that_takes_longer_than_the_timeout_is_a_url_error():
    asked, over = threading.Event(), threading.Event()

    class Slow:
        def lookup(self, host, family):
            asked.set()
            over.wait()
            return ["127.0.0.2"]

    try:
        with pytest.raises(urllib.error.URLError) as caught:
            build_opener(GOOD, resolver=Slow()).open("http://slow.test:1/", timeout=0.1)
    finally:
        over.set()
    assert isinstance(caught.value.reason, TimeoutError)
    assert asked.is_set()


def test_what_does_not_resolve_and_what_refuses_are_url_errors():
    opener = build_opener(GOOD, resolver=Names({}))
    with pytest.raises(urllib.error.URLError) as caught:
        opener.open("http://none.test/")
    assert isinstance(caught.value.reason, socket.gaierror)
    with socket.create_server(("127.0.0.2", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(urllib.error.URLError) as caught:
        opener.open(f"http://127.0.0.2:{port}/")
    assert isinstance(caught.value.reason, ConnectionRefusedError)


# What is not accepted.


@pytest.mark.proves("urllib", "literal")
@pytest.mark.parametrize(
    "spelled",
    [
        "127.0.0.3",
        "2130706435",
        "0x7f000003",
        "0177.0.0.3",
        "127.3",
        "[::ffff:127.0.0.3]",
        "[::ffff:7f00:3]",
        "bad.test",
        "user:secret@127.0.0.3",
        "127.0.0.2@127.0.0.3",
        "%31%32%37.0.0.3",
    ],
)
def test_an_address_inside_is_refused_however_it_is_spelled(trap, spelled):
    class System(Names):
        """The system's reading of numbers, and the test's table for names, so that no query leaves."""

        def lookup(self, host, family):
            if host in self.table:
                return super().lookup(host, family)
            found = socket.getaddrinfo(host, None, family, socket.SOCK_STREAM, 0, socket.AI_NUMERICHOST)
            return [address[0] for *_, address in found]

    bad = trap("127.0.0.3")
    with pytest.raises(urllib.error.URLError):
        build_opener(GOOD, resolver=System(NAMES)).open(f"http://{spelled}:{bad.port}/")


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "[::1]", "127.0.0.1", "localhost"])
def test_this_host_is_refused_where_only_another_address_is_accepted(trap, host):
    names = Names({"localhost": ["127.0.0.1", "::1"]})
    for listener in (trap("127.0.0.1"), trap("::1")):
        with pytest.raises(DeniedError):
            build_opener(GOOD, resolver=names).open(f"http://{host}:{listener.port}/")


@pytest.mark.parametrize(
    "answer",
    ["10.0.0.1", "169.254.169.254", "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::1", "::10.0.0.1", "fe80::1%lo"],
)
def test_an_answer_that_leads_inside_is_not_dialled(site, answer):
    connect, dialled = to(site("127.0.0.2"))
    opener = build_opener(netjail.PUBLIC, resolver=Names({"inside.test": [answer]}), connect=connect)
    with pytest.raises(DeniedError):
        opener.open("http://inside.test/")
    assert not dialled


@pytest.mark.proves("urllib", "announced")
@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("target", ["127.0.0.3", "bad.test"])
def test_each_hop_of_a_redirect_is_judged(site, trap, code, target):
    good, bad = site("127.0.0.2"), trap("127.0.0.3")
    hop = good.url(f"/redirect?code={code}&to={bad.url('/', target)}", "good.test")
    with pytest.raises(DeniedError) as caught:
        build_opener(GOOD, resolver=Names(NAMES)).open(hop)
    assert (caught.value.host, caught.value.port) == (target, bad.port)
    assert len(good.seen) == 1


@pytest.mark.parametrize(
    "url", ["file:///etc/hostname", "ftp://127.0.0.3:{port}/x", "data:,x", "gopher://127.0.0.3:{port}/"]
)
def test_no_other_scheme_opens_anything(site, trap, url):
    good, bad = site("127.0.0.2"), trap("127.0.0.3")
    opener, url = build_opener(BOTH), url.format(port=bad.port)
    with pytest.raises(urllib.error.URLError, match="unknown url type"):
        opener.open(url)
    with pytest.raises(urllib.error.URLError) as caught:
        opener.open(good.url(f"/redirect?to={url}"))
    if isinstance(caught.value, urllib.error.HTTPError):
        caught.value.close()
    assert len(good.seen) == 1


def test_a_mixed_answer_is_dialled_where_accepted_or_denied_as_a_whole(site, trap):
    good = site("127.0.0.2")
    trap("127.0.0.3", port=good.port)
    names = Names({"mixed.test": ["127.0.0.3", "127.0.0.2"]})
    assert read(build_opener(GOOD, resolver=names), good.url(host="mixed.test")) == b"hello"
    with pytest.raises(DeniedError):
        build_opener(GOOD, resolver=names, mixed="refuse").open(good.url(host="mixed.test"))
    assert good.accepted == 1


def test_a_name_that_rebinds_is_judged_at_each_request_by_the_answer_that_is_dialled(site, trap):
    good = site("127.0.0.2")
    trap("127.0.0.3", port=good.port)
    names = Names({"rebind.test": iter([["127.0.0.2"], ["127.0.0.3"]])})
    opener = build_opener(GOOD, resolver=names)
    assert read(opener, good.url(host="rebind.test")) == b"hello"
    with pytest.raises(DeniedError):
        opener.open(good.url(host="rebind.test"))
    assert len(names.asked) == 2


# The rules in force.


def test_one_opener_obeys_the_context_of_each_request(site):
    good = site("127.0.0.2")
    opener = build_opener()

    def fetch() -> Any:
        try:
            return read(opener, good.url())
        except DeniedError:
            return "denied"

    with use_rules(GOOD):
        first = fetch()
    with use_rules(Rules(allow=["127.0.0.3"])):
        second = fetch()
    with use_rules(GOOD):
        third = fetch()
    assert [first, second, third, fetch()] == [b"hello", "denied", b"hello", "denied"]
    assert good.accepted == 2


def test_the_context_can_only_narrow_what_was_given(site, trap):
    good, bad = site("127.0.0.2"), trap("127.0.0.3")
    opener = build_opener(GOOD)
    with use_rules(BOTH):
        assert read(opener, good.url()) == b"hello"
        with pytest.raises(DeniedError):
            opener.open(bad.url())
    with use_rules(Rules(allow=["127.0.0.3"])), pytest.raises(DeniedError):
        opener.open(good.url())


def test_threads_with_other_rules_share_an_opener_and_not_its_verdicts(site):
    good, bad = site("127.0.0.2"), site("127.0.0.3")
    opener = build_opener()
    outcomes = []

    def run(rules, allowed, denied):
        with use_rules(rules):
            for _ in range(20):
                outcomes.append(read(opener, allowed.url()))
                with pytest.raises(DeniedError):
                    opener.open(denied.url())

    threads = [
        threading.Thread(target=run, args=(GOOD, good, bad)),
        threading.Thread(target=run, args=(Rules(allow=["127.0.0.3"]), bad, good)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == [b"hello"] * 40
    assert (good.accepted, bad.accepted) == (20, 20)


# A denial.


def denial(opener: Any, url: Any) -> DeniedError:
    with pytest.raises(DeniedError) as caught:
        opener.open(url)
    return caught.value


def test_a_denial_is_netjails_and_urllibs_and_an_os_error(trap):
    error = denial(build_opener(GOOD, resolver=Names(NAMES)), trap("127.0.0.3").url(host="bad.test"))
    assert isinstance(error, netjail.DeniedError)
    assert isinstance(error, urllib.error.URLError)
    assert isinstance(error, PermissionError)
    assert type(error) is DeniedError
    assert [str(decision.address) for decision in error.decisions] == ["127.0.0.3"]


@pytest.mark.proves("urllib", "denied")
def test_a_denial_reads_well_and_names_no_address(trap):
    bad = trap("127.0.0.3")
    error = denial(build_opener(GOOD, resolver=Names(NAMES)), bad.url(host="bad.test"))
    reason = "none of its addresses is accepted by the rules in force"
    assert str(error) == f"netjail denied the connection to 'bad.test' port {bad.port}: {reason}"
    assert error.reason == reason
    assert "127.0.0" not in repr(error)


def test_a_denial_survives_pickling(trap):
    error = denial(build_opener(GOOD, resolver=Names(NAMES)), trap("127.0.0.3").url(host="bad.test"))
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is DeniedError
    assert (str(again), again.host, again.port, again.reason) == (str(error), error.host, error.port, error.reason)
    assert [decision.address for decision in again.decisions] == [decision.address for decision in error.decisions]


@pytest.mark.parametrize("opener_rules", [None, Rules()])
def test_without_rules_nothing_is_asked_and_nothing_dialled(site, opener_rules):
    names = Names(NAMES)
    connect, dialled = to(site("127.0.0.2"))
    denial(build_opener(opener_rules, resolver=names, connect=connect), "http://good.test/")
    assert not names.asked
    assert not dialled


def test_a_denial_asks_once_and_dials_nothing(site):
    names = Names(NAMES)
    connect, dialled = to(site("127.0.0.2"))
    denial(build_opener(GOOD, resolver=names, connect=connect), "http://bad.test/")
    assert names.asked == [("bad.test", socket.AF_INET)]
    assert not dialled


# TLS.


@pytest.mark.proves("urllib", "tls", "wrong-name")
def test_the_certificate_is_checked_against_the_name(site, server_tls, client_tls):
    secure = site("127.0.0.2", tls=server_tls("good.test"))
    names = Names({"good.test": ["127.0.0.2"], "other.test": ["127.0.0.2"]})
    opener = build_opener(GOOD, resolver=names, context=client_tls)
    assert read(opener, secure.url(host="good.test")) == b"hello"
    with pytest.raises(urllib.error.URLError) as caught:
        opener.open(secure.url(host="other.test"))
    assert isinstance(caught.value.reason, ssl.SSLCertVerificationError)
    assert [seen.headers["Host"] for seen in secure.seen] == [f"good.test:{secure.port}"]


def test_without_a_context_the_systems_authorities_are_trusted_and_no_other(site, server_tls):
    secure = site("127.0.0.2", tls=server_tls("good.test"))
    opener = build_opener(GOOD, resolver=Names(NAMES))
    with pytest.raises(urllib.error.URLError) as caught:
        opener.open(secure.url(host="good.test"))
    assert isinstance(caught.value.reason, ssl.SSLCertVerificationError)
    assert not secure.seen


def test_a_denied_https_url_is_a_denial(trap, client_tls):
    bad = trap("127.0.0.3")
    denial(build_opener(GOOD, context=client_tls), f"https://127.0.0.3:{bad.port}/")


# Proxies.


@pytest.mark.parametrize("scheme", ["http", "https", "socks5"])
@pytest.mark.parametrize("rules", [GOOD, BOTH], ids=["proxy denied", "proxy accepted"])
def test_a_proxy_of_the_environment_opens_nothing(site, trap, monkeypatch, scheme, rules):
    good, proxy = site("127.0.0.2"), trap("127.0.0.3")
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, f"{scheme}://127.0.0.3:{proxy.port}")
    opener = build_opener(rules)
    assert read(opener, good.url()) == b"hello"
    with urlopen(good.url(), rules=rules) as response:
        assert response.read() == b"hello"
    assert good.seen[0].path == "/"


class MyProxyHandler(urllib.request.ProxyHandler):
    pass


@pytest.mark.parametrize(
    "handler",
    [
        urllib.request.ProxyHandler,
        urllib.request.ProxyHandler({}),
        urllib.request.ProxyHandler({"http": "http://127.0.0.3:1"}),
        MyProxyHandler,
        MyProxyHandler({"https": "http://127.0.0.3:1"}),
    ],
)
def test_a_proxy_handler_is_refused_when_the_opener_is_made_and_later(handler):
    with pytest.raises(ValueError, match="refuses proxies"):
        build_opener(GOOD, handler)
    if not isinstance(handler, type):
        with pytest.raises(ValueError, match="refuses proxies"):
            build_opener(GOOD).add_handler(handler)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("rules", [GOOD, BOTH], ids=["proxy denied", "proxy accepted"])
def test_a_request_that_carries_a_proxy_is_denied(trap, scheme, rules):
    proxy = trap("127.0.0.3")
    request = urllib.request.Request(f"{scheme}://good.test:81/")
    request.set_proxy(f"127.0.0.3:{proxy.port}", "http")
    error = denial(build_opener(rules, resolver=Names(NAMES)), request)
    assert (error.host, error.port) == ("good.test", 81)
    assert "proxy" in str(error)


@pytest.mark.parametrize("kind", [HTTPConnection, HTTPSConnection])
def test_a_tunnel_is_refused(kind):
    with pytest.raises(ValueError, match="refuses proxies"):
        kind("127.0.0.2", rules=GOOD).set_tunnel("bad.test", 443)


# Handlers of the caller's own.


class OpensItself(urllib.request.BaseHandler):
    def default_open(self, req):
        raise AssertionError("never called")


class LooksLikeUnknown(urllib.request.UnknownHandler):
    def http_open(self, req):
        raise AssertionError("never called")


class MyHTTPHandler(urllib.request.HTTPHandler):
    pass


class NotABaseHandler:
    """OpenerDirector asks for no more than this."""

    handler_order = 1

    def add_parent(self, parent):
        raise AssertionError("never called")

    def https_open(self, req):
        raise AssertionError("never called")

    def __lt__(self, other):
        return True


@pytest.mark.parametrize(
    "handler",
    [
        urllib.request.HTTPHandler,
        urllib.request.HTTPHandler(debuglevel=1),
        MyHTTPHandler,
        urllib.request.HTTPSHandler(context=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)),
        urllib.request.FileHandler,
        urllib.request.FTPHandler,
        urllib.request.CacheFTPHandler,
        urllib.request.DataHandler,
        OpensItself,
        LooksLikeUnknown,
        NotABaseHandler(),
    ],
)
def test_a_handler_that_opens_urls_itself_is_refused(handler):
    with pytest.raises(ValueError, match="opens URLs itself"):
        build_opener(GOOD, handler)


def test_cookies_are_kept(site):
    good = site("127.0.0.2")
    opener = build_opener(GOOD, urllib.request.HTTPCookieProcessor)
    read(opener, good.url("/cookie?a=1"))
    assert json.loads(read(opener, good.url("/echo")))["headers"]["Cookie"] == "a=1"


def test_basic_authentication_works():
    def answer(handler):
        token = base64.b64encode(b"user:secret").decode()
        known = handler.headers.get("Authorization") == f"Basic {token}"
        handler.send_response(200 if known else 401)
        if not known:
            handler.send_header("WWW-Authenticate", 'Basic realm="r"')
        handler.send_header("Content-Length", "2")
        handler.end_headers()
        handler.wfile.write(b"in" if known else b"no")

    with answering(answer) as server:
        url = f"http://127.0.0.2:{server.server_address[1]}/"
        passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
        passwords.add_password(None, url, "user", "secret")
        assert read(build_opener(GOOD, urllib.request.HTTPBasicAuthHandler(passwords)), url) == b"in"
        server.shutdown()


def test_a_redirect_handler_of_ones_own_replaces_the_default_one(site):
    class Stays(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *args):
            return None

    good = site("127.0.0.2")
    with pytest.raises(urllib.error.HTTPError) as caught:
        build_opener(GOOD, Stays()).open(good.url(f"/redirect?to={good.url()}"))
    assert caught.value.code == 302
    caught.value.close()
    assert len(good.seen) == 1


def test_an_error_processor_of_ones_own_replaces_the_default_one(site):
    class Lets(urllib.request.HTTPErrorProcessor):
        def http_response(self, request, response):
            return response

    good = site("127.0.0.2")
    with build_opener(GOOD, Lets).open(good.url("/status?code=500")) as response:
        assert (response.status, response.read()) == (500, b"hello")


def test_what_cannot_be_is_said_when_the_opener_is_made():
    with pytest.raises(TypeError, match="rules are netjail"):
        build_opener(urllib.request.HTTPCookieProcessor())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="mixed="):
        build_opener(GOOD, mixed="some")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="rules are netjail"):
        urlopen("http://127.0.0.2/", rules=["127.0.0.2"])  # type: ignore[arg-type]


# Connections by themselves.


def get(connection: Any, path: str = "/") -> Any:
    connection.request("GET", path)
    return connection.getresponse().read()


def test_a_connection_is_kept_alive_under_the_same_rules(site):
    good = site("127.0.0.2")
    connection = HTTPConnection("good.test", good.port, timeout=5, rules=GOOD, resolver=Names(NAMES))
    assert [get(connection) for _ in range(3)] == [b"hello"] * 3
    connection.close()
    assert (good.accepted, len(good.seen)) == (1, 3)
    assert good.seen[0].headers["Host"] == f"good.test:{good.port}"


@pytest.mark.proves("urllib", "pools")
def test_a_connection_is_not_used_under_other_rules_than_it_was_made_under(site):
    good = site("127.0.0.2")
    connection = HTTPConnection("127.0.0.2", good.port)
    with use_rules(GOOD):
        assert get(connection) == b"hello"
    with use_rules(BOTH):
        assert get(connection) == b"hello"
    assert good.connections() == {1, 2}
    with use_rules(Rules(allow=["127.0.0.3"])), pytest.raises(DeniedError):
        get(connection)
    connection.close()
    with pytest.raises(DeniedError):
        get(connection)
    connection.close()
    assert (good.accepted, len(good.seen)) == (2, 2)


def test_a_response_is_read_to_its_end_although_its_connection_was_left(site):
    good = site("127.0.0.2")
    connection = HTTPConnection("127.0.0.2", good.port)
    with use_rules(GOOD):
        connection.request("GET", "/stream?n=1000")
        response = connection.getresponse()
        assert len(response.read(10)) == 10
    with use_rules(BOTH):
        connection.putrequest("GET", "/")
    assert len(response.read()) == 999_990
    connection.close()


def test_a_connection_over_tls_checks_the_name(site, server_tls, client_tls):
    secure = site("127.0.0.2", tls=server_tls("good.test"))
    names = Names({"good.test": ["127.0.0.2"], "other.test": ["127.0.0.2"]})
    connection = HTTPSConnection("good.test", secure.port, context=client_tls, rules=GOOD, resolver=names)
    assert [get(connection), get(connection)] == [b"hello"] * 2
    connection.close()
    other = HTTPSConnection("other.test", secure.port, context=client_tls, rules=GOOD, resolver=names)
    with pytest.raises(ssl.SSLCertVerificationError):
        get(other)
    other.close()
    assert secure.connections() == {1}


def test_a_denied_connection_raises_the_modules_denial(trap):
    bad = trap("127.0.0.3")
    connection = HTTPConnection("bad.test", bad.port, rules=GOOD, resolver=Names(NAMES))
    with pytest.raises(DeniedError) as caught:
        connection.connect()
    assert connection.sock is None
    assert (caught.value.host, caught.value.port) == ("bad.test", bad.port)


def test_a_connection_binds_to_the_source_address(site):
    good = site("127.0.0.2")
    connection = HTTPConnection("127.0.0.2", good.port, source_address=("127.0.0.9", 0), rules=GOOD)
    connection.connect()
    assert connection.sock.getsockname()[0] == "127.0.0.9"
    connection.close()


def test_the_socket_that_a_caller_sets_is_the_callers(site):
    """As in http.client, where tests and tunnels of one's own are made that way."""
    good = site("127.0.0.3")
    connection = HTTPConnection("good.test", good.port, rules=GOOD)
    connection.sock = socket.create_connection((good.address, good.port))
    assert get(connection) == b"hello"
    connection.close()


def test_an_https_connection_is_an_http_connection():
    assert issubclass(HTTPSConnection, HTTPConnection)
    assert issubclass(HTTPSConnection, http.client.HTTPSConnection)
    assert HTTPSConnection.default_port == 443


def test_inside_the_module_urllib_is_the_standard_librarys():
    assert sys.modules["netjail.clients.urllib"].urllib is sys.modules["urllib"]


def test_a_class_between_ours_and_the_plain_one_is_still_called(site: Any) -> None:
    good = site("127.0.0.2")

    class Logs(http.client.HTTPConnection):
        asked: ClassVar[list[str]] = []

        def putrequest(self, method: str, url: str, *rest: Any, **options: Any) -> None:
            self.asked.append(url)
            super().putrequest(method, url, *rest, **options)

    class Both(HTTPConnection, Logs):
        pass

    connection = Both("127.0.0.2", good.port, rules=GOOD)
    connection.request("GET", "/")
    connection.getresponse().read()
    connection.close()
    assert Logs.asked == ["/"]


def test_a_tunnel_that_was_set_past_set_tunnel_is_refused(trap: Any) -> None:
    proxy = trap("127.0.0.2")
    connection: Any = HTTPConnection("127.0.0.2", proxy.port, rules=GOOD)
    connection._tunnel_host, connection._tunnel_port, connection._tunnel_headers = "169.254.169.254", 80, {}
    with pytest.raises(ValueError, match="refuses proxies"):
        connection.request("GET", "/")
