"""Allowances that a host may pass actions through by itself, for a short time.

Only allowances with unlimited uses are kept. The answer is forgotten `LEASE_S` after the question
was sent, by a clock that also runs while the process is paused; and at once when the store calls
its answers back, which it does before a revocation returns.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from retinue.actors.domain.permissions.actions import Action
from retinue.actors.domain.permissions.allowances.allowance import Allowance, valid
from retinue.actors.domain.permissions.patterns import matches

LEASE_S = 3.0
"""Seconds for which a positive answer may be used again."""

_MOST = 1000


@dataclass(frozen=True, slots=True)
class _Lease:
    allowance: Allowance
    until: float


class PermissionLeases:
    """The answers that one host keeps for one workspace."""

    def __init__(self) -> None:
        self.ready = False
        """True if the store knows that this host keeps answers, and will call them back."""
        self._leases: dict[str, _Lease] = {}
        self._generation = 0

    def question(self) -> tuple[int, float]:
        """A question's number and time: taken before the store is asked, passed to `keep` later."""
        return self._generation, time.monotonic()

    def keep(self, question: tuple[int, float], allowance: Allowance) -> None:
        """Keep an answer, unless answers were called back since the question was asked."""
        generation, asked = question
        if self.ready and generation == self._generation and allowance.max_uses is None:
            if len(self._leases) >= _MOST:
                self._leases.clear()
            self._leases[allowance.id] = _Lease(allowance, asked + LEASE_S)

    def find(self, action: Action, family_id: str, root: str | None, now: int) -> Allowance | None:
        """A kept allowance that covers ``action``; ``now`` in microseconds for its own expiry."""
        moment = time.monotonic()
        for id, lease in list(self._leases.items()):
            one = lease.allowance
            if lease.until <= moment:
                del self._leases[id]
            elif (
                valid(one, now)
                and one.workspace_root in (None, root)
                and (not one.session_only or one.family_id == family_id)
                and matches(one.pattern, action, root)
            ):
                return one
        return None

    def drop(self) -> None:
        """Forget all answers, those on their way included."""
        self._generation += 1
        self._leases.clear()
