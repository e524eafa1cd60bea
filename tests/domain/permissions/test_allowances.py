from __future__ import annotations

import copy
from collections import Counter
from itertools import permutations
from typing import get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retinue.actors.domain.errors import InvalidValue, NotFound, RetinueError
from retinue.actors.domain.permissions.actions import Action, FileRead, McpToolCall
from retinue.actors.domain.permissions.allowances.allowance import Allowance, signing_bytes, valid
from retinue.actors.domain.permissions.allowances.machine import (
    CleanupExpired,
    ClearSession,
    Command,
    Consume,
    Consumed,
    Done,
    Grant,
    Import,
    Reply,
    Revoke,
    RevokedAt,
    Stored,
    count,
    decide,
)
from retinue.actors.domain.permissions.allowances.state import (
    Event,
    ExpiredRemoved,
    Granted,
    Revoked,
    SessionCleared,
    State,
    UseConsumed,
    evolve,
    initial,
)
from retinue.actors.domain.permissions.patterns import ExactTool, FilePattern, Pattern, ServerTools

NOW = 1_000
FAMILY, OTHER_FAMILY = (f"00000000-0000-7000-8000-00000000f00{n}" for n in (1, 2))
CALL = McpToolCall("survey", "parse")
READ = FileRead("/ws/a.txt")
TOOL = ExactTool("survey", "parse")


def uid(number: int) -> str:
    return f"00000000-0000-7000-8000-{number:012x}"


def allowance(
    number: int = 1,
    pattern: Pattern = TOOL,
    *,
    created: int = 10,
    expires: int | None = None,
    max_uses: int | None = None,
    session: str | None = None,
    root: str | None = None,
) -> Allowance:
    return Allowance(
        id=uid(number),
        pattern=pattern,
        created=created,
        expires=expires,
        max_uses=max_uses,
        session_only=session is not None,
        family_id=session,
        workspace_root=root,
    )


class Store:
    """A state with all that ever happened to it."""

    def __init__(self, *allowances: Allowance) -> None:
        self.state = initial()
        self.events: list[Event] = []
        for one in allowances:
            self.send(Grant(one))

    def send(self, command: Command, now: int = NOW) -> Reply:
        events, reply = decide(self.state, command, now)
        self.events += events
        for event in events:
            evolve(self.state, event)
        return reply

    def consume(
        self,
        op: str,
        action: Action = CALL,
        *,
        family: str = FAMILY,
        root: str | None = "/ws",
        now: int = NOW,
    ) -> Allowance | None:
        reply = self.send(Consume(op, action, family, root), now)
        assert reply is None or isinstance(reply, Consumed)
        return reply.allowance if reply else None

    def replayed(self) -> State:
        state = initial()
        for event in self.events:
            evolve(state, msgspec.msgpack.decode(msgspec.msgpack.encode(event), type=Event))
        return state


# --- the allowance itself ---


def test_uses_left_start_at_the_maximum() -> None:
    assert allowance(max_uses=3).uses_left == 3
    assert allowance().uses_left is None


def test_an_id_has_one_form() -> None:
    assert Allowance(uid(0xABC).upper(), TOOL, 1).id == uid(0xABC)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"id": "x"}, "id"),
        ({"created": -1}, "created"),
        ({"created": 1.5}, "created"),
        ({"expires": 10}, "expires"),
        ({"max_uses": 0}, "max_uses"),
        ({"max_uses": True}, "max_uses"),
        ({"max_uses": 2, "uses_left": 3}, "uses_left"),
        ({"max_uses": 2, "uses_left": -1}, "uses_left"),
        ({"uses_left": 1}, "uses_left"),
        ({"session_only": True}, "family_id"),
        ({"session_only": True, "family_id": "x"}, "family_id"),
        ({"workspace_root": ""}, "workspace_root"),
        ({"signature": None}, "signature"),
    ],
)
def test_a_bad_field_is_refused_by_name(changes: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidValue, match=f"^{field}: "):
        msgspec.structs.replace(allowance(), **changes)


@pytest.mark.parametrize(
    ("one", "now", "is_valid"),
    [
        (allowance(), 10**18, True),
        (allowance(expires=100), 99, True),
        (allowance(expires=100), 100, False),
        (allowance(max_uses=1), 10**18, True),
        (Allowance(uid(1), TOOL, 10, max_uses=1, uses_left=0), 50, False),
    ],
)
def test_valid_is_not_expired_and_not_used_up(one: Allowance, now: int, is_valid: bool) -> None:
    assert valid(one, now) == is_valid


def test_the_signed_form_never_changes() -> None:
    one = allowance(expires=20, max_uses=2, session=FAMILY, root="/ws")
    assert signing_bytes(one) == (
        b"troupe/allowance/1\n"
        b'["00000000-0000-7000-8000-000000000001",'
        b'{"type":"exact_tool","server":"survey","tool":"parse"},'
        b'10,20,2,true,"00000000-0000-7000-8000-00000000f001","/ws"]'
    )


@pytest.mark.parametrize("changes", [{"uses_left": 1}, {"signature": "ab"}])
def test_the_signature_is_not_over_what_changes(changes: dict[str, object]) -> None:
    one = allowance(max_uses=2)
    assert signing_bytes(msgspec.structs.replace(one, **changes)) == signing_bytes(one)


@pytest.mark.parametrize(
    "changes",
    [
        {"id": uid(2)},
        {"pattern": ServerTools("survey")},
        {"created": 11},
        {"expires": 99},
        {"max_uses": 3},
        {"session_only": True},
        {"family_id": OTHER_FAMILY},
        {"workspace_root": "/ws"},
    ],
)
def test_the_signature_is_over_everything_else(changes: dict[str, object]) -> None:
    one = msgspec.structs.replace(allowance(max_uses=2), family_id=FAMILY)
    assert signing_bytes(msgspec.structs.replace(one, **changes)) != signing_bytes(one)


# --- granting ---


def test_granting_again_changes_nothing_and_is_answered_the_same() -> None:
    store = Store(allowance(max_uses=2))
    store.consume("op")
    assert decide(store.state, Grant(allowance(max_uses=2)), NOW) == ([], Stored((uid(1),)))


def test_an_id_names_one_allowance() -> None:
    with pytest.raises(InvalidValue, match=r"^id: "):
        Store(allowance()).send(Grant(allowance(pattern=ServerTools("survey"))))


@pytest.mark.parametrize(
    ("one", "field"),
    [
        (allowance(expires=NOW), "expires"),
        (Allowance(uid(1), TOOL, 10, max_uses=1, uses_left=0), "uses_left"),
    ],
)
def test_what_is_not_valid_is_not_granted(one: Allowance, field: str) -> None:
    with pytest.raises(InvalidValue, match=f"^{field}: "):
        Store(one)


# --- consuming ---


def test_nothing_granted_nothing_found() -> None:
    assert Store().consume("op") is None


def test_an_unlimited_allowance_is_found_without_an_event() -> None:
    store = Store(allowance())
    assert store.consume("op") == allowance()
    assert store.events == [Granted(allowance())]


def test_a_limited_allowance_is_used_up() -> None:
    store = Store(allowance(max_uses=2))
    left = [found and found.uses_left for found in map(store.consume, "abc")]
    assert left == [1, 0, None]
    assert store.events[1:] == [UseConsumed(uid(1), "a"), UseConsumed(uid(1), "b")]


def test_the_same_operation_takes_one_use_and_is_answered_the_same() -> None:
    store = Store(allowance(max_uses=3), allowance(2))
    first = store.consume("op")
    store.consume("other")
    assert store.consume("op") == first
    assert store.consume("op", now=10**15) == first
    assert store.state.allowances[uid(1)].uses_left == 1


def test_an_operation_is_for_one_action_in_one_place() -> None:
    store = Store(allowance(max_uses=3, session=FAMILY), allowance(2, FilePattern("**", "read")))
    store.consume("op")
    with pytest.raises(InvalidValue, match=r"^op: "):
        store.consume("op", READ)
    with pytest.raises(InvalidValue, match=r"^op: "):
        store.consume("op", family=OTHER_FAMILY)


def test_an_expired_allowance_is_not_found() -> None:
    store = Store(allowance(expires=2_000))
    assert store.consume("a", now=1_999)
    assert store.consume("b", now=2_000) is None


def test_a_session_only_allowance_is_for_its_family() -> None:
    store = Store(allowance(session=FAMILY))
    assert store.consume("a", family=OTHER_FAMILY) is None
    assert store.consume("b", family=FAMILY)


@pytest.mark.parametrize("root", [None, "/", "/ws2", "/ws/sub"])
def test_a_workspace_allowance_is_for_that_very_workspace(root: str | None) -> None:
    store = Store(allowance(root="/ws"))
    assert store.consume("a", root=root) is None
    assert store.consume("b", root="/ws")


BEST_FIRST = [
    allowance(6, expires=2_000),
    allowance(7, ServerTools("survey"), expires=3_000, max_uses=1),
    allowance(5, expires=3_000, max_uses=2),
    allowance(4, ServerTools("survey"), max_uses=9, created=99),
    allowance(3, created=5),
    allowance(1, created=6),
    allowance(2, ServerTools("survey"), created=6),
]


@pytest.mark.parametrize("granted", list(permutations(BEST_FIRST, 7))[::97])
def test_soonest_then_fewest_uses_then_oldest_then_lowest_id(granted: list[Allowance]) -> None:
    store = Store(*granted)
    taken = []
    for number in range(7):
        found = store.consume(f"op {number}")
        assert found is not None
        taken.append(found.id)
        store.send(Revoke(found.id))
    assert taken == [one.id for one in BEST_FIRST]


def test_only_what_may_match_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(*(allowance(n, FilePattern(f"/ws/{n}", "read")) for n in range(500)))
    looked_at: list[Pattern] = []

    def match(pattern: Pattern, action: Action, root: str | None) -> bool:
        looked_at.append(pattern)
        return True

    monkeypatch.setattr("retinue.actors.domain.permissions.allowances.machine.matches", match)
    store.consume("op", FileRead("/ws/77"))
    assert looked_at == [FilePattern("/ws/77", "read")]


# --- taking away ---


def test_a_revoked_allowance_is_gone_at_once_and_for_good() -> None:
    one = allowance(max_uses=5)
    store = Store(one)
    store.consume("op")
    assert store.send(Revoke(uid(1))) == RevokedAt(uid(1), NOW)
    assert store.consume("op") is None
    assert store.consume("new") is None
    with pytest.raises(InvalidValue, match="revoked"):
        store.send(Grant(one))
    assert store.send(Import((one,))) == Stored(())


def test_revoking_again_is_answered_the_same() -> None:
    store = Store(allowance())
    first = store.send(Revoke(uid(1)), now=NOW)
    assert decide(store.state, Revoke(uid(1)), NOW + 5) == ([], first)


def test_revoking_what_never_was_is_an_error() -> None:
    with pytest.raises(NotFound):
        Store().send(Revoke(uid(1)))


def test_clearing_a_session_takes_only_its_own() -> None:
    store = Store(allowance(1, session=FAMILY), allowance(2, session=OTHER_FAMILY), allowance(3))
    assert store.send(ClearSession(FAMILY)) == Done()
    assert list(store.state.allowances) == [uid(2), uid(3)]
    assert decide(store.state, ClearSession(FAMILY), NOW) == ([], Done())


def test_a_cleared_allowance_comes_back_with_the_uses_it_had_left() -> None:
    one = allowance(max_uses=2, session=FAMILY)
    store = Store(one)
    store.consume("a")
    store.send(ClearSession(FAMILY))
    store.send(Import((one,)))
    assert store.consume("b")
    assert store.consume("c") is None
    store.send(ClearSession(FAMILY))
    assert store.send(Import((one,))) == Stored(())


def test_cleanup_forgets_what_expired_and_nothing_else() -> None:
    store = Store(allowance(1, expires=2_000), allowance(2, expires=2_001), allowance(3))
    assert store.send(CleanupExpired(), now=2_000) == Done()
    assert store.events[-1] == ExpiredRemoved((uid(1),), 2_000)
    assert list(store.state.allowances) == [uid(2), uid(3)]
    assert decide(store.state, CleanupExpired(), 2_000) == ([], Done())


def test_a_clock_set_back_does_not_revive_what_was_cleaned_up() -> None:
    one = allowance(expires=2_000)
    store = Store(one)
    store.send(CleanupExpired(), now=2_000)
    assert store.send(Import((one,)), now=1_500) == Stored(())


# --- import, export, count ---


def test_import_takes_what_is_valid() -> None:
    held, new, expired = allowance(1, max_uses=2), allowance(2), allowance(3, expires=500)
    store = Store(held)
    store.consume("op")
    command = Import((held, new, expired, new))
    assert store.send(command) == Stored((uid(1), uid(2)))
    assert store.events[-1] == Granted(new)
    assert store.state.allowances[uid(1)].uses_left == 1
    assert decide(store.state, command, NOW) == ([], Stored((uid(1), uid(2))))


def test_import_names_the_one_whose_id_is_taken_and_takes_none() -> None:
    store = Store(allowance(1))
    with pytest.raises(InvalidValue, match=r"^allowances\[1\]\.id: "):
        store.send(Import((allowance(2), allowance(1, ServerTools("x")))))
    assert list(store.state.allowances) == [uid(1)]


def test_count_has_what_is_valid() -> None:
    ours, theirs = allowance(1, session=FAMILY), allowance(2, session=OTHER_FAMILY)
    lasting, expiring = allowance(3, root="/ws"), allowance(4, expires=2_000)
    used_up = allowance(5, ServerTools("once"), max_uses=1)
    store = Store(ours, theirs, lasting, expiring, used_up)
    store.consume("op", McpToolCall("once", "x"))
    assert count(store.state, NOW) == 4
    assert count(store.state, 2_000) == 3


# --- whatever happens ---

numbers = st.integers(0, 4)
allowances = st.builds(
    lambda number, pattern, expires, max_uses, session, root: allowance(
        number, pattern, expires=expires, max_uses=max_uses, session=session, root=root
    ),
    numbers,
    st.sampled_from([TOOL, ServerTools("survey"), FilePattern("/ws/*", "read")]),
    st.sampled_from([None, 40, 80]),
    st.sampled_from([None, 1, 2, 3]),
    st.sampled_from([None, FAMILY, OTHER_FAMILY]),
    st.sampled_from([None, "/ws"]),
)
consumes = st.builds(
    Consume,
    st.sampled_from([f"op {n}" for n in range(12)]),
    st.sampled_from([CALL, READ]),
    st.sampled_from([FAMILY, OTHER_FAMILY]),
    st.sampled_from([None, "/ws"]),
)
commands = st.one_of(
    st.builds(Grant, allowances),
    consumes,
    consumes,
    st.builds(Revoke, numbers.map(uid)),
    st.builds(ClearSession, st.sampled_from([FAMILY, OTHER_FAMILY])),
    st.just(CleanupExpired()),
    st.builds(Import, st.lists(allowances, max_size=3).map(tuple)),
)
histories = st.lists(st.tuples(commands, st.integers(20, 100)), max_size=25)


def after(history: list[tuple[Command, int]]) -> Store:
    store = Store()
    for command, now in history:
        try:
            store.send(command, now)
        except RetinueError:
            continue
    return store


def test_the_histories_can_have_every_command_and_event() -> None:
    assert set(get_args(Event)) == {Granted, UseConsumed, Revoked, SessionCleared, ExpiredRemoved}
    assert len(get_args(Command)) == 6


@settings(max_examples=150, deadline=None)
@given(histories)
def test_uses_never_exceed_their_maximum(history: list[tuple[Command, int]]) -> None:
    held: dict[str, Allowance] = {}
    uses: Counter[bytes] = Counter()
    for event in after(history).events:
        if isinstance(event, Granted):
            held[event.allowance.id] = event.allowance
        if isinstance(event, UseConsumed):
            allowance = held[event.id]
            uses[signing_bytes(allowance)] += 1
            assert uses[signing_bytes(allowance)] <= (allowance.max_uses or 0)


@settings(max_examples=100, deadline=None)
@given(histories)
def test_events_lead_to_the_same_state_and_the_state_survives_being_stored(
    history: list[tuple[Command, int]],
) -> None:
    store = after(history)
    assert store.replayed() == store.state
    packed = msgspec.msgpack.encode(store.state)
    assert msgspec.msgpack.decode(packed, type=State) == store.state


@settings(max_examples=150, deadline=None)
@given(histories, consumes, st.integers(20, 100))
def test_the_choice_is_the_same_however_the_state_came_to_be(
    history: list[tuple[Command, int]], command: Consume, now: int
) -> None:
    store = after(history)
    stored = msgspec.msgpack.decode(msgspec.msgpack.encode(store.state), type=State)
    states = [store.state, store.replayed(), stored, copy.deepcopy(store.state)]
    assert len({repr(answer(state, command, now)) for state in states}) == 1


@settings(max_examples=150, deadline=None)
@given(histories, commands, st.integers(20, 100))
def test_deciding_changes_nothing_and_repeating_adds_nothing(
    history: list[tuple[Command, int]], command: Command, now: int
) -> None:
    store = after(history)
    before = copy.deepcopy(store.state)
    first = answer(store.state, command, now)
    assert store.state == before
    if isinstance(first, tuple):
        events, reply = first
        for event in events:
            evolve(store.state, event)
        assert decide(store.state, command, now) == ([], reply)


def answer(state: State, command: Command, now: int) -> tuple[list[Event], Reply] | str:
    try:
        return decide(state, command, now)
    except RetinueError as problem:
        return problem.message
