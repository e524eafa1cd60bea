"""A life of an agent: what it has at hand, whatever it does, and what a workload is.

What the system tells a life is written down as soon as it is told; the checks find out whether two
lives were told different things, and whether anything that was told got lost.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from msgspec import Struct

from retinue import McpToolCall, Turn
from retinue.actors.domain.permissions.decision import Decision
from retinue.actors.domain.values.money import to_usd
from tests.chaos.ledger import Ledger, Line

CENT = 10_000_000
"""In nano-USD."""

GUARDED = "guarded"
"""The MCP server whose tools need an approval."""

HAS_PROCESS = sys.argv[0].endswith("process/worker.py")
"""Whether this process is an agent's own; what it starts would be its neighbours', too, else."""

_ASK_LIMIT_S = 2.0


@dataclass(frozen=True)
class Workload:
    """A kind of work: ``start`` does it once, ``weight`` times as often as one of weight 1.

    What clients do for it is in `tests.chaos.client`, and what must hold then in
    `tests.chaos.checks`.
    """

    name: str
    start: Callable[[Life], Awaitable[None]]
    weight: int
    in_branches: bool = True


class Errand(Struct, frozen=True):
    """An agent's prompt. ``label`` names it for the whole run of the harness.

    ``work`` names the workloads that it is made of; none means all.
    """

    ledger: str
    seed: str
    label: str
    wave: int
    levels: int
    slow: float = 1.0
    work: tuple[str, ...] = ()


class Life:
    """One life of one run of an agent, or a branch of it."""

    def __init__(
        self,
        turn: Turn,
        errand: Errand,
        ledger: Ledger,
        name: str,
        workloads: Sequence[Workload],
        branch: str = "",
    ) -> None:
        self.turn = turn
        self.errand = errand
        self.ledger = ledger
        self.rng = random.Random(f"{errand.seed}/{errand.label}/{branch}")
        self.is_branch = bool(branch)
        self._name = name
        self._workloads = workloads
        self._branch = branch
        self._count = 0

    def branch(self, name: str) -> Life:
        """A part of it that goes on beside others."""
        return Life(self.turn, self.errand, self.ledger, self._name, self._workloads, name)

    async def step(self) -> None:
        """Do a piece of any work."""
        open = [one for one in self._workloads if one.in_branches or not self.is_branch]
        for one in self.rng.choices(open, [one.weight for one in open]) if open else ():
            await one.start(self)

    def op(self) -> str:
        """The name of what is done next."""
        self._count += 1
        return f"{self.errand.label}#{self._branch}{self._count}"

    def line(
        self,
        kind: str,
        what: str = "",
        op: str = "",
        *,
        id: str = "",
        amount: int = 0,
        value: str = "",
        proof: str = "",
        many: list[str] | None = None,
    ) -> Line:
        """A line about this life."""
        turn = self.turn
        return Line(
            kind,
            what,
            op,
            life=self._name,
            session=turn.session_id,
            run=turn.run_id,
            family=turn.family_id,
            parent=turn.parent_id or "",
            id=id,
            amount=amount,
            value=value,
            proof=proof,
            many=many or [],
        )

    async def authorize(self, op: str, action: McpToolCall, cost: int) -> Decision:
        """Ask for an action that costs ``cost`` nano-USD; what the answer was."""
        self.ledger.note(self.line("tried", "authorize", op, amount=cost, value=action.tool))
        decision = await self.turn.authorize(action, cost_usd=to_usd(cost), timeout=_ASK_LIMIT_S)
        self.ledger.note(
            self.line(
                "told",
                "authorize",
                op,
                id=decision.operation,
                amount=decision.amount,
                value=decision.kind,
                proof=decision.proof,
            )
        )
        return decision

    async def settle(self, op: str, decision: Decision, way: float) -> None:
        """Pay all, half or nothing of it, leave it to the end of the run, or pay too much."""
        reserved = decision.amount
        if way < 0.1:
            return
        actual, how = reserved, ""
        if way < 0.3:
            actual = reserved // 2
        elif way < 0.4:
            actual = 0
        elif way > 0.97:
            actual, how = reserved + CENT, "over"
        id = decision.operation
        self.ledger.note(self.line("tried", "settle", op, id=id, amount=actual, value=how))
        await self.turn.settle(decision, to_usd(actual))
        self.ledger.note(self.line("told", "settle", op, id=id, amount=actual))
