"""An approval "always" is a token, whatever dies between the decision and the token."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest
from msgspec import structs

from retinue.actors.domain.errors import ClusterUnavailable
from retinue.actors.domain.permissions.approvals.machine import Decide
from retinue.actors.domain.permissions.approvals.question import Waiting
from retinue.actors.domain.permissions.approvals.request import (
    ALWAYS_US,
    ApprovalRequest,
    Resolution,
    Scope,
)
from retinue.actors.domain.permissions.approvals.state import RETENTION_US
from retinue.actors.domain.permissions.capabilities.token import SKEW_US, Token
from retinue.actors.domain.values.ids import derived_id
from retinue.actors.ports import CapabilitiesPort
from retinue.actors.stores.permissions import PermissionsActor
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

TOKEN = derived_id(f"token of {REQUEST_ID}")


class Stopped:
    """Capabilities that are called, and never answer."""

    def __init__(self) -> None:
        self.called = asyncio.Event()

    async def issue(self, request: ApprovalRequest, decided_at: int) -> Token:
        self.called.set()
        never: asyncio.Future[Token] = asyncio.get_running_loop().create_future()
        return await never


class Away:
    """Capabilities that are not there."""

    async def issue(self, request: ApprovalRequest, decided_at: int) -> Token:
        raise ClusterUnavailable("away")


@pytest.fixture
def stores() -> MemoryStores:
    return MemoryStores()


async def always(permissions: PermissionsActor) -> Resolution:
    return await permissions.decide(Decide(REQUEST_ID, Scope.ALWAYS, "ann", REF.hash))


async def tokens(stores: MemoryStores) -> list[str]:
    return [token.id for token in await stores.capabilities.tokens()]


async def test_the_token_is_there_when_the_decision_is_told(stores: MemoryStores) -> None:
    await stores.permissions.resolve(QUESTION)
    stores.now += 7
    decision = await always(stores.permissions)
    assert decision.scope is Scope.ALWAYS
    token = await stores.capabilities.find("op", RUN, derived_id("another family"), USER, None)
    assert token is not None
    assert (token.id, token.expires) == (TOKEN, START + 7 + ALWAYS_US)
    assert await stores.capabilities.find("op", RUN, FAMILY, "f" * 16, None) is None


async def test_one_that_stops_between_decision_and_token_makes_it_when_it_is_back(
    stores: MemoryStores,
) -> None:
    stopped = Stopped()
    permissions = stores.another(cast(CapabilitiesPort, stopped))
    await permissions.resolve(QUESTION)
    deciding = asyncio.create_task(always(permissions))
    await stopped.called.wait()
    deciding.cancel()
    assert await tokens(stores) == []
    assert await stores.status() == "decided"

    await stores.another().open_requests()  # whatever somebody wants of it

    async def is_there() -> bool:
        return await tokens(stores) == [TOKEN]

    await until(is_there)
    rows = stores.rows()
    again = stores.another()
    await always(again)
    await again._approvals.upkeep()
    assert await tokens(stores) == [TOKEN]
    assert stores.rows() == rows


async def test_one_that_finds_no_capabilities_says_so_and_the_same_decision_brings_it(
    stores: MemoryStores,
) -> None:
    permissions = stores.another(cast(CapabilitiesPort, Away()))
    await permissions.resolve(QUESTION)
    with pytest.raises(ClusterUnavailable):
        await always(permissions)
    permissions._capabilities = stores.capabilities
    await always(permissions)
    assert await tokens(stores) == [TOKEN]


async def test_what_was_revoked_or_is_over_does_not_come_back(stores: MemoryStores) -> None:
    await stores.permissions.resolve(QUESTION)
    await always(stores.permissions)
    await stores.capabilities.revoke(TOKEN)
    await stores.another()._approvals.upkeep()
    assert await tokens(stores) == []
    stores.now += ALWAYS_US + SKEW_US
    await stores.capabilities._entity.upkeep()
    await stores.another()._approvals.upkeep()
    assert (await stores.capabilities._entity.entity()).state.tokens == {}
    assert ALWAYS_US < RETENTION_US  # so that no decision is forgotten before its token is made


async def test_a_token_that_can_not_be_made_is_in_nobody_else_s_way(stores: MemoryStores) -> None:
    permissions = stores.another(cast(CapabilitiesPort, Away()))
    await permissions.resolve(QUESTION)
    with pytest.raises(ClusterUnavailable):
        await always(permissions)
    await permissions._approvals.upkeep()
    other = structs.replace(QUESTION, ref=REF._replace(operation="other"))
    answer = cast(Waiting, await permissions.resolve(other))
    once = await permissions.decide(Decide(answer.entry.request.id, Scope.ONCE, "ann", REF.hash))
    assert once.approved
