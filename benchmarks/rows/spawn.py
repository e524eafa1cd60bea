"""A sub-agent with a process of its own, against a plain Ray actor."""

from __future__ import annotations

import asyncio
import time

from benchmarks import agents, plain_ray
from benchmarks.bench import Bench, run
from benchmarks.figures import Figure, figure
from benchmarks.harness import floats, in_turns, median, ratios


class Plain:
    """A Ray actor as anybody would write it."""

    def hello(self) -> str:
        return "hello"


async def measure(bench: Bench) -> list[Figure]:
    sizes = bench.sizes
    parent = await bench.session(agents.spawns_processes, await bench.workspace("spawn"))

    async def ray_actor() -> float:
        return median([await _started() for _ in range(sizes.actor_starts)])

    async def process_child() -> float:
        return median(floats(await run(parent, str(sizes.process_spawns))))

    ray_s, retinue_s = await in_turns(sizes.rounds, ray_actor, process_child)
    return [
        figure(
            "spawn_process_vs_ray_actor",
            ratios(ray_s, retinue_s),
            {"retinue_p50_ms": median(retinue_s) * 1e3, "ray_actor_p50_ms": median(ray_s) * 1e3},
            (
                "Retinue: a fresh process forked by a warm host; the time is to the child's "
                "result, and its start, result and directory slot are durable or accounted for by "
                "then.",
                "Ray: start and first reply of an actor without arguments; nothing is durable.",
            ),
        )
    ]


async def _started() -> float:
    begin = time.perf_counter()
    handle = plain_ray.start(Plain)
    await plain_ray.call(handle, "hello")
    seconds = time.perf_counter() - begin
    plain_ray.kill(handle)
    await asyncio.sleep(0.1)
    return seconds
