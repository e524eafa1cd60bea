"""The stores of the workspaces: started when somebody needs them, ended when nobody does."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Protocol

from retinue.cluster.names import workspace_of

_LIMIT_S = 5.0


class StoreLauncher(Protocol):
    """Starts and ends stores, and tells for how many seconds nobody has called each."""

    def open_stores(self, workspace_id: str) -> None: ...
    def kill(self, name: str) -> None: ...
    async def idle_stores(self) -> dict[str, float]: ...


class Stores:
    """The workspaces whose stores run, as far as is known here."""

    def __init__(self, launcher: StoreLauncher, idle_s: float) -> None:
        """Stores end that nobody has called for ``idle_s`` seconds."""
        self.workspaces: dict[str, None] = {}
        self._launcher = launcher
        self._idle_s = idle_s

    def open(self, workspace_id: str) -> None:
        """Starts a workspace's stores unless they run."""
        if workspace_id not in self.workspaces:
            self._launcher.open_stores(workspace_id)
            self.workspaces[workspace_id] = None

    def reopen(self, workspace_id: str) -> None:
        """Starts a workspace's stores, which somebody did not find."""
        self.workspaces.pop(workspace_id, None)
        self.open(workspace_id)

    async def end_idle(self) -> None:
        """Ends stores that nobody has called for long: whoever needs one starts it again."""
        with contextlib.suppress(Exception):  # Ray's head is away, or a store hangs: next time
            async with asyncio.timeout(_LIMIT_S):
                for name, seconds in (await self._launcher.idle_stores()).items():
                    if seconds > self._idle_s:
                        self._launcher.kill(name)
                        self.workspaces.pop(workspace_of(name) or "", None)
