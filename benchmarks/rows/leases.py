"""Sixty-four sessions race to the last cent of one cap: none too much, and none left behind.

Some of them stay in the middle of a turn with whatever they were lent, as an agent does that waits
for a model. What the racers leave is then claimed by one more session.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks import agents
from benchmarks.bench import Bench, answer, run
from benchmarks.figures import Figure, figure
from benchmarks.harness import each, until
from retinue import Session, Workspace
from retinue.actors.domain.budget.state import WORKSPACE

RACERS = 56
HOLDERS = 8
_CENTS = 10_000
_LIMIT_S = 60.0
_LOOK_EVERY_S = 0.05


@dataclass(frozen=True)
class Outcome:
    """One race, in nano-USD: the most that was out over the cap, and what nobody could spend."""

    over: int
    stranded: int
    left: int


async def measure(bench: Bench) -> list[Figure]:
    workspace = await bench.workspace("leases")
    racers = await bench.sessions(agents.races, RACERS, workspace)
    holders = await bench.sessions(agents.holds, HOLDERS, workspace)
    claimer = await bench.session(agents.claims, workspace)
    outcomes = [
        await _race(bench, workspace, racers, holders, claimer, number)
        for number in range(bench.sizes.races)
    ]
    notes = (
        "Each race is for about 100 USD in actions of 1 to 20 cents of which some is given back; "
        "8 of the 64 sessions hold on to their turn and to what they were lent.",
        "No peer: a budget in one script has neither by nature, at a round trip for each action.",
    )
    absolute = {"races": len(outcomes), "sessions": RACERS + HOLDERS}
    return [
        figure("leased_overspend", [max(one.over for one in outcomes)], absolute, notes),
        figure(
            "leased_stranded",
            [max(one.stranded for one in outcomes)],
            {**absolute, "claimed_after_races_nano": sum(one.left for one in outcomes)},
            notes,
        ),
    ]


async def _race(
    bench: Bench,
    workspace: Workspace,
    racers: list[Session],
    holders: list[Session],
    claimer: Session,
    number: int,
) -> Outcome:
    before = await workspace.budget()
    prize = (_CENTS + random.Random(number).randint(0, 99)) * agents.CENT
    cap = before.spent + prize
    await workspace.set_budget(f"{cap / 10**9:.9f}")
    gate = bench.home / f"race-{number}"
    with _watched(bench, workspace, cap) as most:
        held = [await one.start(str(gate)) for one in holders]
        await until(lambda: _all_hold(bench, gate.name), _LIMIT_S, 0.05)
        seeds = [str(number * RACERS + at) for at in range(RACERS)]
        spent = await each(
            list(zip(racers, seeds, strict=True)), lambda one: run(one[0], one[1]), RACERS
        )
        total = sum(int(str(one)) for one in spent) + HOLDERS * agents.HOLDER_SPENDS * agents.CENT
        left = prize - total
        claimed = int(str(await run(claimer, str(max(left, 0)))))
        gate.touch()
        for session, run_id in zip(holders, held, strict=True):
            answer(await session.result(run_id))
    after = await workspace.budget()
    if after.spent - before.spent != total + claimed or after.reserved:
        raise RuntimeError(f"the books differ: {after} after {before} and {total} + {claimed}")
    over = max(after.spent - cap, most[0], -left, 0)
    return Outcome(over, max(left - claimed, 0), left)


@contextmanager
def _watched(bench: Bench, workspace: Workspace, cap: int) -> Iterator[list[int]]:
    """How much more than the cap was ever out while the block ran, as far as a watcher sees."""
    most = [0]

    async def watch() -> None:
        budget = bench.retinue.calls.stores(workspace.id).budget
        while True:
            (level,) = await budget.levels([WORKSPACE])
            most[0] = max(most[0], level.held - cap)
            await asyncio.sleep(_LOOK_EVERY_S)

    task = asyncio.create_task(watch())
    try:
        yield most
    finally:
        task.cancel()


async def _all_hold(bench: Bench, gate: str) -> bool:
    return len(list(bench.home.glob(f"{gate}.*"))) >= HOLDERS
