"""Results of sub-agents on their way to the parent, kept until it has them."""

from __future__ import annotations

import asyncio
import contextlib

from retinue.actors.domain.errors import Fenced
from retinue.actors.domain.session.result import Result


class Outbox:
    """The results of one parent's sub-agents on this host, for its newest activation."""

    def __init__(self) -> None:
        self._epoch = 0
        self._results: dict[str, Result] = {}
        self._arrived = asyncio.Event()
        self._waiting = 0

    @property
    def empty(self) -> bool:
        return not self._results

    @property
    def idle(self) -> bool:
        """True if it is empty and nobody waits for a result."""
        return self.empty and not self._waiting

    def put(self, result: Result) -> None:
        """Add a result; the same one again changes nothing."""
        self._results[result.session_id] = result
        self._arrived.set()

    async def collect(self, epoch: int, seen: list[str], timeout_s: float) -> list[Result]:
        """Drops the results ``seen``; returns the rest once there are any, or none when time is up.

        Raises Fenced if a newer activation of the parent collects: two would compete for results.
        """
        if epoch > self._epoch:
            self._epoch = epoch
            self._arrived.set()
        self._require_newest(epoch)
        for session_id in seen:
            self._results.pop(session_id, None)
        if not self._results and timeout_s > 0:
            self._arrived.clear()
            self._waiting += 1
            try:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(timeout_s):
                        await self._arrived.wait()
            finally:
                self._waiting -= 1
        self._require_newest(epoch)
        return list(self._results.values())

    def _require_newest(self, epoch: int) -> None:
        if epoch < self._epoch:
            raise Fenced(f"activation {epoch} of the parent: activation {self._epoch} collects")
