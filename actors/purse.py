"""A session's money in hand: what its budget has lent it, and what it has promised away.

The session's journal says what was spent and reserved; the budget says what was lent. The purse
only carries messages between the two, as totals: repeated or reordered, they change nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from actors.domain.budget import Exceeded, Granted, Want, Warning
from actors.domain.errors import Fenced
from actors.domain.session import State, committed_money

_MOST_REPEATS = 3
"""The budget ignores a message that it has seen. So often in a row it is not a repeated one."""

Lend = Callable[[Want], Awaitable[Granted | Exceeded]]


class Purse:
    """One for each activation; ``epoch`` is the activation's."""

    def __init__(self, session_id: str, epoch: int, state: Callable[[], State], lend: Lend) -> None:
        self._session = session_id
        self._epoch = epoch
        self._state = state
        self._lend = lend
        self._number = 0
        self._held = 0  # granted to decisions that are not recorded yet
        self.lent = 0

    async def hold(self, amount: int) -> Warning | Exceeded | None:
        """Set ``amount`` nano-USD aside, or say at which level there is no room."""
        self._held += amount
        try:
            answer = await self._loan()
        except BaseException:
            self.drop(amount)
            raise
        if isinstance(answer, Exceeded):
            self.drop(amount)
            return answer
        return answer.warning

    def drop(self, amount: int) -> None:
        """The decision that held ``amount`` is recorded, or will never be."""
        self._held -= amount

    async def give_back(self, amount: int) -> None:
        """Return what was held for a decision that came out as no."""
        self.drop(amount)
        await self.report()

    async def report(self) -> None:
        """Tell the budget what was spent, and keep no more than is needed."""
        if self._number or self._state().spent:
            await self._want(self._needed)

    async def _loan(self) -> Granted | Exceeded:
        """A loan for all that is needed now, or the refusal of it.

        Answers to several messages that are under way at once may come in any order, and each
        message asks for what the others have asked for too. So an answer is final only if it
        covers what its message asked for, or if no other hold was given up in the meantime.
        """
        short = 0
        while True:
            total, number = self._needed, self._number + 1
            answer = await self._want(total)
            if isinstance(answer, Exceeded):
                if self._needed >= total:
                    return answer
            elif answer.lent >= total:
                return answer
            elif number == self._number:
                short += 1
                if short == _MOST_REPEATS:
                    raise Fenced(f"session {self._session}: a newer activation has its budget")

    @property
    def _needed(self) -> int:
        return committed_money(self._state()) + self._held

    async def _want(self, total: int) -> Granted | Exceeded:
        self._number += 1
        want = Want(self._session, self._epoch, self._number, self._state().spent, total)
        answer = await self._lend(want)
        if isinstance(answer, Granted):
            self.lent = answer.lent
        return answer
