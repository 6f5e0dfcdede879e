"""The error tree, and finding a denial in what a library made of it."""

from __future__ import annotations

import copy
import errno
import pickle
import traceback
from typing import Any

import pytest

from netjail import DeniedError, InvalidRuleError, NetjailError, Rules, find_denied

DENIED = DeniedError("intranet.example", 8080, [Rules().explain("10.1.2.3")])


def test_the_tree() -> None:
    assert issubclass(InvalidRuleError, NetjailError)
    assert issubclass(InvalidRuleError, ValueError)
    assert issubclass(DeniedError, NetjailError)
    assert issubclass(DeniedError, PermissionError)
    assert NetjailError.__mro__[1] is Exception


def test_a_denial_names_what_was_asked_for_and_no_address() -> None:
    assert str(DENIED) == "netjail denied the connection to 'intranet.example' port 8080: not accepted by the rules"
    assert "10.1.2.3" not in "".join(traceback.format_exception(DENIED))
    assert DENIED.errno == errno.EACCES
    assert len(DENIED.args) == 2
    assert [d.accepted for d in DENIED.decisions] == [False]


@pytest.mark.parametrize("again", [pickle.loads(pickle.dumps(DENIED)), copy.copy(DENIED), copy.deepcopy(DENIED)])
def test_a_denial_travels(again: DeniedError) -> None:
    assert type(again) is DeniedError
    assert (str(again), again.host, again.port, again.errno) == (str(DENIED), DENIED.host, DENIED.port, DENIED.errno)
    assert [str(d) for d in again.decisions] == [str(d) for d in DENIED.decisions]


def test_a_subclass_can_be_made_of_it() -> None:
    class ClientError(Exception):
        pass

    class ClientDeniedError(DeniedError, ClientError):
        pass

    error = ClientDeniedError.of(DENIED)
    assert isinstance(error, ClientError)
    assert error.__cause__ is DENIED
    assert str(error) == str(DENIED)


def wrapped(make: Any) -> BaseException:
    try:
        make()
    except Exception as error:  # noqa: BLE001 - whatever it is, the test looks into it
        return error
    raise AssertionError


def caused() -> None:
    raise ConnectionError("x") from DENIED


def handled() -> None:
    try:
        raise DENIED
    except DeniedError:
        raise KeyError("x")  # noqa: B904 - the implicit context is the point


class ReasonError(Exception):
    def __init__(self, reason: BaseException) -> None:
        super().__init__("it failed")
        self.reason = reason


def kept_as(name: str, value: object) -> BaseException:
    """An error of a library's that keeps another in an attribute and nowhere else."""
    error = RuntimeError("it failed")
    setattr(error, name, value)
    return error


def group_with_other_arguments() -> BaseException:
    group = ExceptionGroup("many", [DENIED])
    group.args = ("many",)
    return group


@pytest.mark.parametrize(
    "error",
    [
        DENIED,
        wrapped(caused),
        wrapped(handled),
        ReasonError(DENIED),
        kept_as("exception", DENIED),
        kept_as("exceptions", [KeyError("x"), DENIED]),
        RuntimeError("a", ["b", (DENIED,)]),
        RuntimeError({"host": DENIED}),
        ExceptionGroup("many", [ValueError("x"), ExceptionGroup("more", [ReasonError(DENIED)])]),
        group_with_other_arguments(),
    ],
    ids=["itself", "cause", "context", "reason", "exception", "exceptions", "arguments", "mapping", "groups", "group"],
)
def test_a_denial_is_found(error: BaseException) -> None:
    assert find_denied(error) is DENIED


@pytest.mark.parametrize(
    "denied",
    [
        DENIED,
        DeniedError("it's", 1, reason="the address is not accepted by the rules in force"),
        DeniedError('a"b\\', 65535),
        DeniedError("2001:db8::1", 53, reason="no rules are in force (give rules, or use netjail.use_rules)"),
    ],
)
@pytest.mark.parametrize("text", ["{}", "db:27017: {} (configured timeouts: x), Timeout: 5s", "[('a', '{}')]"])
def test_a_denial_is_found_in_text(denied: DeniedError, text: str) -> None:
    found = find_denied(OSError(text.format(denied)))
    assert found is not None
    assert (found.host, found.port) == (denied.host, denied.port)
    assert found.decisions == ()
    assert denied.reason.startswith(found.reason.split(" (")[0])


def test_nothing_is_found_where_nothing_is() -> None:
    loop = ValueError("x")
    loop.__cause__ = loop
    for error in (None, loop, OSError(errno.EACCES, "denied"), ExceptionGroup("x", [KeyError()])):
        assert find_denied(error) is None


def test_a_broken_str_hides_nothing() -> None:
    class BrokenError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("broken")

    assert find_denied(BrokenError(DENIED)) is DENIED


@pytest.mark.parametrize("again", [lambda error: type(error)(str(error)), lambda error: type(error)(*error.args)])
def test_a_denial_that_a_library_makes_again_is_the_same_denial(again: Any) -> None:
    denied = DeniedError("it's.test", 443, reason="none of its addresses is accepted by the rules in force")
    made = again(denied)
    assert (made.host, made.port, made.reason) == (denied.host, denied.port, denied.reason)
    assert str(made) == str(denied)
    assert made.errno == errno.EACCES
    assert again(DeniedError("x", 1)).host == "x"


def test_a_denial_made_of_any_text_is_one() -> None:
    made: Any = DeniedError("somebody's words")
    assert (made.host, made.port) == ("somebody's words", 0)


class SensitiveError(Exception):
    """An error of a library's whose attribute must not be touched: it is deprecated, or computed from what is gone."""

    @property
    def reason(self) -> str:
        raise RuntimeError("nobody is to ask")


def test_looking_for_a_denial_runs_no_code_of_an_attribute() -> None:
    assert find_denied(SensitiveError("x")) is None
    error = SensitiveError("x")
    error.__cause__ = DENIED
    assert find_denied(error) is DENIED
