"""The stored state of a workspace's budget."""

from __future__ import annotations

from msgspec import Struct, field

from retinue.actors.domain.values.record import Record

WORKSPACE = "workspace"


class Cap(Record, frozen=True):
    """A limit in nano-USD (None: records, never blocks) and the percentage at which to warn."""

    max: int | None
    warn_at_percent: int = 80


class Family(Struct, array_like=True):
    """A root session and its descendants: their session budget and their number."""

    cap: Cap
    per_action: int
    """Kept only because it is stored: the session itself has it and applies it to every action."""
    max_children: int
    children: int = 0


class Account(Struct, array_like=True):
    """One session's money, in nano-USD. ``path`` names its allotments, outermost first."""

    family: str
    path: list[str]
    lent: int = 0
    spent: int = 0
    epoch: int = 0
    number: int = 0

    @property
    def held(self) -> int:
        """The amount that counts against every level above, in nano-USD."""
        return max(self.lent, self.spent)


class Hold(Record, frozen=True):
    """A hold on the workspace: its author, its reason, and its start in microseconds."""

    by: str
    why: str
    since: int


class Brake(Record, frozen=True):
    """The brake of a workspace: ``hold`` if it is on hold.

    A later one has a higher ``number``. ``before`` is the total length of earlier holds, in
    microseconds.
    """

    number: int = 0
    hold: Hold | None = None
    before: int = 0

    def held(self, now: int) -> int:
        """The workspace's total time on hold by ``now``, in microseconds."""
        return self.before + (max(now - self.hold.since, 0) if self.hold else 0)


class State(Struct, array_like=True, dict=True):
    """The accounts, caps and hold. Totals by level are derived and kept beside it, never stored.

    ``named`` if somebody has set the workspace's cap; ``named_by`` is the last to have done so.
    """

    workspace: Cap = Cap(None)
    families: dict[str, Family] = field(default_factory=dict)
    allotments: dict[str, int] = field(default_factory=dict)
    accounts: dict[str, Account] = field(default_factory=dict)
    named: bool = False
    named_by: str = ""
    brake: Brake = Brake()

    @property
    def is_named(self) -> bool:
        """True if the cap is named, also by an earlier version that did not note so."""
        return self.named or self.workspace != Cap(None)
