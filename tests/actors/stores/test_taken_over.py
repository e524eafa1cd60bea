"""A store that was taken over answers nothing: no reply from memory, and no error of its own."""

from __future__ import annotations

from typing import cast

import pytest
from msgspec import structs

from retinue.actors.domain.budget.commands import LeaseRequest, OpenFamily
from retinue.actors.domain.budget.state import Cap
from retinue.actors.domain.errors import Fenced, NotFound
from retinue.actors.domain.permissions.action_ref import ActionRef
from retinue.actors.domain.permissions.actions import ExecuteCommand, argument_hash
from retinue.actors.domain.permissions.allowances.allowance import Allowance
from retinue.actors.domain.permissions.approvals.question import Permitted, Question, Waiting
from retinue.actors.domain.permissions.approvals.request import Scope
from retinue.actors.domain.permissions.patterns import CommandPattern
from retinue.actors.domain.values.ids import derived_id
from retinue.actors.domain.values.keyring import Keyring
from retinue.actors.durable.memory_journal import MemoryJournal
from retinue.actors.durable.runtime import Runtime
from retinue.actors.ports import Registry
from retinue.actors.stores import permissions as stores
from retinue.actors.stores.budget import BudgetActor
from retinue.actors.stores.capabilities import CapabilitiesActor
from retinue.actors.stores.permissions import PermissionsActor
from retinue.actors.views import WorkspaceSettings

FAMILY = derived_id("family")
RUN = ExecuteCommand("make")
ALLOWANCE = Allowance(derived_id("allowance"), CommandPattern("make"), 1)
REF = ActionRef(RUN, argument_hash(RUN), "1")
FIRST = Question(REF, FAMILY, FAMILY, "0123456789abcdef", None)
SECOND = structs.replace(FIRST, ref=REF._replace(operation="2"))


class _Registry:
    """Knows that no workspace has a path."""

    async def workspace(self, workspace_id: str) -> WorkspaceSettings:
        return cast(WorkspaceSettings, type("Settings", (), {"path": None}))


def permissions_of(runtime: Runtime) -> PermissionsActor:
    return PermissionsActor(runtime, "scope", CapabilitiesActor(runtime, "cluster"))


@pytest.fixture
def runtime() -> Runtime:
    registry = cast(Registry, _Registry())
    return Runtime(MemoryJournal(), registry, Keyring(bytes(32)), lambda: 1_000)


async def test_a_budget_that_was_taken_over_neither_lends_nor_refuses(runtime: Runtime) -> None:
    old, new = BudgetActor(runtime, "scope"), BudgetActor(runtime, "scope")
    await old.levels(["workspace"])
    await new.open_family(OpenFamily(FAMILY, Cap(10), 10, 10))
    with pytest.raises(Fenced):
        await old.lease([LeaseRequest(FAMILY, 1, 1, 0, 5)])
    assert (await new.levels([FAMILY]))[0].max == 10


async def test_one_that_was_not_taken_over_says_what_is_wrong(runtime: Runtime) -> None:
    with pytest.raises(NotFound):
        await BudgetActor(runtime, "scope").lease([LeaseRequest(FAMILY, 1, 1, 0, 5)])


async def test_what_was_revoked_elsewhere_is_not_allowed_from_memory(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "LEASE_S", 0.0)
    old, new = permissions_of(runtime), permissions_of(runtime)
    await old.grant(ALLOWANCE)
    assert await old.resolve(FIRST) == Permitted((await old.allowances())[0])
    await new.revoke(ALLOWANCE.id)
    with pytest.raises(Fenced):
        await old.resolve(SECOND)
    assert isinstance(await new.resolve(SECOND), Waiting)


async def test_nothing_is_granted_by_a_decision_that_does_not_stand(runtime: Runtime) -> None:
    old, new = permissions_of(runtime), permissions_of(runtime)
    await old.resolve(FIRST)
    await new.open_requests()  # takes over the requests, and not yet the allowances
    with pytest.raises(Fenced):
        await old.decide(derived_id(f"{FAMILY}/1"), Scope.SESSION, "ann", REF.hash, "", None)
    assert await new.allowances() == []


async def test_a_store_that_is_taken_over_is_told_to_end(runtime: Runtime) -> None:
    ended: list[str] = []
    runtime.on_fenced = lambda: ended.append("it")
    old, new = BudgetActor(runtime, "scope"), BudgetActor(runtime, "scope")
    await old.levels(["workspace"])
    await new.levels(["workspace"])
    assert ended == []
    with pytest.raises(Fenced):
        await old.levels(["workspace"])
    assert ended == ["it"]


async def test_a_store_that_was_taken_over_says_nothing_of_what_it_has(runtime: Runtime) -> None:
    permissions, capabilities = permissions_of(runtime), CapabilitiesActor(runtime, "s")
    await permissions.allowances()
    await permissions.open_requests()
    await capabilities.tokens()
    await permissions_of(runtime).allowances()
    await permissions_of(runtime).open_requests()
    await CapabilitiesActor(runtime, "s").tokens()
    for read in (permissions.allowances, permissions.open_requests, capabilities.tokens):
        with pytest.raises(Fenced):
            await read()
    with pytest.raises(Fenced):
        await permissions.decide("unknown", Scope.ONCE, "ann", "", "", None)
    with pytest.raises(Fenced):
        await capabilities.find("1", RUN, FAMILY, "0123456789abcdef", None)
