"""The agent that both of AutoGen's runtimes create and call, and what it is sent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from autogen_core import (
    AgentId,
    AgentRuntime,
    BaseAgent,
    MessageContext,
    RoutedAgent,
    rpc,
    try_get_known_serializers_for_type,
)


@dataclass
class Ask:
    """What a sub-agent is to do."""

    prompt: str


@dataclass
class Reply:
    """What it came to."""

    text: str


class Leaf(RoutedAgent):
    """Replies at once. This is how its documentation writes agents."""

    def __init__(self) -> None:
        super().__init__("leaf")

    @rpc
    async def ask(self, message: Ask, ctx: MessageContext) -> Reply:
        return Reply("ok")


class Bare(BaseAgent):
    """The same without routing by the type of the message: the least that an agent can be."""

    def __init__(self) -> None:
        super().__init__("bare")

    async def on_message_impl(self, message: object, ctx: MessageContext) -> Reply:
        return Reply("ok")


def teach(runtime: AgentRuntime) -> None:
    """Let the runtime send our messages."""
    for kind in (Ask, Reply):
        runtime.add_message_serializer(try_get_known_serializers_for_type(kind))


class FanOut:
    """Creates and calls agents that were not there before, all at once."""

    def __init__(self, runtime: AgentRuntime, kinds: Sequence[str], sender: AgentId | None) -> None:
        self._runtime = runtime
        self._kinds = kinds
        self._sender = sender
        self._made = 0

    async def __call__(self, count: int) -> float:
        """The seconds until the last of ``count`` replies."""
        first, self._made = self._made, self._made + count
        begin = time.perf_counter()
        replies = await asyncio.gather(
            *(
                self._runtime.send_message(
                    Ask(str(at)),
                    AgentId(self._kinds[at % len(self._kinds)], str(at)),
                    sender=self._sender,
                )
                for at in range(first, self._made)
            )
        )
        seconds = time.perf_counter() - begin
        if any(reply.text != "ok" for reply in replies):
            raise RuntimeError("an agent did not say ok")
        return seconds
