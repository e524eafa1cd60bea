"""A budget in plain Redis: one Lua script that looks at two caps and books the amount."""

from __future__ import annotations

import asyncio
import sys
import time

import redis.asyncio as redis

from benchmarks.peers.serve import serve

_SCRIPT = """
local amount = tonumber(ARGV[1])
if amount > tonumber(ARGV[2]) then return 0 end
for _, key in ipairs(KEYS) do
  local found = redis.call('HMGET', key, 'spent', 'max')
  if tonumber(found[1] or '0') + amount > tonumber(found[2]) then return 0 end
end
for _, key in ipairs(KEYS) do redis.call('HINCRBY', key, 'spent', amount) end
return 1
"""

_KEYS = ["bench:{lua}:session", "bench:{lua}:workspace"]


async def main(url: str) -> None:
    client = redis.Redis.from_url(url)
    script = client.register_script(_SCRIPT)
    for key in _KEYS:
        await client.hset(key, "max", 10**15)

    async def authorize(count: int) -> list[float]:
        seconds = []
        for _ in range(count):
            begin = time.perf_counter()
            allowed = await script(keys=_KEYS, args=[100_000, 10**10])
            seconds.append(time.perf_counter() - begin)
            if not allowed:
                raise RuntimeError("the script says no")
        return seconds

    await serve({"authorize": authorize}, ("redis", "hiredis"))
    await client.delete(*_KEYS)
    await client.aclose()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
