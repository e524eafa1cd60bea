"""What clients and operators do in a schedule, and what they are told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from msgspec import structs

from retinue.actors.calling import calling
from retinue.actors.domain.budget.commands import SetCap, SetHold
from retinue.actors.domain.budget.state import WORKSPACE, Cap
from retinue.actors.domain.errors import AlreadyDecided, NotFound, SessionEnded, Unavailable
from retinue.actors.domain.permissions.allowances.allowance import Allowance
from retinue.actors.domain.permissions.approvals.machine import Decide
from retinue.actors.domain.permissions.approvals.request import Scope
from retinue.actors.domain.permissions.capabilities.token import Token, mint
from retinue.actors.domain.permissions.patterns import CommandPattern
from retinue.actors.domain.session.messages import Message
from retinue.actors.domain.session.settings import Isolation, Limits
from retinue.actors.domain.session.state import Agent, Budget, Profile
from retinue.actors.domain.values.ids import uuid7
from retinue.actors.domain.values.money import NANO
from retinue.actors.ports import SessionPort
from retinue.actors.requests import Await, Close, Create, Post, SessionAt, Start
from tests.simulation.agents import AGENT, Stage
from tests.simulation.world import EPOCH_US, KEYRING, ROOT, SCOPE

T = TypeVar("T")

USER = "0123456789abcdef"
MOST_AT_ONCE = 3
"""How many sub-agents of a family run at once, at most."""

_PAUSE_S = 0.02


class Client:
    """Calls sessions wherever they are, as `retinue.cluster.client.calls` does."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.cluster = stage.cluster
        self.checker = stage.checker
        self.rng = stage.rng
        self.sessions = calling(SessionPort, self._on_host)

    async def _on_host(self, method: str, /, *arguments: object) -> object:
        """Call ``method`` of the host where the session is, until there is an answer."""
        [command] = arguments
        assert isinstance(command, SessionAt)
        command = structs.replace(command, workspace_id=SCOPE)
        while True:
            host = self.cluster.host(self.cluster.directory.host_of(command.session_id))
            try:
                return await getattr(host, method)(command)
            except Unavailable:
                await asyncio.sleep(_PAUSE_S)

    async def create(self, profile: Profile) -> None:
        """Make a root session."""
        while True:
            host = self.cluster.host(self.cluster.directory.host_of(profile.id))
            try:
                await host.create(Create(profile))
            except Unavailable:
                await asyncio.sleep(_PAUSE_S)
            else:
                return

    async def root(self, number: int) -> None:
        """The life of a root session."""
        rng = self.rng
        limits = Limits(max_concurrent=rng.randint(1, MOST_AT_ONCE))
        most = rng.choice((40, 100)) * NANO
        isolation: Isolation = rng.choice(("process", "shared"))
        profile = _profile(uuid7(EPOCH_US, rng.randbytes(10)), most, limits, isolation)
        await self.create(profile)
        token = _token("own", rng.randbytes(10), profile.id)
        await _insist(lambda: self.cluster.handles.capabilities.add(token))
        runs = [f"{profile.id[-6:]}-run-{at}" for at in range(rng.randint(1, 2))]
        life = [asyncio.ensure_future(self._run(profile.id, run)) for run in runs]
        if rng.random() < 0.4:
            life.append(asyncio.ensure_future(self._say(profile.id, f"client {number}")))
        ending = rng.random()
        if ending < 0.4:
            await asyncio.sleep(rng.uniform(0.0, 0.4))
            sessions = self.sessions
            await self._close(profile.id, sessions.cancel if ending < 0.25 else sessions.end)
            await asyncio.gather(*life)
        else:
            await asyncio.gather(*life)
            await self._close(profile.id, self.sessions.end)

    async def _run(self, session_id: str, run: str) -> None:
        try:
            prompt = f"{self.rng.random()}"
            await self.sessions.start(Start(session_id, run_id=run, prompt=prompt))
        except SessionEnded:
            return
        self.checker.was_accepted(session_id, run)
        while True:
            try:
                result = await self.sessions.result(Await(session_id, run_id=run, timeout_s=0.5))
            except NotFound as error:
                self.checker.wrong(f"a client that had its run accepted got {error!r}")
                return
            if result is not None:
                self.checker.was_finished(session_id, run, result)
                return

    async def _say(self, session_id: str, text: str) -> None:
        try:
            post = Post(session_id, message=Message.user(text), op=f"op of {text}")
            await self.sessions.add_message(post)
        except SessionEnded:
            return
        self.checker.was_said(session_id, text)

    async def _close(self, session_id: str, how: Callable[[Close], Awaitable[None]]) -> None:
        await how(Close(session_id))
        self.checker.was_closed(session_id)


class Operator:
    """Sets the stage, decides requests, revokes, moves the cap, and brakes."""

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
        if rng.random() < 0.5:
            await self._brake()

    async def _brake(self) -> None:
        """Hold the workspace for a while, and now and then find another reason meanwhile."""
        for why in ("it spends", "it lies")[: self.rng.randint(1, 2)]:
            await _insist(partial(self.stores.budget.set_hold, SetHold(why, "operator")))
            self.checker.was_held()
            await asyncio.sleep(self.rng.uniform(0.1, 2.0))
        self.checker.will_release()
        await _insist(partial(self.stores.budget.set_hold, SetHold(None, "operator")))

    async def _cap(self, usd: int) -> None:
        command = SetCap(WORKSPACE, Cap(usd * NANO), "operator")
        await _insist(lambda: self.stores.budget.set_cap(command))
        self.checker.was_capped(usd * NANO)

    async def _grant(self, id: str, command: str, uses: int | None) -> None:
        allowance = Allowance(id, CommandPattern(command), EPOCH_US, max_uses=uses)
        await _insist(lambda: self.stores.permissions.grant(allowance))
        self.checker.was_granted(id)

    async def _add_token(self) -> None:
        await _insist(lambda: self.stores.capabilities.add(TOKEN))
        self.checker.was_added(TOKEN.id)

    async def _revoke(self) -> None:
        await _insist(lambda: self.stores.permissions.revoke(self.shared))
        self.checker.was_revoked(self.shared)

    async def _decide_some(self) -> None:
        for entry in await _insist(self.stores.permissions.open_requests):
            scope = self.rng.choice(
                (Scope.ONCE, Scope.ONCE, Scope.SESSION, Scope.ALWAYS, Scope.DENY)
            )
            names = ("ann", "ben")[: self.rng.randint(1, 2)]
            request = entry.request
            await asyncio.gather(
                *(self._decide(request.id, scope, name, request.argument_hash) for name in names)
            )

    async def _decide(self, id: str, scope: Scope, by: str, argument_hash: str) -> None:
        command = Decide(id, scope, by, argument_hash)
        try:
            decision = await _insist(lambda: self.stores.permissions.decide(command))
        except AlreadyDecided:
            return
        self.checker.was_decided(decision)


async def _insist(call: Callable[[], Awaitable[T]]) -> T:
    while True:
        try:
            return await call()
        except Unavailable:
            await asyncio.sleep(_PAUSE_S)


def _profile(id: str, session_max: int, limits: Limits, isolation: Isolation) -> Profile:
    return Profile(
        id=id,
        user_id=USER,
        workspace_id=SCOPE,
        family_id=id,
        created_at=EPOCH_US,
        agent=Agent(AGENT.digest, AGENT.name),
        isolation=isolation,
        budget=Budget(session_max, 25 * NANO, 80),
        limits=limits,
        workspace_path=ROOT,
    )


def _token(command: str, entropy: bytes, family_id: str | None = None) -> Token:
    """For a command of one family; without one for everybody, and good for one use."""
    return mint(
        KEYRING,
        id=uuid7(EPOCH_US, entropy),
        resource=f"exec://{command}",
        permissions=("execute",),
        now=EPOCH_US - 60_000_000,
        expires=EPOCH_US + 3_600_000_000,
        user=USER,
        audit_entry="simulated",
        family_id=family_id,
        single_use=family_id is None,
    )


TOKEN = _token("single", bytes(10))
