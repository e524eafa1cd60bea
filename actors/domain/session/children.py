"""The children of a spawn: waiting, holding a slot, started, or done. Pure bookkeeping.

1. A child waits until it is granted a slot, holds that until a host is told to start it, and is
   done with its first result, whichever host that comes from.
2. Children that hold a slot or were started have one, and no others. One that parts with its slot
   is freed, once.
3. A child that a host loses waits again, and may have begun. A child that is done stays done.
4. Cancelling ends the children that cannot have begun. All others must be cancelled at their host,
   or at the host where they are placed next.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from retinue.actors.domain.session.result import Result
from retinue.actors.domain.session.settings import Isolation
from retinue.actors.domain.session.state import Child, ChildSpec


class _Place(NamedTuple):
    """A child's place; ``where`` is a host, or for a waiting child the isolation that it needs."""

    stage: Literal["waiting", "held", "started", "done"]
    where: str = ""


_DONE = _Place("done")


@dataclass
class _Row:
    spec: ChildSpec
    place: _Place
    begun: bool
    result: Result | None


class Children:
    """The table of a spawn: one row for each child."""

    def __init__(self, children: Iterable[Child], *, begun: bool = False) -> None:
        """Sets up the table; ``begun`` if hosts may have been told before to start the children."""
        self.cancelling: bool = False
        self.freed: list[str] = []
        self._rows: dict[str, _Row] = {}
        self._at: dict[_Place, dict[str, ChildSpec]] = {}  # an index of the rows
        for spec, result in ((child.spec, child.result) for child in children):
            place = _DONE if result else _waiting(spec)
            self._rows[spec.id] = _Row(spec, place, begun, result)
            self._at.setdefault(place, {})[spec.id] = spec

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def over(self) -> bool:
        """True if all children are done."""
        return len(self._at.get(_DONE, ())) == len(self._rows)

    def waiting(self, isolation: Isolation) -> list[str]:
        """The ids of the children that wait for a slot of this kind."""
        return list(self._at.get(_Place("waiting", isolation), ()))

    def started(self, host: str) -> list[ChildSpec]:
        """The children that were started on a host."""
        return list(self._at.get(_Place("started", host), {}).values())

    def hosts(self, *stages: Literal["held", "started"]) -> dict[str, str]:
        """The host of each child at one of these stages."""
        places = [place for place in self._at if place.stage in stages]
        return {id: place.where for place in places for id in self._at[place]}

    def results(self) -> list[Result]:
        """The results that are there, in the order of the children."""
        return [row.result for row in self._rows.values() if row.result]

    def grant(self, slots: Mapping[str, str]) -> None:
        """Give slots to children; the slot of one that is done by now is freed at once."""
        for row, host in ((self._rows[id], host) for id, host in slots.items()):
            if row.place.stage == "waiting":
                self._move(row, _Place("held", host))
            elif row.result:
                self.freed.append(row.spec.id)

    def start(self) -> dict[str, list[ChildSpec]]:
        """Mark all children that hold a slot as started; returns them by host."""
        starts: dict[str, list[ChildSpec]] = {}
        for id, host in self.hosts("held").items():
            self._move(self._rows[id], _Place("started", host))
            starts.setdefault(host, []).append(self._rows[id].spec)
        return starts

    def finish(self, results: Iterable[Result]) -> list[Result]:
        """Mark children as done; returns the results that were the first of their child."""
        first: list[Result] = []
        for result in results:
            row = self._rows.get(result.session_id)
            if row and row.result is None:
                row.result = result
                self._move(row, _DONE)
                first.append(result)
        return first

    def lose(self, host: str, specs: Iterable[ChildSpec]) -> None:
        """Return the children that are still started on this host to waiting."""
        for row in (self._rows[spec.id] for spec in specs):
            if row.place == ("started", host):
                self._move(row, _waiting(row.spec))

    def cancel(self) -> list[Result]:
        """Cancel all that is not done; returns the results of those that cannot have begun."""
        self.cancelling = True
        rows = [row for row in self._rows.values() if not row.begun]
        return self.finish(
            Result(row.spec.id, "cancelled", error="a sibling failed", run_id=row.spec.id)
            for row in rows
        )

    def take_freed(self) -> list[str]:
        """The children whose slots the caller must give back."""
        freed, self.freed = self.freed, []
        return freed

    def _move(self, row: _Row, place: _Place) -> None:
        if place.stage == "started":
            row.begun = True
        elif row.place.stage in ("held", "started") and place.stage != "held":
            self.freed.append(row.spec.id)
        del self._at[row.place][row.spec.id]
        if not self._at[row.place]:
            del self._at[row.place]
        self._at.setdefault(place, {})[row.spec.id] = row.spec
        row.place = place


def _waiting(spec: ChildSpec) -> _Place:
    return _Place("waiting", spec.isolation)
