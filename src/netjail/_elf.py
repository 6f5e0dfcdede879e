"""Whether native code could dial: read from its shared object, which is not loaded.

This module knows the ELF format and what libc calls its functions. It knows nothing of modules, rules or guards.
"""

from __future__ import annotations

import os
import struct
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_DIALS = frozenset({b"connect", b"getaddrinfo", b"sendto", b"sendmsg", b"sendmmsg"})  # what such code takes from libc
_DYNAMIC, _SYMBOLS, _NEEDED, _BESIDE = 6, 11, 1, (15, 29)  # SHT_DYNAMIC, SHT_DYNSYM; DT_NEEDED, DT_R(UN)PATH
_LOCAL = (
    *("libc.", "libm.", "libdl.", "librt.", "libpthread.", "libresolv.", "libgcc_s", "libstdc++", "ld-linux"),
    *("libpython", "libcrypto", "libssl", "libselinux", "libsystemd", "libudev", "libuuid", "libdbus-", "libasound"),
    *("libglib-", "libxcb", "libX11", "libICE", "libwayland-"),
)
"""Libraries that connect for whoever asks them to, or to this machine's own services and its display."""


@cache
def could_dial(library: str) -> bool:
    """Whether a shared object, or one that it needs, takes from libc what dials. It is read, not loaded.

    What is no shared object of a 64-bit ELF system, or not to be found, tells nothing.
    """
    to_read: list[tuple[str, list[Path]]] = [(library, [])]
    known = {library}
    for name, searched in to_read:
        file = None if Path(name).name.startswith(_LOCAL) else _found(name, searched)
        if file is None:
            continue
        try:
            taken, needed, beside = _read(file)
        except (OSError, ValueError, IndexError, struct.error):
            continue
        if not _DIALS.isdisjoint(taken):
            return True
        here = str(file.parent)
        folders = [Path(folder.replace("${ORIGIN}", here).replace("$ORIGIN", here)) for folder in beside]
        to_read += [(each, [*folders, *searched]) for each in needed if each not in known]
        known.update(needed)
    return False


def _found(library: str, searched: Iterable[Path]) -> Path | None:
    """The file that the loader takes for a library, as far as its settings are known here."""
    if os.sep in library:
        return Path(library)
    given = [Path(folder) for folder in os.environ.get("LD_LIBRARY_PATH", "").split(":") if folder]
    machine = getattr(sys.implementation, "_multiarch", "")
    usual = [Path(top, folder) for top in ("/usr/local", "/usr", "/") for folder in (f"lib/{machine}", "lib64", "lib")]
    for folder in (*searched, *given, *usual):
        if (file := folder / library).is_file():
            return file
    return None


def _read(path: Path) -> tuple[list[bytes], list[str], list[str]]:
    """The symbols that an ELF file takes from others, the files that it needs, and where it looks for them.

    The format is that of the System V gABI, chapters 4 and 5.
    """
    taken: list[bytes] = []
    needed: list[str] = []
    beside: list[str] = []
    with path.open("rb") as file:
        head = file.read(64)
        if head[:5] != b"\x7fELF\x02":
            return taken, needed, beside
        order = "<" if head[5] == 1 else ">"
        start, size, number = struct.unpack(f"{order}40xQ10xHH2x", head)

        def part(offset: int, size: int) -> bytes:
            file.seek(offset)
            return file.read(size)

        table = part(start, size * number)
        sections: list[tuple[int, int, int, int]] = list(struct.iter_unpack(f"{order}4xI16xQQI20x", table))
        for kind, offset, size, link in sections:
            if kind not in (_DYNAMIC, _SYMBOLS):
                continue
            content, names = part(offset, size), part(*sections[link][1:3])
            if kind == _SYMBOLS:
                for name, section in struct.iter_unpack(f"{order}I2xH16x", content):
                    if not section:
                        taken.append(names[name : names.index(0, name)])
                continue
            for tag, value in struct.iter_unpack(f"{order}qQ", content):
                if tag in (_NEEDED, *_BESIDE):
                    text = os.fsdecode(names[value : names.index(0, value)])
                    (needed.append(text) if tag == _NEEDED else beside.extend(text.split(":")))
    return taken, needed, beside
