"""Runs the sub-agents of a spawn on hosts, as many at once as the family may.

Slots come from the directory, children run on the hosts named there, and results are collected
in batches. A host that dies loses nothing: its children are placed again, and go on from their
journals.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Sequence

from retinue.actors.domain.budget import commands as budget
from retinue.actors.domain.errors import Fenced, LimitReached, SessionEnded, Unavailable
from retinue.actors.domain.session import machine as session
from retinue.actors.domain.session.machine import Child, ChildSpec
from retinue.actors.domain.session.result import Result
from retinue.actors.domain.session.settings import Isolation
from retinue.actors.ports import Batch, HostName, HostPort, HostProvider
from retinue.actors.session.activation import Activation
from retinue.actors.telemetry import metrics

_POLL_S = 20.0
_RETRY_S = 0.2


class Spawner:
    """The spawns of one run, which may be started more than once.

    A spawn that is broken off keeps its slots, and its sub-agents go on: when the run is started
    again, it finds them under the same name. Slots are given back when a spawn is over, or its run.
    """

    def __init__(self, activation: Activation, hosts: HostProvider, here: str) -> None:
        self.activation = activation
        self.hosts = hosts
        self.here = here
        self.running: dict[str, HostName] = {}
        """Which sub-agent runs on which host."""
        self._open: dict[str, Spawn] = {}
        self._releases: set[asyncio.Task[None]] = set()

    async def admit(self, specs: Sequence[ChildSpec]) -> None:
        """Open the children's accounts; LimitReached, naming the limit, and none is opened."""
        profile = self.activation.profile
        children = [budget.Child(spec.id, spec.allotment) for spec in specs]
        reply = await self.activation.stores.budget.admit(
            budget.Admit(profile.family_id, profile.id, children)
        )
        if isinstance(reply, budget.Refused):
            raise LimitReached(
                f"{len(specs)} more sub-agents in this family: {reply.limit} is {reply.value}",
                limit=reply.limit,
                value=reply.value,
            )

    def spread(self, key: str, limit: int, near: bool = True) -> Spawn:
        """The spawn of the step ``key``, of at most ``limit`` children at once."""
        spread = Spawn(self, f"{self.activation.id}/{key}", limit, near)
        self._open[spread.name] = spread
        return spread

    def release_later(self, spread: Spawn) -> None:
        """Give back the slots of a spawn that is over; nobody waits for that."""
        if self._open.pop(spread.name, None):
            task = asyncio.get_running_loop().create_task(spread.release())
            self._releases.add(task)
            task.add_done_callback(self._releases.discard)

    def close(self) -> None:
        """The run is over, and so are its spawns."""
        for spread in list(self._open.values()):
            self.release_later(spread)

    async def released(self) -> None:
        """Return when the slots of all spawns that are over have been given back."""
        if self._releases:
            await asyncio.wait(self._releases)


class Spawn:
    """One spawn: the children that wait, those that run, and where."""

    def __init__(self, spawner: Spawner, name: str, limit: int, near: bool) -> None:
        self._spawner = spawner
        self._activation = spawner.activation
        self.name = name
        self._limit = limit
        self._near = spawner.here if near else ""
        self._held: dict[str, HostName] = {}
        self._done_with: list[str] = []
        self._waiting: dict[Isolation, dict[str, ChildSpec]] = {}
        self._started: dict[HostName, dict[str, ChildSpec]] = {}
        self._again: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._unfinished: set[str] = set()
        self._failure: BaseException | None = None
        self._fail_fast = False
        self._cancelling = False
        self._done = asyncio.Event()
        self._asked = time.perf_counter()

    async def run(self, children: list[Child], *, fail_fast: bool, again: bool) -> list[Result]:
        """The children's results in order; ``again`` if they may have been started before."""
        self._fail_fast = fail_fast
        specs = [child.spec for child in children if child.result is None]
        self._unfinished = {spec.id for spec in specs}
        self._again = set(self._unfinished) if again else set()
        for isolation, group in _by_isolation(specs).items():
            self._waiting[isolation] = {spec.id: spec for spec in group}
        try:
            for isolation in list(self._waiting):
                self._launch(self._place(isolation))
            if self._unfinished:
                await self._done.wait()
        finally:
            await self._stop()
        if self._failure is not None:
            raise self._failure
        self._spawner.release_later(self)
        await self._activation.entity.committed()
        return [_result_of(child) for child in children]

    async def reserve(self, specs: Sequence[ChildSpec], *, all_at_once: bool) -> None:
        """Take the slots that are free now; LimitReached if it must be all of them and is not."""
        granted = 0
        if all_at_once:
            await self._spawner.released()
        for isolation, group in _by_isolation(specs).items():
            granted += len(await self.acquire(isolation, [spec.id for spec in group], 0.0))
        if all_at_once and granted < len(specs):
            raise LimitReached(
                f"{len(specs)} sub-agents at once: max_concurrent is {self._limit}, "
                f"and {granted} fit now",
                limit="max_concurrent",
                value=self._limit,
            )

    async def acquire(
        self, isolation: Isolation, want: list[str], timeout_s: float
    ) -> dict[str, HostName]:
        """Slots for some of the children in ``want``, at least one unless time runs out."""
        spawner, profile = self._spawner, self._activation.profile
        done, self._done_with = self._done_with, []
        slots = await spawner.hosts.directory.acquire(
            self.name,
            profile.family_id,
            done,
            want,
            self._limit,
            isolation,
            self._near,
            timeout_s,
        )
        self._held.update(slots)
        return slots

    async def release(self) -> None:
        """Give all slots back, those included that are on their way here."""
        with contextlib.suppress(Unavailable):
            await self._spawner.hosts.directory.release(self.name)

    async def _place(self, isolation: Isolation) -> None:
        """Start what waits, as slots come free."""
        waiting = self._waiting[isolation]
        while waiting:
            slots = {id: self._held[id] for id in waiting if id in self._held}
            if not slots:
                slots = await self.acquire(isolation, list(waiting), _POLL_S)
            by_host: dict[HostName, list[ChildSpec]] = {}
            for id, slot in slots.items():
                if spec := waiting.pop(id, None):
                    by_host.setdefault(slot, []).append(spec)
            await asyncio.gather(*(self._start(slot, specs) for slot, specs in by_host.items()))

    async def _start(self, slot: HostName, specs: list[ChildSpec]) -> None:
        again = any(spec.id in self._again for spec in specs)
        self._again.update(spec.id for spec in specs)
        batch = Batch(self._activation.profile, specs, again)
        first = slot not in self._started
        started = self._started.setdefault(slot, {})
        started.update((spec.id, spec) for spec in specs)  # a result may be faster than the reply
        self._spawner.running.update((spec.id, slot) for spec in specs)
        if first:
            self._launch(self._collect(slot))
        try:
            await self._send(self._spawner.hosts.host(slot), batch)
            if self._asked:
                metrics.SPAWN_SECONDS.observe(time.perf_counter() - self._asked)
                self._asked = 0.0
        except Unavailable:
            await asyncio.sleep(_RETRY_S)
            self._lost([spec for spec in specs if started.pop(spec.id, None)])

    async def _send(self, host: HostPort, batch: Batch) -> None:
        await (host.cancel_children if self._cancelling else host.start_children)(batch)

    async def _collect(self, slot: HostName) -> None:
        """Take in results from one host until none of ours runs there."""
        started, seen = self._started[slot], list[str]()
        host = self._spawner.hosts.host(slot)
        while started:
            try:
                results = await self._results(host, seen, _POLL_S)
                if not results:  # a zombie may have taken some from it: have it take them back
                    profile, specs = self._activation.profile, list(started.values())
                    await self._send(host, Batch(profile, specs, again=True))
            except Unavailable as error:
                if isinstance(error, Fenced):  # a child was, or this activation of ours is
                    await self._activation.entity.confirmed()
                await asyncio.sleep(_RETRY_S)
                lost = list(started.values())
                started.clear()
                del self._started[slot]
                self._lost(lost)
                return
            seen = [result.session_id for result in results]
            mine = [result for result in results if result.session_id in started]
            await self._take(slot, mine)
        del self._started[slot]
        if seen:
            with contextlib.suppress(Unavailable):
                await self._results(host, seen, 0.0)

    async def _results(self, host: HostPort, seen: list[str], timeout_s: float) -> list[Result]:
        parent = self._activation
        return await host.collect(parent.id, parent.entity.epoch, seen, timeout_s)

    async def _take(self, slot: HostName, results: list[Result]) -> None:
        if not results:
            return
        self._activation.entity.do(session.FinishChildren(results))
        for result in results:
            self._started[slot].pop(result.session_id, None)
            self._spawner.running.pop(result.session_id, None)
            self._unfinished.discard(result.session_id)
            self._free(result.session_id)
        if not self._unfinished:
            self._done.set()
        elif self._fail_fast and any(not result.success for result in results):
            self._fail_fast = False
            await self._cancel_rest()
        else:  # now: an `acquire` of ours that waits for slots was sent before these came free
            with contextlib.suppress(Unavailable):
                await self.acquire("shared", [], 0.0)

    def _free(self, child: str) -> None:
        if self._held.pop(child, None):
            self._done_with.append(child)

    async def _cancel_rest(self) -> None:
        """The first failure takes the others along.

        Those that an earlier start of the run may have begun are placed to be cancelled there.
        """
        self._cancelling = True
        never_started = [
            group.pop(id)
            for group in self._waiting.values()
            for id in [id for id in group if id not in self._again]
        ]
        self._activation.entity.do(
            session.FinishChildren([_cancelled(spec) for spec in never_started])
        )
        self._unfinished.difference_update(spec.id for spec in never_started)
        for slot, started in self._started.items():
            batch = Batch(self._activation.profile, list(started.values()), again=True)
            self._launch(self._spawner.hosts.host(slot).cancel_children(batch))
        if not self._unfinished:
            self._done.set()

    def _lost(self, specs: list[ChildSpec]) -> None:
        """A host is gone or could not take them: place its children again."""
        for spec in specs:
            self._spawner.running.pop(spec.id, None)
            self._free(spec.id)
        for isolation, group in _by_isolation(specs).items():
            placing = bool(self._waiting[isolation])
            self._waiting[isolation].update((spec.id, spec) for spec in group)
            if not placing:
                self._launch(self._place(isolation))

    def _launch(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Future[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() and self._failure is None:
            self._failure = task.exception()
            self._done.set()

    async def _stop(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


def _by_isolation(specs: Sequence[ChildSpec]) -> dict[Isolation, list[ChildSpec]]:
    groups: dict[Isolation, list[ChildSpec]] = {}
    for spec in specs:
        groups.setdefault(spec.isolation, []).append(spec)
    return groups


def _result_of(child: Child) -> Result:
    if child.result is None:
        raise SessionEnded("the spawn was interrupted before all its sub-agents had finished")
    return child.result


def _cancelled(spec: ChildSpec) -> Result:
    return Result(spec.id, "cancelled", error="a sibling failed", run_id=spec.run)
