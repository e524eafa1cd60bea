"""The live events of watched families. Nothing here is durable."""

from __future__ import annotations

import asyncio
from collections import deque

from retinue.actors.changed import Changed
from retinue.actors.views import FeedEvent

_LENGTH = 20_000
_COMES_BACK_S = 30.0  # so long after its last question a watcher may come back


class Feed:
    """The newest events, and their watchers."""

    def __init__(self) -> None:
        self._events: deque[tuple[int, FeedEvent]] = deque(maxlen=_LENGTH)
        self._end = 0
        self._watched: dict[str | None, float] = {}
        self._grown = Changed()

    def watched(self, families: list[str]) -> list[str]:
        """Those of ``families`` that somebody watches."""
        now = asyncio.get_running_loop().time()
        self._watched = {one: until for one, until in self._watched.items() if until > now}
        return families if None in self._watched else [f for f in families if f in self._watched]

    def add(self, events: list[FeedEvent]) -> None:
        """Add events, in order."""
        for event in events:
            self._end += 1
            self._events.append((self._end, event))
        self._grown.notify()

    async def after(
        self, family_id: str | None, position: int | None, timeout_s: float
    ) -> tuple[int, list[FeedEvent]]:
        """The events of a family after a position, once there are any, and their end position.

        Without a family: those of all; without a position: from now on.
        """
        position = self._end if position is None else position
        self._watched[family_id] = asyncio.get_running_loop().time() + timeout_s + _COMES_BACK_S

        def look() -> list[FeedEvent]:
            return [
                event
                for at, event in self._events
                if at > position and family_id in (None, event.family_id)
            ]

        found = await self._grown.until(look, timeout_s)
        return self._end, found
