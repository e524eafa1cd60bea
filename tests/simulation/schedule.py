"""One schedule, from its seed to a verdict; and many of them."""

from __future__ import annotations

import asyncio
import gc
import random
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from unittest.mock import patch

from retinue.actors.domain.session import state
from retinue.actors.durable import entity, singleton
from retinue.actors.durable.memory_journal import MemoryJournal
from retinue.actors.leases import permission_leases, recall
from retinue.actors.session import agents, catalog
from tests.simulation.agents import AGENT, STAGE, Stage
from tests.simulation.checker import Checker
from tests.simulation.clients import Client, Operator
from tests.simulation.faults import unexpected
from tests.simulation.loop import Loop, Stuck
from tests.simulation.witness import Witness
from tests.simulation.world import KEYRING, Cluster

_MOST_STEPS = 15_000
_QUIET_S = 2.5
"""How long after the last reply everything must have come to rest, in virtual seconds."""

_ATTEMPTS = 1000  # more is befalling a run here in a second than anywhere in an hour
_COLLECT_EVERY = 64
_MASK = (1 << 64) - 1


@dataclass(frozen=True)
class Verdict:
    """What came of a schedule: it was right if there are no ``violations``.

    ``trace`` is a digest of all that happened, ``seconds`` how long it took in virtual time.
    """

    seed: int
    violations: list[str]
    trace: int
    acknowledged: int
    steps: int
    seconds: float
    faults: dict[str, int]


@dataclass
class Tally:
    """What came of many schedules; ``failures`` has the violations of each seed that has any."""

    schedules: int = 0
    acknowledged: int = 0
    steps: int = 0
    trace: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    failures: dict[int, list[str]] = field(default_factory=dict)

    def add(self, verdict: Verdict) -> None:
        """Count one schedule."""
        self.schedules += 1
        self.acknowledged += verdict.acknowledged
        self.steps += verdict.steps
        self.trace ^= verdict.trace
        self.faults.update(verdict.faults)
        if verdict.violations:
            self.failures[verdict.seed] = verdict.violations

    def merge(self, other: Tally) -> None:
        """Count those that were counted elsewhere."""
        self.schedules += other.schedules
        self.acknowledged += other.acknowledged
        self.steps += other.steps
        self.trace ^= other.trace
        self.faults.update(other.faults)
        self.failures.update(other.failures)


def run_many(seeds: Iterable[int]) -> Tally:
    """Run the schedules of ``seeds``, one after another."""
    tally = Tally()
    for verdict in run_each(seeds):
        tally.add(verdict)
    return tally


def run_each(
    seeds: Iterable[int], journal: Callable[[], MemoryJournal] = MemoryJournal
) -> Generator[Verdict, None, None]:
    """The verdicts on the schedules of ``seeds``. Garbage waits, since it is most of the work."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        for count, seed in enumerate(seeds, start=1):
            yield run(seed, journal)
            if count % _COLLECT_EVERY == 0:
                gc.collect()
    finally:
        if collecting:
            gc.enable()


def run(seed: int, journal: Callable[[], MemoryJournal] = MemoryJournal) -> Verdict:
    """Run the schedule of ``seed``; the same seed is the same schedule."""
    rng = random.Random(seed)
    loop = Loop(rng, fifo=rng.random() < 0.5)
    checker = Checker(KEYRING, loop.time)
    stored = journal()
    cluster = Cluster(loop, rng, Witness(stored, checker))
    stage = Stage(cluster, checker, rng, {})
    cluster.outside.run(STAGE.set, stage)
    try:
        with _out_of_reach(loop):
            loop.run(_play(stage, stored), _MOST_STEPS)
    except Stuck as stuck:
        checker.wrong(f"stuck: {stuck}")
    except Exception as error:  # a client got an error that no client should get
        checker.wrong(f"broken off: {error!r}")
    finally:
        errors = loop.errors + _unexpected(loop)
        loop.close()
    checker.violations += errors
    return Verdict(
        seed,
        checker.violations,
        (loop.trace + checker.acknowledged + len(checker.violations)) & _MASK,
        checker.acknowledged,
        loop.steps,
        loop.time(),
        cluster.weather.counts,
    )


class _NoWatchdog:
    """There are no threads here, and no agent that blocks."""

    def watch(self) -> None:
        pass


class _Clock:
    """Stands in for the module `time`."""

    def __init__(self, loop: Loop) -> None:
        self.monotonic = loop.time


@contextmanager
def _out_of_reach(loop: Loop) -> Iterator[None]:
    """Keep what is real, threads, processes and clocks, out of the simulation."""
    clock = _Clock(loop)
    with (
        patch.object(recall, "time", clock),
        patch.object(permission_leases, "time", clock),
        patch.object(agents, "Watchdog", _NoWatchdog),
        patch.object(catalog, "_PUBLISH_EVERY_S", 0.5),
        patch.object(state, "SHARED_ATTEMPTS", _ATTEMPTS),
        patch.object(state, "MAX_ATTEMPTS", _ATTEMPTS),
        patch.object(entity, "_COMPACT_AFTER_ROWS", 6),
        patch.object(singleton, "UPKEEP_S", 0.3),
    ):
        yield


async def _play(stage: Stage, stored: MemoryJournal) -> None:
    cluster, checker, rng = stage.cluster, stage.checker, stage.rng
    cluster.books.agents[AGENT.digest] = AGENT.blob
    cluster.start()
    operator, client = Operator(stage), Client(stage)
    loop = asyncio.get_running_loop()
    misfortunes = loop.create_task(cluster.misfortunes())
    loop.call_later(rng.uniform(0.2, 1.0), cluster.heal)
    await operator.prepare()
    work = loop.create_task(operator.work())
    await asyncio.gather(*(client.root(number) for number in range(2)), work)
    await misfortunes
    cluster.heal()
    await asyncio.sleep(_QUIET_S)
    await checker.finish(stored)


def _unexpected(loop: Loop) -> list[str]:
    """Tasks that ended with an error that nobody meant to raise."""
    found = []
    for task in loop.tasks:
        if task.done() and not task.cancelled():
            error = task.exception()
            if error is not None and unexpected(error):
                name = getattr(task.get_coro(), "__qualname__", "a task")
                found.append(f"{name}: {error!r}")
    return found
