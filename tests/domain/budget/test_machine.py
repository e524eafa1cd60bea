"""The budget of a workspace: caps at every level, spend that is never lost or charged twice."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import cast

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from retinue.actors.domain.budget import machine as budget
from retinue.actors.domain.budget.commands import (
    Admit,
    Admitted,
    CapWarning,
    Child,
    Command,
    Exceeded,
    Lease,
    LeaseGranted,
    LeaseRequest,
    OpenFamily,
    OpenWorkspace,
    Refused,
    Reply,
    SetCap,
    SetHold,
    Standing,
)
from retinue.actors.domain.budget.events import Event
from retinue.actors.domain.budget.lending import those_behind
from retinue.actors.domain.budget.levels import describe, over_per_action
from retinue.actors.domain.budget.state import WORKSPACE, Account, Brake, Cap, Hold, State
from retinue.actors.domain.budget.totals import Level, level_of
from retinue.actors.domain.errors import CorruptState, InvalidValue, NotFound, RetinueError
from retinue.actors.domain.values.keyring import Keyring
from retinue.actors.domain.values.money import MAX_NANO, NANO
from retinue.actors.durable.audit import Head
from retinue.actors.durable.codec import Codec
from retinue.actors.durable.journal import Key
from retinue.actors.durable.machines import BUDGET

ROOT, OTHER = "root", "other"
NOW = 0


class Desk:
    """A budget, and every event that it ever had."""

    def __init__(self, workspace: int | None = None, warn_at_percent: int = 80) -> None:
        self.state = budget.initial()
        self.events: list[Event] = []
        if workspace is not None:
            self.set_cap(WORKSPACE, workspace, warn_at_percent)

    def do(self, command: Command, now: int = NOW) -> Reply:
        events, reply = budget.decide(self.state, command, now)
        for event in events:
            self.state = budget.evolve(self.state, event)
        self.events += events
        return reply

    def open(self, family: str = ROOT, max: int | None = None, spent: int = 0) -> None:
        self.do(OpenFamily(family, Cap(max), 10 * NANO, 100, spent))

    def admit(self, *children: Child, parent: str = ROOT, family: str = ROOT) -> Reply:
        return self.do(Admit(family, parent, list(children)))

    def set_cap(self, level: str, max: int | None, warn_at_percent: int = 80) -> None:
        self.do(SetCap(level, Cap(max, warn_at_percent), "ada"))

    def want(
        self, session: str, number: int, *, spent: int = 0, lent: int = 0, epoch: int = 1
    ) -> LeaseGranted | Exceeded:
        reply = self.do(Lease([LeaseRequest(session, epoch, number, spent, lent)]))
        return cast("list[LeaseGranted | Exceeded]", reply)[0]

    def level(self, name: str) -> Level:
        return level_of(self.state, name)

    def held(self, *names: str) -> list[int]:
        return [self.level(name).held for name in names]


def stored(state: State) -> State:
    """The state as it comes back from storage, without anything that was kept beside it."""
    return msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=State)


# Levels


def test_a_child_charges_its_family_and_the_workspace() -> None:
    desk = Desk(workspace=100)
    desk.open(max=50)
    desk.admit(Child("child"))
    assert desk.want("child", 1, lent=30) == LeaseGranted(30)
    assert desk.held(ROOT, WORKSPACE) == [30, 30]
    desk.want("child", 2, spent=20, lent=20)
    assert desk.level(ROOT) == Level(20, 20, 50)
    assert desk.level(WORKSPACE) == Level(20, 20, 100)
    assert desk.state.accounts["child"].spent == 20
    assert desk.state.accounts[ROOT].spent == 0


def test_two_families_share_the_workspace() -> None:
    desk = Desk(workspace=100)
    desk.open(ROOT, max=80)
    desk.open(OTHER, max=80)
    desk.want(ROOT, 1, lent=70)
    assert desk.want(OTHER, 1, lent=40) == Exceeded("workspace", 40, 30)
    assert desk.want(OTHER, 2, lent=30) == LeaseGranted(30, CapWarning("workspace", 100, 100, 80))


def test_a_refusal_by_the_session_budget_leaves_the_workspace_uncharged() -> None:
    desk = Desk(workspace=100)
    desk.open(max=50)
    desk.admit(Child("child"))
    desk.want("child", 1, lent=40)
    assert desk.want("child", 2, lent=51) == Exceeded("session", 11, 10)
    assert desk.held(ROOT, WORKSPACE) == [40, 40]


def test_a_refusal_by_the_workspace_leaves_allotment_and_family_uncharged() -> None:
    desk = Desk(workspace=10)
    desk.open(max=50)
    desk.admit(Child("child", allotment=40))
    assert desk.want("child", 1, lent=11) == Exceeded("workspace", 11, 10)
    assert desk.held("child", ROOT, WORKSPACE) == [0, 0, 0]


def test_an_allotment_caps_everything_below_it() -> None:
    desk = Desk()
    desk.open(max=100)
    desk.admit(Child("child", allotment=20))
    desk.admit(Child("leaf", allotment=15), Child("free"), parent="child")
    desk.want("leaf", 1, lent=15)
    assert desk.want("free", 1, lent=6) == Exceeded("allotment", 6, 5)
    assert desk.want("free", 2, lent=5) == LeaseGranted(5)
    assert desk.want("child", 1, lent=1) == Exceeded("allotment", 1, 0)
    assert desk.held("leaf", "child", ROOT) == [15, 20, 20]
    assert desk.want(ROOT, 1, lent=80) == LeaseGranted(80, CapWarning("session", 100, 100, 80))


@pytest.mark.parametrize(
    ("caps", "level"),
    [
        ((9, 9, 9, 9), "allotment"),
        ((99, 9, 9, 9), "allotment"),
        ((99, 99, 9, 9), "session"),
        ((99, 99, 99, 9), "workspace"),
    ],
)
def test_the_innermost_level_without_room_is_the_reason(
    caps: tuple[int, int, int, int], level: str
) -> None:
    leaf, child, session, workspace = caps
    desk = Desk(workspace=workspace)
    desk.open(max=session)
    desk.admit(Child("child", allotment=child))
    desk.admit(Child("leaf", allotment=leaf), parent="child")
    assert desk.want("leaf", 1, lent=10) == Exceeded(level, 10, 9)
    assert describe(Exceeded(level, 10, 9)).startswith(f"{level} budget: ")


def test_an_action_is_refused_above_what_one_may_cost() -> None:
    assert over_per_action(5 * NANO, 5 * NANO) is None
    refusal = over_per_action(6 * NANO, 5 * NANO)
    assert refusal == Exceeded("per_action", 6 * NANO, 5 * NANO)
    assert describe(refusal) == "per_action: 6 USD asked, an action may cost 5 USD"


def test_of_two_allotments_the_inner_one_is_asked_first() -> None:
    desk = Desk()
    desk.open()
    desk.admit(Child("child", allotment=5))
    desk.admit(Child("leaf", allotment=9), parent="child")
    assert desk.want("leaf", 1, lent=10) == Exceeded("allotment", 10, 9)


def test_without_a_cap_the_workspace_records_and_never_blocks() -> None:
    desk = Desk()
    desk.open()
    assert desk.want(ROOT, 1, spent=MAX_NANO, lent=2 * MAX_NANO) == LeaseGranted(2 * MAX_NANO)
    assert desk.level(WORKSPACE) == Level(MAX_NANO, 2 * MAX_NANO, None)


def test_what_is_held_and_not_spent_is_reserved() -> None:
    desk = Desk()
    desk.open()
    desk.want(ROOT, 1, spent=3, lent=10)
    assert desk.level(ROOT).reserved == 7


def test_an_unknown_level_holds_nothing() -> None:
    assert Desk().level("nobody") == Level(0, 0, None)


def test_an_imported_session_brings_its_spend() -> None:
    desk = Desk(workspace=100)
    desk.open(max=50, spent=45)
    assert desk.level(WORKSPACE) == Level(45, 45, 100)
    assert desk.want(ROOT, 1, spent=45, lent=51) == Exceeded("session", 6, 5)


# Reports and wishes


def test_asking_again_changes_nothing() -> None:
    desk = Desk()
    desk.open(max=50)
    first = desk.want(ROOT, 1, spent=5, lent=20)
    before, count = stored(desk.state), len(desk.events)
    assert desk.want(ROOT, 1, spent=5, lent=20) == first
    assert (stored(desk.state), len(desk.events)) == (before, count)


def test_an_older_wish_changes_nothing_and_is_told_the_loan_of_now() -> None:
    desk = Desk()
    desk.open(max=50)
    desk.want(ROOT, 2, spent=10, lent=20)
    assert desk.want(ROOT, 1, spent=5, lent=50) == LeaseGranted(20)
    assert desk.want(ROOT, 9, spent=50, lent=50, epoch=0) == LeaseGranted(20)
    assert desk.level(ROOT) == Level(10, 20, 50)


def test_a_newer_activation_starts_counting_anew() -> None:
    desk = Desk()
    desk.open(max=50)
    desk.want(ROOT, 7, spent=10, lent=40)
    assert desk.want(ROOT, 1, spent=10, lent=10, epoch=2) == LeaseGranted(10)
    assert desk.want(ROOT, 8, spent=10, lent=40, epoch=1) == LeaseGranted(10)
    assert desk.level(ROOT).held == 10


@pytest.mark.parametrize(
    ("epoch", "number", "spent", "is_behind"),
    [
        (2, 3, 20, False),  # what was told before
        (2, 4, 20, False),
        (2, 2, 10, False),  # late, and no word of now
        (2, 4, 10, True),
        (3, 1, 10, True),
        (1, 9, 30, True),
    ],
)
def test_a_session_that_knows_of_less_than_was_told_is_behind(
    epoch: int, number: int, spent: int, is_behind: bool
) -> None:
    desk = Desk()
    desk.open()
    desk.want(ROOT, 3, spent=20, lent=20, epoch=2)
    wants = [LeaseRequest(ROOT, epoch, number, spent, 0), LeaseRequest("stranger", 1, 1, 0, 0)]
    assert those_behind(desk.state, wants) == ({ROOT} if is_behind else set())


def test_a_report_never_lowers_spend() -> None:
    desk = Desk()
    desk.open()
    desk.want(ROOT, 1, spent=10, lent=10)
    assert desk.want(ROOT, 2, spent=3, lent=0) == LeaseGranted(10)
    assert desk.level(ROOT).spent == 10


def test_what_is_given_back_can_be_lent_to_another() -> None:
    desk = Desk()
    desk.open(max=50)
    desk.admit(Child("child"))
    desk.want(ROOT, 1, lent=50)
    assert isinstance(desk.want("child", 1, lent=20), Exceeded)
    desk.want(ROOT, 2, spent=30, lent=30)
    assert desk.want("child", 2, lent=20).__class__ is LeaseGranted


def test_a_report_above_the_loan_is_charged_past_the_cap() -> None:
    desk = Desk(workspace=10)
    desk.open(max=10)
    desk.want(ROOT, 1, lent=10)
    assert desk.want(ROOT, 2, spent=13, lent=13).__class__ is LeaseGranted
    assert desk.level(ROOT) == Level(13, 13, 10)
    assert desk.want(ROOT, 3, spent=13, lent=14) == Exceeded("session", 1, 0)


def test_a_refusal_still_records_the_spend_that_came_with_it() -> None:
    desk = Desk()
    desk.open(max=10)
    desk.want(ROOT, 1, lent=6)
    assert desk.want(ROOT, 2, spent=5, lent=20) == Exceeded("session", 14, 4)
    assert desk.level(ROOT) == Level(5, 6, 10)


def test_lowering_a_cap_below_spend_blocks_and_loses_nothing() -> None:
    desk = Desk(workspace=100)
    desk.open(max=100)
    desk.want(ROOT, 1, spent=60, lent=80)
    desk.set_cap(WORKSPACE, 50)
    assert desk.level(WORKSPACE) == Level(60, 80, 50)
    assert desk.want(ROOT, 2, spent=60, lent=81) == Exceeded("workspace", 1, 0)
    assert desk.want(ROOT, 3, spent=60, lent=60).__class__ is LeaseGranted
    assert desk.want(ROOT, 4, spent=60, lent=61) == Exceeded("workspace", 1, 0)
    desk.set_cap(WORKSPACE, 61)
    assert desk.want(ROOT, 5, spent=60, lent=61).__class__ is LeaseGranted


def test_a_family_has_its_cap_raised_by_itself() -> None:
    desk = Desk()
    desk.open(ROOT, max=10)
    desk.open(OTHER, max=10)
    desk.set_cap(ROOT, 20)
    assert desk.want(ROOT, 1, lent=20).__class__ is LeaseGranted
    assert desk.want(OTHER, 1, lent=11) == Exceeded("session", 11, 10)


def test_a_cap_that_is_already_so_is_not_set_again() -> None:
    desk = Desk(workspace=10)
    count = len(desk.events)
    desk.set_cap(WORKSPACE, 10)
    assert len(desk.events) == count


@pytest.mark.parametrize(
    ("lent", "warning"),
    [
        (79, None),
        (80, CapWarning("session", 80, 100, 80)),
        (81, CapWarning("session", 81, 100, 80)),
        (100, CapWarning("session", 100, 100, 80)),
    ],
)
def test_a_family_warns_from_its_threshold_on(lent: int, warning: CapWarning | None) -> None:
    desk = Desk()
    desk.open(max=100)
    assert desk.want(ROOT, 1, lent=lent) == LeaseGranted(lent, warning)


def test_a_workspace_warns_at_its_own_percentage() -> None:
    desk = Desk(workspace=1000, warn_at_percent=5)
    desk.open(max=500)
    desk.open(OTHER, max=500)
    assert desk.want(ROOT, 1, lent=30) == LeaseGranted(30)
    assert desk.want(OTHER, 1, lent=20) == LeaseGranted(20, CapWarning("workspace", 50, 1000, 5))


# Slack


def with_slack(desk: Desk, number: int, lent: int, slack: int, session: str = ROOT) -> object:
    reply = desk.do(Lease([LeaseRequest(session, 1, number, 0, lent, slack)]))
    return cast("list[LeaseGranted | Exceeded]", reply)[0]


def test_without_any_cap_a_wish_for_slack_is_granted() -> None:
    desk = Desk()
    desk.open()
    assert with_slack(desk, 1, 10, 1000) == LeaseGranted(1010)
    assert desk.held(ROOT, WORKSPACE) == [1010, 1010]


@pytest.mark.parametrize(
    ("wish", "given"), [(0, 0), (-5, 0), (7, 7), (49, 49), (50, 49), (999, 49)]
)
def test_slack_is_a_share_of_the_room_below_the_threshold(wish: int, given: int) -> None:
    desk = Desk()
    desk.open(max=1000)  # warns at 800: there is room for 789 beside these 10, a sixteenth is 49
    assert with_slack(desk, 1, 10, wish) == LeaseGranted(10 + given)


@pytest.mark.parametrize(
    ("workspace", "session", "allotment", "given"),
    [(1000, 10**6, None, 49), (10**6, 1000, None, 49), (10**6, 10**6, 1000, 61)],
)
def test_the_level_with_the_least_room_decides(
    workspace: int, session: int, allotment: int | None, given: int
) -> None:
    desk = Desk(workspace=workspace)
    desk.open(max=session)
    desk.admit(Child("child", allotment))
    assert with_slack(desk, 1, 10, 10**6, "child") == LeaseGranted(10 + given)


def test_near_a_threshold_there_is_no_slack() -> None:
    desk = Desk()
    desk.open(max=1000)
    assert with_slack(desk, 1, 799, 1000) == LeaseGranted(799)
    assert with_slack(desk, 2, 800, 1000) == LeaseGranted(800, CapWarning("session", 800, 1000, 80))


def test_with_a_refusal_comes_no_slack() -> None:
    desk = Desk(workspace=10**6)
    desk.open(max=100)
    assert with_slack(desk, 1, 101, 1000) == Exceeded("session", 101, 100)
    assert desk.held(ROOT, WORKSPACE) == [0, 0]


def test_slack_is_never_more_than_can_be_loaded_again() -> None:
    desk = Desk()
    desk.open()
    with_slack(desk, 1, 10, 1 << 80)
    budget.validate(stored(desk.state))


# Many in one command


def test_many_wishes_in_one_command_are_each_decided_by_itself() -> None:
    desk = Desk(workspace=30)
    desk.open(max=25)
    desk.admit(Child("a"), Child("b"), Child("c"))
    wants = [LeaseRequest(name, 1, 1, 0, lent) for name, lent in [("a", 20), ("b", 10), ("c", 5)]]
    assert desk.do(Lease(wants)) == [
        LeaseGranted(20, CapWarning("session", 20, 25, 80)),
        Exceeded("session", 10, 5),
        LeaseGranted(5, CapWarning("session", 25, 25, 80)),
    ]


def test_the_same_session_may_stand_in_one_command_more_than_once() -> None:
    desk = Desk()
    desk.open(max=25)
    wants = [
        LeaseRequest(ROOT, 1, number, 0, lent)
        for number, lent in [(1, 10), (2, 20), (2, 20), (3, 5)]
    ]
    assert desk.do(Lease(wants)) == [
        LeaseGranted(10),
        LeaseGranted(20, CapWarning("session", 20, 25, 80)),
        LeaseGranted(20),
        LeaseGranted(5),
    ]
    assert desk.held(ROOT, WORKSPACE) == [5, 5]


def test_no_wish_gets_no_answer() -> None:
    assert Desk().do(Lease([])) == []


# Families and admission


def test_opening_a_family_again_changes_nothing() -> None:
    desk = Desk()
    desk.open(max=50)
    desk.want(ROOT, 1, spent=5, lent=5)
    desk.open(max=99, spent=1)
    assert desk.level(ROOT) == Level(5, 5, 50)


def test_all_are_admitted_or_none() -> None:
    desk = Desk()
    desk.do(OpenFamily(ROOT, Cap(None), NANO, 3))
    assert desk.admit(Child("a"), Child("b")) == Admitted()
    assert desk.admit(Child("c"), Child("d")) == Refused("max_total", 3)
    for name in ("c", "d"):
        with pytest.raises(NotFound, match=f"session {name} has no account"):
            desk.want(name, 1, lent=1)
    assert desk.admit(Child("c")) == Admitted()
    assert desk.admit(Child("d")) == Refused("max_total", 3)


def test_admitting_again_admits_nobody_twice() -> None:
    desk = Desk()
    desk.do(OpenFamily(ROOT, Cap(None), NANO, 2))
    desk.admit(Child("a", allotment=5), Child("b"))
    desk.want("a", 1, spent=2, lent=4)
    assert desk.admit(Child("a", allotment=50), Child("b")) == Admitted()
    assert desk.level("a") == Level(2, 4, 5)


def test_one_that_is_named_twice_counts_once() -> None:
    desk = Desk()
    desk.do(OpenFamily(ROOT, Cap(None), NANO, 2))
    assert desk.admit(Child("a"), Child("a"), Child("b")) == Admitted()
    assert desk.state.families[ROOT].children == 2


def test_grandchildren_count_for_the_family() -> None:
    desk = Desk()
    desk.do(OpenFamily(ROOT, Cap(None), NANO, 2))
    desk.admit(Child("a"))
    desk.admit(Child("b"), parent="a")
    assert desk.admit(Child("c"), parent="b") == Refused("max_total", 2)


@pytest.mark.parametrize(
    "command",
    [
        Admit("nobody", "nobody", [Child("a")]),
        Admit(ROOT, "nobody", [Child("a")]),
        Admit(OTHER, ROOT, [Child("a")]),
        Lease([LeaseRequest("nobody", 1, 1, 0, 0)]),
        Lease([LeaseRequest(ROOT, 1, 1, 0, 1), LeaseRequest("nobody", 1, 1, 0, 0)]),
        SetCap("nobody", Cap(1), "ada"),
    ],
)
def test_who_is_not_there_is_not_found_and_nothing_happens(command: Command) -> None:
    desk = Desk()
    desk.open(ROOT)
    desk.open(OTHER)
    before = stored(desk.state)
    with pytest.raises(NotFound):
        desk.do(command)
    assert stored(desk.state) == before


@pytest.mark.parametrize(
    "command",
    [
        OpenFamily("new", Cap(-1), NANO, 1),
        OpenFamily("new", Cap(MAX_NANO + 1), NANO, 1),
        OpenFamily("new", Cap(None), -1, 1),
        OpenFamily("new", Cap(None), NANO, 1, spent=-1),
        OpenFamily("new", Cap(None), NANO, 1, spent=1 << 63),
        Admit(ROOT, ROOT, [Child("a", allotment=-1)]),
        Admit(ROOT, ROOT, [Child("a", allotment=MAX_NANO + 1)]),
        SetCap(WORKSPACE, Cap(-1), "ada"),
        SetCap(ROOT, Cap(MAX_NANO + 1), "ada"),
        Lease([LeaseRequest(ROOT, 1, 1, -1, 0)]),
        Lease([LeaseRequest(ROOT, 1, 1, 0, -1)]),
        Lease([LeaseRequest(ROOT, 1, 1, 1 << 63, 0)]),
        Lease([LeaseRequest(ROOT, 1, 1, 0, 1 << 63)]),
    ],
)
def test_an_amount_that_could_not_be_loaded_again_is_refused(command: Command) -> None:
    desk = Desk()
    desk.open(ROOT)
    before = stored(desk.state)
    with pytest.raises(InvalidValue):
        desk.do(command)
    assert stored(desk.state) == before


# Storage


def test_totals_are_not_stored() -> None:
    desk = Desk()
    desk.open()
    desk.want(ROOT, 1, spent=5, lent=7)
    assert "totals" in vars(desk.state)
    assert "totals" not in vars(stored(desk.state))
    assert level_of(stored(desk.state), WORKSPACE) == Level(5, 7, None)


@pytest.mark.parametrize(
    ("account", "says"),
    [
        ({"spent": -1}, "an impossible amount"),
        ({"lent": -1}, "an impossible amount"),
        ({"spent": 1 << 63}, "an impossible amount"),
        ({"lent": 1 << 63}, "an impossible amount"),
        ({"family": "nobody"}, "of no known family"),
        ({"path": ["nobody"]}, "under an unknown allotment"),
    ],
)
def test_a_stored_account_that_cannot_be_true_is_refused(
    account: dict[str, object], says: str
) -> None:
    with pytest.raises(CorruptState, match=f"account {ROOT} .*{says}"):
        budget.validate(tampered(account=account))


@pytest.mark.parametrize("cap", [-1, MAX_NANO + 1])
@pytest.mark.parametrize("where", ["workspace", "family", "allotment"])
def test_a_stored_cap_that_is_out_of_range_is_refused(cap: int, where: str) -> None:
    given = {where: cap}
    state = tampered(
        workspace=given.get("workspace"),
        family=given.get("family"),
        allotment=given.get("allotment"),
    )
    with pytest.raises(CorruptState, match="out of range"):
        budget.validate(state)


@pytest.mark.parametrize("spent", [float("nan"), float("inf"), 1.5, -0.0, "5", None, True])
def test_a_stored_spend_that_is_no_whole_number_stops_the_store(spent: object) -> None:
    keyring, place = Keyring(bytes(32)), "scope/budget/budget/snapshot/3"
    codec = Codec(BUDGET, Key("scope", "budget", "budget"), keyring)
    good = codec.snapshot(3, tampered(), Head())
    assert codec.state(good)[1] == tampered()
    sealed = keyring.open(good[8:], place, "it")
    plain = sealed[:2] + zlib.decompress(sealed[2:])
    version, state, *rest = msgspec.msgpack.decode(plain)
    accounts = state[State.__struct_fields__.index("accounts")]
    accounts[ROOT][Account.__struct_fields__.index("spent")] = spent
    spoilt = msgspec.msgpack.encode((version, state, *rest))
    wrong = keyring.seal(spoilt[:2] + zlib.compress(spoilt[2:]), place)
    with pytest.raises(CorruptState, match="the snapshot of budget/budget can't be read"):
        codec.state(good[:8] + wrong)


def tampered(
    account: dict[str, object] | None = None,
    workspace: int | None = None,
    family: int | None = None,
    allotment: int | None = None,
) -> State:
    """A good state, spoilt in one place."""
    desk = Desk(workspace=100)
    desk.open(max=50)
    desk.admit(Child("child", allotment=10))
    desk.want(ROOT, 1, spent=5, lent=7)
    state = stored(desk.state)
    budget.validate(state)
    for name, value in (account or {}).items():
        setattr(state.accounts[ROOT], name, value)
    if workspace is not None:
        state.workspace = Cap(workspace)
    if family is not None:
        state.families[ROOT].cap = Cap(family)
    if allotment is not None:
        state.allotments["child"] = allotment
    return stored(state)


# Properties

amounts = st.integers(0, 40)
caps = st.none() | st.integers(0, 100) | st.integers(500, 2000)


@given(
    st.integers(0, 60),
    st.integers(0, 60),
    st.none() | st.integers(0, 60),
    st.lists(st.tuples(st.sampled_from(["root", "a", "b", "c"]), amounts, st.booleans())),
)
def test_honest_sessions_never_hold_more_than_any_cap(
    workspace: int,
    session: int,
    allotment: int | None,
    steps: list[tuple[str, int, bool]],
) -> None:
    """Sessions that report no more than they were lent, under caps that nobody lowers."""
    desk = Desk(workspace=workspace)
    desk.open(max=session)
    desk.admit(Child("a", allotment), Child("b"))
    desk.admit(Child("c"), parent="a")
    lent: dict[str, int] = {}
    spent: dict[str, int] = {}
    for number, (name, amount, spends) in enumerate(steps, 1):
        if spends:
            spent[name] = max(spent.get(name, 0), min(amount, lent.get(name, 0)))
        reply = desk.want(name, number, spent=spent.get(name, 0), lent=amount)
        lent[name] = reply.lent if isinstance(reply, LeaseGranted) else lent.get(name, 0)
        for level in ("a", ROOT, WORKSPACE):
            total = desk.level(level)
            assert total.max is None or total.spent <= total.held <= total.max
    assert desk.level(WORKSPACE).spent == sum(spent.values())


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["root", "a", "b"]), st.integers(1, 4), amounts, st.integers(0, 60)
        ),
        max_size=12,
    )
)
def test_one_command_of_many_wishes_is_as_many_commands_of_one(
    given: list[tuple[str, int, int, int]],
) -> None:
    wants = [LeaseRequest(name, 1, number, spent, lent) for name, number, spent, lent in given]
    together, apart = Desk(workspace=70), Desk(workspace=70)
    for desk in (together, apart):
        desk.open(max=60)
        desk.admit(Child("a", allotment=30), Child("b"))
    replies = together.do(Lease(wants))
    one_by_one = [apart.do(Lease([want])) for want in wants]
    assert [[reply] for reply in cast("list[LeaseGranted | Exceeded]", replies)] == one_by_one
    assert together.state == apart.state
    assert together.events == apart.events


@given(
    st.lists(st.tuples(st.sampled_from([ROOT, "a"]), amounts, st.integers(0, 60)), max_size=8),
    st.data(),
)
def test_repeats_and_any_order_end_in_the_same_state(
    given: list[tuple[str, int, int]], data: st.DataObject
) -> None:
    """With room for all, only the newest message of each session counts, however they arrive."""
    spent: dict[str, int] = {}
    wants = []
    for number, (name, more, lent) in enumerate(given, 1):
        spent[name] = spent.get(name, 0) + more
        wants.append(LeaseRequest(name, 1, number, spent[name], lent))
    arriving = data.draw(st.permutations(wants + wants))
    in_order, shuffled = Desk(), Desk()
    for desk, sent in ((in_order, wants), (shuffled, arriving)):
        desk.open()
        desk.admit(Child("a"))
        for want in sent:
            desk.do(Lease([want]))
    assert shuffled.state == in_order.state
    assert shuffled.level(WORKSPACE) == in_order.level(WORKSPACE)


class BudgetMachine(RuleBasedStateMachine):
    """Families that spawn, spend, overspend, crash and repeat themselves under changing caps."""

    sessions = Bundle[str]("sessions")
    families = Bundle[str]("families")
    said = Bundle[LeaseRequest]("said")

    def __init__(self) -> None:
        super().__init__()
        self.desk = Desk()
        self.family_of: dict[str, str] = {}
        self.levels_of: dict[str, list[str]] = {}
        self.number: dict[str, tuple[int, int]] = {}
        self.spent: dict[str, int] = {}

    @initialize(targets=(families, sessions), cap=caps)
    def first_family(self, cap: int | None) -> str:
        return self.open_family(cap, 0)

    @rule(targets=(families, sessions), cap=caps, spent=st.integers(0, 10))
    def another_family(self, cap: int | None, spent: int) -> str:
        return self.open_family(cap, spent)

    def open_family(self, cap: int | None, spent: int) -> str:
        name = f"f{len(self.family_of)}"
        self.desk.do(OpenFamily(name, Cap(cap), NANO, 6, spent))
        self.join(name, name, [name, WORKSPACE])
        self.spent[name] = spent
        return name

    @rule(parent=sessions, allotments=st.lists(caps, min_size=1, max_size=3), target=sessions)
    def admit(self, parent: str, allotments: list[int | None]) -> str:
        family = self.family_of[parent]
        names = [f"s{len(self.family_of) + at}" for at in range(len(allotments))]
        children = [Child(*pair) for pair in zip(names, allotments, strict=True)]
        before = stored(self.desk.state)
        reply = self.desk.admit(*children, parent=parent, family=family)
        in_family = sum(1 for one in self.family_of.values() if one == family)
        if isinstance(reply, Refused):
            assert in_family - 1 + len(children) > 6
            assert stored(self.desk.state) == before
            return parent
        assert in_family - 1 + len(children) <= 6
        for child in children:
            own = [child.id] if child.allotment is not None else []
            self.join(child.id, family, own + self.levels_of[parent])
        return names[-1]

    @rule(
        target=said,
        session=sessions,
        more=st.integers(0, 12),
        lent=st.integers(0, 60),
        slack=st.sampled_from([0, 0, 1, 50]),
    )
    def want(self, session: str, more: int, lent: int, slack: int) -> LeaseRequest:
        epoch, number = self.number[session]
        self.number[session] = (epoch, number + 1)
        want = LeaseRequest(session, epoch, number + 1, self.spent[session] + more, lent, slack)
        self.spent[session] += more
        self.send([want])
        return want

    @rule(one=said, other=said)
    def repeat(self, one: LeaseRequest, other: LeaseRequest) -> None:
        before, count = stored(self.desk.state), len(self.desk.events)
        for want in (one, other, one):
            reply = self.desk.want(
                want.session, want.number, spent=want.spent, lent=want.lent, epoch=want.epoch
            )
            assert reply == LeaseGranted(self.account(want.session).lent)
        assert (stored(self.desk.state), len(self.desk.events)) == (before, count)

    @rule(
        asking=st.lists(
            st.tuples(sessions, st.integers(0, 12), st.integers(0, 60)), min_size=2, max_size=4
        )
    )
    def want_together(self, asking: list[tuple[str, int, int]]) -> None:
        wants = []
        for session, more, lent in asking:
            epoch, number = self.number[session]
            self.number[session] = (epoch, number + 1)
            self.spent[session] += more
            wants.append(LeaseRequest(session, epoch, number + 1, self.spent[session], lent))
        self.send(wants)

    @rule(session=sessions)
    def crash(self, session: str) -> None:
        self.number[session] = (self.number[session][0] + 1, 0)

    @rule(cap=caps)
    def cap_workspace(self, cap: int | None) -> None:
        self.set_cap(WORKSPACE, cap)

    @rule(family=families, cap=caps)
    def cap_family(self, family: str, cap: int | None) -> None:
        self.set_cap(family, cap)

    @rule()
    def restart(self) -> None:
        self.desk.state = stored(self.desk.state)

    def set_cap(self, level: str, cap: int | None) -> None:
        before = self.desk.level(level)
        self.desk.set_cap(level, cap)
        assert self.desk.level(level) == Level(before.spent, before.held, cap)

    def send(self, wants: list[LeaseRequest]) -> None:
        held = {session: self.account(session).held for session in self.family_of}
        lent = {session: self.account(session).lent for session in self.family_of}
        totals = {name: self.desk.level(name).held for name in self.names()}
        replies = cast("list[LeaseGranted | Exceeded]", self.desk.do(Lease(wants)))
        for want, reply in zip(wants, replies, strict=True):
            self.check(want, reply, held, lent, totals)
        for session, amount in held.items():
            assert self.account(session).held == amount
        for name, amount in totals.items():
            assert self.desk.level(name).held == amount

    def check(
        self,
        want: LeaseRequest,
        reply: LeaseGranted | Exceeded,
        held: dict[str, int],
        lent: dict[str, int],
        totals: dict[str, int],
    ) -> None:
        """What this one may have done to each level, and nothing else."""
        session = want.session
        reported = max(want.spent - held[session], 0)
        if isinstance(reply, LeaseGranted):
            slack = reply.lent - max(want.lent, want.spent)
            assert 0 <= slack <= max(want.slack, 0)
            assert not (slack and reply.warning)
            change = reply.lent - held[session]
            lent[session] = reply.lent
        else:
            assert reply.available < reply.requested
            change = reported
            lent[session] = max(lent[session], want.spent)
        held[session] += change
        for name in self.levels_of[session]:
            totals[name] += change
            cap = self.desk.level(name).max
            assert cap is None or totals[name] <= cap or change <= reported

    def join(self, session: str, family: str, levels: Iterable[str]) -> None:
        self.family_of[session] = family
        self.levels_of[session] = list(levels)
        self.number[session] = (1, 0)
        self.spent[session] = 0

    def account(self, session: str) -> Account:
        return self.desk.state.accounts[session]

    def names(self) -> set[str]:
        return {WORKSPACE} | {name for names in self.levels_of.values() for name in names}

    @invariant()
    def every_level_is_the_sum_of_its_leaves(self) -> None:
        for name in self.names():
            below = [one for one, levels in self.levels_of.items() if name in levels]
            level = self.desk.level(name)
            assert level.held == sum(self.account(one).held for one in below)
            assert level.spent == sum(self.account(one).spent for one in below)

    @invariant()
    def totals_kept_are_the_totals_derived(self) -> None:
        fresh = stored(self.desk.state)
        for name in self.names():
            assert level_of(fresh, name) == self.desk.level(name)

    @invariant()
    def spend_is_never_forgotten(self) -> None:
        for session, spent in self.spent.items():
            assert self.desk.state.accounts[session].spent == spent

    @invariant()
    def what_was_accepted_can_be_loaded(self) -> None:
        budget.validate(stored(self.desk.state))

    def teardown(self) -> None:
        again = budget.initial()
        for event in self.desk.events:
            data = msgspec.msgpack.encode(event)
            again = budget.evolve(again, msgspec.msgpack.decode(data, type=Event))
        assert again == self.desk.state
        super().teardown()


TestBudgetMachine = BudgetMachine.TestCase
TestBudgetMachine.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


@given(st.lists(st.integers(-5, MAX_NANO + 5) | st.none(), min_size=4, max_size=4))
def test_whatever_is_accepted_can_be_loaded(values: list[int | None]) -> None:
    cap, allotment, spent, lent = values
    desk = Desk()
    desk.open(ROOT)
    commands: list[Command] = [
        OpenFamily(OTHER, Cap(cap), NANO, 5, spent or 0),
        Admit(ROOT, ROOT, [Child("a", allotment)]),
        SetCap(WORKSPACE, Cap(cap), "ada"),
        Lease([LeaseRequest(ROOT, 1, 1, spent or 0, lent or 0)]),
    ]
    for command in commands:
        try:
            desk.do(command)
        except RetinueError:
            continue
    budget.validate(stored(desk.state))


# Whose cap it is


def open_with(desk: Desk, usd: int) -> Reply:
    return desk.do(OpenWorkspace(Cap(usd), "program"))


def test_a_program_names_the_first_cap_and_no_other() -> None:
    desk = Desk()
    assert open_with(desk, 50) == Standing(Cap(50), "program")
    assert open_with(desk, 70) == Standing(Cap(50), "program")
    assert desk.level(WORKSPACE).max == 50


@pytest.mark.parametrize("set_by_hand", [0, 5, None])
def test_a_cap_that_somebody_has_set_stays(set_by_hand: int | None) -> None:
    for desk in (Desk(), Desk(100)):
        desk.set_cap(WORKSPACE, set_by_hand)
        assert open_with(desk, 50) == Standing(Cap(set_by_hand), "ada")
        assert desk.level(WORKSPACE).max == set_by_hand
        assert stored(desk.state).named


def test_the_same_cap_set_again_by_somebody_else_is_no_event() -> None:
    desk = Desk(50)
    before = len(desk.events)
    desk.do(SetCap(WORKSPACE, Cap(50), "ben"))
    assert len(desk.events) == before
    assert open_with(desk, 70) == Standing(Cap(50), "ada")


@pytest.mark.parametrize(
    ("cap", "named"), [(Cap(7), True), (Cap(None, 10), True), (Cap(None), False)]
)
def test_an_earlier_version_has_named_what_is_not_the_default(cap: Cap, named: bool) -> None:
    state = msgspec.msgpack.decode(msgspec.msgpack.encode([cap, {}, {}, {}]), type=State)
    _, reply = budget.decide(state, OpenWorkspace(Cap(50), "program"), NOW)
    assert reply == (Standing(cap, "") if named else Standing(Cap(50), "program"))


def test_a_cap_of_a_family_names_none_of_the_workspace() -> None:
    desk = Desk()
    desk.open()
    desk.set_cap(ROOT, 5)
    assert open_with(desk, 50) == Standing(Cap(50), "program")


# The brake


def test_a_hold_says_who_why_and_since_when() -> None:
    desk = Desk()
    assert desk.do(SetHold("it spends", "ada"), 5) == Hold("ada", "it spends", 5)
    assert desk.state.brake == Brake(1, Hold("ada", "it spends", 5))


def test_the_same_hold_again_changes_nothing() -> None:
    desk = Desk()
    desk.do(SetHold("it spends", "ada"), 5)
    events, reply = budget.decide(desk.state, SetHold("it spends", "ada"), 9)
    assert (events, reply) == ([], Hold("ada", "it spends", 5))


def test_who_holds_again_changes_who_and_why_and_not_since_when() -> None:
    desk = Desk()
    desk.do(SetHold("it spends", "ada"), 5)
    assert desk.do(SetHold("it lies", "ben"), 9) == Hold("ben", "it lies", 5)
    assert desk.state.brake == Brake(2, Hold("ben", "it lies", 5))


def test_a_release_answers_with_what_was_and_is_counted() -> None:
    desk = Desk()
    desk.do(SetHold("it spends", "ada"), 5)
    assert desk.do(SetHold(None, "ben"), 9) == Hold("ada", "it spends", 5)
    assert desk.state.brake == Brake(2, None, 4)
    assert desk.do(SetHold(None, "ben"), 11) is None
    assert desk.state.brake == Brake(2, None, 4)


@pytest.mark.parametrize("why", ["", "  ", 501 * "x"])
def test_a_hold_needs_a_reason_that_can_be_shown(why: str) -> None:
    with pytest.raises(InvalidValue, match="why: say it in 1 to 500 characters"):
        Desk().do(SetHold(why, "ada"))


def test_the_brake_goes_with_its_own_rows_and_with_all_while_it_is_pulled() -> None:
    desk = Desk(10)
    assert budget.brake_of(desk.state, desk.events) is None
    desk.do(SetHold("it spends", "ada"))
    assert budget.brake_of(desk.state, desk.events[-1:]) == desk.state.brake
    desk.set_cap(WORKSPACE, 5)
    assert budget.brake_of(desk.state, desk.events[-1:]) == desk.state.brake
    desk.do(SetHold(None, "ada"))
    assert budget.brake_of(desk.state, desk.events[-1:]) == desk.state.brake
    desk.set_cap(WORKSPACE, 9)
    assert budget.brake_of(desk.state, desk.events[-1:]) is None


@given(st.lists(st.tuples(st.sampled_from(["a", "b", None]), st.integers(0, 9)), max_size=20))
def test_a_brake_counts_up_and_knows_how_long_it_was_pulled(
    steps: list[tuple[str | None, int]],
) -> None:
    desk, now, held, number = Desk(), 0, 0, 0
    for why, later in steps:
        now += later
        held += later if desk.state.brake.hold else 0
        events = len(desk.events)
        desk.do(SetHold(why, "ada"), now)
        number += len(desk.events) - events
        assert desk.state.brake.number == number
        assert bool(desk.state.brake.hold) == (why is not None)
        assert desk.state.brake.held(now) == held
        assert stored(desk.state) == desk.state
