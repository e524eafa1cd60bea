"""What agents, clients and operators do in a schedule, and what they are told."""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar, cast

from actors.agents import ship
from actors.domain import session
from actors.domain.actions import Action, ExecuteCommand, McpToolCall
from actors.domain.allowances import Allowance
from actors.domain.approvals import Scope
from actors.domain.budget import WORKSPACE, Cap, SetCap
from actors.domain.capability_token import Token, mint
from actors.domain.decision import Decision
from actors.domain.errors import (
    AlreadyDecided,
    NotFound,
    SessionEnded,
    StepInterrupted,
    TroupeError,
    Unavailable,
)
from actors.domain.ids import uuid7
from actors.domain.messages import Message
from actors.domain.money import NANO, to_usd
from actors.domain.patterns import CommandPattern
from actors.domain.result import Result
from actors.domain.settings import Limits
from actors.turn import Task, Turn
from tests.simulation.checker import Checker
from tests.simulation.world import EPOCH_US, KEYRING, ROOT, SCOPE, Cluster

T = TypeVar("T")

USER = "0123456789abcdef"
_PAUSE_S = 0.02
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
    from tests.simulation.workload import perform  # it travels without the globals around it

    return await perform(turn, prompt)


AGENT = ship(agent)


async def perform(turn: Turn, prompt: str) -> str:
    """Take the steps that ``prompt`` stands for: the same ones on every replay."""
    stage = STAGE.get()
    play = _Play(stage, turn, random.Random(prompt))
    try:
        await play.act(play.rng.randint(2, 5))
    except _INTERRUPTIONS:
        raise
    except TroupeError as error:
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
        kinds += [self.step, self.careful_step, self.think, self.spawn]
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
        command = self.rng.choice(("limited", "limited", "single", "shared", "other"))
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
        if self.branch or self.spawned or self.turn.depth:
            return
        self.spawned = True
        tasks = []
        for number in range(self.rng.randint(1, 2)):
            prompt = f"{self.turn.run_id} task {number}"
            allotment = self.rng.choice((None, 20))
            tasks.append(Task(agent, prompt, allotment_usd=allotment))
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


class Client:
    """Calls sessions wherever they are, as `cluster.calls` does."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.cluster = stage.cluster
        self.checker = stage.checker
        self.rng = stage.rng

    async def on_host(self, session_id: str, method: str, *arguments: object) -> object:
        """Call ``method`` of the host where the session is, until there is an answer."""
        while True:
            host = self.cluster.directory.host_of(session_id)
            network = self.cluster.network
            try:
                return await network.call(
                    host, method, (session_id, SCOPE, *arguments), patient=False
                )
            except Unavailable:
                await asyncio.sleep(_PAUSE_S)

    async def create(self, profile: session.Profile) -> None:
        """Make a root session."""
        while True:
            host = self.cluster.directory.host_of(profile.id)
            try:
                await self.cluster.network.call(host, "create", (profile, None, []), patient=False)
            except Unavailable:
                await asyncio.sleep(_PAUSE_S)
            else:
                return

    async def root(self, number: int) -> None:
        """The life of a root session."""
        rng = self.rng
        profile = _profile(uuid7(EPOCH_US, rng.randbytes(10)), rng.choice((40, 100)) * NANO)
        await self.create(profile)
        runs = [f"{profile.id[-6:]}-run-{at}" for at in range(rng.randint(1, 2))]
        life = [asyncio.ensure_future(self._run(profile.id, run)) for run in runs]
        if rng.random() < 0.4:
            life.append(asyncio.ensure_future(self._say(profile.id, f"client {number}")))
        ending = rng.random()
        if ending < 0.4:
            await asyncio.sleep(rng.uniform(0.0, 0.4))
            await self._close(profile.id, "cancel" if ending < 0.25 else "end")
            await asyncio.gather(*life)
        else:
            await asyncio.gather(*life)
            await self._close(profile.id, "end")

    async def _run(self, session_id: str, run: str) -> None:
        try:
            await self.on_host(session_id, "start", run, f"{self.rng.random()}", None)
        except SessionEnded:
            return
        self.checker.was_accepted(session_id, run)
        while True:
            try:
                result = await self.on_host(session_id, "result", run, 0.5)
            except NotFound as error:
                self.checker.wrong(f"a client that had its run accepted got {error!r}")
                return
            if result is not None:
                self.checker.was_finished(session_id, run, cast(Result, result))
                return

    async def _say(self, session_id: str, text: str) -> None:
        try:
            await self.on_host(session_id, "add_message", Message.user(text), f"op of {text}")
        except SessionEnded:
            return
        self.checker.was_said(session_id, text)

    async def _close(self, session_id: str, how: str) -> None:
        reason = ("by a client",) if how == "cancel" else ()
        await self.on_host(session_id, how, *reason)
        self.checker.was_closed(session_id)


class Operator:
    """Sets the stage, decides requests, revokes, and moves the cap."""

    def __init__(self, stage: Stage) -> None:
        self.stores = stage.cluster.handles
        self.stage = stage
        self.checker = stage.checker
        self.rng = stage.rng
        self.shared = uuid7(EPOCH_US, self.rng.randbytes(10))

    async def prepare(self) -> None:
        """A cap, two allowances and a token that is good for one use."""
        await asyncio.gather(
            self._cap(self.rng.choice((30, 60, 120))),
            self._grant(uuid7(EPOCH_US, self.rng.randbytes(10)), "limited", self.rng.randint(1, 2)),
            self._grant(self.shared, "shared", None),
            self._add_token(),
        )

    async def work(self) -> None:
        """Decide what is asked, and change things."""
        rng = self.rng
        for _ in range(rng.randint(1, 3)):
            await asyncio.sleep(rng.expovariate(1 / 0.05))
            await self._decide_some()
        if rng.random() < 0.5:
            await self._revoke()
        if rng.random() < 0.3:
            await self._cap(rng.choice((20, 90, 150)))

    async def _cap(self, usd: int) -> None:
        command = SetCap(WORKSPACE, Cap(usd * NANO), "operator")
        await self._insist(lambda: self.stores.budget.set_cap(command))
        self.checker.was_capped(usd * NANO)

    async def _grant(self, id: str, command: str, uses: int | None) -> None:
        allowance = Allowance(id, CommandPattern(command), EPOCH_US, max_uses=uses)
        await self._insist(lambda: self.stores.permissions.grant(allowance))
        self.checker.was_granted(id)

    async def _add_token(self) -> None:
        await self._insist(lambda: self.stores.capabilities.add(TOKEN))
        self.checker.was_added(TOKEN.id)

    async def _revoke(self) -> None:
        await self._insist(lambda: self.stores.permissions.revoke(self.shared))
        self.checker.was_revoked(self.shared)

    async def _decide_some(self) -> None:
        for entry in await self._insist(self.stores.permissions.open_requests):
            scope = self.rng.choice((Scope.ONCE, Scope.ONCE, Scope.SESSION, Scope.DENY))
            names = ("ann", "ben")[: self.rng.randint(1, 2)]
            request = entry.request
            await asyncio.gather(
                *(self._decide(request.id, scope, name, request.argument_hash) for name in names)
            )

    async def _decide(self, id: str, scope: Scope, by: str, argument_hash: str) -> None:
        permissions = self.stores.permissions
        try:
            decision = await self._insist(
                lambda: permissions.decide(id, scope, by, argument_hash, "", None)
            )
        except AlreadyDecided:
            return
        self.checker.was_decided(decision)

    async def _insist(self, call: Callable[[], Awaitable[T]]) -> T:
        while True:
            try:
                return await call()
            except Unavailable:
                await asyncio.sleep(_PAUSE_S)


def _profile(id: str, session_max: int) -> session.Profile:
    return session.Profile(
        id=id,
        user_id=USER,
        scope=SCOPE,
        family_id=id,
        created_at=EPOCH_US,
        agent=session.Agent(AGENT.digest, AGENT.name),
        isolation="shared",
        budget=session.Budget(session_max, 25 * NANO, 80),
        limits=Limits(),
        workspace_path=ROOT,
    )


TOKEN: Token = mint(
    KEYRING,
    id=uuid7(EPOCH_US, bytes(10)),
    resource="exec://single",
    permissions=("execute",),
    now=EPOCH_US - 60_000_000,
    expires=EPOCH_US + 3_600_000_000,
    user=USER,
    audit_entry="simulated",
    single_use=True,
)
