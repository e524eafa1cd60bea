"""The budget of one workspace: the caps on spending, and the spend of each session.

1. Every session has an *account*. It holds the larger of its loan and its spend.
2. Held money counts at every level of the account's path: each allotment up the tree, the family
   (the session budget), the workspace. A level's total is always derived from its accounts.
3. Lending more succeeds only if every level has room. It is one decision: a refusal changes
   nothing anywhere.
4. A session reports its spend as a running total and asks for a total loan, never for a
   difference, so repeating a message changes nothing. Each carries (epoch, number); an older one
   than the last seen is ignored, so reordering changes nothing either.
5. Spend may pass a cap only by a report of spend above the loan (an over-settle: the money is
   gone). Nothing else does, and nothing lowers spend.
6. Slack is lent only well below every warning threshold, and is part of the held amount.
7. The workspace's cap is *named* once somebody has set it. A cap that a program gives when it opens
   the workspace names it the first time, and changes nothing from then on.
8. A workspace on hold keeps all it has: the hold names its author, reason and time, and all
   sessions learn of it by a number that rises with every change.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

from retinue.actors.domain.budget.commands import (
    Admit,
    Admitted,
    Child,
    Command,
    Lease,
    OpenFamily,
    OpenWorkspace,
    Refused,
    Reply,
    SetCap,
    SetHold,
    Standing,
)
from retinue.actors.domain.budget.events import (
    CapSet,
    ChildrenAdmitted,
    Event,
    FamilyOpened,
    Held,
    Released,
    Reported,
)
from retinue.actors.domain.budget.lending import MAX_TOTAL, account_of, lend, require_amount
from retinue.actors.domain.budget.levels import cap_to_set, caps, set_cap
from retinue.actors.domain.budget.state import (
    WORKSPACE,
    Account,
    Brake,
    Cap,
    Family,
    Hold,
    State,
)
from retinue.actors.domain.budget.totals import charge, totals_of
from retinue.actors.domain.errors import CorruptState, InvalidValue, NotFound
from retinue.actors.domain.values.money import MAX_NANO

__all__ = [
    "Command",
    "Event",
    "Reply",
    "State",
    "brake_of",
    "decide",
    "evolve",
    "initial",
    "validate",
]

_LONGEST_WHY = 500


def initial() -> State:
    """A workspace without a cap."""
    return State()


def decide(state: State, command: Command, now: int) -> tuple[list[Event], Reply]:
    """The events and reply of a command; raises InvalidValue or NotFound if it makes no sense."""
    match command:
        case OpenFamily():
            return _open(state, command), None
        case Admit():
            return _admit(state, command)
        case Lease():
            return lend(state, command.wants)
        case SetCap(level, cap, by):
            return _set_cap(state, level, cap, by), None
        case OpenWorkspace(cap, by):
            _require_cap(cap.max, "max_usd")
            if state.is_named:
                return [], Standing(state.workspace, state.named_by)
            return [CapSet(WORKSPACE, cap, by)], Standing(cap, by)
        case SetHold(why, by):
            return _set_hold(state, why, by, now)


def evolve(state: State, event: Event) -> State:
    """Applies an event, in place."""
    totals = totals_of(state)
    match event:
        case FamilyOpened(family, cap, per_action, max_children, spent):
            state.families[family] = Family(cap, per_action, max_children)
            state.accounts[family] = Account(family, [])
            charge(totals, state.accounts[family], spent, spent)
        case ChildrenAdmitted(family, parent, children):
            state.families[family].children += len(children)
            for child in children:
                _register(state, family, parent, child)
        case Reported(session, epoch, number, spent, lent):
            account = state.accounts[session]
            account.epoch, account.number = epoch, number
            charge(totals, account, spent, lent)
        case CapSet(level, cap, by):
            set_cap(state, level, cap, by)
        case Held(by, why, at):
            brake = state.brake
            since = brake.hold.since if brake.hold else at
            state.brake = Brake(brake.number + 1, Hold(by, why, since), brake.before)
        case Released(_, at):
            state.brake = Brake(state.brake.number + 1, None, state.brake.held(at))
        case _:
            assert_never(event)
    return state


def validate(state: State) -> None:
    """Raises CorruptState for an impossible stored state; a repair would make a fresh budget."""
    for session, account in state.accounts.items():
        if not (0 <= account.spent <= MAX_TOTAL and 0 <= account.lent <= MAX_TOTAL):
            raise CorruptState(f"budget: account {session} holds an impossible amount")
        if account.family not in state.families:
            raise CorruptState(f"budget: account {session} is of no known family")
        if any(name not in state.allotments for name in account.path):
            raise CorruptState(f"budget: account {session} is under an unknown allotment")
    for name, cap in caps(state):
        if cap.max is not None and not 0 <= cap.max <= MAX_NANO:
            raise CorruptState(f"budget: the cap of {name} is {cap.max} nano-USD, out of range")
    if state.brake.number < 0 or state.brake.before < 0:
        raise CorruptState("budget: its brake is out of range")


def brake_of(state: State, events: Sequence[Event]) -> Brake | None:
    """The brake to show to all sessions, if these latest events have changed it.

    While it is on it is shown again with every row: if it is lost there, it comes back.
    """
    changed = any(isinstance(event, Held | Released) for event in events)
    return state.brake if changed or state.brake.hold else None


def _set_cap(state: State, name: str, cap: Cap, by: str) -> list[Event]:
    before = cap_to_set(state, name)
    _require_cap(cap.max, "max_usd")
    unnamed = name == WORKSPACE and not state.is_named
    return [CapSet(name, cap, by)] if cap != before or unnamed else []


def _set_hold(state: State, why: str | None, by: str, now: int) -> tuple[list[Event], Reply]:
    """Replies with the hold in force now, or to a release with the hold that it ended."""
    hold = state.brake.hold
    if why is None:
        return ([Released(by, now)] if hold else []), hold
    if not 0 < len(why.strip()) <= _LONGEST_WHY:
        raise InvalidValue(f"why: say it in 1 to {_LONGEST_WHY} characters", field="why")
    if hold and (hold.by, hold.why) == (by, why):
        return [], hold
    return [Held(by, why, now)], Hold(by, why, hold.since if hold else now)


def _open(state: State, command: OpenFamily) -> list[Event]:
    if command.family in state.families:
        return []
    _require_cap(command.cap.max, "session_max_usd")
    _require_cap(command.per_action, "per_action_max_usd")
    require_amount(command.spent, "spent")
    return [
        FamilyOpened(
            command.family,
            command.cap,
            command.per_action,
            command.max_children,
            command.spent,
        )
    ]


def _admit(state: State, command: Admit) -> tuple[list[Event], Reply]:
    family = state.families.get(command.family)
    if family is None or account_of(state, command.parent).family != command.family:
        raise NotFound(f"session {command.parent} is not of family {command.family}")
    for child in command.children:
        _require_cap(child.allotment, "allotment_usd")
    asked = {child.id: child for child in command.children}
    new = [child for child in asked.values() if child.id not in state.accounts]
    if not new:
        return [], Admitted()
    if family.children + len(new) > family.max_children:
        return [], Refused("max_total", family.max_children)
    return [ChildrenAdmitted(command.family, command.parent, new)], Admitted()


def _register(state: State, family: str, parent: str, child: Child) -> None:
    path = list(state.accounts[parent].path)
    if child.allotment is not None:
        state.allotments[child.id] = child.allotment
        path.append(child.id)
    state.accounts[child.id] = Account(family, path)


def _require_cap(nano: int | None, field: str) -> None:
    if nano is not None and not 0 <= nano <= MAX_NANO:
        raise InvalidValue(f"{field}: a cap out of range", field=field)
