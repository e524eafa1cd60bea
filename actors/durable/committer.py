"""The group commit: the rows that all entities of a process have queued, written in one batch.

While a batch is under way the next one fills up.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from retinue.actors.domain.errors import RetinueError, RolledBack, StoreUnavailable
from retinue.actors.durable.journal import Append, Journal, Key, Outcome
from retinue.actors.telemetry import metrics

Learn = Callable[[Mapping[str, bytes], float], None]
"""Takes in the brakes of workspaces, and the event loop's time when they were requested."""

_MOST_PER_FLUSH = 256


class Writes(Protocol):
    """The part of an entity that the committer needs."""

    def take(self) -> Append: ...
    def settle(self, outcome: Outcome) -> None: ...
    def fail(self, error: RetinueError) -> None: ...


class Committer:
    """Group commit for all entities of this process."""

    def __init__(self, journal: Journal, learn: Learn = lambda brakes, asked: None) -> None:
        """``learn`` is told the brakes that the journal answers with, and when it was asked."""
        self.journal = journal
        self._learn = learn
        self._dirty: dict[Writes, None] = {}
        self._task: asyncio.Task[None] | None = None

    def enlist(self, entity: Writes) -> None:
        """Write the entity's queued events with the next flush."""
        self._dirty[entity] = None
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._flush())

    async def drain(self) -> None:
        """Return when nothing is queued or under way."""
        while self._task is not None and not self._task.done():
            await asyncio.wait([self._task])

    async def _flush(self) -> None:
        while self._dirty:
            batch = list(self._dirty)[:_MOST_PER_FLUSH]
            for entity in batch:
                del self._dirty[entity]
            try:
                appends = [entity.take() for entity in batch]
                asked = asyncio.get_running_loop().time()
                with metrics.COMMIT_SECONDS.timed():
                    outcomes = await self.journal.append(appends)
                metrics.COMMIT_SIZE.observe(len(appends))
            except Exception as error:  # whatever it is: those who wait must hear of it
                self._fail(batch, error)
            else:
                self._learn(outcomes.brakes, asked)  # before those who wait go on
                lost: Key | None = None
                for entity, append, outcome in zip(batch, appends, outcomes, strict=True):
                    if outcome is not Outcome.OK:
                        self._dirty.pop(entity, None)
                        lost = append.key if outcome is Outcome.GAP else lost
                    entity.settle(outcome)
                if lost:
                    await self._stop(lost)

    async def _stop(self, key: Key) -> None:
        """Stops the workspace of ``key``: nobody else may go on from the rows left there."""
        with contextlib.suppress(RetinueError):
            await self.journal.stop(key.workspace_id, went_back(key).message)

    def _fail(self, batch: Sequence[Writes], error: Exception) -> None:
        if not isinstance(error, RetinueError):
            error = StoreUnavailable(f"the journal failed: {type(error).__name__}: {error}")
        for entity in batch:
            self._dirty.pop(entity, None)
            entity.fail(error)


def went_back(key: Key) -> RolledBack:
    """The error for an entity that knows of more rows than are stored."""
    return RolledBack(
        f"{key}: Redis has lost rows that it had confirmed: it was restored from an older copy, or "
        "a replica took over that did not have them. Nothing goes on here until somebody has looked"
    )
