"""A spawn's children: all get a slot in the end, and no result is lost, however things race."""

from __future__ import annotations

import asyncio

import pytest

from retinue.actors.domain.session.children import Children
from retinue.actors.domain.session.commands import AcceptRun, Create, FinishChildren, SpawnChildren
from retinue.actors.domain.session.result import Result
from retinue.actors.domain.session.settings import Limits
from retinue.actors.domain.session.state import Agent, Budget, ChildSpec, Profile, children_of
from retinue.actors.domain.values.keyring import Keyring
from retinue.actors.durable.memory_journal import MemoryJournal
from retinue.actors.durable.runtime import Runtime
from retinue.actors.ports import Batch
from retinue.actors.requests import Acquire
from retinue.actors.session import spawn
from retinue.actors.session.activation import new_entity
from retinue.actors.session.history import SessionEntity
from retinue.actors.session.outbox import Outbox
from retinue.actors.session.spawn import Spawn
from retinue.actors.views import FeedEvent
from tests.simulation.registry import Books, SimulatedRegistry

A_MOMENT_S = 0.001
LIMIT_S = 10  # half the time after which a lost wake-up would go unnoticed


class FakeDirectory:
    """Grants ``limit`` slots, ``most`` of them in one answer; answers a wait when one is free."""

    def __init__(self, most: int) -> None:
        self.held: set[str] = set()
        self._most = most
        self._changed = asyncio.Condition()

    async def acquire(self, request: Acquire) -> dict[str, str]:
        async with self._changed:
            self.held.difference_update(request.done)
            self._changed.notify_all()
            if not request.want:
                return {}
            await self._changed.wait_for(lambda: len(self.held) < request.limit)
            granted = request.want[: min(request.limit - len(self.held), self._most)]
            self.held.update(granted)
            return dict.fromkeys(granted, "host")

    async def release(self, spawner: str) -> None:
        self.held.clear()

    async def locate(self, session_id: str) -> tuple[str, str]:
        raise NotImplementedError

    async def hosts(self) -> list[str]:
        raise NotImplementedError

    async def news(self, host: str, families: list[str], gone: list[str]) -> list[str]:
        raise NotImplementedError

    async def publish(self, events: list[FeedEvent]) -> None:
        raise NotImplementedError


class FakeHost:
    """Has every child done its work in a moment, or faster than it can say that it started it."""

    def __init__(self, *, result_comes_first: bool = False) -> None:
        self.started: list[str] = []
        self.cancelled: list[str] = []
        self.outbox = Outbox()
        self._handed_out = asyncio.Event()
        self._result_comes_first = result_comes_first

    async def start_children(self, batch: Batch) -> None:
        ids = [child.id for child in batch.children]
        self.started += ids
        if not self._result_comes_first:
            asyncio.get_running_loop().call_later(A_MOMENT_S, self._put, ids)
        elif ids != ["0"]:  # the first one lasts, and has its results collected meanwhile
            self._put(ids)
            await self._handed_out.wait()
            self._put(["0"])

    async def collect(
        self, parent_id: str, epoch: int, seen: list[str], timeout_s: float
    ) -> list[Result]:
        results = await self.outbox.collect(epoch, seen, timeout_s)
        if results:
            self._handed_out.set()
        return results

    async def cancel_children(self, batch: Batch) -> None:
        self.cancelled += [child.id for child in batch.children]
        for child in batch.children:
            self.outbox.put(Result(child.id, "cancelled"))

    async def abandon(self, session_ids: list[str]) -> None:
        raise NotImplementedError

    def _put(self, ids: list[str]) -> None:
        for id in ids:
            self.outbox.put(Result(id, "completed"))


class Cluster:
    """Implements `retinue.actors.ports.HostProvider` with one host."""

    def __init__(self, directory: FakeDirectory, host: FakeHost) -> None:
        self.directory = directory
        self._host = host

    def host(self, name: str) -> FakeHost:
        return self._host


def _parent(*spawns: list[str]) -> SessionEntity:
    """A session whose run has taken these spawn steps."""
    runtime = Runtime(MemoryJournal(), SimulatedRegistry(Books()), Keyring(bytes(32)))
    budget = Budget(10**9, 10**9, 80)
    profile = Profile("parent", "me", "space", "parent", 0, None, "shared", budget, Limits())
    entity = new_entity(runtime, profile, "creator")
    entity.do(Create(profile))
    entity.do(AcceptRun("run", "go"))
    for at, ids in enumerate(spawns):
        specs = [ChildSpec(id, id, Agent("", ""), "", 0, "shared", "") for id in ids]
        entity.do(SpawnChildren("run", f"{at}", "", specs))
    return entity


def _spawn(
    parent: SessionEntity, cluster: Cluster, key: str, limit: int, siblings: dict[str, Spawn]
) -> Spawn:
    children = Children(children_of(parent.state, "run", key))
    return Spawn(parent, cluster, siblings, f"parent/{key}", children, limit)


async def _run(directory: FakeDirectory, host: FakeHost, count: int, limit: int) -> list[str]:
    """The ids of the results of ``count`` children, ``limit`` at once."""
    parent = _parent([f"{at}" for at in range(count)])
    async with asyncio.timeout(LIMIT_S):
        results = await _spawn(parent, Cluster(directory, host), "0", limit, {}).run()
    assert [child.result for child in parent.state.children.values()] == results
    assert host.outbox.empty
    return [result.session_id for result in results]


async def test_slots_that_come_free_are_filled_at_once() -> None:
    directory, host = FakeDirectory(most=100), FakeHost()
    assert await _run(directory, host, 50, 2) == [f"{at}" for at in range(50)]
    assert sorted(host.started, key=int) == [f"{at}" for at in range(50)]
    assert len(directory.held) <= 2


async def test_a_result_may_be_faster_than_the_news_that_its_child_was_started() -> None:
    host = FakeHost(result_comes_first=True)
    assert await _run(FakeDirectory(most=1), host, 2, 2) == ["0", "1"]
    assert host.started == ["0", "1"]


class LosingHost(FakeHost):
    """Has its children taken from it, once, and says nothing about it."""

    async def start_children(self, batch: Batch) -> None:
        ids = [child.id for child in batch.children]
        if set(ids) <= set(self.started):
            self._put(ids)
        self.started += ids


async def test_what_a_host_was_robbed_of_is_started_there_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(spawn, "_POLL_S", A_MOMENT_S)
    host = LosingHost()
    assert await _run(FakeDirectory(most=2), host, 2, 2) == ["0", "1"]
    assert host.started == ["0", "1"] * 2


class Busy(FakeHost):
    """Hears the second of two spawns out when the first one has what there was for both."""

    def __init__(self) -> None:
        super().__init__()
        self._asked = False
        self._thanked = asyncio.Event()

    async def start_children(self, batch: Batch) -> None:
        self._put([child.id for child in batch.children])

    async def collect(
        self, parent_id: str, epoch: int, seen: list[str], timeout_s: float
    ) -> list[Result]:
        self._asked, asked = True, self._asked
        if seen:
            self._thanked.set()
        elif asked:
            await self._thanked.wait()
        return await super().collect(parent_id, epoch, seen, timeout_s)


async def test_spawns_at_once_take_in_one_another_s_results() -> None:
    parent, siblings = _parent(["one"], ["two"]), dict[str, Spawn]()
    cluster = Cluster(FakeDirectory(most=2), host := Busy())
    spawns = [_spawn(parent, cluster, key, 2, siblings) for key in ("0", "1")]
    async with asyncio.timeout(LIMIT_S):
        results = await asyncio.gather(*(spawn.run() for spawn in spawns))
    assert [[one.session_id for one in group] for group in results] == [["one"], ["two"]]
    assert host.outbox.empty


@pytest.mark.parametrize("begun", [True, False])
async def test_a_failure_that_came_before_a_death_takes_the_others_along_after_it(
    begun: bool,
) -> None:
    parent, host = _parent(["failed", "left"]), FakeHost()
    parent.do(FinishChildren([Result("failed", "failed")]))
    children = Children(children_of(parent.state, "run", "0"), begun=begun)
    cluster = Cluster(FakeDirectory(most=2), host)
    async with asyncio.timeout(LIMIT_S):
        results = await Spawn(parent, cluster, {}, "0", children, 2, fail_fast=True).run()
    assert [result.status for result in results] == ["failed", "cancelled"]
    assert (host.started, host.cancelled) == ([], ["left"] if begun else [])
