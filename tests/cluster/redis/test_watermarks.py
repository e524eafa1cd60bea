"""A Redis that went back to an earlier state: whoever notices stops the workspace, and says so.

The servers are real: an older copy of one's files takes their place, or a replica that missed the
last writes takes over. Money that was spent by then must never be there again.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import cast

import pytest
import redis

from retinue.actors.domain.budget.commands import Exceeded, LeaseGranted, LeaseRequest, OpenFamily
from retinue.actors.domain.budget.state import Cap
from retinue.actors.domain.errors import Fenced, RolledBack
from retinue.actors.domain.permissions.boundary import Boundary
from retinue.actors.domain.permissions.decision import Decision
from retinue.actors.domain.permissions.policy import Policy
from retinue.actors.domain.session.commands import (
    AcceptRun,
    FinishRun,
    RecordDecision,
    SettleReservation,
    StartRun,
)
from retinue.actors.domain.session.result import Result
from retinue.actors.domain.session.settings import Limits
from retinue.actors.domain.session.state import Budget, Profile
from retinue.actors.domain.values.ids import derived_id
from retinue.actors.domain.values.keyring import Keyring
from retinue.actors.durable.entity import Entity
from retinue.actors.durable.runtime import Runtime
from retinue.actors.ports import HostProvider, StoreProvider, Stores
from retinue.actors.requests import Create
from retinue.actors.session.activation import Activation
from retinue.actors.session.host import SessionHost
from retinue.actors.stores.budget import BudgetActor
from retinue.actors.stores.capabilities import CapabilitiesActor
from retinue.actors.stores.permissions import PermissionsActor
from retinue.actors.stores.table import MACHINES, STORES
from retinue.actors.views import FeedEvent, WorkspaceSettings
from retinue.cluster.doctor.machine import _server
from retinue.cluster.ray import actors as remote
from retinue.cluster.ray import bootstrap
from retinue.cluster.redis import watermarks
from retinue.cluster.redis.connection import Connection, short
from retinue.cluster.redis.journal import RedisJournal
from retinue.cluster.redis.registry import RedisRegistry
from retinue.cluster.settings import DEFAULT_NAMESPACE, ClusterSettings
from tests.kit.redis_outside import Node, wait_for, watched

SCOPE, OTHER = derived_id("a workspace"), derived_id("another workspace")
ME, SOMEBODY = derived_id("me"), derived_id("somebody")
LOST = "Redis has lost rows"
KEYRING = Keyring(bytes(32))
CAP = 100
WORKSPACE = WorkspaceSettings(SCOPE, None, Policy(), Boundary())


class Process:
    """What one process of a cluster is made of; it forgets everything when another takes over."""

    def __init__(self, url: str) -> None:
        self.connection = Connection(url, "t", patience_s=40)
        registry = RedisRegistry(self.connection, KEYRING)
        self.runtime = Runtime(RedisJournal(self.connection), registry, KEYRING)
        self.fenced = 0
        self.runtime.on_fenced = self._count
        self.budget = BudgetActor(self.runtime, SCOPE)

    async def lease(self, number: int, *, spent: int = 0, lent: int = 0, epoch: int = 1) -> object:
        (reply,) = await self.budget.lease([LeaseRequest(ME, epoch, number, spent, lent)])
        return reply

    async def close(self) -> None:
        await self.connection.close()

    def _count(self) -> None:
        self.fenced += 1


class Host:
    """A process with sessions, beside the one that has the budget."""

    def __init__(self, process: Process, beside: Host | None = None) -> None:
        """``beside`` is another host, whose stores it uses then."""
        self.process = process
        runtime = process.runtime
        capabilities = CapabilitiesActor(runtime, "cluster")
        self._stores: Stores = (
            beside._stores
            if beside
            else Stores(
                process.budget, PermissionsActor(runtime, SCOPE, capabilities), capabilities
            )
        )
        peers = cast(HostProvider, self)
        self.host = SessionHost(runtime, cast(StoreProvider, self), peers, "host")

    @property
    def directory(self) -> Host:
        return self

    async def stores(self, workspace_id: str) -> Stores:
        return self._stores

    async def publish(self, host: str, events: list[FeedEvent], gone: list[str]) -> None:
        """Nobody is listening."""

    async def create(self) -> Activation:
        await self.process.runtime.registry.put_workspace(WORKSPACE)
        money = Budget(CAP, CAP, 80)
        profile = Profile(ME, "0" * 16, SCOPE, ME, 0, None, "shared", money, Limits())
        await self.host.create(Create(profile))
        return await self.live()

    async def live(self) -> Activation:
        return (await self.host._catalog.get(ME, SCOPE)).activation


async def spend(activation: Activation, amount: int) -> None:
    """Reserve and spend, as a turn does."""
    assert not isinstance(await activation.budget_lease.hold(amount), Exceeded)
    entity = activation.entity
    run = f"{entity.state.spent}"
    entity.do(AcceptRun(run, "prompt"))
    entity.do(StartRun(run, entity.epoch))
    decision = Decision("allowed", amount=amount, operation=f"op {run}")
    entity.do(RecordDecision(run, "0", "spend", decision))
    activation.budget_lease.drop(amount)
    entity.do(SettleReservation(decision.operation, amount))
    entity.do(FinishRun(run, Result(ME, "completed")))
    await entity.committed()
    await activation.budget_lease.report()


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a name that is short enough for sockets."""
    return tmp_path_factory.mktemp("b")


@pytest.fixture
def node(place: Path) -> Iterator[Node]:
    with Node(place / "n") as node:
        yield node


class Start:
    """Starts processes on one server, and closes them all."""

    def __init__(self) -> None:
        self.made: list[Process] = []

    def __call__(self, node: Node | str) -> Process:
        url = node if isinstance(node, str) else node.url
        self.made.append(Process(url))
        return self.made[-1]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    start = Start()
    yield start
    for process in start.made:
        await process.close()


# A store that is live


async def test_a_budget_that_is_live_refuses_to_go_on_with_what_an_older_copy_has(
    node: Node, place: Path, start: Start
) -> None:
    process = start(node)
    await process.budget.open_family(OpenFamily(ME, Cap(CAP), CAP, 10))
    await process.lease(1, spent=10, lent=10)
    node.save_to(place / "copy")
    await process.lease(2, spent=90, lent=90)
    node.roll_back_to(place / "copy")
    for _ in range(2):  # nor later
        with pytest.raises(RolledBack, match=f"budget/budget: {LOST} that it had confirmed"):
            await process.lease(3, spent=90, lent=91)
        with pytest.raises(RolledBack, match=LOST):
            await process.budget.levels([ME])


async def test_nor_does_one_that_is_started_anew_and_its_error_says_what_to_do(
    node: Node, place: Path, start: Start
) -> None:
    process = start(node)
    await process.budget.open_family(OpenFamily(ME, Cap(CAP), CAP, 10))
    node.save_to(place / "copy")
    await process.lease(1, spent=90, lent=90)
    node.roll_back_to(place / "copy")
    with pytest.raises(RolledBack):
        await process.lease(2, spent=90, lent=91)
    await process.runtime.committer.drain()
    for _ in range(2):
        with pytest.raises(RolledBack, match=LOST) as caught:
            await start(node).lease(1, lent=50)
    assert caught.value.message.endswith(
        "Then bring back the newest copy of Redis, or accept the loss: "
        f"redis-cli del 't:{{{short(SCOPE)}}}:stopped', and restart"
    )
    assert await start(node).connection.command("DEL", f"t:{{{short(SCOPE)}}}:stopped") == 1
    assert await start(node).lease(1, lent=50) == LeaseGranted(50)


async def test_one_whose_epoch_is_gone_does_not_think_that_it_was_taken_over(
    node: Node, place: Path, start: Start
) -> None:
    before = start(node)
    await before.budget.open_family(OpenFamily(ME, Cap(CAP), CAP, 10))
    node.save_to(place / "copy")
    process = start(node)
    await process.budget.levels([ME])
    node.roll_back_to(place / "copy")
    with pytest.raises(RolledBack, match=LOST):
        await process.lease(1, lent=50)
    assert process.fenced == 0


async def test_nobody_compacts_what_is_left(node: Node, place: Path, start: Start) -> None:
    process = start(node)
    await process.budget.open_family(OpenFamily(ME, Cap(CAP), CAP, 10))
    node.save_to(place / "copy")
    await process.lease(1, lent=50)
    node.roll_back_to(place / "copy")
    entity = await process.budget._entity.entity()
    await entity.compact()
    with pytest.raises(RolledBack, match=LOST):
        await process.lease(2, lent=50)
    assert process.fenced == 0


async def test_other_workspaces_go_on(node: Node, place: Path, start: Start) -> None:
    process = start(node)
    other = BudgetActor(process.runtime, OTHER)
    await process.budget.open_family(OpenFamily(ME, Cap(CAP), CAP, 10))
    await other.open_family(OpenFamily(SOMEBODY, Cap(CAP), CAP, 10))
    node.save_to(place / "copy")
    await process.lease(1, lent=50)
    node.roll_back_to(place / "copy")
    with pytest.raises(RolledBack):
        await process.lease(2, lent=50)
    assert await other.lease([LeaseRequest(SOMEBODY, 1, 1, 0, 50)]) == [LeaseGranted(50)]


# A session


async def test_a_live_session_that_notices_stops_a_budget_that_was_started_anew(
    node: Node, place: Path, start: Start
) -> None:
    hosting = Host(start(node))
    activation = await hosting.create()
    node.save_to(place / "copy")
    await spend(activation, 60)
    node.roll_back_to(place / "copy")
    anew = start(node)  # whose memory went with its process
    assert (await anew.budget.levels([ME]))[0].spent == 0
    with pytest.raises(RolledBack, match=LOST):
        await activation.entity.confirmed()
    await hosting.process.runtime.committer.drain()
    with pytest.raises(RolledBack, match=LOST):
        await anew.budget.lease([LeaseRequest(SOMEBODY, 1, 1, 0, 100)])
    with pytest.raises(RolledBack, match=LOST):
        await hosting.live()


async def test_a_session_whose_journal_alone_went_back_spends_nothing(
    node: Node, start: Start
) -> None:
    hosting = Host(start(node))
    await spend(await hosting.create(), 30)
    before = _dump(node)
    await spend(await hosting.live(), 30)
    _restore(node, before)
    later = Host(start(node))
    activation = await later.live()
    assert activation.entity.state.spent == 30
    with pytest.raises(RolledBack, match=f"session/{ME}: the budget .* has heard of"):
        await activation.budget_lease.hold(70)
    assert activation.entity.broken is not None
    level = (await later.process.budget.levels([ME]))[0]
    assert (level.spent, level.held) == (60, 60)


async def test_nor_does_one_that_lost_only_its_last_activation(node: Node, start: Start) -> None:
    hosting = Host(start(node))
    await spend(await hosting.create(), 30)
    before = _dump(node)
    for _ in range(2):
        hosting = Host(start(node))
        await (await hosting.live()).budget_lease.hold(30)
    _restore(node, before)
    activation = await Host(start(node)).live()
    with pytest.raises(RolledBack, match="has heard of a later activation"):
        await activation.budget_lease.hold(5)


async def test_one_that_was_taken_over_is_told_so_and_not_that_something_was_lost(
    node: Node, start: Start
) -> None:
    hosting = Host(start(node))
    old = await hosting.create()
    await spend(old, 30)
    new = await Host(start(node), beside=hosting).live()
    await new.budget_lease.hold(30)
    with pytest.raises(Fenced, match=f"session/{ME} has been taken over"):
        await old.budget_lease.hold(5)
    await spend(new, 40)


def test_the_doctor_names_what_was_stopped(node: Node) -> None:
    async def stop() -> None:
        connection = Connection(node.url, DEFAULT_NAMESPACE)
        await RedisJournal(connection).stop(SCOPE, "budget/budget: the reason")
        await connection.close()

    assert _server("Redis", node.url).verdict == "ok"
    asyncio.run(stop())
    check = _server("Redis", node.url)
    assert check.verdict == "problem"
    assert check.found.startswith("budget/budget: the reason. Then bring back the newest copy")


# While nobody ran


async def test_a_redis_that_went_back_while_nobody_ran_is_refused_at_the_next_start(
    node: Node, place: Path, start: Start
) -> None:
    file, process = place / "heads.json", start(node)
    await process.runtime.registry.put_workspace(WORKSPACE)
    await process.budget.open_family(OpenFamily(ME, Cap(CAP), CAP, 10))
    await process.lease(1, lent=10)
    await watermarks.compare(process.connection, file)
    node.save_to(place / "copy")
    await process.lease(2, lent=20)
    await watermarks.note(process.connection, file)
    await watermarks.compare(start(node).connection, file)
    node.roll_back_to(place / "copy")
    for _ in range(2):
        with pytest.raises(RolledBack) as caught:
            await watermarks.compare(start(node).connection, file)
    assert caught.value.message == (
        f"Redis at {node.url} went back: budget of workspace {SCOPE} is at epoch 1, row 2, and was "
        "at epoch 1, row 3 when it was last seen from here. Bring back the newest copy, or accept "
        f"the loss: rm '{file}'"
    )
    file.unlink()
    await watermarks.compare(start(node).connection, file)


async def test_so_is_one_that_lost_everything_but_not_another_one(
    node: Node, place: Path, start: Start
) -> None:
    file, process = place / "heads.json", start(node)
    await process.runtime.registry.put_workspace(WORKSPACE)
    await process.budget.levels([ME])
    await watermarks.note(process.connection, file)
    with Node(place / "another") as another:
        await watermarks.compare(start(another).connection, file)
    with node.client() as client:
        client.flushall()
    with pytest.raises(RolledBack, match="is at epoch 0, row 0, and was at epoch 1, row 0"):
        await watermarks.compare(start(node).connection, file)


async def test_every_store_of_a_workspace_is_noted(node: Node, place: Path, start: Start) -> None:
    file, process = place / "heads.json", start(node)
    runtime = process.runtime
    await runtime.registry.put_workspace(WORKSPACE)
    keys = [key for spec in STORES for key in spec.keys(SCOPE)]
    for key in keys:
        machine = MACHINES[key.kind]
        await Entity.activate(machine, key, runtime.committer, KEYRING, runtime.clock)
    await watermarks.note(process.connection, file)
    own = {f"{key.kind} of workspace {SCOPE}" for key in keys if key.workspace_id == SCOPE}
    [noted] = json.loads(file.read_bytes()).values()
    assert noted.keys() == own


async def test_a_cluster_does_not_come_up_on_one_that_has_less(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[ClusterSettings] = []
    monkeypatch.setenv("RETINUE_HOME", str(place))
    monkeypatch.setattr(bootstrap, "mark_process", lambda: None)
    monkeypatch.setattr(bootstrap, "_init", lambda address: False)
    monkeypatch.setattr(remote, "processors", lambda: 2)
    monkeypatch.setattr(bootstrap, "_start_directory", started.append)
    with bootstrap.bring_up(None) as connected:
        connection = Connection.of(connected.settings)
        runtime = Runtime(RedisJournal(connection), RedisRegistry(connection, KEYRING), KEYRING)
        await runtime.registry.put_workspace(WORKSPACE)
        await BudgetActor(runtime, SCOPE).levels([])
        await connection.close()
    with bootstrap.bring_up(None):
        assert len(started) == 2
    for file in (place / "redis").glob("appendonly*"):
        shutil.rmtree(file) if file.is_dir() else file.unlink()
    for _ in range(2):
        with pytest.raises(RolledBack, match="went back: budget of workspace"):
            bootstrap.bring_up(None)
    assert len(started) == 2
    (place / "heads.json").unlink()
    bootstrap.bring_up(None).close()


# A fail-over


async def test_a_replica_that_missed_the_last_writes_stops_what_had_confirmed_them(
    place: Path, start: Start
) -> None:
    with watched(place) as (primary, replica, sentinel):
        process = start(sentinel.url)
        await process.budget.open_family(OpenFamily(ME, Cap(CAP), CAP, 10))
        await process.lease(1, spent=10, lent=10)
        with primary.client() as client, replica.client() as other:
            wait_for(lambda: _offset(other) == client.info("replication")["master_repl_offset"])
            client.config_set("requirepass", "so that the replica does not come back")
            client.client_kill_filter(_type="replica")
        await process.lease(2, spent=90, lent=90)
        primary.kill()
        with pytest.raises(RolledBack, match=LOST):
            await process.lease(3, spent=90, lent=91)


def _offset(client: redis.Redis) -> object:
    return client.info("replication")["slave_repl_offset"]


def _dump(node: Node) -> dict[bytes, bytes]:
    """The session's own keys, as they are."""
    with node.client() as client:
        keys = cast("list[bytes]", client.keys(f"t:{{{short(SCOPE)}}}:session:{short(ME)}*"))
        return {key: client.dump(key) or b"" for key in keys}


def _restore(node: Node, dumped: dict[bytes, bytes]) -> None:
    with node.client() as client:
        for key, value in dumped.items():
            client.restore(key, 0, value, replace=True)
