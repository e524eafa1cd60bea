"""Waiting for a condition, not for time."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable


async def until(condition: Callable[[], bool | Awaitable[bool]], limit_s: float = 30.0) -> None:
    """Return when ``condition()`` is true; TimeoutError after ``limit_s`` seconds."""
    async with asyncio.timeout(limit_s):
        while not await _value(condition()):
            await asyncio.sleep(0.02)


async def _value(answer: bool | Awaitable[bool]) -> bool:
    return await answer if inspect.isawaitable(answer) else answer
