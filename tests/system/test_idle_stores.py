"""A workspace's stores go when nobody calls them, and come back with all that they kept."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from pathlib import Path

import pytest
from msgspec import structs

from retinue import Retinue, connect
from retinue.cluster.names import workspace_of
from retinue.cluster.ray import actors as remote
from retinue.cluster.ray import bootstrap
from tests.kit import cluster_agents as agents
from tests.kit.waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="session")]

NAMESPACE = "idle"
PATIENCE_S = 60.0


async def test_stores_that_nobody_calls_go_and_come_back(retinue: Retinue, directory: Path) -> None:
    settings = structs.replace(
        retinue.calls.settings, namespace=NAMESPACE, max_hosts=2, warm_hosts=1, idle_s=1.0
    )
    address = bootstrap.gcs_address()
    await asyncio.to_thread(bootstrap.join, address, settings)
    async with connect(address, redis_url=settings.redis_url, namespace=NAMESPACE) as idle:
        workspace = await idle.workspace(directory, max_usd=5)
        session = await idle.create_session(agents.spends, workspace=workspace)
        assert (await session.run("1")).cost_usd == 1

        async def none_runs() -> bool:
            names = await asyncio.to_thread(remote.named, NAMESPACE)
            return not any(map(workspace_of, names))

        await until(none_runs, PATIENCE_S)
        assert (await idle.status()).workspaces == []
        assert (await workspace.budget()).spent_usd == 1
        assert (await session.run("0.5 10")).output == "allowed exceeded"
        assert (await workspace.budget()).spent_usd == Decimal("1.5")
