"""Processes, found by what they carry in their environment, and killed."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterable
from typing import NamedTuple

import psutil
from ray._private.node import Node

from retinue.cluster.local.reaper import MARK

_GONE = (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess)


class Sign(NamedTuple):
    """A variable that all processes of something have in their environment."""

    name: str
    value: str


def own_mark() -> Sign:
    """What this process has put on all that it starts."""
    return Sign(MARK, os.environ[MARK])


def carrying(sign: Sign) -> list[psutil.Process]:
    """All that run now; what has ended and was not waited for is not among them."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(*_GONE):
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            if process.environ().get(sign.name) == sign.value:
                found.append(process)
    return found


def raylet_of(node: Node) -> int:
    """The process id of a node's raylet."""
    return int(node.all_processes["raylet"][0].process.pid)


def of_raylet(pid: int) -> list[psutil.Process]:
    """What a raylet has started, and what was started by that."""
    return carrying(Sign("RAY_RAYLET_PID", str(pid)))


def actors(sign: Sign, cls: str) -> list[psutil.Process]:
    """The actors of a class, the oldest first."""
    return _sorted(
        process
        for process in carrying(sign)
        if any(word.split(".")[0] == f"ray::{cls}" for word in _words(process)[:1])
    )


def programs(sign: Sign, name: str) -> list[psutil.Process]:
    """Those whose command line has ``name`` as its program or as one of its words."""
    return _sorted(
        process
        for process in carrying(sign)
        if any(os.path.basename(word) == name for word in _words(process))
    )


def with_command(command: list[str]) -> list[psutil.Process]:
    """Those with exactly this command line, whatever they carry."""
    return _sorted(process for process in psutil.process_iter() if _words(process) == command)


def is_alive(pid: int) -> bool:
    """Whether it runs; a process that has ended does not, even if nobody has waited for it."""
    with contextlib.suppress(*_GONE):
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    return False


def carries(pid: int, sign: Sign) -> bool:
    """Whether it runs and carries the sign."""
    with contextlib.suppress(*_GONE):
        return bool(psutil.Process(pid).environ().get(sign.name) == sign.value)
    return False


def kill(pid: int, sign: int = signal.SIGKILL) -> bool:
    """Send a signal; whether there was anybody to get it."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, sign)
        return True
    return False


def kill_at_once(find: Callable[[], set[int]]) -> None:
    """Kill all that ``find`` finds, as a machine that fails does: nothing of it starts another."""
    stopped: set[int] = set()
    while new := find() - stopped:
        for pid in new:
            kill(pid, signal.SIGSTOP)
        stopped |= new
    for pid in stopped:
        kill(pid)


def describe(process: psutil.Process) -> str:
    """For a person."""
    return f"{process.pid} {' '.join(_words(process))[:120]}".rstrip()


def _words(process: psutil.Process) -> list[str]:
    with contextlib.suppress(*_GONE):
        return [str(word) for word in process.cmdline()]
    return []


def _sorted(found: Iterable[psutil.Process]) -> list[psutil.Process]:
    return sorted(found, key=lambda process: process.pid)


def below(found: list[psutil.Process]) -> set[int]:
    """The ids of processes and of all below them, whatever environment these have."""
    pids = {int(process.pid) for process in found}
    for process in found:
        with contextlib.suppress(*_GONE):
            pids.update(child.pid for child in process.children(recursive=True))
    return pids
