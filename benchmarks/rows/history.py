"""What a turn costs when there is much history. Turns queue, so that no client call is in it."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

from benchmarks import agents
from benchmarks.bench import Bench, answer, run
from benchmarks.figures import Figure, figure
from benchmarks.harness import each, in_turns, median, ratios
from retinue import Session

_FEW = 100
_FILLED_AT_ONCE = 500


async def measure(bench: Bench) -> list[Figure]:
    sizes = bench.sizes.histories
    long = {count: await _filled(bench, count) for count in sizes if count > _FEW}
    measured = await in_turns(
        bench.sizes.rounds, *(partial(_turn_s, bench, count, long.get(count)) for count in sizes)
    )
    points = [
        (float(count), median(seconds) * 1e3)
        for count, seconds in zip(sizes, measured, strict=True)
    ]
    return [
        figure(
            "turn_cost_10k_vs_10",
            ratios(measured[-1], measured[0]),
            {f"turn_at_{count:.0f}_p50_ms": cost for count, cost in points},
            (
                "A turn reads the last five messages, adds two and is authorised once; its cost is "
                "the time from one queued turn's beginning to the next one's, commits included.",
                "No peer: the same session with much history and with little.",
            ),
            {"Retinue": points},
        )
    ]


async def _turn_s(bench: Bench, count: int, long: Session | None) -> float:
    """The median seconds of turns that wait for one another, from ``count`` messages on.

    Where the turns' own messages would count, the session is a new one.
    """
    session = long or await _filled(bench, count)
    gate = bench.home / f"go-{bench.retinue.calls.new_id()}"
    first = await session.start(str(gate))
    turns = await each(range(bench.sizes.turns), lambda _: session.start(""), 16)
    gate.touch()
    results = await each([first, *turns], session.result)
    begins = sorted(float(str(answer(result))) for result in results)
    return median(after - before for before, after in pairwise(begins))


async def _filled(bench: Bench, count: int) -> Session:
    """A session with so many messages."""
    session = await bench.session(agents.converses, await bench.workspace("history"))
    left = count
    while left:
        now = min(left, _FILLED_AT_ONCE)
        await run(session, str(now))
        left -= now
    return session
