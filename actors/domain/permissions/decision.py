"""The answer to an authorisation. A "no" is a value: only ``turn.authorized`` raises on it."""

from __future__ import annotations

from decimal import Decimal
from typing import Literal, TypeAlias

from retinue.actors.domain.budget.commands import CapWarning
from retinue.actors.domain.errors import RetinueError
from retinue.actors.domain.values.money import to_usd
from retinue.actors.domain.values.record import Record

Kind: TypeAlias = Literal["allowed", "denied", "exceeded", "deferred"]


class Decision(Record, frozen=True):
    """An answer: allowed or not, and on what ground.

    ``proof`` is ``policy``, ``capability:ID``, ``allowance:ID``, ``escape`` or ``approval:ID``;
    ``request_id`` names the approval request that a deferred action waits for.
    """

    kind: Kind
    proof: str = ""
    reason: str = ""
    request_id: str | None = None
    amount: int = 0
    warning: CapWarning | None = None
    operation: str = ""

    @property
    def allowed(self) -> bool:
        """True if the action may be taken."""
        return self.kind == "allowed"

    @property
    def reserved_usd(self) -> Decimal:
        """The amount that the decision has reserved, in USD."""
        return to_usd(self.amount)


class NotAuthorized(RetinueError):
    """The action was denied, deferred or over budget; ``decision`` has the answer and reason."""

    def __init__(self, message: str, decision: Decision | None = None) -> None:
        """Carries the ``decision``; ``message`` says it in one line."""
        super().__init__(message)
        self.decision: Decision = decision or Decision("denied", reason=message)

    def __reduce__(self) -> tuple[object, ...]:
        return NotAuthorized, (self.message, self.decision)
