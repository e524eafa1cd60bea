"""What a live session costs that does nothing: the growth of its host's process."""

from __future__ import annotations

import asyncio

import psutil

from benchmarks import agents
from benchmarks.bench import Bench, run
from benchmarks.figures import Figure, figure
from benchmarks.harness import each
from retinue.actors.stores.table import BUDGET, PERMISSIONS
from retinue.cluster.names import DIRECTORY
from retinue.cluster.ray.actors import proxy
from retinue.cluster.ray.roles import Process

_WARM_UP = 200
_SETTLE_S = 2.0


async def measure(bench: Bench) -> list[Figure]:
    """On new hosts, so that no memory is there already that earlier sessions have left."""
    count = bench.sizes.live
    await bench.kill_hosts()
    await bench.warm_hosts()
    workspace = await bench.workspace("live")
    await _chat(bench, _WARM_UP)
    stores = [DIRECTORY, BUDGET.actor_name(workspace.id), PERMISSIONS.actor_name(workspace.id)]
    pids = await bench.pids()
    before, stores_before = await _resident(pids), await _of_actors(bench, stores)
    await _chat(bench, count)
    after, stores_after = await _resident(pids), await _of_actors(bench, stores)
    hosts = (await bench.retinue.status()).hosts
    live = sum(host.sessions for host in hosts if host.pid in pids)
    if live < count:
        raise RuntimeError(f"{live} sessions of {count} are live on the hosts that were there")
    return [
        figure(
            "live_session_kib",
            [(after - before) / count / 1024],
            {
                "sessions": count,
                "hosts": len(pids),
                "hosts_resident_growth_mib": (after - before) / 2**20,
                "directory_and_stores_kib_per_session": (stores_after - stores_before)
                / count
                / 1024,
            },
            (
                "Resident memory of all hosts, per session, after each had one run that added two "
                "messages; they stay live, and hold an epoch.",
            ),
        )
    ]


async def _chat(bench: Bench, count: int) -> None:
    sessions = await bench.sessions(agents.chats, count, await bench.workspace("live"))
    await each(sessions, lambda one: run(one, "2"))
    await asyncio.sleep(_SETTLE_S)


async def _resident(pids: list[int]) -> int:
    """Bytes of memory that the processes hold together."""
    return sum(psutil.Process(pid).memory_info().rss for pid in pids)


async def _of_actors(bench: Bench, names: list[str]) -> int:
    namespace = bench.retinue.calls.settings.namespace
    pids = [await proxy(Process, name, namespace).process_id() for name in names]
    return await _resident(pids)
