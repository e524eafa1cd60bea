"""A session that is live on a host: its activation, and its runs, done one by one."""

from __future__ import annotations

import asyncio
import contextlib

from retinue.actors.agent.process import wire
from retinue.actors.agent.process.supervisor import AgentDied
from retinue.actors.agent.process.watchdog import exit_process
from retinue.actors.domain.errors import Unavailable
from retinue.actors.domain.session.commands import EndAttempt, StartRun
from retinue.actors.domain.session.result import Result
from retinue.actors.domain.session.state import ChildSpec, Profile, Run, exhausted
from retinue.actors.durable.brakes import TimeLimit
from retinue.actors.ports import Batch
from retinue.actors.session.activation import Activation
from retinue.actors.session.agents import Agents
from retinue.actors.session.history import SessionEntity
from retinue.actors.session.spawn import Spawner
from retinue.actors.telemetry import metrics, tracing

_CANCEL_PAUSE_S = 5.0
_CANCEL_TRIES = 6
_RETRY_S = 0.2
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.0


class LiveSession:
    """Owns the work of one activation of a session: its worker, turn, sub-agents and callers."""

    def __init__(
        self, activation: Activation, agents: Agents, before: LiveSession | None = None
    ) -> None:
        """``before`` is the session's last activation here; its agent may not have ended."""
        self.activation = activation
        self.id: str = activation.id
        self.entity: SessionEntity = activation.entity
        self.last_used: int = activation.runtime.clock()
        self.calls = 0
        self.closing = False
        self.worker: asyncio.Task[None] | None = None
        self.catching_up: asyncio.Task[None] | None = None
        self._agents = agents
        self._before = before if before and before.at_work else None
        self._turn: asyncio.Task[wire.Outcome] | None = None
        self._spawner: Spawner | None = None
        self._standing: asyncio.Future[None] | None = None
        self._finished: dict[str, asyncio.Event] = {}
        self.entity.on_break = self._break_off

    @property
    def profile(self) -> Profile:
        return self.activation.profile

    @property
    def idle(self) -> bool:
        """True if nothing runs and nobody waits for an answer."""
        return not self.entity.state.runs and self.calls == 0

    @property
    def at_work(self) -> bool:
        """True if its runs are under way."""
        return self.worker is not None and not self.worker.done()

    @property
    def has_work(self) -> bool:
        """True if a run is queued or under way, and may go on."""
        return bool(self.entity.state.runs) and not self._is_over

    @property
    def result_for_parent(self) -> Result | None:
        """A sub-agent's result, if it has one: its run has the sub-agent's own id."""
        return self.entity.state.results.get(self.id)

    async def wait(self, run_id: str, timeout_s: float) -> None:
        """Return when the run has ended here, or time is up."""
        finished = self._finished.setdefault(run_id, asyncio.Event())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await finished.wait()

    def announce(self, *run_ids: str) -> None:
        """Wake those who wait for these runs."""
        for run_id in run_ids:
            if finished := self._finished.pop(run_id, None):
                finished.set()

    async def left(self) -> None:
        """Returns when nothing of the session's last agent runs any more."""
        await self._agents.processes.left(self.id)

    async def stop(self) -> None:
        """Cancel the session's turn; returns when nothing of it runs."""
        if self._before:
            await self._before.stop()
        self._wake()
        if self._turn:
            await _cancelled(self._turn)
        await self.left()

    async def cancel_children(self) -> None:
        """Cancels sub-agents without a result, wherever they run, until that is done.

        Raises the error that ends this activation; the children are not its own then.
        """
        children = self.entity.state.children.values()
        left = [child.spec for child in children if child.result is None]
        where = self._spawner.running if self._spawner else {}
        while left:
            await self.entity.confirmed()
            left = await self._cancelled_not(left, where)
            where = {}  # whoever did not answer may be gone
            if left:
                await asyncio.sleep(_RETRY_S)
        self._spawner = None

    async def _cancelled_not(
        self, specs: list[ChildSpec], where: dict[str, str]
    ) -> list[ChildSpec]:
        """Cancels children; returns those whose host did not confirm it."""
        hosts = self.activation.host.hosts
        by_host: dict[str, list[ChildSpec]] = {}
        try:
            for spec in specs:
                slot = where.get(spec.id) or (await hosts.directory.locate(spec.id))[1]
                by_host.setdefault(slot, []).append(spec)
        except Unavailable:
            return specs

        async def cancel(slot: str, specs: list[ChildSpec]) -> list[ChildSpec]:
            try:
                await hosts.host(slot).cancel_children(Batch(self.profile, specs))
            except Unavailable:
                return specs
            return []

        left = await asyncio.gather(*(cancel(slot, group) for slot, group in by_host.items()))
        return [spec for group in left for spec in group]

    async def work(self) -> None:
        """Does the queued runs, until none is left or the session is closed.

        Raises Unavailable if it can't go on; by then nothing of it runs.
        """
        if self._before and self._before.worker:
            await asyncio.wait([self._before.worker])
            self._before = None
        while self.has_work:
            await self._run(next(iter(self.entity.state.runs.values())))

    async def _run(self, run: Run) -> None:
        activation, entity = self.activation, self.entity
        if entity.broken:  # which is why it need not wait for a release
            raise entity.broken
        brakes, workspace_id = activation.runtime.brakes, entity.key.workspace_id
        if brakes.hold(workspace_id) and not await self._released():
            return
        entity.do(StartRun(run.id, entity.epoch))
        await entity.confirmed()  # which tells whether the workspace is on hold by now
        if not brakes.is_clear(workspace_id) and not await self._released():
            return
        if self._is_over:
            return
        activation.notify("run_started", run.prompt[:200])
        spawner = self._spawner = Spawner(activation, activation.host.hosts, activation.host.name)
        with tracing.span("run", run.trace, session=self.id, run=run.id):
            result = await self._attempt(run, spawner)
        if self._is_over:
            if not entity.broken:
                spawner.close()
            await entity.committed()
            return
        await self.cancel_children()  # those that it did not wait for
        spawner.close()
        result = await activation.finish(run.id, result)
        metrics.RUNS.add(label=result.status)
        activation.notify("run_finished", result.error or "", result.cost)
        await self.left()
        self.announce(run.id)

    @property
    def _is_over(self) -> bool:
        """True if the outcome of the turn no longer matters to anybody."""
        return bool(self.closing or self.entity.state.closed or self.entity.broken)

    async def _released(self) -> bool:
        """Waits while the workspace is on hold; False if woken before its release."""
        brakes = self.activation.runtime.brakes
        standing = asyncio.ensure_future(brakes.clear(self.entity.key.workspace_id))
        self._standing = standing
        try:
            await asyncio.wait([standing])
        finally:
            standing.cancel()
            self._standing = None
        if standing.cancelled():
            return False
        standing.result()
        return True

    def _break_off(self) -> None:
        """Breaks off the agent: the activation is fenced or broken, so it must not go on."""
        if self._turn:
            self._turn.cancel()
        self._wake()

    def _wake(self) -> None:
        """Ends the wait for the workspace's release."""
        if self._standing:
            self._standing.cancel()

    async def _attempt(self, run: Run, spawner: Spawner) -> Result:
        """Calls the agent, again from the start whenever its process ends without a result."""
        limit = None if run.timeout is None else run.timeout / 1_000_000
        runtime = self.activation.runtime
        time_limit = TimeLimit(limit, runtime.brakes, self.entity.key.workspace_id, runtime.clock)
        pause = 0.0
        while True:
            if why := exhausted(run):
                return Result(self.id, "failed", error=why)
            self._turn = turn = asyncio.create_task(
                self._call(run, spawner, pause), name=f"turn of {self.id}"
            )
            try:
                return await _outcome(turn, self.id, limit, time_limit)
            except AgentDied as death:
                result = Result(self.id, "failed", error=death.cause)
            finally:
                self._turn = None
            if not self._is_over:
                await self.entity.execute(EndAttempt(run.id, str(result.error)))
                self.activation.notify("attempt_ended", str(result.error))
                metrics.DEATHS.add()
            if self._is_over:
                return result
            pause = min(_FIRST_PAUSE_S * 2.0 ** max(run.attempts - 2, 0), _LONGEST_PAUSE_S)

    async def _call(self, run: Run, spawner: Spawner, pause: float) -> wire.Outcome:
        if pause:  # what ended its process may be over by then
            await asyncio.sleep(pause)
        await self.activation.stand_still()
        with tracing.span("turn", session=self.id, attempt=run.attempts):
            return await self._agents.call(self.activation, run, spawner)


async def _outcome(
    turn: asyncio.Task[wire.Outcome], session_id: str, limit: float | None, time_limit: TimeLimit
) -> Result:
    """The result of a turn; raises errors that are none: Fenced, StoreUnavailable, AgentDied."""
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


async def _cancelled(turn: asyncio.Task[wire.Outcome]) -> None:
    """Cancels a turn until it has ended. An agent that resists takes this process along."""
    for _ in range(_CANCEL_TRIES):
        turn.cancel()
        await asyncio.wait([turn], timeout=_CANCEL_PAUSE_S)
        if turn.done():
            return
    exit_process("an agent refuses to be cancelled")
