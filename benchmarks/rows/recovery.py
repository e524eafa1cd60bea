"""How fast sessions with runs in flight go on after SIGKILL has taken every host."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from benchmarks import agents
from benchmarks.bench import Bench, answer
from benchmarks.figures import Figure, figure
from benchmarks.harness import each, median, until

_LIMIT_S = 300.0


async def measure(bench: Bench) -> list[Figure]:
    count = bench.sizes.recovered
    found = [await _recovery(bench, number, count) for number in range(bench.sizes.recoveries)]
    return [
        figure(
            "recovered_per_s",
            [count / last for _, last in found],
            {
                "sessions": count,
                "first_revived_after_s": median(first for first, _ in found),
                "last_revived_after_s": median(last for _, last in found),
            },
            (
                "From the SIGKILL to the moment when the last agent is back where it was: noticing "
                "the deaths, starting new hosts (Ray's processes), recovering and replaying.",
                "Checked afterwards: every run ends once, and every cost is charged once.",
            ),
        )
    ]


async def _recovery(bench: Bench, number: int, count: int) -> tuple[float, float]:
    """Seconds from the kill to the first and to the last session that goes on."""
    marks, go = bench.home / f"marks-{number}", bench.home / f"go-on-{number}"
    workspace = await bench.workspace("recovery")
    spent_before = (await workspace.budget()).spent
    sessions = await bench.sessions(agents.works_on, count, workspace)
    runs = await each(sessions, lambda one: one.start(f"{marks} {go}"))
    await until(lambda: _all_marked(marks, count), _LIMIT_S, 0.1)
    before = _lines(marks)
    killed = time.monotonic()
    await bench.kill_hosts()
    await until(lambda: _all_marked(marks, count, before), _LIMIT_S, 0.2)
    again: dict[str, float] = {}
    for line in (await asyncio.to_thread(marks.read_text)).splitlines()[before:]:
        session, at = line.split()
        again.setdefault(session, float(at) - killed)
    go.touch()
    results = await each(list(zip(sessions, runs, strict=True)), lambda one: one[0].result(one[1]))
    if any(answer(result) != "done" for result in results):
        raise RuntimeError("a revived run came to another result")
    spent = (await workspace.budget()).spent - spent_before
    if spent != sum(result.cost for result in results) or spent != count * 100_000:
        raise RuntimeError(f"{count} sessions were charged {spent} nano-USD")
    return min(again.values()), max(again.values())


async def _all_marked(marks: Path, count: int, after: int = 0) -> bool:
    """Whether ``count`` different sessions have left a mark after so many lines."""
    if not marks.exists():
        return False
    lines = (await asyncio.to_thread(marks.read_text)).splitlines()[after:]
    return len({line.partition(" ")[0] for line in lines}) >= count


def _lines(marks: Path) -> int:
    return len(marks.read_text().splitlines())
