"""Errors: one tree of three kinds, and all of it crosses process boundaries whole."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator

import cloudpickle
import pytest

from retinue.actors.domain import errors
from retinue.actors.domain.errors import CallError, RetinueError, Unavailable
from retinue.actors.domain.permissions.decision import Decision, NotAuthorized


def below(cls: type[RetinueError]) -> Iterator[type[RetinueError]]:
    for one in cls.__subclasses__():
        yield one
        yield from below(one)


ALL: list[type[RetinueError]] = [
    RetinueError,
    *sorted(set(below(RetinueError)), key=lambda cls: cls.__name__),
]
FINAL = {
    "InvalidValue",
    "NotFound",
    "AlreadyDecided",
    "SessionEnded",
    "LimitReached",
    "InvalidAgent",
    "Tampered",
    "CorruptState",
    "StepInterrupted",
    "NonDeterministicTurn",
}
RETRY = {
    "StoreUnavailable",
    "RolledBack",
    "ClusterUnavailable",
    "Busy",
    "WorkspaceHeld",
    "Fenced",
    "NoCapacity",
}


@pytest.mark.parametrize("cls", ALL)
@pytest.mark.parametrize("dumps", [pickle.dumps, cloudpickle.dumps])
def test_message_and_details_survive_pickling(
    cls: type[RetinueError], dumps: Callable[[RetinueError], bytes]
) -> None:
    error = _raised(cls)
    again = pickle.loads(dumps(error))
    assert type(again) is cls
    assert again.message == str(again) == "max_depth: 4 is over 3"
    assert again.details == error.details


@pytest.mark.parametrize("cls", ALL)
def test_errors_are_copied_whole(cls: type[RetinueError]) -> None:
    again = copy.copy(_raised(cls))
    assert (type(again), again.message) == (cls, "max_depth: 4 is over 3")


@pytest.mark.parametrize("cls", ALL)
def test_a_message_alone_is_enough(cls: type[RetinueError]) -> None:
    assert cls("so it is").details == {}


def test_a_no_carries_its_decision_across() -> None:
    decision = Decision("exceeded", reason="session budget", operation="run/0.1")
    again = pickle.loads(pickle.dumps(NotAuthorized("not allowed", decision)))
    assert again.decision == decision
    assert again.message == "not allowed"


def test_a_no_without_a_decision_is_a_denial_for_the_reason_it_gives() -> None:
    assert NotAuthorized("blocked").decision == Decision("denied", reason="blocked")


def test_there_are_three_kinds() -> None:
    assert {cls.__name__ for cls in below(CallError)} == FINAL
    assert {cls.__name__ for cls in below(Unavailable)} == RETRY
    assert set(RetinueError.__subclasses__()) == {CallError, Unavailable, NotAuthorized}


def test_the_tree_in_the_docstring_names_every_error() -> None:
    for cls in ALL:
        assert cls.__name__ in (errors.__doc__ or "")


def test_none_of_them_is_caught_with_the_errors_of_others() -> None:
    for cls in ALL:
        assert cls.__mro__[-3:] == (Exception, BaseException, object)


def _raised(cls: type[RetinueError]) -> RetinueError:
    message = "max_depth: 4 is over 3"
    if cls is NotAuthorized:
        return NotAuthorized(message)
    return cls(message, limit="max_depth", value=3, final=True, cause=None)
