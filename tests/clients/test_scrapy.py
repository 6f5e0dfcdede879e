"""Scrapy under rules, in crawls of their own, as a reactor runs once in a process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.guard.harness import run
from tests.servers.names import BAD, GOOD
from tests.servers.site import Site, Trap

default_settings: Any = pytest.importorskip("scrapy.settings.default_settings")

Make = Callable[..., Any]
proves = pytest.mark.proves
CONTEXTS = "scrapy.core.downloader.contextfactory"

PROGRAM = """
from scrapy import Request, Spider
from scrapy.crawler import CrawlerProcess
from netjail.clients import scrapy as jailed

class Names:
    def lookup(self, host, family):
        return HOSTS[host]

asked = []

class Ask(Spider):
    def start_requests(self):
        for number, url in enumerate(self.urls):
            meta = {"number": number, **self.meta}
            yield Request(url, callback=self.fetched, errback=self.failed, dont_filter=True, meta=meta)

    async def start(self):
        for request in self.start_requests():
            yield request

    def fetched(self, response):
        asked.append((self.name, response.meta["number"], response.text, 0))

    def failed(self, failure):
        retries = failure.request.meta.get("retry_times", 0)
        what = "denied" if isinstance(failure.value, jailed.DeniedError) else type(failure.value).__name__
        asked.append((self.name, failure.request.meta["number"], what, retries))

process = CrawlerProcess(REACTOR)
for name, (urls, settings, meta) in CRAWLS.items():
    every = {
        "DOWNLOAD_HANDLERS": jailed.DOWNLOAD_HANDLERS,
        "NETJAIL_RULES": Rules(allow=[GOOD]),
        "NETJAIL_RESOLVER": Names(),
        "ROBOTSTXT_OBEY": False,
        "RETRY_TIMES": 3,
        "HTTPPROXY_ENABLED": False,
        "TELNETCONSOLE_ENABLED": False,
        "LOG_ENABLED": False,
        "CONCURRENT_REQUESTS": 1,
    }
    about = {"name": name, "urls": urls, "meta": meta, "custom_settings": {**every, **settings}}
    process.crawl(type(name, (Ask,), about))
process.start()
for name, _, what, retries in sorted(asked):
    print(name, what, retries)
"""


class Crawls:
    """Crawls that one process does: what became of each request, and how often it was retried."""

    def __init__(self) -> None:
        self._asked: dict[str, Any] = {}
        self._told: list[str] = []

    def add(self, name: str, *urls: str, settings: Any = None, meta: Any = None) -> None:
        self._asked[name] = (urls, settings or {}, meta or {})

    def run(self, **settings: Any) -> None:
        self._told = run(PROGRAM, CRAWLS=self._asked, REACTOR=settings)

    def __getitem__(self, name: str) -> list[str]:
        return [what for each, _, what in (line.partition(" ") for line in self._told) if each == name]


class Servers:
    """What the crawls find on loopback."""

    def __init__(self, tls: Any) -> None:
        self.site, self.secure = Site(GOOD), Site(GOOD, tls=tls)
        self.inside = Trap(BAD, port=self.site.port)
        self.inside_tls = Trap(BAD, port=self.secure.port)
        self.untouched, self.proxy = Trap(GOOD), Trap(GOOD)

    def traps(self) -> list[Trap]:
        return [self.inside, self.inside_tls, self.untouched, self.proxy]

    def close(self) -> None:
        self.site.close()
        self.secure.close()
        for trap in self.traps():
            trap.close()


@pytest.fixture(scope="module")
def servers(server_tls: Make) -> Iterator[Servers]:
    made = Servers(server_tls("good.test"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def crawls(servers: Servers, pem: Make) -> Crawls:
    site, inside, untouched = servers.site, servers.inside, servers.untouched
    proxy = f"http://{GOOD}:{servers.proxy.port}"
    done = Crawls()
    done.add("plain", *(site.url(host=host) for host in ("good.test", GOOD, "mixed.test", "bad.test", BAD)))
    hops = (site.url(host="good.test"), inside.url(), inside.url(host="bad.test"))
    done.add("redirects", *(site.url(f"/redirect?to={to}") for to in hops))
    done.add("tls", servers.secure.url(host="good.test"), servers.secure.url(host="bad.test"))
    verified: Any = {"DOWNLOAD_VERIFY_CERTIFICATES": True}
    if not hasattr(default_settings, "DOWNLOAD_VERIFY_CERTIFICATES"):
        verified = {"DOWNLOADER_CLIENTCONTEXTFACTORY": f"{CONTEXTS}.BrowserLikeContextFactory"}
    done.add("verified", *(servers.secure.url(host=f"{each}.test") for each in ("good", "wrong")), settings=verified)
    done.add("mixed", site.url(host="mixed.test"), settings={"NETJAIL_MIXED": "refuse"})
    done.add("without", untouched.url(), settings={"NETJAIL_RULES": None})
    done.add("proxy", untouched.url(), meta={"proxy": proxy})
    done.add("environment", untouched.url(), settings={"HTTPPROXY_ENABLED": True})
    done.add("schemes", f"ftp://{BAD}:{inside.port}/file", "s3://bucket/key", "file:///etc/hostname")
    done.add("text", site.url(), inside.url(), settings={"NETJAIL_RULES": f"ALLOW {GOOD}/32"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("http_proxy", proxy)
        patch.setenv("SSL_CERT_FILE", str(pem("good.test").ca))
        done.run()
    assert [trap for trap in servers.traps() if trap.accepted] == []
    return done


@proves("Scrapy", "allowed", "denied", "literal")
def test_what_the_rules_accept_is_fetched_and_a_denial_is_not_retried(crawls: Crawls, servers: Servers) -> None:
    assert crawls["plain"] == ["hello 0"] * 3 + ["denied 0"] * 2
    assert servers.inside.accepted == 0


@proves("Scrapy", "announced")
def test_redirects_are_judged(crawls: Crawls) -> None:
    assert crawls["redirects"] == ["hello 0", "denied 0", "denied 0"]


@proves("Scrapy", "tls")
def test_over_tls(crawls: Crawls, servers: Servers) -> None:
    assert crawls["tls"] == ["hello 0", "denied 0"]
    assert servers.inside_tls.accepted == 0


@proves("Scrapy", "tls", "wrong-name")
def test_where_scrapy_verifies_certificates_it_is_the_name_that_is_checked(crawls: Crawls) -> None:
    good, wrong = crawls["verified"]
    assert good == "hello 0"
    assert not wrong.startswith(("hello", "denied"))


@proves("Scrapy", "refused")
def test_without_rules_everything_is_denied(crawls: Crawls) -> None:
    assert crawls["without"] == ["denied 0"]


def test_a_mixed_answer_can_be_refused(crawls: Crawls) -> None:
    assert crawls["mixed"] == ["denied 0"]


@proves("Scrapy", "refused")
def test_a_request_with_a_proxy_fails_and_dials_nothing(crawls: Crawls, servers: Servers) -> None:
    assert crawls["proxy"] == ["ValueError 0"]
    assert crawls["environment"] == ["ValueError 0"]
    assert servers.proxy.accepted == servers.untouched.accepted == 0


@proves("Scrapy", "refused")
def test_what_other_handlers_would_dial_or_read_is_not_supported(crawls: Crawls) -> None:
    assert crawls["schemes"] == ["NotSupported 0"] * 3


def test_rules_may_be_text(crawls: Crawls) -> None:
    assert crawls["text"] == ["hello 0", "denied 0"]


@proves("Scrapy", "pools")
def test_no_crawl_rides_on_a_connection_of_another(crawls: Crawls, servers: Servers) -> None:
    """Each of the three crawls of the plain site has connections of its own, one for each name."""
    assert crawls["plain"]
    assert len(servers.site.connections()) == 3 + 2 + 1


def test_on_the_other_reactor(servers: Servers) -> None:
    asyncio = "twisted.internet.asyncioreactor.AsyncioSelectorReactor"
    plain = "twisted.internet.selectreactor.SelectReactor"
    other = plain if asyncio == default_settings.TWISTED_REACTOR else asyncio
    done = Crawls()
    done.add("one", servers.site.url(), servers.inside.url(), settings={"TWISTED_REACTOR": other})
    done.run()
    assert done["one"] == ["hello 0", "denied 0"]
    assert servers.inside.accepted == 0
