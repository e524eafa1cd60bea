"""Which recorded step a call of a resumed turn stands for: the rules in the module's docstring."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinue.actors.domain.errors import NonDeterministicTurn
from retinue.actors.domain.session.replay import ROOT_BRANCH, Replay
from retinue.actors.domain.session.state import Step

Call = tuple[int, str, str]
"""(caller, kind, label): callers number a turn's tasks in the order of their first calls."""


def record(*calls: Call) -> dict[str, Step]:
    """What a turn that made these calls has recorded."""
    replay = Replay({})
    return {replay.key(*call): Step(call[1], call[2], b"") for call in calls}


def keys(recorded: dict[str, Step], *calls: Call) -> list[str]:
    replay = Replay(recorded)
    return [replay.key(*call) for call in calls]


# 1. Steps are numbered within a branch.


def test_the_turns_own_task_is_branch_0() -> None:
    assert keys({}, (ROOT_BRANCH, "step", "a"), (ROOT_BRANCH, "spawn", "b")) == ["0.0", "0.1"]


def test_every_further_task_is_a_branch_in_the_order_of_first_calls() -> None:
    calls = [(2, "step", "x"), (0, "step", "y"), (1, "step", "z"), (2, "step", "x")]
    assert keys({}, *calls) == ["1.0", "0.0", "2.0", "1.1"]


def test_a_task_that_calls_before_branch_0_does_not_become_it() -> None:
    assert keys({}, (7, "step", "x"), (0, "step", "x")) == ["1.0", "0.0"]


# 2. Branch 0, and every matched branch, takes the recorded steps in the recorded order.


def test_the_same_steps_get_the_same_keys() -> None:
    calls = [(0, "step", "a"), (0, "authorize", "b"), (0, "step", "a"), (0, "spawn", "c")]
    recorded = record(*calls)
    assert keys(recorded, *calls) == list(recorded)


def test_another_step_in_branch_0_is_refused_naming_both() -> None:
    recorded = record((0, "step", "a"), (0, "step", "b"))
    with pytest.raises(NonDeterministicTurn, match=r"step 0\.1: step 'b' .* came with spawn 'c'"):
        keys(recorded, (0, "step", "a"), (0, "spawn", "c"))


@pytest.mark.parametrize(
    ("kind", "label"), [("step", "b"), ("authorize", "a"), ("message", ""), ("spawn", "a")]
)
def test_kind_and_label_must_both_be_as_recorded(kind: str, label: str) -> None:
    with pytest.raises(NonDeterministicTurn, match=r"step 0\.0: step 'a' was recorded"):
        keys(record((0, "step", "a")), (0, kind, label))


def test_a_step_without_a_label_is_named_by_its_kind() -> None:
    with pytest.raises(NonDeterministicTurn, match=r"message was recorded, .* came with clear;"):
        keys(record((0, "message", "")), (0, "clear", ""))


def test_a_matched_branch_must_go_on_as_recorded() -> None:
    recorded = record((1, "step", "a"), (1, "step", "b"))
    with pytest.raises(NonDeterministicTurn, match=r"step 1\.1: step 'b' was recorded"):
        keys(recorded, (1, "step", "a"), (1, "step", "c"))


# 3. Further branches are matched by their first step.


def test_parallel_tasks_may_come_in_another_order() -> None:
    recorded = record((1, "step", "a"), (2, "step", "b"), (1, "step", "a2"), (2, "step", "b2"))
    assert keys(
        recorded, (1, "step", "b"), (2, "step", "a"), (2, "step", "a2"), (1, "step", "b2")
    ) == ["2.0", "1.0", "1.1", "2.1"]


def test_branches_that_start_alike_are_interchangeable() -> None:
    recorded = record((1, "step", "a"), (2, "step", "a"), (2, "step", "b"))
    assert keys(recorded, (5, "step", "a"), (3, "step", "a"), (3, "step", "b")) == [
        "1.0",
        "2.0",
        "2.1",
    ]


def test_no_recorded_branch_is_matched_twice() -> None:
    recorded = record((1, "step", "a"))
    assert keys(recorded, (1, "step", "a"), (2, "step", "a")) == ["1.0", "2.0"]


def test_a_further_task_never_takes_what_branch_0_recorded() -> None:
    recorded = record((0, "step", "a"))
    assert keys(recorded, (1, "step", "a"), (0, "step", "a")) == ["1.0", "0.0"]


# 4. A step beyond the recorded ones is new.


def test_what_goes_beyond_the_record_is_new() -> None:
    recorded = record((0, "step", "a"), (1, "step", "x"))
    assert keys(recorded, (0, "step", "a"), (0, "step", "b"), (1, "step", "x"), (1, "x", "y")) == [
        "0.0",
        "0.1",
        "1.0",
        "1.1",
    ]


def test_a_new_branch_takes_no_number_of_a_recorded_one() -> None:
    recorded = record((1, "step", "a"), (2, "step", "b"))
    assert keys(recorded, (1, "step", "new"), (2, "step", "a"), (3, "step", "b")) == [
        "3.0",
        "1.0",
        "2.0",
    ]


def test_a_branch_number_beyond_nine_is_a_number() -> None:
    calls = [(branch, "step", f"{branch}") for branch in range(12)] + [(11, "step", "more")]
    recorded = record(*calls)
    assert list(recorded)[-2:] == ["11.0", "11.1"]
    assert keys(recorded, (3, "step", "11"), (3, "step", "more")) == ["11.0", "11.1"]


# All of them together

branches = st.lists(
    st.lists(
        st.tuples(st.sampled_from(["step", "spawn"]), st.sampled_from("ab")), min_size=1, max_size=4
    ),
    min_size=1,
    max_size=4,
)


def interleaved(taken: Sequence[Sequence[tuple[str, str]]], order: Sequence[int]) -> list[Call]:
    """The branches' calls, each in its own order, mixed as ``order`` says."""
    left = {branch: list(steps) for branch, steps in enumerate(taken)}
    calls: list[Call] = []
    for choice in order:
        branch = sorted(left)[choice % len(left)]
        calls.append((branch, *left[branch].pop(0)))
        if not left[branch]:
            del left[branch]
        if not left:
            break
    for branch, steps in left.items():
        calls += [(branch, *step) for step in steps]
    return calls


orders = st.lists(st.integers(0, 3), max_size=16)


@given(branches, orders)
def test_a_turn_that_takes_the_same_steps_finds_every_one(
    taken: list[list[tuple[str, str]]], order: list[int]
) -> None:
    calls = interleaved(taken, order)
    recorded = record(*calls)
    assert len(recorded) == len(calls)
    assert keys(recorded, *calls) == list(recorded)


@given(branches, orders, orders)
def test_parallel_branches_that_differ_find_their_own_steps_in_any_order(
    taken: list[list[tuple[str, str]]], order: list[int], other: list[int]
) -> None:
    named = [
        [(kind, f"{branch}{label}") for kind, label in steps] for branch, steps in enumerate(taken)
    ]
    recorded = record(*interleaved(named, order))
    again = interleaved(named, other)
    for key, (_, kind, label) in zip(keys(recorded, *again), again, strict=True):
        assert (recorded[key].kind, recorded[key].label) == (kind, label)


@given(branches, orders, st.integers(0, 16))
def test_a_turn_that_was_cut_anywhere_goes_on_without_a_gap(
    taken: list[list[tuple[str, str]]], order: list[int], cut: int
) -> None:
    calls = interleaved(taken, order)
    recorded = record(*calls[:cut])
    found = keys(recorded, *calls)
    assert found[: len(recorded)] == list(recorded)
    assert len(set(found)) == len(calls)
