"""Processes that agents sharing this process have started and left behind.

An agent's tasks carry its session's id, so it is known which agents have started processes, but
not which processes: all of them are children of this process. When the last of those agents has
ended, the processes that remain belong to nobody and are killed. A process that has left the tree
by a double fork is not found.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import os
import signal
import sys
from collections.abc import Collection, Iterator

from retinue.actors.agent.process import proctree

_SESSION: contextvars.ContextVar[str] = contextvars.ContextVar("session", default="")
_STARTS = frozenset({"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system"})
_LOOK_AGAIN_S = 0.005
_LIMIT_S = 5.0

_starters: set[str] = set()
"""The sessions of this process whose agents have started a process and not ended yet."""


@contextlib.contextmanager
def started_by(session_id: str) -> Iterator[None]:
    """Records the session that starts processes in this block."""
    _watch()
    token = _SESSION.set(session_id)
    try:
        yield
    finally:
        _SESSION.reset(token)


async def end(session_id: str, spared: Collection[int]) -> None:
    """Called once the session's agent has ended: kills the processes that nobody owns any more.

    Those in ``spared`` are kept. Returns when the others are gone.
    """
    if session_id not in _starters:
        return
    _starters.discard(session_id)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LIMIT_S):
            while not _starters and (left := _running(spared)):
                for one in left:
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.kill(one, signal.SIGKILL)
                await asyncio.sleep(_LOOK_AGAIN_S)


@functools.cache
def _watch() -> None:
    """Starts watching with the first shared agent; it cannot be stopped."""
    sys.addaudithook(_note)


def _note(event: str, arguments: object) -> None:
    if event in _STARTS and (session := _SESSION.get()):
        _starters.add(session)


def _running(spared: Collection[int]) -> list[int]:
    """This process's descendants that have not ended."""
    roots = [one for one in proctree.children(os.getpid()) if one not in spared]
    trees = [one for root in roots for one in (root, *proctree.descendants(root))]
    return [one for one in trees if proctree.is_running(one)]
