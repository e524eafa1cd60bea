"""Runs the sub-agents of a spawn on hosts, as many at once as the family may.

Slots come from the directory, children run on the hosts named there, and results are collected
in batches. A host that dies loses nothing: its children are placed again, and go on from their
journals. One table has the place of each child, `retinue.actors.domain.session.children`.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections import ChainMap
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import TypeVar, get_args

from retinue.actors.agent import calls
from retinue.actors.domain.budget import commands as budget
from retinue.actors.domain.errors import Fenced, LimitReached, Unavailable
from retinue.actors.domain.session import machine as session
from retinue.actors.domain.session.children import Children
from retinue.actors.domain.session.commands import FinishChildren, SpawnChildren
from retinue.actors.domain.session.result import Result
from retinue.actors.domain.session.settings import Isolation
from retinue.actors.domain.session.state import (
    Agent,
    Child,
    ChildSpec,
    Profile,
    children_of,
    operation,
    the_profile,
)
from retinue.actors.domain.values.ids import uuid7
from retinue.actors.ports import Batch, HostName, HostProvider
from retinue.actors.requests import Acquire
from retinue.actors.session.activation import Activation
from retinue.actors.session.history import SessionEntity
from retinue.actors.telemetry import metrics, tracing
from retinue.actors.views import SessionKey

_DESCRIPTION_CHARACTERS = 200  # of its task that a child's system prompt has
_POLL_S = 20.0
_RETRY_S = 0.2
_ISOLATIONS: tuple[Isolation, ...] = get_args(Isolation)
_ANY: Isolation = "shared"  # it does not matter where no slot is wanted

T = TypeVar("T")


class Spawner:
    """The spawns of one run, which may be started more than once.

    A spawn that is broken off keeps its slots, and its sub-agents go on: when the run is started
    again, it finds them under the same name. Slots are given back when a spawn is over, or its run.
    """

    def __init__(self, activation: Activation, hosts: HostProvider, here: str) -> None:
        self._activation = activation
        self._hosts = hosts
        self._here = here
        self._open: dict[str, Spawn] = {}
        self._releases: set[asyncio.Task[None]] = set()

    @property
    def running(self) -> dict[str, HostName]:
        """The host of each running sub-agent."""
        return dict(ChainMap(*(one.children.hosts("started") for one in self._open.values())))

    async def spawn(
        self,
        run: str,
        key: str,
        call: calls.Spawn,
        begun: bool,
        clear: Callable[[], Awaitable[None]],
    ) -> list[Result]:
        """Runs the sub-agents of the step ``key``, or continues those ``begun``; their results.

        They start when the step is recorded and ``clear()`` has returned. Raises LimitReached,
        naming the limit, and then starts none.
        """
        parent = self._activation
        state = parent.entity.state
        if begun:
            children = children_of(state, run, key)
        else:
            at, name = state.runs[run].accepted, f"{parent.id}/{operation(run, key)}"
            specs = [
                _child_spec(parent.profile, task, at, f"{name}/{number}")
                for number, task in enumerate(call.tasks)
            ]
            children = [Child(spec, run) for spec in specs]
            command = SpawnChildren(run, key, call.label, specs)
            session.decide(state, command, parent.runtime.clock())  # refuse it before work
        spawn = Spawn(
            parent.entity,
            self._hosts,
            self._open,
            f"{parent.id}/{key}",
            Children(children, begun=begun),
            call.max_concurrent or parent.profile.limits.max_concurrent,
            self._here if call.near else "",
            call.fail_fast,
        )
        if begun:
            await parent.entity.confirmed()
        else:
            await self._prepare(spawn, call, specs)
            parent.entity.do(command)
            metrics.SPAWNED.add(len(specs))
            parent.notify("spawned", call.label, count=len(specs))
            await parent.entity.committed()
        await clear()
        results = await spawn.run()
        self._release_later(spawn)
        await parent.entity.committed()
        return results

    def close(self) -> None:
        """Ends the run's spawns: the run is over."""
        for spawn in list(self._open.values()):
            self._release_later(spawn)

    async def _prepare(self, spawn: Spawn, call: calls.Spawn, specs: list[ChildSpec]) -> None:
        """Prepares everything that the children need, or raises and leaves nothing."""
        parent = self._activation
        place = SessionKey(parent.profile.workspace_id, parent.profile.family_id)
        try:
            if not call.queue:  # first: what is refused must not count as spawned
                await self._released()
                await spawn.reserve(all_at_once=True)
            await _all(
                self._store_agents(call.tasks),
                parent.runtime.registry.register(place, [spec.id for spec in specs]),
                self._admit(specs),
                *([spawn.reserve(all_at_once=False)] if call.queue else []),
            )
        except Exception:
            await spawn.release()
            raise

    async def _admit(self, specs: Sequence[ChildSpec]) -> None:
        """Opens the children's accounts; opens none if it raises LimitReached, naming the limit."""
        profile = self._activation.profile
        children = [budget.Child(spec.id, spec.allotment) for spec in specs]
        reply = await self._activation.stores.budget.admit(
            budget.Admit(profile.family_id, profile.id, children)
        )
        if isinstance(reply, budget.Refused):
            raise LimitReached(
                f"{len(specs)} more sub-agents in this family: {reply.limit} is {reply.value}",
                limit=reply.limit,
                value=reply.value,
            )

    async def _store_agents(self, tasks: list[calls.TaskSpec]) -> None:
        for agent in {task.agent.digest: task.agent for task in tasks}.values():
            if agent.blob:
                await self._activation.runtime.registry.put_agent(agent.digest, agent.blob)

    def _release_later(self, spawn: Spawn) -> None:
        """Give back the slots of a spawn that is over; nobody waits for that."""
        if self._open.pop(spawn.name, None):
            task = asyncio.get_running_loop().create_task(spawn.release())
            self._releases.add(task)
            task.add_done_callback(self._releases.discard)

    async def _released(self) -> None:
        """Return when the slots of all spawns that are over have been given back."""
        if self._releases:
            await asyncio.wait(self._releases)


@dataclass(eq=False)
class Spawn:
    """One spawn under way: carries out its table of children, and keeps the table up to date.

    ``siblings`` are the run's spawns by name, and this becomes one of them.
    """

    entity: SessionEntity
    hosts: HostProvider
    siblings: dict[str, Spawn]
    name: str
    children: Children
    limit: int
    near: str = ""
    fail_fast: bool = False
    _tasks: dict[str, asyncio.Task[None]] = field(init=False, default_factory=dict)
    _over: asyncio.Future[None] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._profile = the_profile(self.entity.state)
        self._asked = time.perf_counter()
        self.siblings[self.name] = self

    async def run(self) -> list[Result]:
        """Completes all children; returns their results in order."""
        self._over = asyncio.get_running_loop().create_future()
        try:
            self._heed(self.children.results())
            if not self.children.over:
                self._place_all()
            await self._over
        finally:
            tasks = list(self._tasks.values())
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)
        return self.children.results()

    async def reserve(self, *, all_at_once: bool) -> None:
        """Takes the free slots; raises LimitReached if all are required and some are not free."""
        for isolation in _ISOLATIONS:
            if want := self.children.waiting(isolation):
                await self._acquire(isolation, want, 0.0)
        count, fit = len(self.children), len(self.children.hosts("held"))
        if all_at_once and fit < count:
            raise LimitReached(
                f"{count} sub-agents at once: max_concurrent is {self.limit}, and {fit} fit now",
                limit="max_concurrent",
                value=self.limit,
            )

    async def release(self) -> None:
        """Give all slots back, those included that are on their way here."""
        with contextlib.suppress(Unavailable):
            await self.hosts.directory.release(self.name)

    def take(self, results: list[Result]) -> None:
        """Takes in the recorded results that belong to this spawn."""
        first = self.children.finish(results)
        if self._over and not self._over.done():
            self._heed(first)

    def _heed(self, results: list[Result]) -> None:
        """Acts on results: the first failure may cancel the other children."""
        failed = any(not result.success for result in results)
        if failed and self.fail_fast and not self.children.cancelling:
            self.entity.do(FinishChildren(self.children.cancel()))
            for host in set(self.children.hosts("started").values()):
                self._work(self._cancel, host)
        if self._over and self.children.over:
            self._over.set_result(None)

    async def _acquire(self, isolation: Isolation, want: list[str], timeout_s: float) -> None:
        """Get slots for some of ``want``, at least one unless time runs out."""
        request = Acquire(
            self.name,
            self._profile.family_id,
            self.children.take_freed(),
            want,
            self.limit,
            isolation,
            self.near,
            timeout_s,
        )
        self.children.grant(await self.hosts.directory.acquire(request))

    async def _give_back(self, isolation: Isolation) -> None:
        """Give back slots now: an `_acquire` that waits for some was sent before they came free."""
        if self.children.freed and not self.children.over:
            with contextlib.suppress(Unavailable):
                await self._acquire(isolation, [], 0.0)

    def _place_all(self) -> None:
        for isolation in _ISOLATIONS:
            self._work(self._place, isolation)

    async def _place(self, isolation: Isolation) -> None:
        """Starts children that hold a slot, and gets slots for those that wait, until none do."""
        while True:
            if starts := self.children.start():
                await asyncio.gather(*(self._send(*start) for start in starts.items()))
            elif waiting := self.children.waiting(isolation):
                await self._acquire(isolation, waiting, _POLL_S)
            else:
                return

    async def _send(self, host: HostName, specs: list[ChildSpec]) -> None:
        """Tells a host to start or continue children, or to cancel them if the spawn does."""
        self._work(self._collect, host)  # now: a result may be faster than the reply
        batch, port = Batch(self._profile, specs), self.hosts.host(host)
        try:
            await (port.cancel_children if self.children.cancelling else port.start_children)(batch)
        except Unavailable as error:
            await self._lost(host, specs, error)
        else:
            if self._asked:
                metrics.SPAWN_SECONDS.observe(time.perf_counter() - self._asked)
                self._asked = 0.0

    async def _cancel(self, host: HostName) -> None:
        await self._send(host, self.children.started(host))

    async def _collect(self, host: HostName) -> None:
        """Take in results from a host until nothing is started there, and it knows what arrived."""
        seen, entity = list[str](), self.entity
        while (started := self.children.started(host)) or seen:
            try:
                results = await self.hosts.host(host).collect(
                    entity.key.id, entity.epoch, seen, _POLL_S if started else 0.0
                )
            except Unavailable as error:
                seen = []
                await self._lost(host, self.children.started(host), error)
                continue
            seen = [result.session_id for result in results]
            if results:
                self._take(results)
                await self._give_back(_ANY)
            elif started:  # a zombie may have taken some from it: have it take them back
                await self._send(host, self.children.started(host))

    def _take(self, results: list[Result]) -> None:
        """Record results, whichever spawns they are of: the host won't give them out again."""
        self.entity.do(FinishChildren(results))
        for spawn in list(self.siblings.values()):
            spawn.take(results)
            if spawn is not self:
                spawn._work(spawn._give_back, _ANY)

    async def _lost(self, host: HostName, specs: list[ChildSpec], error: Unavailable) -> None:
        """A host is gone, or has lost children to a newer activation: place them again."""
        if isinstance(error, Fenced):  # or this activation of the parent was
            await self.entity.confirmed()
        await asyncio.sleep(_RETRY_S)
        self.children.lose(host, specs)
        self._place_all()

    def _work(self, work: Callable[[T], Coroutine[None, None, None]], at: T) -> None:
        """Starts a task for this work on a host or an isolation, unless one does it already."""
        name = f"{work.__name__} {at}"
        if name not in self._tasks or self._tasks[name].done():
            self._tasks[name] = task = asyncio.create_task(work(at), name=f"{self.name}{name}")
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error and self._over and not self._over.done():
            self._over.set_exception(error)


async def _all(*work: Awaitable[None]) -> None:
    """Does everything at once; raises the first error when all of it has ended."""
    for outcome in await asyncio.gather(*work, return_exceptions=True):
        if outcome is not None:
            raise outcome


def _child_spec(parent: Profile, task: calls.TaskSpec, at: int, name: str) -> ChildSpec:
    """The child ``name``, with the same id however often its spawn is tried."""
    id = uuid7(at, hashlib.sha256(name.encode()).digest()[:10])
    return ChildSpec(
        id=id,
        run=id,
        agent=Agent(task.agent.digest, task.agent.name),
        prompt=task.prompt,
        timeout=task.timeout,
        isolation=task.isolation or parent.isolation,
        label=task.label,
        system_prompt=f"You are a sub-agent. Your task: {task.prompt[:_DESCRIPTION_CHARACTERS]}",
        model=task.model or parent.model,
        allotment=task.allotment,
        capabilities=_narrowed(parent.capabilities, task.capabilities),
        trace=tracing.current(),
    )


def _narrowed(held: list[str] | None, given: list[str] | None) -> list[str] | None:
    """The tokens that a child may use: only those that its parent may use (None: any)."""
    if held is None or given is None:
        return held if given is None else given
    return [token for token in given if token in held]
