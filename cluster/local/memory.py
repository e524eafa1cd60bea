"""The memory left on this machine, or in this container."""

from __future__ import annotations

import contextlib
from pathlib import Path


def available_memory() -> int | None:
    """The bytes that new processes may use, also within a container; None if unknown."""
    free: list[int] = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free.append(int(line.split()[1]) * 1024)
    with contextlib.suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text())
        free.append(limit - int((group / "memory.current").read_text()))
    return min(free, default=None)
