"""What agents do in a schedule, and what they are told."""

from __future__ import annotations

import asyncio
import contextvars
import random
import sys
from dataclasses import dataclass
from unittest.mock import patch

from retinue.actors.agent.shipping import ship
from retinue.actors.agent.turn import Task, Turn
from retinue.actors.domain.errors import RetinueError, SessionEnded, StepInterrupted, Unavailable
from retinue.actors.domain.permissions.actions import Action, ExecuteCommand, McpToolCall
from retinue.actors.domain.permissions.decision import Decision
from retinue.actors.domain.session.messages import Message
from retinue.actors.domain.session.settings import Isolation
from retinue.actors.domain.values.money import to_usd
from tests.simulation.checker import Checker
from tests.simulation.world import Cluster

SPAWNS = 1
"""How often an agent wants to spawn, to 17 times that it wants something else."""

_ISOLATIONS: tuple[Isolation, ...] = ("process", "shared")
_INTERRUPTIONS = (Unavailable, SessionEnded)


@dataclass
class Stage:
    """What agents and clients share outside of all processes."""

    cluster: Cluster
    checker: Checker
    rng: random.Random
    once: dict[tuple[str, str, str], int]
    """How often the function of each step that must not run twice was called."""


STAGE: contextvars.ContextVar[Stage] = contextvars.ContextVar("stage")


async def agent(turn: Turn, prompt: str) -> str:
    """The agent of every session; shipped as any other."""
    from tests.simulation.agents import perform  # it travels without the globals around it

    return await perform(turn, prompt)


with patch.object(sys, "path", []):  # whoever runs this: how many bytes it has makes a difference
    AGENT = ship(agent)


async def perform(turn: Turn, prompt: str) -> str:
    """Take the steps that ``prompt`` stands for: the same ones on every replay."""
    stage = STAGE.get()
    stage.checker.was_called(turn.session_id, turn.run_id)
    play = _Play(stage, turn, random.Random(prompt))
    try:
        await play.act(play.rng.randint(2, 5))
    except _INTERRUPTIONS:
        raise
    except RetinueError as error:
        stage.checker.wrong(f"the agent of {turn.session_id} got {error!r}")
        raise
    return f"{prompt} is done"


class _Play:
    """One turn of an agent, or one of its branches."""

    def __init__(self, stage: Stage, turn: Turn, rng: random.Random, branch: str = "") -> None:
        self.stage = stage
        self.checker = stage.checker
        self.turn = turn
        self.rng = rng
        self.branch = branch
        self.count = 0
        self.spawned = False

    async def act(self, steps: int) -> None:
        """Take so many steps."""
        kinds = [*[self.spend] * 5, *[self.permitted] * 3, *[self.say] * 2, *[self.parallel] * 3]
        kinds += [self.step, self.careful_step, self.careful_step, self.think]
        kinds += [self.spawn] * SPAWNS
        for _ in range(steps):
            self.count += 1
            await self.rng.choice(kinds)()

    async def begin(self) -> None:
        """A branch: a replay finds it again by its first step, which no other one takes."""
        await self.spend()
        await self.act(1)

    async def spend(self) -> None:
        """An action that costs something."""
        tool = f"tool-{self._name}"
        decision = await self._authorized(McpToolCall("tools", tool), self.rng.randint(1, 30))
        choice = self.rng.random()
        if not decision.allowed or choice < 0.1:
            return
        await asyncio.sleep(self.stage.cluster.weather.delay())
        share = 150 if choice < 0.2 else self.stage.rng.choice((0, 50, 100))
        await self._settle(decision, None if choice > 0.8 else decision.amount * share // 100)

    async def permitted(self) -> None:
        """An action that needs an approval, a token or an allowance."""
        command = self.rng.choice(
            ("limited", "limited", "limited", "single", "shared", "own", "other")
        )
        cost = self.rng.choice((0, 5))
        decision = await self._authorized(ExecuteCommand(command), cost)
        if decision.kind == "deferred" and self.rng.random() < 0.7:
            await asyncio.sleep(0.05)
            decision = await self._authorized(ExecuteCommand(command), cost)
        if decision.allowed and decision.amount:
            await self._settle(decision, None)

    async def say(self) -> None:
        """A message."""
        text = f"{self.turn.run_id} says {self._name}"
        await self.turn.add_message(Message.assistant(text))
        self.checker.was_said(self.turn.session_id, text)

    async def step(self) -> None:
        """A step whose function gives something else each time."""
        name = f"step-{self._name}"
        value = await self.turn.step(name, lambda: self.stage.rng.randrange(1_000_000))
        self.checker.was_stepped(self.turn.session_id, self.turn.run_id, name, value)

    async def careful_step(self) -> None:
        """A step that must not be taken twice."""
        name = f"careful-{self._name}"
        key = (self.turn.session_id, self.turn.run_id, name)

        async def once() -> int:
            self.stage.once[key] = self.stage.once.get(key, 0) + 1
            if self.stage.once[key] > 1:
                self.checker.wrong(f"step {key} ran twice")
            await asyncio.sleep(self.stage.cluster.weather.delay())
            return self.stage.once[key]

        try:
            value: int = await self.turn.step(name, once, idempotent=False)
        except StepInterrupted:
            return
        self.checker.was_stepped(*key, value)

    async def think(self) -> None:
        """Something that takes its time."""
        await asyncio.sleep(self.rng.uniform(0.0, 0.1))

    async def parallel(self) -> None:
        """Some branches at once."""
        if self.branch:
            return
        branches = [
            _Play(self.stage, self.turn, random.Random(self.rng.random()), f"{self._name}{letter}")
            for letter in "abc"[: self.rng.randint(2, 3)]
        ]
        await asyncio.gather(*(branch.begin() for branch in branches))

    async def spawn(self) -> None:
        """Sub-agents, some of them with an allotment."""
        if self.branch or self.spawned or self.turn.depth > 1:
            return
        self.spawned = True
        tasks = []
        for number in range(self.rng.randint(1, 2)):
            prompt = f"{self.turn.run_id} task {number}"
            allotment = self.rng.choice((None, 20))
            isolation = self.rng.choice(_ISOLATIONS)
            tasks.append(Task(agent, prompt, allotment_usd=allotment, isolation=isolation))
        results = await self.turn.spawn(tasks, fail_fast=self.rng.random() < 0.2)
        self.checker.was_spawned(self.turn.session_id, results)

    @property
    def _name(self) -> str:
        return f"{self.branch}{self.count}"

    async def _authorized(self, action: Action, cost: int) -> Decision:
        began = self.checker.now()
        decision = await self.turn.authorize(action, cost_usd=cost, timeout=0.1)
        self.checker.was_authorized(decision, began)
        return decision

    async def _settle(self, decision: Decision, actual: int | None) -> None:
        charge = decision.amount if actual is None else actual
        self.checker.will_settle(decision.operation, charge)
        await self.turn.settle(decision, to_usd(charge))
        self.checker.was_settled(decision.operation)
