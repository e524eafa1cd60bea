"""Permissions: actions that need a token, an allowance or a person.

The client gives the first two, wave by wave (`waves`), takes one back, and decides.
"""

from __future__ import annotations

from retinue import McpToolCall
from tests.chaos.workloads.life import CENT, GUARDED, Life, Workload


async def permitted(life: Life) -> None:
    """An action that needs a token, an allowance or a person; many want the same one."""
    op, wave = life.op(), life.errand.wave
    tool = life.rng.choice(
        (f"limited-{wave}", f"single-{wave}-0", f"single-{wave}-1", f"shared-{wave}", op)
    )
    cost = life.rng.choice((0, 0, 3)) * CENT
    decision = await life.authorize(op, McpToolCall(GUARDED, tool), cost)
    if decision.allowed and decision.amount:
        await life.settle(op, decision, 0.5)


WORKLOADS = (Workload("permissions", permitted, weight=4),)
