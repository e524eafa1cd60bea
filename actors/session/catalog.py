"""The sessions that are live on one host: their activation, and their release."""

from __future__ import annotations

import asyncio
import contextlib
import time

from retinue.actors.agent.process.supervisor import Runner
from retinue.actors.domain.errors import (
    CallError,
    Fenced,
    NotFound,
    RetinueError,
    RolledBack,
    Unavailable,
)
from retinue.actors.domain.session.commands import Create
from retinue.actors.domain.session.result import Result
from retinue.actors.durable.runtime import Runtime
from retinue.actors.leases.budget_lease import BudgetLease
from retinue.actors.leases.host_leases import HostLeases
from retinue.actors.ports import HostProvider, StoreProvider, Stores
from retinue.actors.session.activation import Activation, require_known, stored_entity
from retinue.actors.session.agents import Agents
from retinue.actors.session.history import SessionEntity
from retinue.actors.session.live import LiveSession
from retinue.actors.session.outbox import Outbox
from retinue.actors.telemetry import metrics
from retinue.actors.views import FeedEvent, WorkspaceSettings

_PUBLISH_EVERY_S = 0.1
_HOUSEKEEPING_S = 5.0
_OUTAGE_PAUSE_S = 1.0


class Catalog:
    """Implements `retinue.actors.session.activation.HostServices`."""

    def __init__(
        self,
        runtime: Runtime,
        stores: StoreProvider,
        hosts: HostProvider,
        name: str,
        idle_s: float,
        processes: Runner | None,
    ) -> None:
        """``idle_s`` is the time in seconds after which a session without calls is released."""
        self.runtime = runtime
        self.hosts = hosts
        self.name = name
        self.agents: Agents = Agents(runtime.registry, processes)
        self.live: dict[str, LiveSession] = {}
        self.outboxes: dict[str, Outbox] = {}
        """Results of the sub-agents that ran here, by the ids of their parents."""
        self._stores = stores
        self._idle_us = int(idle_s * 1_000_000)
        self._activating: dict[str, asyncio.Task[LiveSession]] = {}
        self._leases: dict[str, HostLeases] = {}
        self._feed: list[FeedEvent] = []
        self._gone: list[str] = []
        self._tidying: asyncio.Task[None] | None = None

    # --- coming to life ------------------------------------------------------------------

    async def get(
        self, session_id: str, workspace_id: str, create: Create | None = None
    ) -> LiveSession:
        """The session, activated if it is not live; NotFound if it is not stored.

        With ``create`` it need not be stored.
        """
        live = self.live.get(session_id)
        if live is None or live.entity.broken:
            task = self._activating.get(session_id)
            if task is None:
                task = asyncio.create_task(self._activate(session_id, workspace_id, create))
                self._activating[session_id] = task
                task.add_done_callback(lambda _: self._activating.pop(session_id, None))
            live = await asyncio.shield(task)
        live.last_used = self.runtime.clock()
        return live

    async def _activate(
        self, session_id: str, workspace_id: str, create: Create | None
    ) -> LiveSession:
        begin = time.perf_counter()
        try:
            entity, surroundings = await asyncio.gather(
                stored_entity(self.runtime, workspace_id, session_id),
                self.surroundings(workspace_id),
            )
            if create is not None:
                entity.do(create)
            require_known(entity)
        except RetinueError:
            if (live := self.live.get(session_id)) and live.entity.broken:
                self.drop(live)
            raise
        live = self.enter(entity, *surroundings)
        if entity.epoch > 1:
            live.catching_up = asyncio.create_task(self._catch_up(live))
            metrics.ACTIVATIONS.add()
            metrics.ACTIVATION_SECONDS.observe(time.perf_counter() - begin)
        return live

    def has(self, session_id: str) -> bool:
        """Returns whether a session is live here, or about to be."""
        return session_id in self.live or session_id in self._activating

    async def surroundings(self, workspace_id: str) -> tuple[Stores, WorkspaceSettings]:
        """The things that a workspace's sessions share: its stores and its settings."""
        return await asyncio.gather(
            self._stores.stores(workspace_id), self.runtime.registry.workspace(workspace_id)
        )

    def enter(
        self, entity: SessionEntity, stores: Stores, workspace: WorkspaceSettings
    ) -> LiveSession:
        """Makes a session live that was created, or recovered from its journal."""
        leases = self._host_leases(workspace.workspace_id, stores)
        activation = Activation(entity, stores, workspace, leases, self)
        live = LiveSession(activation, self.agents, self.live.get(activation.id))
        self.live[live.id] = live
        self.tidy()
        return live

    async def _catch_up(self, live: LiveSession) -> None:
        """Reports spend that the last activation may have died without reporting."""
        while not live.entity.broken:
            try:
                return await live.activation.budget_lease.report()
            except (Fenced, RolledBack, CallError):
                return
            except Unavailable:
                await asyncio.sleep(_OUTAGE_PAUSE_S)

    def _host_leases(self, workspace_id: str, stores: Stores) -> HostLeases:
        """The loans of this host in a workspace, which it gives back when called."""
        found = self._leases.get(workspace_id)
        if found is None:
            found = self._leases[workspace_id] = HostLeases(
                self.name, stores, self.runtime.brakes, workspace_id
            )
            found.begin(lambda: self.budget_leases(workspace_id))
        return found

    def budget_leases(self, workspace_id: str) -> list[BudgetLease]:
        """The budget leases of a workspace's sessions that are live here."""
        return [
            one.activation.budget_lease
            for one in self.live.values()
            if one.profile.workspace_id == workspace_id
        ]

    # --- at work -------------------------------------------------------------------------

    def work(self, live: LiveSession) -> None:
        """Continues the session's runs."""
        if not live.at_work:
            live.worker = asyncio.create_task(self._work(live))
            live.worker.add_done_callback(lambda done: done.cancelled() or done.result())

    async def _work(self, live: LiveSession) -> None:
        try:
            while True:
                await live.work()
                await self._done(live)
                if not live.has_work:  # none came meanwhile
                    return
        except Unavailable as error:
            live.announce(*live.entity.state.runs)
            await self._lost(live, error)

    async def _done(self, live: LiveSession) -> None:
        """Handles a session with no more runs. Effects of other calls may not be stored yet."""
        result = live.result_for_parent
        await live.entity.committed()
        await live.activation.budget_lease.report()
        if live.profile.parent_id is not None:
            self.hand_over(live, result)
        elif not live.entity.state.runs:
            await self.runtime.registry.unmark_running(live.id)

    def hand_over(self, live: LiveSession, result: Result | None) -> None:
        """Puts a finished sub-agent's result into its parent's outbox, and releases the sub-agent.

        By then the result is stored, and its cost was reported.
        """
        parent_id = live.profile.parent_id
        if result is not None and parent_id is not None:
            self.outboxes.setdefault(parent_id, Outbox()).put(result)
        if live.calls == 0:
            self.drop(live)

    async def _lost(self, live: LiveSession, error: Unavailable) -> None:
        """Ends an activation that can't go on; after an outage the session is brought back here.

        Not so those that were fenced, and those of which Redis has lost something.
        """
        self.drop(live)
        if isinstance(error, Fenced | RolledBack):
            return
        while True:
            await asyncio.sleep(_OUTAGE_PAUSE_S)
            with contextlib.suppress(Unavailable):
                # its first write never arrived, or Redis went back
                with contextlib.suppress(NotFound, RolledBack):
                    self.work(await self.get(live.id, live.profile.workspace_id))
                return

    # --- letting go ----------------------------------------------------------------------

    async def deactivate(self, session_id: str) -> bool:
        """Writes a session out and releases it, if nothing runs in it."""
        live = self.live.get(session_id)
        if live is None or not live.idle:
            return live is None
        if not live.entity.broken:
            await live.entity.compact()
        if live.idle:
            self.drop(live)
        return live.idle

    def drop(self, live: LiveSession) -> None:
        """Releases a session as it is."""
        if self.live.get(live.id) is live:
            del self.live[live.id]
            self._gone.append(live.id)
            self.tidy()

    def note(self, event: FeedEvent) -> None:
        """Passes an event on to those who watch, soon."""
        self._feed.append(event)
        self.tidy()

    def tidy(self) -> None:
        """Begin the housekeeping, if it is not under way."""
        if self._tidying is None or self._tidying.done():
            self._tidying = asyncio.create_task(self._housekeeping())

    async def _housekeeping(self) -> None:
        """Publishes events, and releases idle sessions, for as long as anything is live."""
        quiet = 0.0
        while self.live or self._feed or self._gone or self._leases:
            metrics.LIVE_SESSIONS.set(len(self.live))
            await asyncio.sleep(_PUBLISH_EVERY_S)
            await self._publish()
            quiet += _PUBLISH_EVERY_S
            if quiet >= _HOUSEKEEPING_S:
                quiet = 0.0
                await self._deactivate_idle()
                self._end_leases()
        metrics.LIVE_SESSIONS.set(len(self.live))

    async def _publish(self) -> None:
        if not self._feed and not self._gone:
            return
        events, self._feed = self._feed, []
        gone, self._gone = [id for id in self._gone if id not in self.live], []
        directory = self.hosts.directory
        with contextlib.suppress(RetinueError):
            families = list({event.family_id for event in events})
            watched = frozenset(await directory.news(self.name, families, gone))
            if seen := [event for event in events if event.family_id in watched]:
                await directory.publish(seen)

    async def _deactivate_idle(self) -> None:
        before = self.runtime.clock() - self._idle_us
        idle = [one.id for one in self.live.values() if one.idle and one.last_used < before]
        for session_id in idle:
            with contextlib.suppress(RetinueError):
                await self.deactivate(session_id)

    def _end_leases(self) -> None:
        """Ends leases of workspaces without live sessions: their stores need not know this host."""
        live = {one.profile.workspace_id for one in self.live.values()}
        for workspace_id in self._leases.keys() - live:
            self._leases.pop(workspace_id).end()
