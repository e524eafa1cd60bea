"""A SessionActor: the sessions that are live in one Ray actor, and what may be asked of them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Coroutine

from msgspec import structs

from retinue.actors.agent.process.supervisor import Runner
from retinue.actors.domain.errors import (
    CallError,
    Fenced,
    NotFound,
    RetinueError,
    RolledBack,
    Unavailable,
)
from retinue.actors.domain.session import machine as session
from retinue.actors.domain.session.machine import ChildSpec, Imported, Profile
from retinue.actors.domain.session.messages import Message
from retinue.actors.domain.session.result import Result
from retinue.actors.durable.runtime import Runtime
from retinue.actors.leases.budget_lease import BudgetLease
from retinue.actors.leases.host_leases import HostLeases
from retinue.actors.ports import Batch, DirectoryPort, HostPort, HostProvider, StoreProvider, Stores
from retinue.actors.session.activation import Activation, new_entity, require_known, stored_entity
from retinue.actors.session.history import SessionEntity
from retinue.actors.session.outbox import Outbox
from retinue.actors.session.runs import Runs
from retinue.actors.telemetry import metrics
from retinue.actors.views import FeedEvent, SessionView, WorkspaceSettings

IDLE_S = 600.0
"""After this time without a call a session is deactivated, in seconds."""

_PUBLISH_EVERY_S = 0.1
_HOUSEKEEPING_S = 5.0
_OUTAGE_PAUSE_S = 1.0
_ABANDON_LIMIT_S = 5.0


class SessionHost:
    """Implements `retinue.actors.ports.HostPort`, and what clients call."""

    def __init__(
        self,
        runtime: Runtime,
        stores: StoreProvider,
        hosts: HostProvider,
        name: str,
        idle_s: float = IDLE_S,
        processes: Runner | None = None,
    ) -> None:
        self._runtime = runtime
        self._stores = stores
        self._hosts = _Near(hosts, name, self)
        self._name = name
        self._idle_us = int(idle_s * 1_000_000)
        self._live: dict[str, Activation] = {}
        self._activating: dict[str, asyncio.Task[Activation]] = {}
        self._outboxes: dict[str, Outbox] = {}
        self._runs = Runs(
            runtime.registry, self._hosts, name, self._all_done, self._lost, processes
        )
        self._borrowings: dict[str, HostLeases] = {}
        self._feed: list[FeedEvent] = []
        self._gone: list[str] = []
        self._background: set[asyncio.Task[None]] = set()
        self._tidying = False

    # --- what clients call ---------------------------------------------------------------

    async def create(
        self, profile: Profile, imported: Imported | None, messages: list[Message]
    ) -> None:
        """Make a root session; repeated, it changes nothing. WorkspaceHeld if that is so.

        One that is imported begins nothing.
        """
        if imported is None:
            await self._refuse_if_held(profile.workspace_id)
        await self._runtime.registry.register_root(profile)
        activation = await self._get(
            profile.id, profile.workspace_id, session.Create(profile, imported)
        )
        entity = activation.entity
        if imported and entity.state.messages == 0 and messages:
            activation.history.restore(messages)
        await entity.committed()
        await activation.open_family()
        activation.notify("session_started")

    async def start(
        self,
        session_id: str,
        workspace_id: str,
        run_id: str,
        prompt: str,
        timeout: int | None,
        trace: str = "",
    ) -> None:
        """Queue a run; the same run id twice is one run. Returns once it is durable.

        WorkspaceHeld for a new one where that is so.
        """
        activation = await self._get(session_id, workspace_id)
        registry = self._runtime.registry
        hold, _ = await asyncio.gather(
            self._runtime.brakes.refresh(workspace_id), registry.mark_running(session_id)
        )
        state = activation.entity.state
        if hold and run_id not in state.runs and run_id not in state.results:
            if not state.runs:
                await registry.unmark_running(session_id)
            await self._refuse_if_held(workspace_id)
        activation.entity.do(session.AcceptRun(run_id, prompt, timeout, trace))
        await activation.entity.committed()
        self._runs.work(activation)

    async def result(
        self, session_id: str, workspace_id: str, run_id: str, timeout_s: float
    ) -> Result | None:
        """The run's result, or None if it is not there in time. NotFound for an unknown run."""
        activation = await self._get(session_id, workspace_id)
        activation.calls += 1
        try:
            state = activation.entity.state
            if run_id not in state.runs and run_id not in state.results:
                await activation.entity.confirmed()
                raise NotFound(f"run {run_id}: session {session_id} has no such run")
            if run_id in state.runs:
                self._runs.work(activation)
                await self._runs.wait(run_id, timeout_s)
            await self._runs.left(session_id)
            result = state.results.get(run_id)
            await activation.entity.confirmed()
            return result
        finally:
            activation.calls -= 1

    async def resume(self, session_id: str, workspace_id: str) -> list[str]:
        """Go on with the runs that were queued or under way; their ids.

        WorkspaceHeld if there are any, and that is so.
        """
        runs = await self._go_on(session_id, workspace_id)
        if runs:
            await self._refuse_if_held(workspace_id)
        return runs

    async def _go_on(self, session_id: str, workspace_id: str) -> list[str]:
        """In a workspace that is on hold they stand still."""
        activation = await self._get(session_id, workspace_id)
        self._runs.work(activation)
        return list(activation.entity.state.runs)

    async def _refuse_if_held(self, workspace_id: str) -> None:
        if await self._runtime.brakes.refresh(workspace_id):
            workspace = await self._runtime.registry.workspace(workspace_id)
            if refusal := self._runtime.brakes.refusal(workspace_id, workspace.path):
                raise refusal

    async def resume_all(self, sessions: list[tuple[str, str]]) -> None:
        """Go on with the runs of many sessions, by id and workspace, as far as that works."""
        resumed = (self._go_on(session_id, workspace_id) for session_id, workspace_id in sessions)
        await asyncio.gather(*resumed, return_exceptions=True)

    async def view(self, session_id: str, workspace_id: str) -> SessionView:
        """The session as a client may see it."""
        activation = await self._get(session_id, workspace_id)
        view = activation.view()
        await activation.entity.confirmed()
        return view

    async def state(self, session_id: str, workspace_id: str) -> session.State:
        """The whole state, for export."""
        activation = await self._get(session_id, workspace_id)
        await activation.entity.confirmed()
        return activation.entity.state

    async def messages(self, session_id: str, workspace_id: str, last: int | None) -> list[Message]:
        """The last messages, or all; oldest first."""
        activation = await self._get(session_id, workspace_id)
        messages = await activation.history.last(last)
        await activation.entity.confirmed()
        return messages

    async def add_message(
        self, session_id: str, workspace_id: str, message: Message, op: str
    ) -> None:
        """Append a message from outside a turn; once, however often ``op`` is sent."""
        activation = await self._get(session_id, workspace_id)
        activation.history.add(message, op=op)
        await activation.entity.committed()
        activation.keep_small()

    async def clear_messages(self, session_id: str, workspace_id: str) -> None:
        activation = await self._get(session_id, workspace_id)
        activation.history.clear()
        await activation.entity.committed()

    async def describe(self, session_id: str, workspace_id: str, command: session.Describe) -> None:
        activation = await self._get(session_id, workspace_id)
        await activation.entity.execute(command)

    async def report(self, workspace_id: str) -> None:
        """Tell the budget what was really spent, so that its figures are exact."""
        await asyncio.gather(
            *(budget_lease.report() for budget_lease in self._budget_leases(workspace_id))
        )

    async def ping(self) -> tuple[int, list[tuple[str, str]]]:
        """Process id, and (session id, isolation) of what is live here."""
        self._tidy()
        return os.getpid(), [(one.id, one.profile.isolation) for one in self._live.values()]

    async def working(self) -> list[str]:
        """The root sessions whose runs are under way here."""
        return [
            id
            for id in self._runs.at_work()
            if (one := self._live.get(id)) and one.profile.parent_id is None
        ]

    async def leave(self) -> None:
        """Write out what is idle, and report what was spent: this process is about to be ended."""
        await asyncio.gather(*map(self.deactivate, list(self._live)), return_exceptions=True)
        budget_leases = [one.budget_lease for one in self._live.values()]
        await asyncio.gather(
            *(budget_lease.report() for budget_lease in budget_leases), return_exceptions=True
        )

    async def stay(self) -> None:
        """Does not return: who calls this hears at once when the process has ended."""
        await asyncio.get_running_loop().create_future()

    async def warm(self) -> None:
        """Make ready for agents in processes of their own."""
        self._runs.warm()

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
        stores = await self._stores.stores(batch.parent.workspace_id)
        workspace = await self._runtime.registry.workspace(batch.parent.workspace_id)
        self._outboxes.setdefault(batch.parent.id, Outbox())
        if batch.again:
            activations = await asyncio.gather(
                *(self._child_again(batch.parent, spec) for spec in batch.children)
            )
        else:
            activations = [
                self._child(batch.parent, spec, stores, workspace) for spec in batch.children
            ]
        await asyncio.gather(*(one.entity.committed() for one in activations))

    async def collect(
        self, parent_id: str, epoch: int, seen: list[str], timeout_s: float
    ) -> list[Result]:
        """Results of a parent's sub-agents as they come; ``seen`` have arrived and may go.

        Fenced for an ``epoch``, that of the parent's activation, that is not its newest.
        """
        outbox = self._outboxes.setdefault(parent_id, Outbox())
        try:
            return await outbox.collect(epoch, seen, timeout_s)
        finally:
            if outbox.idle and self._outboxes.get(parent_id) is outbox:
                del self._outboxes[parent_id]

    async def cancel_children(self, batch: Batch) -> None:
        """Cancel sub-agents and all below them; returns when nothing of them runs.

        One that is not there comes to be cancelled: a start that is still under way finds it so.
        """
        cancelled = (self._cancel_child(batch.parent, spec) for spec in batch.children)
        if again := [id for id, epoch in await asyncio.gather(*cancelled) if epoch > 1]:
            await self._stop_elsewhere(again)

    async def abandon(self, session_ids: list[str]) -> None:
        """Another host has taken sessions over: nothing of them runs here when this returns."""
        live = [self._live[id] for id in session_ids if id in self._live]
        await asyncio.gather(*map(self._runs.stop, live))

    async def cancel(self, session_id: str, workspace_id: str, by: str = "") -> None:
        """Cancel a session and all below it, leaves first; returns when nothing of it runs."""
        await self._close(session_id, workspace_id, "cancelled", by)

    async def end(self, session_id: str, workspace_id: str, by: str = "") -> None:
        """End a session and all below it; idempotent."""
        await self._close(session_id, workspace_id, "ended", by)

    # --- activation ----------------------------------------------------------------------

    async def _get(
        self, session_id: str, workspace_id: str, create: session.Create | None = None
    ) -> Activation:
        live = self._live.get(session_id)
        if live is not None and live.entity.broken:
            self._drop(live)
            live = None
        if live is None:
            task = self._activating.get(session_id)
            if task is None:
                task = asyncio.create_task(self._activate(session_id, workspace_id, create))
                self._activating[session_id] = task
                task.add_done_callback(lambda _: self._activating.pop(session_id, None))
            live = await asyncio.shield(task)
        live.last_used = self._runtime.clock()
        return live

    async def _activate(
        self, session_id: str, workspace_id: str, create: session.Create | None
    ) -> Activation:
        begin = time.perf_counter()
        stores = await self._stores.stores(workspace_id)
        entity = await stored_entity(self._runtime, workspace_id, session_id)
        if create is not None:
            entity.do(create)
        require_known(entity)
        workspace = await self._runtime.registry.workspace(workspace_id)
        activation = self._enter(entity, stores, workspace)
        if entity.epoch > 1:
            self._in_background(self._catch_up(activation))
            metrics.ACTIVATIONS.add()
            metrics.ACTIVATION_SECONDS.observe(time.perf_counter() - begin)
        return activation

    async def _catch_up(self, activation: Activation) -> None:
        """Report what the activation before may have died without reporting."""
        while not activation.entity.broken:
            try:
                await activation.budget_lease.report()
            except (Fenced, RolledBack, CallError):
                return
            except Unavailable:
                await asyncio.sleep(_OUTAGE_PAUSE_S)
            else:
                return

    def _enter(
        self, entity: SessionEntity, stores: Stores, workspace: WorkspaceSettings
    ) -> Activation:
        host_leases = self._host_leases(workspace.workspace_id, stores)
        activation = Activation(
            entity,
            self._runtime,
            stores,
            workspace,
            host_leases.money,
            host_leases.permissions,
            self._note,
        )
        self._live[activation.id] = activation
        entity.on_break = lambda: self._abandon(activation)
        self._tidy()
        return activation

    def _child(
        self, parent: Profile, spec: ChildSpec, stores: Stores, workspace: WorkspaceSettings
    ) -> Activation:
        """A sub-agent that was not there before."""
        profile = _child_profile(parent, spec, self._runtime.clock())
        entity = new_entity(self._runtime, profile, self._runtime.new_id())
        entity.do(session.Create(profile))
        return self._begin(self._enter(entity, stores, workspace), spec)

    async def _child_again(self, parent: Profile, spec: ChildSpec) -> Activation:
        """A sub-agent that may have been started before, here or elsewhere."""
        return self._begin(await self._known_child(parent, spec), spec)

    async def _known_child(self, parent: Profile, spec: ChildSpec) -> Activation:
        profile = _child_profile(parent, spec, self._runtime.clock())
        return await self._get(spec.id, parent.workspace_id, session.Create(profile))

    def _begin(self, activation: Activation, spec: ChildSpec) -> Activation:
        _accept(activation, spec)
        self._runs.work(activation)
        return activation

    async def _cancel_child(self, parent: Profile, spec: ChildSpec) -> tuple[str, int]:
        """Its id, and in which activation it was cancelled."""
        child = await self._known_child(parent, spec)
        _accept(child, spec)  # so that it has a result
        await self._close(spec.id, parent.workspace_id, "cancelled", session.BY_PARENT)
        return spec.id, child.entity.epoch

    def _abandon(self, activation: Activation) -> None:
        if self._live.get(activation.id) is activation:  # and not one that came after it
            self._runs.abandon(activation)

    def _drop(self, activation: Activation) -> None:
        if self._live.get(activation.id) is activation:
            del self._live[activation.id]
            self._gone.append(activation.id)
            self._tidy()

    def _host_leases(self, workspace_id: str, stores: Stores) -> HostLeases:
        """What this host has borrowed in a workspace; gives back when called."""
        found = self._borrowings.get(workspace_id)
        if found is None:
            found = self._borrowings[workspace_id] = HostLeases(
                self._name, stores, self._runtime.brakes, workspace_id
            )
            found.begin(lambda: self._budget_leases(workspace_id))
        return found

    def _end_borrowings(self) -> None:
        """Where nothing is live any more the stores need not know of this host."""
        live = {one.profile.workspace_id for one in self._live.values()}
        for workspace_id in self._borrowings.keys() - live:
            self._borrowings.pop(workspace_id).end()

    def _budget_leases(self, workspace_id: str) -> list[BudgetLease]:
        return [
            one.budget_lease
            for one in self._live.values()
            if one.profile.workspace_id == workspace_id
        ]

    def _in_background(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    # --- closing and leaving -------------------------------------------------------------

    async def _close(
        self, session_id: str, workspace_id: str, reason: session.Closed, by: str
    ) -> None:
        activation = await self._get(session_id, workspace_id)
        activation.calls += 1
        activation.closing = True
        try:
            profile = activation.profile
            runs = list(activation.entity.state.runs)
            await self._runs.stop(activation)
            await self._runs.cancel_children(activation)
            activation.release_untold()
            if reason:
                activation.entity.do(session.Close(reason, by))
            await activation.entity.committed()
            await activation.budget_lease.report()
            if profile.parent_id is None:
                if activation.entity.epoch > 1:
                    await self._stop_elsewhere([profile.id])
                await activation.stores.permissions.clear_session(profile.family_id)
                await activation.stores.capabilities.clear_session(profile.family_id)
                await self._runtime.registry.unmark_running(session_id)
            activation.notify(reason)
        finally:
            activation.calls -= 1
            activation.closing = False
        for run_id in runs:
            self._runs.announce(run_id)
        if profile.parent_id is not None:
            self._hand_over(activation, _result_for_parent(activation))

    async def _stop_elsewhere(self, session_ids: list[str]) -> None:
        """Have all other hosts end what runs of sessions that have had several activations.

        A caller with old news may have come here while an agent runs on another host, which will
        only find out that it is fenced when the agent asks for something. Nobody knows which: the
        directory hears of activations later. A host that is paused ends it when it wakes.
        """

        async def at(host: str) -> None:
            with contextlib.suppress(Unavailable, TimeoutError):
                async with asyncio.timeout(_ABANDON_LIMIT_S):
                    await self._hosts.host(host).abandon(session_ids)

        with contextlib.suppress(Unavailable):
            hosts = await self._hosts.directory.hosts()
            await asyncio.gather(*(at(host) for host in hosts if host != self._name))

    def _hand_over(self, activation: Activation, result: Result | None) -> None:
        """A sub-agent is done: its result goes to the parent's outbox, and it is let go.

        By then the result is stored, and what it cost was reported.
        """
        parent_id = activation.profile.parent_id
        if result is not None and parent_id is not None:
            self._outboxes.setdefault(parent_id, Outbox()).put(result)
        if activation.calls == 0:
            self._drop(activation)

    async def _all_done(self, activation: Activation) -> None:
        """A session has no more runs. What another call does with it may not be stored yet."""
        result = _result_for_parent(activation)
        await activation.entity.committed()
        await activation.budget_lease.report()
        if activation.profile.parent_id is not None:
            self._hand_over(activation, result)
        elif not activation.entity.state.runs:
            await self._runtime.registry.unmark_running(activation.id)

    async def _lost(self, activation: Activation, error: RetinueError) -> None:
        """The activation can't go on. After an outage it is brought back here; otherwise it ends.

        Those are the ones that were fenced, and those of which Redis has lost something.
        """
        self._drop(activation)
        if isinstance(error, Fenced | RolledBack):
            return
        while True:
            await asyncio.sleep(_OUTAGE_PAUSE_S)
            with contextlib.suppress(Unavailable):
                # its first write never arrived, or Redis went back
                with contextlib.suppress(NotFound, RolledBack):
                    self._runs.work(await self._get(activation.id, activation.profile.workspace_id))
                return

    # --- housekeeping --------------------------------------------------------------------

    def _note(self, event: FeedEvent) -> None:
        self._feed.append(event)
        self._tidy()

    def _tidy(self) -> None:
        if not self._tidying:
            self._tidying = True
            self._in_background(self._housekeeping())

    async def _housekeeping(self) -> None:
        """Publish what happened, and let go what is idle, for as long as anything is live."""
        try:
            quiet = 0.0
            while self._live or self._feed or self._gone or self._borrowings:
                metrics.LIVE_SESSIONS.set(len(self._live))
                await asyncio.sleep(_PUBLISH_EVERY_S)
                await self._publish()
                quiet += _PUBLISH_EVERY_S
                if quiet >= _HOUSEKEEPING_S:
                    quiet = 0.0
                    await self._deactivate_idle()
                    self._end_borrowings()
        finally:
            metrics.LIVE_SESSIONS.set(len(self._live))
            self._tidying = False

    async def _publish(self) -> None:
        if not self._feed and not self._gone:
            return
        events, self._feed = self._feed, []
        gone, self._gone = self._gone, []
        directory = self._hosts.directory
        with contextlib.suppress(RetinueError):
            families = list({event.family_id for event in events})
            watched = frozenset(await directory.news(self._name, families, gone))
            if seen := [event for event in events if event.family_id in watched]:
                await directory.publish(seen)

    async def _deactivate_idle(self) -> None:
        before = self._runtime.clock() - self._idle_us
        idle = [one.id for one in self._live.values() if one.idle and one.last_used < before]
        for session_id in idle:
            with contextlib.suppress(RetinueError):
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


def _accept(activation: Activation, spec: ChildSpec) -> None:
    state = activation.entity.state
    if spec.run not in state.results and not state.closed:
        activation.entity.do(session.AcceptRun(spec.run, spec.prompt, spec.timeout, spec.trace))


def _result_for_parent(activation: Activation) -> Result | None:
    """A sub-agent's result, if it has one: its run has the sub-agent's own id."""
    return activation.entity.state.results.get(activation.id)


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
