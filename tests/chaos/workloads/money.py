"""Money: actions that cost something, paid for in one way or another."""

from __future__ import annotations

import asyncio

from retinue import McpToolCall
from tests.chaos.workloads.life import CENT, Life, Workload


async def spend(life: Life) -> None:
    """An action that costs something, paid for in one way or another."""
    op = life.op()
    cost, way = life.rng.randint(1, 12) * CENT, life.rng.random()
    pause = life.rng.uniform(0.0, 0.3)
    decision = await life.authorize(op, McpToolCall("tools", op), cost)
    if not decision.allowed:
        return
    await asyncio.sleep(pause)
    await life.settle(op, decision, way)


WORKLOADS = (Workload("money", spend, weight=5),)
