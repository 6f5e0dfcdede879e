"""urllib3's own suite: every pool manager and every pool of connections is ours."""

from __future__ import annotations

import functools
from importlib import import_module
from typing import Any

from .suite import Suite


def prepare() -> None:
    """Makes the shortest timeout fifty milliseconds of one: ours covers the lookup of localhost too, in a thread."""
    suites: Any = import_module("test")
    suites.SHORT_TIMEOUT = 0.05


def jail() -> None:
    import urllib3.connectionpool
    import urllib3.poolmanager

    from netjail import Dialer, Rules, presets
    from netjail.clients import urllib3 as ours

    loopback = Rules(allow=presets.LOOPBACK)
    pool, manager = ours.HTTPConnectionPool, ours.PoolManager
    give(pool, dialer=Dialer(loopback))
    plain = manager.__init__

    @functools.wraps(plain)
    def init(self: Any, num_pools: int = 10, headers: Any = None, **options: Any) -> None:
        plain(self, loopback, num_pools=num_pools, headers=headers, **options)

    vars_of: Any = manager
    vars_of.__init__ = init
    for module in (urllib3, urllib3.connectionpool, urllib3.poolmanager):
        within: Any = module
        within.HTTPConnectionPool, within.HTTPSConnectionPool = pool, ours.HTTPSConnectionPool
        if module is not urllib3.connectionpool:
            within.PoolManager = manager
    top: Any = urllib3
    top._DEFAULT_POOL = vars_of()  # that of urllib3.request


def give(made: Any, **more: Any) -> None:
    """Has every ``made`` be made with the options of ``more`` that it is not given."""
    plain = made.__init__

    @functools.wraps(plain)
    def init(self: Any, *args: Any, **options: Any) -> None:
        plain(self, *args, **{**more, **options})

    made.__init__ = init


def of_tls(test: str) -> tuple[str, ...]:
    """``test`` for the two versions of TLS, over the standard library and over pyOpenSSL."""
    files = ("test/contrib/test_pyopenssl.py", "test/with_dummyserver/test_https.py")
    return tuple(f"{file}::TestHTTPS_TLSv1_{version}::{test}" for file in files for version in (2, 3))


SUITE = Suite(
    "urllib3",
    "2.8.0",
    "63bf2ead4c879426ebf22ef2a781eeb4aa3b4ae798a0435506f8687fd5bb9b63",
    jail,
    prepare=prepare,
    keep=("test", "dummyserver", "pyproject.toml"),
    servers=("hypercorn", "quart", "quart_trio", "trio", "anyio"),
    left_out={
        "fails with the plain client too, and leaves a socket that fails a later test, by when garbage is collected": (
            "test/contrib/test_pyopenssl.py::TestSocketSSL::test_ssl_failed_fingerprint_verification",
            "test/with_dummyserver/test_socketlevel.py::TestSSL::test_ssl_failed_fingerprint_verification",
        ),
        "is about proxies, which ours refuses": (
            "test/contrib/test_socks.py",
            "test/test_proxymanager.py",
            "test/with_dummyserver/test_proxy_poolmanager.py",
            "test/with_dummyserver/test_socketlevel.py::TestProxyManager",
        ),
        "dials 240.0.0.0": (
            "test/with_dummyserver/test_connectionpool.py::TestConnectionPoolTimeouts::test_connect_timeout",
            "test/with_dummyserver/test_connectionpool.py::TestConnectionPoolTimeouts::test_create_connection_timeout",
            "test/with_dummyserver/test_connectionpool.py::TestConnectionPoolTimeouts::test_total_applies_connect",
            *of_tls("test_https_timeout"),
            *of_tls("test_enhanced_timeout"),
            *of_tls("test_http2_probe_result_is_cached"),
            *of_tls("test_http2_probe_no_result_in_connect_error"),
            *of_tls("test_http2_probe_blocked_per_thread"),
        ),
    },
    differs={
        "has a proxy or a tunnel, which ours refuses": (
            "test/with_dummyserver/test_connection.py::test_invalid_tunnel_headers",
            "test/with_dummyserver/test_connection.py::test_invalid_tunnel_host",
            "test/with_dummyserver/test_connectionpool.py::TestConnectionPool::test_tunnel",
            *of_tls("test_tunnel[h11]"),
        ),
        "is about the keys of the plain manager's pools, to which ours adds the rules": tuple(
            f"test/test_poolmanager.py::TestPoolManager::{test}"
            for test in (
                "test_http_connection_from_context_case_insensitive",
                "test_http_connection_from_host_case_insensitive",
                "test_http_connection_from_url_case_insensitive",
                "test_http_pool_key_fields",
                "test_https_connection_from_context_case_insensitive",
                "test_https_connection_from_host_case_insensitive",
                "test_https_connection_from_url_case_insensitive",
                "test_https_pool_key_fields",
            )
        ),
        "calls the private method of a connection that nobody holds by which ours dials": (
            "test/with_dummyserver/test_connectionpool.py::TestConnectionPool::test_socket_options",
            "test/with_dummyserver/test_connectionpool.py::TestConnectionPool::test_disable_default_socket_options",
        ),
        "has the plain dialing function replaced, which ours does not call": (
            "test/test_poolmanager.py::TestPoolManager::test_e2e_connect_to_ipv6_scoped",
            "test/test_poolmanager.py::TestPoolManager::test_e2e_connect_to_ipv6_scoped_tls",
        ),
    },
)
