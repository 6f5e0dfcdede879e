"""The commands and their options. What they do is told by the modules beside this one."""

from __future__ import annotations

from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer
from rich.console import Console

from netjail._errors import InvalidRuleError

from . import _check

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


class Mixed(StrEnum):
    """What becomes of a name of which some addresses are accepted and some are not."""

    skip = "skip"
    refuse = "refuse"


def _show_version(wanted: bool) -> None:
    if wanted:
        try:
            typer.echo(f"netjail {version('netjail')}")
        except PackageNotFoundError:
            typer.echo("netjail, run from its source without having been installed")
        raise typer.Exit


@app.callback()
def netjail(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Says which addresses a Python program may connect to."""


@app.command()
def check(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="A URL, a host, HOST:PORT or an address.")],
    allow: Annotated[list[str] | None, typer.Option(metavar="PREFIX", help="What to allow; repeatable.")] = None,
    block: Annotated[list[str] | None, typer.Option(metavar="PREFIX", help="What to block; repeatable.")] = None,
    nat64: Annotated[
        list[str] | None, typer.Option(metavar="PREFIX", help="Your own NAT64 prefix; repeatable.")
    ] = None,
    mixed: Annotated[Mixed, typer.Option(help="Whether a partly denied name is dialled where accepted.")] = Mixed.skip,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False,
) -> None:
    """Resolve TARGET once and show where it leads and what the rules say.

    Without --allow and --block the rules are those for the public internet;
    with --block alone everything else is allowed. A PREFIX is 10.0.0.0/8,
    10.0.0.1, or one of the names public, private, loopback, link-local,
    metadata, multicast and special-purpose.

    Exit status: 0 accepted, 1 denied, 2 for what cannot be judged (a bad
    prefix or URL, a name that does not resolve).
    """
    try:
        rules = _check.rules_of(allow or [], block or [], nat64 or [])
        verdict = _check.verdict_on(target, rules, mixed.value)
    except (_check.CannotJudgeError, InvalidRuleError) as error:
        if as_json:
            typer.echo(_check.to_json({"target": target, "error": str(error)}))
        else:
            typer.echo(f"netjail: {error}", err=True)
        raise typer.Exit(2) from None
    if as_json:
        typer.echo(_check.to_json(verdict.as_dict()))
    else:
        verdict.show(Console())
    raise typer.Exit(0 if verdict.accepted else 1)


@app.command()
def demo() -> None:
    """Attack a plain HTTP client and the jailed ones, on loopback alone, and show what got through.

    Exit status: 0 when nothing got through a jailed client and every legitimate request succeeded, else 1.
    """
    from netjail import _demo  # noqa: PLC0415 - it imports every client

    raise typer.Exit(_demo.run(Console()))
