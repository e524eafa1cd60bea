"""Calls the agents of a host's sessions, in this process or in processes of their own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import closing
from functools import partial

from retinue.actors.agent import calls
from retinue.actors.agent.process import strays, wire
from retinue.actors.agent.process.supervisor import AgentProcesses, Runner
from retinue.actors.agent.process.watchdog import Watchdog
from retinue.actors.agent.shipping import unship
from retinue.actors.agent.turn import AgentFunction, Engine, Turn
from retinue.actors.domain.errors import InvalidAgent, NotFound
from retinue.actors.domain.session.state import Profile, Run, isolation_of
from retinue.actors.ports import Registry
from retinue.actors.session.activation import Activation
from retinue.actors.session.spawn import Spawner
from retinue.actors.session.turn_engine import TurnEngine

ALWAYS_REPLAY = "RETINUE_ALWAYS_REPLAY"
"""Environment variable: start every turn again after each of its steps, to test that it replays."""


class Agents:
    """The agents called on one host; each is fetched once."""

    def __init__(self, registry: Registry, processes: Runner | None = None) -> None:
        self.processes: Runner | AgentProcesses = processes or AgentProcesses()
        self._registry = registry
        self._watchdog = Watchdog()
        self._agents: dict[str, AgentFunction] = {}
        self._blobs: dict[str, bytes] = {}
        self._always_replay = os.environ.get(ALWAYS_REPLAY) == "1"

    async def call(self, activation: Activation, run: Run, spawner: Spawner) -> wire.Outcome:
        """Call the agent of a run, from the start of its turn.

        Raises AgentDied if its process ends without an outcome, InvalidAgent if the session has no
        agent, and NotFound if its workspace's directory is gone.
        """
        engine = partial(TurnEngine, activation, run.id, spawner)
        serve = partial(self._serve, activation, run)
        if self._always_replay:
            return await AlwaysReplay(engine, serve, activation.stand_still).outcome()
        with closing(engine()) as served:
            return await serve(served)

    async def _serve(self, activation: Activation, run: Run, engine: Engine) -> wire.Outcome:
        profile = activation.profile
        if profile.agent is None:
            raise InvalidAgent(f"session {profile.id} has no agent: it was imported without one")
        info, path = _turn_info(profile, run.id), profile.workspace_path
        if path is not None and not os.path.isdir(path):
            raise NotFound(f"workspace {path}: there is no such directory here any more")
        if isolation_of(activation.entity.state, run) == "process":
            blob = await self._blob(profile.agent.digest)
            return await self.processes.run(blob, info, run.prompt, path, engine)
        agent = await self._agent(profile.agent.digest)
        self._watchdog.watch()
        try:
            with strays.started_by(profile.id):
                return wire.outcome_of(await agent(Turn(engine, info), run.prompt))
        except (SystemExit, KeyboardInterrupt) as error:
            return wire.Outcome(
                error=f"{wire.exit_text(error)}: a shared agent can't end its process; "
                'isolation="process" gives it one of its own'
            )
        finally:
            await strays.end(profile.id, self.processes.starting)

    async def _blob(self, digest: str) -> bytes:
        if digest not in self._blobs:
            self._blobs[digest] = await self._registry.agent(digest)
        return self._blobs[digest]

    async def _agent(self, digest: str) -> AgentFunction:
        if digest not in self._agents:
            self._agents[digest] = unship(await self._blob(digest))
        return self._agents[digest]


class AlwaysReplay:
    """An engine around that of a turn, which starts the turn again after every new step."""

    def __init__(
        self,
        engine: Callable[[], TurnEngine],
        serve: Callable[[Engine], Awaitable[wire.Outcome]],
        stand_still: Callable[[], Awaitable[None]],
    ) -> None:
        """``engine()`` makes one for each start; ``serve`` calls the agent.

        ``stand_still`` returns when the workspace is not on hold.
        """
        self._make = engine
        self._serve = serve
        self._stand_still = stand_still

    async def outcome(self) -> wire.Outcome:
        """The outcome of the turn, once all its steps were recorded before it was started."""
        while True:
            with closing(self._make()) as self._engine:
                await self._stand_still()
                try:
                    async with asyncio.timeout(None) as self._start:
                        outcome = await self._serve(self)
                    if not self._start.expired():
                        return outcome
                except Exception:
                    if not self._start.expired():
                        raise

    async def handle(self, branch: int, call: calls.Call) -> calls.Answer:
        """As the engine does, except that the answer to a new step is discarded."""
        known = len(self._engine.steps)
        answer = await self._engine.handle(branch, call)
        if len(self._engine.steps) > known:
            if not self._start.expired():
                self._start.reschedule(0)
            await asyncio.get_running_loop().create_future()  # until it is cancelled
        return answer


def _turn_info(profile: Profile, run_id: str) -> calls.TurnInfo:
    return calls.TurnInfo(
        session_id=profile.id,
        run_id=run_id,
        family_id=profile.family_id,
        depth=profile.depth,
        workspace=profile.workspace_path,
        system_prompt=profile.system_prompt,
        model=profile.model,
        user_id=profile.user_id,
        parent_id=profile.parent_id,
    )
