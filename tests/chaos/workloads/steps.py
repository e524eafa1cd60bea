"""Steps: work of the agent's own, done once or done again."""

from __future__ import annotations

import asyncio
import os

from retinue import StepInterrupted
from tests.chaos.workloads.life import Life, Workload

_BEAT_S = 0.2


async def think(life: Life) -> None:
    """Something that takes its time, and shows that it goes on."""
    left = life.rng.uniform(0.1, 1.0) * life.errand.slow
    while left > 0:
        life.ledger.note(life.line("alive"))
        await asyncio.sleep(min(left, _BEAT_S))
        left -= _BEAT_S


async def compute(life: Life) -> None:
    """A step whose function gives something else each time."""
    op = life.op()

    def function() -> str:
        life.ledger.note(life.line("ran", "compute", op))
        return os.urandom(6).hex()

    value = await life.turn.step(op, function)
    life.ledger.note(life.line("told", "compute", op, value=value))


async def careful(life: Life) -> None:
    """A step that must not happen twice."""
    op = life.op()

    async def function() -> str:
        life.ledger.note(life.line("ran", "careful", op))
        await asyncio.sleep(0.05)
        return os.urandom(6).hex()

    try:
        value: str = await life.turn.step(op, function, idempotent=False)
    except StepInterrupted:
        return
    life.ledger.note(life.line("told", "careful", op, value=value))


WORKLOADS = (
    Workload("thoughts", think, weight=3),
    Workload("steps", compute, weight=2),
    Workload("careful_steps", careful, weight=2),
)
