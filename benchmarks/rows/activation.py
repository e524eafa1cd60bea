"""How long a session that was written out takes to its first reply, and what it costs in Redis."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import cast

import redis.asyncio as redis

from benchmarks import agents
from benchmarks.bench import Bench, run
from benchmarks.figures import Figure, figure
from benchmarks.harness import each, in_turns, median, timed
from retinue import Session
from retinue.cluster.client.calls import Calls

MESSAGES = 10


async def measure_activation(bench: Bench) -> list[Figure]:
    workspace = await bench.workspace("activation")
    sessions = await bench.sessions(agents.chats, bench.sizes.activations, workspace)
    await each(sessions, lambda one: run(one, str(MESSAGES)))

    async def first_reply() -> float:
        await each(sessions, bench.deactivate)
        return median([await timed(partial(_ask, bench, one)) for one in sessions])

    (seconds,) = await in_turns(bench.sizes.rounds, first_reply)
    return [
        figure(
            "activation_p50_ms",
            [one * 1e3 for one in seconds],
            {"calls_between_client_and_actors": 3},
            (
                "From a client that has to look the session up to the result of a run: found, "
                "given to a warm host, recovered, its agent called, its result durable.",
            ),
        )
    ]


async def _ask(bench: Bench, session: Session) -> None:
    """As a client does that has never heard of the session."""
    await run(Session(Calls(bench.retinue.calls.settings), session.id), "0")


async def measure_hibernated(bench: Bench) -> list[Figure]:
    count = bench.sizes.hibernated
    workspace = await bench.workspace("hibernated")
    client = redis.Redis.from_url(bench.redis_url)
    try:
        await _hibernate(bench, await bench.sessions(agents.chats, 50, workspace))
        before = await _used(client)
        await _hibernate(bench, await bench.sessions(agents.chats, count, workspace))
        after = await _used(client)
    finally:
        await client.aclose()
    return [
        figure(
            "hibernated_session_bytes",
            [(after - before) / count],
            {"sessions": count, "redis_growth_bytes": after - before},
            (
                "Growth of used_memory less the buffers of clients and of the append-only file: "
                "sessions, messages, audit log, registry and the budget's accounts, after one run "
                "that added ten short messages.",
            ),
        )
    ]


async def _hibernate(bench: Bench, sessions: list[Session]) -> None:
    await each(sessions, lambda one: run(one, str(MESSAGES)))
    await each(sessions, bench.deactivate)


async def _used(client: redis.Redis) -> int:
    """Bytes that Redis uses, without its buffers; the least of a few, as some comes and goes."""
    found = []
    for _ in range(20):
        await asyncio.sleep(0.1)
        info = cast("dict[str, int]", await client.info("memory"))
        found.append(info["used_memory"] - info["mem_clients_normal"] - info["mem_aof_buffer"])
    return min(found)
