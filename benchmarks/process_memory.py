"""The memory of an agent's process, of the fork server it comes from, and of a host.

No Ray: a host is taken as a process that has imported what one imports.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import psutil

from benchmarks.harness import median, until
from retinue import Turn
from retinue.actors.agent import calls
from retinue.actors.agent.process.supervisor import AgentProcesses
from retinue.actors.agent.shipping import ship

_AGENTS = 16
_LIMIT_S = 30.0
_SETTLE_S = 2.0
_MIB = 2**20
_HOST = "import retinue.cluster.ray.roles, sys; print('ready', flush=True); sys.stdin.read()"


async def waits(turn: Turn, prompt: str) -> None:
    """Leaves its process id in a directory, and does nothing until it is cancelled."""
    Path(prompt, str(os.getpid())).touch()
    await asyncio.sleep(3600)


class NoEngine:
    """The engine of an agent that asks for nothing."""

    async def handle(self, branch: int, call: calls.Call) -> calls.Answer:
        raise AssertionError(call)


async def measure() -> Mapping[str, float]:
    """Private memory in MiB, which is what one more of each costs a node."""
    return {**await _agents(), "host_mib": _host()}


async def _agents() -> dict[str, float]:
    blob, processes = ship(waits).blob, AgentProcesses()
    with tempfile.TemporaryDirectory(prefix="retinue-") as notes:
        running = [
            asyncio.create_task(processes.run(blob, _info(at), notes, None, NoEngine()))
            for at in range(_AGENTS)
        ]
        try:
            await until(lambda: _all_there(Path(notes)), _LIMIT_S, 0.1)
            await asyncio.sleep(_SETTLE_S)
            agents = [psutil.Process(int(one.name)) for one in Path(notes).iterdir()]
            (server,) = {one.ppid() for one in agents}
            return {
                "agent_process_mib": median(_private(one) for one in agents),
                "fork_server_mib": psutil.Process(server).memory_info().rss / _MIB,
            }
        finally:
            for one in running:
                one.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            await processes.close()


def _info(at: int) -> calls.TurnInfo:
    return calls.TurnInfo(f"session-{at}", "run", "session", 0, None, "", None, "user", None)


async def _all_there(notes: Path) -> bool:
    return len(list(notes.iterdir())) == _AGENTS


def _host() -> float:
    with subprocess.Popen(
        [sys.executable, "-c", _HOST], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as host:
        assert host.stdin
        assert host.stdout
        host.stdout.readline()
        found = _private(psutil.Process(host.pid))
        host.stdin.close()
    return found


def _private(process: psutil.Process) -> float:
    return float(process.memory_full_info().uss) / _MIB
