"""A session: runs in order and once, steps that are kept, money that adds up, children, the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinue.actors.domain.errors import (
    Busy,
    CorruptState,
    InvalidValue,
    LimitReached,
    NotFound,
    RetinueError,
    SessionEnded,
)
from retinue.actors.domain.permissions.decision import Decision, Kind
from retinue.actors.domain.session import machine as session
from retinue.actors.domain.session.commands import (
    AcceptRun,
    AddMessages,
    ClearMessages,
    Close,
    Command,
    Create,
    DescribeSession,
    EndAttempt,
    FinishChildren,
    FinishRun,
    RecordDecision,
    RecordStep,
    RememberEscape,
    Reply,
    Settlement,
    SettleReservation,
    SpawnChildren,
    StartRun,
)
from retinue.actors.domain.session.events import HOST_ENDED, KEPT_OPERATIONS, Event
from retinue.actors.domain.session.machine import MAX_MESSAGE_BYTES, MAX_QUEUED_RUNS
from retinue.actors.domain.session.result import Result, Status
from retinue.actors.domain.session.settings import Isolation, Limits
from retinue.actors.domain.session.state import (
    MAX_ATTEMPTS,
    MAX_STARTS,
    SHARED_ATTEMPTS,
    Agent,
    Budget,
    ChildSpec,
    Imported,
    Metadata,
    Profile,
    Reservation,
    State,
    Step,
    children_of,
    committed_money,
    exhausted,
    isolation_of,
    operation,
    the_profile,
)
from retinue.actors.domain.values.money import MAX_NANO, NANO

ME = "me"
AGENT = Agent("digest", "reader")


def profile(
    limits: Limits | None = None, depth: int = 0, isolation: Isolation = "process"
) -> Profile:
    return Profile(
        id=ME,
        user_id="0123456789abcdef",
        workspace_id="scope",
        family_id=ME,
        created_at=5,
        agent=AGENT,
        isolation=isolation,
        budget=Budget(100 * NANO, 10 * NANO, 80),
        limits=limits or Limits(),
        depth=depth,
        system_prompt="You are terse.",
    )


class Desk:
    """A session, every event that it ever had, and a clock that goes on by one at each command."""

    def __init__(
        self, limits: Limits | None = None, depth: int = 0, isolation: Isolation = "process"
    ) -> None:
        self.state = session.initial()
        self.events: list[Event] = []
        self.now = 0
        self.do(Create(profile(limits, depth, isolation)))

    def do(self, command: Command) -> Reply:
        self.now += 1
        events, reply = session.decide(self.state, command, self.now)
        for event in events:
            self.state = session.evolve(self.state, event)
        self.events += events
        return reply

    def changes_nothing(self, command: Command) -> Reply:
        """The reply to a command that must have no effect."""
        before, count = stored(self.state), len(self.events)
        reply = self.do(command)
        assert (stored(self.state), len(self.events)) == (before, count)
        return reply

    def running(self, run: str = "run") -> None:
        self.do(AcceptRun(run, "prompt"))
        self.do(StartRun(run))

    def authorized(self, amount: int, key: str = "0.0", run: str = "run", **more: str) -> str:
        decision = Decision("allowed", amount=amount, proof=more.get("proof", "policy"))
        self.do(RecordDecision(run, key, "file_read", decision))
        return operation(run, key)

    def settle(self, operation: str, actual: int | None) -> Settlement:
        return cast(Settlement, self.do(SettleReservation(operation, actual)))

    def finish(
        self,
        run: str = "run",
        status: Status = "completed",
        output: str = "",
        error: str | None = None,
    ) -> Result:
        return cast(Result, self.do(FinishRun(run, Result(ME, status, output, error))))

    def spawn(self, *children: str, key: str = "0.0", run: str = "run") -> None:
        self.do(SpawnChildren(run, key, "readers", [spec(id) for id in children]))

    @property
    def metadata(self) -> Metadata:
        return self.state.metadata


def stored(state: State) -> State:
    """The state as it comes back from storage."""
    return msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=State)


def replayed(events: Sequence[Event]) -> State:
    """What the events, as they come back from storage, make of nothing."""
    state = session.initial()
    for event in events:
        state = session.evolve(
            state, msgspec.msgpack.decode(msgspec.msgpack.encode(event), type=Event)
        )
    return state


def spec(id: str) -> ChildSpec:
    return ChildSpec(id, id, AGENT, "prompt", 60, "shared", "label")


# Runs


def test_runs_start_in_the_order_in_which_they_were_accepted() -> None:
    desk = Desk()
    for run in ("a", "b"):
        desk.do(AcceptRun(run, "prompt"))
    with pytest.raises(Busy, match="run b comes after run a"):
        desk.do(StartRun("b"))
    desk.do(StartRun("a"))
    with pytest.raises(Busy, match="run b comes after run a"):
        desk.do(StartRun("b"))
    desk.finish("a")
    desk.do(StartRun("b"))
    assert desk.state.runs["b"].started == desk.now


def test_64_runs_wait_behind_the_one_under_way_and_the_next_is_told_to() -> None:
    desk = Desk()
    desk.running()
    for number in range(MAX_QUEUED_RUNS):
        desk.do(AcceptRun(f"{number}", "prompt"))
    assert MAX_QUEUED_RUNS == 64
    with pytest.raises(Busy, match="64 runs are queued"):
        desk.do(AcceptRun("one too many", "prompt"))
    desk.finish("run")
    desk.do(AcceptRun("one too many", "prompt"))


def test_a_full_queue_still_knows_the_runs_in_it() -> None:
    desk = Desk()
    for number in range(MAX_QUEUED_RUNS + 1):
        desk.do(AcceptRun(f"{number}", "prompt"))
    desk.changes_nothing(AcceptRun("7", "prompt"))


def test_the_same_run_id_twice_is_one_run() -> None:
    desk = Desk()
    desk.running()
    assert desk.changes_nothing(AcceptRun("run", "another prompt")) is None
    desk.changes_nothing(StartRun("run"))
    result = desk.finish(output="done")
    assert desk.changes_nothing(AcceptRun("run", "prompt")) == result
    assert desk.metadata.turn_count == 1


def test_a_result_is_set_once() -> None:
    desk = Desk()
    desk.running()
    first = desk.finish(output="done")
    assert desk.changes_nothing(FinishRun("run", Result(ME, "failed", error="late"))) == first


def test_a_result_is_filled_in_with_cost_duration_and_calls() -> None:
    desk = Desk()
    desk.do(AcceptRun("run", "prompt"))
    accepted = desk.now
    desk.do(StartRun("run"))
    desk.settle(desk.authorized(10, "0.0"), 7)
    desk.authorized(5, "0.1")
    result = desk.finish(output="text", status="failed", error="why")
    assert result == Result(
        ME,
        "failed",
        output="text",
        error="why",
        cost=12,
        duration=desk.now - accepted,
        tool_calls=2,
        run_id="run",
    )


def test_a_run_that_never_started_can_be_given_its_result() -> None:
    desk = Desk()
    desk.running("a")
    desk.do(AcceptRun("b", "prompt"))
    assert desk.finish("b", "cancelled").status == "cancelled"
    assert list(desk.state.runs) == ["a"]


def test_the_newest_results_are_kept() -> None:
    desk = Desk(Limits(max_results=2))
    for number in range(4):
        desk.running(f"{number}")
        desk.finish(f"{number}")
    assert list(desk.state.results) == ["2", "3"]


def test_a_session_that_says_nothing_of_its_results_keeps_as_many_as_all_did_before() -> None:
    without = msgspec.msgpack.encode([3, 4, 10_000, 100_000])  # as it was stored then
    desk = Desk(msgspec.msgpack.decode(without, type=Limits))
    for number in range(35):
        desk.running(f"{number}")
        desk.finish(f"{number}")
    assert list(desk.state.results) == [f"{number}" for number in range(3, 35)]


@pytest.mark.parametrize(
    "command",
    [
        StartRun("other"),
        FinishRun("other", Result(ME, "completed")),
        RecordStep("other", "0.0", Step("step", "", b"")),
        AddMessages(1, 1, "other", "0.0"),
        ClearMessages("other", "0.0"),
        RecordDecision("other", "0.0", "", Decision("allowed")),
        SpawnChildren("other", "0.0", "", []),
    ],
)
def test_an_unknown_run_is_not_found(command: Command) -> None:
    desk = Desk()
    desk.running()
    with pytest.raises(NotFound, match="run other"):
        desk.do(command)


def test_a_later_activation_starts_a_run_again_but_it_stays_one_turn() -> None:
    desk = Desk()
    desk.do(AcceptRun("run", "prompt"))
    desk.do(StartRun("run", epoch=1))
    started = desk.state.runs["run"].started
    desk.changes_nothing(StartRun("run", epoch=1))
    desk.do(StartRun("run", epoch=2))
    assert desk.state.runs["run"].attempts == 2
    assert desk.state.runs["run"].started == started
    assert desk.metadata.turn_count == 1


def test_a_shared_run_that_does_not_get_on_is_given_a_process_of_its_own() -> None:
    desk = Desk(isolation="shared")
    desk.do(AcceptRun("run", "prompt"))
    found = []
    for epoch in range(1, SHARED_ATTEMPTS + 2):
        desk.do(StartRun("run", epoch))
        found.append(isolation_of(desk.state, desk.state.runs["run"]))
    assert found == ["shared"] * SHARED_ATTEMPTS + ["process"]


def test_a_run_that_gets_on_may_start_again_as_often_as_it_must() -> None:
    desk = Desk(isolation="shared")
    desk.do(AcceptRun("run", "prompt"))
    for epoch in range(1, 20):
        desk.do(StartRun("run", epoch))
        assert isolation_of(desk.state, desk.state.runs["run"]) == "shared"
        desk.do(AddMessages(1, 1, "run", f"0.{epoch}"))


# The end


@pytest.mark.parametrize("reason", ["ended", "cancelled"])
def test_a_closed_session_takes_nothing_more(reason: str) -> None:
    desk = Desk()
    desk.running()
    desk.do(Close("ended" if reason == "ended" else "cancelled"))
    for command in (
        AcceptRun("late", "prompt"),
        AddMessages(1, 1),
        ClearMessages(),
        DescribeSession(title="late"),
    ):
        with pytest.raises(SessionEnded, match=f"the session was {reason}"):
            desk.do(command)
    with pytest.raises((SessionEnded, NotFound)):
        desk.do(StartRun("run"))
    with pytest.raises((SessionEnded, NotFound)):
        desk.authorized(1)


def test_closing_again_changes_nothing() -> None:
    desk = Desk()
    desk.do(Close("cancelled"))
    desk.changes_nothing(Close("ended"))
    assert desk.state.closed == "cancelled"


def test_closing_cancels_the_runs_and_charges_what_they_left_open() -> None:
    desk = Desk()
    desk.running("a")
    desk.do(AcceptRun("b", "prompt"))
    desk.authorized(9, run="a")
    desk.do(Close("ended"))
    assert {run: (one.status, one.cost) for run, one in desk.state.results.items()} == {
        "a": ("cancelled", 9),
        "b": ("cancelled", 0),
    }
    assert (desk.state.runs, desk.state.reservations, desk.state.spent) == ({}, {}, 9)


def test_a_closed_session_still_tells_what_its_runs_came_to() -> None:
    desk = Desk()
    desk.running()
    result = desk.finish(output="done")
    desk.do(Close("ended"))
    assert desk.changes_nothing(AcceptRun("run", "prompt")) == result


def test_making_a_session_again_changes_nothing() -> None:
    desk = Desk()
    desk.changes_nothing(Create(profile(depth=2)))


@pytest.mark.parametrize(
    "command", [AcceptRun("run", "prompt"), AddMessages(1, 1), DescribeSession("x")]
)
def test_a_session_that_was_never_made_takes_nothing(command: Command) -> None:
    with pytest.raises(NotFound, match="no such session"):
        session.decide(session.initial(), command, 0)


# Steps


def test_a_step_is_recorded_once() -> None:
    desk = Desk()
    desk.running()
    step = Step("step", "sum", b"\x01")
    assert desk.do(RecordStep("run", "0.0", step)) == step
    assert desk.changes_nothing(RecordStep("run", "0.0", Step("step", "sum", b"\x02"))) == step


def test_a_step_may_be_announced_before_its_result_is_known() -> None:
    desk = Desk()
    desk.running()
    announced, done = Step("step", "pay", None), Step("step", "pay", b"\x01")
    desk.do(RecordStep("run", "0.0", announced))
    desk.changes_nothing(RecordStep("run", "0.0", announced))
    assert desk.do(RecordStep("run", "0.0", done)) == done
    assert desk.changes_nothing(RecordStep("run", "0.0", announced)) == done


def test_steps_are_forgotten_with_their_run() -> None:
    desk = Desk()
    desk.running()
    desk.do(RecordStep("run", "0.0", Step("step", "", b"x" * 1000)))
    desk.finish()
    assert b"x" * 1000 not in msgspec.msgpack.encode(desk.state)


def test_a_message_that_is_a_step_counts_once() -> None:
    desk = Desk()
    desk.running()
    assert desk.do(AddMessages(1, 30, "run", "0.0")) is True
    assert desk.changes_nothing(AddMessages(1, 30, "run", "0.0")) is False
    assert (desk.state.messages, desk.state.token_count) == (1, 30)
    assert desk.state.runs["run"].steps["0.0"].kind == "message"


def test_a_message_from_outside_is_added_once_however_often_it_is_sent() -> None:
    desk = Desk()
    assert desk.do(AddMessages(1, 30, op="a")) is True
    assert desk.do(AddMessages(1, 30, op="b")) is True
    assert desk.changes_nothing(AddMessages(1, 30, op="a")) is False
    assert desk.state.messages == 2


def test_so_many_operations_of_clients_are_remembered() -> None:
    desk = Desk()
    for number in range(KEPT_OPERATIONS + 10):
        desk.do(AddMessages(1, 1, op=f"{number}"))
    assert len(desk.state.operations) == KEPT_OPERATIONS
    assert desk.changes_nothing(AddMessages(1, 1, op="10")) is False


def test_clearing_zeroes_the_count_and_keeps_the_prompt() -> None:
    desk = Desk()
    desk.running()
    desk.do(AddMessages(3, 30))
    desk.do(ClearMessages("run", "0.0"))
    assert (desk.state.token_count, desk.state.first_message, desk.state.messages) == (0, 3, 3)
    assert the_profile(desk.state).system_prompt == "You are terse."
    desk.do(AddMessages(1, 4))
    desk.changes_nothing(ClearMessages("run", "0.0"))
    assert desk.state.token_count == 4


def test_messages_have_room_up_to_a_limit_that_is_named() -> None:
    desk = Desk()
    desk.do(AddMessages(1, 1, bytes=MAX_MESSAGE_BYTES - 1))
    with pytest.raises(LimitReached, match="messages of this session") as caught:
        desk.do(AddMessages(1, 1, bytes=2))
    assert caught.value.details == {"limit": "message_bytes", "value": MAX_MESSAGE_BYTES}
    desk.do(AddMessages(1, 1, bytes=1))
    assert (desk.state.messages, desk.state.message_bytes) == (2, MAX_MESSAGE_BYTES)


# Money


def test_an_allowed_action_reserves_until_it_is_settled() -> None:
    desk = Desk()
    desk.running()
    action = desk.authorized(10)
    assert (desk.state.spent, committed_money(desk.state)) == (0, 10)
    assert desk.settle(action, 4) == Settlement(charged=4, returned=6, over=0)
    assert (desk.state.spent, committed_money(desk.state)) == (4, 4)
    assert desk.state.runs["run"].cost == 4


@pytest.mark.parametrize(
    ("actual", "charge"),
    [
        (None, Settlement(10, 0, 0)),
        (10, Settlement(10, 0, 0)),
        (0, Settlement(0, 10, 0)),
        (1, Settlement(1, 9, 0)),
        (15, Settlement(15, 0, 5)),
    ],
)
def test_settling_says_what_it_charged_returned_and_overspent(
    actual: int | None, charge: Settlement
) -> None:
    desk = Desk()
    desk.running()
    assert desk.settle(desk.authorized(10), actual) == charge
    assert desk.state.spent == charge.charged


@pytest.mark.parametrize("actual", [None, 0, 10, 99])
def test_settling_again_changes_nothing(actual: int | None) -> None:
    desk = Desk()
    desk.running()
    action = desk.authorized(10)
    desk.settle(action, 4)
    assert desk.changes_nothing(SettleReservation(action, actual)) == Settlement(0, 0, 0)


@pytest.mark.parametrize("actual", [-1, MAX_NANO + 1])
def test_an_impossible_cost_is_refused_and_the_reservation_stays(actual: int) -> None:
    desk = Desk()
    desk.running()
    action = desk.authorized(10)
    with pytest.raises(InvalidValue, match="actual_usd"):
        desk.settle(action, actual)
    assert committed_money(desk.state) == 10


@pytest.mark.parametrize("amount", [-1, MAX_NANO + 1])
def test_an_impossible_reservation_is_refused(amount: int) -> None:
    desk = Desk()
    desk.running()
    with pytest.raises(InvalidValue, match="cost_usd"):
        desk.authorized(amount)
    assert desk.state.reservations == {}


def test_authorising_the_same_step_again_reserves_nothing_more() -> None:
    desk = Desk()
    desk.running()
    desk.authorized(10)
    desk.changes_nothing(RecordDecision("run", "0.0", "", Decision("allowed", amount=20)))


@pytest.mark.parametrize("kind", ["denied", "exceeded", "deferred"])
def test_a_no_is_a_step_that_reserves_and_counts_nothing(kind: Kind) -> None:
    desk = Desk()
    desk.running()
    decision = Decision(kind, reason="so", amount=10, proof="approval:1")
    desk.do(RecordDecision("run", "0.0", "file_read", decision))
    recorded = desk.state.runs["run"].steps["0.0"]
    assert msgspec.msgpack.decode(recorded.payload or b"", type=Decision) == decision
    assert committed_money(desk.state) == 0
    assert (desk.metadata.tool_call_count, desk.metadata.approval_count) == (0, 0)


def test_what_is_left_open_when_a_run_ends_is_charged_in_full() -> None:
    desk = Desk()
    desk.running()
    desk.settle(desk.authorized(10, "0.0"), 3)
    left = desk.authorized(8, "0.1")
    assert desk.finish(status="failed", error="it broke").cost == 11
    assert (desk.state.spent, desk.state.reservations) == (11, {})
    assert desk.changes_nothing(SettleReservation(left, 0)) == Settlement(0, 0, 0)


def test_turns_tool_calls_and_approvals_are_counted() -> None:
    desk = Desk()
    for run in ("a", "b"):
        desk.running(run)
        desk.authorized(0, "0.0", run)
        desk.authorized(1, "0.1", run, proof="approval:1")
        desk.authorized(1, "0.2", run, proof="allowance:1")
        desk.finish(run)
    assert desk.metadata == Metadata(turn_count=2, tool_call_count=6, approval_count=2)
    assert [result.tool_calls for result in desk.state.results.values()] == [3, 3]


# Children


def test_children_are_found_by_the_step_that_spawned_them() -> None:
    desk = Desk()
    desk.running()
    desk.spawn("a", "b", key="0.0")
    desk.spawn("c", key="0.1")
    assert [child.spec.id for child in children_of(desk.state, "run", "0.0")] == ["a", "b"]
    assert [child.spec.id for child in children_of(desk.state, "run", "0.1")] == ["c"]


def test_a_spawn_is_one_step_however_often_it_is_sent() -> None:
    desk = Desk()
    desk.running()
    desk.spawn("a", "b")
    desk.changes_nothing(SpawnChildren("run", "0.0", "readers", [spec("a"), spec("b")]))
    assert desk.state.spawned == 2


@pytest.mark.parametrize("depth", [3, 4])
def test_too_deep_a_spawn_names_the_limit_and_its_value(depth: int) -> None:
    desk = Desk(Limits(max_depth=3), depth)
    desk.running()
    with pytest.raises(LimitReached, match=f"depth {depth + 1}: max_depth is 3") as caught:
        desk.spawn("a")
    assert caught.value.details == {"limit": "max_depth", "value": 3}
    assert (desk.state.children, desk.state.spawned) == ({}, 0)


def test_the_last_level_may_be_spawned() -> None:
    desk = Desk(Limits(max_depth=3), depth=2)
    desk.running()
    desk.spawn("a")
    assert list(desk.state.children) == ["a"]


def test_too_broad_a_spawn_names_the_limit_and_starts_nobody() -> None:
    desk = Desk(Limits(max_children=3))
    desk.running()
    desk.spawn("a", "b", key="0.0")
    with pytest.raises(LimitReached, match=r"4 children .*max_children is 3") as caught:
        desk.spawn("c", "d", key="0.1")
    assert caught.value.details == {"limit": "max_children", "value": 3}
    assert list(desk.state.children) == ["a", "b"]
    desk.spawn("c", key="0.2")


def test_children_of_earlier_runs_count_for_the_breadth() -> None:
    desk = Desk(Limits(max_children=1))
    desk.running("a")
    desk.spawn("child", run="a")
    desk.finish("a")
    desk.running("b")
    with pytest.raises(LimitReached):
        desk.spawn("another", run="b")


def test_a_childs_result_is_taken_once() -> None:
    desk = Desk()
    desk.running()
    desk.spawn("a", "b")
    first, late = Result("a", "completed", cost=5), Result("a", "failed", cost=70)
    desk.do(FinishChildren([first, late]))
    desk.changes_nothing(FinishChildren([late, first]))
    assert desk.state.children["a"].result == first
    assert desk.state.children_cost == 5


def test_results_of_strangers_are_ignored() -> None:
    desk = Desk()
    desk.running()
    desk.changes_nothing(FinishChildren([Result("stranger", "completed", cost=5)]))


def test_a_run_costs_what_it_and_its_children_spent() -> None:
    desk = Desk()
    desk.running()
    desk.spawn("a", "b")
    desk.do(FinishChildren([Result("a", "completed", cost=5), Result("b", "failed", cost=2)]))
    desk.settle(desk.authorized(10, "0.1"), 1)
    assert desk.finish().cost == 8
    assert (desk.state.spent, desk.state.children_cost) == (1, 7)


def test_children_are_forgotten_with_their_run() -> None:
    desk = Desk()
    desk.running()
    desk.spawn("a")
    desk.finish()
    assert desk.state.children == {}
    desk.changes_nothing(FinishChildren([Result("a", "completed", cost=5)]))


# The rest


def test_a_description_changes_what_is_given_and_nothing_else() -> None:
    desk = Desk()
    desk.do(DescribeSession(title="Orchard", tags=["a"], custom={"k": "v"}))
    desk.do(DescribeSession(tags=["b", "c"]))
    assert desk.metadata == Metadata(title="Orchard", tags=["b", "c"], custom={"k": "v"})
    desk.changes_nothing(DescribeSession(title="Orchard", custom={"k": "v"}))


def test_escapes_are_remembered_once_each_in_its_place() -> None:
    desk = Desk()
    for always in (True, False):
        desk.do(RememberEscape("/data", always))
        desk.changes_nothing(RememberEscape("/data", always))
    assert (desk.state.escapes, desk.state.session_escapes) == (["/data"], ["/data"])


def test_an_imported_session_goes_on_from_where_it_was() -> None:
    brought = Imported(Metadata(title="Orchard", turn_count=7), ["/data"], 40, 12, {"x": b"1"})
    state = session.initial()
    for event in session.decide(state, Create(profile(), brought), 0)[0]:
        session.evolve(state, event)
    assert (state.spent, state.token_count, state.escapes) == (12, 40, ["/data"])
    assert (state.metadata.title, state.extra) == ("Orchard", {"x": b"1"})


def test_an_event_is_not_changed_by_what_comes_after_it() -> None:
    brought = Imported(Metadata(tags=["a"]), ["/data"], 0, 0, {})
    state = session.initial()
    [created], _ = session.decide(state, Create(profile(), brought), 0)
    before = msgspec.msgpack.encode(created)
    session.evolve(state, created)
    for command in (
        AcceptRun("run", "prompt"),
        StartRun("run"),
        DescribeSession("Orchard", ["b"], {"k": "v"}),
        RememberEscape("/more", True),
    ):
        for event in session.decide(state, command, 0)[0]:
            session.evolve(state, event)
    assert state.metadata.turn_count == 1
    assert msgspec.msgpack.encode(created) == before


@pytest.mark.parametrize(
    "wrong",
    [
        State(spent=-1),
        State(spent=(1 << 63)),
        State(reservations={"op": Reservation("run", -1)}),
        State(reservations={"op": Reservation("run", 1 << 63)}),
        State(reservations={"op": Reservation("run", 5)}, reserved=4),
        State(token_count=-1),
        State(messages=1, first_message=2),
        State(messages=1, first_message=-1),
    ],
)
def test_a_stored_state_that_cannot_be_true_is_refused(wrong: State) -> None:
    state = msgspec.msgpack.decode(msgspec.msgpack.encode(wrong), type=State)
    with pytest.raises(CorruptState, match=r"out of range|does not add up"):
        session.validate(state)


# Properties

runs = st.sampled_from(["r0", "r1", "r2"])
keys = st.sampled_from([f"0.{number}" for number in range(5)])
operations = st.builds(operation, runs, keys)
amounts = st.integers(0, 50)
decisions = st.builds(
    Decision,
    st.sampled_from(["allowed", "allowed", "allowed", "denied", "exceeded", "deferred"]),
    proof=st.sampled_from(["policy", "approval:1", "allowance:1"]),
    amount=amounts,
)
results = st.builds(
    Result, st.just(ME), st.sampled_from(["completed", "failed", "timed_out"]), cost=amounts
)


def _spawn(run: str, key: str, count: int) -> SpawnChildren:
    children = [spec(f"{run}/{key}/{number}") for number in range(count)]
    return SpawnChildren(run, key, "readers", children)


children_results = st.builds(
    Result,
    st.builds("{}/{}/{}".format, runs, keys, st.integers(0, 2)),
    st.sampled_from(["completed", "failed", "cancelled"]),
    cost=amounts,
)
steps = st.builds(
    Step, st.just("step"), st.sampled_from(["a", "b"]), st.none() | st.binary(max_size=3)
)
commands = st.one_of(
    st.builds(AcceptRun, runs, st.text(max_size=3), st.none() | st.integers(1, 9)),
    st.builds(StartRun, runs, st.integers(0, 2)),
    st.builds(RecordDecision, runs, keys, st.just("label"), decisions),
    st.builds(SettleReservation, operations, st.none() | amounts),
    st.builds(RecordStep, runs, keys, steps),
    st.builds(AddMessages, st.integers(1, 3), amounts, runs, keys),
    st.builds(AddMessages, st.integers(1, 3), amounts),
    st.builds(ClearMessages, runs, keys),
    st.builds(ClearMessages),
    st.builds(_spawn, runs, keys, st.integers(0, 3)),
    st.builds(FinishChildren, st.lists(children_results, max_size=3)),
    st.builds(FinishRun, runs, results),
    st.builds(
        DescribeSession,
        st.none() | st.text(max_size=3),
        st.none() | st.lists(st.text(max_size=2), max_size=2),
        st.none() | st.dictionaries(st.text(max_size=2), st.text(max_size=2), max_size=2),
    ),
    st.builds(RememberEscape, st.sampled_from(["/a", "/b"]), st.booleans()),
)
histories = st.tuples(st.lists(commands, max_size=60), st.none() | st.just(Close("ended")))


def lived(history: tuple[list[Command], Close | None]) -> Desk:
    """A session whose first run was under way, after those of the commands that it took."""
    desk = Desk(Limits(max_children=8))
    desk.running("r0")
    for command in [*history[0], *filter(None, [history[1]])]:
        try:
            desk.do(command)
        except RetinueError:
            continue
    return desk


@given(histories)
def test_replaying_the_events_gives_the_same_state(
    history: tuple[list[Command], Close | None],
) -> None:
    desk = lived(history)
    assert replayed(desk.events) == desk.state
    assert stored(desk.state) == desk.state
    session.validate(stored(desk.state))


@given(histories)
def test_a_refused_command_leaves_no_trace(history: tuple[list[Command], Close | None]) -> None:
    desk = Desk(Limits(max_children=4))
    desk.running("r0")
    for command in history[0]:
        before = stored(desk.state)
        try:
            events, _ = session.decide(desk.state, command, 0)
        except RetinueError:
            events = []
        assert stored(desk.state) == before  # deciding alone never changes anything
        for event in events:
            session.evolve(desk.state, event)


@given(histories)
def test_a_command_that_is_sent_twice_has_one_effect(
    history: tuple[list[Command], Close | None],
) -> None:
    desk = Desk(Limits(max_children=8))
    desk.running("r0")
    for command in [*history[0], *filter(None, [history[1]])]:
        if isinstance(command, AddMessages | ClearMessages) and not command.key:
            continue  # from outside of a turn: no step, so nothing to know it by
        try:
            desk.do(command)
        except RetinueError:
            continue
        desk.changes_nothing(command)
    assert replayed(desk.events) == desk.state


@given(histories)
def test_money_adds_up(history: tuple[list[Command], Close | None]) -> None:
    desk = Desk(Limits(max_children=8))
    desk.running("r0")
    charged = 0
    for command in [*history[0], *filter(None, [history[1]])]:
        open_before = {id: one.amount for id, one in desk.state.reservations.items()}
        spent_before = desk.state.spent
        try:
            reply = desk.do(command)
        except RetinueError:
            continue
        gone = open_before.keys() - desk.state.reservations.keys()
        if isinstance(reply, Settlement):
            charged += reply.charged
            assert reply.charged + reply.returned - reply.over == sum(
                open_before[id] for id in gone
            )
        else:
            charged += sum(open_before[id] for id in gone)
        assert desk.state.spent == charged >= spent_before >= 0
        assert all(one.amount > 0 for one in desk.state.reservations.values())
        assert all(one.run in desk.state.runs for one in desk.state.reservations.values())
        assert committed_money(desk.state) >= desk.state.spent
    by_runs = sum(result.cost for result in desk.state.results.values())
    under_way = sum(run.cost for run in desk.state.runs.values())
    unfinished = sum(
        child.result.cost for child in desk.state.children.values() if child.result is not None
    )
    assert by_runs + under_way + unfinished == desk.state.spent + desk.state.children_cost


def _killed(desk: Desk, times: int, cause: str = "killed by SIGKILL") -> None:
    for _ in range(times):
        desk.do(EndAttempt("run", cause))


def test_the_end_of_a_process_ends_an_attempt_and_not_the_run() -> None:
    desk = Desk()
    desk.running()
    _killed(desk, MAX_ATTEMPTS - 1)
    assert "run" in desk.state.runs
    assert exhausted(desk.state.runs["run"]) is None


def test_a_run_whose_process_ends_again_and_again_fails_with_every_cause() -> None:
    desk = Desk()
    desk.running()
    _killed(desk, MAX_ATTEMPTS - 2)
    desk.do(EndAttempt("run", "exited with code 3"))
    desk.do(StartRun("run", 2))
    why = str(exhausted(desk.state.runs["run"]))
    assert f"killed by SIGKILL ({MAX_ATTEMPTS - 2} times)" in why
    assert "exited with code 3;" in why
    assert HOST_ENDED in why


@pytest.mark.parametrize(
    "news", ["step", "message", "children"], ids=["a step", "a message", "a sub-agent's result"]
)
def test_what_gets_on_may_die_again(news: str) -> None:
    desk = Desk()
    desk.running()
    if news == "children":
        desk.spawn("child")
    _killed(desk, MAX_ATTEMPTS - 1)
    match news:
        case "step":
            desk.do(RecordStep("run", "0.1", Step("step", "one", b"")))
        case "message":
            desk.do(AddMessages(1, 1, "run", "0.1"))
        case "children":
            desk.do(FinishChildren([Result("child", "completed")]))
    run = desk.state.runs["run"]
    assert (run.attempts, run.deaths) == (1, [])
    assert run.starts == MAX_ATTEMPTS


def test_what_dies_after_each_new_step_does_not_go_on_for_ever() -> None:
    desk = Desk()
    desk.running()
    for at in range(MAX_STARTS):
        assert exhausted(desk.state.runs["run"]) is None
        desk.do(RecordStep("run", f"0.{at}", Step("step", "one", b"")))
        _killed(desk, 1)
    assert f"{MAX_STARTS} times, at last: killed by SIGKILL" in str(
        exhausted(desk.state.runs["run"])
    )


def test_an_attempt_of_a_closed_session_or_of_no_run_does_not_end() -> None:
    desk = Desk()
    with pytest.raises(NotFound):
        desk.do(EndAttempt("run", "killed"))
    desk.running()
    desk.do(Close("cancelled"))
    with pytest.raises(SessionEnded):
        desk.do(EndAttempt("run", "killed"))
