"""What happens when everything dies: kill -9 of the driver, and a start on the same state.

`tests.system.restart` plays many more rounds of it, and kills agents and what `up` has started,
too.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from retinue import Retinue, connect
from tests.kit.waiting import until
from tests.system.restart import CASES, Case, play

pytestmark = [
    pytest.mark.own_cluster,
    pytest.mark.asyncio(loop_scope="module"),
]

_DRIVER = """
import asyncio, sys
from retinue import Message, Policy, BudgetConfig
from retinue import connect
from tests.kit import cluster_agents as agents

async def main():
    async with connect() as retinue:
        workspace = await retinue.workspace(
            sys.argv[1], max_usd="5", policy=Policy(approval_required_tools=("survey/parse",))
        )
        async def approve(request):
            return "session"
        session = await retinue.create_session(
            agents.step_by_step, workspace=workspace, isolation=sys.argv[4], on_approval=approve
        )
        await session.add_message(Message.user("before the crash"))
        other = await retinue.create_session(
            agents.calls_tool, workspace=workspace, isolation=sys.argv[4]
        )
        assert (await other.run("0")).output == "deferred"
        await session.start(sys.argv[2], run_id=sys.argv[3])
        print(session.id, other.id, flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""
RUN = "00000000-0000-7000-8000-00000000000a"


class Crashed:
    """What was there before the crash."""

    def __init__(self, session: str, other: str, directory: Path, left: list[str]) -> None:
        self.session = session
        self.other = other
        self.directory = directory
        self.left = left


@pytest.fixture(scope="module", params=["process", "shared"])
def crashed(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Crashed]:
    """A driver with its own cluster, killed in the middle of a run."""
    home, directory = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("workspace")
    (directory / "a.txt").write_text("hello\n")
    environment = {**os.environ, "RETINUE_HOME": str(home)}
    driver = subprocess.Popen(
        [sys.executable, "-c", _DRIVER, str(directory), str(directory), RUN, request.param],
        env=environment,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        text=True,
    )
    assert driver.stdout is not None
    session, other = driver.stdout.readline().split()
    asyncio.run(until(lambda: _exists(directory / "second")))
    processes = psutil.Process(driver.pid).children(recursive=True)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    driver.stdout.close()
    _, alive = psutil.wait_procs(processes, timeout=20)
    with pytest.MonkeyPatch.context() as variables:
        variables.setenv("RETINUE_HOME", str(home))
        yield Crashed(session, other, directory, [" ".join(one.cmdline()) for one in alive])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def again(crashed: Crashed) -> AsyncIterator[Retinue]:
    async with connect() as retinue:
        yield retinue


async def _exists(path: Path) -> bool:
    return path.exists()


async def test_nothing_is_left_running(crashed: Crashed) -> None:
    assert crashed.left == []


async def test_what_was_acknowledged_is_there(crashed: Crashed, again: Retinue) -> None:
    session = again.session(crashed.session)
    assert [m.text for m in await session.messages()] == ["before the crash", "first done"]
    assert (await session.budget()).spent_usd == 1
    (workspace,) = await again.workspaces()
    assert (await workspace.budget()).max_usd == 5
    (request,) = await workspace.inbox()
    assert request.session_id == crashed.other
    assert request.deferred
    (allowance,) = await workspace.allowances()
    assert allowance.session_only


async def test_the_run_resumes_in_place(crashed: Crashed, again: Retinue) -> None:
    session = again.session(crashed.session)
    assert await session.resume() == [RUN]
    (crashed.directory / "go").touch()
    result = await session.result(RUN)
    assert result.output == "1 2"
    assert result.cost_usd == 2
    assert (await session.budget()).spent_usd == 2
    assert (crashed.directory / "first").read_text() == "x"
    assert (crashed.directory / "second").read_text() == "xx"
    assert [m.text for m in await session.messages()][1:] == ["first done", "second done"]


async def test_a_late_decision_still_counts(crashed: Crashed, again: Retinue) -> None:
    (workspace,) = await again.workspaces()
    (request,) = await workspace.inbox()
    await request.approve()
    assert (await again.session(crashed.other).run("0")).output == "allowed approval"


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.what == "lead" and case.killed != "up"], ids=str
)
async def test_a_fan_out_is_as_if_nothing_had_been(case: Case) -> None:
    assert await asyncio.to_thread(play, case, 0.5) == ""
