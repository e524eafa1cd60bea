"""An authorisation and its stores: how often it calls them, and what they write."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import cast

import pytest
from msgspec import structs

from retinue.actors.domain.permissions import action_ref, actions
from retinue.actors.domain.permissions.action_ref import ActionRef
from retinue.actors.domain.permissions.actions import Action, argument_hash
from retinue.actors.domain.permissions.allowances.allowance import Allowance
from retinue.actors.domain.permissions.approvals import machine, request
from retinue.actors.domain.permissions.approvals.question import Waiting
from retinue.actors.domain.permissions.approvals.request import Scope
from retinue.actors.domain.permissions.boundary import Boundary, EscapeState
from retinue.actors.domain.permissions.decision import Decision
from retinue.actors.domain.permissions.patterns import CommandPattern
from retinue.actors.domain.permissions.policy import Policy
from retinue.actors.domain.session.settings import Limits
from retinue.actors.domain.session.state import Budget, Profile
from retinue.actors.domain.values.ids import derived_id
from retinue.actors.leases.budget_lease import BudgetLease
from retinue.actors.leases.permission_leases import PermissionLeases
from retinue.actors.ports import BudgetPort, CapabilitiesPort, PermissionsPort, Stores
from retinue.actors.session.authorizer import Authorizer
from retinue.actors.views import WorkspaceSettings
from tests.kit.memory_stores import FAMILY, QUESTION, REF, REQUEST_ID, START, USER, MemoryStores
from tests.kit.waiting import until


class Remote:
    """A store that notes how often it is called, as if it were far away."""

    def __init__(self, store: object, calls: list[str]) -> None:
        self._store = store
        self._calls = calls

    def __getattr__(self, method: str) -> Callable[..., Awaitable[object]]:
        self._calls.append(method)
        return cast("Callable[..., Awaitable[object]]", getattr(self._store, method))


class NoMoney:
    async def give_back(self, amount: int) -> None:
        assert amount == 0


class Session:
    """An authorizer before real stores, and what it has called."""

    def __init__(self, stores: MemoryStores) -> None:
        self.stores = stores
        self.calls: list[str] = []
        profile = Profile(
            id=FAMILY,
            user_id=USER,
            workspace_id="scope",
            family_id=FAMILY,
            created_at=START,
            agent=None,
            isolation="shared",
            budget=Budget(1, 1, 80),
            limits=Limits(),
        )
        self.authorizer = Authorizer(
            profile,
            WorkspaceSettings("scope", None, Policy(), Boundary()),
            Stores(
                cast(BudgetPort, None),
                cast(PermissionsPort, Remote(stores.permissions, self.calls)),
                cast(CapabilitiesPort, Remote(stores.capabilities, self.calls)),
            ),
            cast(BudgetLease, NoMoney()),
            lambda: stores.now,
            PermissionLeases(),
            lambda path, always: None,
        )

    async def ask(self, ref: ActionRef = REF) -> Decision:
        return await self.authorizer.authorize(ref, 0, "", 10_000_000, EscapeState())


@pytest.fixture
def stores() -> MemoryStores:
    return MemoryStores()


@pytest.fixture
def agent(stores: MemoryStores) -> Session:
    return Session(stores)


async def _decide(stores: MemoryStores, scope: Scope) -> None:
    (entry,) = await stores.permissions.open_requests()
    one = entry.request
    await stores.permissions.decide(machine.Decide(one.id, scope, "ann", one.argument_hash))


async def test_one_that_needs_a_person_calls_its_permissions_twice(
    stores: MemoryStores, agent: Session
) -> None:
    await stores.permissions.watch(0, None, 0.0)
    asking = asyncio.create_task(agent.ask())
    await until(lambda: "await_decision" in agent.calls)
    await _decide(stores, Scope.ONCE)
    decision = await asking
    assert decision.proof.startswith("approval:")
    assert agent.calls == ["find", "resolve", "await_decision"]


async def test_an_allowance_takes_one_call(stores: MemoryStores, agent: Session) -> None:
    allowance = Allowance(derived_id("it"), CommandPattern("make"), START, max_uses=1)
    await stores.permissions.grant(allowance)
    before = stores.journal.asked
    decision = await agent.ask()
    assert decision.proof == f"allowance:{allowance.id}"
    assert agent.calls == ["find", "resolve"]
    assert stores.journal.asked == before + 2  # one for each call


async def test_an_approval_that_came_late_takes_one_call(
    stores: MemoryStores, agent: Session
) -> None:
    assert (await agent.ask()).kind == "deferred"  # nobody is there
    await _decide(stores, Scope.ONCE)
    agent.calls.clear()
    decision = await agent.ask(REF._replace(operation="again"))
    assert decision.proof.startswith("approval:")
    assert agent.calls == ["find", "resolve"]


async def test_one_that_is_decided_as_it_stops_waiting_claims_it(
    stores: MemoryStores, agent: Session
) -> None:
    await stores.permissions.watch(0, None, 0.0)
    asking = asyncio.create_task(agent.ask())
    await until(lambda: "await_decision" in agent.calls)
    await stores.permissions.unwatch(None)
    await _decide(stores, Scope.ONCE)
    assert (await asking).kind in ("allowed", "deferred")
    agent.calls.clear()
    assert (await agent.ask()).kind == "allowed"


async def test_asking_a_person_takes_one_flush(stores: MemoryStores, agent: Session) -> None:
    await stores.permissions.resolve(QUESTION)  # so that all is active
    before = stores.journal.flushes
    await stores.permissions.resolve(structs.replace(QUESTION, ref=REF._replace(operation="other")))
    assert stores.journal.flushes == before + 1


async def test_what_is_decided_is_read_and_not_written(stores: MemoryStores) -> None:
    await stores.permissions.resolve(QUESTION)
    await _decide(stores, Scope.SESSION)
    rows = stores.rows()
    entry = await stores.permissions.await_decision(REQUEST_ID, 10.0)
    assert entry.decision is not None
    assert stores.rows() == rows


async def test_whoever_asks_again_waits_while_somebody_is_there(stores: MemoryStores) -> None:
    assert not cast(Waiting, await stores.permissions.resolve(QUESTION)).watched
    assert str((await stores.permissions.await_decision(REQUEST_ID, 10.0)).status) == "deferred"
    await stores.permissions.watch(0, None, 0.0)  # somebody comes
    assert cast(Waiting, await stores.permissions.resolve(QUESTION)).watched
    waiting = asyncio.create_task(stores.permissions.await_decision(REQUEST_ID, 10.0))
    await asyncio.sleep(0)
    await _decide(stores, Scope.ONCE)
    assert (await waiting).claimable


async def test_an_action_is_hashed_once_by_its_session_and_looked_at_once_by_the_store(
    stores: MemoryStores, agent: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[Action] = []

    def counted(action: Action) -> str:
        hashed.append(action)
        return argument_hash(action)

    for module in (actions, action_ref, request, machine):
        monkeypatch.setattr(module, "argument_hash", counted)
    assert (await agent.ask()).kind == "deferred"
    assert len(hashed) == 1  # REF has it, and the store does not take it on trust
