"""The store of a workspace's money."""

from __future__ import annotations

import math
from typing import cast

from retinue.actors.domain.budget import machine as budget
from retinue.actors.domain.budget.commands import (
    Admit,
    Admitted,
    Exceeded,
    Lease,
    LeaseGranted,
    LeaseRequest,
    OpenFamily,
    OpenWorkspace,
    Refused,
    SetCap,
    SetHold,
    Standing,
)
from retinue.actors.domain.budget.lending import those_behind
from retinue.actors.domain.budget.state import WORKSPACE, Hold
from retinue.actors.domain.budget.totals import Level, level_of
from retinue.actors.domain.errors import CallError
from retinue.actors.domain.values.money import NANO
from retinue.actors.durable.machines import BUDGET
from retinue.actors.durable.runtime import Runtime
from retinue.actors.durable.singleton import SingletonEntity
from retinue.actors.leases.recall import Recall
from retinue.actors.telemetry import metrics

_SLACK_LIMIT_S = 2.0
"""Seconds that the budget waits for a host to return its slack."""


class BudgetActor:
    """``budget/<workspace>``: implements `retinue.actors.ports.BudgetPort`."""

    def __init__(self, runtime: Runtime, workspace_id: str) -> None:
        self._workspace_id = workspace_id
        self._entity = SingletonEntity(BUDGET, workspace_id, "budget", runtime)
        self._clock = runtime.clock
        self._recall = Recall(_SLACK_LIMIT_S, once=True)

    async def open_family(self, command: OpenFamily) -> None:
        await self._entity.execute(command)

    async def admit(self, command: Admit) -> Admitted | Refused:
        return cast("Admitted | Refused", await self._entity.execute(command))

    async def lease(self, wants: list[LeaseRequest]) -> list[LeaseGranted | Exceeded]:
        """Decides each wish. Before one is refused, slack held by others is called back."""
        command = Lease(wants)
        if self._recall.any_lent and await self._would_refuse(command):
            await self._recall.call_back()
        behind = those_behind((await self._entity.entity()).state, wants)
        replies = _granted(await self._entity.execute(command))
        await self._measure()
        if behind:
            return [
                LeaseGranted(0, behind=True) if want.session in behind else reply
                for want, reply in zip(wants, replies, strict=True)
            ]
        if any(isinstance(one, LeaseGranted) and one.warning for one in replies):
            self._recall.announce()  # near a threshold everybody asks, so that all see it
        return replies

    async def _would_refuse(self, command: Lease) -> bool:
        entity = await self._entity.entity()
        try:
            _, would_be = budget.decide(entity.state, command, self._clock())
        except CallError:
            return False  # `lease` is about to meet the same error
        return any(isinstance(one, Exceeded) for one in _granted(would_be))

    async def _measure(self) -> None:
        level = level_of((await self._entity.entity()).state, WORKSPACE)
        metrics.SPENT_USD.set(level.spent / NANO, self._workspace_id)
        metrics.CAP_USD.set(math.inf if level.max is None else level.max / NANO, self._workspace_id)

    async def await_recall(self, host: str, seen: int, timeout_s: float) -> int:
        """Answers when slack is called back. A host that has slack on loan always waits here."""
        return await self._recall.wait_for_call(host, seen, timeout_s)

    async def return_slack(self, host: str, call: int, wants: list[LeaseRequest]) -> None:
        """Records a host's answer to call number ``call``: the reports of all its leases."""
        await self._entity.execute(Lease(wants))
        self._recall.returned(host, call)

    async def set_cap(self, command: SetCap) -> None:
        await self._entity.execute(command)

    async def open_workspace(self, command: OpenWorkspace) -> Standing:
        """The cap in force: the one given here, if none was ever named."""
        return cast(Standing, await self._entity.execute(command))

    async def set_hold(self, command: SetHold) -> Hold | None:
        """Puts the workspace on hold or releases it. From now on every commit there is told.

        Hosts are called as well, so that those with few commits learn of it, too.
        """
        hold = cast("Hold | None", await self._entity.execute(command))
        self._recall.announce()
        return hold

    async def held(self) -> Hold | None:
        """The hold on the workspace, or None."""
        entity = await self._entity.entity()
        hold = entity.state.brake.hold
        await entity.confirmed()
        return hold

    async def children(self, family_id: str) -> int:
        """The number of sub-agents that a family has had so far."""
        entity = await self._entity.entity()
        family = entity.state.families.get(family_id)
        await entity.confirmed()
        return family.children if family else 0

    async def levels(self, names: list[str]) -> list[Level]:
        entity = await self._entity.entity()
        levels = [level_of(entity.state, name) for name in names]
        await entity.confirmed()
        return levels


def _granted(replies: budget.Reply) -> list[LeaseGranted | Exceeded]:
    return cast("list[LeaseGranted | Exceeded]", replies)
