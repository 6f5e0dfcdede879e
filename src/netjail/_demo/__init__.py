"""``netjail demo``: attacks on a plain client and on the jailed ones, side by side, on loopback alone.

What is counted is what the servers inside saw, not what a client said.
"""

from __future__ import annotations

import errno
from contextlib import nullcontext
from typing import TYPE_CHECKING, Literal

from rich.progress import Progress
from rich.text import Text

from netjail import Rules, find_denied, use_rules

from . import _show
from ._cases import ATTACKS, LEGITIMATE, RULES, Attack, Legitimate, shows_the_secret, url_in
from ._clients import Client, RefusedError, jailed_clients, plain_clients
from ._network import Network, environment

if TYPE_CHECKING:
    from rich.console import Console

    from ._clients import Fetch

Outcome = Literal["LEAK", "OUT", "deny", "safe", "ok", "FAIL"]


def run(console: Console, rules: Rules = RULES) -> int:
    """Runs the demo and shows it on ``console``; the exit status, 0 when the jail held and nothing else broke.

    Any other ``rules`` than the demo's own are to see it fail.
    """
    jailed, missing = jailed_clients()
    clients = [*plain_clients(), *jailed]
    _show.introduction(console, clients, missing)
    try:
        with Network() as network, environment(None):
            outcomes = _all_outcomes(console, network, clients, rules)
    except OSError as error:
        console.print(Text(f"The demo's servers cannot start: {error.strerror or error}.", "red"))
        if error.errno == errno.EADDRNOTAVAIL:
            console.print("It needs 127.0.0.1 to 127.0.0.4. On macOS: sudo ifconfig lo0 alias 127.0.0.2 (and 3, 4)")
        return 2
    _show.table(console, clients, outcomes)
    return _show.conclusion(console, clients, outcomes)


def _all_outcomes(
    console: Console, network: Network, clients: list[Client], rules: Rules
) -> dict[str, dict[str, dict[str, Outcome]]]:
    """The outcome by section, by title, and by client's name."""
    cases: dict[str, list[Attack] | list[Legitimate]] = {**ATTACKS, _show.LEGITIMATE: LEGITIMATE}
    total = len(clients) * sum(map(len, cases.values()))
    outcomes: dict[str, dict[str, dict[str, Outcome]]] = {}
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("attacking", total=total)
        for section, listed in cases.items():
            for case in listed:
                row = outcomes.setdefault(section, {}).setdefault(case.title, {})
                for client in clients:
                    if isinstance(case, Attack):
                        row[client.name] = _outcome_of_attack(network, client, case, rules)
                    else:
                        row[client.name] = _outcome_of_legitimate(network, client, case, rules)
                    progress.advance(task)
    return outcomes


def _outcome_of_attack(network: Network, client: Client, attack: Attack, rules: Rules) -> Outcome:
    proxy = None if attack.proxy is None else url_in(network, attack.proxy)
    by_context = attack.first_rules is not None
    with environment(proxy), client.open(None if by_context else rules) as fetch:
        network.forget()
        if attack.first is not None:
            try:
                with use_rules(attack.first_rules) if attack.first_rules is not None else nullcontext():
                    fetch(url_in(network, attack.first))
            except Exception as error:  # noqa: BLE001 - each library has errors of its own, and any is an outcome
                return "deny" if isinstance(error, RefusedError) else "FAIL"
            network.forget(lookups=False)
        with use_rules(rules) if by_context else nullcontext():
            return _outcome_of_fetch(network, fetch, url_in(network, attack.url), attack.sent)


def _outcome_of_fetch(network: Network, fetch: Fetch, url: str, sent: bytes | None) -> Outcome:
    body, denied = b"", False
    try:
        body = fetch(url, sent)
    except Exception as error:  # noqa: BLE001 - each library has errors of its own, and any is an outcome
        denied = isinstance(error, RefusedError) or find_denied(error) is not None
    if network.reached_inside() or shows_the_secret(body):
        return "LEAK"
    if network.left_loopback():
        return "OUT"
    return "deny" if denied else "safe"


def _outcome_of_legitimate(network: Network, client: Client, case: Legitimate, rules: Rules) -> Outcome:
    network.forget()
    try:
        with client.open(rules) as fetch:
            return "ok" if case.succeeds(fetch, network, client) else "FAIL"
    except Exception:  # noqa: BLE001 - each library has errors of its own, and any is an outcome
        return "FAIL"
