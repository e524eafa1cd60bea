"""Ray's autoscaler, with its fake provider: a node comes when sessions wait, and goes when idle."""

from __future__ import annotations

from pathlib import Path

import pytest

from retinue import Retinue, Session, connect
from tests.kit import cluster_agents as agents
from tests.kit.local_nodes import Autoscaled
from tests.kit.waiting import until

pytestmark = [pytest.mark.own_cluster, pytest.mark.timeout(180)]

PATIENCE_S = 90.0
SESSIONS = 5
"""The head has room for three hosts of a quarter of a processor each, and for some stores."""


async def test_queued_sessions_bring_a_node_and_idle_ones_let_it_go(directory: Path) -> None:
    with Autoscaled(1, 1, max_hosts=SESSIONS, warm_hosts=1, idle_s=2.0) as nodes:
        nodes.join()
        async with connect(nodes.address, redis_url=nodes.redis_url) as retinue:
            await until(lambda: _nodes_are(retinue, 1))
            sessions = [await _at_work(retinue, directory, at) for at in range(SESSIONS)]
            await until(lambda: _nodes_are(retinue, 2), PATIENCE_S)
            for at in range(SESSIONS):
                await until((directory / str(at) / "second").exists, PATIENCE_S)
            status = await retinue.status()
            assert len({host.node for host in status.hosts if host.sessions}) == 2
            assert status.queued == 0

            for at, (session, run) in enumerate(sessions):
                (directory / str(at) / "go").touch()
                assert (await session.result(run)).output == "1 1"
            await until(lambda: _nodes_are(retinue, 1), PATIENCE_S)
            assert len((await retinue.status()).hosts) == 1
            for session, _ in sessions:
                assert (await session.budget()).spent_usd == 2


async def _at_work(retinue: Retinue, directory: Path, at: int) -> tuple[Session, str]:
    """A session with a run that lasts until a file named go is there."""
    (directory / str(at)).mkdir()
    workspace = await retinue.workspace(directory, policy=agents.ASKS_FOR_PARSE)

    async def approve(request: object) -> str:
        return "workspace"

    session = await retinue.create_session(
        agents.step_by_step,
        workspace=workspace,
        on_approval=approve,  # type: ignore[arg-type]
    )
    return session, await session.start(str(directory / str(at)))


async def _nodes_are(retinue: Retinue, count: int) -> bool:
    return len((await retinue.status()).nodes) == count
