"""Many small requests in one call: those that come in during a call go with the next."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from retinue.actors.domain.errors import CallError

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Batcher(Generic[Item, Answer]):
    """Calls ``send`` with the items that came together; its answers are in the items' order."""

    def __init__(
        self, send: Callable[[list[Item]], Awaitable[Sequence[Answer]]], most: int = 1000
    ) -> None:
        self._send = send
        self._most = most
        self._queue: list[tuple[Item, asyncio.Future[Answer]]] = []
        self._task: asyncio.Task[None] | None = None

    async def __call__(self, item: Item) -> Answer:
        """Sends ``item`` with the next batch; raises the error of the batch.

        A batch that is refused with a CallError is sent again item by item: only an item that is
        wrong by itself gets the error.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        self._queue.append((item, future))
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._flush())
        return await future

    async def _flush(self) -> None:
        while self._queue:
            batch, self._queue = self._queue[: self._most], self._queue[self._most :]
            await self._deliver(batch)

    async def _deliver(self, batch: list[tuple[Item, asyncio.Future[Answer]]]) -> None:
        try:
            answers = await self._send([item for item, _ in batch])
            pairs = list(zip(batch, answers, strict=True))
        except CallError as error:
            if len(batch) == 1:
                _refuse(batch[0][1], error)
                return
            for one in batch:  # one of them is wrong, which is no reason to refuse the others
                await self._deliver([one])
        except Exception as error:  # whatever it is: those who wait must hear of it
            for _, future in batch:
                _refuse(future, error)
        else:
            for (_, future), answer in pairs:
                if not future.done():
                    future.set_result(answer)


def _refuse(future: asyncio.Future[Answer], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
