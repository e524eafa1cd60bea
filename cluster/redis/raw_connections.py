"""Open lines to one Redis server, over which words are sent in one go.

A line is a connection of the client's pool that stays out of the pool: taking one and putting it
back costs nothing here, and is otherwise most of the client's cost of a short command.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import redis.asyncio as redis
from redis.exceptions import ResponseError

from retinue.cluster.redis.resp import packing

Argument: TypeAlias = bytes | str | int

_KEPT = 16


class RawConnections:
    """The lines of one client."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self._pool = client.connection_pool
        self._pool.connection_class = packing(self._pool.connection_class)
        self._free: list[Any] = []

    async def exchange(self, *commands: Sequence[Argument]) -> list[object]:
        """Send commands on one line; an answer that is a refusal is an Exception in the list.

        Answers are raw, so that maps and sets come back flat, in the form of the protocol.
        """
        line = self._free.pop() if self._free else await self._pool.get_connection()  # type: ignore[no-untyped-call]
        try:
            await line.send_packed_command(
                b"".join(part for words in commands for part in line.pack_command(*words))
            )
            answers = [await _answer(line) for _ in commands]
        except BaseException:
            await line.disconnect(nowait=True)  # what is left of the answers is nobody's
            await self._pool.release(line)
            raise
        if len(self._free) < _KEPT:
            self._free.append(line)
        else:
            await self._pool.release(line)
        return answers

    async def hang_up(self) -> None:
        """Close the unused lines: the server at their other end may be gone."""
        free, self._free = self._free, []
        for line in free:
            await line.disconnect(nowait=True)
            await self._pool.release(line)
        await self._pool.disconnect(inuse_connections=False)

    async def close(self) -> None:
        await self.hang_up()
        await self.client.aclose()


async def _answer(line: Any) -> object:
    try:
        return await line.read_response()
    except ResponseError as error:
        return error
