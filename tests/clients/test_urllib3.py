"""urllib3 under rules, against real servers on loopback: 127.0.0.2 is allowed and 127.0.0.3 is not."""

from __future__ import annotations

import contextvars
import gzip
import importlib.util
import pickle
import re
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import trustme
import urllib3
from urllib3 import exceptions
from urllib3.util import Retry, Timeout, parse_url

import netjail
from netjail import PUBLIC, Rules, use_rules
from netjail.clients import urllib3 as jailed
from netjail.clients.urllib3 import DeniedError, PoolManager
from tests.servers.names import Names
from tests.servers.site import Site, Trap

Make = Callable[..., Any]
GOOD = Rules(allow=["127.0.0.2"])
OTHER = Rules(allow=["127.0.0.3"])
LOOPBACK = Rules(allow=["127.0.0.0/8", "::1"])
NAMES = {"good.test": ["127.0.0.2"], "bad.test": ["127.0.0.3"], "mixed.test": ["127.0.0.3", "127.0.0.2"]}

pytestmark = pytest.mark.usefixtures("nothing_left_behind")


class Dials:
    """A ``connect=`` that remembers what was dialled and leads all of it to one port on loopback."""

    def __init__(self, to: Site | Trap | None = None) -> None:
        self.to = to
        self.addresses: list[str] = []

    def __call__(self, address: tuple[str, int], *, timeout: float | None) -> socket.socket:
        self.addresses.append(address[0])
        return socket.create_connection((self.to.address, self.to.port) if self.to else address, timeout)


def body(response: Any) -> bytes:
    return bytes(response.data)


@pytest.mark.proves("urllib3", "allowed")
def test_a_name_is_fetched_and_its_connection_is_kept(site: Make) -> None:
    server = site("127.0.0.2")
    with PoolManager(GOOD, resolver=Names(NAMES)) as pm:
        for _ in range(3):
            assert body(pm.request("GET", server.url(host="good.test"))) == b"hello"
    assert server.accepted == 1
    assert server.seen[0].headers["Host"] == f"good.test:{server.port}"


def test_four_fetches_of_one_url_follow_the_context(site: Make) -> None:
    server = site("127.0.0.2")
    with PoolManager(resolver=Names(NAMES)) as pm:
        url = server.url(host="good.test")
        with use_rules(GOOD):
            assert body(pm.request("GET", url)) == b"hello"
        with use_rules(OTHER), pytest.raises(DeniedError):
            pm.request("GET", url)
        with use_rules(GOOD):
            assert body(pm.request("GET", url)) == b"hello"
        with pytest.raises(DeniedError, match="no rules are in force"):
            pm.request("GET", url)
    assert server.accepted == 1
    assert len(server.seen) == 2


def test_the_context_only_narrows_what_was_given(site: Make) -> None:
    server = site("127.0.0.2")
    with PoolManager(GOOD) as pm:
        with use_rules(LOOPBACK):
            assert body(pm.request("GET", server.url())) == b"hello"
        with use_rules(OTHER), pytest.raises(DeniedError):
            pm.request("GET", server.url())
    with PoolManager(OTHER) as pm, use_rules(LOOPBACK), pytest.raises(DeniedError):
        pm.request("GET", server.url())


def test_a_plain_thread_has_no_rules_unless_it_runs_in_the_context(site: Make) -> None:
    server = site("127.0.0.2")
    outcomes: list[Any] = []

    def fetch() -> None:
        try:
            outcomes.append(body(pm.request("GET", server.url())))
        except DeniedError:
            outcomes.append("denied")

    with PoolManager() as pm, use_rules(GOOD):
        for run in (lambda call: call(), contextvars.copy_context().run):
            thread = threading.Thread(target=run, args=(fetch,))
            thread.start()
            thread.join()
    assert outcomes == ["denied", b"hello"]


@pytest.mark.proves("urllib3", "pools")
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_other_rules_never_ride_on_a_kept_connection(
    site: Make, server_tls: Make, client_tls: ssl.SSLContext, scheme: str
) -> None:
    server = site("127.0.0.2", tls=server_tls("good.test") if scheme == "https" else None)
    with PoolManager(resolver=Names(NAMES), ssl_context=client_tls) as pm:
        for rules in (GOOD, LOOPBACK, GOOD, Rules(allow=["127.0.0.2/32"]), LOOPBACK):
            with use_rules(rules):
                pm.request("GET", server.url(host="good.test"))
    assert [seen.connection for seen in server.seen] == [1, 2, 1, 1, 2]  # equal rules share


def test_rules_stay_apart_under_concurrency(site: Make) -> None:
    server = site("127.0.0.2")
    sets = [Rules(allow=["127.0.0.2", f"10.0.0.{n}"]) for n in range(4)]

    def fetch(number: int) -> None:
        tenant = number % len(sets)
        with use_rules(sets[tenant]):
            assert body(pm.request("GET", server.url(), headers={"X-Tenant": str(tenant)})) == b"hello"

    with PoolManager(maxsize=8) as pm, ThreadPoolExecutor(8) as threads:
        list(threads.map(fetch, range(200)))
    tenants: dict[int, set[str]] = {}
    for seen in server.seen:
        tenants.setdefault(seen.connection, set()).add(seen.headers["X-Tenant"])
    assert len(server.seen) == 200
    assert all(len(each) == 1 for each in tenants.values())


def test_a_key_function_of_the_users_own_does_not_merge_rules(site: Make) -> None:
    server = site("127.0.0.2")
    with PoolManager() as pm:
        keys: dict[str, Any] = pm.key_fn_by_scheme
        keys["http"] = lambda context: context["host"]
        with use_rules(GOOD):
            pm.request("GET", server.url())
        with use_rules(OTHER), pytest.raises(DeniedError):
            pm.request("GET", server.url())


def by_manager(pm: PoolManager, url: str, **kw: Any) -> Any:
    return pm.request("GET", url, **kw)


def by_urlopen(pm: PoolManager, url: str, **kw: Any) -> Any:
    return pm.urlopen("GET", url, **kw)


def by_pool(pm: PoolManager, url: str, **kw: Any) -> Any:
    return pm.connection_from_url(url).urlopen("GET", "/", **kw)


def by_pool_request(pm: PoolManager, url: str, **kw: Any) -> Any:
    return pm.connection_from_url(url).request("GET", "/", **kw)


WAYS = [by_manager, by_urlopen, by_pool, by_pool_request]


@pytest.mark.proves("urllib3", "denied")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("retries", [None, False, 5, Retry(5, connect=5, other=5)])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_denial_is_looked_up_once_and_not_retried(trap: Make, way: Make, retries: Any, scheme: str) -> None:
    listener, names, dials = trap("127.0.0.3"), Names(NAMES), Dials()
    with PoolManager(GOOD, resolver=names, connect=dials) as pm, pytest.raises(DeniedError) as caught:
        way(pm, listener.url(host="bad.test").replace("http:", f"{scheme}:"), retries=retries)
    assert isinstance(caught.value, netjail.DeniedError)
    assert isinstance(caught.value, exceptions.HTTPError)
    assert (caught.value.host, caught.value.port) == ("bad.test", listener.port)
    assert "127.0.0.3" not in str(caught.value)
    assert [str(decision.address) for decision in caught.value.decisions] == ["127.0.0.3"]
    assert names.asked == [("bad.test", socket.AF_INET)]
    assert dials.addresses == []


def test_a_denial_pickles() -> None:
    with PoolManager(GOOD, resolver=Names(NAMES)) as pm, pytest.raises(DeniedError) as caught:
        pm.request("GET", "http://bad.test/")
    again = pickle.loads(pickle.dumps(caught.value))
    assert type(again) is DeniedError
    assert (str(again), again.host, again.port) == (str(caught.value), "bad.test", 80)


@pytest.mark.parametrize("rules", [None, Rules(), Rules(allow=["127.0.0.2"], block=["127.0.0.0/8"])])
def test_rules_that_accept_nothing_ask_no_resolver(rules: Rules | None) -> None:
    names = Names(NAMES)
    with PoolManager(rules, resolver=names) as pm, pytest.raises(DeniedError):
        pm.request("GET", "http://good.test/")
    assert names.asked == []


INSIDE = "127.0.0.3 2130706435 127.3 0x7f000003 0177.0.0.3 0 ①②⑦.⓪.⓪.③ 127。0。0。3 localhost"
INSIDE6 = "[::1] [::] [::ffff:127.0.0.3] [::127.0.0.3] [64:ff9b::7f00:3] [2002:7f00:3::] [::1%25lo]"


@pytest.mark.proves("urllib3", "literal")
@pytest.mark.parametrize("host", f"{INSIDE} {INSIDE6}".split())
def test_no_spelling_of_an_inside_address_is_reached(trap: Make, host: str) -> None:
    port = trap("127.0.0.3").port
    trap("127.0.0.1", port=port)
    trap("::1", port=port)
    everything = Rules(allow=["0.0.0.0/0", "::/0"], block=["127.0.0.0/8", "::1"])
    unheard = (DeniedError, exceptions.LocationParseError, exceptions.NameResolutionError)
    with PoolManager(everything, timeout=5, retries=False) as pm, pytest.raises(unheard):
        pm.request("GET", f"http://{host}:{port}/")


@pytest.mark.parametrize(
    "answer", ["10.0.0.1", "::ffff:10.0.0.1", "64:ff9b::10.0.0.1", "2002:a00:1::", "fe80::1%eth0", "169.254.169.254"]
)
def test_an_answer_that_lands_inside_is_not_dialled(answer: str) -> None:
    names, dials = Names({"a.test": [answer]}), Dials()
    with PoolManager(PUBLIC, resolver=names, connect=dials) as pm, pytest.raises(DeniedError):
        pm.request("GET", "http://a.test/")
    assert dials.addresses == []


@pytest.mark.parametrize("host", ["[2606:4700:4700::1111]", "8.8.8.8", "v6.test"])
def test_a_public_address_is_reached_as_itself(site: Make, host: str) -> None:
    dials = Dials(site())
    with PoolManager(PUBLIC, resolver=Names({"v6.test": ["2606:4700:4700::1111"]}), connect=dials) as pm:
        assert body(pm.request("GET", f"http://{host}/")) == b"hello"
    assert dials.addresses == ["8.8.8.8" if host == "8.8.8.8" else "2606:4700:4700::1111"]


def test_ipv6_loopback_is_fetched_where_it_is_allowed(site: Make) -> None:
    server = site("::1")
    with PoolManager(LOOPBACK) as pm:
        assert body(pm.request("GET", server.url())) == b"hello"
    assert server.seen[0].headers["Host"] == f"[::1]:{server.port}"


def test_of_a_mixed_answer_the_accepted_address_is_dialled(site: Make, trap: Make) -> None:
    server = site("127.0.0.2")
    trap("127.0.0.3", port=server.port)
    with PoolManager(GOOD, resolver=Names(NAMES)) as pm:
        assert body(pm.request("GET", server.url(host="mixed.test"))) == b"hello"


def test_a_mixed_answer_can_be_refused(trap: Make) -> None:
    good = trap("127.0.0.2")
    trap("127.0.0.3", port=good.port)
    with PoolManager(GOOD, resolver=Names(NAMES), mixed="refuse") as pm, pytest.raises(DeniedError):
        pm.request("GET", good.url(host="mixed.test"))


def test_a_dead_first_address_does_not_stop_the_second(site: Make) -> None:
    server = site("127.0.0.2")
    names = Names({"half.test": ["127.0.0.9", "127.0.0.2"]})
    with PoolManager(LOOPBACK, resolver=names, retries=False) as pm:
        assert body(pm.request("GET", server.url(host="half.test"))) == b"hello"


def test_a_name_that_rebinds_is_judged_at_each_dial(site: Make, trap: Make) -> None:
    server = site("127.0.0.2")
    trap("127.0.0.3", port=server.port)
    names = Names({"rebind.test": iter([["127.0.0.2"], ["127.0.0.3"]])})
    with PoolManager(GOOD, resolver=names) as pm:
        assert body(pm.request("GET", server.url("/close", host="rebind.test"))) == b"hello"
        with pytest.raises(DeniedError):
            pm.request("GET", server.url(host="rebind.test"))


def test_a_retry_is_judged_under_the_rules_of_its_request(site: Make, trap: Make) -> None:
    server = site("127.0.0.2")
    trap("127.0.0.3", port=server.port)
    answers: Iterator[Any] = iter([socket.gaierror(socket.EAI_AGAIN, "not now"), ["127.0.0.3"], ["127.0.0.2"]])
    names = Names({"flaky.test": answers})
    with PoolManager(GOOD, resolver=names, retries=Retry(5)) as pm, pytest.raises(DeniedError):
        pm.request("GET", server.url(host="flaky.test"))
    assert len(names.asked) == 2


def test_a_pool_kept_by_hand_stays_under_the_rules_that_it_was_made_for(trap: Make) -> None:
    listener = trap("127.0.0.3")
    with PoolManager() as pm:
        with use_rules(GOOD):
            pool = pm.connection_from_url(listener.url())
        with use_rules(OTHER), pytest.raises(DeniedError):
            pool.request("GET", "/")


@pytest.mark.parametrize("later", [None, Rules(), LOOPBACK])
def test_a_pool_kept_by_hand_serves_nobody_under_other_rules(site: Make, later: Rules | None) -> None:
    """It has a connection that stands, which is closed then; under its own rules it opens another."""
    server = site("127.0.0.2")
    with PoolManager() as pm:
        with use_rules(GOOD):
            pool = pm.connection_from_url(server.url())
            assert pool.request("GET", "/").data == b"hello"
        with use_rules(later) if later is not None else nullcontext(), pytest.raises(DeniedError) as caught:
            pool.request("GET", "/")
        assert caught.value.reason == "its pool belongs to other rules"
        assert len(server.seen) == 1
        with use_rules(GOOD):
            assert pool.request("GET", "/").data == b"hello"
    assert server.accepted == 2


def test_a_redirect_is_followed_where_the_rules_accept_it(site: Make) -> None:
    server, other = site("127.0.0.2"), site("127.0.0.2", body=b"other")
    with PoolManager(GOOD, resolver=Names(NAMES)) as pm:
        response = pm.request("GET", server.url("/redirect?to=") + other.url(host="good.test"))
        assert (response.data, response.geturl()) == (b"other", other.url(host="good.test"))


@pytest.mark.proves("urllib3", "announced")
@pytest.mark.parametrize("to", ["bad.test", "127.0.0.3", "2130706435", "[::ffff:127.0.0.3]"])
@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirect_to_the_inside_is_denied(site: Make, trap: Make, to: str, code: int) -> None:
    server, listener = site("127.0.0.2"), trap("127.0.0.3")
    names = Names({**NAMES, "2130706435": ["127.0.0.3"]})
    with PoolManager(GOOD, resolver=names) as pm, pytest.raises(DeniedError):
        pm.request("GET", server.url(f"/redirect?code={code}&to=http://{to}:{listener.port}/"))


@pytest.mark.proves("urllib3", "tls", "wrong-name")
def test_tls_checks_the_name_that_was_asked_for(site: Make, server_tls: Make, client_tls: ssl.SSLContext) -> None:
    server = site("127.0.0.2", tls=server_tls("good.test"))
    names = Names({**NAMES, "wrong.test": ["127.0.0.2"]})
    with PoolManager(GOOD, resolver=names, ssl_context=client_tls, retries=False) as pm:
        assert body(pm.request("GET", server.url(host="good.test"))) == b"hello"
        with pytest.raises(exceptions.SSLError, match="wrong"):
            pm.request("GET", server.url(host="wrong.test"))
    assert len(server.seen) == 1


def test_two_names_on_one_address_never_share_a_tls_connection(
    site: Make, server_tls: Make, client_tls: ssl.SSLContext
) -> None:
    server = site("127.0.0.2", tls=server_tls("good.test", "twin.test"))
    names = Names({**NAMES, "twin.test": ["127.0.0.2"]})
    with PoolManager(GOOD, resolver=names, ssl_context=client_tls) as pm:
        for host in ("good.test", "twin.test", "good.test", "twin.test"):
            pm.request("GET", server.url(host=host))
    assert [seen.connection for seen in server.seen] == [1, 2, 1, 2]


def test_tls_arguments_of_the_plain_manager_work(
    site: Make, server_tls: Make, client_tls: ssl.SSLContext, ca: trustme.CA, tmp_path: Path
) -> None:
    context = server_tls("good.test")
    sent: list[str] = []
    context.sni_callback = lambda _sock, name, _context: sent.append(name)
    server = site("127.0.0.2", tls=context)
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    certificate = ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(("127.0.0.2", server.port)))
    arguments: list[tuple[str, dict[str, Any]]] = [
        ("good.test", {"ca_certs": str(tmp_path / "ca.pem")}),
        ("good.test", {"ssl_context": client_tls}),
        ("bad.test", {"ca_certs": str(tmp_path / "ca.pem"), "server_hostname": "good.test"}),
        ("bad.test", {"ca_certs": str(tmp_path / "ca.pem"), "assert_hostname": "good.test"}),
        ("bad.test", {"assert_fingerprint": sha256(certificate).hexdigest(), "cert_reqs": "CERT_NONE"}),
    ]
    names = Names({"good.test": ["127.0.0.2"], "bad.test": ["127.0.0.2"]})
    del sent[:]
    for host, keywords in arguments:
        with PoolManager(GOOD, resolver=names, **keywords) as pm:
            assert body(pm.request("GET", server.url(host=host))) == b"hello"
    assert sent == ["good.test", "good.test", "good.test", "bad.test", "bad.test"]
    pinned: dict[str, Any] = {"assert_fingerprint": "0" * 64, "cert_reqs": "CERT_NONE", "retries": False}
    with PoolManager(GOOD, resolver=names, **pinned) as pm, pytest.raises(exceptions.SSLError, match="ingerprint"):
        pm.request("GET", server.url(host="good.test"))


def test_a_client_certificate_is_shown(site: Make, server_tls: Make, ca: trustme.CA, tmp_path: Path) -> None:
    context = server_tls("good.test")
    context.verify_mode = ssl.CERT_REQUIRED
    ca.configure_trust(context)
    issued = ca.issue_cert("client.test")
    issued.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    issued.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    server = site("127.0.0.2", tls=context)
    certificate: dict[str, Any] = {"cert_file": str(tmp_path / "cert.pem"), "key_file": str(tmp_path / "key.pem")}
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    common: dict[str, Any] = {"resolver": Names(NAMES), "ca_certs": str(tmp_path / "ca.pem")}
    with PoolManager(GOOD, **common, **certificate) as pm:
        assert body(pm.request("GET", server.url(host="good.test"))) == b"hello"
    with PoolManager(GOOD, **common) as pm, pytest.raises(exceptions.HTTPError):
        pm.request("GET", server.url(host="good.test"))


def test_proxies_of_the_environment_open_nothing(site: Make, trap: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    server, proxy = site("127.0.0.2"), trap("127.0.0.1")
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy.url())
        monkeypatch.setenv(name.lower(), proxy.url())
    with PoolManager(LOOPBACK) as pm:
        assert body(pm.request("GET", server.url())) == b"hello"


PROXY = parse_url("http://127.0.0.1:1/")


@pytest.mark.parametrize(
    "name", ["proxy", "proxy_url", "proxy_headers", "_proxy", "_proxy_headers", "_proxy_config", "_socks_options"]
)
def test_proxy_arguments_are_refused(name: str) -> None:
    proxy: dict[str, Any] = {name: PROXY}
    with pytest.raises(ValueError, match="no proxying yet"):
        PoolManager(LOOPBACK, **proxy)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_no_way_into_a_pool_brings_a_proxy(trap: Make, scheme: str) -> None:
    proxy = trap("127.0.0.1")
    url = parse_url(proxy.url())
    refusal = pytest.raises(ValueError, match="no proxying yet")
    with PoolManager(LOOPBACK) as pm:
        with refusal:
            pm.connection_from_host("127.0.0.2", 1, scheme, pool_kwargs={"_proxy": url})
        pool = pm.connection_from_host("127.0.0.1", proxy.port, scheme)
        tunnel: Any = pool._get_conn()
        tunnel.set_tunnel("127.0.0.3", 80)
        with refusal:
            tunnel.connect()
        if scheme == "https":  # http would go to the pool's own host
            pool.proxy = url
            with refusal:
                pool.request("GET", "/")
        pm.connection_pool_kw["_proxy"] = url
        with refusal:
            pm.request("GET", f"{scheme}://127.0.0.2:1/")


def test_a_connection_class_of_the_users_own_is_jailed_too(site: Make, trap: Make) -> None:
    class Named(urllib3.connection.HTTPConnection):
        pass

    server, listener = site("127.0.0.2"), trap("127.0.0.3")
    with PoolManager(GOOD) as pm:
        for target in (server, listener):
            pm.connection_from_url(target.url()).ConnectionCls = Named
        assert pm.request("GET", server.url(), preload_content=False).data == b"hello"
        with pytest.raises(DeniedError):
            pm.request("GET", listener.url())


def test_a_proxy_manager_cannot_borrow_the_pools(trap: Make) -> None:
    proxy = trap("127.0.0.1")
    with urllib3.ProxyManager(proxy.url()) as pm:
        pm.pool_classes_by_scheme = PoolManager().pool_classes_by_scheme
        with pytest.raises((TypeError, ValueError)):
            pm.request("GET", "http://127.0.0.3/")


def refused() -> str:
    with socket.create_server(("127.0.0.2", 0)) as listener:
        return f"http://127.0.0.2:{listener.getsockname()[1]}/"


FAILURES: list[tuple[str, Callable[[], str], type[Exception]]] = [
    ("nobody listens", refused, exceptions.NewConnectionError),
    ("the name is unknown", lambda: f"http://{'x' * 63}.invalid-.test./", exceptions.NameResolutionError),
    ("a label is too long", lambda: f"http://{'x' * 64}.test/", exceptions.LocationParseError),
    ("the scheme is unknown", lambda: "gopher://127.0.0.2/", exceptions.URLSchemeUnknown),
]


@pytest.mark.parametrize(("url", "kind"), [row[1:] for row in FAILURES], ids=[row[0] for row in FAILURES])
@pytest.mark.parametrize("retries", [False, 2])
def test_other_failures_are_the_plain_managers(
    monkeypatch: pytest.MonkeyPatch, url: Callable[[], str], kind: type[Exception], retries: Any
) -> None:
    def getaddrinfo(host: str, port: int, *args: Any, **kwargs: Any) -> Any:
        if host[0].isalpha():
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return real(host, port, *args, **kwargs)

    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    target, seen = url(), []
    for manager in (urllib3.PoolManager(), PoolManager(LOOPBACK)):
        with manager, pytest.raises(exceptions.HTTPError) as caught:
            manager.request("GET", target, retries=retries)
        reason = caught.value.reason if isinstance(caught.value, exceptions.MaxRetryError) else caught.value
        assert type(reason) is kind
        seen.append((type(caught.value), re.sub("(?<=Failed to resolve).*|0x[0-9a-f]+", "", str(caught.value))))
    assert seen[0] == seen[1]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (TimeoutError("timed out"), exceptions.ConnectTimeoutError),
        (ConnectionRefusedError(111, "refused"), exceptions.NewConnectionError),
    ],
)
def test_failed_connects_are_retried_as_often_as_by_the_plain_manager(error: OSError, kind: type[Exception]) -> None:
    dialled: list[Any] = []

    def connect(address: tuple[str, int], *, timeout: float | None) -> socket.socket:
        dialled.append(timeout)
        raise error

    timeouts = Timeout(connect=3, read=60)
    with PoolManager(LOOPBACK, connect=connect) as pm, pytest.raises(exceptions.MaxRetryError) as caught:
        pm.request("GET", "http://127.0.0.2/", retries=2, timeout=timeouts)
    assert type(caught.value.reason) is kind
    assert len(dialled) == 3
    assert all(0 < timeout <= 3 for timeout in dialled)


def test_a_read_timeout_is_the_plain_managers(site: Make) -> None:
    server = site("127.0.0.2")
    with PoolManager(GOOD, retries=False) as pm, pytest.raises(exceptions.ReadTimeoutError):
        pm.request("GET", server.url("/stall"), timeout=Timeout(connect=5, read=0.05))


def test_an_evicted_pool_lets_its_response_finish(site: Make) -> None:
    server, other = site("127.0.0.2"), site("127.0.0.2")
    with PoolManager(num_pools=1) as pm:
        with use_rules(GOOD):
            response = pm.request("GET", server.url("/stream?n=300"), preload_content=False)
            first = response.read(1000)
        with use_rules(LOOPBACK):
            assert body(pm.request("GET", other.url())) == b"hello"
        assert len(pm.pools) == 1
        assert len(first + response.read()) == 300_000


@pytest.mark.parametrize("path", ["/stall", "/stream?n=300"])
def test_an_evicted_pool_is_closed_when_its_last_response_is_dropped_unread(site: Make, path: str) -> None:
    """nothing_left_behind counts the descriptors, here while the manager is still alive."""
    server = site("127.0.0.2")
    pm = PoolManager(num_pools=1)
    with use_rules(GOOD):
        response = pm.request("GET", server.url(path), preload_content=False)
    sock = response.connection.sock  # type: ignore[union-attr]
    with use_rules(LOOPBACK), pytest.raises(DeniedError):
        pm.request("GET", "http://10.0.0.1/")
    assert sock.fileno() > 0
    del response
    assert sock.fileno() == -1


def test_rules_stay_apart_when_more_came_than_are_kept(site: Make) -> None:
    server = site("127.0.0.2")
    sets = [Rules(allow=["127.0.0.2", f"10.0.{n}.0/24"]) for n in range(150)]
    with PoolManager(num_pools=2) as pm:
        for rules in [*sets, sets[0], sets[-1], *sets]:
            with use_rules(rules):
                pm.request("GET", server.url(), headers={"X-Rules": str(rules)})
        assert len(pm.pools) == 2
        assert len(pm._pinned) <= 64
    rode: dict[int, set[str]] = {}
    for seen in server.seen:
        rode.setdefault(seen.connection, set()).add(seen.headers["X-Rules"])
    assert all(len(each) == 1 for each in rode.values())
    assert len(rode) == 150 + 1 + 149  # two of the later requests found their own pool


def test_clear_closes_idle_connections_and_the_manager_can_be_used_again(site: Make) -> None:
    server = site("127.0.0.2")
    pm = PoolManager(GOOD)
    pm.request("GET", server.url())
    pm.clear()
    pm.request("GET", server.url())
    pm.clear()
    assert server.accepted == 2


def test_uploads_and_downloads_stream(site: Make) -> None:
    server = site("127.0.0.2")
    parts = [b"x" * 1000] * 300
    with PoolManager(GOOD, blocksize=4096) as pm:
        pm.request("POST", server.url("/echo"), body=iter(parts), chunked=True)
        pm.request("PUT", server.url("/echo"), body=b"".join(parts))
        response = pm.request("GET", server.url("/stream?n=300"), preload_content=False)
        assert sum(len(part) for part in response.stream(8192)) == 300_000
        response.release_conn()
    assert [len(seen.body) for seen in server.seen] == [300_000, 300_000, 0]
    assert server.accepted == 1


def test_gzip_is_decoded(site: Make) -> None:
    server = site("127.0.0.2", body=gzip.compress(b"hello" * 1000))
    with PoolManager(GOOD) as pm:
        response = pm.request("GET", server.url(), preload_content=False, decode_content=False)
        response.headers["Content-Encoding"] = "gzip"
        assert response.read(decode_content=True) == b"hello" * 1000


def test_a_blocking_pool_serves_many_threads_with_few_connections(site: Make) -> None:
    server = site("127.0.0.2")
    with PoolManager(GOOD, maxsize=2, block=True) as pm, ThreadPoolExecutor(16) as threads:
        fetched = threads.map(lambda _: body(pm.request("GET", server.url())), range(100))
        assert set(fetched) == {b"hello"}
    assert 1 <= server.accepted <= 2


def test_a_denial_gives_its_place_in_a_blocking_pool_back() -> None:
    with PoolManager(GOOD, resolver=Names(NAMES), maxsize=1, block=True) as pm:
        for _ in range(3):
            with pytest.raises(DeniedError):
                pm.request("GET", "http://bad.test/", pool_timeout=1)


def test_socket_options_and_source_address_reach_the_socket(site: Make) -> None:
    server = site("127.0.0.2")
    options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    with PoolManager(GOOD, socket_options=options, source_address=("127.0.0.7", 0)) as pm:
        response = pm.request("GET", server.url(), preload_content=False)
        sock = response.connection.sock  # type: ignore[union-attr]
        assert sock.getsockname()[0] == "127.0.0.7"
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert not sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        response.drain_conn()
    with PoolManager(GOOD) as pm:
        response = pm.request("GET", server.url(), preload_content=False)
        assert response.connection.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)  # type: ignore[union-attr]
        response.drain_conn()


def test_the_family_that_urllib3_is_told_to_use_is_asked_for(site: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    server, names = site("127.0.0.2"), Names(NAMES)
    monkeypatch.setattr("urllib3.util.connection.HAS_IPV6", False)
    with PoolManager(LOOPBACK, resolver=names) as pm:
        pm.request("GET", server.url(host="good.test"))
    assert names.asked == [("good.test", socket.AF_INET)]


@pytest.mark.parametrize("module", ["urllib3", "requests"])
def test_without_urllib3_the_import_fails_plainly(module: str) -> None:
    code = f"import sys; sys.modules['urllib3'] = None; import netjail.clients.{module}"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert "ModuleNotFoundError: import of urllib3" in ran.stderr


def test_urllib3_future_in_the_place_of_urllib3_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connections are none of http.client's, which is how the two are told apart."""
    monkeypatch.setattr("urllib3.connection.HTTPConnection", type("HTTPConnection", (), {}))
    assert jailed.__file__ is not None
    spec = importlib.util.spec_from_file_location("netjail.clients._again", jailed.__file__)
    assert spec is not None
    assert spec.loader is not None
    with pytest.raises(ImportError, match="urllib3-future"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
