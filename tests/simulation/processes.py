"""Agents in processes of their own: for `retinue.actors.agent.process.supervisor.Runner`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from retinue.actors.agent import calls
from retinue.actors.agent.process import wire
from retinue.actors.agent.process.supervisor import AgentDied
from retinue.actors.agent.shipping import unship
from retinue.actors.agent.turn import Engine, Turn
from tests.simulation.loop import Process

KILLED = "killed"
SWEPT = "killed in the sweep of everything"


@dataclass
class Agent:
    """A process that runs an agent, and its line to the host."""

    process: Process
    host: Process
    over: asyncio.Future[wire.Outcome | str]
    """What the host hears: the outcome, or why there is none."""
    asked: set[asyncio.Task[calls.Answer]] = field(default_factory=set)
    hung_up: bool = False


class SimulatedProcesses:
    """The agents of one host. Its process and theirs die on their own."""

    def __init__(
        self,
        host: Process,
        agents: list[Agent],
        start: Callable[[str], Process],
        delay: Callable[[], float],
    ) -> None:
        """``agents`` are those of all hosts, and ``start(name)`` makes a process.

        ``delay()`` says how long something is under way between two of them.
        """
        self._host = host
        self._agents = agents
        self._start = start
        self._delay = delay

    async def run(
        self, agent: bytes, info: calls.TurnInfo, prompt: str, directory: str | None, engine: Engine
    ) -> wire.Outcome:
        loop = asyncio.get_running_loop()
        process = self._start(f"agent of {info.session_id}")
        one = Agent(process, self._host, loop.create_future())
        self._agents.append(one)
        link = _Link(one, engine, self._delay)
        loop.call_later(
            self._delay(), _begin, one, link, agent, info, prompt, context=process.context
        )
        try:
            heard = await one.over
        finally:
            process.alive, one.hung_up = False, True
            self._agents.remove(one)
            for task in list(one.asked):
                task.cancel()
            if one.asked:
                await asyncio.wait(one.asked)
        if isinstance(heard, str):
            return self.died(heard)
        return wire.require_outcome(heard)

    def died(self, cause: str) -> wire.Outcome:
        """What the death of an agent's process comes to."""
        raise AgentDied(cause)

    async def left(self, session_id: str) -> None:
        """At once: what is killed here does nothing more."""

    def warm(self) -> None:
        """There is nothing to be made ready."""

    @property
    def starting(self) -> Collection[int]:
        return ()


def kill(agent: Agent, cause: str, delay: float) -> None:
    """End an agent's process. Its host hears of that a little later, if it is still there."""
    agent.process.alive = False
    asyncio.get_running_loop().call_later(delay, _tell, agent, cause, context=agent.host.context)


def _begin(one: Agent, link: _Link, agent: bytes, info: calls.TurnInfo, prompt: str) -> None:
    loop = asyncio.get_running_loop()

    async def run() -> wire.Outcome:
        return wire.outcome_of(await unship(agent)(Turn(link, info), prompt))

    def tell(task: asyncio.Task[wire.Outcome]) -> None:
        if task.cancelled():
            outcome = wire.Outcome(error="cancelled")
        elif error := task.exception():
            outcome = wire.failure_of(error)
        else:
            outcome = task.result()
        loop.call_soon(_tell, one, outcome, context=one.host.context)

    loop.create_task(run()).add_done_callback(tell)


def _tell(one: Agent, heard: wire.Outcome | str) -> None:
    if not one.over.done():
        one.over.set_result(heard)


class _Link:
    """The engine at the host, as the agent's process sees it."""

    def __init__(self, agent: Agent, engine: Engine, delay: Callable[[], float]) -> None:
        self._agent = agent
        self._engine = engine
        self._delay = delay

    async def handle(self, branch: int, call: calls.Call) -> calls.Answer:
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[calls.Answer] = loop.create_future()
        one, delay = self._agent, self._delay

        def arrive() -> None:
            if one.hung_up:
                return
            task = loop.create_task(self._engine.handle(branch, call))
            one.asked.add(task)
            task.add_done_callback(answer)

        def answer(task: asyncio.Task[calls.Answer]) -> None:
            one.asked.discard(task)
            if not task.cancelled():
                error = task.exception()
                loop.call_later(delay(), settle, task, error, context=one.process.context)

        def settle(task: asyncio.Task[calls.Answer], error: BaseException | None) -> None:
            if reply.done():
                return
            if error is None:
                reply.set_result(task.result())
            else:
                reply.set_exception(error)

        loop.call_later(delay(), arrive, context=one.host.context)
        return await reply
