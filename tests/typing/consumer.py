"""What a user's program looks like to a type checker; nothing in it is run."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Sequence
from typing import assert_type

import aiohttp
import httpx
import requests

import netjail
from netjail import PUBLIC, DeniedError, Rules, presets, use_rules
from netjail.clients import aiohttp as jailed_aiohttp
from netjail.clients import httpx as jailed_httpx
from netjail.clients import requests as jailed_requests
from netjail.clients import urllib as jailed_urllib
from netjail.clients import urllib3 as jailed_urllib3


class Table:
    """A resolver by its shape."""

    def lookup(self, host: str, family: int, /) -> Sequence[str]:
        """Nothing resolves."""
        raise socket.gaierror(host, family)


def rules() -> None:
    """Rules and decisions."""
    made = Rules(allow=["10.0.0.0/8", ipaddress.ip_network("192.0.2.0/24")], block=presets.LOOPBACK)
    assert_type(made.accepts("10.0.0.1"), bool)
    assert_type(made & PUBLIC, Rules)
    assert_type(Rules.parse(str(made)), Rules)
    decision = made.explain(ipaddress.ip_address("10.0.0.1"))
    assert_type(decision, netjail.Decision)
    assert_type(decision.accepted, bool)


def dialing() -> None:
    """Sockets."""
    with use_rules(PUBLIC):
        assert_type(netjail.create_connection(("localhost", "http"), timeout=1), socket.socket)
    dialer = netjail.Dialer(PUBLIC, resolver=Table(), mixed="refuse")
    assert_type(dialer(("localhost", 80)), socket.socket)


async def dialing_async() -> None:
    """Streams."""
    reader, writer = await netjail.open_connection("localhost", 80, ssl=True, rules=PUBLIC)
    assert_type(reader, asyncio.StreamReader)
    assert_type(writer, asyncio.StreamWriter)


def errors(error: Exception) -> None:
    """Denials."""
    found = netjail.find_denied(error)
    assert_type(found, DeniedError | None)
    if found is not None:
        assert_type(found.host, str)
        assert_type(found.decisions, tuple[netjail.Decision, ...])


def clients() -> None:
    """Each stands where the plain one would."""
    with httpx.Client(transport=jailed_httpx.Transport(PUBLIC, retries=1)) as client:
        client.get("http://localhost/")
    session = jailed_requests.Session(PUBLIC)
    session.mount("https://", jailed_requests.Adapter(PUBLIC))
    plain: requests.Session = session
    plain.close()
    jailed_urllib3.PoolManager(PUBLIC, num_pools=2).clear()
    jailed_urllib.urlopen("http://localhost/", timeout=1, rules=PUBLIC).close()
    denied = jailed_httpx.DeniedError("localhost", 80)
    both: tuple[httpx.TransportError, DeniedError] = (denied, denied)
    assert_type(both[1].port, int)


async def clients_async() -> None:
    """The same, awaited."""
    async with httpx.AsyncClient(transport=jailed_httpx.AsyncTransport(PUBLIC)) as client:
        await client.get("http://localhost/")
    async with aiohttp.ClientSession(connector=jailed_aiohttp.Connector(PUBLIC, limit=5)) as session:
        await session.get("http://localhost/")
