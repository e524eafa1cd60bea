"""A session's money in hand: what its budget has lent it, and what it has promised away.

The session's journal says what was spent and reserved; the budget says what was lent. The lease
only carries messages between the two, as totals: repeated or reordered, they change nothing.

One message is under way at a time. It asks for all who wait, so that they need no message of their
own; only if that does not fit is each asked for by itself, in order of arrival.

With slack it also asks for more than it needs, the more the more often it has to ask, and what fits
into that is held without a message. Slack that is called back goes back at once, whatever message
is under way, and for a while the lease keeps none.

A message leaves when the journal has what it rests on: the budget must not learn of a spend, nor
lend to somebody else what was given back, that a crash could still undo.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from retinue.actors.domain.budget import CapWarning, Exceeded, LeaseGranted, LeaseRequest
from retinue.actors.domain.errors import Fenced, Unavailable
from retinue.actors.domain.session.machine import State, committed_money
from retinue.actors.telemetry import metrics

Lend = Callable[[LeaseRequest], Awaitable[LeaseGranted | Exceeded]]

FIRST_SLACK = 8
"""The first slack that is asked for, in amounts of the action that needs it; then it doubles."""

MOST_SLACK = 512
"""The most slack that is asked for, in amounts of the action that needs it."""

TIGHT_S = 1.0
"""How long a lease keeps no slack after it was called back, in seconds."""

_MOST_REPEATS = 3
"""The budget ignores a message that it has seen. So often in a row it is not a repeated one."""


async def _at_once() -> None:
    """For a state that is durable at any time."""


class BudgetLease:
    """One for each activation; ``epoch`` is the activation's."""

    def __init__(
        self,
        session_id: str,
        epoch: int,
        state: Callable[[], State],
        lend: Lend,
        slack: bool = False,
        committed: Callable[[], Awaitable[None]] = _at_once,
    ) -> None:
        """``slack`` allows it to ask for more than it needs; ``committed()`` returns when all that
        ``state()`` says now is durable."""
        self._slack = FIRST_SLACK if slack else 0
        self._tight_until = 0.0
        self._session = session_id
        self._epoch = epoch
        self._state = state
        self._lend = lend
        self._committed = committed
        self._number = 0
        self._asking = asyncio.Lock()
        self._waiting = 0  # wanted by those who wait for an answer
        self._held = 0  # granted to decisions that are not recorded yet
        self._lent = 0  # 0 also while it is not known
        self._known = 0  # what is lent if the message under way is refused
        self._told: int | None = None  # what was spent, as the budget has answered to
        self._warning: CapWarning | None = None
        self._asks_exactly = False  # a message is under way that asks for no slack

    async def hold(self, amount: int) -> CapWarning | Exceeded | None:
        """Set ``amount`` nano-USD aside, or say at which level there is no room.

        Raises Fenced if the budget has heard from a newer activation of the session.
        """
        if self._needed + amount <= self._lent and not self._asking.locked():
            self._held += amount
            metrics.BUDGET_HOLDS.add(label="lease")
            return None
        metrics.BUDGET_HOLDS.add(label="budget")
        self._waiting += amount
        try:
            async with self._asking:
                refusal = await self._cover(amount)
                if refusal is None:
                    self._held += amount
                return refusal or self._warning
        finally:
            self._waiting -= amount

    def drop(self, amount: int) -> None:
        """The decision that held ``amount`` is recorded, or will never be."""
        self._held -= amount

    async def give_back(self, amount: int) -> None:
        """Return what was held for a decision that came out as no."""
        self.drop(amount)
        await self.report()

    async def report(self) -> None:
        """Tell the budget what was spent, and keep no more than is needed."""
        async with self._asking:
            begun = self._number or self._epoch > 1 or self._state().spent
            if begun and not self._knows_all:
                await self._ask(0)

    async def settled(self) -> None:
        """Less, or more, was spent than reserved: without slack the budget is told at once."""
        if not self._slack or self._is_tight:
            await self.report()

    async def call_back(self) -> LeaseRequest | None:
        """The message that returns all slack; from now on what was returned is not used.

        None if there is nothing to return, or a message under way says so already: to overtake
        that one would have it asked again, and slack called back for it again, without end.
        """
        if not self._slack:
            return None
        self._tight_until = asyncio.get_running_loop().time() + TIGHT_S
        if not self._number or self._asks_exactly:
            return None
        self._lent = min(self._lent, self._needed)
        self._known, self._told = self._needed, None
        self._number += 1
        spent = self._state().spent
        want = LeaseRequest(self._session, self._epoch, self._number, spent, self._needed)
        try:
            await self._committed()
        except Unavailable:  # this activation is over, and has nothing to say any more
            return None
        return want

    @property
    def _knows_all(self) -> bool:
        """Whether there is nothing to tell the budget."""
        return self._told == self._state().spent and self._lent == self._needed

    @property
    def _is_tight(self) -> bool:
        return asyncio.get_running_loop().time() < self._tight_until

    @property
    def _needed(self) -> int:
        return committed_money(self._state()) + self._held

    async def _cover(self, amount: int) -> Exceeded | None:
        """Have the loan cover ``amount`` beside what is needed already."""
        if self._needed + amount <= self._lent:
            return None
        all_who_wait = self._waiting
        refusal = await self._ask(all_who_wait, self._wish(amount))
        if refusal and all_who_wait > amount:
            refusal = await self._ask(amount)
        return refusal

    def _wish(self, amount: int) -> int:
        """The slack to ask for along with ``amount``."""
        if not self._slack or self._is_tight:
            return 0
        wish = self._slack * amount
        self._slack = min(2 * self._slack, MOST_SLACK)
        return wish

    async def _ask(self, more: int, slack: int = 0) -> Exceeded | None:
        """Report what was spent and have lent what is needed and ``more``, or say where there is
        no room."""
        self._known, self._lent, self._told = self._lent, 0, None
        repeats = 0
        while repeats < _MOST_REPEATS:
            self._number += 1
            number = self._number
            spent, total = self._state().spent, self._needed + more
            want = LeaseRequest(self._session, self._epoch, number, spent, total, slack)
            self._asks_exactly = slack == 0
            try:
                await self._committed()
                answer = await self._lend(want)
            finally:
                self._asks_exactly = False
            if number != self._number:  # slack was called back meanwhile: the answer is out of date
                slack = 0
                continue
            repeats += 1
            if isinstance(answer, Exceeded):
                self._lent = self._known
                return answer
            if answer.lent >= total:
                self._lent, self._told, self._warning = answer.lent, spent, answer.warning
                return None
        raise Fenced(f"session {self._session}: a newer activation has its budget")
