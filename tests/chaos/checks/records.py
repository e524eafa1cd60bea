"""The ledger, looked up by what was done."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.chaos.ledger import Line

_NEVER = 1 << 62
_WAKING_US = 3_000_000


@dataclass
class Op:
    """Everything the ledger says about one operation; places are line numbers."""

    what: str
    op: str
    tried: list[tuple[int, Line]] = field(default_factory=list)
    told: list[tuple[int, Line]] = field(default_factory=list)
    ran: list[tuple[int, Line]] = field(default_factory=list)

    @property
    def line(self) -> Line:
        """One of its lines."""
        return (self.told or self.tried or self.ran)[0][1]

    @property
    def first(self) -> int:
        """Where it was tried for the first time."""
        return (self.tried or self.told or self.ran)[0][0]


class Records:
    """The operations of a ledger, and the lives of its agents."""

    def __init__(self, lines: list[Line]) -> None:
        self.lines = lines
        self._ops: dict[tuple[str, str], Op] = {}
        self.lives: dict[str, tuple[int, Line]] = {}
        self.ended: set[str] = set()
        self._pauses: dict[int, list[tuple[int, int]]] = {}
        for place, line in enumerate(lines):
            self._add(place, line)

    def of(self, what: str) -> Iterator[Op]:
        """The operations of a kind."""
        return (op for (kind, _), op in self._ops.items() if kind == what)

    def get(self, what: str, op: str) -> Op | None:
        """One operation."""
        return self._ops.get((what, op))

    @property
    def acknowledged(self) -> int:
        """How many operations were told to have happened."""
        return sum(1 for op in self._ops.values() if op.told)

    def was_away(self, host: int, place: int) -> bool:
        """Whether a host was paused at that line, or had just been woken or lost its raylet.

        Until it asks for something it can't know that others have taken over what it had.
        """
        at = self.lines[place].at
        pauses = self._pauses.get(host, [])
        return any(begun < place and at < woken + _WAKING_US for begun, woken in pauses)

    def _add(self, place: int, line: Line) -> None:
        match line.kind:
            case "began":
                self.lives[line.life] = (place, line)
            case "ended" if line.life:
                self.ended.add(line.life)
            case "paused":
                self._pauses.setdefault(line.amount, []).append((place, _NEVER))
            case "orphaned":
                self._pauses.setdefault(line.amount, []).append((place, line.at))
            case "woken":
                self._pauses[line.amount][-1] = (self._pauses[line.amount][-1][0], line.at)
            case "tried":
                self._op(line).tried.append((place, line))
            case "told":
                self._op(line).told.append((place, line))
            case "ran":
                self._op(line).ran.append((place, line))

    def _op(self, line: Line) -> Op:
        key = (line.what, line.op)
        found = self._ops.get(key)
        if found is None:
            found = self._ops[key] = Op(line.what, line.op)
        return found
