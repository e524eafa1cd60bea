"""Agents in processes of their own: nothing of them outlives what it belongs to."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from actors import Turn, calls
from actors.agents import ship
from actors.processes import AgentProcesses
from tests import cluster_agents as agents
from tests.waiting import until

INFO = calls.TurnInfo("session", "run", "session", 0, None, "", None, "user", None)

_ACTOR = """
import asyncio, sys
from tests import test_processes
asyncio.run(test_processes.run_agent(sys.argv[1]))
"""


class NoEngine:
    """The engine of an agent that asks for nothing."""

    async def handle(self, branch: int, call: calls.Call) -> calls.Answer:
        raise AssertionError(call)


async def run_agent(note: str) -> None:
    """Run an agent that starts a process, and writes its id down."""
    blob = ship(agents.starts_process).blob
    processes = AgentProcesses()
    try:
        await processes.run(blob, INFO, note, None, NoEngine())
    finally:
        await processes.close()


async def starts_process_and_blocks(turn: Turn, prompt: str) -> None:
    """Can't be cancelled."""
    child = subprocess.Popen(["sleep", "3600"])
    Path(prompt).write_text(str(child.pid))
    while True:
        time.sleep(1)


async def starts_process_and_returns(turn: Turn, prompt: str) -> None:
    """Leaves a process behind."""
    child = subprocess.Popen(["sleep", "3600"])
    Path(prompt).write_text(str(child.pid))


def _noted(note: Path) -> Callable[[], bool]:
    return lambda: note.exists() and note.read_text() != ""


def _gone(pid: int) -> Callable[[], bool]:
    def gone() -> bool:
        try:
            return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return True

    return gone


async def test_what_an_agent_started_ends_with_its_actor_whatever_ray_kills_besides(
    tmp_path: Path,
) -> None:
    note = tmp_path / "pid"
    actor = subprocess.Popen(
        [sys.executable, "-c", _ACTOR, str(note)],
        cwd=Path(__file__).parent.parent,
        process_group=0,
    )
    await until(_noted(note))
    children = psutil.Process(actor.pid).children()
    os.killpg(actor.pid, signal.SIGTERM)
    for child in children:
        child.send_signal(signal.SIGKILL)
    actor.kill()
    actor.wait()
    await until(_gone(int(note.read_text())))


async def test_an_agent_that_blocks_ends_when_it_is_cancelled(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    processes = AgentProcesses()
    blob = ship(starts_process_and_blocks).blob
    run = asyncio.create_task(processes.run(blob, INFO, str(note), None, NoEngine()))
    await until(_noted(note))
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert _gone(int(note.read_text()))()
    await processes.close()


async def test_a_process_that_was_made_ahead_and_has_died_is_not_used() -> None:
    processes = AgentProcesses()
    processes.warm()
    assert processes._spare
    spare = await processes._spare
    os.kill(spare.pid, signal.SIGKILL)
    outcome = await processes.run(ship(agents.answers).blob, INFO, "1", None, NoEngine())
    assert outcome.output == "1"
    await processes.close()


async def test_nothing_of_an_agent_is_left_when_it_is_said_to_have_left(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    processes = AgentProcesses()
    blob = ship(starts_process_and_returns).blob
    await processes.run(blob, INFO, str(note), None, NoEngine())
    await processes.left(INFO.session_id)
    assert _gone(int(note.read_text()))()
    await processes.close()


@pytest.mark.parametrize("heard_of", [False, True])
async def test_a_server_that_was_killed_is_replaced(
    monkeypatch: pytest.MonkeyPatch, heard_of: bool
) -> None:
    mark = os.urandom(8).hex()
    monkeypatch.setenv("TROUPE_TEST_MARK", mark)
    processes = AgentProcesses()
    blob = ship(agents.answers).blob
    assert (await processes.run(blob, INFO, "1", None, NoEngine())).output == "1"
    assert processes._spare
    server = psutil.Process((await processes._spare).pid).parent()
    assert server
    server.kill()
    server.wait(10)  # the loop stands still: no news of it gets through
    if heard_of:
        await asyncio.sleep(0.1)
    assert (await processes.run(blob, INFO, "2", None, NoEngine())).output == "2"
    await processes.close()
    await until(lambda: not _marked(mark))


def _marked(mark: str) -> list[psutil.Process]:
    """The processes that carry a mark in their environment, but for this one."""
    found = []
    for one in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied):
            if one.pid != os.getpid() and one.environ().get("TROUPE_TEST_MARK") == mark:
                found.append(one)
    return found
