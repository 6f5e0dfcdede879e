"""What the figures were measured on: processor, Python, libraries, and how busy it was."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

LIBRARIES = (
    "aiohttp",
    "anyio",
    "httpcore",
    "httpcore2",
    "httpx",
    "httpx2",
    "requests",
    "urllib3",
    "netaddr",
    "py-radix",
    "pysubnettree",
    "pytricia",
    "drawbridge",
    "httpx-secure",
    "microsoft-antissrf",
    "requests-hardened",
    "safehttpx",
    "ssrfguard",
)


def version(library: str) -> str | None:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None


def described() -> dict[str, Any]:
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "netjail": version("netjail"),
        "libraries": {name: number for name in LIBRARIES if (number := version(name)) is not None},
        "absent": [name for name in LIBRARIES if version(name) is None],
    }


def load() -> list[float] | None:
    """The load averages of the last 1, 5 and 15 minutes, where the system keeps them."""
    if not hasattr(os, "getloadavg"):
        return None
    return [round(each, 2) for each in os.getloadavg()]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
