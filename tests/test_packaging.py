"""What is shipped is the library and nothing else, and it needs nothing else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.parser import HeaderParser
from hashlib import sha256
from pathlib import Path

import pytest

import netjail

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

# Written in two parts, so that this file does not name them either.
REGISTRIES = [
    "py" + "pi.org",
    "python" + "hosted",
    "npm" + "js.org",
    "npm" + "js.com",
    "deb." + "debian.org",
    "security." + "debian.org",
    "archive." + "ubuntu.com",
    "cra" + "tes.io",
    "proxy." + "golang.org",
    "conda" + ".anaconda.org",
]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


def run(code, *path):
    """What ``code`` prints as JSON in a Python that sees the standard library and ``path`` alone."""
    prelude = f"import sys; sys.path[:0] = {[str(each) for each in path]!r}; before = set(sys.modules)\n"
    command = [sys.executable, "-I", "-S", "-c", prelude + code]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def test_the_wheel_holds_netjail_and_says_that_it_is_typed(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"netjail", f"netjail-{PROJECT['version']}.dist-info"}
    assert "netjail/py.typed" in names
    sources = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src" / "netjail").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == sources


def test_two_builds_are_the_same_to_the_byte(wheel, tmp_path):
    """From another folder, by files of another age, with another umask: what is shipped can be built again."""
    copy = tmp_path / "elsewhere"
    for path in tree():
        target = copy / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
        os.utime(target, (10**9, 10**9))
    digests = []
    for folder, umask, out in ((ROOT, 0o022, "here"), (copy, 0o077, "there")):
        command = [sys.executable, "-m", "hatchling", "build", "-d", str(tmp_path / out)]
        subprocess.run(command, cwd=folder, check=True, capture_output=True, umask=umask)
        files = sorted((tmp_path / out).iterdir())
        assert {file.suffix for file in files} == {".whl", ".gz"}
        digests.append({file.name: sha256(file.read_bytes()).hexdigest() for file in files})
    assert digests[0] == digests[1]
    assert digests[0][wheel.name] == sha256(wheel.read_bytes()).hexdigest()


def test_the_wheel_says_what_it_is(wheel):
    with zipfile.ZipFile(wheel) as archive:
        folder = f"netjail-{PROJECT['version']}.dist-info"
        metadata = HeaderParser().parsestr(archive.read(f"{folder}/METADATA").decode())
        entry_points = archive.read(f"{folder}/entry_points.txt").decode()
        assert f"{folder}/licenses/LICENSE" in archive.namelist()
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Requires-Python"] == ">=3.11"
    assert set(metadata.get_all("Provides-Extra", [])) == set(PROJECT["optional-dependencies"])
    required = metadata.get_all("Requires-Dist", [])
    assert all("extra ==" in each for each in required), "the core depends on nothing"
    assert "netjail = netjail.cli:main" in entry_points


def test_importing_netjail_from_the_wheel_needs_the_standard_library_alone(wheel):
    loaded = run("import json, netjail; print(json.dumps(sorted(set(sys.modules) - before)))", wheel)
    assert "netjail" in loaded
    foreign = {name.split(".")[0] for name in loaded} - set(sys.stdlib_module_names) - {"netjail"}
    assert not foreign


def test_importing_netjail_loads_neither_asyncio_nor_ssl():
    loaded = run(
        "import netjail; loaded = set(sys.modules); import json; print(json.dumps(list(loaded)))", ROOT / "src"
    )
    assert not {"asyncio", "ssl", "_ssl", "concurrent.futures"} & set(loaded)


@pytest.mark.parametrize("extra", ["httpx", "httpx2", "requests", "urllib3", "aiohttp"])
def test_a_client_module_without_its_library_fails_with_a_plain_import_error(extra):
    code = f"""
import json
try:
    import netjail.clients.{extra}
except ImportError as error:
    print(json.dumps([type(error).__name__, error.name]))
"""
    kind, missing = run(code, ROOT / "src")
    assert kind == "ModuleNotFoundError"
    assert not missing.startswith("netjail")


def test_the_urllib_client_needs_no_library():
    assert run("import json, netjail.clients.urllib; print(json.dumps(True))", ROOT / "src")


def test_the_public_names_are_these():
    """A name that comes or goes is a decision, to be made here too and told in the changelog."""
    assert sorted(netjail.__all__) == [
        "AsyncDialer",
        "AsyncResolver",
        "Decision",
        "DeniedError",
        "Dialer",
        "InvalidRuleError",
        "NetjailError",
        "PUBLIC",
        "Resolver",
        "Rules",
        "create_connection",
        "current_rules",
        "find_denied",
        "open_connection",
        "presets",
        "use_rules",
    ]
    assert all(hasattr(netjail, name) for name in netjail.__all__)


def test_the_version_is_told_in_the_changelog():
    assert f"## [{PROJECT['version']}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_every_extra_is_a_client_or_is_explained():
    clients = {path.stem.replace("_", "-") for path in (ROOT / "src" / "netjail" / "clients").glob("[a-z]*.py")}
    standard_library = {"ftplib", "imaplib", "poplib", "smtplib", "urllib"}
    # An extra of niquests would put another urllib3 in the place of urllib3.
    assert set(PROJECT["optional-dependencies"]) == clients - standard_library - {"niquests"} | {"cli", "http2"}


def tree():
    """Every file that belongs to the repository, as git sees it or, outside of git, by name."""
    listing = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        listed = subprocess.run(listing, check=True, capture_output=True, text=True).stdout.split("\0")
        files = [ROOT / name for name in listed if name]
    except (OSError, subprocess.CalledProcessError):
        hidden = {".venv", ".tools", ".git", "dist", "_build", "__pycache__", ".mypy_cache", ".ruff_cache"}
        files = [path for path in ROOT.rglob("*") if not hidden & set(path.relative_to(ROOT).parts)]
    return [path for path in files if path.is_file()]


def test_nothing_in_the_tree_names_a_package_registrys_host():
    files = tree()
    assert ROOT / "pyproject.toml" in files
    for path in files:
        content = path.read_bytes().lower()
        named = [host for host in REGISTRIES if host.encode() in content]
        assert not named, path


def test_every_locked_requirement_carries_its_hashes():
    for path in (ROOT / "requirements").glob("*.txt"):
        for line in path.read_text(encoding="utf-8").splitlines():
            assert not line or line.startswith(("#", "    --hash=sha256:")) or line.endswith(" \\"), (path, line)
