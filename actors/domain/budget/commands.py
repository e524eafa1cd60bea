"""The commands of a budget, and its replies."""

from __future__ import annotations

from typing import TypeAlias

from retinue.actors.domain.budget.state import Cap, Hold
from retinue.actors.domain.values.record import Record


class Child(Record, frozen=True):
    """A sub-agent to admit, with an allotment of its own or without."""

    id: str
    allotment: int | None = None


class OpenFamily(Record, frozen=True, tag=True):
    """Register a root session and its budget; ``spent`` is the spend of an imported session."""

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
    """A session's report (total spent) and wish (total loan), and how much slack it would like."""

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
    """Put the workspace on hold for a reason, or (None) release it."""

    why: str | None
    by: str


Command: TypeAlias = OpenFamily | Admit | Lease | SetCap | OpenWorkspace | SetHold


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
    """A refusal to lend: the first level without room, and the amount it had left."""

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
    """The workspace's cap as it stands, and the name of the person who set it ('' if not known)."""

    cap: Cap
    by: str


Reply: TypeAlias = Admitted | Refused | Standing | Hold | list[LeaseGranted | Exceeded] | None
