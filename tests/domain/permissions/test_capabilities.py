from __future__ import annotations

import copy
import uuid
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from retinue.actors.domain.errors import CallError, InvalidValue, NotFound
from retinue.actors.domain.permissions.capabilities.machine import (
    Accepted,
    Add,
    CleanupExpired,
    ClearSession,
    Command,
    Reply,
    Revoke,
    Use,
    Used,
    UseRefused,
    decide,
    find,
    usable,
)
from retinue.actors.domain.permissions.capabilities.state import (
    Event,
    Forgotten,
    State,
    TokenUsed,
    evolve,
    get,
    initial,
    refusal,
)
from retinue.actors.domain.permissions.capabilities.token import SKEW_US, Token, attenuate, mint
from retinue.actors.domain.values.keyring import Keyring

KEYS = Keyring(b"k" * 32)
USER, OTHER_USER = "0123456789abcdef", "f" * 16
FAMILY, OTHER_FAMILY = str(uuid.UUID(int=100)), str(uuid.UUID(int=101))
NOW = 1_750_000_000_000_000
HOUR = 3_600_000_000
FILE = "file:///ws/a"


def id_of(number: int) -> str:
    return str(uuid.UUID(int=number))


def token(
    number: int,
    resource: str = "file:///ws/**",
    *,
    permissions: Sequence[str] = ("read",),
    issued: int = NOW,
    expires: int = NOW + HOUR,
    family_id: str | None = None,
    user: str = USER,
    single_use: bool = False,
) -> Token:
    return mint(
        KEYS,
        id=id_of(number),
        resource=resource,
        permissions=permissions,
        now=issued,
        expires=expires,
        user=user,
        audit_entry="audit",
        family_id=family_id,
        single_use=single_use,
    )


def child_of(parent: Token, number: int, *, single_use: bool | None = None) -> Token:
    return attenuate(KEYS, parent, id=id_of(number), now=NOW, single_use=single_use)


def do(state: State, command: Command, now: int = NOW) -> Reply:
    events, reply = decide(state, command, now)
    for event in events:
        evolve(state, event)
    return reply


def store(*tokens: Token) -> State:
    state = initial()
    for one in tokens:
        assert do(state, Add(one)) == Accepted()
    return state


def found(state: State, resource: str = FILE, permission: str = "read", now: int = NOW) -> int:
    one = find(state, resource, permission, family_id=FAMILY, user=USER, now=now)
    return 0 if one is None else uuid.UUID(one.id).int


class TestAdd:
    def test_an_added_token_is_there(self) -> None:
        state = store(token(1))
        assert get(state, id_of(1)) == token(1)
        with pytest.raises(NotFound, match=id_of(2)):
            get(state, id_of(2))

    def test_adding_the_same_again_changes_nothing(self) -> None:
        state = store(token(1))
        assert decide(state, Add(token(1)), NOW) == ([], Accepted())
        assert decide(state, Add(token(1)), NOW + 2 * HOUR) == ([], Accepted())

    def test_another_token_cannot_take_an_id(self) -> None:
        state = store(token(1))
        with pytest.raises(InvalidValue, match="another token"):
            decide(state, Add(token(1, "exec://git")), NOW)

    @pytest.mark.parametrize("at", [NOW - SKEW_US - 1, NOW + HOUR + SKEW_US])
    def test_one_that_does_not_hold_now_is_refused(self, at: int) -> None:
        with pytest.raises(InvalidValue, match=r"issued|expires"):
            decide(initial(), Add(token(1)), at)

    @pytest.mark.parametrize(
        "changed",
        [
            {"id": id_of(0xABC).upper()},
            {"resource": "file://ws"},
            {"resource": "net://Example.com:1"},
            {"permissions": ("write", "read")},
            {"permissions": ()},
            {"expires": NOW},
            {"scope": "session"},
            {"family_id": FAMILY},
            {"user": "me"},
            {"audit_entry": ""},
            {"parent": id_of(1)},
            {"signature": ""},
        ],
        ids=str,
    )
    def test_a_malformed_one_is_refused(self, changed: dict[str, object]) -> None:
        with pytest.raises(InvalidValue):
            decide(initial(), Add(replace(token(1), **changed)), NOW)

    def test_a_revoked_one_is_refused(self) -> None:
        state = store(token(1))
        do(state, Revoke(id_of(1)))
        with pytest.raises(InvalidValue, match="revoked"):
            decide(state, Add(token(1)), NOW)

    def test_a_narrower_one_needs_its_parent(self) -> None:
        parent = token(1)
        with pytest.raises(NotFound, match=parent.id):
            decide(initial(), Add(child_of(parent, 2)), NOW)

    def test_a_narrower_one_may_not_be_wider(self) -> None:
        parent = token(1)
        wider = replace(child_of(parent, 2), permissions=("read", "write"))
        with pytest.raises(InvalidValue, match="permissions"):
            decide(store(parent), Add(wider), NOW)

    def test_one_of_a_revoked_line_is_refused(self) -> None:
        first = token(1, single_use=True)
        second = child_of(first, 2)
        state = store(first, second)
        do(state, Use("op", second.id))
        do(state, Revoke(first.id))
        with pytest.raises(InvalidValue, match=f"parent: token {first.id} was revoked"):
            decide(state, Add(child_of(second, 3)), NOW)


class TestFind:
    def test_resource_permission_and_user_must_fit(self) -> None:
        state = store(token(1, permissions=("read", "list")))
        assert found(state) == 1
        assert found(state, permission="list") == 1
        assert found(state, permission="write") == 0
        assert found(state, "file:///other") == 0
        assert found(state, "no resource") == 0
        assert find(state, FILE, "read", family_id=FAMILY, user=OTHER_USER, now=NOW) is None

    def test_a_session_token_holds_in_its_family_only(self) -> None:
        state = store(token(1, family_id=OTHER_FAMILY))
        assert found(state) == 0
        assert find(state, FILE, "read", family_id=OTHER_FAMILY, user=USER, now=NOW) == token(
            1, family_id=OTHER_FAMILY
        )

    def test_it_takes_the_soonest_to_expire_then_the_oldest_then_the_least_id(self) -> None:
        by_rank = [
            token(9, expires=NOW + 5, issued=NOW - 1),
            token(7, expires=NOW + 5),
            token(8, expires=NOW + 5),
            token(1, expires=NOW + 6, issued=NOW - 9),
        ]
        for count in range(1, len(by_rank) + 1):
            some = by_rank[-count:]
            for order in (some, some[::-1]):
                assert found(store(*order)) == uuid.UUID(some[0].id).int
        assert usable(store(*by_rank[::-1]), NOW) == by_rank

    @pytest.mark.parametrize(
        ("at", "expected"),
        [(NOW - SKEW_US - 1, 0), (NOW - SKEW_US, 1), (NOW + HOUR, 1), (NOW + HOUR + SKEW_US, 0)],
    )
    def test_it_forgives_clocks_30_seconds(self, at: int, expected: int) -> None:
        assert found(store(token(1)), now=at) == expected

    def test_what_was_revoked_or_used_is_passed_over(self) -> None:
        state = store(token(1, single_use=True), token(2, expires=NOW + HOUR + 1), token(3))
        do(state, Use("op", id_of(1)))
        do(state, Revoke(id_of(3)))
        assert found(state) == 2

    def test_an_operation_sent_again_finds_what_it_has_used(self) -> None:
        state = store(token(2, single_use=True))
        do(state, Use("op", id_of(2)))
        do(state, Add(token(1, expires=NOW + 5)))
        again = find(state, FILE, "read", family_id=FAMILY, user=USER, now=NOW, op="op")
        other = find(state, FILE, "read", family_id=FAMILY, user=USER, now=NOW, op="other")
        assert (again, other) == (token(2, single_use=True), token(1, expires=NOW + 5))

    def test_a_child_session_has_only_what_it_was_given(self) -> None:
        state = store(token(1), token(2))

        def among(*numbers: int) -> Token | None:
            ids = [id_of(number) for number in numbers]
            return find(state, FILE, "read", family_id=FAMILY, user=USER, now=NOW, only=ids)

        assert (among(1, 2), among(2), among(3), among()) == (token(1), token(2), None, None)

    def test_it_knows_no_more_after_a_cleanup(self) -> None:
        state = store(token(1, expires=NOW + 1), token(2))
        do(state, CleanupExpired(), NOW + 1 + SKEW_US)
        assert found(state) == 2
        assert list(state.tokens) == [id_of(2)]


class TestUse:
    def test_a_token_for_many_uses_leaves_no_trace(self) -> None:
        state = store(token(1))
        for op in ("a", "b", "a"):
            assert decide(state, Use(op, id_of(1)), NOW) == ([], Used(id_of(1)))

    def test_a_single_use_token_goes_to_the_first_operation(self) -> None:
        state = store(token(1, single_use=True))
        assert decide(state, Use("a", id_of(1)), NOW) == (
            [TokenUsed("a", [id_of(1)])],
            Used(id_of(1)),
        )
        do(state, Use("a", id_of(1)))
        assert decide(state, Use("b", id_of(1)), NOW) == ([], UseRefused("used"))

    def test_the_operation_gets_the_same_reply_whatever_came_after(self) -> None:
        state = store(token(1, single_use=True))
        do(state, Use("a", id_of(1)))
        do(state, Revoke(id_of(1)))
        assert decide(state, Use("a", id_of(1)), NOW + 2 * HOUR) == ([], Used(id_of(1)))
        assert decide(state, Use("b", id_of(1)), NOW) == ([], UseRefused("revoked"))

    @pytest.mark.parametrize(
        ("at", "reply"),
        [
            (NOW - SKEW_US - 1, UseRefused("early")),
            (NOW - SKEW_US, Used(id_of(1))),
            (NOW + HOUR + SKEW_US - 1, Used(id_of(1))),
            (NOW + HOUR + SKEW_US, UseRefused("expired")),
        ],
    )
    def test_it_holds_in_its_time_give_or_take_the_skew(self, at: int, reply: Reply) -> None:
        assert decide(store(token(1)), Use("a", id_of(1)), at) == ([], reply)

    def test_an_unknown_token_is_no_ground(self) -> None:
        assert decide(initial(), Use("a", id_of(1)), NOW) == ([], UseRefused("unknown"))

    def test_an_operation_has_an_id(self) -> None:
        with pytest.raises(InvalidValue, match="op"):
            decide(store(token(1)), Use("", id_of(1)), NOW)

    def test_all_that_come_from_one_single_use_token_share_its_use(self) -> None:
        parent = token(1, single_use=True)
        one, two = child_of(parent, 2), child_of(parent, 3)
        for first, others in ((one, (parent, two)), (parent, (one, two))):
            state = store(parent, one, two)
            assert do(state, Use("a", first.id)) == Used(first.id)
            for other in others:
                assert do(state, Use("b", other.id)) == UseRefused("used")

    def test_a_single_use_child_uses_up_nothing_of_a_token_for_many_uses(self) -> None:
        parent = token(1)
        child = child_of(parent, 2, single_use=True)
        state = store(parent, child)
        do(state, Use("a", child.id))
        assert do(state, Use("b", child.id)) == UseRefused("used")
        assert do(state, Use("b", parent.id)) == Used(parent.id)


class TestRevoke:
    def test_it_is_immediate_and_can_be_repeated(self) -> None:
        state = store(token(1))
        assert do(state, Revoke(id_of(1))) == Accepted()
        assert do(state, Use("a", id_of(1))) == UseRefused("revoked")
        assert found(state) == 0
        assert decide(state, Revoke(id_of(1)), NOW + 1) == ([], Accepted())

    def test_an_unknown_token_is_named(self) -> None:
        with pytest.raises(NotFound, match=id_of(1)):
            decide(initial(), Revoke(id_of(1)), NOW)

    def test_it_takes_the_descendants_and_nothing_else(self) -> None:
        first = token(1)
        second, sibling = child_of(first, 2), child_of(first, 3)
        third = child_of(second, 4)
        state = store(first, second, sibling, third)
        do(state, Revoke(second.id))
        assert [refusal(state, one.id, NOW) for one in (first, second, sibling, third)] == [
            None,
            "revoked",
            None,
            "revoked",
        ]
        do(state, Revoke(first.id))
        assert usable(state, NOW) == []


class TestClearSession:
    def test_it_ends_the_session_tokens_of_that_family_only(self) -> None:
        gone, kept = token(1, family_id=FAMILY), token(2, family_id=OTHER_FAMILY)
        state = store(gone, kept, token(3))
        assert do(state, ClearSession(FAMILY)) == Accepted()
        assert usable(state, NOW) == [kept, token(3)]
        assert decide(state, ClearSession(FAMILY), NOW) == ([], Accepted())

    def test_a_copy_of_a_cleared_token_does_not_come_back(self) -> None:
        state = store(token(1, family_id=FAMILY, single_use=True))
        do(state, Use("a", id_of(1)))
        do(state, ClearSession(FAMILY))
        with pytest.raises(InvalidValue, match="revoked"):
            do(state, Add(token(1, family_id=FAMILY, single_use=True)))

    def test_an_unknown_family_has_nothing_to_clear(self) -> None:
        assert decide(initial(), ClearSession(FAMILY), NOW) == ([], Accepted())


class TestCleanup:
    def test_it_forgets_what_expired_beyond_the_skew_and_not_before(self) -> None:
        state = store(token(1, single_use=True), token(2, expires=NOW + 2 * HOUR))
        do(state, Use("a", id_of(1)))
        do(state, Revoke(id_of(1)))
        just_before = NOW + HOUR + SKEW_US - 1
        assert decide(state, CleanupExpired(), just_before) == ([], Accepted())
        events, _ = decide(state, CleanupExpired(), just_before + 1)
        assert events == [Forgotten(NOW + HOUR)]
        evolve(state, events[0])
        assert (list(state.tokens), state.used, state.revoked) == ([id_of(2)], {}, {})
        assert decide(state, CleanupExpired(), just_before + 2) == ([], Accepted())

    def test_a_clock_that_goes_back_gives_no_second_use(self) -> None:
        state = store(token(1, single_use=True))
        do(state, Use("a", id_of(1)))
        do(state, CleanupExpired(), NOW + HOUR + SKEW_US)
        with pytest.raises(InvalidValue, match="expired"):
            decide(state, Add(token(1, single_use=True)), NOW)


ONCE = token(1, single_use=True)
MANY = token(2)
SESSION = token(3, family_id=FAMILY)
LINE_OF_ONCE = [ONCE, child_of(ONCE, 4), child_of(ONCE, 5)]
LINE_OF_MANY = [MANY, child_of(MANY, 6, single_use=True), child_of(MANY, 7)]
TOKENS = [*LINE_OF_ONCE, *LINE_OF_MANY, SESSION]
IDS = [one.id for one in TOKENS]

COMMANDS: st.SearchStrategy[Command] = st.one_of(
    st.builds(Add, st.sampled_from(TOKENS)),
    st.builds(Use, st.sampled_from(["op-1", "op-2", "op-3"]), st.sampled_from(IDS)),
    st.builds(Revoke, st.sampled_from(IDS)),
    st.builds(ClearSession, st.sampled_from([FAMILY, OTHER_FAMILY])),
    st.just(CleanupExpired()),
)
MOMENTS = st.sampled_from([NOW, NOW, NOW, NOW + 1, NOW + HOUR, NOW + HOUR + SKEW_US])


@given(st.lists(st.tuples(COMMANDS, MOMENTS), max_size=25))
@settings(max_examples=100)
def test_under_any_sequence(steps: list[tuple[Command, int]]) -> None:
    state = store(*TOKENS)
    before = msgspec.msgpack.encode(state)
    history: list[Event] = []
    took_once: set[str] = set()
    took_its_child: set[str] = set()
    revoked: set[str] = set()
    for command, now in steps:
        unchanged = msgspec.msgpack.encode(state)
        try:
            events, reply = decide(state, command, now)
        except CallError:
            events, reply = [], Accepted()
        assert msgspec.msgpack.encode(state) == unchanged, "decide changes nothing"
        for event in events:
            evolve(state, event)
            history.append(event)
        match command, reply:
            case Use(op, token_id), Used():
                if token_id in {one.id for one in LINE_OF_ONCE}:
                    took_once.add(op)
                if token_id == LINE_OF_MANY[1].id:
                    took_its_child.add(op)
                assert token_id not in revoked or state.used.get(token_id) == op
            case Revoke(token_id), Accepted():
                revoked.add(token_id)
        if events:
            assert decide(state, command, now) == ([], reply), "repeating it changes nothing"
    assert len(took_once) <= 1
    assert len(took_its_child) <= 1

    replayed = msgspec.msgpack.decode(before, type=State)
    for event in history:
        stored = msgspec.msgpack.encode(event)
        evolve(replayed, msgspec.msgpack.decode(stored, type=Event))
    assert msgspec.msgpack.encode(replayed) == msgspec.msgpack.encode(state)
    assert found(replayed) == found(state)


class TestStoredForm:
    def test_state_and_events_survive_msgpack(self) -> None:
        state = store(*TOKENS)
        do(state, Use("op", ONCE.id))
        do(state, Revoke(MANY.id))
        do(state, ClearSession(FAMILY))
        read = msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=State)
        assert read == state
        assert [refusal(read, id, NOW) for id in IDS] == [refusal(state, id, NOW) for id in IDS]

    def test_a_state_read_back_finds_as_before(self) -> None:
        state = store(*TOKENS)
        read = msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=State)
        assert found(read) == found(state) == 1
        do(read, CleanupExpired(), NOW + HOUR + SKEW_US)
        assert (found(read), found(state)) == (0, 1)

    def test_a_copy_is_a_store_of_its_own(self) -> None:
        state = store(token(1))
        twin = copy.deepcopy(state)
        do(twin, Add(token(2, "exec://git", permissions=("execute",))))
        assert (found(twin, "exec://git", "execute"), found(state, "exec://git", "execute")) == (
            2,
            0,
        )

    def test_commands_and_replies_survive_msgpack(self) -> None:
        for command in (Add(ONCE), Use("op", ONCE.id), CleanupExpired()):
            packed = msgspec.msgpack.encode(command)
            assert msgspec.msgpack.decode(packed, type=Command) == command
        for reply in (Accepted(), Used(ONCE.id), UseRefused("used")):
            packed = msgspec.msgpack.encode(reply)
            assert msgspec.msgpack.decode(packed, type=Reply) == reply


def test_finding_one_among_many_looks_at_few() -> None:
    state = initial()
    pattern = token(1)
    for number in range(2, 1000):
        resource = f"file:///ws/{number}/**"
        one = replace(pattern, id=id_of(number), resource=resource)
        do(state, Add(one))
    looked_at: list[str] = []

    class Watched(dict[str, Token]):
        def __getitem__(self, key: str) -> Token:
            looked_at.append(key)
            return super().__getitem__(key)

    state.tokens = Watched(state.tokens)
    assert found(state, "file:///ws/77/a/b") == 77
    assert len(looked_at) < 5
