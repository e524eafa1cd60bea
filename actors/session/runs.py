"""Runs the agents of the sessions that are live in one actor, a session's runs one by one."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable

from retinue.actors.agent.calls import TurnInfo
from retinue.actors.agent.process import strays, wire
from retinue.actors.agent.process.supervisor import AgentDied, AgentProcesses, Runner
from retinue.actors.agent.process.watchdog import Watchdog, exit_process
from retinue.actors.agent.shipping import unship
from retinue.actors.agent.turn import AgentFunction, Turn
from retinue.actors.domain.errors import InvalidAgent, NotFound, RetinueError, Unavailable
from retinue.actors.domain.session import machine as session
from retinue.actors.domain.session.machine import ChildSpec
from retinue.actors.domain.session.result import Result
from retinue.actors.durable.brakes import TimeLimit
from retinue.actors.ports import Batch, HostProvider, Registry
from retinue.actors.session.activation import Activation
from retinue.actors.session.spawn import Spawner
from retinue.actors.session.turn_engine import TurnEngine
from retinue.actors.telemetry import metrics, tracing

_CANCEL_PAUSE_S = 5.0
_CANCEL_TRIES = 6
_RETRY_S = 0.2
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.0

ALWAYS_REPLAY = "RETINUE_ALWAYS_REPLAY"
"""Environment variable: start every turn again after each of its steps, to test that it replays."""


class Runs:
    """The turns under way in this actor."""

    def __init__(
        self,
        registry: Registry,
        hosts: HostProvider,
        here: str,
        done: Callable[[Activation], Awaitable[None]],
        lost: Callable[[Activation, RetinueError], Awaitable[None]],
        processes: Runner | None = None,
    ) -> None:
        """``done`` is told when a session has no more runs, ``lost`` when it can't go on here."""
        self._registry = registry
        self._hosts = hosts
        self._here = here
        self._done = done
        self._lost = lost
        self._workers: dict[str, asyncio.Task[None]] = {}
        self._turns: dict[str, asyncio.Task[wire.Outcome]] = {}
        self._spawners: dict[str, Spawner] = {}
        self._waiting: dict[str, asyncio.Future[None]] = {}
        self._finished: dict[str, asyncio.Event] = {}
        self._agents: dict[str, AgentFunction] = {}
        self._blobs: dict[str, bytes] = {}
        self._processes = processes or AgentProcesses()
        self._watchdog = Watchdog()
        self._always_replay = os.environ.get(ALWAYS_REPLAY) == "1"

    def warm(self) -> None:
        """Make ready for agents in processes of their own."""
        self._processes.warm()

    def work(self, activation: Activation) -> None:
        """Have the session's runs go on."""
        worker = self._workers.get(activation.id)
        if worker is None or worker.done():
            task = asyncio.create_task(self._run_all(activation))
            self._workers[activation.id] = task
            task.add_done_callback(lambda done: self._forget(activation.id, done))

    def at_work(self) -> list[str]:
        """The sessions whose runs are under way here."""
        return [id for id, worker in self._workers.items() if not worker.done()]

    async def wait(self, run_id: str, timeout_s: float) -> None:
        """Return when the run has ended here, or time is up."""
        finished = self._finished.setdefault(run_id, asyncio.Event())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await finished.wait()

    def announce(self, run_id: str) -> None:
        """Wake those who wait for a run."""
        finished = self._finished.pop(run_id, None)
        if finished:
            finished.set()

    def abandon(self, activation: Activation) -> None:
        """The activation is fenced or broken: its agent must not go on."""
        turn = self._turns.get(activation.id)
        if turn:
            turn.cancel()
        self._wake(activation)

    async def stop(self, activation: Activation) -> None:
        """Cancel the session's turn; returns when nothing of it runs."""
        self._wake(activation)
        turn = self._turns.get(activation.id)
        if turn:
            await _cancelled(turn)
        await self.left(activation.id)

    async def left(self, session_id: str) -> None:
        """Return when nothing of the session's last agent runs any more."""
        await self._processes.left(session_id)

    async def cancel_children(self, activation: Activation) -> None:
        """Cancel what was spawned and has no result yet, wherever it runs, until that is done.

        Raises what says that this activation can't go on; its children are not its own then.
        """
        children = activation.entity.state.children.values()
        left = [child.spec for child in children if child.result is None]
        spawner = self._spawners.get(activation.id)
        where = spawner.running if spawner else {}
        while left:
            await activation.entity.confirmed()
            left = await self._cancelled_not(activation, left, where)
            where = {}  # whoever did not answer may be gone
            if left:
                await asyncio.sleep(_RETRY_S)
        self._spawners.pop(activation.id, None)

    async def _cancelled_not(
        self, activation: Activation, specs: list[ChildSpec], where: dict[str, str]
    ) -> list[ChildSpec]:
        """Cancel children; those whose host did not say that it has done it."""
        by_host: dict[str, list[ChildSpec]] = {}
        try:
            for spec in specs:
                slot = where.get(spec.id) or (await self._hosts.directory.locate(spec.id))[1]
                by_host.setdefault(slot, []).append(spec)
        except Unavailable:
            return specs

        async def cancel(slot: str, specs: list[ChildSpec]) -> list[ChildSpec]:
            try:
                batch = Batch(activation.profile, specs)
                await self._hosts.host(slot).cancel_children(batch)
            except Unavailable:
                return specs
            return []

        left = await asyncio.gather(*(cancel(slot, group) for slot, group in by_host.items()))
        return [spec for group in left for spec in group]

    def _forget(self, session_id: str, worker: asyncio.Task[None]) -> None:
        if self._workers.get(session_id) is worker:
            del self._workers[session_id]
        if not worker.cancelled() and (error := worker.exception()):
            raise error

    async def _run_all(self, activation: Activation) -> None:
        state = activation.entity.state
        try:
            while state.runs and not state.closed and not activation.closing:
                await self._run(activation, next(iter(state.runs.values())))
            await self._done(activation)
        except RetinueError as error:
            if not isinstance(error, Unavailable):
                raise
            for run_id in list(state.runs):
                self.announce(run_id)
            self._workers.pop(activation.id, None)
            self._spawners.pop(activation.id, None)
            await self._lost(activation, error)

    async def _run(self, activation: Activation, run: session.Run) -> None:
        entity = activation.entity
        if entity.broken:  # which is why it need not wait for a release
            raise entity.broken
        brakes, workspace_id = activation.runtime.brakes, entity.key.workspace_id
        if brakes.hold(workspace_id) and not await self._released(activation):
            return
        entity.do(session.StartRun(run.id, entity.epoch))
        await entity.confirmed()  # which tells whether the workspace is on hold by now
        if not brakes.is_clear(workspace_id) and not await self._released(activation):
            return
        if activation.closing or entity.state.closed:
            return
        activation.notify("run_started", run.prompt[:200])
        spawner = self._spawners[activation.id] = Spawner(activation, self._hosts, self._here)
        with tracing.span("run", run.trace, session=activation.id, run=run.id):
            result = await self._attempt(activation, run, spawner)
        if _is_over(activation):
            if not entity.broken:
                spawner.close()
            await entity.committed()
            return
        await self.cancel_children(activation)  # those that it did not wait for
        spawner.close()
        result = await activation.finish(run.id, result)
        metrics.RUNS.add(label=result.status)
        activation.notify("run_finished", result.error or "", result.cost)
        await self._processes.left(activation.id)
        self.announce(run.id)

    async def _released(self, activation: Activation) -> bool:
        """Stand still while the workspace is on hold; False if it was woken before that."""
        workspace_id = activation.entity.key.workspace_id
        waiting = asyncio.ensure_future(activation.runtime.brakes.clear(workspace_id))
        self._waiting[activation.id] = waiting
        try:
            await asyncio.wait([waiting])
        finally:
            waiting.cancel()
            self._waiting.pop(activation.id, None)
        if waiting.cancelled():
            return False
        waiting.result()
        return True

    async def _stand_still(self, activation: Activation) -> None:
        """Return when nobody holds the workspace: the agent is about to be called."""
        brakes, workspace_id = activation.runtime.brakes, activation.entity.key.workspace_id
        if not brakes.is_clear(workspace_id):
            await brakes.clear(workspace_id)

    def _wake(self, activation: Activation) -> None:
        """It need not wait for its workspace's release any more."""
        if waiting := self._waiting.get(activation.id):
            waiting.cancel()

    async def _attempt(self, activation: Activation, run: session.Run, spawner: Spawner) -> Result:
        """Call the agent, again from the start after each death or request of the engine."""
        limit = None if run.timeout is None else run.timeout / 1_000_000
        runtime = activation.runtime
        time_limit = TimeLimit(
            limit, runtime.brakes, activation.profile.workspace_id, runtime.clock
        )
        died = False
        while True:
            if why := session.exhausted(run):
                return Result(activation.id, "failed", error=why)
            engine = TurnEngine(activation, run.id, spawner, self._always_replay)
            turn = asyncio.create_task(
                self._traced(activation, run, engine, _pause(run.attempts) if died else 0.0),
                name=f"turn of {activation.id}",
            )
            engine.on_replay = turn.cancel
            self._turns[activation.id] = turn
            died = False
            try:
                result = await _outcome(turn, activation.id, limit, time_limit)
            except AgentDied as death:
                died = True
                result = Result(activation.id, "failed", error=death.cause)
            finally:
                engine.closed = True
                self._turns.pop(activation.id, None)
            if died and not _is_over(activation):
                activation.entity.do(session.EndAttempt(run.id, str(result.error)))
                await activation.entity.committed()
                activation.notify("attempt_ended", str(result.error))
                metrics.DEATHS.add()
            elif not engine.replay:
                return result
            if _is_over(activation):
                return result

    async def _traced(
        self, activation: Activation, run: session.Run, engine: TurnEngine, pause: float
    ) -> wire.Outcome:
        if pause:  # what ended its process may be over by then
            await asyncio.sleep(pause)
        await self._stand_still(activation)
        with tracing.span("turn", session=activation.id, attempt=run.attempts):
            return await self._turn(activation, run, engine)

    async def _turn(
        self, activation: Activation, run: session.Run, engine: TurnEngine
    ) -> wire.Outcome:
        profile = activation.profile
        if profile.agent is None:
            raise InvalidAgent(f"session {profile.id} has no agent: it was imported without one")
        info = _turn_info(activation, run.id)
        _require_workspace(profile.workspace_path)
        if session.isolation_of(activation.entity.state, run) == "process":
            blob = await self._blob(profile.agent.digest)
            return await self._processes.run(blob, info, run.prompt, profile.workspace_path, engine)
        agent = await self._agent(profile.agent.digest)
        self._watchdog.watch()
        try:
            with strays.started_by(activation.id):
                return wire.outcome_of(await agent(Turn(engine, info), run.prompt))
        except (SystemExit, KeyboardInterrupt) as error:
            return wire.Outcome(
                error=f"{wire.exit_text(error)}: a shared agent can't end its process; "
                'isolation="process" gives it one of its own'
            )
        finally:
            await strays.end(activation.id, self._processes.starting)

    async def _blob(self, digest: str) -> bytes:
        blob = self._blobs.get(digest)
        if blob is None:
            blob = self._blobs[digest] = await self._registry.agent(digest)
        return blob

    async def _agent(self, digest: str) -> AgentFunction:
        agent = self._agents.get(digest)
        if agent is None:
            agent = self._agents[digest] = unship(await self._blob(digest))
        return agent


async def _outcome(
    turn: asyncio.Task[wire.Outcome], session_id: str, limit: float | None, time_limit: TimeLimit
) -> Result:
    """What a turn came to. What is no outcome goes through: Fenced, StoreUnavailable, AgentDied."""
    await time_limit.wait(turn)
    if not turn.done():
        await _cancelled(turn)
        if turn.cancelled() or not turn.exception():
            return Result(session_id, "timed_out", error=f"timed out after {limit:g} s")
    if turn.cancelled():
        return Result(session_id, "cancelled", error="cancelled")
    error = turn.exception()
    if error is not None:
        if isinstance(error, (*wire.INTERRUPTIONS, AgentDied)):
            raise error
        return Result(session_id, "failed", error=wire.error_text(error))
    outcome = turn.result()
    if outcome.error is not None:
        return Result(session_id, "failed", error=outcome.error)
    return Result(session_id, "completed", output=outcome.output, structured=outcome.structured)


def _is_over(activation: Activation) -> bool:
    """Whether what the turn came to is nobody's business any more."""
    entity = activation.entity
    return bool(activation.closing or entity.state.closed or entity.broken)


def _pause(attempts: int) -> float:
    """How long to wait before an agent is started once more, in seconds."""
    return min(_FIRST_PAUSE_S * 2.0 ** max(attempts - 2, 0), _LONGEST_PAUSE_S)


def _require_workspace(path: str | None) -> None:
    if path is not None and not os.path.isdir(path):
        raise NotFound(f"workspace {path}: there is no such directory here any more")


async def _cancelled(turn: asyncio.Task[wire.Outcome]) -> None:
    """Cancel until it is done. An agent that will not be cancelled takes this process along."""
    for _ in range(_CANCEL_TRIES):
        turn.cancel()
        await asyncio.wait([turn], timeout=_CANCEL_PAUSE_S)
        if turn.done():
            return
    exit_process("an agent refuses to be cancelled")


def _turn_info(activation: Activation, run_id: str) -> TurnInfo:
    profile = activation.profile
    return TurnInfo(
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
