"""What stores do by themselves: what is over goes, is told and audited; else nothing happens."""

from __future__ import annotations

import asyncio

import pytest

from retinue.actors.domain.permissions.allowances.allowance import Allowance
from retinue.actors.domain.permissions.approvals.machine import DEFERRED_US, Decide
from retinue.actors.domain.permissions.approvals.request import WAIT_US, Scope
from retinue.actors.domain.permissions.approvals.state import RETENTION_US, State
from retinue.actors.domain.permissions.capabilities.token import SKEW_US, Token, mint
from retinue.actors.domain.permissions.patterns import CommandPattern
from retinue.actors.domain.values.ids import derived_id
from retinue.actors.domain.values.keyring import Keyring
from retinue.actors.durable import singleton
from tests.kit.memory_stores import (
    FAMILY,
    QUESTION,
    REF,
    REQUEST_ID,
    RUN,
    START,
    USER,
    MemoryStores,
)
from tests.kit.waiting import until


@pytest.fixture
def stores(monkeypatch: pytest.MonkeyPatch) -> MemoryStores:
    monkeypatch.setattr(singleton, "UPKEEP_S", 0.01)
    return MemoryStores()


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
    stores: MemoryStores,
) -> None:
    await stores.permissions.resolve(QUESTION)
    seen, entries = await stores.permissions.watch(0, None, 0.0)
    assert [str(one.status) for one in entries] == ["pending"]
    stores.now += WAIT_US
    seen, entries = await stores.permissions.watch(seen, None, 10.0)
    assert [str(one.status) for one in entries] == ["deferred"]
    stores.now += DEFERRED_US
    assert (await stores.permissions.watch(seen, None, 10.0))[1] == []
    assert await stores.status() == "expired"
    assert await stores.audited() == ["Asked", "Deferred", "Expired"]


async def test_a_finished_request_is_forgotten_after_a_day(stores: MemoryStores) -> None:
    await stores.permissions.resolve(QUESTION)
    await stores.permissions.decide(Decide(REQUEST_ID, Scope.ONCE, "ann", REF.hash))
    stores.now += RETENTION_US - 1
    await asyncio.sleep(0.05)
    assert await stores.status() == "decided"
    stores.now += 1

    async def forgotten() -> bool:
        return await stores.book() == State()

    await until(forgotten)


async def test_an_expired_allowance_goes(stores: MemoryStores) -> None:
    one = Allowance(derived_id("one"), CommandPattern("make"), START, START + 1_000_000)
    other = Allowance(derived_id("other"), CommandPattern("make"), START)
    await stores.permissions.grant(one)
    await stores.permissions.grant(other)
    stores.now += 1_000_000

    async def left() -> list[str]:
        return [allowance.id for allowance in await stores.permissions.allowances()]

    async def one_left() -> bool:
        return await left() == [other.id]

    await until(one_left)


async def test_an_expired_token_goes_once_no_clock_could_still_believe_it(
    stores: MemoryStores,
) -> None:
    await stores.capabilities.add(token("it"))
    state = (await stores.capabilities._entity.entity()).state
    stores.now += 1_000_000 + SKEW_US - 1
    await asyncio.sleep(0.05)
    assert state.tokens
    stores.now += 1
    await until(lambda: not state.tokens)


async def test_a_token_of_an_ended_session_can_not_be_used(stores: MemoryStores) -> None:
    other = derived_id("other family")
    await stores.capabilities.add(token("mine"))
    await stores.capabilities.add(token("theirs", other))
    await stores.capabilities.clear_session(FAMILY)
    assert await stores.capabilities.find("op", RUN, FAMILY, USER, None) is None
    assert not await stores.capabilities.use("op", token("mine").id)
    assert await stores.capabilities.use("op", token("theirs", other).id)


async def test_nothing_is_written_nor_asked_while_nothing_is_due(stores: MemoryStores) -> None:
    await stores.permissions.resolve(QUESTION)
    await stores.permissions.allowances()
    await stores.capabilities.add(token("it"))
    before = stores.journal.asked
    await asyncio.sleep(0.2)  # twenty times
    assert stores.journal.asked == before
    stores.now += DEFERRED_US + WAIT_US  # it comes to be deferred, and stays so for a day

    async def deferred() -> bool:
        return await stores.status() == "deferred"

    await until(deferred)
    await until(lambda: stores.journal.asked == before + 2)  # that, and the token is gone
    await asyncio.sleep(0.2)
    assert stores.journal.asked == before + 2


async def test_a_store_that_was_just_started_looks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    stores = MemoryStores()
    await stores.permissions.resolve(QUESTION)
    stores.now += WAIT_US
    stores.permissions = stores.another()
    await stores.permissions.open_requests()

    async def deferred() -> bool:
        return await stores.status() == "deferred"

    await until(deferred)


async def test_one_that_was_taken_over_looks_no_more(stores: MemoryStores) -> None:
    await stores.permissions.resolve(QUESTION)
    looking = stores.permissions._approvals._upkeep
    assert looking is not None
    await stores.another().open_requests()
    stores.now += WAIT_US
    await until(looking.done)
