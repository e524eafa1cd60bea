"""Results on their way to a parent: kept until it has them, handed out as soon as they come."""

from __future__ import annotations

import asyncio

import pytest

from retinue.actors.domain.errors import Fenced
from retinue.actors.domain.session.result import Result
from retinue.actors.session.outbox import Outbox

A, B = Result("a", "completed"), Result("b", "failed")


async def test_what_is_there_is_handed_out_at_once_and_again_until_it_was_seen() -> None:
    outbox = Outbox()
    assert outbox.empty
    outbox.put(A)
    outbox.put(B)
    assert await outbox.collect(1, [], 60) == [A, B]
    assert await outbox.collect(1, [], 60) == [A, B]
    assert await outbox.collect(1, ["a"], 60) == [B]
    assert await outbox.collect(1, ["b"], 0) == []
    assert outbox.empty


async def test_a_result_that_is_put_twice_is_there_once() -> None:
    outbox = Outbox()
    outbox.put(A)
    outbox.put(A)
    assert await outbox.collect(1, [], 60) == [A]


async def test_whoever_waits_hears_of_the_next_result() -> None:
    outbox = Outbox()
    outbox.put(A)
    waiting = asyncio.create_task(outbox.collect(1, ["a"], 60))
    await asyncio.sleep(0)
    assert not waiting.done()
    outbox.put(B)
    assert await waiting == [B]


async def test_all_who_wait_hear_of_it() -> None:
    outbox = Outbox()
    waiting = [asyncio.create_task(outbox.collect(1, [], 60)) for _ in range(3)]
    await asyncio.sleep(0)
    outbox.put(A)
    assert await asyncio.gather(*waiting) == [[A], [A], [A]]


async def test_when_time_is_up_there_is_nothing() -> None:
    assert await Outbox().collect(1, [], 0.01) == []


async def test_having_seen_what_is_not_there_does_no_harm() -> None:
    outbox = Outbox()
    outbox.put(A)
    assert await outbox.collect(1, ["stranger"], 60) == [A]


async def test_it_is_idle_only_when_it_is_empty_and_nobody_waits() -> None:
    outbox = Outbox()
    assert outbox.idle
    waiting = asyncio.create_task(outbox.collect(1, [], 60))
    await asyncio.sleep(0)
    assert outbox.empty
    assert not outbox.idle
    outbox.put(A)
    await waiting
    assert not outbox.idle
    await outbox.collect(1, ["a"], 0)
    assert outbox.idle


async def test_a_newer_activation_of_the_parent_has_the_results_and_the_older_one_is_fenced() -> (
    None
):
    outbox = Outbox()
    older = asyncio.create_task(outbox.collect(1, [], 60))
    await asyncio.sleep(0)
    newer = asyncio.create_task(outbox.collect(2, [], 60))
    with pytest.raises(Fenced):
        await older
    outbox.put(A)
    with pytest.raises(Fenced):
        await outbox.collect(1, ["a"], 60)
    assert await newer == [A]
