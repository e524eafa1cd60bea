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

from retinue import Turn
from retinue.actors.agent import calls
from retinue.actors.agent.process import proctree
from retinue.actors.agent.process.deaths import Death, cause
from retinue.actors.agent.process.supervisor import AGENTS, AgentDied, AgentProcesses
from retinue.actors.agent.shipping import ship
from retinue.actors.domain.errors import NoCapacity
from retinue.cluster.local import reaper
from tests.kit import cluster_agents as agents
from tests.kit.waiting import until

INFO = calls.TurnInfo("session", "run", "session", 0, None, "", None, "user", None)

_ACTOR = """
import asyncio, sys
from tests.actors.agent import test_process as test_processes
asyncio.run(test_processes.run_agent(sys.argv[1]))
"""

_LEAVING_ACTOR = """
import asyncio, sys
from tests.actors.agent import test_process as test_processes
asyncio.run(test_processes.run_leaving(sys.argv[1]))
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


async def run_leaving(prompt: str) -> None:
    """Run an agent that leaves something behind."""
    processes = AgentProcesses()
    await processes.run(ship(leaves_behind).blob, INFO, prompt, None, NoEngine())


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


_DAEMON = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        with open(sys.argv[1], "w") as out:
            out.write(str(os.getpid()))
        time.sleep(3600)
    os._exit(0)
os.wait()
"""


def leave_behind(how: str, note: Path) -> None:
    """Start a process in a way in which it may get lost; it writes its id down."""
    match how:
        case "session":
            child = subprocess.Popen(["sleep", "3600"], start_new_session=True, env={})
            note.write_text(str(child.pid))
        case "daemon":
            subprocess.run([sys.executable, "-c", _DAEMON, str(note)], check=True)
        case "chain":  # a daemon of a process that has a session of its own
            inner = [sys.executable, "-c", _DAEMON, str(note)]
            outer = f"import subprocess; subprocess.run({inner!r}, check=True)"
            subprocess.run([sys.executable, "-c", outer], check=True, start_new_session=True)
    while not (note.exists() and note.read_text()):
        time.sleep(0.005)


async def leaves_behind(turn: Turn, prompt: str) -> str:
    """Leaves a process behind in the way that its prompt says, and then ends in one of many."""
    how, ending, note = prompt.split(" ", 2)
    leave_behind(how, Path(note))
    match ending:
        case "raises":
            raise ValueError("on purpose")
        case "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        case "sleeps":
            await asyncio.sleep(3600)
    return "done"


async def ends_process(turn: Turn, prompt: str) -> str:
    """Has its process end in the way that its prompt says."""
    match prompt:
        case "exit":
            sys.exit(3)
        case "exit with words":
            sys.exit("no more")
        case "exit in a task":

            async def leave() -> None:
                sys.exit(4)

            await asyncio.gather(leave(), asyncio.sleep(60))
        case "interrupt":
            raise KeyboardInterrupt
        case "_exit":
            os._exit(5)
        case "abort":
            os.abort()
        case signal_name:
            os.kill(os.getpid(), signal.Signals[signal_name])
    return "alive"


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
        cwd=Path(__file__).parents[3],
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


@pytest.mark.parametrize("keeper", [False, True], ids=["the server", "its keeper"])
@pytest.mark.parametrize("heard_of", [False, True])
async def test_a_server_that_was_killed_is_replaced(
    monkeypatch: pytest.MonkeyPatch, heard_of: bool, keeper: bool
) -> None:
    mark = os.urandom(8).hex()
    monkeypatch.setenv("RETINUE_TEST_MARK", mark)
    processes = AgentProcesses()
    blob = ship(agents.answers).blob
    assert (await processes.run(blob, INFO, "1", None, NoEngine())).output == "1"
    assert processes._spare
    server = psutil.Process((await processes._spare).pid).parent()
    assert server
    if keeper:
        server = server.parent()
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
            if one.pid != os.getpid() and one.environ().get("RETINUE_TEST_MARK") == mark:
                found.append(one)
    return found


@pytest.mark.parametrize("how", ["session", "daemon", "chain"])
@pytest.mark.parametrize("ending", ["returns", "raises", "dies", "sleeps"])
async def test_what_an_agent_leaves_behind_is_gone_before_its_end_is_known(
    tmp_path: Path, how: str, ending: str
) -> None:
    note = tmp_path / "pid"
    processes = AgentProcesses()
    blob = ship(leaves_behind).blob
    prompt = f"{how} {ending} {note}"
    run = asyncio.create_task(processes.run(blob, INFO, prompt, None, NoEngine()))
    if ending == "sleeps":
        await until(_noted(note))
        run.cancel()
    await asyncio.wait([run])
    await processes.left(INFO.session_id)
    assert _gone(int(note.read_text()))()
    with contextlib.suppress(asyncio.CancelledError, AgentDied):
        await run
    await processes.close()


async def test_another_agent_of_the_same_server_keeps_what_it_has_started(tmp_path: Path) -> None:
    processes = AgentProcesses()
    blob = ship(leaves_behind).blob
    notes = tmp_path / "stays", tmp_path / "goes"
    stays = asyncio.create_task(
        processes.run(blob, INFO, f"daemon sleeps {notes[0]}", None, NoEngine())
    )
    await until(_noted(notes[0]))
    other = calls.TurnInfo("other", "run", "other", 0, None, "", None, "user", None)
    with pytest.raises(AgentDied):
        await processes.run(blob, other, f"daemon dies {notes[1]}", None, NoEngine())
    assert _gone(int(notes[1].read_text()))()
    assert psutil.Process(int(notes[0].read_text())).is_running()
    stays.cancel()
    await asyncio.wait([stays])
    assert _gone(int(notes[0].read_text()))()
    await processes.close()


@pytest.mark.parametrize("killed", ["server", "keeper", "actor"])
async def test_what_agents_leave_behind_is_gone_with_the_server_or_the_actor(
    tmp_path: Path, killed: str
) -> None:
    note = tmp_path / "pid"
    actor = subprocess.Popen(
        [sys.executable, "-c", _LEAVING_ACTOR, f"daemon sleeps {note}"],
        cwd=Path(__file__).parents[3],
    )
    await until(_noted(note))
    daemon = psutil.Process(int(note.read_text()))
    agent = daemon.parent()
    assert agent
    server = agent.parent()
    assert server
    keeper = server.parent()
    assert keeper
    doomed = {"server": server, "keeper": keeper, "actor": psutil.Process(actor.pid)}[killed]
    doomed.kill()
    await until(_gone(daemon.pid))
    actor.kill()
    actor.wait()
    await until(lambda: not keeper.is_running() or _gone(keeper.pid)())


@pytest.mark.parametrize(
    ("prompt", "told"),
    [
        ("exit", "exited with code 3"),
        ("exit with words", "exited with code 1: no more"),
        ("exit in a task", "exited with code 4"),
        ("interrupt", "KeyboardInterrupt"),
    ],
)
async def test_to_ask_for_the_end_of_its_process_is_an_agents_own_result(
    prompt: str, told: str
) -> None:
    processes = AgentProcesses()
    outcome = await processes.run(ship(ends_process).blob, INFO, prompt, None, NoEngine())
    assert outcome.error == told
    await processes.close()


@pytest.mark.parametrize(
    ("prompt", "cause"),
    [
        ("_exit", "exited with code 5 before the agent returned"),
        ("abort", "was killed by SIGABRT"),
        ("SIGKILL", "was killed by SIGKILL"),
        ("SIGSEGV", "was killed by SIGSEGV"),
        ("SIGTERM", "was killed by SIGTERM"),
        ("SIGRTMIN", "was killed by SIGRTMIN"),
    ],
)
async def test_a_process_that_just_ends_is_no_result(prompt: str, cause: str) -> None:
    processes = AgentProcesses()
    with pytest.raises(AgentDied) as died:
        await processes.run(ship(ends_process).blob, INFO, prompt, None, NoEngine())
    assert cause in died.value.cause
    await processes.close()


async def test_an_agent_waits_for_a_process_that_can_not_be_had_yet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    processes = AgentProcesses()
    fork, refused = processes._fork, 3

    async def scarce() -> object:
        nonlocal refused
        refused -= 1
        if refused >= 0:
            raise NoCapacity("no process for an agent can be started")
        return await fork()

    monkeypatch.setattr(processes, "_fork", scarce)
    outcome = await processes.run(ship(agents.answers).blob, INFO, "1", None, NoEngine())
    assert (outcome.output, refused < 0) == ("1", True)
    await processes.close()


def test_memory_is_named_where_it_may_have_been_the_reason() -> None:
    gib = 1 << 30
    assert "memory killer" in cause(Death(signal.SIGKILL, gib // 2, killer=True), gib)
    assert "1000 of the 1024 MiB" in cause(Death(signal.SIGABRT, 1000 << 20), gib)
    assert cause(Death(signal.SIGSEGV | 0x80, 0), gib).endswith("SIGSEGV and left a core")
    assert cause(Death(signal.SIGKILL, gib // 2), gib).endswith("killed by SIGKILL")


def test_the_sweep_knows_agents_by_the_same_mark() -> None:
    assert reaper.AGENTS == AGENTS


def test_children_are_found_also_where_the_kernel_does_not_tell(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        told = proctree.children(os.getpid())
        monkeypatch.setattr(proctree, "_TOLD", False)
        assert child.pid in told
        assert sorted(proctree.children(os.getpid())) == sorted(told)
        child.kill()
