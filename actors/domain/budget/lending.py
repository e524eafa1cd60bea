"""The budget's decisions on reports and wishes: room at every level, slack, and warnings."""

from __future__ import annotations

from typing import TypeAlias

from retinue.actors.domain.budget.commands import CapWarning, Exceeded, LeaseGranted, LeaseRequest
from retinue.actors.domain.budget.events import Event, Reported
from retinue.actors.domain.budget.levels import Kind, above
from retinue.actors.domain.budget.state import Account, Cap, State
from retinue.actors.domain.budget.totals import Totals, charge, totals_of
from retinue.actors.domain.errors import InvalidValue, NotFound

SLACK_SHARE = 16
"""The divisor of the room left below a threshold: one wish for slack gets at most that share."""

MAX_TOTAL = 1 << 62
"""The sum of many accounts may pass MAX_NANO; it must stay a 64-bit integer."""

Counted: TypeAlias = list[tuple[Kind, Cap, int]]
"""The levels at which an account counts, innermost first, and the amount held there by all."""


def lend(
    state: State, wants: list[LeaseRequest]
) -> tuple[list[Event], list[LeaseGranted | Exceeded]]:
    """Decide in order against totals that include the earlier decisions, touching no state."""
    events: list[Event] = []
    replies: list[LeaseGranted | Exceeded] = []
    many = len(wants) > 1
    totals = dict(totals_of(state)) if many else totals_of(state)
    ahead: dict[str, Account] = {}
    for want in wants:
        account = ahead.get(want.session) or account_of(state, want.session)
        event, reply = _lend_one(state, totals, account, want)
        if event:
            events.append(event)
            if many:
                ahead[want.session] = _moved(totals, account, event)
        replies.append(reply)
    return events, replies


def those_behind(state: State, wants: list[LeaseRequest]) -> set[str]:
    """The sessions of which the budget has heard of a later activation, or of more spend.

    Their journal went back, unless there is a later activation.
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


def account_of(state: State, session: str) -> Account:
    """The account of a session; raises NotFound if it has none."""
    account = state.accounts.get(session)
    if account is None:
        raise NotFound(f"session {session} has no account in this workspace's budget")
    return account


def require_amount(nano: int, field: str) -> None:
    """Raises InvalidValue for an amount that could not be loaded again."""
    if not 0 <= nano <= MAX_TOTAL:
        raise InvalidValue(f"{field}: an amount out of range", field=field)


def _moved(totals: Totals, account: Account, event: Reported) -> Account:
    """A copy of the account as it will be; ``totals`` already count it."""
    lent, spent = account.lent, account.spent
    moved = Account(account.family, account.path, lent, spent, event.epoch, event.number)
    charge(totals, moved, event.spent, event.lent)
    return moved


def _lend_one(
    state: State, totals: Totals, account: Account, want: LeaseRequest
) -> tuple[Reported | None, LeaseGranted | Exceeded]:
    require_amount(want.spent, "spent")
    require_amount(want.lent, "lent")
    if (want.epoch, want.number) <= (account.epoch, account.number):
        return None, LeaseGranted(account.lent)
    spent = max(account.spent, want.spent)
    lent = max(want.lent, spent)
    levels = [
        (kind, kind.cap(state, name), totals.get(name, (0, 0))[1]) for kind, name in above(account)
    ]
    refusal = _refusal(levels, account, spent, lent)
    if refusal:
        lent = max(account.lent, spent)
    else:
        lent += _slack(levels, account, lent, want.slack)
    event = Reported(want.session, want.epoch, want.number, spent, lent)
    if refusal:
        return event, refusal
    return event, LeaseGranted(lent, _warning(levels, account, lent))


def _slack(levels: Counted, account: Account, lent: int, wish: int) -> int:
    """The amount lent beyond the need: a share of the room below every level's warning threshold.

    Nothing is lent across a threshold, so that the spend that reaches it is seen when it does.
    """
    if wish <= 0:
        return 0
    wish = min(wish, MAX_TOTAL - lent)
    more = lent - account.held
    for _, cap, held in levels:
        if cap.max is None:
            continue
        threshold = cap.max * cap.warn_at_percent // 100
        room = threshold - 1 - held - more
        wish = min(wish, room // SLACK_SHARE)
    return max(wish, 0)


def _refusal(levels: Counted, account: Account, spent: int, lent: int) -> Exceeded | None:
    """The first level, innermost first, that has no room for the loan to grow as wished."""
    before = max(account.held, spent)
    more = lent - before
    if more <= 0:
        return None
    reported = before - account.held
    for kind, cap, held in levels:
        if cap.max is None:
            continue
        available = cap.max - held - reported
        if more > available:
            return Exceeded(kind.title, more, max(available, 0))
    return None


def _warning(levels: Counted, account: Account, lent: int) -> CapWarning | None:
    more = lent - account.held
    for kind, cap, held in levels:
        if cap.max is None or kind.set_cap is None:
            continue
        after = held + more
        if after * 100 >= cap.max * cap.warn_at_percent:
            return CapWarning(kind.title, after, cap.max, cap.warn_at_percent)
    return None
