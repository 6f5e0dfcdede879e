"""The laws of the house: who may import whom, and how a module opens."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parent.parent / "src" / "netjail"

CORE = [
    "_errors",
    "_registry",
    "_addresses",
    "_boundaries",
    "_rules",
    "presets",
    "_context",
    "_resolver",
    "_race",
    "_dialer",
    "_pools",
    "_elf",
]
"""From the bottom up: a module imports only what stands before it."""

KNOWS_NOTHING = {"_registry", "_errors", "_boundaries", "_race", "_pools", "_elf"}
FACE = {"__init__", "__main__", "guard", "loop", "sockets"}


def imports(path: Path) -> tuple[set[str], set[str]]:
    """The netjail modules and the top-level packages that a module imports when it runs, not for its types alone."""
    ours: set[str] = set()
    others: set[str] = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.dump(block.test)
        for statement in block.body
        for node in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                (ours if alias.name.startswith("netjail") else others).add(alias.name)
        elif isinstance(node, ast.ImportFrom):
            if node.level or (node.module or "").startswith("netjail"):
                base = (node.module or "").removeprefix("netjail").strip(".")
                ours.update([base] if base else [alias.name for alias in node.names])
            else:
                others.add(node.module or "")
    return {name.removeprefix("netjail.").split(".")[0] for name in ours}, {name.split(".")[0] for name in others}


@pytest.mark.parametrize("name", CORE)
def test_a_core_module_imports_only_what_stands_above_it(name: str) -> None:
    ours, others = imports(SOURCE / f"{name}.py")
    above = set() if name in KNOWS_NOTHING else set(CORE[: CORE.index(name)])
    assert ours <= above
    assert others <= sys.stdlib_module_names


def test_every_core_module_has_its_place() -> None:
    assert {path.stem for path in SOURCE.glob("*.py")} <= {*CORE, *FACE}


CLIENTS = sorted(path.stem for path in (SOURCE / "clients").glob("*.py") if path.stem != "__init__")
SHARED_ENGINES = {"_anyio", "_httpcore", "_libpq", "_mail", "_paho", "_search"}
MAY_KNOW = {
    "_search": {"urllib3"},
    "botocore": {"urllib3"},
    "clickhouse_connect": {"aiohttp"},
    "elasticsearch": {"aiohttp", "urllib3"},
    "opensearch": {"aiohttp", "urllib3"},
    "psycopg_pool": {"psycopg"},
    "requests": {"urllib3"},
    "scrapy": {"twisted"},
}
LIBRARIES = {
    "botocore": {"botocore", "urllib3"},
    "dnspython": {"dns"},
    "elasticsearch": {"elastic_transport"},
    "httpx": {"httpx", "httpcore"},
    "httpx2": {"httpx2", "httpcore2"},
    "mysql_connector": {"mysql"},
    "opensearch": {"opensearchpy"},
    "requests": {"requests", "urllib3"},
    "scrapy": {"scrapy", "twisted"},
    "twisted": {"twisted", "zope"},
    "websocket_client": {"websocket"},
}


@pytest.mark.parametrize("name", CLIENTS)
def test_clients_do_not_know_each_other(name: str) -> None:
    ours, others = imports(SOURCE / "clients" / f"{name}.py")
    source = (SOURCE / "clients" / f"{name}.py").read_text(encoding="utf-8")
    for other in set(CLIENTS) - {name} - SHARED_ENGINES - MAY_KNOW.get(name, set()):
        assert f"from .{other} " not in source
        assert f"netjail.clients.{other} import" not in source
    assert ours <= {*CORE, "clients", "", *SHARED_ENGINES, *MAY_KNOW.get(name, set())}
    foreign = others - set(sys.stdlib_module_names) - {"anyio", "trio", "sniffio"}
    if name not in SHARED_ENGINES:
        assert foreign <= LIBRARIES.get(name, {name})


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCE)))
def test_a_module_opens_with_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


def test_importing_netjail_loads_neither_asyncio_nor_ssl() -> None:
    script = (
        "import sys, netjail; print(*sorted({'asyncio', 'ssl', 'threading', 'hashlib', 'json'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_importing_netjail_needs_the_standard_library_alone() -> None:
    script = (
        "import sys; before = set(sys.modules); import netjail; new = set(sys.modules) - before;"
        "print(*sorted({n.split('.')[0] for n in new} - set(sys.stdlib_module_names) - {'netjail'}))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
