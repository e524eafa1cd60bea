"""AutoGen Core's runtime in one process: agents are objects, messages a queue."""

from __future__ import annotations

import asyncio
import logging

from autogen_core import SingleThreadedAgentRuntime

from benchmarks.peers.autogen_agents import Bare, FanOut, Leaf, teach
from benchmarks.peers.serve import serve


async def main() -> None:
    logging.disable(logging.WARNING)
    runtime = SingleThreadedAgentRuntime()
    teach(runtime)
    await Leaf.register(runtime, "leaf", Leaf)
    await Bare.register(runtime, "bare", Bare)
    runtime.start()
    handlers = {
        "fan_out": FanOut(runtime, ["leaf"], None),
        "fan_out_bare": FanOut(runtime, ["bare"], None),
    }
    await serve(handlers, ("autogen-core",))
    await runtime.stop()


if __name__ == "__main__":
    asyncio.run(main())
