"""The OpenAI Agents SDK's session in Redis, adding one item at a time."""

from __future__ import annotations

import asyncio
import sys
import time

import redis.asyncio as redis
from agents.extensions.memory.redis_session import RedisSession

from benchmarks.peers.serve import serve


async def main(url: str) -> None:
    client = redis.Redis.from_url(url)
    session = RedisSession("bench", redis_client=client)

    async def add(count: int) -> list[float]:
        seconds = []
        for at in range(count):
            item = {"role": "user", "content": f"message number {at} of this conversation"}
            begin = time.perf_counter()
            await session.add_items([item])
            seconds.append(time.perf_counter() - begin)
        return seconds

    await serve({"add": add}, ("openai-agents", "redis", "hiredis"))
    await session.clear_session()
    await client.aclose()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
