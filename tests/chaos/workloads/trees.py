"""Trees: branches of a turn, and sub-agents."""

from __future__ import annotations

import asyncio

import msgspec

from retinue import Task
from tests.chaos.workloads.agents import worker
from tests.chaos.workloads.life import Life, Workload
from tests.chaos.workloads.money import spend

_CHILD_TIMEOUT_S = 600.0


async def parallel(life: Life) -> None:
    """Two branches at once, of two steps each."""
    name = life.op().rpartition("#")[2]
    await asyncio.gather(*(_both(life.branch(f"{name}{letter}")) for letter in "ab"))


async def spawn(life: Life) -> None:
    """Sub-agents, some with a cap of their own and some in processes of their own."""
    op = life.op()
    labels = [f"{op}/{at}" for at in range(life.rng.randint(2, 4))]
    tasks = [_task(life, label) for label in labels]
    life.ledger.note(life.line("tried", "spawn", op, many=labels))
    results = await life.turn.spawn(tasks, max_concurrent=life.errand.levels * 3)
    told = [f"{one.session_id} {one.status} {one.cost}" for one in results]
    life.ledger.note(life.line("told", "spawn", op, many=told))


async def _both(branch: Life) -> None:
    """A payment comes first, since it tells one branch from another."""
    await spend(branch)
    await branch.step()


def _task(life: Life, label: str) -> Task:
    errand = msgspec.structs.replace(life.errand, label=label, levels=life.errand.levels - 1)
    return Task(
        worker,
        msgspec.json.encode(errand).decode(),
        timeout=_CHILD_TIMEOUT_S,
        allotment_usd=life.rng.choice((None, None, "0.15", "0.40")),
        isolation=life.rng.choice(("shared", "process")),
        label=label,
    )


WORKLOADS = (Workload("branches", parallel, weight=1, in_branches=False),)
