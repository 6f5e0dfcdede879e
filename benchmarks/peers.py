"""Other libraries that keep a client from inside addresses, each with the same GET and with loopback allowed its way.

Each is compared with netjail over the same plain client, on a kept connection and on a fresh one. advocate is not
among them: it wants urllib3 1.x, which netjail does not support, so that the two cannot be installed side by side.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
from dataclasses import dataclass
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any

from benchmarks import clients
from benchmarks.measure import CONTROL, Figure, Times, compare, compare_async
from netjail import PUBLIC, AsyncDialer, Rules

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LOOPBACK = "127.0.0.0/8"
OURS = "netjail"


@dataclass
class Peer:
    """``open`` takes a port and headers and gives a client that is closed by ``close`` or ``aclose``."""

    name: str
    over: str
    open: Callable[[int, dict[str, str]], Any]


def _ssrfguard_policy(port: int) -> Any:
    library = importlib.import_module("ssrfguard")
    return library.Policy(allowed_networks=(LOOPBACK,), allowed_ports=frozenset({port}))


def _ssrfguard_requests(port: int, headers: dict[str, str]) -> Any:
    session = importlib.import_module("ssrfguard.requests").Session(policy=_ssrfguard_policy(port))
    return _session(session, headers)


def _ssrfguard_httpx(port: int, headers: dict[str, str]) -> Any:
    library = importlib.import_module("ssrfguard.httpx")
    return library.Client(policy=_ssrfguard_policy(port), trust_env=False, headers=headers)


def _ssrfguard_httpx_async(port: int, headers: dict[str, str]) -> Any:
    library = importlib.import_module("ssrfguard.httpx")
    return library.AsyncClient(policy=_ssrfguard_policy(port), trust_env=False, headers=headers)


def _httpx_secure(port: int, headers: dict[str, str]) -> Any:
    del port
    client = importlib.import_module("httpx").AsyncClient(trust_env=False, headers=headers)
    inside = ip_network(LOOPBACK)
    return importlib.import_module("httpx_secure").httpx_ssrf_protection(
        client, check_globally_reachable=False, custom_validator=lambda _host, ip, _port: ip in inside
    )


def _drawbridge(port: int, headers: dict[str, str]) -> Any:
    library = importlib.import_module("drawbridge")
    policy = library.Policy(ip_allowlist=[ip_network(LOOPBACK)], allow_ports=[port])
    client = library.SyncClient(policy)
    client.headers = headers
    return client


def _requests_hardened(port: int, headers: dict[str, str]) -> Any:
    del port
    library = importlib.import_module("requests_hardened")
    config = library.Config(
        ip_filter_enable=True, ip_filter_allow_loopback_ips=True, never_redirect=False, default_timeout=10
    )
    return _session(library.HTTPSession(config), headers)


def _antissrf(port: int, headers: dict[str, str]) -> Any:
    del port
    library = importlib.import_module("AntiSSRF")
    policy = library.AntiSSRFPolicy(library.PolicyConfigOptions.EXTERNAL_ONLY_LATEST)
    policy.add_allowed_addresses([LOOPBACK])
    policy.allow_plain_text_http = True
    return _session(policy.get_antissrf_session(), headers)


def _session(session: Any, headers: dict[str, str]) -> Any:
    session.trust_env = False
    session.headers.update(headers)
    return session


PEERS = (
    Peer("ssrfguard", "requests", _ssrfguard_requests),
    Peer("ssrfguard", "httpx", _ssrfguard_httpx),
    Peer("ssrfguard", "httpx async", _ssrfguard_httpx_async),
    Peer("httpx-secure", "httpx async", _httpx_secure),
    Peer("drawbridge", "httpx", _drawbridge),
    Peer("requests-hardened", "requests", _requests_hardened),
    Peer("microsoft-antissrf", "requests", _antissrf),
)


def comparing(port: int, *, full: bool) -> Iterator[Figure]:
    """Every peer that is installed, over the client that it stands on."""
    url = f"http://127.0.0.1:{port}/"
    there = {client.name: client for client in clients.installed()}
    for over in dict.fromkeys(peer.over for peer in PEERS):
        client = there.get(over)
        for kind, headers in (("kept", {}), ("fresh", clients.FRESH)):
            opened: dict[str, Any] = {}
            for peer in PEERS if client else ():
                if peer.over == over:
                    with contextlib.suppress(ImportError):
                        opened[peer.name] = peer.open(port, headers)
            if client is None or not opened:
                continue
            rounds = 1000 if full else 150
            if client.awaited:
                times = asyncio.run(_raced(client, opened, url, headers, rounds))
            else:
                times = _run(client, opened, url, headers, rounds)
            for name in opened:
                what = f"GET over {over}, {kind} connection"
                yield times.figure("comparing", what, OURS, name, 1.0, client=over, connection=kind)
    yield from _checks(full=full)


def _run(client: clients.Client, opened: dict[str, Any], url: str, headers: dict[str, str], rounds: int) -> Times:
    rules = Rules([LOOPBACK])
    with contextlib.ExitStack() as stack:
        plain, control = (stack.enter_context(client.plain(headers=headers)) for _ in range(2))
        jailed = stack.enter_context(client.jailed(rules, headers=headers))
        calls: dict[str, Any] = {"plain": lambda: plain(url), CONTROL: lambda: control(url), OURS: lambda: jailed(url)}
        for name, peer in opened.items():
            stack.callback(peer.close)
            own = {"headers": peer.headers} if name == "drawbridge" else {}  # its client has none of its own
            calls[name] = lambda peer=peer, own=own: peer.get(url, **own).content
        return compare(calls, rounds)


async def _raced(
    client: clients.Client, opened: dict[str, Any], url: str, headers: dict[str, str], rounds: int
) -> Times:
    rules = Rules([LOOPBACK])
    async with contextlib.AsyncExitStack() as stack:
        plain = await stack.enter_async_context(client.plain(headers=headers))
        control = await stack.enter_async_context(client.plain(headers=headers))
        jailed = await stack.enter_async_context(client.jailed(rules, headers=headers))
        calls: dict[str, Any] = {"plain": lambda: plain(url), CONTROL: lambda: control(url), OURS: lambda: jailed(url)}
        for name, peer in opened.items():
            stack.push_async_callback(peer.aclose)
            calls[name] = lambda peer=peer: peer.get(url)
        return await compare_async(calls, rounds)


def _checks(*, full: bool) -> Iterator[Figure]:
    """safehttpx has no way to allow loopback: its check alone, of a public literal, which dials nothing."""
    try:
        library = importlib.import_module("safehttpx")
    except ImportError:
        return
    dialer = AsyncDialer(PUBLIC)
    calls: dict[str, Any] = {
        "safehttpx": lambda: library.async_validate_url("8.8.8.8"),
        CONTROL: lambda: library.async_validate_url("8.8.8.8"),
        OURS: lambda: dialer.resolve(("8.8.8.8", 443)),
    }
    times = asyncio.run(compare_async(calls, 2000 if full else 200))
    yield times.figure("comparing", "the check of a literal alone", OURS, "safehttpx", 1.0)
