"""Slots for sub-agents, and those that wait for one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from retinue.actors.telemetry import metrics
from retinue.cluster.directory.concurrency import ConcurrencyLimit
from retinue.cluster.directory.feed import wait_on


class Slots:
    """A gate, and who waits at it. Whoever waits is woken when there may be room."""

    def __init__(self) -> None:
        self.waiting: dict[str, int] = {}
        """How many sessions each spawn, and each caller for a root session, waits for."""
        self._gate = ConcurrencyLimit()
        self._changed = asyncio.Condition()

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
        """Slots for some of ``want``, after taking back those that are ``done``.

        Waits until there is one, or time is up, or the spawn is over. ``place(count)`` finds hosts.
        """
        self._gate.open(spawner, family_id, limit)
        if done:
            self._gate.done(spawner, done)
            await self.notify()
        if not want:
            return {}
        deadline = asyncio.get_running_loop().time() + timeout_s
        self._note(spawner, len(want))
        try:
            while self._gate.is_open(spawner):
                granted = self._gate.grant(spawner, want, place)
                left = deadline - asyncio.get_running_loop().time()
                if granted or left <= 0:
                    return granted
                await self.wait(left)
            return {}
        finally:
            self._note(spawner, 0)

    async def release(self, spawner: str) -> list[str]:
        """A spawn is over: take back all its slots, and those that it still waits for.

        Answers who held one.
        """
        held = self._gate.close(spawner)
        await self.notify()
        return held

    async def lost(self, host: str, sessions: Collection[str]) -> None:
        """A host is gone, and with it its slots, and the parents among its ``sessions``."""
        self._gate.lost(host, sessions)
        await self.notify()

    async def seen(self, host: str, sessions: Collection[str]) -> None:
        """A host says what it has: what parents that died have there, and nobody started, goes."""
        if self._gate.has_orphans:
            self._gate.seen(host, frozenset(sessions))
            await self.notify()

    @property
    def has_orphans(self) -> bool:
        """Whether the parent of any spawn has died and not come back yet."""
        return self._gate.has_orphans

    async def notify(self) -> None:
        """Wake all who wait, to look again."""
        async with self._changed:
            self._changed.notify_all()

    async def wait(self, limit_s: float) -> None:
        """Return when something has changed, or time is up."""
        await wait_on(self._changed, limit_s)

    def _note(self, spawner: str, count: int) -> None:
        if count:
            self.waiting[spawner] = count
        else:
            self.waiting.pop(spawner, None)
        metrics.SPAWNS_WAITING.set(sum(self.waiting.values()))
