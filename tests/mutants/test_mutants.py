"""Every mutant can be applied: its passage occurs in its file, once, and what replaces it is Python."""

from __future__ import annotations

import ast

import pytest

from .__main__ import ROOT
from .mutants import MUTANTS


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.file}: {mutant.what}")
def test_a_mutant_can_be_applied(mutant):
    source = (ROOT / "src" / "netjail" / mutant.file).read_text(encoding="utf-8")
    assert source.count(mutant.old) == 1
    mutated = source.replace(mutant.old, mutant.new)
    assert ast.dump(ast.parse(mutated)) != ast.dump(ast.parse(source))


def test_there_are_at_least_sixty():
    assert len(MUTANTS) >= 60
    assert len({each.what for each in MUTANTS}) == len(MUTANTS)
