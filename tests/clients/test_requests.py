"""requests under rules, against real servers on loopback: 127.0.0.2 is allowed and 127.0.0.3 is not."""

from __future__ import annotations

import copy
import gzip
import io
import logging
import pickle
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import requests
import trustme
from requests.adapters import HTTPAdapter
from requests.auth import HTTPBasicAuth
from urllib3.util import Retry

import netjail
from netjail import PUBLIC, Rules, use_rules
from netjail.clients import urllib3 as jailed_urllib3
from netjail.clients.requests import Adapter, DeniedError, Session
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


def mounted(rules: Rules | None = None, **keywords: Any) -> requests.Session:
    """A plain session with an Adapter, the other way to be jailed."""
    session = requests.Session()
    session.mount("http://", Adapter(rules, **keywords))
    session.mount("https://", Adapter(rules, **keywords))
    return session


@pytest.fixture(params=[Session, mounted])
def jailed(request: pytest.FixtureRequest) -> Make:
    """What makes a jailed session, in each of the two ways."""
    made: Make = request.param
    return made


@pytest.mark.proves("requests", "allowed")
def test_a_name_is_fetched_and_its_connection_is_kept(site: Make, jailed: Make) -> None:
    server = site("127.0.0.2")
    with jailed(GOOD, resolver=Names(NAMES)) as session:
        for _ in range(3):
            assert session.get(server.url(host="good.test")).content == b"hello"
    assert server.accepted == 1
    assert server.seen[0].headers["Host"] == f"good.test:{server.port}"


def test_four_fetches_of_one_url_follow_the_context(site: Make, jailed: Make) -> None:
    server = site("127.0.0.2")
    with jailed(resolver=Names(NAMES)) as session:
        url = server.url(host="good.test")
        with use_rules(GOOD):
            assert session.get(url).content == b"hello"
        with use_rules(OTHER), pytest.raises(DeniedError):
            session.get(url)
        with use_rules(GOOD):
            assert session.get(url).content == b"hello"
        with pytest.raises(DeniedError, match="no rules are in force"):
            session.get(url)
    assert server.accepted == 1
    assert len(server.seen) == 2


def test_the_context_only_narrows_what_was_given(site: Make, jailed: Make) -> None:
    server = site("127.0.0.2")
    with jailed(GOOD) as session:
        with use_rules(LOOPBACK):
            assert session.get(server.url()).content == b"hello"
        with use_rules(OTHER), pytest.raises(DeniedError):
            session.get(server.url())


@pytest.mark.proves("requests", "pools")
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_other_rules_never_ride_on_a_kept_connection(site: Make, server_tls: Make, scheme: str) -> None:
    server = site("127.0.0.2", tls=server_tls("good.test") if scheme == "https" else None)
    with Session(resolver=Names(NAMES)) as session, pytest.warns() if scheme == "https" else use_rules(GOOD):
        for rules in (GOOD, LOOPBACK, GOOD, Rules(allow=["127.0.0.2/32"]), LOOPBACK):
            with use_rules(rules):
                session.get(server.url(host="good.test"), verify=False)
    assert [seen.connection for seen in server.seen] == [1, 2, 1, 1, 2]  # equal rules share


def test_rules_stay_apart_under_concurrency(site: Make) -> None:
    server = site("127.0.0.2")
    sets = [Rules(allow=["127.0.0.2", f"10.0.0.{n}"]) for n in range(4)]

    def fetch(number: int) -> None:
        tenant = number % len(sets)
        with use_rules(sets[tenant]):
            assert session.get(server.url(), headers={"X-Tenant": str(tenant)}).content == b"hello"

    with Session() as session, ThreadPoolExecutor(8) as threads:
        list(threads.map(fetch, range(200)))
    tenants: dict[int, set[str]] = {}
    for seen in server.seen:
        tenants.setdefault(seen.connection, set()).add(seen.headers["X-Tenant"])
    assert len(server.seen) == 200
    assert all(len(each) == 1 for each in tenants.values())


@pytest.mark.proves("requests", "denied")
@pytest.mark.parametrize("retries", [0, 5, Retry(5, connect=5, other=5, status_forcelist=[500])])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_denial_is_looked_up_once_and_not_retried(trap: Make, jailed: Make, retries: Any, scheme: str) -> None:
    listener, names, dials = trap("127.0.0.3"), Names(NAMES), Dials()
    url = listener.url(host="bad.test").replace("http:", f"{scheme}:")
    options: dict[str, Any] = {"resolver": names, "connect": dials, "max_retries": retries}
    with jailed(GOOD, **options) as session, pytest.raises(DeniedError) as caught:
        session.get(url)
    assert isinstance(caught.value, netjail.DeniedError)
    assert isinstance(caught.value, requests.RequestException)
    assert not isinstance(caught.value, requests.ConnectionError)
    assert isinstance(caught.value.__cause__, jailed_urllib3.DeniedError)
    assert (caught.value.host, caught.value.port) == ("bad.test", listener.port)
    assert caught.value.request is not None
    assert (caught.value.request.url, caught.value.response) == (url, None)
    assert "127.0.0.3" not in str(caught.value)
    assert [str(decision.address) for decision in caught.value.decisions] == ["127.0.0.3"]
    assert names.asked == [("bad.test", socket.AF_INET)]
    assert dials.addresses == []


def test_a_denial_pickles_with_its_request() -> None:
    with Session(GOOD, resolver=Names(NAMES)) as session, pytest.raises(DeniedError) as caught:
        session.post("http://bad.test/", json={"a": 1})
    copies: list[Any] = [pickle.loads(pickle.dumps(caught.value)), copy.copy(caught.value)]
    for again in copies:
        assert (type(again), str(again)) == (DeniedError, str(caught.value))
        assert (again.host, again.port) == ("bad.test", 80)
        assert (again.request.url, again.request.body, again.response) == ("http://bad.test/", b'{"a": 1}', None)


@pytest.mark.parametrize("rules", [None, Rules(), Rules(allow=["127.0.0.2"], block=["127.0.0.0/8"])])
def test_rules_that_accept_nothing_ask_no_resolver(jailed: Make, rules: Rules | None) -> None:
    names = Names(NAMES)
    with jailed(rules, resolver=names) as session, pytest.raises(DeniedError):
        session.get("http://good.test/")
    assert names.asked == []


INSIDE = "127.0.0.3 2130706435 127.3 0x7f000003 0177.0.0.3 0 ①②⑦.⓪.⓪.③ 127。0。0。3 localhost"
INSIDE6 = "[::1] [::] [::ffff:127.0.0.3] [::127.0.0.3] [64:ff9b::7f00:3] [2002:7f00:3::] [::1%25lo]"


@pytest.mark.proves("requests", "literal")
@pytest.mark.parametrize("host", f"{INSIDE} {INSIDE6}".split())
def test_no_spelling_of_an_inside_address_is_reached(trap: Make, host: str) -> None:
    port = trap("127.0.0.3").port
    trap("127.0.0.1", port=port)
    trap("::1", port=port)
    everything = Rules(allow=["0.0.0.0/0", "::/0"], block=["127.0.0.0/8", "::1"])
    unheard = (DeniedError, requests.exceptions.InvalidURL, requests.ConnectionError)
    with Session(everything) as session, pytest.raises(unheard):
        session.get(f"http://{host}:{port}/", timeout=5)


@pytest.mark.parametrize("host", ["[2606:4700:4700::1111]", "8.8.8.8", "v6.test"])
def test_a_public_address_is_reached_as_itself(site: Make, host: str) -> None:
    dials = Dials(site())
    with Session(PUBLIC, resolver=Names({"v6.test": ["2606:4700:4700::1111"]}), connect=dials) as session:
        assert session.get(f"http://{host}/").content == b"hello"
    assert dials.addresses == ["8.8.8.8" if host == "8.8.8.8" else "2606:4700:4700::1111"]


def test_of_a_mixed_answer_the_accepted_address_is_dialled_or_none(site: Make, trap: Make) -> None:
    server = site("127.0.0.2")
    trap("127.0.0.3", port=server.port)
    with Session(GOOD, resolver=Names(NAMES)) as session:
        assert session.get(server.url(host="mixed.test")).content == b"hello"
    with Session(GOOD, resolver=Names(NAMES), mixed="refuse") as session, pytest.raises(DeniedError):
        session.get(server.url(host="mixed.test"))


def test_a_dead_first_address_does_not_stop_the_second(site: Make) -> None:
    server = site("127.0.0.2")
    with Session(LOOPBACK, resolver=Names({"half.test": ["127.0.0.9", "127.0.0.2"]})) as session:
        assert session.get(server.url(host="half.test")).content == b"hello"


def test_a_name_that_rebinds_is_judged_at_each_dial(site: Make, trap: Make) -> None:
    server = site("127.0.0.2")
    trap("127.0.0.3", port=server.port)
    names = Names({"rebind.test": iter([["127.0.0.2"], ["127.0.0.3"]])})
    with Session(GOOD, resolver=names) as session:
        assert session.get(server.url("/close", host="rebind.test")).content == b"hello"
        with pytest.raises(DeniedError):
            session.get(server.url(host="rebind.test"))


def test_a_retry_is_judged_again(site: Make, trap: Make) -> None:
    server = site("127.0.0.2")
    trap("127.0.0.3", port=server.port)
    answers: Iterator[Any] = iter([socket.gaierror(socket.EAI_AGAIN, "not now"), ["127.0.0.3"], ["127.0.0.2"]])
    names = Names({"flaky.test": answers})
    with Session(GOOD, resolver=names, max_retries=5) as session, pytest.raises(DeniedError):
        session.get(server.url(host="flaky.test"))
    assert len(names.asked) == 2


def test_redirects_keep_history_and_cookies(site: Make, jailed: Make) -> None:
    server, other = site("127.0.0.2"), site("127.0.0.2", body=b"other")
    with jailed(GOOD, resolver=Names(NAMES)) as session:
        session.get(server.url("/cookie?taste=sweet", host="good.test"))
        response = session.get(server.url(f"/redirect?to={other.url(host='good.test')}", host="good.test"))
    assert (response.content, response.url) == (b"other", other.url(host="good.test"))
    assert [hop.status_code for hop in response.history] == [302]
    assert other.seen[0].headers["Cookie"] == "taste=sweet"


@pytest.mark.proves("requests", "announced")
@pytest.mark.parametrize("to", ["bad.test", "127.0.0.3", "2130706435", "[::ffff:127.0.0.3]"])
@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirect_to_the_inside_is_denied(site: Make, trap: Make, jailed: Make, to: str, code: int) -> None:
    server, listener = site("127.0.0.2"), trap("127.0.0.3")
    names = Names({**NAMES, "2130706435": ["127.0.0.3"]})
    with jailed(GOOD, resolver=names) as session, pytest.raises(DeniedError) as caught:
        session.get(server.url(f"/redirect?code={code}&to=http://{to}:{listener.port}/"))
    assert caught.value.request is not None
    assert caught.value.request.url == f"http://{to}:{listener.port}/"


@pytest.mark.proves("requests", "tls", "wrong-name")
def test_tls_is_verified_under_the_name_that_was_asked_for(
    site: Make, server_tls: Make, ca: trustme.CA, tmp_path: Path, jailed: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):  # a plain session prefers these to its own verify
        monkeypatch.delenv(name, raising=False)
    server = site("127.0.0.2", tls=server_tls("good.test", "twin.test"))
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    names = Names({**NAMES, "twin.test": ["127.0.0.2"], "wrong.test": ["127.0.0.2"]})
    with jailed(GOOD, resolver=names) as session:
        session.verify = str(tmp_path / "ca.pem")
        for host in ("good.test", "twin.test", "good.test", "twin.test"):
            assert session.get(server.url(host=host)).content == b"hello"
        with pytest.raises(requests.exceptions.SSLError):
            session.get(server.url(host="wrong.test"))
        with pytest.raises(requests.exceptions.SSLError):
            session.get(server.url(host="good.test"), verify=True)
    assert [seen.connection for seen in server.seen] == [1, 2, 1, 2]


def test_a_client_certificate_is_shown(site: Make, server_tls: Make, ca: trustme.CA, tmp_path: Path) -> None:
    context = server_tls("good.test")
    context.verify_mode = ssl.CERT_REQUIRED
    ca.configure_trust(context)
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    issued = ca.issue_cert("client.test")
    issued.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    issued.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    server = site("127.0.0.2", tls=context)
    with Session(GOOD, resolver=Names(NAMES)) as session:
        session.verify = str(tmp_path / "ca.pem")
        with pytest.raises(requests.ConnectionError):
            session.get(server.url(host="good.test"))
        cert = (str(tmp_path / "cert.pem"), str(tmp_path / "key.pem"))
        assert session.get(server.url(host="good.test"), cert=cert).content == b"hello"


@pytest.mark.skipif(version("requests") == "2.32.2", reason="it puts a TLS context of its own in the place of others")
def test_a_subclass_may_bring_its_own_tls_context(site: Make, server_tls: Make, client_tls: ssl.SSLContext) -> None:
    class Trusting(Adapter):
        def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
            super().init_poolmanager(*args, ssl_context=client_tls, **kwargs)

    server = site("127.0.0.2", tls=server_tls("good.test"))
    with Session(GOOD) as session:
        session.mount("https://", Trusting(GOOD, resolver=Names(NAMES)))
        assert session.get(server.url(host="good.test")).content == b"hello"


def test_a_subclass_that_brings_a_pool_manager_of_its_own_is_refused() -> None:
    class Unguarded(Adapter):
        def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
            HTTPAdapter.init_poolmanager(self, *args, **kwargs)

    with pytest.raises(TypeError, match="init_poolmanager"):
        Unguarded(GOOD)


@pytest.fixture
def proxy(trap: Make, monkeypatch: pytest.MonkeyPatch) -> Trap:
    """A proxy on loopback that the environment names and nobody may use."""
    listener: Trap = trap("127.0.0.1")
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, listener.url())
        monkeypatch.setenv(name.lower(), listener.url())
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    return listener


def test_a_session_leaves_the_environment_out(
    site: Make, proxy: Trap, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.2 login user password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    server = site("127.0.0.2")
    with Session(LOOPBACK) as session:
        assert session.get(server.url("/redirect?to=/")).content == b"hello"
        assert session.send(requests.Request("GET", server.url()).prepare()).content == b"hello"
    assert "Authorization" not in server.seen[0].headers
    assert not caplog.records


def test_verify_is_not_overruled_by_the_environment(
    site: Make, server_tls: Make, ca: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = site("127.0.0.2", tls=server_tls("good.test"))
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    with Session(GOOD, resolver=Names(NAMES)) as session, pytest.raises(requests.exceptions.SSLError):
        session.get(server.url(host="good.test"))


def test_a_mounted_adapter_leaves_proxies_out_and_says_so(
    site: Make, proxy: Trap, trap: Make, caplog: pytest.LogCaptureFixture
) -> None:
    server, listener = site("127.0.0.2"), trap("127.0.0.3")
    with mounted(GOOD) as session, caplog.at_level(logging.WARNING, logger="netjail"):
        assert session.get(server.url("/?token=secret")).content == b"hello"
        with pytest.raises(DeniedError):
            session.get(listener.url(), proxies={"http": f"http://user:secret@127.0.0.1:{proxy.port}"})
        with pytest.raises(DeniedError):
            session.get(listener.url().replace("http:", "https:"))
    assert [(record.name, record.levelname) for record in caplog.records] == [("netjail", "WARNING")] * 3
    assert "a proxy for 127.0.0.2 is left out" in caplog.text
    assert "secret" not in caplog.text
    assert server.seen[0].path == "/?token=secret"


@pytest.mark.usefixtures("proxy")
def test_credentials_for_a_proxy_that_was_left_out_do_not_reach_the_target(
    site: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = site("127.0.0.2")
    monkeypatch.setenv("http_proxy", "http://user:secret@127.0.0.1:1")
    with mounted(GOOD) as session:
        assert session.get(server.url("/redirect?to=/")).content == b"hello"
    assert len(server.seen) == 2
    assert not any("Proxy-Authorization" in seen.headers for seen in server.seen)


PROXIES = [{"http": "http://127.0.0.1:1"}, {"https": "socks5://127.0.0.1:1"}, {"all://host": "127.0.0.1:1"}]


@pytest.mark.parametrize("proxies", PROXIES)
def test_a_session_refuses_proxies_wherever_they_are_given(proxies: dict[str, str]) -> None:
    prepared = requests.Request("GET", "http://127.0.0.2:1/").prepare()
    with Session(LOOPBACK) as session:
        with pytest.raises(ValueError, match="no proxying yet"):
            session.get("http://127.0.0.2:1/", proxies=proxies)
        with pytest.raises(ValueError, match="no proxying yet"):
            session.send(prepared, proxies=proxies)
        session.proxies.update(proxies)
        with pytest.raises(ValueError, match="no proxying yet"):
            session.get("http://127.0.0.2:1/")
        with pytest.raises(ValueError, match="no proxying yet"):
            session.send(prepared)


@pytest.mark.usefixtures("proxy")
def test_a_session_that_trusts_the_environment_again_refuses_its_proxies(site: Make) -> None:
    server = site("127.0.0.2")
    with Session(LOOPBACK) as session:
        session.trust_env = True
        with pytest.raises(ValueError, match="no proxying yet"):
            session.get(server.url())
        with pytest.raises(ValueError, match="no proxying yet"):
            session.send(requests.Request("GET", server.url()).prepare())
        session.trust_env = False
        assert session.get(server.url()).content == b"hello"
    assert server.accepted == 1


@pytest.mark.parametrize("proxies", [None, {}, {"http": None, "https": None}, {"http": ""}, {"no_proxy": "*"}])
def test_proxies_that_name_none_are_fine(site: Make, jailed: Make, proxies: Any) -> None:
    server = site("127.0.0.2")
    with jailed(GOOD) as session:
        assert session.get(server.url(), proxies=proxies).content == b"hello"


@pytest.mark.parametrize("make", [Adapter, Session])
@pytest.mark.parametrize("name", ["proxy", "proxies"])
def test_proxy_arguments_are_refused(make: Any, name: str) -> None:
    with pytest.raises(ValueError, match="no proxying yet"):
        make(GOOD, **{name: {"http": "http://127.0.0.1:1"}})


def test_no_way_into_an_adapter_makes_a_proxy_manager() -> None:
    adapter = Adapter(LOOPBACK)
    request = requests.Request("GET", "http://127.0.0.2:1/").prepare()
    with pytest.raises(ValueError, match="no proxying yet"):
        adapter.proxy_manager_for("http://127.0.0.1:1")
    with pytest.raises(ValueError, match="no proxying yet"):
        adapter.get_connection_with_tls_context(request, verify=True, proxies=PROXIES[0])


@pytest.mark.parametrize("again", [lambda it: pickle.loads(pickle.dumps(it)), copy.deepcopy], ids=["pickle", "copy"])
def test_a_session_is_as_jailed_after_a_journey(site: Make, trap: Make, jailed: Make, again: Make) -> None:
    server, listener = site("127.0.0.2"), trap("127.0.0.3")
    with jailed(GOOD, resolver=Names(NAMES), max_retries=3, pool_maxsize=4) as session:
        session.headers["X-Kept"] = "yes"
        session.get(server.url("/cookie?taste=sweet", host="good.test"))
        with again(session) as other:
            assert type(other) is type(session)
            assert (other.trust_env, other.get_adapter("http://a/").max_retries.total) == (session.trust_env, 3)
            assert other.get(server.url(host="good.test")).content == b"hello"
            with pytest.raises(DeniedError):
                other.get(listener.url(host="bad.test"))
    assert server.seen[1].headers["X-Kept"] == "yes"
    assert server.seen[1].headers["Cookie"] == "taste=sweet"
    assert server.accepted == 2


def test_an_adapter_without_rules_takes_those_of_the_context_after_a_journey(site: Make) -> None:
    server = site("127.0.0.2")
    with use_rules(GOOD):
        adapter = pickle.loads(pickle.dumps(Adapter()))
    with requests.Session() as session:
        session.mount("http://", adapter)
        with pytest.raises(DeniedError):
            session.get(server.url())
        with use_rules(GOOD):
            assert session.get(server.url()).content == b"hello"


def test_streams_uploads_files_json_auth_and_hooks_work(site: Make, jailed: Make) -> None:
    server = site("127.0.0.2")
    hooked: list[int] = []
    with jailed(GOOD) as session:
        session.auth = HTTPBasicAuth("user", "password")
        session.hooks["response"].append(lambda response, **_: hooked.append(response.status_code))
        with session.get(server.url("/stream?n=300"), stream=True) as response:
            assert sum(len(part) for part in response.iter_content(8192)) == 300_000
        session.post(server.url("/echo"), data=iter([b"x" * 1000] * 300))
        session.post(server.url("/echo"), data=io.BytesIO(b"y" * 300_000))
        session.post(server.url("/echo"), files={"file": ("a.txt", b"contents")})
        echo = session.put(server.url("/echo"), json={"a": 1}, params={"q": "1"}).json()
    assert [len(seen.body) for seen in server.seen[1:3]] == [300_000, 300_000]
    assert server.seen[1].headers["Transfer-Encoding"] == "chunked"
    assert b"contents" in server.seen[3].body
    assert (echo["body"], echo["path"]) == ('{"a": 1}', "/echo?q=1")
    assert echo["headers"]["Authorization"].startswith("Basic ")
    assert hooked == [200] * 5
    assert server.accepted == 1


def test_gzip_is_decoded(site: Make) -> None:
    server = site("127.0.0.2", body=gzip.compress(b"hello" * 1000))
    with Session(GOOD) as session, session.get(server.url(), stream=True) as response:
        response.raw.headers["Content-Encoding"] = "gzip"
        assert response.raw.read(decode_content=True) == b"hello" * 1000


def test_timeouts_and_refusals_are_those_of_requests(site: Make) -> None:
    server = site("127.0.0.2")
    with socket.create_server(("127.0.0.2", 0)) as listener:
        free = listener.getsockname()[1]

    def late(address: tuple[str, int], *, timeout: float | None) -> socket.socket:
        raise TimeoutError("timed out")

    with Session(GOOD) as session:
        with socket.create_server(("127.0.0.2", 0)) as silent, pytest.raises(requests.ReadTimeout):
            session.get(f"http://127.0.0.2:{silent.getsockname()[1]}/", timeout=(5, 0.05))
        with pytest.raises(requests.ConnectionError) as caught:
            session.get(f"http://127.0.0.2:{free}/")
        assert not isinstance(caught.value, netjail.DeniedError)
    with Session(GOOD, connect=late) as session, pytest.raises(requests.ConnectTimeout):
        session.get(server.url())
    with Session(GOOD, resolver=Names({})) as session, pytest.raises(requests.ConnectionError, match="resolve"):
        session.get("http://nowhere.test/")


def test_retries_by_status_work(site: Make) -> None:
    server = site("127.0.0.2")
    retries = Retry(2, status_forcelist=[503])
    with Session(GOOD, max_retries=retries) as session, pytest.raises(requests.exceptions.RetryError):
        session.get(server.url("/status?code=503"))
    assert len(server.seen) == 3


def test_a_blocking_pool_serves_many_threads_with_few_connections(site: Make) -> None:
    server = site("127.0.0.2")
    with Session(GOOD, pool_maxsize=2, pool_block=True) as session, ThreadPoolExecutor(16) as threads:
        assert set(threads.map(lambda _: session.get(server.url()).content, range(100))) == {b"hello"}
    assert 1 <= server.accepted <= 2


def test_an_evicted_pool_lets_its_response_finish(site: Make) -> None:
    server, other = site("127.0.0.2"), site("127.0.0.2")
    with Session(pool_connections=1) as session:
        with use_rules(GOOD):
            response = session.get(server.url("/stream?n=300"), stream=True)
        with use_rules(LOOPBACK):
            assert session.get(other.url()).content == b"hello"
        assert len(response.content) == 300_000


def test_close_closes_what_is_idle(site: Make) -> None:
    server = site("127.0.0.2")
    adapter = Adapter(GOOD)
    with requests.Session() as session:
        session.mount("http://", adapter)
        session.get(server.url())
        adapter.close()
        assert len(adapter.poolmanager.pools) == 0
        session.get(server.url())
    assert server.accepted == 2


def test_without_requests_the_import_fails_plainly() -> None:
    code = "import sys; sys.modules['requests'] = None; import netjail.clients.requests"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert "ModuleNotFoundError: import of requests" in ran.stderr
