"""Slots for sub-agents, and those that wait for one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from retinue.actors.changed import Changed
from retinue.actors.telemetry import metrics
from retinue.cluster.directory.concurrency import ConcurrencyLimit


class Slots:
    """Slots, and the spawns that wait for one; these are woken when there may be room."""

    def __init__(self) -> None:
        self.waiting: dict[str, int] = {}
        """The number of sessions that each spawn, and each caller for a root session, waits for."""
        self._limit = ConcurrencyLimit()
        self.changed: Changed = Changed()
        """Notified when there may be room for those that wait."""

    async def acquire(
        self,
        spawner: str,
        family_id: str,
        done: list[str],
        want: list[str],
        limit: int,
        place: Callable[[int], list[str]],
        timeout_s: float,
    ) -> dict[str, str]:
        """Grants slots to some of ``want``, after taking back those of the ``done``.

        Waits until there is a slot, ``timeout_s`` seconds have passed, or the spawn is over.
        ``place(count)`` finds hosts.
        """
        self._limit.open(spawner, family_id, limit)
        if done:
            self._limit.done(spawner, done)
            self.changed.notify()
        if not want:
            return {}
        deadline = asyncio.get_running_loop().time() + timeout_s
        self._note(spawner, len(want))
        try:
            while self._limit.is_open(spawner):
                granted = self._limit.grant(spawner, want, place)
                left = deadline - asyncio.get_running_loop().time()
                if granted or left <= 0:
                    return granted
                await self.changed.wait(left)
            return {}
        finally:
            self._note(spawner, 0)

    def release(self, spawner: str) -> list[str]:
        """Ends a spawn: takes back all its slots, and stops its waiting for more.

        Returns the children that held a slot.
        """
        held = self._limit.close(spawner)
        self.changed.notify()
        return held

    def lost(self, host: str, sessions: Collection[str]) -> None:
        """Frees the slots of a host that is gone; parents among its ``sessions`` have died."""
        self._limit.lost(host, sessions)
        self.changed.notify()

    def seen(self, host: str, sessions: Collection[str]) -> None:
        """Frees the slots that dead parents hold at a host for children not seen there."""
        if self._limit.has_orphans:
            self._limit.seen(host, frozenset(sessions))
            self.changed.notify()

    @property
    def has_orphans(self) -> bool:
        """True while the parent of any spawn has died and not come back."""
        return self._limit.has_orphans

    def _note(self, spawner: str, count: int) -> None:
        if count:
            self.waiting[spawner] = count
        else:
            self.waiting.pop(spawner, None)
        metrics.SPAWNS_WAITING.set(sum(self.waiting.values()))
