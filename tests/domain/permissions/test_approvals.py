"""Requests for approval: asked, decided once, deferred, claimed once, forgotten."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retinue.actors.domain.errors import AlreadyDecided, Busy, InvalidValue, NotFound, RetinueError
from retinue.actors.domain.permissions.actions import (
    AccessControlChange,
    Action,
    CapabilityGrant,
    FileDelete,
    FileList,
    FileRead,
    FinancialTransaction,
    McpToolCall,
    TransmitData,
    argument_hash,
)
from retinue.actors.domain.permissions.approvals import machine as approvals
from retinue.actors.domain.permissions.approvals.machine import (
    DEFERRED_US,
    Ask,
    ClaimOnce,
    Command,
    Decide,
    Defer,
    Expire,
    Forget,
    Reply,
    decide,
    initial,
    open_requests,
)
from retinue.actors.domain.permissions.approvals.request import (
    WAIT_US,
    ApprovalRequest,
    Priority,
    Resolution,
    Scope,
    request_for,
)
from retinue.actors.domain.permissions.approvals.state import (
    RETENTION_US,
    Claimed,
    Decided,
    Deferred,
    Entry,
    Event,
    Forgotten,
    State,
    Status,
    evolve,
)

T = TypeVar("T")
START = 1_000_000_000
DELETE = FileDelete("/w/a")
BLANKET = [scope for scope in Scope if scope not in (Scope.ONCE, Scope.DENY)]


class Book:
    """The entity, its clock, and every event it has made."""

    def __init__(self) -> None:
        self.state = initial()
        self.now = START
        self.events: list[Event] = []

    def do(self, command: Command) -> Reply:
        events, reply = decide(self.state, command, self.now)
        for event in events:
            evolve(self.state, event)
        self.events += events
        return reply

    def made_by(self, command: Command) -> int:
        """How many events the command makes."""
        before = len(self.events)
        self.do(command)
        return len(self.events) - before

    def ask(self, id: str = "r", action: Action = DELETE, session: str = "s") -> Entry:
        return a(Entry, self.do(Ask(request(id, action, session, now=self.now))))

    def decide(
        self, id: str = "r", scope: Scope = Scope.ONCE, by: str = "ann", action: Action = DELETE
    ) -> Resolution:
        return a(Resolution, self.do(Decide(id, scope, by, argument_hash(action))))

    def defer(self, id: str = "r") -> Entry:
        return a(Entry, self.do(Defer(id, "nobody there")))

    def claim(
        self, op: str = "op", action: Action = DELETE, session: str = "s", family: str = "f"
    ) -> Resolution | None:
        reply = self.do(ClaimOnce(op, session, family, argument_hash(action)))
        return None if reply is None else a(Resolution, reply)

    def status(self, id: str = "r") -> Status:
        return self.state.requests[id].status


@pytest.fixture
def book() -> Book:
    return Book()


def a(kind: type[T], value: object) -> T:
    assert isinstance(value, kind)
    return value


def request(
    id: str = "r",
    action: Action = DELETE,
    session: str = "s",
    now: int = START,
    priority: Priority | None = None,
) -> ApprovalRequest:
    return request_for(
        action, id=id, session_id=session, family_id="f", now=now, context="c", priority=priority
    )


def test_a_request_says_all_that_somebody_needs_to_decide() -> None:
    asked = request()
    assert asked.description == "delete /w/a"
    assert asked.argument_hash == argument_hash(DELETE)
    assert asked.context == "c"
    assert asked.expires == START + WAIT_US


@pytest.mark.parametrize(
    ("action", "priority"),
    [
        (FileList("/w"), Priority.LOW),
        (FileRead("/w"), Priority.NORMAL),
        (DELETE, Priority.HIGH),
        (FinancialTransaction("1", "x"), Priority.CRITICAL),
    ],
)
def test_priority_follows_the_risk_unless_given(action: Action, priority: Priority) -> None:
    assert request(action=action).priority is priority
    assert request(action=action, priority=Priority.LOW).priority is Priority.LOW


def test_choices_may_be_given_as_words_but_not_as_any_word() -> None:
    deny = msgspec.structs.replace(Decide("r", Scope.ONCE, "ann", "h"), scope="deny")
    assert deny.scope is Scope.DENY
    with pytest.raises(InvalidValue, match="scope"):
        msgspec.structs.replace(deny, scope="forever")


def test_asking_opens_and_asking_again_finds_the_same(book: Book) -> None:
    entry = book.ask()
    assert entry.status is Status.PENDING
    assert book.made_by(Ask(request())) == 0
    assert book.ask() == entry


def test_asking_again_after_the_decision_tells_it(book: Book) -> None:
    book.ask()
    decision = book.decide()
    assert book.ask().decision == decision


@pytest.mark.parametrize("other", [request(action=FileDelete("/w/b")), request(session="t")])
def test_a_request_id_is_for_one_action_of_one_session(book: Book, other: ApprovalRequest) -> None:
    book.ask()
    with pytest.raises(InvalidValue, match="id"):
        book.do(Ask(other))


def test_a_request_whose_hash_is_not_its_actions_is_refused(book: Book) -> None:
    forged = msgspec.structs.replace(request(), argument_hash=argument_hash(FileRead("/w/a")))
    with pytest.raises(InvalidValue, match="argument_hash"):
        book.do(Ask(forged))


@pytest.mark.parametrize("scope", Scope)
def test_a_decision_is_recorded_with_who_made_it(book: Book, scope: Scope) -> None:
    book.ask()
    decision = book.decide(scope=scope, by="ann")
    assert decision.approved is (scope is not Scope.DENY)
    assert (decision.scope, decision.asked) == (scope, scope)
    assert (decision.decided_by, decision.decided_at) == ("ann", START)
    assert (decision.request_id, decision.argument_hash) == ("r", argument_hash(DELETE))
    assert book.state.requests["r"].decision == decision


@pytest.mark.parametrize("scope", BLANKET)
@pytest.mark.parametrize(
    "action",
    [
        TransmitData("x", "y"),
        FinancialTransaction("1", "x"),
        AccessControlChange("x", "y"),
        CapabilityGrant("x", ("read",)),
    ],
)
def test_some_actions_are_never_approved_more_than_once(
    book: Book, action: Action, scope: Scope
) -> None:
    book.ask(action=action)
    decision = book.decide(scope=scope, action=action)
    assert decision.approved
    assert (decision.scope, decision.asked) == (Scope.ONCE, scope)
    assert book.decide(scope=scope, action=action) == decision


def test_but_they_can_be_denied(book: Book) -> None:
    action = TransmitData("x", "y")
    book.ask(action=action)
    decision = book.decide(scope=Scope.DENY, action=action)
    assert not decision.approved
    assert decision.scope is Scope.DENY


def test_the_first_decider_wins_and_the_second_is_told(book: Book) -> None:
    book.ask()
    first = book.decide(by="ann")
    with pytest.raises(AlreadyDecided, match="ann") as caught:
        book.decide(by="bob", scope=Scope.DENY)
    assert caught.value.details["decided_by"] == "ann"
    assert book.state.requests["r"].decision == first


def test_a_decider_may_repeat_but_not_change_a_decision(book: Book) -> None:
    book.ask()
    first = book.decide(by="ann")
    book.now += 1
    assert book.made_by(Decide("r", Scope.ONCE, "ann", argument_hash(DELETE))) == 0
    assert book.decide(by="ann") == first
    with pytest.raises(AlreadyDecided):
        book.decide(by="ann", scope=Scope.SESSION)


@pytest.mark.parametrize(
    ("command", "error"),
    [
        (Decide("other", Scope.ONCE, "ann", argument_hash(DELETE)), NotFound),
        (Decide("r", Scope.ONCE, "ann", argument_hash(FileRead("/w/a"))), InvalidValue),
        (Decide("r", Scope.ONCE, "", argument_hash(DELETE)), InvalidValue),
        (Defer("other", "x"), NotFound),
    ],
)
def test_a_wrong_command_changes_nothing(
    book: Book, command: Command, error: type[RetinueError]
) -> None:
    book.ask()
    with pytest.raises(error):
        book.do(command)
    assert book.status() is Status.PENDING


def test_deciding_one_never_answers_another_even_for_the_same_action(book: Book) -> None:
    book.ask("r1")
    book.ask("r2")
    book.decide("r1")
    assert book.status("r2") is Status.PENDING
    book.decide("r2", scope=Scope.DENY, by="bob")
    assert a(Resolution, book.state.requests["r1"].decision).approved


def test_deferring_keeps_the_request_open_for_a_day(book: Book) -> None:
    book.ask()
    entry = book.defer()
    assert entry == book.state.requests["r"]
    assert (entry.status, entry.reason) == (Status.DEFERRED, "nobody there")
    assert entry.deferred_expires == START + DEFERRED_US
    book.now += 1
    assert book.made_by(Defer("r", "again")) == 0
    assert book.defer() == entry
    book.now = START + DEFERRED_US - 1
    assert book.decide().approved


def test_deferring_what_was_just_decided_tells_the_decision(book: Book) -> None:
    book.ask()
    decision = book.decide()
    assert book.defer().decision == decision
    assert book.status() is Status.DECIDED


def test_an_expired_request_grants_nothing(book: Book) -> None:
    book.ask()
    book.defer()
    book.now += DEFERRED_US
    with pytest.raises(AlreadyDecided, match="expired"):
        book.decide()
    assert book.do(Expire()) == ("r",)
    assert book.status() is Status.EXPIRED
    with pytest.raises(AlreadyDecided, match="expired"):
        book.decide()
    assert book.claim() is None


def test_nobody_waits_for_ever(book: Book) -> None:
    book.ask()
    book.now += WAIT_US - 1
    assert book.do(Expire()) == ()
    book.now += 1
    assert book.do(Expire()) == ("r",)
    assert book.status() is Status.DEFERRED
    assert book.do(Expire()) == ()


def test_an_answer_after_the_wait_counts_as_one_to_a_deferred_request(book: Book) -> None:
    book.ask()
    book.now += WAIT_US
    decision = book.decide()
    assert book.claim() == decision
    assert book.defer().claimed_by == "op"


def test_once_on_a_deferred_request_lets_the_retried_action_pass_once(book: Book) -> None:
    book.ask()
    book.defer()
    decision = book.decide()
    assert book.state.requests["r"].claimable
    assert book.claim("op1") == decision
    assert book.claim("op2") is None
    assert not book.state.requests["r"].claimable


def test_a_repeated_claim_gets_the_same_answer_and_takes_nothing_more(book: Book) -> None:
    for id in ("r1", "r2"):
        book.ask(id)
        book.defer(id)
        book.decide(id)
    first = book.claim("op")
    assert book.made_by(ClaimOnce("op", "s", "f", argument_hash(DELETE))) == 0
    assert book.claim("op") == first
    assert book.claim("op2") is not None


def test_an_operation_that_claimed_can_claim_nothing_else(book: Book) -> None:
    book.ask()
    book.defer()
    book.decide()
    book.claim("op")
    with pytest.raises(InvalidValue, match="op"):
        book.claim("op", action=FileDelete("/w/b"))


@pytest.mark.parametrize(
    ("action", "family"), [(FileDelete("/w/b"), "f"), (FileRead("/w/a"), "f"), (DELETE, "g")]
)
def test_a_grant_is_for_the_same_arguments_and_family(
    book: Book, action: Action, family: str
) -> None:
    book.ask()
    book.defer()
    book.decide()
    assert book.claim(action=action, family=family) is None


def test_ones_own_grant_goes_first_then_the_oldest_of_the_family(book: Book) -> None:
    for id, session in (("r1", "s1"), ("r2", "s2"), ("r3", "s3")):
        book.ask(id, session=session)
        book.defer(id)
        book.decide(id)
    taken = [a(Resolution, book.claim(f"op{n}", session="s2")).request_id for n in range(3)]
    assert taken == ["r2", "r1", "r3"]


@pytest.mark.parametrize("scope", [*BLANKET, Scope.DENY])
def test_only_once_leaves_a_claim(book: Book, scope: Scope) -> None:
    book.ask()
    book.defer()
    book.decide(scope=scope)
    assert book.claim() is None


def test_what_fell_back_to_once_leaves_a_claim_too(book: Book) -> None:
    action = TransmitData("x", "y")
    book.ask(action=action)
    book.defer()
    decision = book.decide(scope=Scope.ALWAYS, action=action)
    assert book.claim(action=action) == decision


def test_an_answer_in_time_leaves_no_claim(book: Book) -> None:
    book.ask()
    book.decide()
    assert book.claim() is None


def test_a_claim_is_open_for_as_long_as_the_entry_is_kept(book: Book) -> None:
    book.ask()
    book.defer()
    decision = book.decide()
    book.now += RETENTION_US - 1
    assert book.claim() == decision
    book.ask("r2")
    book.defer("r2")
    book.decide("r2")
    book.now += RETENTION_US
    assert book.claim("op2") is None


def test_finished_entries_are_forgotten_after_a_day_and_open_ones_never(book: Book) -> None:
    book.ask("decided")
    book.ask("claimed")
    book.ask("expired")
    book.ask("pending")
    book.defer("claimed")
    book.defer("expired")
    book.decide("decided")
    book.decide("claimed")
    book.now += 1
    book.claim()
    book.now = START + RETENTION_US - 1
    assert book.do(Forget()) == ()
    book.now += 1
    assert book.do(Forget()) == ("decided",)
    book.do(Expire())
    book.now += 1
    assert book.do(Forget()) == ("claimed",)
    book.now += RETENTION_US
    assert book.do(Forget()) == ("expired",)
    assert book.made_by(Forget()) == 0
    assert list(book.state.requests) == ["pending"]
    assert book.state == State(
        requests=book.state.requests, open={"pending": book.state.requests["pending"].until}
    )


def test_a_grant_that_nobody_claimed_is_forgotten_with_its_entry(book: Book) -> None:
    book.ask()
    book.defer()
    book.decide()
    book.now += RETENTION_US
    book.do(Forget())
    assert book.state == initial()


def test_open_requests_come_by_priority_then_by_age(book: Book) -> None:
    order = [
        ("a", Priority.NORMAL, 5),
        ("b", Priority.CRITICAL, 4),
        ("c", Priority.LOW, 1),
        ("d", Priority.NORMAL, 3),
        ("e", Priority.HIGH, 9),
        ("f", Priority.NORMAL, 3),
    ]
    for id, priority, age in order:
        book.do(Ask(request(id, now=START + age, priority=priority)))
    book.defer("d")
    listed = [entry.request.id for entry in open_requests(book.state, START)]
    assert listed == ["b", "e", "d", "f", "a", "c"]


def test_only_what_can_still_be_decided_is_open(book: Book) -> None:
    book.ask("decided")
    book.ask("deferred")
    book.ask("pending", session="t")
    book.decide("decided")
    book.defer("deferred")
    assert {e.request.id for e in open_requests(book.state, START)} == {"deferred", "pending"}
    late = START + DEFERRED_US
    assert [e.request.id for e in open_requests(book.state, late)] == ["pending"]


def test_the_number_of_open_requests_is_bounded(
    book: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(approvals, "MAX_OPEN", 3)
    for id in ("r1", "r2", "r3"):
        book.ask(id)
    with pytest.raises(Busy):
        book.ask("r4")
    assert book.ask("r1").status is Status.PENDING
    book.decide("r1")
    book.ask("r4")
    with pytest.raises(Busy):
        book.ask("r5")


def test_a_request_that_nobody_answered_in_time_still_takes_its_room(
    book: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(approvals, "MAX_OPEN", 1)
    book.ask("r1")
    book.now += WAIT_US
    with pytest.raises(Busy):
        book.ask("r2")


def test_expired_requests_make_room_without_waiting_for_a_sweep(
    book: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(approvals, "MAX_OPEN", 2)
    book.ask("r1")
    book.ask("r2")
    book.defer("r1")
    book.now += DEFERRED_US
    book.ask("r3")
    assert book.status("r1") is Status.EXPIRED
    assert set(book.state.open) == {"r2", "r3"}


ACTIONS: dict[str, Action] = {
    "r1": DELETE,
    "r2": DELETE,
    "r3": McpToolCall("s", "t", {"k": [1, None]}),
}
ids = st.sampled_from(list(ACTIONS))
sessions = st.sampled_from(["s1", "s2"])
deciders = st.sampled_from(["ann", "bob"])
scopes = st.sampled_from([Scope.ONCE, Scope.ONCE, Scope.SESSION, Scope.DENY])
ops = st.sampled_from(["op1", "op2", "op3"])


def its_hash(id: str) -> str:
    return argument_hash(ACTIONS[id])


asks = st.builds(lambda id, s: Ask(request(id, ACTIONS[id], s)), ids, sessions)
decisions = st.builds(
    lambda id, scope, by: Decide(id, scope, by, its_hash(id)), ids, scopes, deciders
)
claims = st.builds(lambda id, op, s: ClaimOnce(op, s, "f", its_hash(id)), ids, ops, sessions)
defers = st.builds(Defer, ids, st.just("x"))
sweeps = st.sampled_from([Expire(), Forget()])
commands = st.one_of(asks, asks, decisions, decisions, claims, claims, defers, sweeps)
pauses = st.sampled_from([0] * 12 + [1, WAIT_US, DEFERRED_US // 2, DEFERRED_US])
histories = st.lists(st.tuples(commands, pauses), min_size=15, max_size=40)


def play(history: list[tuple[Command, int]], look: Callable[[Book, Command], None]) -> Book:
    """Run a history, and ``look`` at every command that was not refused."""
    book = Book()
    for command, pause in history:
        book.now += pause
        try:
            book.do(command)
        except RetinueError:
            continue
        look(book, command)
    return book


def ignore(book: Book, command: Command) -> None:
    pass


@given(histories)
@settings(max_examples=40)
def test_the_events_alone_give_the_same_state_and_both_survive_storing(
    history: list[tuple[Command, int]],
) -> None:
    book = play(history, ignore)
    stored = msgspec.msgpack.encode(book.events)
    replayed = initial()
    for event in msgspec.msgpack.decode(stored, type=list[Event]):
        evolve(replayed, event)
    assert replayed == book.state
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(replayed), type=State) == book.state


@given(histories)
@settings(max_examples=40)
def test_no_command_changes_the_state_by_itself_and_repeating_it_makes_no_event(
    history: list[tuple[Command, int]],
) -> None:
    def look(book: Book, command: Command) -> None:
        before = msgspec.msgpack.encode(book.state)
        claimed_none = isinstance(command, ClaimOnce) and command.op not in book.state.claims
        events, _ = decide(book.state, command, book.now)
        assert msgspec.msgpack.encode(book.state) == before
        assert events == [] or claimed_none

    play(history, look)


@given(histories)
@settings(max_examples=40)
def test_a_decision_is_made_once_for_its_own_request_and_never_lost(
    history: list[tuple[Command, int]],
) -> None:
    made: dict[str, Resolution] = {}

    def look(book: Book, command: Command) -> None:
        if isinstance(command, Forget):
            for id in set(made) - set(book.state.requests):
                del made[id]
        if isinstance(command, Decide):
            made.setdefault(
                command.request_id, a(Resolution, book.state.requests[command.request_id].decision)
            )
        kept = {id: e.decision for id, e in book.state.requests.items() if e.decision is not None}
        assert kept == made

    play(history, look)


@given(histories)
@settings(max_examples=40)
def test_every_grant_is_claimed_at_most_once_and_only_if_it_was_made(
    history: list[tuple[Command, int]],
) -> None:
    unclaimed: set[str] = set()
    deferred: set[str] = set()
    for event in play(history, ignore).events:
        match event:
            case Deferred(request_id):
                deferred.add(request_id)
            case Decided(decision) if decision.approved and decision.scope is Scope.ONCE:
                unclaimed |= deferred & {decision.request_id}
            case Claimed(request_id):
                unclaimed.remove(request_id)
            case Forgotten(request_ids):
                unclaimed -= set(request_ids)
                deferred -= set(request_ids)


@given(histories)
@settings(max_examples=40)
def test_what_is_looked_up_agrees_with_the_entries(history: list[tuple[Command, int]]) -> None:
    def look(book: Book, _: Command) -> None:
        entries = book.state.requests
        still_open = (Status.PENDING, Status.DEFERRED)
        assert book.state.open == {
            id: entry.until for id, entry in entries.items() if entry.status in still_open
        }
        granted = sorted(id for ids in book.state.grants.values() for id in ids)
        assert granted == sorted(id for id, entry in entries.items() if entry.claimable)
        assert all(book.state.grants.values())
        assert book.state.claims == {
            entry.claimed_by: id for id, entry in entries.items() if entry.claimed_by is not None
        }

    play(history, look)
