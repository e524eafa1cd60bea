"""What the figures were measured on, without anything that names the machine or its owner."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import cast

import psutil
import redis

_PACKAGES = ("retinue", "ray", "redis", "hiredis", "msgspec", "cryptography")


def machine() -> dict[str, object]:
    """Processor, memory and system."""
    return {
        "processor": _processor(),
        "processors": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def versions(redis_url: str) -> dict[str, str]:
    """Python, our packages and the Redis server."""
    with redis.Redis.from_url(redis_url) as client:
        info = cast("dict[str, object]", client.info("server"))
    found = {name: version(name) for name in _PACKAGES}
    return {
        "python": platform.python_version(),
        "redis-server": str(info["redis_version"]),
        **found,
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
