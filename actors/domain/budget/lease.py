"""A session's side of its budget, without I/O: its messages to it, and the money it may promise.

The session's books have the amounts spent and reserved; the budget has the loan. A method returns
the message to send, or the result; the answer to a message goes to `LeaseMachine.answered`.

1. Money is promised only out of a loan that the budget has answered with: spent, reserved and held
   together don't exceed it then. Later only a spend above its reservation takes them past it.
2. The spend reported to the budget is all that the books have, and it never asks for less than
   spent, reserved and held. Messages carry totals: repeated or reordered, they change nothing.
3. One question is under way at a time. Until its answer is there, after it was lost, and after
   slack was recalled nothing is promised; a refusal leaves the loan as it was.
4. It asks for all waiting actions at once, so that they need no message of their own; only if that
   does not fit does it ask for each by itself, in order of arrival.
5. An answer that comes late or twice changes nothing. One that a recall has overtaken is out of
   date, and its question is asked again.
6. At rest nothing is stranded: after an answered report the loan is all spent, reserved or held.
7. *Slack* is money lent beyond that: an action that fits into it needs no message. The more often
   a question is needed, the more slack is asked for. A recall returns it at once, whatever is
   under way, and for `TIGHT_S` none is asked for.
8. A budget that ignores one message after the other has heard from a newer activation.

A message may leave once the journal has the events behind it: the budget must not learn of a spend,
nor lend returned money to somebody else, while a crash could still undo either.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias

from retinue.actors.domain.budget.commands import CapWarning, Exceeded, LeaseGranted, LeaseRequest
from retinue.actors.domain.errors import Fenced

FIRST_SLACK = 8
"""The first slack that is asked for, in amounts of the action that needs it; then it doubles."""

MOST_SLACK = 512
"""The most slack that is asked for, in amounts of the action that needs it."""

TIGHT_S = 1.0
"""Seconds for which a lease keeps no slack after a recall."""

_MOST_REPEATS = 3
"""The number of messages ignored in a row that means a newer activation, and not a repeat."""

Step: TypeAlias = LeaseRequest | Exceeded | CapWarning | None
"""A message to send; else the end: a refusal, or consent with the budget's warning, if any."""


class Books(Protocol):
    """The amounts that a session has spent and reserved, in nano-USD."""

    @property
    def spent(self) -> int: ...
    @property
    def reserved(self) -> int: ...


@dataclass(frozen=True, slots=True)
class _Question:
    """The message under way: to hold ``amount``, and to lend ``more`` for all waiting actions."""

    request: LeaseRequest
    amount: int
    more: int
    ignored: int


class LeaseMachine:
    """The lease of one activation, whose ``epoch`` it is; amounts are in nano-USD, times in s."""

    def __init__(self, session_id: str, epoch: int, slack: bool = False) -> None:
        """``slack`` allows it to ask for more than it needs."""
        self._session = session_id
        self._epoch = epoch
        self._number = 0
        self._held = 0  # promised to decisions that are not recorded yet
        self._loan: tuple[int, int] | None = None  # (lent, spent) as the budget has them, if known
        self._asked: _Question | None = None
        self._warning: CapWarning | None = None
        self._slack = FIRST_SLACK if slack else 0
        self._tight_until = 0.0

    def holds(self, books: Books, amount: int) -> bool:
        """Set ``amount`` aside if that needs no message."""
        fits = (
            self._asked is None
            and self._loan is not None
            and self._needed(books) + amount <= self._loan[0]
        )
        if fits:
            self._held += amount
        return fits

    def need(self, books: Books, amount: int, waiting: int, now: float) -> Step:
        """Set ``amount`` aside, or ask; ``waiting`` sums all waiting amounts, this one included.

        Nothing may be under way.
        """
        if self.holds(books, amount):
            return self._warning
        return self._ask(books, amount, waiting, self._wish(amount, now))

    def report(self, books: Books) -> LeaseRequest | None:
        """Report the spend, and keep no more than is needed. Nothing may be under way."""
        begun = self._number or self._epoch > 1 or books.spent
        if not begun or self._loan == (self._needed(books), books.spent):
            return None
        return self._ask(books, 0, 0)

    def answered(
        self, books: Books, request: LeaseRequest, answer: LeaseGranted | Exceeded
    ) -> Step:
        """Take in the answer to ``request``; a grant holds the amount that was asked for.

        Raises Fenced if the budget has heard from a newer activation of the session.
        """
        asked = self._asked
        if asked is None or asked.request != request:
            return None
        if request.number != self._number:
            return self._ask(books, asked.amount, asked.more, ignored=asked.ignored)
        if isinstance(answer, Exceeded):
            return self._refused(books, asked, answer)
        if answer.lent < request.lent:
            return self._ignored(books, asked)
        self._asked, self._loan, self._warning = None, (answer.lent, request.spent), answer.warning
        if asked.amount and not self.holds(books, asked.amount):  # overspent meanwhile
            return self._ask(books, asked.amount, asked.more)
        return self._warning

    def lost(self) -> None:
        """Gives up the question under way: it will have no answer."""
        self._asked = self._loan = None

    def drop(self, amount: int) -> None:
        """Releases ``amount``: the decision that held it is recorded, or never will be."""
        self._held -= amount

    def recalled(self, books: Books, now: float) -> LeaseRequest | None:
        """The message that returns all slack; it is not a question, and its answer is discarded.

        None if there is nothing to return, or a question under way returns it already: overtaking
        that one would have it asked again, and slack recalled for it again, without end.
        """
        if not self._slack:
            return None
        self._tight_until = now + TIGHT_S
        if not self._number or (self._asked and not self._asked.request.slack):
            return None
        self._loan = None
        return self._request(books)

    def is_exact(self, now: float) -> bool:
        """Returns whether it keeps no slack, so that the budget is told of every settlement."""
        return not self._slack or now < self._tight_until

    def _needed(self, books: Books) -> int:
        return books.spent + books.reserved + self._held

    def _wish(self, amount: int, now: float) -> int:
        """The slack to ask for along with ``amount``."""
        if self.is_exact(now):
            return 0
        wish = self._slack * amount
        self._slack = min(2 * self._slack, MOST_SLACK)
        return wish

    def _ask(
        self, books: Books, amount: int, more: int, slack: int = 0, ignored: int = 0
    ) -> LeaseRequest:
        request = self._request(books, more, slack)
        self._asked = _Question(request, amount, more, ignored)
        return request

    def _request(self, books: Books, more: int = 0, slack: int = 0) -> LeaseRequest:
        self._number += 1
        needed = self._needed(books) + more
        return LeaseRequest(self._session, self._epoch, self._number, books.spent, needed, slack)

    def _refused(self, books: Books, asked: _Question, refusal: Exceeded) -> Step:
        self._asked = None
        if self._loan:  # which may be less than was spent: that counts at the budget, too
            spent = asked.request.spent
            self._loan = max(self._loan[0], spent), spent
        if asked.more > asked.amount:
            return self._ask(books, asked.amount, asked.amount)
        return refusal

    def _ignored(self, books: Books, asked: _Question) -> Step:
        if asked.ignored + 1 == _MOST_REPEATS:
            self.lost()
            raise Fenced(f"session {self._session}: a newer activation has its budget")
        return self._ask(books, asked.amount, asked.more, ignored=asked.ignored + 1)
