"""The command line: ``netjail check`` and ``netjail demo`` (extra: cli).

This module can be imported without the extra, to say that it is missing.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Runs the command line; exits with 2 and one plain line where typer or rich is not installed."""
    try:
        from ._app import app  # noqa: PLC0415 - this may fail, and is to fail here
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("netjail"):
            raise
        sys.stderr.write(f"netjail: the command line needs {error.name}: pip install 'netjail[cli]'\n")
        sys.exit(2)
    app(prog_name="netjail")
