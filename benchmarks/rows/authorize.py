"""Authorisations: many sessions at once against Ray calls, one by one against a Lua script."""

from __future__ import annotations

import asyncio
import time

from ray.actor import ActorHandle

from benchmarks import agents, plain_ray
from benchmarks.bench import Bench, run
from benchmarks.figures import Figure, figure
from benchmarks.harness import each, floats, in_turns, median, ratios

SESSIONS = 64
_CALLERS = 2


class Adder:
    """A plain async Ray actor that adds a number."""

    def __init__(self) -> None:
        self.total = 0

    async def add(self, number: int) -> int:
        self.total += number
        return self.total


class Caller:
    """Calls an adder from several loops at once."""

    async def call(self, adder: ActorHandle[object], loops: int, count: int) -> list[float]:
        """When the first call was made, and when the last was answered."""

        async def one_loop() -> None:
            for _ in range(count):
                await plain_ray.call(adder, "add", 1)

        begin = time.monotonic()
        await asyncio.gather(*(one_loop() for _ in range(loops)))
        return [begin, time.monotonic()]


async def measure_throughput(bench: Bench) -> list[Figure]:
    count = bench.sizes.authorizations
    workspace = await bench.workspace("authorize")
    sessions = await bench.sessions(agents.authorizes_along, SESSIONS, workspace)
    adder = plain_ray.start(Adder)
    callers = [plain_ray.start(Caller) for _ in range(_CALLERS)]

    async def retinue() -> float:
        times = await each(sessions, lambda one: run(one, str(count)), SESSIONS)
        return SESSIONS * count / _span([floats(one) for one in times])

    async def ray_calls() -> float:
        times = await asyncio.gather(
            *(
                plain_ray.call(caller, "call", adder, SESSIONS // _CALLERS, count)
                for caller in callers
            )
        )
        return SESSIONS * count / _span([floats(one) for one in times])

    async def ray_batch() -> float:
        begin = time.monotonic()
        await asyncio.gather(*(plain_ray.call(adder, "add", 1) for _ in range(SESSIONS * count)))
        return SESSIONS * count / (time.monotonic() - begin)

    try:
        ours, theirs, batch = await in_turns(bench.sizes.rounds, retinue, ray_calls, ray_batch)
    finally:
        plain_ray.kill(adder, *callers)
    return [
        figure(
            "authorize_vs_ray_call",
            ratios(ours, theirs),
            {
                "retinue_per_s": median(ours),
                "ray_calls_per_s": median(theirs),
                "ray_calls_all_at_once_per_s": median(batch),
            },
            (
                "Retinue: policy, boundary, per-action, session and workspace limit; each answer "
                "is durable and audited before it is given.",
                f"Ray: the same {SESSIONS} loops in {_CALLERS} actors call a third one; nothing is "
                "durable, decided or recorded.",
            ),
        )
    ]


async def measure_latency(bench: Bench) -> list[Figure]:
    count = bench.sizes.calls_in_a_row
    workspace = await bench.workspace("latency")
    session = await bench.session(agents.authorizes, workspace)
    async with bench.peer("redis_lua", bench.redis_url, installed_apart=False) as peer:

        async def retinue() -> float:
            return median(floats(await run(session, str(count))))

        async def lua() -> float:
            return median(floats(await peer.ask("authorize", count=count)))

        ours, theirs = await in_turns(bench.sizes.rounds, retinue, lua)
    return [
        figure(
            "authorize_p50_vs_redis_lua",
            ratios(ours, theirs),
            {"retinue_p50_ms": median(ours) * 1e3, "redis_lua_p50_ms": median(theirs) * 1e3},
            (
                "Retinue: decided, journaled and audited, so that a turn can be resumed.",
                "Lua: two caps and two increments; no operation id, no audit, no permissions, and "
                "a reservation that nobody can settle or resume.",
            ),
        )
    ]


def _span(times: list[list[float]]) -> float:
    """Seconds from the first begin to the last end."""
    return max(end for _, end in times) - min(begin for begin, _ in times)
