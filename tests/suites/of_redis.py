"""redis-py's own suite, sync and asyncio, against a server of its own: every client and every pool is ours."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .standing_in import as_it_is, put, stand_in
from .suite import Suite


def jail() -> None:
    import redis

    from netjail import Rules, presets
    from netjail.clients import redis as ours

    loopback = Rules(allow=presets.LOOPBACK)
    plain: Any = as_it_is(redis, "asyncio")
    module: Any = ours
    module.redis = plain

    def of_a_pool(self: Any) -> Any:
        return type(self)(connection_pool=self.connection_pool)

    for under, found in ((plain, ""), (plain.asyncio, "Async")):
        for name in ("ConnectionPool", "BlockingConnectionPool", "RedisCluster", "Redis", "Sentinel"):
            this: Any = getattr(under, name)
            # One connection that is the client's for good is what ours refuses: such a client gets its pool's.
            more: dict[str, Any] = {"client": of_a_pool} if name == "Redis" else {}
            if name != "Sentinel":
                more["from_url"] = classmethod(from_url(loopback, getattr(ours, found + name)))
            put("redis", this, stand_in(getattr(ours, found + name), this, loopback, **more))


def from_url(rules: Any, ours: Any) -> Any:
    """What makes a client or a pool of ours from an address, under ``rules``."""

    def made(cls: Any, url: str, **options: Any) -> Any:
        return ours.from_url.__func__(cls, url, rules, **options)

    return made


@contextmanager
def serve() -> Iterator[tuple[str, ...]]:
    from tests.servers.daemon import Daemon, binary, free_port

    port = free_port("127.0.0.1")
    with tempfile.TemporaryDirectory(prefix="netjail-suites-") as folder:
        command = [binary("redis-server", "redis-server"), "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
        command += ["--enable-debug-command", "yes", "--dir", folder]
        with Daemon(command, address="127.0.0.1", port=port, cwd=Path(folder)):
            yield (f"--redis-url=redis://127.0.0.1:{port}/0", "--redis-mod-url=redis://127.0.0.1:1")


OTHER_SERVERS = ("redismod", "onlycluster", "ssl", "replica", "cp_integration", "multidb_integration")
"""Marks of the tests that want other servers than one Redis alone."""

ASKING = (
    "connect",
    "connection",
    "connection_pool",
    "encoding",
    "lock",
    "monitor",
    "pipeline",
    "pubsub",
    "retry",
    "scripting",
    "sentinel",
)
"""The tests of what connects, and of what holds a connection for longer than a command."""


SUITE = Suite(
    "redis",
    "8.1.0",
    "6e1a19beef9225c83efd689c7e6b7da2d5215b1f42cd13b7fc3714d0a09c7b25",
    jail,
    serve=serve,
    closed=(6379, 6380, 26379, 26380, 26381),
    arguments=(
        "-o",
        "addopts=",
        "-m",
        " and ".join(f"not {server}" for server in OTHER_SERVERS),
        *(f"tests/{folder}test_{name}.py" for folder in ("", "test_asyncio/") for name in ASKING),
    ),
    left_out={
        "has sentinels that are mocks in the place of clients": (
            "tests/test_sentinel.py",
            "tests/test_asyncio/test_sentinel.py",
        ),
        "makes a plain connection itself": (
            "tests/test_asyncio/test_connect.py::test_tcp_connect",
            "tests/test_asyncio/test_connection.py::test_connect_retry_on_timeout_error",
            "tests/test_asyncio/test_connection.py::test_disconnect_no_current_task",
            "tests/test_asyncio/test_connection.py::test_disconnect_no_current_task_calls_close",
            "tests/test_connect.py::test_tcp_connect",
        ),
    },
    differs={
        "wants one connection for good, which ours refuses": (
            "tests/test_asyncio/test_connection.py::test_client_garbage_collection",
            "tests/test_asyncio/test_connection.py::test_connection_garbage_collection",
            "tests/test_asyncio/test_connection.py::test_create_single_connection_client_from_url",
            "tests/test_asyncio/test_connection.py::test_invalid_response",
            "tests/test_asyncio/test_connection.py::test_single_connection",
            "tests/test_connection.py::test_invalid_response",
            "tests/test_connection_pool.py::TestConnection::test_busy_loading_disconnects_socket",
            "tests/test_connection_pool.py::TestHealthCheck::test_arbitrary_command_advances_next_health_check",
            "tests/test_connection_pool.py::TestHealthCheck::test_arbitrary_command_invokes_health_check",
            "tests/test_connection_pool.py::TestHealthCheck::test_health_check_not_invoked_within_interval",
            "tests/test_connection_pool.py::TestHealthCheck::test_health_check_runs",
        ),
        "gives a connection class of its own, which ours refuses or builds upon": (
            "tests/test_asyncio/test_connection.py::test_connection_parse_response_resume",
            "tests/test_connection.py::test_connection_parse_response_resume[RESP2Parser]",
            "tests/test_connection.py::test_connection_parse_response_resume[RESP3Parser]",
            "tests/test_connection_pool.py::TestBlockingConnectionPool::test_connection_creation",
            "tests/test_connection_pool.py::TestBlockingConnectionPool::test_connection_pool_blocks_until_conn_available",
            "tests/test_connection_pool.py::TestBlockingConnectionPool::test_connection_pool_blocks_until_timeout",
            "tests/test_connection_pool.py::TestBlockingConnectionPool::test_multiple_connections",
            "tests/test_connection_pool.py::TestBlockingConnectionPool::test_pool_context_manager",
            "tests/test_connection_pool.py::TestBlockingConnectionPool::test_pool_disconnect",
            "tests/test_connection_pool.py::TestBlockingConnectionPool::test_reuse_previously_released_connection",
            "tests/test_connection_pool.py::TestConnectionPool::test_closing",
            "tests/test_connection_pool.py::TestConnectionPool::test_connection_creation",
            "tests/test_connection_pool.py::TestConnectionPool::test_custom_connection_disables_maint_notifications",
            "tests/test_connection_pool.py::TestConnectionPool::test_max_connections",
            "tests/test_connection_pool.py::TestConnectionPool::test_pool_context_manager",
            "tests/test_connection_pool.py::TestConnectionPoolReleasedEventEmission::test_connection_released_event_emitted_on_release",
            "tests/test_connection_pool.py::TestConnectionPoolReleasedEventEmission::test_connection_released_event_not_emitted_for_foreign_connection",
            "tests/test_connection_pool.py::TestSSLConnectionURLParsing::test_connection_class_override",
        ),
        "names a unix socket, which ours refuses": (
            "tests/test_asyncio/test_connection.py::test_unix_socket_connection_failure",
            "tests/test_asyncio/test_connection_pool.py::TestBlockingConnectionPool::test_repr_contains_db_info_unix",
            "tests/test_asyncio/test_connection_pool.py::TestConnection::test_connect_from_url_unix",
            "tests/test_asyncio/test_connection_pool.py::TestConnectionPool::test_repr_contains_db_info_unix",
            "tests/test_asyncio/test_connection_pool.py::TestConnectionPoolUnixSocketURLParsing::test_db_as_argument",
            "tests/test_asyncio/test_connection_pool.py::TestConnectionPoolUnixSocketURLParsing::test_db_in_querystring",
            "tests/test_asyncio/test_connection_pool.py::TestConnectionPoolUnixSocketURLParsing::test_defaults",
            "tests/test_asyncio/test_connection_pool.py::TestConnectionPoolUnixSocketURLParsing::test_extra_querystring_options",
            "tests/test_asyncio/test_connection_pool.py::TestConnectionPoolUnixSocketURLParsing::test_password",
            "tests/test_asyncio/test_connection_pool.py::TestConnectionPoolUnixSocketURLParsing::test_quoted_password",
            "tests/test_asyncio/test_connection_pool.py::TestConnectionPoolUnixSocketURLParsing::test_quoted_path",
            "tests/test_asyncio/test_connection_pool.py::TestConnectionPoolUnixSocketURLParsing::test_quoted_username",
            "tests/test_asyncio/test_connection_pool.py::TestConnectionPoolUnixSocketURLParsing::test_username",
            "tests/test_connection.py::test_unix_socket_connection_failure",
            "tests/test_connection_pool.py::TestBlockingConnectionPool::test_repr_contains_db_info_unix",
            "tests/test_connection_pool.py::TestConnection::test_connect_from_url_unix",
            "tests/test_connection_pool.py::TestConnectionPool::test_repr_contains_db_info_unix",
            "tests/test_connection_pool.py::TestConnectionPoolUnixSocketURLParsing::test_client_disables_maint_notifications",
            "tests/test_connection_pool.py::TestConnectionPoolUnixSocketURLParsing::test_client_rejects_enabled_maint_notifications_config",
            "tests/test_connection_pool.py::TestConnectionPoolUnixSocketURLParsing::test_client_respects_disabled_maint_notifications_config",
            "tests/test_connection_pool.py::TestConnectionPoolUnixSocketURLParsing::test_connection_class_override",
            "tests/test_connection_pool.py::TestConnectionPoolUnixSocketURLParsing::test_connection_does_not_activate_maint_notifications",
            "tests/test_connection_pool.py::TestConnectionPoolUnixSocketURLParsing::test_db_as_argument",
            "tests/test_connection_pool.py::TestConnectionPoolUnixSocketURLParsing::test_db_in_querystring",
            "tests/test_connection_pool.py::TestConnectionPoolUnixSocketURLParsing::test_default_config_client_executes_commands_without_maint_notifications",
            "tests/test_connection_pool.py::TestConnectionPoolUnixSocketURLParsing::test_defaults",
            "tests/test_connection_pool.py::TestConnectionPoolUnixSocketURLParsing::test_extra_querystring_options",
            "tests/test_connection_pool.py::TestConnectionPoolUnixSocketURLParsing::test_password",
            "tests/test_connection_pool.py::TestConnectionPoolUnixSocketURLParsing::test_pool_disables_default_maint_notifications",
            "tests/test_connection_pool.py::TestConnectionPoolUnixSocketURLParsing::test_quoted_password",
            "tests/test_connection_pool.py::TestConnectionPoolUnixSocketURLParsing::test_quoted_path",
            "tests/test_connection_pool.py::TestConnectionPoolUnixSocketURLParsing::test_quoted_username",
            "tests/test_connection_pool.py::TestConnectionPoolUnixSocketURLParsing::test_username",
        ),
        "wants a cache on the client, which ours refuses": (
            "tests/test_connection.py::TestUnitConnectionPool::test_creates_cache_with_custom_cache_factory",
            "tests/test_connection.py::TestUnitConnectionPool::test_creates_cache_with_given_configuration",
            "tests/test_connection.py::TestUnitConnectionPool::test_make_connection_proxy_connection_on_given_cache",
            "tests/test_connection.py::TestUnitConnectionPool::test_returns_custom_cache_implementation",
            "tests/test_connection_pool.py::TestBlockingConnectionPool::test_initialise_pool_with_cache",
        ),
        "compares the names of classes": (
            "tests/test_asyncio/test_connection_pool.py::TestBlockingConnectionPoolURLParsing::test_extra_typed_querystring_options",
            "tests/test_asyncio/test_connection_pool.py::TestConnection::test_connect_from_url_tcp",
            "tests/test_asyncio/test_connection_pool.py::TestConnectionPoolURLParsing::test_client_creates_connection_pool",
            "tests/test_asyncio/test_connection_pool.py::TestConnectionPoolURLParsing::test_db_as_argument",
            "tests/test_asyncio/test_connection_pool.py::TestConnectionPoolURLParsing::test_db_in_path",
            "tests/test_asyncio/test_connection_pool.py::TestConnectionPoolURLParsing::test_db_in_querystring",
            "tests/test_asyncio/test_connection_pool.py::TestConnectionPoolURLParsing::test_extra_querystring_options",
            "tests/test_asyncio/test_connection_pool.py::TestConnectionPoolURLParsing::test_extra_typed_querystring_options",
            "tests/test_asyncio/test_connection_pool.py::TestConnectionPoolURLParsing::test_hostname",
            "tests/test_asyncio/test_connection_pool.py::TestConnectionPoolURLParsing::test_password",
            "tests/test_asyncio/test_connection_pool.py::TestConnectionPoolURLParsing::test_port",
            "tests/test_asyncio/test_connection_pool.py::TestConnectionPoolURLParsing::test_quoted_hostname",
            "tests/test_asyncio/test_connection_pool.py::TestConnectionPoolURLParsing::test_quoted_password",
            "tests/test_asyncio/test_connection_pool.py::TestConnectionPoolURLParsing::test_quoted_username",
            "tests/test_asyncio/test_connection_pool.py::TestConnectionPoolURLParsing::test_username",
            "tests/test_asyncio/test_connection_pool.py::TestConnectionPoolURLParsing::test_username_and_password",
            "tests/test_asyncio/test_connection_pool.py::TestSSLConnectionURLParsing::test_host",
            "tests/test_connection_pool.py::TestBlockingConnectionPoolURLParsing::test_extra_typed_querystring_options",
            "tests/test_connection_pool.py::TestConnectionPoolURLParsing::test_client_creates_connection_pool",
            "tests/test_connection_pool.py::TestConnectionPoolURLParsing::test_db_as_argument",
            "tests/test_connection_pool.py::TestConnectionPoolURLParsing::test_db_in_path",
            "tests/test_connection_pool.py::TestConnectionPoolURLParsing::test_db_in_querystring",
            "tests/test_connection_pool.py::TestConnectionPoolURLParsing::test_extra_querystring_options",
            "tests/test_connection_pool.py::TestConnectionPoolURLParsing::test_extra_typed_querystring_options",
            "tests/test_connection_pool.py::TestConnectionPoolURLParsing::test_hostname",
            "tests/test_connection_pool.py::TestConnectionPoolURLParsing::test_password",
            "tests/test_connection_pool.py::TestConnectionPoolURLParsing::test_port",
            "tests/test_connection_pool.py::TestConnectionPoolURLParsing::test_quoted_hostname",
            "tests/test_connection_pool.py::TestConnectionPoolURLParsing::test_quoted_password",
            "tests/test_connection_pool.py::TestConnectionPoolURLParsing::test_quoted_username",
            "tests/test_connection_pool.py::TestConnectionPoolURLParsing::test_username",
            "tests/test_connection_pool.py::TestConnectionPoolURLParsing::test_username_and_password",
            "tests/test_connection_pool.py::TestSSLConnectionURLParsing::test_host",
        ),
        "has from_url warn of what the plain pool would": (
            "tests/test_asyncio/test_connection.py::test_pool_from_url_deprecation",
        ),
    },
)
