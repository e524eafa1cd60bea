"""A node that runs out of memory: Ray kills our actors there, and everything goes on."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import psutil
import pytest

from retinue import Retinue, Session, connect
from retinue.actors.requests import SessionAt
from tests.kit import cluster_agents as agents
from tests.kit.local_nodes import LocalNodes
from tests.kit.waiting import until

pytestmark = [
    pytest.mark.own_cluster,
    pytest.mark.asyncio,
    pytest.mark.timeout(180),
]

MORE_BYTES = 3 << 29  # so much more than now may be used before Ray kills
HOG_PIECES = 16  # of 256 MiB, so over twice as much
RUNS = 12
PATIENCE_S = 60.0


async def test_under_memory_pressure_stores_and_sessions_come_back_by_themselves(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = psutil.virtual_memory()
    most = (memory.total - memory.available + MORE_BYTES) / memory.total
    monkeypatch.setenv("RAY_memory_usage_threshold", f"{most:.4f}")
    with LocalNodes(2, max_hosts=4, warm_hosts=2) as nodes:
        nodes.join()
        async with connect(nodes.address, redis_url=nodes.redis_url) as retinue:
            workspace = await retinue.workspace(directory, max_usd=50)
            bystander = await retinue.create_session(
                agents.spends, workspace=workspace, isolation="shared"
            )
            hog = await retinue.create_session(agents.hogs_memory, workspace=workspace)
            run = await hog.start(str(HOG_PIECES))
            for _ in range(RUNS):
                assert (await bystander.run("0.25")).output == "allowed"
            await until(lambda: _was_killed(retinue, hog, run), PATIENCE_S)
            await hog.cancel()
            assert (await hog.result(run)).status == "cancelled"
            assert (await bystander.run("0.25")).output == "allowed"
            assert (await workspace.budget()).spent_usd == Decimal("0.25") * (RUNS + 1)


async def _was_killed(retinue: Retinue, session: Session, run: str) -> bool:
    state = await retinue.calls.sessions.state(SessionAt(session.id))
    return state.runs[run].attempts > 1
