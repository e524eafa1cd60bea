"""Background tasks of an object."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine

from retinue.actors.domain.errors import Unavailable


class Tasks:
    """Keeps tasks until they end. The loop logs the error of one that nobody waits for."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Starts ``work`` beside whatever else runs."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def repeat(self, work: Callable[[], Awaitable[None]], every_s: float) -> None:
        """Does ``work`` after each pause of ``every_s`` seconds, even if it raised Unavailable."""
        self.start(_repeat(work, every_s))

    async def cancel(self) -> None:
        """Cancels all tasks, and returns when they have ended."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


async def _repeat(work: Callable[[], Awaitable[None]], every_s: float) -> None:
    while True:
        await asyncio.sleep(every_s)
        with contextlib.suppress(Unavailable):
            await work()
