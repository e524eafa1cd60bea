"""A workspace's stores go when nobody calls them, and come back with all that they kept."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from pathlib import Path

import pytest

from retinue import connect
from retinue.cluster.names import workspace_of
from retinue.cluster.ray import actors as remote
from tests.kit import cluster_agents as agents
from tests.kit.local_nodes import LocalNodes
from tests.kit.waiting import until

pytestmark = [
    pytest.mark.own_cluster,
    pytest.mark.asyncio,
    pytest.mark.timeout(120),
]

PATIENCE_S = 60.0


async def test_stores_that_nobody_calls_go_and_come_back(directory: Path) -> None:
    with LocalNodes(2, max_hosts=2, warm_hosts=1, idle_s=1.0) as nodes:
        nodes.join()
        async with connect(nodes.address, redis_url=nodes.redis_url) as retinue:
            workspace = await retinue.workspace(directory, max_usd=5)
            session = await retinue.create_session(agents.spends, workspace=workspace)
            assert (await session.run("1")).cost_usd == 1

            async def none_runs() -> bool:
                names = await asyncio.to_thread(remote.named, retinue.calls.settings.namespace)
                return not any(map(workspace_of, names))

            await until(none_runs, PATIENCE_S)
            assert (await retinue.status()).workspaces == []
            assert (await workspace.budget()).spent_usd == 1
            assert (await session.run("0.5 10")).output == "allowed exceeded"
            assert (await workspace.budget()).spent_usd == Decimal("1.5")
