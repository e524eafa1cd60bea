"""The budget of one workspace: who may spend how much, and what was spent by whom.

1. Every session has an *account*. It holds the larger of what it was lent and what it has spent.
2. What is held counts at every level of the account's path: each allotment up the tree, the family
   (the session budget), the workspace. A level's total is always derived from its accounts.
3. Lending more succeeds only if every level has room. It is one decision: a refusal changes
   nothing anywhere.
4. A session reports its spend as a running total and asks for a total loan, never for a
   difference, so repeating a message changes nothing. Each carries (epoch, number); an older one
   than the last seen is ignored, so reordering changes nothing either.
5. Spend may pass a cap only by a report of spend above the loan (an over-settle: the money is
   gone). Nothing else does, and nothing lowers spend.
6. Slack is lent only well below every warning threshold, and is part of what is held.
7. The workspace's cap is *named* once somebody has set it. What a program gives when it opens the
   workspace names it for the first time, and changes nothing from then on.
8. A workspace on hold keeps what it has: the hold says who wants it, why and since when, and all
   sessions learn of it by a number that rises with every change.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

from msgspec import Struct, field

from retinue.actors.domain.errors import CorruptState, InvalidValue, NotFound
from retinue.actors.domain.values.money import MAX_NANO, usd_text
from retinue.actors.domain.values.record import Record

WORKSPACE = "workspace"

SLACK_SHARE = 16
"""One wish for slack gets at most this part of the room that is left below a threshold."""

_LONGEST_WHY = 500
_MAX_TOTAL = 1 << 62  # the sum of many accounts may pass MAX_NANO; it must stay a 64-bit integer


class Cap(Record, frozen=True):
    """A limit in nano-USD (None: records, never blocks) and the percentage that warns."""

    max: int | None
    warn_at_percent: int = 80


class Family(Struct, array_like=True):
    """A root session and its descendants: their session budget and their number."""

    cap: Cap
    per_action: int
    max_children: int
    children: int = 0


class Account(Struct, array_like=True):
    """What one session holds; amounts in nano-USD. ``path`` names allotments, outermost first."""

    family: str
    path: list[str]
    lent: int = 0
    spent: int = 0
    epoch: int = 0
    number: int = 0

    @property
    def held(self) -> int:
        """What counts against every level above."""
        return max(self.lent, self.spent)


class Hold(Record, frozen=True):
    """The brake is on: who has pulled it, why, and since when in microseconds."""

    by: str
    why: str
    since: int


class Brake(Record, frozen=True):
    """The brake of a workspace: ``hold`` if it is pulled.

    A later one has a higher ``number``. ``before`` is how long the workspace had been on hold by
    earlier ones, in microseconds.
    """

    number: int = 0
    hold: Hold | None = None
    before: int = 0

    def held(self, now: int) -> int:
        """How long the workspace has been on hold in all by ``now``, in microseconds."""
        return self.before + (max(now - self.hold.since, 0) if self.hold else 0)


class State(Struct, array_like=True, dict=True):
    """The stored part; totals by level are derived and kept beside it, never stored.

    ``named`` if somebody has set the workspace's cap, which ``named_by`` did last.
    """

    workspace: Cap = Cap(None)
    families: dict[str, Family] = field(default_factory=dict)
    allotments: dict[str, int] = field(default_factory=dict)
    accounts: dict[str, Account] = field(default_factory=dict)
    named: bool = False
    named_by: str = ""
    brake: Brake = Brake()


class Level(Record, frozen=True):
    """Totals at one level, in nano-USD."""

    spent: int
    held: int
    max: int | None

    @property
    def reserved(self) -> int:
        """Held, but not known to be spent."""
        return self.held - self.spent


class Child(Record, frozen=True):
    """A sub-agent to admit, with an allotment of its own or without."""

    id: str
    allotment: int | None = None


class OpenFamily(Record, frozen=True, tag=True):
    """Register a root session and its budget; ``spent`` is what an imported session brings."""

    family: str
    cap: Cap
    per_action: int
    max_children: int
    spent: int = 0


class Admit(Record, frozen=True, tag=True):
    """Register sub-agents of ``parent``: all of them or none."""

    family: str
    parent: str
    children: list[Child]


class LeaseRequest(Record, frozen=True):
    """A session's report (total spent) and wish (total loan).

    ``slack`` is how much more it would like to have, so that it need not ask so often.
    """

    session: str
    epoch: int
    number: int
    spent: int
    lent: int
    slack: int = 0


class Lease(Record, frozen=True, tag=True):
    """Reports and wishes of many sessions, each decided by itself, in order."""

    wants: list[LeaseRequest]


class SetCap(Record, frozen=True, tag=True):
    """Raise or lower the cap of the workspace or of a family."""

    level: str
    cap: Cap
    by: str


class OpenWorkspace(Record, frozen=True, tag=True):
    """Name the workspace's cap, unless it was named before."""

    cap: Cap
    by: str


class SetHold(Record, frozen=True, tag=True):
    """Pull the brake for a reason, or (None) let go of it."""

    why: str | None
    by: str


Command: TypeAlias = OpenFamily | Admit | Lease | SetCap | OpenWorkspace | SetHold


class FamilyOpened(Record, frozen=True, tag=True):
    family: str
    cap: Cap
    per_action: int
    max_children: int
    spent: int


class ChildrenAdmitted(Record, frozen=True, tag=True):
    family: str
    parent: str
    children: list[Child]


class Reported(Record, frozen=True, tag=True):
    session: str
    epoch: int
    number: int
    spent: int
    lent: int


class CapSet(Record, frozen=True, tag=True):
    level: str
    cap: Cap
    by: str


class Held(Record, frozen=True, tag=True):
    by: str
    why: str
    at: int


class Released(Record, frozen=True, tag=True):
    by: str
    at: int


Event: TypeAlias = FamilyOpened | ChildrenAdmitted | Reported | CapSet | Held | Released


class CapWarning(Record, frozen=True):
    """Spend has reached a level's warning threshold."""

    level: str
    spent: int
    max: int
    percent: int


class LeaseGranted(Record, frozen=True, tag=True):
    """The account's loan now, in all; ``warning`` where a level is at or over its threshold.

    ``behind``: the session knows less than the budget has heard of it, and nothing was granted.
    """

    lent: int
    warning: CapWarning | None = None
    behind: bool = False


class Exceeded(Record, frozen=True, tag=True):
    """Nothing was lent: the first level without room, and what it had left."""

    level: str
    requested: int
    available: int


class Admitted(Record, frozen=True, tag=True):
    """All were admitted."""


class Refused(Record, frozen=True, tag=True):
    """None was admitted; ``limit`` names why."""

    limit: str
    value: int


class Standing(Record, frozen=True, tag=True):
    """The workspace's cap as it stands, and who has set it ('' if that is not known)."""

    cap: Cap
    by: str


Reply: TypeAlias = Admitted | Refused | Standing | Hold | list[LeaseGranted | Exceeded] | None


def initial() -> State:
    """A workspace without a cap."""
    return State()


def decide(state: State, command: Command, now: int) -> tuple[list[Event], Reply]:
    """What a command does; raises InvalidValue or NotFound where it makes no sense."""
    match command:
        case OpenFamily():
            return _open(state, command), None
        case Admit():
            return _admit(state, command)
        case Lease():
            return _lease(state, command)
        case SetCap(level, cap, by):
            _known_level(state, level)
            _require_cap(cap.max, "max_usd")
            unnamed = level == WORKSPACE and not _is_named(state)
            same = _cap(state, level) == cap and not unnamed
            return ([] if same else [CapSet(level, cap, by)]), None
        case OpenWorkspace(cap, by):
            _require_cap(cap.max, "max_usd")
            if _is_named(state):
                return [], Standing(state.workspace, state.named_by)
            return [CapSet(WORKSPACE, cap, by)], Standing(cap, by)
        case SetHold(why, by):
            return _set_hold(state, why, by, now)


def evolve(state: State, event: Event) -> State:
    """Apply what happened."""
    totals = _totals(state)
    match event:
        case FamilyOpened(family, cap, per_action, max_children, spent):
            state.families[family] = Family(cap, per_action, max_children)
            state.accounts[family] = Account(family, [])
            _charge(state, totals, state.accounts[family], spent, spent)
        case ChildrenAdmitted(family, parent, children):
            state.families[family].children += len(children)
            for child in children:
                _register(state, family, parent, child)
        case Reported(session, epoch, number, spent, lent):
            account = state.accounts[session]
            account.epoch, account.number = epoch, number
            _charge(state, totals, account, spent, lent)
        case CapSet(level, cap, by):
            if level == WORKSPACE:
                state.workspace, state.named, state.named_by = cap, True, by
            else:
                state.families[level].cap = cap
        case Held(by, why, at):
            brake = state.brake
            since = brake.hold.since if brake.hold else at
            state.brake = Brake(brake.number + 1, Hold(by, why, since), brake.before)
        case Released(_, at):
            state.brake = Brake(state.brake.number + 1, None, state.brake.held(at))
    return state


def level(state: State, name: str) -> Level:
    """Totals of the workspace, a family (its root's id) or an allotment (its session's id)."""
    spent, held = _totals(state).get(name, (0, 0))
    return Level(spent, held, _max(state, name))


def spent_by(state: State, session: str) -> int:
    """What one session itself has spent, in nano-USD."""
    account = state.accounts.get(session)
    return account.spent if account else 0


def behind(state: State, wants: list[LeaseRequest]) -> set[str]:
    """The sessions of which we have heard of a later activation, or of more spend.

    Their journal went back, unless a later activation is there.
    """
    found = set()
    for want in wants:
        account = state.accounts.get(want.session)
        if account is None:
            continue
        if want.epoch < account.epoch or (
            want.spent < account.spent
            and (want.epoch, want.number) > (account.epoch, account.number)
        ):
            found.add(want.session)
    return found


def validate(state: State) -> None:
    """Refuse a stored state that can't be true, rather than repair it into a fresh budget."""
    for session, account in state.accounts.items():
        if not (0 <= account.spent <= _MAX_TOTAL and 0 <= account.lent <= _MAX_TOTAL):
            raise CorruptState(f"budget: account {session} holds an impossible amount")
        if account.family not in state.families:
            raise CorruptState(f"budget: account {session} is of no known family")
        if any(name not in state.allotments for name in account.path):
            raise CorruptState(f"budget: account {session} is under an unknown allotment")
    for name, cap in _caps(state):
        if cap is not None and not 0 <= cap <= MAX_NANO:
            raise CorruptState(f"budget: the cap of {name} is {cap} nano-USD, out of range")
    if state.brake.number < 0 or state.brake.before < 0:
        raise CorruptState("budget: its brake is out of range")


def brake_of(state: State, events: Sequence[Event]) -> Brake | None:
    """The brake, to be shown to all sessions, if these events, the last ones, have changed it.

    While it is pulled it is shown again with everything: what was lost there comes back.
    """
    changed = any(isinstance(event, Held | Released) for event in events)
    return state.brake if changed or state.brake.hold else None


def _is_named(state: State) -> bool:
    """Also where an earlier version has set a cap, and did not note that it had."""
    return state.named or state.workspace != Cap(None)


def _set_hold(state: State, why: str | None, by: str, now: int) -> tuple[list[Event], Reply]:
    """Replies with the hold that is there now, and to a release with the one that was."""
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
    _require_amount(command.spent, "spent")
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
    if family is None or _account(state, command.parent).family != command.family:
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


def _lease(state: State, command: Lease) -> tuple[list[Event], Reply]:
    if len(command.wants) == 1:
        event, reply = _lease_one(state, _totals(state), command.wants[0])
        return ([event] if event else []), [reply]
    return _lease_many(state, command.wants)


def _lease_many(state: State, wants: list[LeaseRequest]) -> tuple[list[Event], Reply]:
    """Decide in order against totals that include the decisions before, touching no state."""
    events: list[Event] = []
    replies: list[LeaseGranted | Exceeded] = []
    totals = dict(_totals(state))
    ahead: dict[str, Account] = {}
    for want in wants:
        account = ahead.get(want.session) or _account(state, want.session)
        event, reply = _lease_one(state, totals, want, account)
        if event:
            moved = Account(
                account.family, account.path, account.lent, account.spent, want.epoch, want.number
            )
            _charge(state, totals, moved, event.spent, event.lent)
            ahead[want.session] = moved
            events.append(event)
        replies.append(reply)
    return events, replies


def _lease_one(
    state: State,
    totals: dict[str, tuple[int, int]],
    want: LeaseRequest,
    account: Account | None = None,
) -> tuple[Reported | None, LeaseGranted | Exceeded]:
    _require_amount(want.spent, "spent")
    _require_amount(want.lent, "lent")
    account = account or _account(state, want.session)
    if (want.epoch, want.number) <= (account.epoch, account.number):
        return None, LeaseGranted(account.lent)
    spent = max(account.spent, want.spent)
    lent = max(want.lent, spent)
    refusal = _refusal(state, totals, account, spent, lent)
    if refusal:
        lent = max(account.lent, spent)
    else:
        lent += _slack(state, totals, account, lent, want.slack)
    event = Reported(want.session, want.epoch, want.number, spent, lent)
    if refusal:
        return event, refusal
    return event, LeaseGranted(lent, _warning(state, totals, account, lent))


def _slack(
    state: State, totals: dict[str, tuple[int, int]], account: Account, lent: int, wish: int
) -> int:
    """What is lent beyond the need: a share of the room below every level's warning threshold.

    Nothing is lent across a threshold, so that the spend that reaches it is seen when it does.
    """
    if wish <= 0:
        return 0
    wish = min(wish, _MAX_TOTAL - lent)
    more = lent - account.held
    for name in _levels(account):
        cap = _cap_or_allotment(state, name)
        if cap.max is None:
            continue
        threshold = cap.max * cap.warn_at_percent // 100
        room = threshold - 1 - totals.get(name, (0, 0))[1] - more
        wish = min(wish, room // SLACK_SHARE)
    return max(wish, 0)


def _cap_or_allotment(state: State, name: str) -> Cap:
    if name in state.allotments:
        return Cap(state.allotments[name], 100)
    return _cap(state, name)


def _refusal(
    state: State, totals: dict[str, tuple[int, int]], account: Account, spent: int, lent: int
) -> Exceeded | None:
    """The first level, innermost first, that has no room for the loan to grow as wished."""
    before = max(account.held, spent)
    more = lent - before
    if more <= 0:
        return None
    reported = before - account.held
    for name in _levels(account):
        cap = _max(state, name)
        if cap is None:
            continue
        available = cap - totals.get(name, (0, 0))[1] - reported
        if more > available:
            return Exceeded(_public_name(state, name), more, max(available, 0))
    return None


def _warning(
    state: State, totals: dict[str, tuple[int, int]], account: Account, lent: int
) -> CapWarning | None:
    more = lent - account.held
    for name in (account.family, WORKSPACE):
        cap = _cap(state, name)
        if cap.max is None:
            continue
        after = totals.get(name, (0, 0))[1] + more
        if after * 100 >= cap.max * cap.warn_at_percent:
            return CapWarning(_public_name(state, name), after, cap.max, cap.warn_at_percent)
    return None


def _levels(account: Account) -> Iterator[str]:
    yield from reversed(account.path)
    yield account.family
    yield WORKSPACE


def _require_amount(nano: int, field: str) -> None:
    """Refuse what `validate` would not let pass at the next load."""
    if not 0 <= nano <= _MAX_TOTAL:
        raise InvalidValue(f"{field}: an amount out of range", field=field)


def _require_cap(nano: int | None, field: str) -> None:
    if nano is not None and not 0 <= nano <= MAX_NANO:
        raise InvalidValue(f"{field}: a cap out of range", field=field)


def _account(state: State, session: str) -> Account:
    account = state.accounts.get(session)
    if account is None:
        raise NotFound(f"session {session} has no account in this workspace's budget")
    return account


def _known_level(state: State, name: str) -> None:
    if name != WORKSPACE and name not in state.families:
        raise NotFound(f"no session budget of {name} in this workspace")


def _cap(state: State, name: str) -> Cap:
    return state.workspace if name == WORKSPACE else state.families[name].cap


def _max(state: State, name: str) -> int | None:
    if name == WORKSPACE:
        return state.workspace.max
    if name in state.families:
        return state.families[name].cap.max
    return state.allotments.get(name)


def _public_name(state: State, name: str) -> str:
    if name == WORKSPACE:
        return WORKSPACE
    return "session" if name in state.families else "allotment"


def _caps(state: State) -> Iterator[tuple[str, int | None]]:
    yield WORKSPACE, state.workspace.max
    for name, family in state.families.items():
        yield name, family.cap.max
    yield from state.allotments.items()


def _totals(state: State) -> dict[str, tuple[int, int]]:
    """(spent, held) by level; derived once after loading, then kept up to date by `evolve`."""
    totals: dict[str, tuple[int, int]] | None = state.__dict__.get("totals")
    if totals is None:
        totals = {}
        for account in state.accounts.values():
            _add(totals, account, account.spent, account.held)
        state.__dict__["totals"] = totals
    return totals


def _charge(
    state: State, totals: dict[str, tuple[int, int]], account: Account, spent: int, lent: int
) -> None:
    held_before, spent_before = account.held, account.spent
    account.spent, account.lent = spent, lent
    _add(totals, account, spent - spent_before, account.held - held_before)


def _add(totals: dict[str, tuple[int, int]], account: Account, spent: int, held: int) -> None:
    for name in _levels(account):
        spent_so_far, held_so_far = totals.get(name, (0, 0))
        totals[name] = (spent_so_far + spent, held_so_far + held)


def describe(refusal: Exceeded) -> str:
    """One line for a person."""
    return (
        f"{refusal.level} budget: {usd_text(refusal.requested)} USD asked, "
        f"{usd_text(refusal.available)} USD left"
    )
