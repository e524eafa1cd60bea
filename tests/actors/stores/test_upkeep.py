"""What stores do by themselves: what is over goes, is told and audited; else nothing happens."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import pytest

from retinue.actors.domain.permissions.actions import ExecuteCommand
from retinue.actors.domain.permissions.allowances.machine import Allowance
from retinue.actors.domain.permissions.approvals.machine import (
    DEFERRED_US,
    RETENTION_US,
    WAIT_US,
    ApprovalRequest,
    Scope,
    State,
    request_for,
)
from retinue.actors.domain.permissions.capabilities.token import SKEW_US, Token, mint
from retinue.actors.domain.permissions.patterns import CommandPattern
from retinue.actors.domain.values.ids import derived_id
from retinue.actors.domain.values.keyring import Keyring
from retinue.actors.durable import singleton
from retinue.actors.durable.audit import Head, verify
from retinue.actors.durable.entity import read
from retinue.actors.durable.journal import Append, Key, Outcomes
from retinue.actors.durable.machines import APPROVALS
from retinue.actors.durable.memory_journal import MemoryJournal
from retinue.actors.durable.runtime import Runtime
from retinue.actors.ports import Registry
from retinue.actors.stores.capabilities import CapabilitiesActor
from retinue.actors.stores.permissions import PermissionsActor
from retinue.actors.views import WorkspaceSettings
from tests.kit.waiting import until

START = 1_800_000_000_000_000
FAMILY = derived_id("family")
USER = "0123456789abcdef"
RUN = ExecuteCommand("make")
BOOK = Key("scope", "approvals", "approvals")


class Counting(MemoryJournal):
    """Counts what it is asked."""

    asked = 0

    async def append(self, batch: Sequence[Append]) -> Outcomes:
        self.asked += len(batch)
        return await super().append(batch)


class _Registry:
    async def workspace(self, workspace_id: str) -> WorkspaceSettings:
        return cast(WorkspaceSettings, type("Settings", (), {"path": None}))


@dataclass
class World:
    """Stores, and the time that they go by."""

    journal: Counting = field(default_factory=Counting)
    now: int = START

    def __post_init__(self) -> None:
        registry = cast(Registry, _Registry())
        self.runtime = Runtime(self.journal, registry, Keyring(bytes(32)), lambda: self.now)
        self.permissions = PermissionsActor(self.runtime, "scope")
        self.capabilities = CapabilitiesActor(self.runtime, "cluster")

    async def book(self) -> State:
        state = await read(APPROVALS, BOOK, self.journal, self.runtime.keyring)
        assert state is not None
        return state

    async def status(self) -> str:
        return str((await self.book()).requests[REQUEST.id].status)

    async def audited(self) -> list[str]:
        rows = await self.journal.audit(BOOK, 0, 100)
        head = Head(len(rows), rows[-1][:20])
        report = verify("book", rows, head, self.runtime.keyring, APPROVALS.event)
        assert report.problem is None
        return [entry.kind for entry in report.entries]


REQUEST: ApprovalRequest = request_for(
    RUN, id=derived_id("it"), session_id=FAMILY, family_id=FAMILY, now=START
)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(singleton, "UPKEEP_S", 0.01)
    return World()


def token(name: str, family: str | None = FAMILY) -> Token:
    return mint(
        Keyring(bytes(32)),
        id=derived_id(name),
        resource="exec://make",
        permissions=("execute",),
        now=START,
        expires=START + 1_000_000,
        user=USER,
        audit_entry="test",
        family_id=family,
    )


async def test_a_request_past_its_time_is_moved_on_audited_and_told_to_watchers(
    world: World,
) -> None:
    await world.permissions.ask(REQUEST)
    seen, entries = await world.permissions.watch(0, None, 0.0)
    assert [str(one.status) for one in entries] == ["pending"]
    world.now += WAIT_US
    seen, entries = await world.permissions.watch(seen, None, 10.0)
    assert [str(one.status) for one in entries] == ["deferred"]
    world.now += DEFERRED_US
    assert (await world.permissions.watch(seen, None, 10.0))[1] == []
    assert await world.status() == "expired"
    assert await world.audited() == ["Asked", "Deferred", "Expired"]


async def test_a_finished_request_is_forgotten_after_a_day(world: World) -> None:
    await world.permissions.ask(REQUEST)
    await world.permissions.decide(REQUEST.id, Scope.ONCE, "ann", REQUEST.argument_hash, "", None)
    world.now += RETENTION_US - 1
    await asyncio.sleep(0.05)
    assert await world.status() == "decided"
    world.now += 1

    async def forgotten() -> bool:
        return await world.book() == State()

    await until(forgotten)


async def test_an_expired_allowance_goes(world: World) -> None:
    one = Allowance(derived_id("one"), CommandPattern("make"), START, START + 1_000_000)
    other = Allowance(derived_id("other"), CommandPattern("make"), START)
    await world.permissions.grant(one)
    await world.permissions.grant(other)
    world.now += 1_000_000

    async def left() -> list[str]:
        return [allowance.id for allowance in await world.permissions.allowances()]

    async def one_left() -> bool:
        return await left() == [other.id]

    await until(one_left)


async def test_an_expired_token_goes_once_no_clock_could_still_believe_it(world: World) -> None:
    await world.capabilities.add(token("it"))
    state = (await world.capabilities._holder.entity()).state
    world.now += 1_000_000 + SKEW_US - 1
    await asyncio.sleep(0.05)
    assert state.tokens
    world.now += 1
    await until(lambda: not state.tokens)


async def test_a_token_of_an_ended_session_can_not_be_used(world: World) -> None:
    other = derived_id("other family")
    await world.capabilities.add(token("mine"))
    await world.capabilities.add(token("theirs", other))
    await world.capabilities.clear_session(FAMILY)
    assert await world.capabilities.find("op", RUN, FAMILY, USER, None) is None
    assert not await world.capabilities.use("op", token("mine").id)
    assert await world.capabilities.use("op", token("theirs", other).id)


async def test_nothing_is_written_nor_asked_while_nothing_is_due(world: World) -> None:
    await world.permissions.ask(REQUEST)
    await world.permissions.allowances()
    await world.capabilities.add(token("it"))
    before = world.journal.asked
    await asyncio.sleep(0.2)  # twenty times
    assert world.journal.asked == before
    world.now += DEFERRED_US + WAIT_US  # it comes to be deferred, and stays so for a day

    async def deferred() -> bool:
        return await world.status() == "deferred"

    await until(deferred)
    await until(lambda: world.journal.asked == before + 2)  # that, and the token is gone
    await asyncio.sleep(0.2)
    assert world.journal.asked == before + 2


async def test_a_store_that_was_just_started_looks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    await world.permissions.ask(REQUEST)
    world.now += WAIT_US
    world.permissions = PermissionsActor(world.runtime, "scope")
    await world.permissions.open_requests()

    async def deferred() -> bool:
        return await world.status() == "deferred"

    await until(deferred)


async def test_one_that_was_taken_over_looks_no_more(world: World) -> None:
    await world.permissions.ask(REQUEST)
    looking = world.permissions._approvals._upkeep
    assert looking is not None
    await PermissionsActor(world.runtime, "scope").open_requests()
    world.now += WAIT_US
    await until(looking.done)
