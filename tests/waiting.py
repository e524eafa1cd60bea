"""Waiting for a condition, not for time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable


async def until(condition: Callable[[], Awaitable[bool]], limit_s: float = 30.0) -> None:
    """Return when ``condition()`` is true; TimeoutError after ``limit_s`` seconds."""
    async with asyncio.timeout(limit_s):
        while not await condition():
            await asyncio.sleep(0.02)
