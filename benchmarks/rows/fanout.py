"""Many shared sub-agents at once, against AutoGen Core in one process and over gRPC."""

from __future__ import annotations

from functools import partial

from benchmarks import agents
from benchmarks.bench import Bench, run
from benchmarks.figures import Figure, Series, figure
from benchmarks.harness import in_turns, median, ratios
from benchmarks.peer import Peer

COUNT = 1000


async def measure(bench: Bench) -> list[Figure]:
    async with (
        bench.peer("autogen_inprocess") as inprocess,
        bench.peer("autogen_grpc") as grpc,
    ):
        ours, local, least, remote = await in_turns(
            bench.sizes.rounds,
            partial(_retinue, bench, COUNT),
            partial(_autogen, inprocess, COUNT),
            partial(_autogen, inprocess, COUNT, "fan_out_bare"),
            partial(_autogen, grpc, COUNT),
        )
        series = await _series(bench, inprocess, grpc)
    notes = (
        "Retinue: each sub-agent's start and end are durable, it is authorised three times against "
        "budget and policy, and audited; results come back to the parent.",
        "AutoGen: create and call; not durable, no budget, no permissions. Over gRPC: a host, a "
        "caller and two workers, each a process.",
    )
    return [
        figure(
            "fanout_shared_vs_autogen_inprocess",
            ratios(ours, local),
            {
                "retinue_per_s": median(ours),
                "autogen_inprocess_per_s": median(local),
                "autogen_inprocess_without_routing_per_s": median(least),
            },
            notes,
            series,
        ),
        figure(
            "fanout_shared_vs_autogen_grpc",
            ratios(ours, remote),
            {"retinue_per_s": median(ours), "autogen_grpc_per_s": median(remote)},
            notes,
        ),
    ]


async def _series(bench: Bench, inprocess: Peer, grpc: Peer) -> Series:
    """Throughput against fan-out, the median of three."""
    found: Series = {"Retinue": [], "AutoGen in-process": [], "AutoGen gRPC": []}
    for count in bench.sizes.fan_outs:
        rates = await in_turns(
            3,
            partial(_retinue, bench, count),
            partial(_autogen, inprocess, count),
            partial(_autogen, grpc, count),
        )
        for line, measured in zip(found.values(), rates, strict=True):
            line.append((count, median(measured)))
    return found


async def _retinue(bench: Bench, count: int) -> float:
    """Sub-agents a second of a new root session, so that no family comes to its limits."""
    root = await bench.session(agents.fans_out, await bench.workspace("fanout"))
    seconds = await run(root, str(count))
    await root.end()
    return count / float(str(seconds))


async def _autogen(peer: Peer, count: int, what: str = "fan_out") -> float:
    return count / await peer.number(what, count=count)
