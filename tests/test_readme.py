"""Runs every Python example of README.md and of the pages in docs, in the order of a page and in one namespace.

A ``python`` block is run as it stands. Where its last comment is ``# raises some.module.Error``, with or without
``: message``, it must end in that error. A ``pycon`` block is checked as a doctest. ``url`` is a server on loopback
that answers "hello". A block after ``<!-- not run: reason -->`` is compiled and left.
"""

from __future__ import annotations

import doctest
import gc
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [page for page in PAGES if "_build" not in page.parts]

_BLOCK = re.compile(
    r"^(?P<skipped><!-- not run: (?P<reason>.+?) -->\n\n?)?(?P<opening>```(?P<language>python|pycon)\n)"
    r"(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_RAISES = re.compile(r"^# raises (?P<error>[\w.]+)(: (?P<message>.*))?\Z", re.MULTILINE)
_FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def _public(text: str) -> str:
    """Tracebacks name the module in which an error is defined; pages name the one that it is had from."""
    return text.replace("netjail._errors.", "netjail.")


class _Checker(doctest.OutputChecker):
    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        return super().check_output(want, _public(got), optionflags)


@dataclass
class Block:
    page: Path
    line: int
    language: str
    code: str
    skipped: str | None

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}, line {self.line}"

    def run(self, namespace: dict[str, object]) -> None:
        if self.skipped:
            compile(self.code, str(self.page), "exec")
        elif self.language == "pycon":
            self._compare(namespace)
        elif expected := _RAISES.search(self.code.rstrip()):
            self._ends_in(expected["error"], expected["message"], namespace)
        else:
            self._execute(namespace)

    def _execute(self, namespace: dict[str, object]) -> None:
        exec(compile("\n" * (self.line - 1) + self.code, str(self.page), "exec"), namespace)

    def _ends_in(self, error: str, message: str | None, namespace: dict[str, object]) -> None:
        try:
            self._execute(namespace)
        except Exception as raised:
            found = _public(f"{type(raised).__module__}.{type(raised).__qualname__}")
            if found != error:
                raise AssertionError(f"{self.where}: it raised {found}, not {error}") from raised
            if message not in (None, str(raised)):
                raise AssertionError(f"{self.where}: it said {str(raised)!r}") from raised
        else:
            pytest.fail(f"{self.where}: it did not raise {error}")

    def _compare(self, namespace: dict[str, object]) -> None:
        examples = doctest.DocTestParser().get_examples(self.code, self.where)
        assert examples, f"{self.where}: no example in it"
        test = doctest.DocTest(examples, namespace, self.where, str(self.page), self.line - 1, self.code)
        report: list[str] = []
        result = doctest.DocTestRunner(_Checker(), optionflags=_FLAGS).run(test, out=report.append, clear_globs=False)
        namespace.update(test.globs)
        assert not result.failed, "".join(report)


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, text.count("\n", 0, match.start("code")) + 1, match["language"], match["code"], match["reason"])
        for match in _BLOCK.finditer(text)
    ]


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: str(page.relative_to(ROOT)))
def test_every_example_of_the_page_does_what_it_says(page, site):
    namespace: dict[str, object] = {"__name__": "example", "url": site().url("/")}
    for block in blocks(page):
        block.run(namespace)
    namespace.clear()
    gc.collect()


def test_every_python_block_is_one_that_is_run():
    """A fence with an indent, another language tag or more backticks would be left out in silence."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        fences = re.findall(r"^\s*`{3,}(?:python|py|pycon|\{code-block\} *py\w*)\b", text, re.MULTILINE)
        assert len(fences) == len(blocks(page)), page


def test_nearly_every_block_is_run():
    skipped = [block.where for page in PAGES for block in blocks(page) if block.skipped]
    assert len(skipped) <= 3, skipped


def test_the_readme_opens_with_one_sentence_a_denial_and_two_commands():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    first = blocks(ROOT / "README.md")[0]
    opening = text[: text.index("```python")]
    assert opening.removeprefix("# netjail").strip().count(".") == 1
    assert len([line for line in first.code.splitlines() if line and not line.startswith("#")]) <= 6
    assert _RAISES.search(first.code.rstrip())
    assert "```shell\nmake demo\nmake test\n```" in text
