"""Which rules are in force where."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

import pytest

from netjail import Dialer, Rules, current_rules, use_rules
from netjail._context import in_force

A, B = Rules(["192.0.2.0/24"]), Rules(["198.51.100.0/24"])


def test_outside_any_context_nothing_is_accepted() -> None:
    assert current_rules() == Rules()
    assert in_force(None) == ()


def test_use_rules_nests_and_restores() -> None:
    with use_rules(A) as given:
        assert given is A
        with use_rules(B):
            assert current_rules() is B
        assert current_rules() is A
        with pytest.raises(ZeroDivisionError), use_rules(B):
            raise ZeroDivisionError
        assert current_rules() is A
    assert current_rules() == Rules()


def test_one_manager_may_be_entered_again() -> None:
    manager = use_rules(A)
    with manager, use_rules(B), manager:
        assert current_rules() is A
    assert current_rules() == Rules()


def test_the_context_can_only_narrow() -> None:
    assert in_force(A) == (A,)
    with use_rules(B):
        assert in_force(None) == (B,)
        assert in_force(A) == (A, B)
        assert in_force(B) == (B,)
    with use_rules(Rules()):
        assert in_force(A) == (A, Rules())


def test_a_task_and_to_thread_inherit() -> None:
    async def main() -> list[Any]:
        with use_rules(A):
            task = asyncio.create_task(asyncio.to_thread(current_rules))
            return [await task, await asyncio.create_task(seen())]

    async def seen() -> Any:
        return current_rules()

    assert asyncio.run(main()) == [A, A]


def test_threads_and_executors_start_empty_and_the_recipe_helps() -> None:
    found: list[Any] = []
    with use_rules(A), ThreadPoolExecutor(1) as pool:
        threading.Thread(target=lambda: found.append(current_rules())).start()
        found.append(pool.submit(current_rules).result())
        found.append(pool.submit(copy_context().run, current_rules).result())
    assert found == [Rules(), Rules(), A]


def test_in_a_generator_it_reaches_the_caller() -> None:
    def generator() -> Iterator[None]:
        with use_rules(A):
            yield

    steps = generator()
    next(steps)
    assert current_rules() is A
    next(steps, None)
    assert current_rules() == Rules()


@pytest.mark.parametrize("wrong", ["10.0.0.0/8", ["10.0.0.0/8"], None, Rules])
def test_only_rules_are_rules(wrong: Any) -> None:
    if wrong is Rules:
        wrong = object()
    with pytest.raises(TypeError, match=r"rules are netjail\.Rules"):
        use_rules(wrong)


def test_it_is_no_decorator() -> None:
    """On a coroutine function a decorator would set nothing when the coroutine runs."""
    with pytest.raises(TypeError):
        use_rules(A)(lambda: None)  # type: ignore[operator]


def test_one_object_may_be_entered_in_two_threads_at_a_time() -> None:
    shared, entered, outlasted = use_rules(A), threading.Event(), threading.Event()
    after: list[object] = []

    def first() -> None:
        with shared:
            entered.set()
            assert outlasted.wait(10)
        after.append(current_rules())

    def second() -> None:
        assert entered.wait(10)
        with shared:
            outlasted.set()
            earlier.join()
        after.append(current_rules())

    earlier, later = threading.Thread(target=first), threading.Thread(target=second)
    for thread in (earlier, later):
        thread.start()
    later.join()
    assert after == [Rules(), Rules()]


def test_a_block_that_ends_in_another_context_is_an_error() -> None:
    manager = use_rules(A)
    copy_context().run(manager.__enter__)
    with pytest.raises(ValueError, match="different Context"):
        manager.__exit__(None, None, None)


def test_rules_are_an_object_that_can_be_hashed() -> None:
    class Unhashable:
        __hash__: Any = None

        def rules_for(self, host: str, port: int) -> Rules:
            return A

    wrong: Any
    for wrong, words in ((Rules, "rules are netjail.Rules"), (Unhashable(), "must be hashable")):
        with pytest.raises(TypeError, match=words):
            use_rules(wrong)
        with pytest.raises(TypeError, match=words):
            Dialer(wrong)
