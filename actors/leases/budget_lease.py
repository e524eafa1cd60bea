"""A session's money in hand: sends the messages of its `LeaseMachine`, and wakes those who wait."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from retinue.actors.domain.budget.commands import CapWarning, Exceeded, LeaseGranted, LeaseRequest
from retinue.actors.domain.budget.lease import Books, LeaseMachine, Step
from retinue.actors.domain.errors import RetinueError, RolledBack, Unavailable
from retinue.actors.durable.journal import Key
from retinue.actors.telemetry import metrics

Lend = Callable[[LeaseRequest], Awaitable[LeaseGranted | Exceeded]]


class Journaled(Protocol):
    """A live session as its lease needs it: `retinue.actors.durable.entity.Entity` is one."""

    key: Key
    epoch: int

    @property
    def state(self) -> Books: ...
    async def committed(self) -> None: ...
    async def confirmed(self) -> None: ...
    def fail(self, error: RetinueError) -> None: ...


class BudgetLease:
    """The lease of one activation of a session."""

    def __init__(self, session: Journaled, lend: Lend, slack: bool = False) -> None:
        """``slack`` allows the lease to ask for more than it needs."""
        self._session = session
        self._lend = lend
        self._machine = LeaseMachine(session.key.id, session.epoch, slack)
        self._asking = asyncio.Lock()
        self._waiting = 0  # wanted by those who wait for an answer

    async def hold(self, amount: int) -> CapWarning | Exceeded | None:
        """Sets ``amount`` nano-USD aside, or returns the level at which there is no room.

        Raises Fenced if the budget has heard from a newer activation of the session, and
        RolledBack if it knows more of the session than its journal does.
        """
        if self._machine.holds(self._session.state, amount):
            metrics.BUDGET_HOLDS.add(label="lease")
            return None
        metrics.BUDGET_HOLDS.add(label="budget")
        self._waiting += amount
        try:
            async with self._asking:
                state, now = self._session.state, _now()
                return await self._end_of(self._machine.need(state, amount, self._waiting, now))
        finally:
            self._waiting -= amount

    def drop(self, amount: int) -> None:
        """Releases ``amount``: the decision that held it is recorded, or never will be."""
        self._machine.drop(amount)

    async def give_back(self, amount: int) -> None:
        """Gives back the amount held for a decision that was a refusal."""
        self.drop(amount)
        await self.report()

    async def report(self) -> None:
        """Reports the spend to the budget, and keeps no more than is needed; raises as `hold`."""
        async with self._asking:
            await self._end_of(self._machine.report(self._session.state))

    async def settled(self) -> None:
        """Called when spend and reservation differ: without slack the budget is told at once."""
        if self._machine.is_exact(_now()):
            await self.report()

    async def call_back(self) -> LeaseRequest | None:
        """The message that returns all slack, if there is any; None once the activation is over."""
        request = self._machine.recalled(self._session.state, _now())
        try:
            if request:
                await self._session.committed()
        except Unavailable:
            return None
        return request

    async def _end_of(self, step: Step) -> CapWarning | Exceeded | None:
        while isinstance(step, LeaseRequest):
            try:
                answer = await self._sent(step)
            except BaseException:
                self._machine.lost()
                raise
            step = self._machine.answered(self._session.state, step, answer)
        return step

    async def _sent(self, request: LeaseRequest) -> LeaseGranted | Exceeded:
        await self._session.committed()
        answer = await self._lend(request)
        if isinstance(answer, LeaseGranted) and answer.behind:
            await self._session.confirmed()  # Fenced, if that is because of a newer activation
            error = RolledBack(
                f"{self._session.key}: the budget of its workspace has heard of a later "
                "activation, or of more spend, than its journal holds: Redis has lost rows, or an "
                "older copy of them was brought back"
            )
            self._session.fail(error)
            raise error
        return answer


def _now() -> float:
    return asyncio.get_running_loop().time()
