"""The events of a budget, as they are stored."""

from __future__ import annotations

from typing import TypeAlias

from retinue.actors.domain.budget.commands import Child
from retinue.actors.domain.budget.state import Cap
from retinue.actors.domain.values.record import Record


class FamilyOpened(Record, frozen=True, tag=True):
    """A root session was registered, with a cap of its own and the amount ``spent`` before."""

    family: str
    cap: Cap
    per_action: int
    max_children: int
    spent: int


class ChildrenAdmitted(Record, frozen=True, tag=True):
    """Sub-agents of ``parent`` were admitted, some with an allotment."""

    family: str
    parent: str
    children: list[Child]


class Reported(Record, frozen=True, tag=True):
    """A session reported ``spent`` in all, and has ``lent`` on loan now; both in nano-USD."""

    session: str
    epoch: int
    number: int
    spent: int
    lent: int


class CapSet(Record, frozen=True, tag=True):
    """A level has another cap."""

    level: str
    cap: Cap
    by: str


class Held(Record, frozen=True, tag=True):
    """A workspace is on hold."""

    by: str
    why: str
    at: int


class Released(Record, frozen=True, tag=True):
    """A hold is over."""

    by: str
    at: int


Event: TypeAlias = FamilyOpened | ChildrenAdmitted | Reported | CapSet | Held | Released
