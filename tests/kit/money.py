"""A budget and a session's books: the two sides between which a budget lease stands."""

from __future__ import annotations

from typing import cast

from retinue.actors.domain.budget import machine as budget
from retinue.actors.domain.budget.commands import (
    Exceeded,
    Lease,
    LeaseGranted,
    LeaseRequest,
    OpenFamily,
)
from retinue.actors.domain.budget.state import Cap
from retinue.actors.domain.budget.totals import level_of
from retinue.actors.domain.errors import RetinueError, StoreUnavailable
from retinue.actors.domain.session import machine as session
from retinue.actors.domain.session.state import Reservation
from retinue.actors.domain.values.money import NANO
from retinue.actors.durable.journal import Key

ME = "me"


class Bank:
    """A budget with one family, ``me``, and the messages that it was sent."""

    def __init__(self, max: int | None) -> None:
        self.state = budget.initial()
        self.wants: list[LeaseRequest] = []
        self.most_held = 0
        self.loses_answers = False
        self.do(OpenFamily(ME, Cap(max), 10 * NANO, 100))

    def do(self, command: budget.Command) -> budget.Reply:
        events, reply = budget.decide(self.state, command, 0)
        for event in events:
            budget.evolve(self.state, event)
        self.most_held = max(self.most_held, self.held)
        return reply

    async def lend(self, want: LeaseRequest) -> LeaseGranted | Exceeded:
        answer = self.take(want)
        if self.loses_answers:
            raise StoreUnavailable("the answer was lost")
        return answer

    async def lend_many(self, wants: list[LeaseRequest]) -> list[LeaseGranted | Exceeded]:
        return [self.take(want) for want in wants]

    def take(self, want: LeaseRequest) -> LeaseGranted | Exceeded:
        self.wants.append(want)
        return cast("list[LeaseGranted | Exceeded]", self.do(Lease([want])))[0]

    @property
    def held(self) -> int:
        return level_of(self.state, ME).held

    @property
    def spent(self) -> int:
        return level_of(self.state, ME).spent


class Wallet:
    """A session as its lease sees it: what it has spent and reserved, all of it durable."""

    def __init__(self, epoch: int = 1) -> None:
        self.key = Key("workspace", "session", ME)
        self.epoch = epoch
        self.state = session.initial()
        self.count = 0
        self.failed: RetinueError | None = None

    def reserve(self, amount: int) -> str:
        self.count += 1
        self.state.reservations[f"{self.count}"] = Reservation("run", amount)
        self.state.reserved += amount
        return f"{self.count}"

    def settle(self, id: str, actual: int) -> None:
        self.state.reserved -= self.state.reservations.pop(id).amount
        self.state.spent += actual

    async def committed(self) -> None:
        """All is durable at any time."""

    async def confirmed(self) -> None:
        """Nobody takes it over."""

    def fail(self, error: RetinueError) -> None:
        self.failed = error
