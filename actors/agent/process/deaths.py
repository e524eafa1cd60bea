"""The likely reason why a process ended without a result, and whether memory was to blame."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from retinue.actors.domain.values.record import Record

_MIB = 1024 * 1024
_LOOK_EVERY_S = 1.0
_NEAR = 0.9
"""The share of its memory limit from which on memory counts as the likely reason."""


class Death(Record, frozen=True):
    """The end of a process: its wait status, and its peak memory in bytes.

    ``killer`` tells whether the kernel's memory killer ended anything while the process ran.
    """

    status: int
    most: int = 0
    killer: bool = False


def cause(death: Death, limit: int) -> str:
    """One line for a person; ``limit`` is the memory that the process was allowed, in bytes."""
    code = os.waitstatus_to_exitcode(death.status)
    if code >= 0:
        return f"the agent's process exited with code {code} before the agent returned"
    core = " and left a core" if os.WCOREDUMP(death.status) else ""
    text = f"the agent's process was killed by {_name(-code)}{core}"
    if death.killer and -code == signal.SIGKILL:
        return f"{text}, while the kernel's memory killer was at work"
    if death.most >= _NEAR * limit:
        return f"{text}, with {death.most // _MIB} of the {limit // _MIB} MiB that it may have"
    return text


class MemoryKiller:
    """Counts the kernel's kills for lack of memory, as far as they can be seen from here."""

    def __init__(self) -> None:
        self._files = [*_of_own_group(), Path("/proc/vmstat")]
        self._looked = -_LOOK_EVERY_S
        self._count = 0

    def count(self, *, now: bool = False) -> int:
        """The count of about a second ago, or of ``now``."""
        moment = time.monotonic()
        if now or moment - self._looked >= _LOOK_EVERY_S:
            self._looked, self._count = moment, max(self._counters(), default=0)
        return self._count

    def _counters(self) -> Iterator[int]:
        for file in self._files:
            with contextlib.suppress(OSError, ValueError):
                for line in file.read_text().splitlines():
                    name, _, count = line.partition(" ")
                    if name == "oom_kill":
                        yield int(count)


def _of_own_group() -> Iterator[Path]:
    """The files in which this process's control group counts; version 2 first, then version 1."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, kinds, path = line.split(":", 2)
            inside = path.lstrip("/")
            if not kinds:
                yield Path("/sys/fs/cgroup", inside, "memory.events")
            elif "memory" in kinds.split(","):
                yield Path("/sys/fs/cgroup/memory", inside, "memory.oom_control")


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
