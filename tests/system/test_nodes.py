"""Several nodes: sessions spread, and go on elsewhere when a node is killed, drained, or comes."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from pathlib import Path

import pytest
import pytest_asyncio

import survey
from retinue import Retinue, Session, SessionTree, connect
from retinue.actors.domain.budget.state import WORKSPACE
from retinue.actors.domain.values.ids import derived_id
from retinue.actors.stores.table import BUDGET, PERMISSIONS
from retinue.cluster.names import DIRECTORY
from retinue.cluster.ray import roles
from retinue.cluster.ray.nodes import actors_on
from retinue.cluster.settings import ClusterSettings
from retinue.cluster.status import HostStatus, NodeStatus
from survey_report import Report
from tests.kit import cluster_agents as agents
from tests.kit.local_nodes import LocalNodes
from tests.kit.waiting import until

pytestmark = [
    pytest.mark.own_cluster,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(180),
]

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60.0


class Three:
    """A head, and two nodes that the tests may kill; the directory is on the first of them."""

    def __init__(self, nodes: LocalNodes) -> None:
        self.nodes = nodes
        self.first = nodes.add_node()
        self.second = nodes.add_node()


@pytest.fixture(scope="module")
def three() -> Iterator[Three]:
    with LocalNodes(1, max_hosts=16, warm_hosts=3) as nodes:
        three = Three(nodes)
        nodes.join(directory_on=three.first)
        yield three


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def retinue(three: Three) -> AsyncIterator[Retinue]:
    async with connect(three.nodes.address, redis_url=three.nodes.redis_url) as retinue:
        yield retinue


async def test_sessions_spread_and_a_joined_node_takes_load(three: Three, retinue: Retinue) -> None:
    async def one_each() -> bool:
        hosts = (await retinue.status()).hosts
        return len({host.node for host in hosts if host.pid}) == 3

    await until(one_each, PATIENCE_S)
    for _ in range(6):
        await retinue.create_session(agents.echo, isolation="shared")
    assert [node.sessions for node in (await retinue.status()).nodes] == [2, 2, 2]

    joined = three.nodes.add_node()
    await until(lambda: _has_host(retinue, joined), PATIENCE_S)
    session = await retinue.create_session(agents.echo, isolation="shared")
    assert (await _node(retinue, joined)).sessions == 1
    assert (await _host_of(retinue, session)).node == joined
    assert (await session.run("here")).output == "here"


async def test_stores_and_directory_come_back_when_their_node_is_killed(
    three: Three, retinue: Retinue, directory: Path
) -> None:
    workspace_id = derived_id(f"workspace:{directory.resolve()}")
    _start_stores_on(three.first, retinue.calls.settings, workspace_id)
    workspace = await retinue.workspace(directory, max_usd=5)
    session = await retinue.create_session(agents.spends, workspace=workspace, isolation="shared")
    assert (await session.run("1")).cost_usd == 1
    await until(lambda: _stores_are_on(retinue, three.first, workspace_id))
    three.nodes.kill_node(three.first)
    assert (await session.run("0.5 10")).output == "allowed exceeded"
    assert (await workspace.budget()).spent_usd == Decimal("1.5")
    assert await workspace.allowances() == []
    await until(lambda: _is_gone(retinue, three.first), PATIENCE_S)


async def test_a_drained_node_is_empty_and_nothing_is_lost(
    three: Three, retinue: Retinue, directory: Path
) -> None:
    workspace_id = derived_id(f"workspace:{directory.resolve()}")
    _start_stores_on(three.second, retinue.calls.settings, workspace_id)
    workspace = await retinue.workspace(directory, policy=agents.ASKS_FOR_PARSE)
    await until(lambda: _has_host(retinue, three.second), PATIENCE_S)
    working, runs = await _stepping_on_every_node(retinue, directory)
    idle = [
        await retinue.create_session(agents.spends, workspace=workspace, isolation="shared")
        for _ in range(6)
    ]
    for session in idle:
        await session.run("0.25")
    places = {(await _host_of(retinue, session)).node for session in (*working, *idle)}
    assert three.second in places

    drained = await asyncio.to_thread(_retinue, three.nodes, "drain", three.second[:12])
    assert drained.returncode == 0, drained.stderr
    assert json.loads(drained.stdout) == {
        "node": three.second,
        "address": "127.0.0.1",
        "drained": True,
    }
    await until(lambda: not three.nodes.is_running(three.second), PATIENCE_S)  # Ray ended it
    await until(
        lambda: _is_gone(retinue, three.second), PATIENCE_S
    )  # and everybody has heard of it

    for session in idle:
        assert (await session.run("0.25")).output == "allowed"
        assert (await session.budget()).spent_usd == Decimal("0.5")
        assert (await _host_of(retinue, session)).node != three.second
    for at, (session, run) in enumerate(zip(working, runs, strict=True)):
        (directory / str(at) / "go").touch()
        result = await session.result(run)
        assert result.success, result.error
        assert result.cost_usd == 2
        assert [message.text for message in await session.messages()] == [
            "first done",
            "second done",
        ]
        assert (directory / str(at) / "first").read_text() == "x"

    again = await asyncio.to_thread(_retinue, three.nodes, "drain", three.second)
    assert again.returncode == 0, again.stderr
    unknown = await asyncio.to_thread(_retinue, three.nodes, "drain", "nowhere")
    assert unknown.returncode == 2
    for node in (await retinue.status()).nodes:
        assert node.id[:8] in unknown.stderr


async def test_a_survey_reports_the_same_while_a_node_is_killed_and_another_joins(
    three: Three, retinue: Retinue, tmp_path: Path
) -> None:
    victim = three.nodes.add_node()
    await until(lambda: _has_host(retinue, victim), PATIENCE_S)
    assert len((await retinue.status()).nodes) == 3
    _write_sources(tmp_path / "calm")
    shutil.copytree(tmp_path / "calm", tmp_path / "rough")

    calm = await survey.run(retinue, str(tmp_path / "calm"))
    assert calm.complete
    workspace_id = derived_id(f"workspace:{(tmp_path / 'rough').resolve()}")
    _start_stores_on(victim, retinue.calls.settings, workspace_id)
    rough = asyncio.create_task(survey.run(retinue, str(tmp_path / "rough")))

    async def under_way() -> bool:
        [level] = await retinue.calls.stores(workspace_id).budget.levels([WORKSPACE])
        return level.spent > calm.result.cost / 4 and (await _node(retinue, victim)).sessions > 0

    await until(under_way, PATIENCE_S)
    three.nodes.kill_node(victim)
    joined = three.nodes.add_node()
    assert not rough.done()
    seen = _plain(await rough, tmp_path / "rough")
    assert seen == _plain(calm, tmp_path / "calm")
    assert {node.id for node in (await retinue.status()).nodes} > {joined}


# --- what the tests share ------------------------------------------------------------------------


async def _node(retinue: Retinue, node_id: str) -> NodeStatus:
    [node] = [one for one in (await retinue.status()).nodes if one.id == node_id]
    return node


async def _has_host(retinue: Retinue, node_id: str) -> bool:
    return any(one.node == node_id and one.pid for one in (await retinue.status()).hosts)


async def _is_gone(retinue: Retinue, node_id: str) -> bool:
    status = await retinue.status()
    places = {host.node for host in status.hosts} | {node.id for node in status.nodes}
    return node_id not in places


async def _host_of(retinue: Retinue, session: Session) -> HostStatus:
    _, name = await retinue.calls.directory.locate(session.id)
    [host] = [one for one in (await retinue.status()).hosts if one.name == name]
    return host


def _start_stores_on(node_id: str, settings: ClusterSettings, workspace_id: str) -> None:
    """Start a workspace's stores on a node, before anybody else does it elsewhere."""
    roles.start_stores(settings, workspace_id, node_id)


async def _stores_are_on(retinue: Retinue, node_id: str, workspace_id: str) -> bool:
    there = await asyncio.to_thread(actors_on, node_id, retinue.calls.settings.namespace)
    return {
        BUDGET.actor_name(workspace_id),
        PERMISSIONS.actor_name(workspace_id),
        DIRECTORY,
    } <= set(there)


async def _stepping_on_every_node(
    retinue: Retinue, directory: Path
) -> tuple[list[Session], list[str]]:
    """Sessions in the middle of their second paid step, as many as to have one on each node."""
    workspace = await retinue.workspace(directory, policy=agents.ASKS_FOR_PARSE)

    async def approve(request: object) -> str:
        return "workspace"

    sessions, runs = list[Session](), list[str]()
    for at in range(4):
        (directory / str(at)).mkdir()
        session = await retinue.create_session(
            agents.step_by_step,
            workspace=workspace,
            isolation="process" if at % 2 else "shared",
            on_approval=approve,  # type: ignore[arg-type]
        )
        runs.append(await session.start(str(directory / str(at))))
        sessions.append(session)
    for at in range(4):
        await until((directory / str(at) / "second").exists, PATIENCE_S)
    return sessions, runs


def _retinue(nodes: LocalNodes, *words: str) -> subprocess.CompletedProcess[str]:
    """A command, as if it were given on one of the nodes."""
    return subprocess.run(
        [sys.executable, "-m", "retinue.cluster.cli.app", *words, "--json"],
        env={**os.environ, "RAY_ADDRESS": nodes.address, "RETINUE_REDIS_URL": nodes.redis_url},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def _write_sources(root: Path) -> None:
    """Enough Python to be at it for some seconds."""
    for at in range(240):
        body = "".join(f"def f{n}(a, b):\n    return [a + b, {at}]\n\n\n" for n in range(400))
        file = root / f"package_{at % 8}" / f"module_{at}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"import os, package_{at % 3}\n{body}")


def _plain(report: Report, root: Path) -> object:
    """All of a report but times and ids, and with its directory left out."""

    def tree(node: SessionTree) -> object:
        one = node.summary
        below = sorted((tree(child) for child in node.children), key=str)
        return [one.label, one.status, one.depth, one.spent, node.total, below]

    plain = [
        report.complete,
        report.result.value,
        report.result.status,
        report.result.error,
        report.result.cost,
        report.result.tool_calls,
        report.levels,
        tree(report.tree),
        report.said,
        report.answers,
        report.waiting,
        [report.session.spent, report.session.reserved, report.session.max],
        [report.workspace.spent, report.workspace.reserved, report.workspace.max],
    ]
    text = json.dumps(plain).replace(str(root.resolve()), "ROOT")
    return json.loads(re.sub(r"found \d+ entries", "found entries", text))  # others use /tmp too
