"""The processes below another, as Linux reports them. On other systems nothing is known of them.

A process group is not a tree: a process that starts a session, or forks twice, has left it. But a
process that loses its parent becomes the child of the nearest ancestor that has asked for orphans
(a *sub-reaper*), so below a sub-reaper no process is ever lost, whatever it does.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Collection

_LIBC = ctypes.CDLL(None)  # now: what a forked process has to load and link costs each of them
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_TOLD = os.path.exists(f"/proc/self/task/{os.getpid()}/children")
_PAUSE_S = 0.001
_LONGEST_PAUSE_S = 0.05


def adopt_orphans() -> None:
    """Make this process the parent of all descendants that lose their own."""
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1)


def end_with_parent(sign: signal.Signals) -> None:
    """Arrange for ``sign`` to be sent to this process when its parent ends."""
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, sign)


def children(pid: int) -> list[int]:
    """The children of a process, including those that have ended and have not been waited for."""
    if not _TOLD:
        return _searched(pid)
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{thread}/children") as file:
                found += map(int, file.read().split())
    return found


def _searched(parent: int) -> list[int]:
    """As `children`, where the kernel lists none: searches all processes, for milliseconds."""
    found: list[int] = []
    for name in os.listdir("/proc") if os.path.isdir("/proc") else []:
        if name.isdigit():
            with contextlib.suppress(OSError, IndexError), open(f"/proc/{name}/stat", "rb") as stat:
                if int(stat.read().rpartition(b")")[2].split()[1]) == parent:
                    found.append(int(name))
    return found


def descendants(pid: int) -> list[int]:
    """All descendants of a process, parents first."""
    found = children(pid)
    for one in found:  # it grows meanwhile
        found += children(one)
    return found


def kill_below(pid: int, spared: Collection[int], limit_s: float, reap: Callable[[], None]) -> None:
    """Kill everything below ``pid``, except its children ``spared`` and all below them.

    Returns when all of it is gone, or after ``limit_s`` seconds; ``reap()`` waits for children
    of this process that have ended, without blocking.
    """
    deadline, pause = time.monotonic() + limit_s, _PAUSE_S
    while strays := [one for one in children(pid) if one not in spared]:
        for one in strays:
            for below in (one, *descendants(one)):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(below, signal.SIGKILL)
        reap()
        if time.monotonic() > deadline:
            return
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_S)


def is_running(pid: int) -> bool:
    """Returns whether a process is running; one that has ended but was not waited for is not."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except (OSError, IndexError):
        return False
