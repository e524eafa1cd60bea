"""Calling back slack: the hosts that hold some wait for the call, so that stores call nobody."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

_ANSWER_LIMIT_S = 2.0
_GONE_AFTER_S = 25.0


class Recall:
    """The calls of one budget, by number, and which hosts have answered."""

    def __init__(self) -> None:
        self._call = 1
        self._heard: dict[str, float] = {}
        self._answered: dict[str, int] = {}
        self._changed = asyncio.Condition()
        self._background: set[asyncio.Task[None]] = set()

    @property
    def any_slack(self) -> bool:
        """Whether any host may hold slack."""
        return bool(self._heard)

    async def wait_for_call(self, host: str, seen: int, timeout_s: float) -> int:
        """The number of the newest call, as soon as it is another than ``seen``."""
        self._heard[host] = asyncio.get_running_loop().time()
        if seen == 0:
            seen = self._call
            self._answered[host] = seen
        await self._until(lambda: self._call != seen, timeout_s)
        return self._call

    def returned(self, host: str, call: int) -> None:
        """A host has returned all its slack for a call."""
        self._answered[host] = max(call, self._answered.get(host, 0))
        self._notify()

    def announce(self) -> None:
        """Call slack back without waiting for it; one call at a time."""
        if all(self._answered.get(host, 0) >= self._call for host in self._heard):
            self._call += 1
            self._notify()

    async def call_back(self) -> None:
        """Call slack back, and return when all hosts have answered or are taken for gone."""
        self._call += 1
        call = self._call
        await self._notify_now()
        await self._until(lambda: not self._missing(call), _ANSWER_LIMIT_S)

    def _missing(self, call: int) -> list[str]:
        before = asyncio.get_running_loop().time() - _GONE_AFTER_S
        for host in [host for host, heard in self._heard.items() if heard < before]:
            del self._heard[host]
        return [host for host in self._heard if self._answered.get(host, 0) < call]

    def _notify(self) -> None:
        task = asyncio.create_task(self._notify_now())
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _notify_now(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _until(self, condition: Callable[[], bool], limit_s: float) -> None:
        async with self._changed:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(limit_s):
                    await self._changed.wait_for(condition)
