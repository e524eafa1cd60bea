"""The brake and the names of who did it, on a real cluster: what an operator says holds."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from retinue import ExactTool, Retinue, Session, Workspace, WorkspaceHeld
from retinue.actors.domain.session.settings import Isolation
from retinue.actors.durable.brakes import FRESH_S
from tests.kit import cluster_agents as agents
from tests.kit.waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="session")]

ISOLATIONS: list[Isolation] = ["process", "shared"]
QUIET_S = 1.0
"""How long nothing may happen in a workspace that is on hold, for us to believe it."""


@pytest_asyncio.fixture(loop_scope="session")
async def workspace(retinue: Retinue, directory: Path) -> AsyncIterator[Workspace]:
    found = await retinue.workspace(directory, max_usd="50")
    yield found
    await found.release()


def marks(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


async def stands_still(*files: Path) -> None:
    """Nothing is marked for a while, once what was told before has been done."""
    await asyncio.sleep(FRESH_S)
    before = [marks(file) for file in files]
    await asyncio.sleep(QUIET_S)
    assert [marks(file) for file in files] == before


async def audit(workspace: Workspace) -> str:
    found = await workspace.audit()
    assert [one.problem for one in found] == [None] * len(found)
    return json.dumps([[one.kind, one.detail] for each in found for one in each.entries])


# Whose cap holds


async def test_a_cap_that_an_operator_has_set_stays_when_a_program_starts(
    retinue: Retinue, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    workspace = await retinue.workspace(directory, max_usd="50")
    assert (await workspace.budget()).max_usd == 50
    await workspace.set_budget(0, by="ada")
    with caplog.at_level(logging.WARNING, "retinue"):
        for _ in range(2):
            again = await retinue.workspace(directory, max_usd="50")
    assert (await again.budget()).max_usd == 0
    (told,) = [one.getMessage() for one in caplog.records if one.name == "retinue"]
    for word in (str(directory), "0 USD", "50 USD", "by ada", "retinue budget --workspace"):
        assert word in told
    session = await retinue.create_session(agents.spends, workspace=again, isolation="shared")
    assert (await session.run("1")).output == "exceeded"


# What the brake does


@pytest.mark.parametrize("isolation", ISOLATIONS)
async def test_a_run_stands_still_and_then_finishes_as_if_nothing_had_been(
    retinue: Retinue, workspace: Workspace, tmp_path: Path, isolation: Isolation
) -> None:
    file = tmp_path / "marks"
    session = await retinue.create_session(agents.paces, workspace=workspace, isolation=isolation)
    run = await session.start(str(file), timeout=6)
    await until(lambda: marks(file) > 2)
    await workspace.hold("it spends", by="ada")
    hold = await workspace.held()
    assert hold is not None
    assert (hold.by, hold.why) == ("ada", "it spends")
    await stands_still(file)
    await asyncio.sleep(4)  # with what it needs for the rest this is more than its time
    assert marks(file) < 40
    await workspace.release(by="ben")
    result = await session.result(run)
    assert result.success, result
    assert (marks(file), str(result.cost_usd)) == (40, "0.4")
    assert await workspace.held() is None


@pytest.mark.parametrize("isolation", ISOLATIONS)
async def test_no_sub_agent_begins_until_the_release(
    retinue: Retinue, workspace: Workspace, tmp_path: Path, isolation: Isolation
) -> None:
    file, called = tmp_path / "marks", tmp_path / "marks.called"
    session = await retinue.create_session(
        agents.pacing_family, workspace=workspace, isolation=isolation
    )
    run = await session.start(str(file))
    await until(lambda: marks(file) > 1)
    await workspace.hold("it spends")
    await stands_still(file, called)
    assert marks(called) < 8
    await workspace.release()
    result = await session.result(run)
    assert result.output == " ".join(["completed"] * 8)
    assert (marks(file), marks(called), str(result.cost_usd)) == (8, 8, "0.08")


async def test_nothing_new_begins_and_the_refusal_says_why(
    retinue: Retinue, workspace: Workspace
) -> None:
    session = await retinue.create_session(agents.echo, workspace=workspace, isolation="shared")
    done = await session.run("before", run_id="00000000-0000-7000-8000-000000000002")
    await workspace.hold("it spends", by="ada")
    says = f"on hold since .* by ada: it spends.*retinue release --workspace {workspace.path}"
    with pytest.raises(WorkspaceHeld, match=says):
        await session.start("hello")
    with pytest.raises(WorkspaceHeld, match=says):
        await retinue.create_session(agents.echo, workspace=workspace)
    assert await session.run("x", run_id="00000000-0000-7000-8000-000000000002") == done
    assert await session.resume() == []
    assert session.id not in await retinue.calls.registry.running()
    await workspace.release()
    assert (await session.run("hello")).output == "hello"


@pytest.mark.parametrize("isolation", ISOLATIONS)
async def test_what_stands_still_is_cancelled_and_has_cost_nothing(
    retinue: Retinue, workspace: Workspace, tmp_path: Path, isolation: Isolation
) -> None:
    session = await retinue.create_session(
        agents.waits_to_pay, workspace=workspace, isolation=isolation
    )
    run = await session.start(str(tmp_path))
    await until(lambda: marks(tmp_path / "called") > 0)
    await workspace.hold("it spends")
    (tmp_path / "go").touch()
    await stands_still(tmp_path / "told")
    with pytest.raises(WorkspaceHeld):
        await session.resume()
    assert await workspace.hold("enough", cancel=True, by="ada") == 1
    assert await workspace.hold("enough", cancel=True, by="ada") == 0
    result = await session.result(run)
    assert (result.status, result.cost) == ("cancelled", 0)
    assert not (tmp_path / "told").exists()
    assert (await workspace.budget()).spent == 0
    found = await audit(workspace)
    for what in ('"enough"', '"it spends"', '["closed", {"reason": "cancelled", "by": "ada"}]'):
        assert what in found


async def test_a_host_that_slept_through_the_hold_does_nothing_when_it_wakes(
    retinue: Retinue, workspace: Workspace, tmp_path: Path
) -> None:
    file = tmp_path / "marks"
    session = await retinue.create_session(agents.paces, workspace=workspace, isolation="shared")
    run = await session.start(str(file))
    await until(lambda: marks(file) > 2)
    _, host = await retinue.calls.directory.locate(session.id)
    pid = {one.name: one.pid for one in (await retinue.status()).hosts}[host]
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        await workspace.hold("it sleeps")
        await until(lambda: time.monotonic() > began + 2 * FRESH_S)
        before = marks(file)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert (await session.status()).status == "running"
    await stands_still(file)
    assert marks(file) == before
    await workspace.release()
    assert (await session.result(run)).success


async def test_a_run_that_is_revived_stands_still_before_it_begins(
    retinue: Retinue, workspace: Workspace, tmp_path: Path
) -> None:
    session = await retinue.create_session(
        agents.waits_to_pay, workspace=workspace, isolation="shared"
    )
    run = await session.start(str(tmp_path))
    await until(lambda: marks(tmp_path / "called") > 0)
    await workspace.hold("it dies")
    _, host = await retinue.calls.directory.locate(session.id)
    pid = {one.name: one.pid for one in (await retinue.status()).hosts}[host]
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await until(lambda: _is_elsewhere(retinue, session, host))
    await stands_still(tmp_path / "called")
    assert marks(tmp_path / "called") == 1
    (tmp_path / "go").touch()
    await workspace.release()
    result = await session.result(run)
    assert (result.output, str(result.cost_usd)) == ("allowed", "1")
    assert marks(tmp_path / "called") == 2


async def _is_elsewhere(retinue: Retinue, session: Session, host: str) -> bool:
    _, found = await retinue.calls.directory.locate(session.id)
    return found != host and session.id in await retinue.calls.directory.working()


# Names


async def test_the_audit_log_names_who_did_it(retinue: Retinue, workspace: Workspace) -> None:
    session = await retinue.create_session(agents.echo, workspace=workspace, isolation="shared")
    allowance = await workspace.allow(ExactTool("survey", "parse"), by="ann")
    await workspace.revoke(allowance.id, by="ben")
    await workspace.set_budget(7, by="cleo")
    await session.set_budget(6, by="dan")
    await workspace.hold("a look", by="eve")
    await workspace.release(by="fay")
    await session.end(by="gus")
    found = await audit(workspace)
    for name in ("ann", "ben", "cleo", "dan", "eve", "fay", "gus"):
        assert f'"by": "{name}"' in found
    assert retinue.calls.actor.count("@") == 1


async def test_what_a_program_does_stands_under_its_login(
    retinue: Retinue, workspace: Workspace
) -> None:
    await workspace.hold("a look")
    before = await workspace.release()
    assert before is not None
    assert (before.by, before.why) == (retinue.calls.actor, "a look")
