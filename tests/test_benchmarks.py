"""The benchmarks run, and docs/performance says what their results say. No test goes by how long things take."""

from __future__ import annotations

import asyncio
import json
import random
import socket
from functools import partial
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from benchmarks import clients, connecting, machine, page, plot, prefixes, requesting, server, starting, tables
from benchmarks.measure import CONTROL, Figure, Times, compare, compare_async, compare_over

from netjail import Rules

ROOT = Path(__file__).resolve().parents[1]
RESULTS = json.loads((ROOT / "benchmarks/results.json").read_text(encoding="utf-8"))
PAGE = ROOT / "docs/performance.md"


def test_the_figures_of_the_page_are_those_of_the_results():
    text = PAGE.read_text(encoding="utf-8")
    assert page.filled(text, RESULTS) == text
    assert all(f"<!-- figures: {name} -->" in text for name in page.BLOCKS)


def test_whatever_is_over_its_reach_is_named_on_the_page_as_over():
    told = PAGE.read_text(encoding="utf-8").partition("## Over their reach")[2].partition("\n## ")[0]
    over = [each for each in RESULTS["figures"] if each["reach"] is not None and each["value"] > each["reach"]]
    assert [each for each in RESULTS["figures"] if each["over"]] == over
    for each in over:
        assert f"| {each['what']} | {each['against']} | {page.cell(each)} |" in told


def test_the_plots_are_drawn_from_the_results():
    for name, svg in plot.plots(RESULTS).items():
        assert (ROOT / "docs/performance" / name).read_text(encoding="utf-8") == svg
        ET.fromstring(svg)


def test_the_results_are_of_a_full_run_and_say_where_it_was():
    assert RESULTS["full"]
    assert RESULTS["machine"]["processor"]
    assert RESULTS["machine"]["libraries"]
    assert RESULTS["machine"].keys() == machine.described().keys()


def test_contenders_take_turns_and_the_plain_one_is_its_own_control():
    calls: list[str] = []
    each: Any = {name: lambda name=name: calls.append(name) for name in ("plain", CONTROL, "jailed")}
    times = compare(each, 10)
    assert {name: len(taken) for name, taken in times.of.items()} == dict.fromkeys(each, 10)
    assert all(sorted(calls[n : n + 3]) == sorted(each) for n in range(0, len(calls), 3))

    async def call(name):
        calls.append(name)

    calls.clear()
    asyncio.run(compare_async({name: partial(call, name) for name in each}, 10))
    assert all(sorted(calls[n : n + 3]) == sorted(each) for n in range(0, len(calls), 3))


def test_a_figure_is_the_ratio_of_medians_with_its_spread_and_control():
    times = Times({"plain": [1.0, 3.0, 2.0], CONTROL: [2.0, 2.0, 4.0], "jailed": [2.0, 9.0, 4.0]})
    figure = times.figure("group", "what", "jailed", "plain", 1.5)
    assert (figure.value, figure.spread, figure.control, figure.over) == (2.0, (2.0, 3.0), 1.0, True)
    assert Figure("group", "what", "", 2.0, reach=2.0).over is False
    assert "over" in figure.line()


def test_no_argument_is_asked_twice():
    asked: list[int] = []
    compare_over({"netjail": (asked.extend, list(range(100)))}, 10)
    assert sorted(asked) == list(range(100))


@pytest.mark.parametrize("version", [4, 6])
def test_every_table_gives_the_answers_of_the_scan(version):
    rng = random.Random(version)
    networks = prefixes.made(version, 50, rng)
    addresses = [ip_address(n) for n in prefixes.addresses(version, networks, 40, rng)]
    inside = [any(address in ip_network(text) for text in networks) for address in addresses]
    assert 20 <= sum(inside) < 40
    for name in tables.installed():
        table = tables.TABLES[name](networks)
        table.objects(addresses)
        table.texts(list(map(str, addresses)))
        if isinstance(table.built, Rules):
            assert [table.built.accepts(each) for each in addresses] == inside


def test_prefixes_are_real_ones_or_made_ones_of_the_same_number():
    for name, (_, count) in prefixes.SETS.items():
        texts, _ = prefixes.real(name)
        assert len(texts) == count


@pytest.fixture(scope="module")
def port():
    with server.serving() as port:
        yield port


def test_each_client_is_there_plain_and_jailed_kept_and_fresh(port):
    url = f"http://127.0.0.1:{port}/"
    rules = Rules(["127.0.0.0/8"])
    there = clients.installed()
    assert {"urllib", "http.client"} <= {client.name for client in there}
    for client in there:
        options = {} if client.name == "http.client" else {"headers": clients.FRESH}
        for opened in (client.plain(**options), client.jailed(rules, **options)) if not client.awaited else ():
            with opened as get:
                assert get(url) == get(url) == b"hello"

        async def both(client=client, options=options):
            async with client.plain(**options) as plain, client.jailed(rules, **options) as jailed:
                for get in (plain, jailed):
                    answer = await get(url)
                    assert getattr(answer, "content", answer) == b"hello"

        if client.awaited:
            asyncio.run(both())


def test_a_kept_connection_is_measured_under_many_rule_sets(port):
    every = requesting.rule_sets(3, 2)
    assert len(set(every)) == 3
    for client in clients.installed():
        if client.name in ("urllib3", "aiohttp"):
            args = (client, f"http://127.0.0.1:{port}/", every, 3)
            times = asyncio.run(requesting._kept_async(*args)) if client.awaited else requesting._kept(*args)
            assert requesting.JAILED in times.of
            assert len(list(requesting._told(client.name, 2, 3, times))) == 2


def test_the_groups_that_are_quick_give_figures():
    assert [figure.unit for figure in starting.choosing(full=False)] == ["µs", "µs"]


def test_a_name_can_be_given_to_the_systems_resolver_for_a_while():
    plain = socket.getaddrinfo
    with connecting.named(connecting.DEAD, connecting.ALIVE):
        answers = socket.getaddrinfo(connecting.NAME, 80, socket.AF_INET, socket.SOCK_STREAM)
    assert [address[0] for *_, address in answers] == [connecting.DEAD, connecting.ALIVE]
    assert socket.getaddrinfo is plain
