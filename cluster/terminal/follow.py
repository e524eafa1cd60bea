"""Waits for runs while showing their progress."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Coroutine, Iterator, Sequence
from typing import TYPE_CHECKING

from retinue.actors.domain.errors import RetinueError
from retinue.actors.domain.session.result import Result
from retinue.cluster.terminal.display import Display
from retinue.cluster.terminal.progress import Progress
from retinue.cluster.terminal.render import lasting, usd

if TYPE_CHECKING:
    from retinue.cluster.client.session import Session

_RECONCILE_S = 5.0
_RESTRAINT = 20  # looking at all sessions takes at most a twentieth of the time


async def follow(runs: Sequence[tuple[Session, str]], display: Display) -> list[Result]:
    """The results of runs, in order, with their families' progress on ``display``."""
    sessions = {session.id: session for session, _ in runs}
    progress = Progress(sessions)
    with _in_background(
        *(_feed(session, progress) for session in sessions.values()),
        _reconcile(list(sessions.values()), progress),
        _draw(progress, display),
    ):
        return list(await asyncio.gather(*(one.result(run) for one, run in runs)))


def conclusion(result: Result, agents: int) -> str:
    """The end of a run, in a line."""
    below = f" with {agents} sub-agent{'s' if agents > 1 else ''}" if agents else ""
    line = f"{result.status} in {lasting(result.duration_s)}{below}, {usd(result.cost)}"
    return line if result.success else f"{line}: {result.error or 'no reason given'}"


async def _feed(session: Session, progress: Progress) -> None:
    while True:
        with contextlib.suppress(RetinueError):
            async for event in session.events():
                progress.apply(event)
            return
        await asyncio.sleep(1.0)


async def _reconcile(sessions: Sequence[Session], progress: Progress) -> None:
    """Correct the counts periodically: the summaries include any events that were missed."""
    while True:
        began = time.monotonic()
        with contextlib.suppress(RetinueError):
            families = await asyncio.gather(*(one.family() for one in sessions))
            progress.reset(summary for family in families for summary in family)
        took = time.monotonic() - began
        await asyncio.sleep(max(_RECONCILE_S, _RESTRAINT * took))


async def _draw(progress: Progress, display: Display) -> None:
    while True:
        display.update(progress)
        await asyncio.sleep(display.period_s)


@contextlib.contextmanager
def _in_background(*work: Coroutine[None, None, None]) -> Iterator[None]:
    tasks = [asyncio.create_task(one) for one in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
