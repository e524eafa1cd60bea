"""Who is waited for when a store calls back what it has lent."""

from __future__ import annotations

import asyncio
import time

import pytest

from retinue.actors.leases.recall import Recall

LIMIT_S = 0.2


async def _heard(*hosts: str, once: bool) -> Recall:
    """A recall that has been there for long, and has heard of hosts that then die."""
    recall = Recall(LIMIT_S, once=once)
    recall._born -= LIMIT_S
    for host in hosts:
        await recall.wait_for_call(host, 0, 0)
    return recall


async def _seconds(recall: Recall) -> float:
    began = time.monotonic()
    await recall.call_back()
    return time.monotonic() - began


async def test_a_host_that_does_not_answer_is_waited_for_once() -> None:
    recall = await _heard("dead", once=True)
    assert await _seconds(recall) >= LIMIT_S
    assert not recall.any_lent
    assert await _seconds(recall) < LIMIT_S
    await recall.wait_for_call("dead", 0, 0)  # it was not dead
    assert await _seconds(recall) >= LIMIT_S


async def test_an_answer_that_comes_late_makes_the_host_known_again() -> None:
    recall = await _heard("slow", once=True)
    await recall.call_back()
    recall.returned("slow", recall._call)
    assert recall.any_lent


async def test_where_it_might_still_use_what_it_has_it_is_waited_for_each_time() -> None:
    recall = await _heard("dead", once=False)
    for _ in range(2):
        assert await _seconds(recall) >= LIMIT_S


@pytest.mark.parametrize("once", [False, True])
async def test_an_answer_ends_the_waiting(once: bool) -> None:
    recall = await _heard("host", once=once)
    waiting = asyncio.create_task(recall.wait_for_call("host", recall._call, 10 * LIMIT_S))
    called = asyncio.create_task(_seconds(recall))
    recall.returned("host", await waiting)
    assert await called < LIMIT_S
    assert recall.any_lent
