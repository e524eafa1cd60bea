"""The agent of every session. It travels by value, so all that it does is in `errands`."""

from __future__ import annotations

from retinue import Turn


async def worker(turn: Turn, prompt: str) -> str:
    """Runs the errand in its prompt."""
    from tests.chaos.workloads.errands import run_errand

    return await run_errand(turn, prompt)
