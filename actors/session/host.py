"""A SessionActor: the calls of clients and other hosts to the sessions that are live in it."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import Literal

from msgspec import structs

from retinue.actors.agent.process.supervisor import Runner
from retinue.actors.domain.errors import Fenced, NotFound, Unavailable
from retinue.actors.domain.session import commands as session_commands
from retinue.actors.domain.session import machine as session
from retinue.actors.domain.session.commands import BY_PARENT, AcceptRun
from retinue.actors.domain.session.messages import Message
from retinue.actors.domain.session.result import Result
from retinue.actors.domain.session.settings import Isolation
from retinue.actors.domain.session.state import ChildSpec, Profile
from retinue.actors.durable.runtime import Runtime
from retinue.actors.ports import Batch, DirectoryPort, HostProvider, PeerPort, StoreProvider, Stores
from retinue.actors.requests import Await, Close, Create, Edit, Last, Post, SessionAt, Start
from retinue.actors.session.activation import new_entity
from retinue.actors.session.catalog import Catalog
from retinue.actors.session.live import LiveSession
from retinue.actors.session.outbox import Outbox
from retinue.actors.views import SessionView, WorkspaceSettings

IDLE_S = 600.0
"""Seconds without a call after which a session is deactivated."""

_ABANDON_LIMIT_S = 5.0


class SessionHost:
    """Implements `retinue.actors.ports.HostPort`."""

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
        self._hosts = _Near(hosts, name, self)
        self._name = name
        self._catalog = Catalog(runtime, stores, self._hosts, name, idle_s, processes)

    # --- what clients call ---------------------------------------------------------------

    async def create(self, command: Create) -> None:
        """Makes a root session; repeated, it changes nothing. Raises WorkspaceHeld during a hold.

        An imported session begins nothing, so a hold does not stop it.
        """
        profile, imported = command.profile, command.imported
        if imported is None:
            await self._refuse_if_held(profile.workspace_id)
        await self._runtime.registry.register_root(profile)
        create = session_commands.Create(profile, imported)
        live = await self._catalog.get(profile.id, profile.workspace_id, create)
        if imported and live.entity.state.messages == 0 and command.messages:
            live.activation.history.restore(command.messages)
        await live.entity.committed()
        await live.activation.open_family()
        live.activation.notify("session_started")

    async def start(self, run: Start) -> None:
        """Queues a run; the same run id twice is one run. Returns once it is durable.

        Raises WorkspaceHeld for a new run during a hold.
        """
        live = await self._catalog.get(run.session_id, run.workspace_id)
        registry = self._runtime.registry
        hold, _ = await asyncio.gather(
            self._runtime.brakes.refresh(run.workspace_id), registry.mark_running(run.session_id)
        )
        state = live.entity.state
        if hold and run.run_id not in state.runs and run.run_id not in state.results:
            if not state.runs:
                await registry.unmark_running(run.session_id)
            await self._refuse_if_held(run.workspace_id)
        accept = AcceptRun(run.run_id, run.prompt, run.timeout, run.trace)
        await live.entity.execute(accept)
        self._catalog.work(live)

    async def result(self, run: Await) -> Result | None:
        """The run's result, None if not there in time; raises NotFound for an unknown run."""
        live, run_id = await self._catalog.get(run.session_id, run.workspace_id), run.run_id
        live.calls += 1
        try:
            state = live.entity.state
            if run_id not in state.runs and run_id not in state.results:
                await live.entity.confirmed()
                raise NotFound(f"run {run_id}: session {run.session_id} has no such run")
            if run_id in state.runs:
                self._catalog.work(live)
                await live.wait(run_id, run.timeout_s)
            await live.left()
            result = state.results.get(run_id)
            await live.entity.confirmed()
            return result
        finally:
            live.calls -= 1

    async def resume(self, at: SessionAt) -> list[str]:
        """Continues the runs that were queued or under way; returns their ids.

        Raises WorkspaceHeld if there are any and the workspace is on hold.
        """
        runs = await self._go_on(at.session_id, at.workspace_id)
        if runs:
            await self._refuse_if_held(at.workspace_id)
        return runs

    async def _go_on(self, session_id: str, workspace_id: str) -> list[str]:
        """Continues a session's runs; during a hold they stand still."""
        live = await self._catalog.get(session_id, workspace_id)
        self._catalog.work(live)
        return list(live.entity.state.runs)

    async def _refuse_if_held(self, workspace_id: str) -> None:
        if await self._runtime.brakes.refresh(workspace_id):
            workspace = await self._runtime.registry.workspace(workspace_id)
            if refusal := self._runtime.brakes.refusal(workspace_id, workspace.path):
                raise refusal

    async def resume_all(self, sessions: list[tuple[str, str]]) -> None:
        """Continues the runs of many sessions, by id and workspace, as far as that works."""
        resumed = (self._go_on(session_id, workspace_id) for session_id, workspace_id in sessions)
        await asyncio.gather(*resumed, return_exceptions=True)

    async def view(self, at: SessionAt) -> SessionView:
        """The view of the session for clients."""
        live = await self._catalog.get(at.session_id, at.workspace_id)
        view = live.activation.view()
        await live.entity.confirmed()
        return view

    async def state(self, at: SessionAt) -> session.State:
        """The whole state, for export."""
        live = await self._catalog.get(at.session_id, at.workspace_id)
        await live.entity.confirmed()
        return live.entity.state

    async def messages(self, last: Last) -> list[Message]:
        """The last messages, or all; oldest first."""
        live = await self._catalog.get(last.session_id, last.workspace_id)
        messages = await live.activation.history.last(last.count)
        await live.entity.confirmed()
        return messages

    async def add_message(self, post: Post) -> None:
        """Append a message from outside a turn; once, however often its ``op`` is sent."""
        live = await self._catalog.get(post.session_id, post.workspace_id)
        live.activation.history.add(post.message, op=post.op)
        await live.entity.committed()
        live.activation.keep_small()

    async def clear_messages(self, at: SessionAt) -> None:
        live = await self._catalog.get(at.session_id, at.workspace_id)
        live.activation.history.clear()
        await live.entity.committed()

    async def describe(self, edit: Edit) -> None:
        live = await self._catalog.get(edit.session_id, edit.workspace_id)
        await live.entity.execute(edit.change)

    async def report(self, workspace_id: str) -> None:
        """Reports the actual spend to the budget, so that its figures are exact."""
        leases = self._catalog.budget_leases(workspace_id)
        await asyncio.gather(*(lease.report() for lease in leases))

    async def ping(self) -> tuple[int, list[tuple[str, Isolation]]]:
        """The process id, and (session id, isolation) of each session that is live here."""
        self._catalog.tidy()
        live = self._catalog.live.values()
        return os.getpid(), [(one.id, one.profile.isolation) for one in live]

    async def working(self) -> list[str]:
        """The root sessions whose runs are under way here."""
        live = self._catalog.live.values()
        return [one.id for one in live if one.at_work and one.profile.parent_id is None]

    async def leave(self) -> None:
        """Writes out idle sessions, and reports the spend: this process is about to be ended."""
        live = self._catalog.live
        await asyncio.gather(*map(self.deactivate, list(live)), return_exceptions=True)
        reports = (one.activation.budget_lease.report() for one in live.values())
        await asyncio.gather(*reports, return_exceptions=True)

    async def stay(self) -> None:
        """Never returns: the caller learns at once that the process has ended."""
        await asyncio.get_running_loop().create_future()

    async def warm(self) -> None:
        """Make ready for agents in processes of their own."""
        self._catalog.agents.processes.warm()

    async def deactivate(self, session_id: str) -> bool:
        """Writes a session out and releases it, if nothing runs in it."""
        return await self._catalog.deactivate(session_id)

    # --- what other hosts call -----------------------------------------------------------

    async def start_children(self, batch: Batch) -> None:
        """Starts sub-agents, or continues existing ones; returns when they are durable.

        Their results go to the outbox.
        """
        surroundings = await self._catalog.surroundings(batch.parent.workspace_id)
        self._catalog.outboxes.setdefault(batch.parent.id, Outbox())
        await asyncio.gather(
            *(self._child(batch.parent, spec, *surroundings) for spec in batch.children)
        )

    async def collect(
        self, parent_id: str, epoch: int, seen: list[str], timeout_s: float
    ) -> list[Result]:
        """The results of a parent's sub-agents as they come; ``seen`` have arrived and may go.

        Raises Fenced if ``epoch``, that of the parent's activation, is not the newest.
        """
        outboxes = self._catalog.outboxes
        outbox = outboxes.setdefault(parent_id, Outbox())
        try:
            return await outbox.collect(epoch, seen, timeout_s)
        finally:
            if outbox.idle and outboxes.get(parent_id) is outbox:
                del outboxes[parent_id]

    async def cancel_children(self, batch: Batch) -> None:
        """Cancels sub-agents and all below them; returns when nothing of them runs.

        A missing one is created as cancelled, so that a start still under way finds it so.
        """
        cancelled = (self._cancel_child(batch.parent, spec) for spec in batch.children)
        if again := [id for id, epoch in await asyncio.gather(*cancelled) if epoch > 1]:
            await self._stop_elsewhere(again)

    async def abandon(self, session_ids: list[str]) -> None:
        """Abandons sessions taken over by another host: returns when nothing of them runs here."""
        live = [self._catalog.live[id] for id in session_ids if id in self._catalog.live]
        await asyncio.gather(*(one.stop() for one in live))

    async def cancel(self, close: Close) -> None:
        """Cancel a session and all below it, leaves first; returns when nothing of it runs."""
        await self._close(close.session_id, close.workspace_id, "cancelled", close.by)

    async def end(self, close: Close) -> None:
        """End a session and all below it; idempotent."""
        await self._close(close.session_id, close.workspace_id, "ended", close.by)

    # --- sub-agents ----------------------------------------------------------------------

    async def _child(
        self, parent: Profile, spec: ChildSpec, stores: Stores, workspace: WorkspaceSettings
    ) -> None:
        """Creates a sub-agent by its first write, or continues it if it turns out to exist."""
        if not self._catalog.has(spec.id):
            profile = _child_profile(parent, spec, self._runtime.clock())
            entity = new_entity(self._runtime, profile, self._runtime.new_id())
            entity.do(session_commands.Create(profile))
            self._begin(self._catalog.enter(entity, stores, workspace), spec)
            with contextlib.suppress(Fenced):
                return await entity.committed()
        child = self._begin(await self._known_child(parent, spec), spec)
        await child.entity.committed()

    async def _known_child(self, parent: Profile, spec: ChildSpec) -> LiveSession:
        profile = _child_profile(parent, spec, self._runtime.clock())
        return await self._catalog.get(
            spec.id, parent.workspace_id, session_commands.Create(profile)
        )

    def _begin(self, live: LiveSession, spec: ChildSpec) -> LiveSession:
        _accept(live, spec)
        self._catalog.work(live)
        return live

    async def _cancel_child(self, parent: Profile, spec: ChildSpec) -> tuple[str, int]:
        """Cancels a sub-agent; returns its id, and the activation in which it was cancelled."""
        child = await self._known_child(parent, spec)
        _accept(child, spec)  # so that it has a result
        await self._close(spec.id, parent.workspace_id, "cancelled", BY_PARENT)
        return spec.id, child.entity.epoch

    # --- closing -------------------------------------------------------------------------

    async def _close(
        self, session_id: str, workspace_id: str, reason: Literal["ended", "cancelled"], by: str
    ) -> None:
        live = await self._catalog.get(session_id, workspace_id)
        activation, profile = live.activation, live.profile
        live.calls += 1
        live.closing = True
        try:
            runs = list(live.entity.state.runs)
            await live.stop()
            await live.cancel_children()
            activation.release_untold()
            await live.entity.execute(session_commands.Close(reason, by))
            await activation.budget_lease.report()
            if profile.parent_id is None:
                if live.entity.epoch > 1:
                    await self._stop_elsewhere([profile.id])
                await activation.stores.permissions.clear_session(profile.family_id)
                await activation.stores.capabilities.clear_session(profile.family_id)
                await self._runtime.registry.unmark_running(session_id)
            activation.notify(reason)
        finally:
            live.calls -= 1
            live.closing = False
        live.announce(*runs)
        if profile.parent_id is not None:
            self._catalog.hand_over(live, live.result_for_parent)

    async def _stop_elsewhere(self, session_ids: list[str]) -> None:
        """Makes all other hosts end their runs of sessions that have had several activations.

        A caller with old news may have come here while an agent runs on another host, which only
        finds out that it is fenced when the agent asks for something. Nobody knows the host: the
        directory hears of activations later. A host that is paused ends the runs when it wakes.
        """

        async def at(host: str) -> None:
            with contextlib.suppress(Unavailable, TimeoutError):
                async with asyncio.timeout(_ABANDON_LIMIT_S):
                    await self._hosts.host(host).abandon(session_ids)

        with contextlib.suppress(Unavailable):
            hosts = await self._hosts.directory.hosts()
            await asyncio.gather(*(at(host) for host in hosts if host != self._name))


class _Near:
    """Finds hosts by name; this one is called directly."""

    def __init__(self, hosts: HostProvider, name: str, here: PeerPort) -> None:
        self._hosts = hosts
        self._name = name
        self._here = here

    def host(self, name: str) -> PeerPort:
        return self._here if name == self._name else self._hosts.host(name)

    @property
    def directory(self) -> DirectoryPort:
        return self._hosts.directory


def _accept(live: LiveSession, spec: ChildSpec) -> None:
    state = live.entity.state
    if spec.id not in state.results and not state.closed:
        live.entity.do(AcceptRun(spec.id, spec.prompt, spec.timeout, spec.trace))


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
