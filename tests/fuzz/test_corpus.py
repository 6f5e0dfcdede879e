"""The corpus of the fuzzer, and whatever it once found, as plain tests."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from .targets import TARGETS

CORPUS = Path(__file__).resolve().parent / "corpus"
FILES = sorted(path for path in CORPUS.rglob("*") if path.is_file())


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_an_input_of_the_corpus_keeps_the_invariant(path):
    TARGETS[path.parent.name](path.read_bytes().decode("utf-8", "surrogateescape"))


def test_every_target_has_a_corpus_and_says_its_invariant_in_one_sentence():
    assert {path.parent.name for path in FILES} == set(TARGETS)
    for target in TARGETS.values():
        assert (inspect.getdoc(target) or "").count(".") == 1 or (inspect.getdoc(target) or "").count("\n") == 0
