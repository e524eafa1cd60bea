"""A SessionActor: the sessions that are live in one Ray actor, and what may be asked of them."""

from __future__ import annotations

import asyncio
import contextlib
import os

from msgspec import structs

from actors import wire
from actors.activation import (
    Activation,
    interrupted,
    new_entity,
    require_known,
    stored_entity,
)
from actors.agents import AgentFunction, unship
from actors.batcher import Batcher
from actors.calls import TurnInfo
from actors.domain import session
from actors.domain.budget import Exceeded, Granted, Want
from actors.domain.errors import Fenced, InvalidAgent, NotFound, TroupeError
from actors.domain.messages import Message
from actors.domain.result import Result
from actors.domain.session import ChildSpec, Imported, Profile
from actors.engine import TurnEngine
from actors.fanout import Fanout
from actors.history import SessionEntity
from actors.outbox import Outbox
from actors.ports import (
    Batch,
    DirectoryPort,
    FeedEvent,
    HostPort,
    HostProvider,
    Place,
    SessionView,
    StoreProvider,
    Stores,
)
from actors.processes import AgentProcesses
from actors.turn import Turn
from actors.wiring import Wiring

IDLE_S = 600.0
"""After this time without a call a session is deactivated, in seconds."""

_PUBLISH_EVERY_S = 0.1
_HOUSEKEEPING_S = 5.0
_CANCEL_LIMIT_S = 5.0


class SessionHost:
    """Implements `actors.ports.HostPort`, and what clients call."""

    def __init__(
        self,
        wiring: Wiring,
        stores: StoreProvider,
        hosts: HostProvider,
        name: str,
        idle_s: float = IDLE_S,
    ) -> None:
        self._wiring = wiring
        self._stores = stores
        self._hosts = _Near(hosts, name, self)
        self._name = name
        self._idle_us = int(idle_s * 1_000_000)
        self._live: dict[str, Activation] = {}
        self._activating: dict[str, asyncio.Task[Activation]] = {}
        self._workers: dict[str, asyncio.Task[None]] = {}
        self._turns: dict[str, asyncio.Task[wire.Outcome]] = {}
        self._fanouts: dict[str, Fanout] = {}
        self._finished: dict[str, asyncio.Event] = {}
        self._outboxes: dict[str, Outbox] = {}
        self._agents: dict[str, AgentFunction] = {}
        self._blobs: dict[str, bytes] = {}
        self._processes = AgentProcesses()
        self._lenders: dict[str, Batcher[Want, Granted | Exceeded]] = {}
        self._feed: list[FeedEvent] = []
        self._gone: list[str] = []
        self._background: set[asyncio.Task[None]] = set()
        self._tidying = False

    # --- what clients call ---------------------------------------------------------------

    async def create(
        self, profile: Profile, imported: Imported | None, messages: list[Message]
    ) -> None:
        """Make a root session; repeated, it changes nothing."""
        place = Place(profile.scope, profile.family_id)
        await self._wiring.registry.register(place, [profile.id], root=True)
        activation = await self._get(profile.id, profile.scope, session.Create(profile, imported))
        entity = activation.entity
        if imported and entity.state.messages == 0 and messages:
            activation.history.restore(messages)
        await entity.committed()
        await activation.open_family()
        activation.notify("session_started")

    async def start(
        self, session_id: str, scope: str, run_id: str, prompt: str, timeout: int | None
    ) -> None:
        """Queue a run; the same run id twice is one run. Returns once it is durable."""
        activation = await self._get(session_id, scope)
        await self._wiring.registry.mark_running(session_id)
        activation.entity.do(session.AcceptRun(run_id, prompt, timeout))
        await activation.entity.committed()
        self._work(activation)

    async def result(
        self, session_id: str, scope: str, run_id: str, timeout_s: float
    ) -> Result | None:
        """The run's result, or None if it is not there in time. NotFound for an unknown run."""
        activation = await self._get(session_id, scope)
        activation.calls += 1
        try:
            state = activation.entity.state
            if run_id not in state.runs and run_id not in state.results:
                raise NotFound(f"run {run_id}: session {session_id} has no such run")
            if run_id in state.runs:
                self._work(activation)
                finished = self._finished.setdefault(run_id, asyncio.Event())
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(timeout_s):
                        await finished.wait()
            await activation.entity.committed()
            return state.results.get(run_id)
        finally:
            activation.calls -= 1

    async def resume(self, session_id: str, scope: str) -> list[str]:
        """Go on with the runs that were queued or under way; their ids."""
        activation = await self._get(session_id, scope)
        self._work(activation)
        return list(activation.entity.state.runs)

    async def view(self, session_id: str, scope: str) -> SessionView:
        """The session as a client may see it."""
        activation = await self._get(session_id, scope)
        view = activation.view()
        await activation.entity.committed()
        return view

    async def state(self, session_id: str, scope: str) -> session.State:
        """The whole state, for export."""
        activation = await self._get(session_id, scope)
        await activation.entity.committed()
        return activation.entity.state

    async def messages(self, session_id: str, scope: str, last: int | None) -> list[Message]:
        """The last messages, or all; oldest first."""
        activation = await self._get(session_id, scope)
        messages = await activation.history.last(last)
        await activation.entity.committed()
        return messages

    async def add_message(self, session_id: str, scope: str, message: Message) -> None:
        """Append a message from outside a turn."""
        activation = await self._get(session_id, scope)
        activation.history.add(message)
        await activation.entity.committed()

    async def clear_messages(self, session_id: str, scope: str) -> None:
        activation = await self._get(session_id, scope)
        activation.history.clear()
        await activation.entity.committed()

    async def describe(self, session_id: str, scope: str, command: session.Describe) -> None:
        activation = await self._get(session_id, scope)
        await activation.entity.execute(command)

    async def report(self, scope: str) -> None:
        """Tell the budget what was really spent, so that its figures are exact."""
        activations = [one for one in self._live.values() if one.profile.scope == scope]
        await asyncio.gather(*(one.purse.report() for one in activations))

    async def ping(self) -> tuple[int, list[tuple[str, str]]]:
        """Process id, and (session id, isolation) of what is live here."""
        self._tidy()
        return os.getpid(), [(one.id, one.profile.isolation) for one in self._live.values()]

    async def working(self) -> list[str]:
        """The root sessions whose runs are under way here."""
        return [
            id
            for id, worker in self._workers.items()
            if not worker.done() and (one := self._live.get(id)) and one.profile.parent_id is None
        ]

    async def warm(self) -> None:
        """Make ready for agents in processes of their own."""
        self._processes.warm()

    async def deactivate(self, session_id: str) -> bool:
        """Write a session out and let it go, if nothing runs in it."""
        activation = self._live.get(session_id)
        if activation is None or not activation.idle:
            return activation is None
        await activation.entity.compact()
        if activation.idle:
            self._drop(activation)
        return activation.idle

    # --- what other hosts call -----------------------------------------------------------

    async def start_children(self, batch: Batch) -> None:
        """Start sub-agents; returns when they are durable. Their results go to the outbox."""
        stores = await self._stores.stores(batch.parent.scope)
        self._outboxes.setdefault(batch.parent.id, Outbox())
        activations = await asyncio.gather(
            *(self._child(batch.parent, spec, stores, batch.again) for spec in batch.children)
        )
        await asyncio.gather(*(one.entity.committed() for one in activations))

    async def collect(self, parent_id: str, seen: list[str], timeout_s: float) -> list[Result]:
        """Results of a parent's sub-agents as they come; ``seen`` have arrived and may go."""
        outbox = self._outboxes.setdefault(parent_id, Outbox())
        results = await outbox.collect(seen, timeout_s)
        if outbox.empty and not results:
            self._outboxes.pop(parent_id, None)
        return results

    async def cancel(self, session_id: str, scope: str, reason: str) -> None:
        """Cancel a session and all below it, leaves first; returns when nothing of it runs."""
        await self._close(session_id, scope, "cancelled")

    async def end(self, session_id: str, scope: str) -> None:
        """End a session and all below it; idempotent."""
        await self._close(session_id, scope, "ended")

    # --- activation ----------------------------------------------------------------------

    async def _get(
        self, session_id: str, scope: str, create: session.Create | None = None
    ) -> Activation:
        live = self._live.get(session_id)
        if live is not None and live.entity.broken:
            self._drop(live)
            live = None
        if live is None:
            task = self._activating.get(session_id)
            if task is None:
                task = asyncio.create_task(self._activate(session_id, scope, create))
                self._activating[session_id] = task
                task.add_done_callback(lambda _: self._activating.pop(session_id, None))
            live = await asyncio.shield(task)
        live.last_used = self._wiring.clock()
        return live

    async def _activate(
        self, session_id: str, scope: str, create: session.Create | None
    ) -> Activation:
        stores = await self._stores.stores(scope)
        entity = await stored_entity(self._wiring, scope, session_id)
        if create is not None:
            entity.do(create)
        require_known(entity)
        return await self._enter(entity, stores)

    async def _enter(self, entity: SessionEntity, stores: Stores) -> Activation:
        profile = session.the_profile(entity.state)
        workspace = await self._wiring.registry.workspace(profile.scope)
        activation = Activation(
            entity, self._wiring, stores, workspace, self._lender(profile.scope, stores), self._note
        )
        self._live[activation.id] = activation
        self._tidy()
        return activation

    async def _child(
        self, parent: Profile, spec: ChildSpec, stores: Stores, again: bool
    ) -> Activation:
        profile = _child_profile(parent, spec, self._wiring.clock())
        if again:
            activation = await self._get(spec.id, parent.scope, session.Create(profile))
        else:
            entity = new_entity(self._wiring, profile, self._wiring.new_id())
            entity.do(session.Create(profile))
            activation = await self._enter(entity, stores)
        state = activation.entity.state
        if spec.run not in state.results and not state.closed:
            activation.entity.do(session.AcceptRun(spec.run, spec.prompt, spec.timeout))
        self._work(activation)
        return activation

    def _drop(self, activation: Activation) -> None:
        if self._live.get(activation.id) is activation:
            del self._live[activation.id]
            self._gone.append(activation.id)
            self._tidy()

    def _lender(self, scope: str, stores: Stores) -> Batcher[Want, Granted | Exceeded]:
        lender = self._lenders.get(scope)
        if lender is None:
            lender = self._lenders[scope] = Batcher(stores.budget.lease)
        return lender

    # --- runs ----------------------------------------------------------------------------

    def _work(self, activation: Activation) -> None:
        """Have the session's runs go on, one after another."""
        worker = self._workers.get(activation.id)
        if worker is None or worker.done():
            self._workers[activation.id] = asyncio.create_task(self._run_all(activation))

    async def _run_all(self, activation: Activation) -> None:
        state = activation.entity.state
        profile = activation.profile
        try:
            while state.runs and not state.closed and not activation.closing:
                await self._run(activation, next(iter(state.runs.values())))
        except TroupeError as error:
            if not interrupted(error):
                raise
            await self._lost(activation, error)
            return
        if profile.parent_id is not None:
            self._hand_over(activation)
        elif not state.runs:
            await self._wiring.registry.unmark_running(activation.id)

    async def _run(self, activation: Activation, run: session.Run) -> None:
        entity = activation.entity
        if run.started is None:
            entity.do(session.StartRun(run.id))
        activation.notify("run_started", run.prompt[:200])
        fanout = Fanout(activation, self._hosts, self._name)
        engine = TurnEngine(activation, run.id, fanout)
        self._fanouts[activation.id] = fanout
        turn = asyncio.create_task(self._turn(activation, run, engine))
        self._turns[activation.id] = turn
        try:
            result = await _outcome(turn, activation.id, run)
        finally:
            engine.closed = True
            self._turns.pop(activation.id, None)
        if activation.closing or entity.state.closed or entity.broken:
            await entity.committed()
            return
        if result.status == "timed_out":
            await self._cancel_children(activation)
        result = await activation.finish(run.id, result)
        activation.notify("run_finished", result.error or "", result.cost)
        self._fanouts.pop(activation.id, None)
        self._announce(run.id)

    async def _turn(
        self, activation: Activation, run: session.Run, engine: TurnEngine
    ) -> wire.Outcome:
        profile = activation.profile
        if profile.agent is None:
            raise InvalidAgent(f"session {profile.id} has no agent: it was imported without one")
        info = _turn_info(activation, run.id)
        if profile.isolation == "process":
            blob = await self._blob(profile.agent.digest)
            return await self._processes.run(blob, info, run.prompt, profile.workspace_path, engine)
        agent = await self._agent(profile.agent.digest)
        return wire.outcome_of(await agent(Turn(engine, info), run.prompt))

    async def _blob(self, digest: str) -> bytes:
        blob = self._blobs.get(digest)
        if blob is None:
            blob = self._blobs[digest] = await self._wiring.registry.agent(digest)
        return blob

    async def _agent(self, digest: str) -> AgentFunction:
        agent = self._agents.get(digest)
        if agent is None:
            agent = self._agents[digest] = unship(await self._blob(digest))
        return agent

    def _hand_over(self, activation: Activation) -> None:
        """A sub-agent is done: its result goes to the parent's outbox, and it is let go."""
        profile, state = activation.profile, activation.entity.state
        result = state.results.get(profile.id)
        if result is not None:
            assert profile.parent_id is not None
            outbox = self._outboxes.setdefault(profile.parent_id, Outbox())
            outbox.put(result)
        if activation.calls == 0:
            self._drop(activation)
        self._workers.pop(activation.id, None)

    async def _lost(self, activation: Activation, error: TroupeError) -> None:
        """The activation can't go on. After an outage it is brought back here; fenced, it ends."""
        self._drop(activation)
        for run_id in activation.entity.state.runs:
            self._announce(run_id)
        if isinstance(error, Fenced):
            return
        await asyncio.sleep(1.0)
        self._workers.pop(activation.id, None)
        again = await self._get(activation.id, activation.profile.scope)
        self._work(again)

    def _announce(self, run_id: str) -> None:
        finished = self._finished.pop(run_id, None)
        if finished:
            finished.set()

    # --- closing -------------------------------------------------------------------------

    async def _close(self, session_id: str, scope: str, reason: session.Closed) -> None:
        activation = await self._get(session_id, scope)
        activation.calls += 1
        activation.closing = True
        try:
            profile = activation.profile
            runs = list(activation.entity.state.runs)
            await self._stop_turn(activation)
            await self._cancel_children(activation)
            if reason:
                activation.entity.do(session.Close(reason))
            await activation.entity.committed()
            await activation.purse.report()
            if profile.parent_id is None:
                await activation.stores.permissions.clear_session(profile.family_id)
                await self._wiring.registry.unmark_running(session_id)
            activation.notify(reason)
        finally:
            activation.calls -= 1
            activation.closing = False
        for run_id in runs:
            self._announce(run_id)
        if profile.parent_id is not None:
            self._hand_over(activation)

    async def _stop_turn(self, activation: Activation) -> None:
        turn = self._turns.get(activation.id)
        if turn is None:
            return
        while not turn.done():
            turn.cancel()
            await asyncio.wait([turn], timeout=_CANCEL_LIMIT_S)

    async def _cancel_children(self, activation: Activation) -> None:
        """Cancel what was spawned and has no result yet, wherever it runs."""
        state, scope = activation.entity.state, activation.profile.scope
        fanout = self._fanouts.get(activation.id)
        where = dict(fanout.running) if fanout else {}
        unfinished = [child.spec for child in state.children.values() if child.result is None]
        if not unfinished:
            return
        await asyncio.gather(
            *(self._cancel_child(spec, scope, where.get(spec.id)) for spec in unfinished)
        )

    async def _cancel_child(self, spec: ChildSpec, scope: str, slot: str | None) -> None:
        if slot is None:
            _, slot = await self._hosts.directory.locate(spec.id)
        with contextlib.suppress(NotFound):
            await self._hosts.host(slot).cancel(spec.id, scope, "its parent was cancelled")

    # --- housekeeping --------------------------------------------------------------------

    def _note(self, event: FeedEvent) -> None:
        self._feed.append(event)
        self._tidy()

    def _tidy(self) -> None:
        if not self._tidying:
            self._tidying = True
            task = asyncio.create_task(self._housekeeping())
            self._background.add(task)
            task.add_done_callback(self._background.discard)

    async def _housekeeping(self) -> None:
        """Publish what happened, and deactivate what is idle, for as long as anything is live."""
        try:
            quiet = 0.0
            while self._live or self._feed or self._gone:
                await asyncio.sleep(_PUBLISH_EVERY_S)
                await self._publish()
                quiet += _PUBLISH_EVERY_S
                if quiet >= _HOUSEKEEPING_S:
                    quiet = 0.0
                    await self._deactivate_idle()
        finally:
            self._tidying = False

    async def _publish(self) -> None:
        if not self._feed and not self._gone:
            return
        events, self._feed = self._feed, []
        gone, self._gone = self._gone, []
        with contextlib.suppress(TroupeError):
            await self._hosts.directory.publish(self._name, events, gone)

    async def _deactivate_idle(self) -> None:
        before = self._wiring.clock() - self._idle_us
        idle = [one.id for one in self._live.values() if one.idle and one.last_used < before]
        for session_id in idle:
            with contextlib.suppress(TroupeError):
                await self.deactivate(session_id)


class _Near:
    """Hosts by name, this one without a detour."""

    def __init__(self, hosts: HostProvider, name: str, here: HostPort) -> None:
        self._hosts = hosts
        self._name = name
        self._here = here

    def host(self, name: str) -> HostPort:
        return self._here if name == self._name else self._hosts.host(name)

    @property
    def directory(self) -> DirectoryPort:
        return self._hosts.directory


async def _outcome(turn: asyncio.Task[wire.Outcome], session_id: str, run: session.Run) -> Result:
    """What a turn came to; a Fenced or StoreUnavailable goes through, since it is no outcome."""
    limit = None if run.timeout is None else run.timeout / 1_000_000
    await asyncio.wait([turn], timeout=limit)
    if not turn.done():
        while not turn.done():
            turn.cancel()
            await asyncio.wait([turn], timeout=_CANCEL_LIMIT_S)
        if turn.cancelled() or not turn.exception():
            return Result(session_id, "timed_out", error=f"timed out after {limit:g} s")
    if turn.cancelled():
        return Result(session_id, "cancelled", error="cancelled")
    error = turn.exception()
    if error is not None:
        if interrupted(error):
            raise error
        return Result(session_id, "failed", error=wire.error_text(error))
    outcome = turn.result()
    if outcome.error is not None:
        return Result(session_id, "failed", error=outcome.error)
    return Result(session_id, "completed", output=outcome.output, structured=outcome.structured)


def _child_profile(parent: Profile, spec: ChildSpec, now: int) -> Profile:
    return structs.replace(
        parent,
        id=spec.id,
        parent_id=parent.id,
        depth=parent.depth + 1,
        created_at=now,
        agent=spec.agent,
        isolation=spec.isolation,
        system_prompt=spec.system_prompt,
        model=spec.model,
        label=spec.label,
        capabilities=spec.capabilities,
    )


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
