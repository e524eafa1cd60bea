"""The directory over hosts that are only pretended: what it does when they die, hang or go."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress

import pytest

from retinue.actors.domain.errors import ClusterUnavailable, NotFound
from retinue.actors.domain.session.settings import Isolation
from retinue.actors.domain.values.keyring import Keyring
from retinue.actors.durable.memory_journal import MemoryJournal
from retinue.actors.durable.runtime import Runtime
from retinue.actors.stores.table import BUDGET
from retinue.actors.views import SessionKey
from retinue.cluster.directory.directory import Directory
from retinue.cluster.directory.hosts import HostControl
from retinue.cluster.directory.pool import Pool
from retinue.cluster.names import DIRECTORY
from retinue.cluster.status import Node
from tests.kit.waiting import until
from tests.simulation.registry import Books, SimulatedRegistry

WORKSPACE = "w"
LIMIT_S = 10.0


def node(id: str, *, draining: bool = False) -> Node:
    return Node(id, f"10.0.0.{id}", id, draining=draining, cpus=4, free_cpus=4)


class FakeHost:
    """A host that runs, until it is killed."""

    def __init__(self, node: str) -> None:
        self._node = node
        self.sessions: dict[str, Isolation] = {}
        self.dead = asyncio.Event()
        self.left = False

    async def ping(self) -> tuple[int, list[tuple[str, Isolation]]]:
        self._must_live()
        return 1, list(self.sessions.items())

    async def node(self) -> str:
        self._must_live()
        return self._node

    async def warm(self) -> None: ...

    async def working(self) -> list[str]:
        self._must_live()
        return list(self.sessions)

    async def resume_all(self, sessions: list[tuple[str, str]]) -> None:
        self._must_live()
        self.sessions.update({id: "shared" for id, _ in sessions})

    async def leave(self) -> None:
        self.left = True

    async def stay(self) -> None:
        await self.dead.wait()
        self._must_live()

    def _must_live(self) -> None:
        if self.dead.is_set():
            raise ClusterUnavailable("dead")


class FakeCluster:
    """Implements `retinue.cluster.directory.directory.Launcher`."""

    def __init__(self) -> None:
        self.hosts: dict[str, FakeHost] = {}
        self.there = {"1": node("1")}
        self.stores: dict[str, str] = {}
        self.away = False

    def start(self, name: str, node: str | None) -> None:
        self.hosts[name] = FakeHost(node or "")

    def kill(self, name: str) -> None:
        self.stores.pop(name, None)
        if host := self.hosts.get(name):
            host.dead.set()

    def known(self) -> list[str]:
        return [name for name, host in self.hosts.items() if not host.dead.is_set()]

    def host(self, name: str) -> HostControl:
        return self.hosts[name]

    def open_stores(self, workspace_id: str) -> None:
        self.stores[BUDGET.actor_name(workspace_id)] = "1"

    async def nodes(self) -> list[Node]:
        if self.away:
            raise ClusterUnavailable("Ray's head is away")
        return list(self.there.values())

    async def drain(self, node_id: str) -> None:
        self.there[node_id] = node(node_id, draining=True)

    async def stores_on(self, node_id: str) -> list[str]:
        return [name for name, where in self.stores.items() if where == node_id]

    async def idle_stores(self) -> dict[str, float]:
        return {}

    async def move(self, name: str) -> None:
        self.stores[name] = "2"

    def holder(self, session_id: str) -> str | None:
        """The living host that has a session."""
        return next((one for one in self.known() if session_id in self.hosts[one].sessions), None)


class Setting:
    """A cluster, what is stored of its sessions, and directories over it."""

    def __init__(self) -> None:
        self.cluster = FakeCluster()
        self.books = Books()
        self._made: list[Directory] = []

    def directory(self, restarted: bool = False) -> Directory:
        ids = (f"{number}" for number in itertools.count(len(self.cluster.hosts)))
        runtime = Runtime(MemoryJournal(), SimulatedRegistry(self.books), Keyring(bytes(32)))
        runtime.new_id = lambda: next(ids)  # type: ignore[method-assign]
        made = Directory(runtime, self.cluster, Pool(8), 1, 60.0, restarted)
        self._made.append(made)
        return made

    async def at_work(self, directory: Directory, session_id: str) -> str:
        """A root session with a run under way; its host."""
        self.books.places[session_id] = SessionKey(WORKSPACE, session_id)
        self.books.running[session_id] = None
        host = await directory.place(session_id, WORKSPACE, "shared")
        self.cluster.hosts[host].sessions[session_id] = "shared"
        return host

    async def close(self) -> None:
        for directory in self._made:
            await directory._tasks.cancel()


@pytest.fixture
async def setting() -> AsyncIterator[Setting]:
    made = Setting()
    yield made
    await made.close()


async def test_a_host_that_dies_is_replaced_and_what_was_at_work_goes_on(setting: Setting) -> None:
    directory, cluster = setting.directory(), setting.cluster
    host = await setting.at_work(directory, "s")
    cluster.kill(host)  # it is heard of at once, not with the next ping
    await until(lambda: cluster.holder("s") not in (None, host), LIMIT_S)
    assert await directory.locate("s") == (WORKSPACE, cluster.holder("s"))
    assert host not in await directory.hosts()
    assert await directory.working() == ["s"]


async def test_a_directory_that_was_restarted_finds_the_hosts_and_what_they_hold(
    setting: Setting,
) -> None:
    host = await setting.at_work(setting.directory(), "s")
    setting.books.places["lost"] = SessionKey(WORKSPACE, "lost")
    setting.books.running["lost"] = None
    again = setting.directory(restarted=True)
    assert await again.locate("s") == (WORKSPACE, host)
    await until(lambda: setting.cluster.holder("lost") is not None, LIMIT_S)


async def test_a_new_directory_leaves_alone_what_was_at_work_when_its_cluster_died(
    setting: Setting,
) -> None:
    setting.books.places["s"] = SessionKey(WORKSPACE, "s")
    setting.books.running["s"] = None
    directory = setting.directory()
    await until(_has_hosts(directory), LIMIT_S)
    assert setting.cluster.holder("s") is None
    await directory.go_on([])
    assert setting.cluster.holder("s")


async def test_a_node_that_is_drained_loses_its_hosts_and_then_its_stores(
    setting: Setting,
) -> None:
    directory, cluster = setting.directory(), setting.cluster
    cluster.stores[DIRECTORY] = "1"
    host = await setting.at_work(directory, "s")
    cluster.there["2"] = node("2")
    left = await directory.drain("10.0.0.1")
    assert (left.draining, left.stores) == (True, 2)
    await until(lambda: cluster.holder("s") not in (None, host), LIMIT_S)
    assert cluster.hosts[host].left

    async def is_empty() -> bool:
        left = await directory.drain("1")
        return (left.hosts, left.sessions, left.stores) == (0, 0, 0)

    await until(is_empty, LIMIT_S)
    assert cluster.stores == {DIRECTORY: "2", BUDGET.actor_name(WORKSPACE): "2"}
    with pytest.raises(ClusterUnavailable, match="is the only one"):
        await directory.drain("2")


async def test_a_beginning_that_failed_is_tried_again_by_the_next_caller(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = setting.directory()
    with monkeypatch.context() as patch:
        patch.setattr(setting.cluster, "known", _fail)
        with pytest.raises(ZeroDivisionError):
            await directory.begin()
    setting.cluster.away = True  # which it can do without
    await until(_has_hosts(directory), LIMIT_S)


async def test_whoever_gives_up_while_it_begins_does_not_keep_others_from_it(
    setting: Setting,
) -> None:
    directory = setting.directory()
    impatient = asyncio.create_task(directory.begin())
    await asyncio.sleep(0)
    impatient.cancel()
    with suppress(asyncio.CancelledError):
        await impatient
    await until(_has_hosts(directory), LIMIT_S)


async def test_parts_answer_by_the_names_of_their_methods(setting: Setting) -> None:
    directory = setting.directory()
    await setting.at_work(directory, "s")
    assert await directory.ask("registry", "running") == ["s"]
    assert await directory.ask("queries", "family", "s") == []
    with pytest.raises(NotFound):
        await directory.ask("registry", "locate", "unknown")


def _fail() -> list[str]:
    raise ZeroDivisionError


def _has_hosts(directory: Directory) -> Callable[[], Awaitable[bool]]:
    async def has() -> bool:
        return bool(await directory.hosts())

    return has
