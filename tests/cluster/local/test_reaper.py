"""The sweep: everything ends with its owner, and nobody is left to note that an agent died."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinue.cluster.local.reaper import AGENTS, MARK, waves
from tests.kit.waiting import until

ROOT = Path(__file__).parents[3]

_AGENT = """
import os, subprocess, sys, time
daemon = subprocess.Popen(["sleep", "3600"], start_new_session=True, env={})
with open(sys.argv[1] + "/pids", "a") as out:
    print(os.getpid(), daemon.pid, file=out, flush=True)
time.sleep(3600)
"""

_HOST = f"""
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
environment = {{**os.environ, {AGENTS!r}: "1"}}
agent = subprocess.Popen([sys.executable, "-c", sys.argv[2], sys.argv[1]], env=environment)
with open(sys.argv[1] + "/pids", "a") as out:
    print(os.getpid(), file=out, flush=True)
while True:
    if agent.poll() is not None:
        open(sys.argv[1] + "/noted", "w").close()
    time.sleep(0.0005)
"""

_OWNER = """
import subprocess, sys, time
from retinue.cluster.local.reaper import Reaper, mark_process
mark_process()
directory, host, agent, stubborn = sys.argv[1:]
reaper = Reaper(directory, sys.executable, "-c", stubborn, directory)
for _ in range(3):
    subprocess.Popen([sys.executable, "-c", host, directory, agent])
print("up", flush=True)
if sys.stdin.readline():
    reaper.stop()
    open(directory + "/stopped", "w").close()
time.sleep(3600)
"""

_STUBBORN = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
with open(sys.argv[1] + "/pids", "a") as out:
    print(os.getpid(), file=out, flush=True)
time.sleep(3600)
"""

_PROCESSES = 10  # three hosts, agents and daemons, and the command
_LIMIT_S = 8.0  # 5 on a quiet machine


@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM", "SIGHUP", "stop"])
async def test_hosts_end_before_agents_and_all_of_it_soon(tmp_path: Path, how: str) -> None:
    arguments = [sys.executable, "-c", _OWNER, str(tmp_path), _HOST, _AGENT, _STUBBORN]
    environment = {name: value for name, value in os.environ.items() if name != MARK}
    owner = subprocess.Popen(
        arguments,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert owner.stdin
    assert owner.stdout
    assert owner.stdout.readline() == "up\n"
    await until(lambda: len(_pids(tmp_path)) == _PROCESSES)
    began = time.monotonic()
    if how == "stop":
        owner.stdin.write("stop\n")
        owner.stdin.flush()
        await until((tmp_path / "stopped").exists)
    else:
        owner.send_signal(signal.Signals[how])
    await until(lambda: not any(map(_runs, _pids(tmp_path))))
    assert time.monotonic() - began < _LIMIT_S
    assert not (tmp_path / "noted").exists()
    owner.kill()
    owner.communicate()


@given(st.sets(st.integers(1, 50)), st.sets(st.integers(1, 50)))
def test_no_agent_is_in_a_wave_with_or_before_what_is_none(
    ours: set[int], agents: set[int]
) -> None:
    planned = waves(ours, agents)
    assert set().union(*planned) == ours
    assert all(planned)
    kinds = [wave <= agents for wave in planned]
    assert kinds == sorted(kinds)
    assert all(wave <= agents or not wave & agents for wave in planned)


def _pids(directory: Path) -> list[int]:
    file = directory / "pids"
    return list(map(int, file.read_text().split())) if file.exists() else []


def _runs(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
