"""Elasticsearch's and OpenSearch's clients under rules: 127.0.0.2 is allowed and 127.0.0.3 is not.

The server is a stand-in, which knows one document and announces what nodes it is told to.
"""

from __future__ import annotations

import inspect
import json
import logging
import pickle
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from hashlib import sha256
from ssl import PEM_cert_to_DER_cert, SSLContext, get_server_certificate
from typing import Any

import elastic_transport
import elasticsearch
import opensearchpy
import pytest

import netjail
from netjail import Rules, find_denied, use_rules
from netjail.clients import elasticsearch as jailed_elasticsearch
from netjail.clients import opensearch as jailed_opensearch
from tests.guard.harness import run_guarded
from tests.servers.names import BAD, GOOD, AsyncNames, Names
from tests.servers.site import Seen, Site, _Handler

Make = Callable[..., Any]
RULES = Rules(allow=[GOOD])
OTHER = Rules(allow=[BAD])
LOOPBACK = Rules(allow=["127.0.0.0/8"])
ROWS = {
    "es": "elasticsearch, sync",
    "es async": "elasticsearch, async",
    "os": "opensearch-py, sync",
    "os async": "opensearch-py, async",
}

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("nothing_left_behind")]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """What opensearch-py logs of a failure holds its frames, and pytest holds what was logged."""
    caplog.set_level(logging.CRITICAL, logger="opensearch")


def each(*what: str) -> pytest.MarkDecorator:
    """Runs a test for each client, for which it proves ``what``."""
    marked = [pytest.param(kind, marks=pytest.mark.proves(row, *what) if what else ()) for kind, row in ROWS.items()]
    return pytest.mark.parametrize("kind", marked)


class Cluster(Site):
    """A node of a cluster that announces ``nodes``, as ``host/ip:port`` or ``ip:port``."""

    def __init__(self, address: str = GOOD, *, port: int = 0, tls: SSLContext | None = None) -> None:
        self.nodes: list[str] = []
        super().__init__(address, port=port, tls=tls)
        self._server.RequestHandlerClass = _Node


class _Node(_Handler):
    def _any(self) -> None:
        cluster: Any = self.server.site
        body = self._read_body()
        number: Any = self.client_address[0]
        cluster.seen.append(Seen(number, self.command, self.path, dict(self.headers.items()), body))
        if self.path.startswith("/_nodes"):
            nodes = {str(n): {"http": {"publish_address": at}, "roles": ["data"]} for n, at in enumerate(cluster.nodes)}
            answer: dict[str, Any] = {"cluster_name": "c", "nodes": nodes}
        elif self.path.startswith("/shop/_doc/1"):
            answer = {"_index": "shop", "_id": "1", "found": True, "_source": {"connection": number}}
        elif self.path.startswith("/away"):
            self._send(302, b"", [("Location", "http://127.0.0.3:1/"), ("X-Elastic-Product", "Elasticsearch")])
            return
        else:
            version = {"number": "9.0.0", "distribution": "opensearch", "build_flavor": "default"}
            answer = {"version": version, "tagline": "You Know, for Search"}
        kind = [("Content-Type", "application/json"), ("X-Elastic-Product", "Elasticsearch")]
        self._send(200, json.dumps(answer).encode(), kind)

    do_GET = do_POST = do_PUT = do_HEAD = _any


@pytest.fixture
def cluster() -> Iterator[Callable[..., Cluster]]:
    made: list[Cluster] = []

    def make(*args: Any, **kwargs: Any) -> Cluster:
        made.append(Cluster(*args, **kwargs))
        return made[-1]

    yield make
    for each_ in made:
        each_.close()


@asynccontextmanager
async def client(
    kind: str, rules: Rules | None, *urls: str, names: Any = None, jail: Any = None, **more: Any
) -> AsyncIterator[Any]:
    names = names or (AsyncNames() if "async" in kind else Names())
    jail = {"resolver": names, **(jail or {})}
    if kind == "es":
        made: Any = elasticsearch.Elasticsearch(
            list(urls), node_class=jailed_elasticsearch.node_class(rules, **jail), **more
        )
    elif kind == "es async":
        made = elasticsearch.AsyncElasticsearch(
            list(urls), node_class=jailed_elasticsearch.async_node_class(rules, **jail), **more
        )
    elif kind == "os":
        made = opensearchpy.OpenSearch(
            list(urls), connection_class=jailed_opensearch.connection_class(rules, **jail), **more
        )
    else:
        made = opensearchpy.AsyncOpenSearch(
            list(urls), connection_class=jailed_opensearch.async_connection_class(rules, **jail), **more
        )
    try:
        yield made
    finally:
        await settled(made.close())


async def settled(answer: Any) -> Any:
    return await answer if inspect.isawaitable(answer) else answer


async def ask(made: Any) -> int:
    """The number of the connection on which the document came."""
    document = await settled(made.get(index="shop", id="1"))
    return int(document["_source"]["connection"])


def own_error(kind: str) -> tuple[Any, Any]:
    if kind.startswith("es"):
        return jailed_elasticsearch.DeniedError, elastic_transport.TransportError
    return jailed_opensearch.DeniedError, opensearchpy.TransportError


@each("allowed")
async def test_a_document_comes_from_an_allowed_name_on_a_kept_connection(kind: str, cluster: Make) -> None:
    server = cluster()
    async with client(kind, RULES, server.url(host="good.test")) as made:
        assert [await ask(made) for _ in range(3)] == [1, 1, 1]
    assert server.seen[0].headers["Host"] == f"good.test:{server.port}"


@each("denied")
async def test_a_denied_name_opens_nothing_and_is_asked_for_once(kind: str, trap: Make) -> None:
    names = AsyncNames() if "async" in kind else Names()
    denied, theirs = own_error(kind)
    async with client(kind, RULES, trap(BAD).url(host="bad.test"), names=names, max_retries=5) as made:
        with pytest.raises(denied) as caught:
            await ask(made)
    assert isinstance(caught.value, theirs)
    assert isinstance(caught.value, netjail.DeniedError)
    assert caught.value.host == "bad.test"
    assert len(names.asked) == 1
    copied = pickle.loads(pickle.dumps(caught.value))
    assert (type(copied), str(copied)) == (denied, str(caught.value))


@each("literal")
async def test_a_denied_literal_opens_nothing(kind: str, trap: Make) -> None:
    async with client(kind, RULES, trap(BAD).url()) as made:
        with pytest.raises(own_error(kind)[0]):
            await ask(made)


@each()
async def test_a_denial_has_what_every_error_of_the_library_has(kind: str) -> None:
    async with client(kind, RULES, f"http://{BAD}:1") as made:
        with pytest.raises(own_error(kind)[0]) as caught:
            await ask(made)
    if kind.startswith("es"):
        assert caught.value.message == str(caught.value)
        assert caught.value.errors == ()
    else:
        assert (caught.value.status_code, caught.value.error) == ("N/A", str(caught.value))
        assert isinstance(caught.value.info, netjail.DeniedError)


@each("tls", "wrong-name")
async def test_tls_is_checked_against_the_name(kind: str, cluster: Make, server_tls: Make, pem: Make) -> None:
    server = cluster(tls=server_tls("good.test"))
    tls = {"ca_certs": str(pem("other.test").ca)}
    async with client(kind, RULES, server.url(host="good.test"), **tls) as made:
        assert await ask(made) == 1
    _, theirs = own_error(kind)
    async with client(kind, RULES, server.url(host="wrong.test"), max_retries=0, **tls) as made:
        with pytest.raises(theirs) as caught:
            await ask(made)
        assert "certificate is not valid for 'wrong.test'" in f"{caught.value!r} {caught.value}".replace("\\", "")
    assert len(server.seen) == 1


@pytest.mark.parametrize("kind", ["es", "os"])
async def test_a_fingerprint_is_checked(kind: str, cluster: Make, server_tls: Make) -> None:
    """It is what remains where certificates are not verified, and must not get lost on the way."""
    server = cluster(tls=server_tls("good.test"))
    url = server.url(host="good.test")
    served = PEM_cert_to_DER_cert(get_server_certificate((GOOD, server.port)))
    options: dict[str, Any] = {"verify_certs": False, "ssl_show_warn": False, "max_retries": 0}
    async with client(kind, RULES, url, ssl_assert_fingerprint=sha256(served).hexdigest(), **options) as made:
        assert await ask(made)
    async with client(kind, RULES, url, ssl_assert_fingerprint="00" * 32, **options) as made:
        with pytest.raises(own_error(kind)[1]):
            await ask(made)
    assert len(server.seen) == 1


def announces(kind: str, server: Cluster, **options: Any) -> dict[str, Any]:
    """Options that make a client ask for the nodes of the cluster before anything else."""
    server.nodes = [f"good.test/{GOOD}:{server.port}"]
    key = "sniff_on_node_failure" if kind.startswith("es") else "sniff_on_connection_fail"
    return {"sniff_on_start": True, key: False, **options}


@each("announced")
async def test_announced_nodes_are_judged(kind: str, cluster: Make, trap: Make) -> None:
    server = cluster()
    trap(BAD, port=server.port)
    options = announces(kind, server)
    async with client(kind, RULES, server.url(host="good.test"), **options) as made:
        assert await ask(made)
    for announced in (f"{BAD}:{server.port}", f"bad.test/{BAD}:{server.port}"):
        server.nodes = [announced]
        before = len([seen for seen in server.seen if "shop" in seen.path])
        with pytest.raises(Exception) as caught:
            async with client(kind, RULES, server.url(host="good.test"), max_retries=0, **options) as made:
                for _ in range(2):  # the seed may stay in the pool
                    await ask(made)
        assert find_denied(caught.value)
        assert len([seen for seen in server.seen if "shop" in seen.path]) <= before + 1


@each("pools")
async def test_no_connection_serves_under_other_rules_than_its_own(kind: str, cluster: Make) -> None:
    server = cluster()
    async with client(kind, None, server.url(host="good.test"), max_retries=0) as made:
        seen = []
        for rules in (RULES, LOOPBACK, RULES, LOOPBACK):
            with use_rules(rules):
                seen.append(await ask(made))
        assert seen == [1, 2, 1, 2]
        with use_rules(OTHER), pytest.raises(own_error(kind)[0]):
            await ask(made)
        with pytest.raises(own_error(kind)[0], match="no rules are in force"):
            await ask(made)
    assert server.accepted == 2


@each("refused")
async def test_proxies_of_the_environment_open_nothing(
    kind: str, cluster: Make, trap: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = trap("127.0.0.1")
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy.url())
        monkeypatch.setenv(name.lower(), proxy.url())
    server = cluster()
    async with client(kind, LOOPBACK, server.url(host="good.test")) as made:
        assert await ask(made) == 1
    if kind == "os async":
        async with client(kind, LOOPBACK, server.url(host="good.test"), trust_env=True) as made:
            with pytest.raises(jailed_opensearch.DeniedError, match="a proxy"):
                await ask(made)


@each()
async def test_redirects_lead_nowhere_else(kind: str, cluster: Make) -> None:
    """Those over urllib3 follow no redirect to another host; aiohttp follows it, and it is judged."""
    server = cluster()
    async with client(kind, RULES, server.url(host="good.test"), max_retries=0) as made:
        with pytest.raises((elasticsearch.TransportError, elasticsearch.ApiError, opensearchpy.OpenSearchException)):
            await settled(made.get(index="away", id="1"))


@each()
async def test_closing_closes_the_connections_of_all_rules(kind: str, cluster: Make) -> None:
    """nothing_left_behind counts the descriptors."""
    server = cluster()
    async with client(kind, None, server.url(host="good.test")) as made:
        for rules in (RULES, LOOPBACK):
            with use_rules(rules):
                await ask(made)
    assert server.accepted == 2


@pytest.mark.parametrize("kind", ["es", "os"])
async def test_a_connect_of_ones_own_is_used(kind: str, cluster: Make) -> None:
    server = cluster()
    dialled: list[Any] = []

    def connect(address: Any, *, timeout: float | None) -> Any:
        dialled.append(address)
        return netjail.Dialer(RULES).connect(address, timeout)

    async with client(kind, RULES, server.url(host="good.test"), jail={"connect": connect}) as made:
        assert await ask(made) == 1
    assert dialled == [(GOOD, server.port)]


PLAIN = """
import elasticsearch, opensearchpy
from elastic_transport import TransportError
ways = {
    "requests": lambda url: elasticsearch.Elasticsearch(url, node_class="requests"),
    "urllib3": lambda url: elasticsearch.Elasticsearch(url),
    "os requests": lambda url: opensearchpy.OpenSearch(url, connection_class=opensearchpy.RequestsHttpConnection),
    "os urllib3": lambda url: opensearchpy.OpenSearch(url),
}
def fetch(way, host):
    client = ways[way](f"http://{host}:{port}")
    assert client.get(index="shop", id="1")["found"]
for way in ways:
    print(way, *(outcome(fetch, way, host) for host in ("good.test", "bad.test", BAD)))
"""


@pytest.mark.proves("elasticsearch, guard", "allowed", "denied", "literal")
@pytest.mark.proves("opensearch-py, guard", "allowed", "denied", "literal")
async def test_under_the_guard_every_plain_node_is_judged(cluster: Make, trap: Make) -> None:
    server = cluster()
    trap(BAD, port=server.port)
    lines = run_guarded(PLAIN, port=server.port)
    assert lines == [f"{way} ok denied denied" for way in ("requests", "urllib3", "os requests", "os urllib3")]
