"""Totals by level: the money spent and held by all accounts that count there."""

from __future__ import annotations

from typing import TypeAlias

from retinue.actors.domain.budget.levels import above, kind_of
from retinue.actors.domain.budget.state import Account, State
from retinue.actors.domain.values.record import Record

Totals: TypeAlias = dict[str, tuple[int, int]]
"""(spent, held) by the name of the level, in nano-USD."""


class Level(Record, frozen=True):
    """Totals at one level, in nano-USD."""

    spent: int
    held: int
    max: int | None

    @property
    def reserved(self) -> int:
        """The amount held but not known to be spent, in nano-USD."""
        return self.held - self.spent


def level_of(state: State, name: str) -> Level:
    """Totals of the workspace, a family (its root's id) or an allotment (its session's id)."""
    spent, held = totals_of(state).get(name, (0, 0))
    kind = kind_of(state, name)
    return Level(spent, held, kind.cap(state, name).max if kind else None)


def totals_of(state: State) -> Totals:
    """The totals by level: derived once after loading, then kept up to date by `charge`."""
    totals: Totals | None = state.__dict__.get("totals")
    if totals is None:
        totals = state.__dict__["totals"] = {}
        for account in state.accounts.values():
            _add(totals, account, account.spent, account.held)
    return totals


def charge(totals: Totals, account: Account, spent: int, lent: int) -> None:
    """Sets the account's amounts, and adds the difference to every level above it."""
    held_before, spent_before = account.held, account.spent
    account.spent, account.lent = spent, lent
    _add(totals, account, spent - spent_before, account.held - held_before)


def _add(totals: Totals, account: Account, spent: int, held: int) -> None:
    for _, name in above(account):
        spent_so_far, held_so_far = totals.get(name, (0, 0))
        totals[name] = (spent_so_far + spent, held_so_far + held)
