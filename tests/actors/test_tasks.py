"""Tasks in the background: kept, cancelled together, and not given up for one bad time."""

from __future__ import annotations

import asyncio

import pytest

from retinue.actors.domain.errors import ClusterUnavailable
from retinue.actors.tasks import Tasks
from tests.kit.waiting import until


async def test_cancelling_returns_when_all_have_ended() -> None:
    tasks, ended = Tasks(), list[str]()

    async def work(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(name)

    tasks.start(work("a"))
    tasks.start(work("b"))
    await asyncio.sleep(0)
    await tasks.cancel()
    assert sorted(ended) == ["a", "b"]
    await tasks.cancel()  # with nothing left to do


async def test_an_error_that_nobody_waits_for_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise ValueError("lost?")

    Tasks().start(fail())
    await until(lambda: "lost?" in caplog.text)


async def test_what_is_repeated_goes_on_after_it_was_unavailable() -> None:
    tasks, times = Tasks(), list[int]()

    async def work() -> None:
        times.append(1)
        if len(times) == 1:
            raise ClusterUnavailable("away")

    tasks.repeat(work, 0.0)
    await until(lambda: len(times) > 2)
    await tasks.cancel()
