"""What happens in families that somebody watches, as it happens. Nothing here is durable."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque

from retinue.actors.views import FeedEvent

_LENGTH = 20_000
_COMES_BACK_S = 30.0  # so long after its last question a watcher may come back


class Feed:
    """The newest events, and who wants to hear of them."""

    def __init__(self) -> None:
        self._events: deque[tuple[int, FeedEvent]] = deque(maxlen=_LENGTH)
        self._end = 0
        self._watched: dict[str | None, float] = {}
        self._grown = asyncio.Condition()

    def watched(self, families: list[str]) -> list[str]:
        """Those of ``families`` that somebody watches."""
        now = asyncio.get_running_loop().time()
        self._watched = {one: until for one, until in self._watched.items() if until > now}
        return families if None in self._watched else [f for f in families if f in self._watched]

    async def add(self, events: list[FeedEvent]) -> None:
        """Add events, in order."""
        for event in events:
            self._end += 1
            self._events.append((self._end, event))
        async with self._grown:
            self._grown.notify_all()

    async def after(
        self, family_id: str | None, position: int | None, timeout_s: float
    ) -> tuple[int, list[FeedEvent]]:
        """The events of a family (None: all) after a position (None: from now), as soon as there
        are any, and the position where they end."""
        position = self._end if position is None else position
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        self._watched[family_id] = deadline + _COMES_BACK_S
        while True:
            end = self._end
            found = [
                event
                for at, event in self._events
                if at > position and family_id in (None, event.family_id)
            ]
            left = deadline - loop.time()
            if found or left <= 0:
                return end, found
            await wait_on(self._grown, left)


async def wait_on(condition: asyncio.Condition, limit_s: float) -> None:
    """Return when the condition is notified, or time is up."""
    async with condition:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await condition.wait()
