"""A spawn's children: all get a slot in the end, and no result is lost, however things race."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import cast

import pytest

from retinue.actors.domain.session.machine import Agent, Child, ChildSpec, FinishChildren
from retinue.actors.domain.session.result import Result
from retinue.actors.ports import Batch, HostProvider
from retinue.actors.requests import Acquire
from retinue.actors.session import spawn
from retinue.actors.session.activation import Activation
from retinue.actors.session.outbox import Outbox
from retinue.actors.session.spawn import Spawner
from tests.kit.waiting import until

A_MOMENT_S = 0.001
LIMIT_S = 10  # half the time after which a lost wake-up would go unnoticed


class FakeDirectory:
    """Grants ``limit`` slots, ``most`` of them in one answer; answers a wait when one is free."""

    def __init__(self, most: int) -> None:
        self.held: set[str] = set()
        self._most = most
        self._changed = asyncio.Condition()

    async def acquire(self, request: Acquire) -> dict[str, str]:
        want, limit = request.want, request.limit
        async with self._changed:
            self.held.difference_update(request.done)
            self._changed.notify_all()
            if not want:
                return {}
            await self._changed.wait_for(lambda: len(self.held) < limit)
            granted = want[: min(limit - len(self.held), self._most)]
            self.held.update(granted)
            return dict.fromkeys(granted, "host")

    async def release(self, spawner: str) -> None:
        self.held.clear()


class FakeHost:
    """Has every child done its work in a moment, or faster than it can say that it started it."""

    def __init__(self, *, result_comes_first: bool = False) -> None:
        self.started: list[str] = []
        self._outbox = Outbox()
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
        results = await self._outbox.collect(epoch, seen, timeout_s)
        if results:
            self._handed_out.set()
        return results

    def _put(self, ids: list[str]) -> None:
        for id in ids:
            self._outbox.put(Result(id, "completed"))


async def _run(directory: FakeDirectory, host: FakeHost, count: int, limit: int) -> list[str]:
    """The ids of the results of ``count`` children, ``limit`` at once."""
    children = [
        Child(ChildSpec(f"{at}", f"{at}", Agent("", ""), "", 0, "shared", ""), "run")
        for at in range(count)
    ]
    by_id = {child.spec.id: child for child in children}

    def do(command: FinishChildren) -> None:
        for result in command.results:
            by_id[result.session_id].result = result

    async def committed() -> None:
        return None

    activation = SimpleNamespace(
        id="parent",
        profile=SimpleNamespace(family_id="family"),
        entity=SimpleNamespace(do=do, committed=committed, epoch=1),
    )
    hosts = SimpleNamespace(directory=directory, host=lambda name: host)
    spawns = Spawner(cast(Activation, activation), cast(HostProvider, hosts), "here")
    async with asyncio.timeout(LIMIT_S):
        results = await spawns.spread("0.0", limit).run(children, fail_fast=False, again=False)
    return [result.session_id for result in results]


async def test_slots_that_come_free_are_filled_at_once() -> None:
    directory, host = FakeDirectory(most=100), FakeHost()
    assert await _run(directory, host, 50, 2) == [f"{at}" for at in range(50)]
    assert sorted(host.started, key=int) == [f"{at}" for at in range(50)]
    await until(lambda: not directory.held)


async def test_a_result_may_be_faster_than_the_news_that_its_child_was_started() -> None:
    host = FakeHost(result_comes_first=True)
    assert await _run(FakeDirectory(most=1), host, 2, 2) == ["0", "1"]
    assert host.started == ["0", "1"]


class LosingHost(FakeHost):
    """Has its children taken from it, once, and says nothing about it."""

    async def start_children(self, batch: Batch) -> None:
        self.started += [child.id for child in batch.children]
        if batch.again:
            self._put([child.id for child in batch.children])


async def test_what_a_host_was_robbed_of_is_started_there_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(spawn, "_POLL_S", A_MOMENT_S)
    host = LosingHost()
    assert await _run(FakeDirectory(most=2), host, 2, 2) == ["0", "1"]
    assert host.started == ["0", "1"] * 2
