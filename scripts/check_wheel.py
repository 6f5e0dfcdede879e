"""Builds the wheel, installs it by itself, and looks at it as its users and their type checkers will.

Run by ``make check`` with the environment that has the build backend, mypy and pyright.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOOLS = Path(sysconfig.get_path("scripts"))
CONSUMER = ROOT / "tests" / "typing" / "consumer.py"

CLIENTS = "netjail.clients."
TYPED = tuple(f"{CLIENTS}{name}." for name in ("httpx", "httpx2", "requests", "urllib3", "aiohttp", "urllib", "redis"))
"""Those on libraries that are typed throughout."""

ALONE = """
import importlib.metadata, pathlib, sys
import netjail
assert importlib.metadata.version("netjail") == "{version}"
assert pathlib.Path(netjail.__file__).is_relative_to(sys.prefix), netjail.__file__
assert not netjail.Rules().accepts("8.8.8.8") and netjail.PUBLIC.accepts("8.8.8.8")
import netjail.clients.urllib
"""


def run(*command: object, cwd: Path = ROOT, **environ: str) -> None:
    """Runs a command; its output is shown only when it fails."""
    words = [str(word) for word in command]
    env = {**os.environ, **environ}
    done = subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{done.stdout}{done.stderr}\n{' '.join(words)} failed with {done.returncode}")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder).resolve()
        run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", scratch)
        (wheel,) = scratch.glob("*.whl")
        python = install(wheel, scratch / "env")
        run(python, "-I", "-c", ALONE.format(version=wheel.name.split("-")[1]), cwd=scratch)
        the_command_says_what_is_missing(python.parent / "netjail")
        beside_the_clients(python)
        # From a folder of its own, so that neither src nor pyproject.toml is near.
        consumer = scratch / CONSUMER.name
        consumer.write_text(CONSUMER.read_text(encoding="utf-8"), encoding="utf-8")
        run(TOOLS / "mypy", "--strict", "--python-executable", python, consumer, cwd=scratch)
        (scratch / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}', encoding="utf-8")
        run(TOOLS / "basedpyright", "--pythonpath", python, consumer, cwd=scratch)
        # It looks at the python on PATH and not at --pythonpath.
        verify_types(scratch, f"{python.parent}{os.pathsep}{os.environ['PATH']}")
        print(f"{wheel.name}: installs and imports alone, and is typed for mypy and pyright")


def verify_types(folder: Path, path: str) -> None:
    """Fails where a public type is unknown or left to guessing, but where a client's library leaves it so.

    Many have no types, or attributes without any: what stands on these is as unknown as they are. That the
    modules themselves are typed is the strict mode's to say, which checks their source.
    """
    command = [TOOLS / "basedpyright", "--ignoreexternal", "--outputjson", "--verifytypes", "netjail"]
    words = [str(word) for word in command]
    done = subprocess.run(
        words, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
    )
    lacking = []
    for symbol in json.loads(done.stdout)["typeCompleteness"]["symbols"]:
        of_library = symbol["name"].startswith(CLIENTS) and not symbol["name"].startswith(TYPED)
        known = symbol["isTypeKnown"] and not symbol["isTypeAmbiguous"]
        if symbol["isExported"] and not known and not of_library:
            said = "; ".join(each["message"] for each in symbol["diagnostics"])
            lacking.append(f"{symbol['name']}: {said}")
    if lacking:
        sys.exit("\n".join(lacking))


def install(wheel: Path, environment: Path) -> Path:
    """The Python of a new environment that holds the wheel and nothing else."""
    uv = ["sh", ROOT / "scripts" / "uv"]
    run(*uv, "venv", "--quiet", "--no-python-downloads", "--python", sys.executable, environment)
    python = environment / TOOLS.name / "python"
    run(*uv, "pip", "install", "--quiet", "--no-deps", "--offline", "--python", python, wheel)
    return python


def the_command_says_what_is_missing(command: Path) -> None:
    """Without its extra, ``netjail`` fails with one plain line that names the extra."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run([command], capture_output=True, text=True, check=False, env=environ)
    lines = done.stderr.strip().splitlines()
    if not done.returncode or len(lines) != 1 or "netjail[cli]" in done.stdout or "cli" not in lines[0]:
        sys.exit(f"netjail without typer: exit {done.returncode}, {done.stdout!r}, {done.stderr!r}")


def beside_the_clients(python: Path) -> None:
    """Lets the new environment see what ours has installed, but for netjail, of which the wheel's is nearer."""
    (site,) = python.parent.parent.glob("lib/python3*/site-packages")
    (site / "clients.pth").write_text(f"{sysconfig.get_path('purelib')}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
