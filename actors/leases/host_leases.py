"""The money and permissions that a host borrows from one workspace's stores, until called back.

The stores call nobody: a host that has borrowed waits for their call, and answers it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from retinue.actors.domain.budget.commands import Exceeded, LeaseGranted, LeaseRequest
from retinue.actors.domain.errors import RetinueError
from retinue.actors.durable.brakes import Brakes
from retinue.actors.leases.batcher import Batcher
from retinue.actors.leases.budget_lease import BudgetLease
from retinue.actors.leases.permission_leases import PermissionLeases
from retinue.actors.ports import Stores

_POLL_S = 20.0
_OUTAGE_PAUSE_S = 1.0


class HostLeases:
    """A host's money for its sessions' leases, requested together, and the permissions it keeps."""

    def __init__(self, host: str, stores: Stores, brakes: Brakes, workspace_id: str) -> None:
        self.money: Batcher[LeaseRequest, LeaseGranted | Exceeded] = Batcher(stores.budget.lease)
        self.permissions: PermissionLeases = PermissionLeases()
        self._host = host
        self._stores = stores
        self._brakes = brakes
        self._workspace_id = workspace_id
        self._waiting: list[asyncio.Task[None]] = []

    def begin(self, budget_leases: Callable[[], Iterable[BudgetLease]]) -> None:
        """Starts giving slack and permissions back when called."""
        loop = asyncio.get_running_loop()
        self._waiting = [
            loop.create_task(self._drop_permissions()),
            loop.create_task(self._return_slack(budget_leases)),
        ]

    def end(self) -> None:
        """Ends the leases: nothing is borrowed any more, and nothing will be."""
        for waiting in self._waiting:
            waiting.cancel()
        self.permissions.ready = False
        self.permissions.drop()

    async def _drop_permissions(self) -> None:
        """Forever: forgets kept permissions whenever the store calls them back."""
        store, seen = self._stores.permissions, 0
        while True:
            try:
                call = await store.await_recall(self._host, seen, _POLL_S)
                if call != seen:
                    self.permissions.drop()
                    await store.leases_dropped(self._host, call)
                    self.permissions.ready, seen = True, call
            except RetinueError:
                self.permissions.ready, seen = False, 0
                await asyncio.sleep(_OUTAGE_PAUSE_S)

    async def _return_slack(self, budget_leases: Callable[[], Iterable[BudgetLease]]) -> None:
        """Forever: gives slack back whenever the budget calls for it.

        It also calls when the workspace is put on hold or released.
        """
        store, seen = self._stores.budget, 0
        while True:
            try:
                call = await store.await_recall(self._host, seen, _POLL_S)
                if call != seen:
                    await self._brakes.refresh(self._workspace_id)
                    wants = await asyncio.gather(
                        *(budget_lease.call_back() for budget_lease in budget_leases())
                    )
                    given = [want for want in wants if want]
                    await store.return_slack(self._host, call, given)
                    seen = call
            except RetinueError:
                await asyncio.sleep(_OUTAGE_PAUSE_S)
