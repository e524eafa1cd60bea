"""What has happened to a budget, as it is stored."""

from __future__ import annotations

from typing import TypeAlias

from retinue.actors.domain.budget.commands import Child
from retinue.actors.domain.budget.state import Cap
from retinue.actors.domain.values.record import Record


class FamilyOpened(Record, frozen=True, tag=True):
    """A root session came, with a cap of its own and what it has ``spent`` before."""

    family: str
    cap: Cap
    per_action: int
    max_children: int
    spent: int


class ChildrenAdmitted(Record, frozen=True, tag=True):
    """Sub-agents of ``parent`` came, some with an allotment."""

    family: str
    parent: str
    children: list[Child]


class Reported(Record, frozen=True, tag=True):
    """A session said what it has ``spent``, and has this ``lent`` now; both in nano-USD."""

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
