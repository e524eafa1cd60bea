"""Whoever waits for a change hears of each one, and waits no longer than it would."""

from __future__ import annotations

import asyncio

from retinue.actors.changed import Changed

A_LONG_TIME_S = 60.0


async def _asleep(*waiting: asyncio.Task[object]) -> None:
    """Let tasks run until they wait."""
    for _ in range(3):
        await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)


async def test_a_change_wakes_everybody_who_waits() -> None:
    changed = Changed()
    waiting = [asyncio.create_task(changed.wait(A_LONG_TIME_S)) for _ in range(3)]
    await _asleep(*waiting)
    changed.notify()
    await asyncio.gather(*waiting)


async def test_an_earlier_change_wakes_nobody() -> None:
    changed = Changed()
    changed.notify()
    waiting = asyncio.create_task(changed.wait(A_LONG_TIME_S))
    await _asleep(waiting)
    waiting.cancel()


async def test_without_a_change_the_limit_ends_the_waiting() -> None:
    await Changed().wait(0.0)
    assert await Changed().until(list, 0.01) == []


async def test_what_is_looked_for_is_found_at_the_change_that_brings_it() -> None:
    changed, there = Changed(), list[int]()
    waiting = asyncio.create_task(changed.until(lambda: there, A_LONG_TIME_S))
    await _asleep(waiting)
    changed.notify()
    await _asleep(waiting)
    there.append(1)
    changed.notify()
    assert await waiting == [1]


async def test_what_is_there_is_found_at_once() -> None:
    assert await Changed().until(lambda: "here", 0.0) == "here"
