"""What the budget of a workspace stores."""

from __future__ import annotations

from msgspec import Struct, field

from retinue.actors.domain.values.record import Record

WORKSPACE = "workspace"


class Cap(Record, frozen=True):
    """A limit in nano-USD (None: records, never blocks) and the percentage that warns."""

    max: int | None
    warn_at_percent: int = 80


class Family(Struct, array_like=True):
    """A root session and its descendants: their session budget and their number."""

    cap: Cap
    per_action: int
    """Only kept because it is stored: the session itself has it, and holds every action to it."""
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
    """Totals by level are derived from it and kept beside it, never stored.

    ``named`` if somebody has set the workspace's cap, which ``named_by`` did last.
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
        """Also where an earlier version has set a cap, and did not note that it had."""
        return self.named or self.workspace != Cap(None)
