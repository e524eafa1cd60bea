"""What can be hit in a local cluster: the process behind `retinue up`, Ray's parts, and Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from retinue.cluster.local.running import running
from tests.chaos.faults.everywhere import note_orphans
from tests.chaos.faults.kinds import FaultKind, Field
from tests.chaos.grounds.local import LocalCluster
from tests.chaos.plan import Fault
from tests.kit import processes

Local = Field[LocalCluster]
Hit = Callable[[Local, Fault], Awaitable[str]]


async def daemon(field: Local, fault: Fault) -> str:
    """Kills a process behind `up`: a cluster that nobody keeps any more is started by command."""
    cluster = field.ground
    pid = _one_of(cluster.daemons(), fault.pick)
    for raylet in cluster.raylets():
        note_orphans(field, raylet)
    if pid is None or not processes.kill(pid):
        return ""
    await asyncio.sleep(fault.strength)
    if running() is None:
        took = await cluster.back_by_command(f"daemon {pid} killed")
        return f"pid {pid}, up again in {took:.1f} s"
    return _back(pid, await cluster.back_by_itself(f"daemon {pid} killed"))


def part(name: str, find: Callable[[LocalCluster], Sequence[int]]) -> Hit:
    """Kills a part of Ray, which the process behind `up` has to notice."""

    async def hit(field: Local, fault: Fault) -> str:
        pid = _one_of(find(field.ground), fault.pick)
        if pid is None:
            return ""
        note_orphans(field, pid)
        if not processes.kill(pid):
            return ""
        return _back(pid, await field.ground.back_by_itself(f"{name} {pid} killed"))

    return hit


async def redis(field: Local, fault: Fault) -> str:
    """Kills the embedded Redis, which is kept alive by its reaper."""
    pid = await asyncio.to_thread(field.ground.redis_pid)
    return f"pid {pid}" if pid and processes.kill(pid) else ""


def _back(pid: int, took: float | None) -> str:
    return f"pid {pid}, " + ("not back" if took is None else f"back in {took:.1f} s")


def _one_of(pids: Sequence[int], pick: float) -> int | None:
    return pids[int(pick * len(pids))] if pids else None


FAULTS: tuple[FaultKind[LocalCluster], ...] = (
    FaultKind("daemon", daemon, holds="ray"),
    FaultKind("raylet", part("raylet", LocalCluster.raylets), holds="ray"),
    FaultKind("gcs", part("gcs", LocalCluster.control_services), holds="ray"),
    FaultKind("redis", redis, outage=True),
)
