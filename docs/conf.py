"""How the documentation is built: ``make docs``."""

from __future__ import annotations

import tomllib
from pathlib import Path

_PROJECT = tomllib.loads((Path(__file__).resolve().parent.parent / "pyproject.toml").read_text(encoding="utf-8"))

project = "netjail"
author = "The netjail maintainers"
copyright = f"2026, {author}"
version = release = _PROJECT["project"]["version"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.doctest", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"netjail {version}"

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

doctest_global_setup = "from netjail import Rules"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True

# Types of the standard library and of other libraries: their pages are elsewhere and nothing here goes there.
nitpick_ignore_regex = [
    (r"py:.*", r"(?!netjail).*"),
    (r"py:.*", r"netjail\._.*"),
]
# Some clients have a Resolver of their own: a plain name in a signature means netjail's.
suppress_warnings = ["ref.python"]
