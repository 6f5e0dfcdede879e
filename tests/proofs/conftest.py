"""How much of a proof is run: a part of it with every run of the tests, the whole of it by night."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

NIGHTLY = bool(os.environ.get("NETJAIL_NIGHTLY"))


@pytest.fixture
def some() -> Callable[[Sequence[Any], int], Sequence[Any]]:
    """Picks a number of cases, the same in every run of a test; by night, takes all of them."""
    return lambda cases, number: (
        cases if NIGHTLY or len(cases) <= number else random.Random(number).sample(cases, number)
    )
