"""The processes of this run, which all carry its mark in their environment."""

from __future__ import annotations

import contextlib
import os
import signal

import psutil

from cluster.guard import MARK

_GONE = (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess)


def marked() -> list[psutil.Process]:
    """All that run now; what has ended and was not waited for is not among them."""
    return _with(MARK, os.environ[MARK])


def of_raylet(pid: int) -> list[psutil.Process]:
    """What a raylet has started, and what was started by that."""
    return _with("RAY_RAYLET_PID", str(pid))


def actors(cls: str) -> list[psutil.Process]:
    """The actors of a class, the oldest first."""
    found = []
    for process in marked():
        with contextlib.suppress(*_GONE):
            words = process.cmdline()
            if words and words[0].split(".")[0] == f"ray::{cls}":
                found.append(process)
    return sorted(found, key=lambda process: process.pid)


def is_alive(pid: int) -> bool:
    """Whether it runs; a process that has ended does not, even if nobody has waited for it."""
    with contextlib.suppress(*_GONE):
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    return False


def is_ours(pid: int) -> bool:
    """Whether it runs and is of this run of the harness."""
    with contextlib.suppress(*_GONE):
        return bool(psutil.Process(pid).environ().get(MARK) == os.environ[MARK])
    return False


def kill(pid: int, sign: int = signal.SIGKILL) -> bool:
    """Send a signal; whether there was anybody to get it."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, sign)
        return True
    return False


def describe(process: psutil.Process) -> str:
    """For a person."""
    with contextlib.suppress(*_GONE):
        return f"{process.pid} {' '.join(process.cmdline())[:120]}"
    return str(process.pid)


def _with(name: str, value: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(*_GONE):
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            if process.environ().get(name) == value:
                found.append(process)
    return found
