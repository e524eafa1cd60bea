"""The workspaces' stores: started when needed, ended when not."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Protocol

from retinue.cluster.names import workspace_of

_LIMIT_S = 5.0


class StoreLauncher(Protocol):
    """Starts and ends stores, and returns the seconds since each was last called."""

    def open_stores(self, workspace_id: str) -> None: ...
    def kill(self, name: str) -> None: ...
    async def idle_stores(self) -> dict[str, float]: ...


class Stores:
    """The workspaces known here to have running stores."""

    def __init__(self, launcher: StoreLauncher, idle_s: float) -> None:
        """``idle_s``: the seconds without a call after which stores end."""
        self.workspaces: dict[str, None] = {}
        self._launcher = launcher
        self._idle_s = idle_s

    def open(self, workspace_id: str) -> None:
        """Starts a workspace's stores unless they run."""
        if workspace_id not in self.workspaces:
            self._launcher.open_stores(workspace_id)
            self.workspaces[workspace_id] = None

    def reopen(self, workspace_id: str) -> None:
        """Starts a workspace's stores again after a caller did not find them."""
        self.workspaces.pop(workspace_id, None)
        self.open(workspace_id)

    async def end_idle(self) -> None:
        """Ends stores without calls for long; the next caller starts them again."""
        with contextlib.suppress(Exception):  # Ray's head is away, or a store hangs: next time
            async with asyncio.timeout(_LIMIT_S):
                for name, seconds in (await self._launcher.idle_stores()).items():
                    if seconds > self._idle_s:
                        self._launcher.kill(name)
                        self.workspaces.pop(workspace_of(name) or "", None)
