"""Starting sub-agents at a host: new ones by their first write, and what is there goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import pytest

from retinue.actors.agent.process.watchdog import Watchdog
from retinue.actors.agent.shipping import ship
from retinue.actors.agent.turn import Turn
from retinue.actors.domain.budget.commands import Admit, Child, OpenFamily, SetHold
from retinue.actors.domain.budget.state import Cap
from retinue.actors.domain.permissions.boundary import Boundary
from retinue.actors.domain.permissions.policy import Policy
from retinue.actors.domain.session.result import Result
from retinue.actors.domain.session.settings import Limits
from retinue.actors.domain.session.state import Agent, Budget, ChildSpec, Profile
from retinue.actors.domain.values.keyring import Keyring
from retinue.actors.durable.journal import Append, Key, Loaded, Outcomes
from retinue.actors.durable.memory_journal import MemoryJournal
from retinue.actors.durable.runtime import Runtime
from retinue.actors.ports import Batch, Stores
from retinue.actors.requests import Acquire
from retinue.actors.session.host import SessionHost
from retinue.actors.stores.budget import BudgetActor
from retinue.actors.stores.capabilities import CapabilitiesActor
from retinue.actors.stores.permissions import PermissionsActor
from retinue.actors.views import FeedEvent, WorkspaceSettings
from tests.kit.waiting import until
from tests.simulation.registry import Books, SimulatedRegistry

SPACE = "space"
LIMIT_S = 10


@pytest.fixture(autouse=True)
def unwatched(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host's watchdog ends the process when its loop stands still, as here between tests."""
    monkeypatch.setattr(Watchdog, "watch", lambda _: None)


@dataclass
class Stage:
    """What the agents of a test do: they begin, and wait until they are let go."""

    begun: list[str] = field(default_factory=list)
    let_go: asyncio.Event = field(default_factory=asyncio.Event)


STAGE = Stage()


async def agent(turn: Turn, prompt: str) -> str:
    """Go by the stage, and not by a copy of it that was shipped along."""
    from tests.actors.session import test_children

    test_children.STAGE.begun.append(turn.session_id)
    await test_children.STAGE.let_go.wait()
    return prompt


SHIPPED = ship(agent)


class CountingJournal(MemoryJournal):
    """Notes the calls that have to do with sessions."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, ...]] = []

    async def activate(self, key: Key, newest: int | None = None) -> Loaded:
        if key.kind == "session":
            self.calls.append(("activate", key.id))
        await asyncio.sleep(0)
        return await super().activate(key, newest)

    async def append(self, batch: Sequence[Append]) -> Outcomes:
        if ids := [one.key.id for one in batch if one.key.kind == "session"]:
            self.calls.append(("append", *ids))
        await asyncio.sleep(0)
        return await super().append(batch)


class Cluster:
    """One journal, the stores, and hosts whose directory only listens."""

    def __init__(self) -> None:
        self.journal = CountingJournal()
        self.books = Books()
        self.books.workspaces[SPACE] = WorkspaceSettings(SPACE, "/tmp", Policy(), Boundary("/tmp"))
        self.books.agents[SHIPPED.digest] = SHIPPED.blob
        runtime = self._runtime()
        capabilities = CapabilitiesActor(runtime, "cluster")
        self.handles = Stores(
            BudgetActor(runtime, SPACE),
            PermissionsActor(runtime, SPACE, capabilities),
            capabilities,
        )
        self.gone: list[tuple[str, str]] = []
        self.made: list[SessionHost] = []

    def make(self) -> SessionHost:
        self.made.append(SessionHost(self._runtime(), self, self, f"host/{len(self.made)}"))
        return self.made[-1]

    def _runtime(self) -> Runtime:
        return Runtime(self.journal, SimulatedRegistry(self.books), Keyring(bytes(32)))

    # --- implements StoreProvider, HostProvider and DirectoryPort ---------------------------

    @property
    def directory(self) -> Cluster:
        return self

    async def stores(self, workspace_id: str) -> Stores:
        return self.handles

    def host(self, name: str) -> SessionHost:
        raise NotImplementedError

    async def acquire(self, request: Acquire) -> dict[str, str]:
        raise NotImplementedError

    async def release(self, spawner: str) -> None:
        raise NotImplementedError

    async def locate(self, session_id: str) -> tuple[str, str]:
        raise NotImplementedError

    async def hosts(self) -> list[str]:
        raise NotImplementedError

    async def news(self, host: str, families: list[str], gone: list[str]) -> list[str]:
        self.gone += [(host, id) for id in gone]
        return []

    async def publish(self, events: list[FeedEvent]) -> None:
        raise NotImplementedError


@pytest.fixture
async def cluster(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Cluster]:
    monkeypatch.setattr("tests.actors.session.test_children.STAGE", Stage())
    cluster = Cluster()
    await cluster.handles.budget.open_family(OpenFamily("parent", Cap(10**9), 10**9, 100))
    await cluster.handles.budget.admit(
        Admit("parent", "parent", [Child(id, None) for id in ("one", "two", "three")])
    )
    yield cluster
    STAGE.let_go.set()


def batch(*ids: str) -> Batch:
    budget = Budget(10**9, 10**9, 80)
    parent = Profile("parent", "me", SPACE, "parent", 0, None, "shared", budget, Limits())
    shipped = Agent(SHIPPED.digest, SHIPPED.name)
    return Batch(
        parent, [ChildSpec(id, id, shipped, f"{id} is done", 10**8, "shared", "") for id in ids]
    )


async def results(host: SessionHost, count: int) -> list[Result]:
    """The results of the parent's sub-agents at a host, as soon as there are so many."""
    found: list[Result] = []
    async with asyncio.timeout(LIMIT_S):
        while len(found) < count:
            found += await host.collect("parent", 1, [one.session_id for one in found], LIMIT_S)
    return found


async def test_a_new_child_comes_to_be_with_its_first_write(cluster: Cluster) -> None:
    host = cluster.make()
    await host.start_children(batch("one", "two", "three"))
    STAGE.let_go.set()
    assert {one.output for one in await results(host, 3)} == {
        "one is done",
        "two is done",
        "three is done",
    }
    # created, begun, ended: and no activation
    assert cluster.journal.calls == [("append", "one", "two", "three")] * 3


async def test_a_child_that_is_there_goes_on_at_the_host_that_is_told_to_start_it(
    cluster: Cluster,
) -> None:
    first, second = cluster.make(), cluster.make()
    await first.start_children(batch("one"))
    await until(lambda: STAGE.begun == ["one"])
    await second.start_children(batch("one", "two"))
    await until(lambda: sorted(STAGE.begun) == ["one", "one", "two"])
    STAGE.let_go.set()
    done = await results(second, 2)
    assert sorted(one.output for one in done) == ["one is done", "two is done"]
    assert [call for call in cluster.journal.calls if call[0] == "activate"] == [
        ("activate", "one")
    ]


async def test_what_is_told_twice_is_done_once(cluster: Cluster) -> None:
    host = cluster.make()
    await asyncio.gather(*(host.start_children(batch("one")) for _ in range(3)))
    await host.start_children(batch("one"))
    await until(lambda: bool(STAGE.begun))
    STAGE.let_go.set()
    await results(host, 1)
    assert STAGE.begun == ["one"]
    assert cluster.journal.calls == [("append", "one")] * 3


async def test_a_child_that_has_ended_says_so_once_more(cluster: Cluster) -> None:
    first, second = cluster.make(), cluster.make()
    STAGE.let_go.set()
    await first.start_children(batch("one"))
    ended = await results(first, 1)
    await second.start_children(batch("one"))
    assert await results(second, 1) == ended
    assert STAGE.begun == ["one"]


async def test_a_child_that_goes_on_is_not_said_to_be_gone(cluster: Cluster) -> None:
    first, second = cluster.make(), cluster.make()
    await first.start_children(batch("one"))
    await until(lambda: STAGE.begun == ["one"])
    await second.start_children(batch("one", "two"))
    await until(lambda: sorted(STAGE.begun) == ["one", "one", "two"])
    await second.cancel_children(batch("two"))
    await until(lambda: ("host/1", "two") in cluster.gone)
    assert ("host/1", "one") not in cluster.gone


async def test_a_child_that_is_there_goes_on_when_its_workspace_is_released(
    cluster: Cluster,
) -> None:
    first, second = cluster.make(), cluster.make()
    await first.start_children(batch("one"))
    await until(lambda: STAGE.begun == ["one"])
    await cluster.handles.budget.set_hold(SetHold("a fire", "me"))
    await second.start_children(batch("two"))  # so that it knows of the hold
    await second.start_children(batch("one"))
    await cluster.handles.budget.set_hold(SetHold(None, "me"))
    STAGE.let_go.set()
    done = await results(second, 2)
    assert sorted(one.output for one in done) == ["one is done", "two is done"]
