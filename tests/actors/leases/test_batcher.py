"""Many small requests, one call: nothing is lost, mixed up, or left waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from retinue.actors.domain.errors import CallError, InvalidValue, StoreUnavailable
from retinue.actors.leases.batcher import Batcher


class Server:
    """Doubles numbers; a call waits for `open`, and everything that was sent is noted."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.open = asyncio.Event()
        self.failures: list[Exception] = []
        self.wrong: set[int] = set()

    async def send(self, items: list[int]) -> Sequence[int]:
        self.batches.append(items)
        await self.open.wait()
        if self.failures:
            raise self.failures.pop(0)
        for item in items:
            if item in self.wrong:
                raise InvalidValue(f"{item} is wrong")
        return [2 * item for item in items]


async def start(batcher: Batcher[int, int], items: Sequence[int]) -> list[asyncio.Task[int]]:
    """Have each item sent by a task of its own; returns when all have been handed over."""

    async def one(item: int) -> int:
        return await batcher(item)

    tasks = [asyncio.create_task(one(item)) for item in items]
    await asyncio.sleep(0)
    return tasks


async def test_each_caller_gets_the_answer_to_its_own_item() -> None:
    server = Server()
    server.open.set()
    batcher = Batcher(server.send)
    assert await asyncio.gather(*(batcher(item) for item in range(100))) == [
        2 * item for item in range(100)
    ]


async def test_what_comes_together_goes_together_and_the_rest_with_the_next_call() -> None:
    server = Server()
    batcher = Batcher(server.send)
    first = await start(batcher, [1, 2, 3])
    await asyncio.sleep(0)
    second = await start(batcher, [4, 5])
    assert server.batches == [[1, 2, 3]]
    server.open.set()
    assert await asyncio.gather(*first, *second) == [2, 4, 6, 8, 10]
    assert server.batches == [[1, 2, 3], [4, 5]]


async def test_a_call_takes_no_more_than_the_most() -> None:
    server = Server()
    server.open.set()
    batcher = Batcher(server.send, most=2)
    assert await asyncio.gather(*await start(batcher, [1, 2, 3, 4, 5])) == [2, 4, 6, 8, 10]
    assert server.batches == [[1, 2], [3, 4], [5]]


async def test_one_that_stops_waiting_does_not_disturb_the_others() -> None:
    server = Server()
    batcher = Batcher(server.send)
    gone, stays = await start(batcher, [1, 2])
    await asyncio.sleep(0)
    gone.cancel()
    server.open.set()
    assert await stays == 4
    assert gone.cancelled()


@pytest.mark.parametrize("error", [StoreUnavailable("away"), RuntimeError("a bug")])
async def test_a_call_that_fails_is_told_to_all_who_wait_for_it(error: Exception) -> None:
    server = Server()
    server.failures = [error]
    batcher = Batcher(server.send)
    tasks = await start(batcher, [1, 2])
    server.open.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert answers == [error, error]


async def test_after_a_failure_the_next_call_is_made_as_ever() -> None:
    server = Server()
    server.failures = [StoreUnavailable("away")]
    batcher = Batcher(server.send)
    first = await start(batcher, [1])
    await asyncio.sleep(0)
    second = await start(batcher, [2])
    server.open.set()
    assert isinstance((await asyncio.gather(*first, return_exceptions=True))[0], StoreUnavailable)
    assert await asyncio.gather(*second) == [4]
    assert await batcher(3) == 6


async def test_an_item_that_is_wrong_is_refused_alone() -> None:
    server = Server()
    server.wrong = {2}
    server.open.set()
    batcher = Batcher(server.send)
    one, wrong, three = await asyncio.gather(
        *await start(batcher, [1, 2, 3]), return_exceptions=True
    )
    assert (one, three) == (2, 6)
    assert isinstance(wrong, CallError)
    assert str(wrong) == "2 is wrong"
    assert server.batches == [[1, 2, 3], [1], [2], [3]]


async def test_too_few_answers_leave_nobody_waiting() -> None:
    async def forgetful(items: list[int]) -> Sequence[int]:
        return items[1:]

    batcher = Batcher(forgetful)
    answers = await asyncio.gather(batcher(1), batcher(2), return_exceptions=True)
    assert [type(answer) for answer in answers] == [ValueError, ValueError]
