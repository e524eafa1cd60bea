"""Leftovers: processes beside an agent, which must end with its run, however they were started."""

from __future__ import annotations

import asyncio

from tests.chaos import helpers
from tests.chaos.workloads.life import HAS_PROCESS, Life, Workload


async def helper(life: Life) -> None:
    """A process beside the agent, which must end with its run, however it was started."""
    op = life.op()
    way, pause = life.rng.choice(helpers.WAYS), life.rng.uniform(0.0, 0.2)
    if HAS_PROCESS:
        pid = helpers.start(way, life.ledger.path)
        start = helpers.start_of(pid)
        life.ledger.note(life.line("ran", "helper", op, amount=pid, value=start, proof=way))
    await asyncio.sleep(pause)


WORKLOADS = (Workload("leftovers", helper, weight=1, in_branches=False),)
