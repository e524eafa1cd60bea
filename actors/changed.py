"""Waiting for a change, with a limit."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Changed:
    """Wakes everybody who waits, to look again at data that may have changed."""

    def __init__(self) -> None:
        self._next = asyncio.Event()

    def notify(self) -> None:
        """Wakes those who wait now."""
        self._next.set()
        self._next = asyncio.Event()

    async def wait(self, limit_s: float) -> None:
        """Returns at the next change, or when ``limit_s`` seconds are over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._next.wait()

    async def until(self, look: Callable[[], T], limit_s: float) -> T:
        """Returns the result of ``look()`` once it is true, or its last one when time is up."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + limit_s
        while not (found := look()):
            left = deadline - loop.time()
            if left <= 0:
                break
            await self.wait(left)
        return found
