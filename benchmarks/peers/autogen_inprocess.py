"""AutoGen Core's runtime in one process: agents are objects, messages a queue."""

from __future__ import annotations

import asyncio
import logging

from autogen_core import SingleThreadedAgentRuntime

from benchmarks.peers.autogen_agents import FanOut, Leaf, teach
from benchmarks.peers.serve import serve


async def main() -> None:
    logging.disable(logging.WARNING)

    async def fan_out(count: int) -> float:
        # A runtime of its own each time: it keeps every agent, and so gets slower.
        runtime = SingleThreadedAgentRuntime()
        teach(runtime)
        await Leaf.register(runtime, "leaf", Leaf)
        runtime.start()
        try:
            return await FanOut(runtime, ["leaf"], None)(count)
        finally:
            await runtime.stop()

    await serve({"fan_out": fan_out}, ("autogen-core",))


if __name__ == "__main__":
    asyncio.run(main())
