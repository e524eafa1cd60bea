"""One message added durably, against the OpenAI Agents SDK's session in the same Redis."""

from __future__ import annotations

from benchmarks import agents
from benchmarks.bench import Bench, run
from benchmarks.figures import Figure, figure
from benchmarks.harness import floats, in_turns, median, ratios


async def measure(bench: Bench) -> list[Figure]:
    count = bench.sizes.calls_in_a_row
    session = await bench.session(agents.adds_messages, await bench.workspace("messages"))
    async with bench.peer("openai_session", bench.redis_url) as peer:

        async def retinue() -> float:
            return median(floats(await run(session, str(count))))

        async def openai() -> float:
            return median(floats(await peer.ask("add", count=count)))

        ours, theirs = await in_turns(bench.sizes.rounds, retinue, openai)
    return [
        figure(
            "add_message_vs_openai_redis_session",
            ratios(ours, theirs),
            {"retinue_p50_ms": median(ours) * 1e3, "openai_p50_ms": median(theirs) * 1e3},
            (
                "Retinue: fenced, sealed, and a step of a turn that can be resumed.",
                "OpenAI: a checked transaction for each item; nothing keeps two writers of one "
                "session from interleaving.",
            ),
        )
    ]
