"""The journal in memory, for tests and for the simulation, which adds its faults around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from retinue.actors.domain.errors import RolledBack
from retinue.actors.durable.journal import (
    Append,
    Key,
    Loaded,
    Outcome,
    Outcomes,
    Summary,
    stored_version,
)


@dataclass(slots=True)
class _Stored:
    epoch: int = 0
    creator: str = ""
    seq: int = 0
    snapshot: bytes | None = None
    rows: list[bytes] = field(default_factory=list)
    messages: list[bytes] = field(default_factory=list)
    audit: list[bytes] = field(default_factory=list)


class MemoryJournal:
    """Implements `retinue.actors.durable.journal.Journal` with a dictionary."""

    def __init__(self) -> None:
        self.entities: dict[Key, _Stored] = {}
        self.stopped: dict[str, str] = {}
        self.brakes: dict[str, bytes] = {}
        self.summaries: dict[tuple[str, str], dict[str, Summary]] = {}
        self.listed: dict[str, dict[bytes, bytes]] = {}

    async def activate(self, key: Key, newest: int | None = None) -> Loaded:
        if key.workspace_id in self.stopped:
            raise RolledBack(self.stopped[key.workspace_id])
        stored = self.entities.setdefault(key, _Stored())
        loaded = self._loaded(stored)
        if newest is not None and stored_version(loaded) > newest:
            return loaded
        stored.epoch += 1
        stored.creator = ""
        return self._loaded(stored)

    async def read(self, key: Key) -> Loaded:
        return self._loaded(self.entities.get(key, _Stored()))

    async def append(self, batch: Sequence[Append]) -> Outcomes:
        outcomes = [self._append(one) for one in batch]
        return Outcomes(
            outcomes,
            {one.key.workspace_id: self.brakes.get(one.key.workspace_id, b"") for one in batch},
        )

    async def brake(self, workspace_id: str) -> bytes:
        return self.brakes.get(workspace_id, b"")

    async def stop(self, workspace_id: str, why: str) -> None:
        self.stopped.setdefault(workspace_id, why)

    async def snapshot(self, key: Key, epoch: int, seq: int, data: bytes) -> Outcome:
        stored = self.entities.get(key)
        current = stored.epoch if stored else 0
        if current < epoch:
            return Outcome.GAP
        if stored is None or current != epoch:
            return Outcome.FENCED
        if stored.seq < seq:
            return Outcome.GAP
        kept = stored.seq - seq
        if kept > len(stored.rows):  # it comes late: a newer one is there
            return Outcome.OK
        stored.rows = stored.rows[len(stored.rows) - kept :] if kept else []
        stored.snapshot = data
        return Outcome.OK

    async def messages(self, key: Key, start: int, stop: int) -> Sequence[bytes]:
        return self.entities.get(key, _Stored()).messages[start:stop]

    async def audit(self, key: Key, start: int, stop: int) -> Sequence[bytes]:
        return self.entities.get(key, _Stored()).audit[start:stop]

    def _append(self, one: Append) -> Outcome:
        if one.key.workspace_id in self.stopped:
            return Outcome.GAP
        stored = self.entities.get(one.key)
        if stored is None and one.create:
            stored = self.entities[one.key] = _Stored(epoch=1, creator=one.create)
        epoch = stored.epoch if stored else 0
        if epoch < one.epoch:
            return Outcome.GAP
        if stored is None or epoch != one.epoch:
            return Outcome.FENCED
        if one.create and stored.creator != one.create:
            return Outcome.FENCED
        if not one.row:
            return Outcome.OK if stored.seq == one.after else Outcome.GAP
        if stored.seq == one.after + 1:
            return Outcome.OK
        if stored.seq != one.after:
            return Outcome.GAP
        stored.seq += 1
        stored.rows.append(one.row)
        stored.messages.extend(one.messages)
        stored.audit.extend(one.audit)
        if one.brake:
            self.brakes[one.key.workspace_id] = one.brake
        if one.summary is not None:
            family = self.summaries.setdefault((one.key.workspace_id, one.summary.family), {})
            family[one.key.id] = one.summary
            if one.summary.listed is not None:
                state, position = one.summary.listed
                self.listed.setdefault(one.key.workspace_id, {})[position] = state
        return Outcome.OK

    @staticmethod
    def _loaded(stored: _Stored) -> Loaded:
        return Loaded(stored.epoch, stored.seq, stored.snapshot, list(stored.rows))
