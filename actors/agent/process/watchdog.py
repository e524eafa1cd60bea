"""Guards the sessions that share an actor against one agent that blocks or ends it.

An agent that blocks the loop can't be cancelled, so the process ends: its sessions move on at
once, and the one that keeps doing this gets a process of its own (`session.isolation_of`).
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from typing import NoReturn

BLOCKED_S = 10.0
"""Seconds that an agent may block the event loop of a shared actor."""

_BEAT_S = 0.5
_LOOKS = 3  # a process that was paused as a whole gets time to catch up before it is judged
_EXIT_CODE = 70

_exit = os._exit


class Watchdog:
    """Watches the running event loop from a thread, once there is something to watch."""

    def __init__(self, blocked_s: float = BLOCKED_S) -> None:
        self._blocked_s = blocked_s
        self._beat = 0.0
        self._beating: asyncio.Task[None] | None = None

    def watch(self) -> None:
        """Start watching; calling it again changes nothing."""
        if self._beating is not None:
            return
        self._beat = time.monotonic()
        self._beating = asyncio.create_task(self._keep_beating())
        _refuse_exit()
        threading.Thread(target=self._look, daemon=True, name="retinue-watchdog").start()

    async def _keep_beating(self) -> None:
        while True:
            self._beat = time.monotonic()
            await asyncio.sleep(_BEAT_S)

    def _look(self) -> None:
        seen, looks = self._beat, 0
        while True:
            time.sleep(self._blocked_s / _LOOKS)
            looks = looks + 1 if self._beat == seen else 0
            seen = self._beat
            if looks >= _LOOKS:
                exit_process("an agent blocks the loop of a shared actor")


def exit_process(reason: str) -> NoReturn:
    """End this process at once; its sessions are resumed elsewhere."""
    print(f"retinue: {reason}: this process ends", file=sys.stderr, flush=True)
    _exit(_EXIT_CODE)


def _refuse_exit() -> None:
    """Stops an agent from ending a shared process; a process forked from it may end itself."""
    here = os.getpid()

    def refused(status: int) -> NoReturn:
        if os.getpid() != here:
            _exit(status)
        raise SystemExit(status)

    os._exit = refused
