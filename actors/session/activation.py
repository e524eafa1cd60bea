"""A session's possessions while live under one epoch: state, messages, money and permissions."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Protocol, cast

from msgspec import structs

from retinue.actors.domain.budget.commands import OpenFamily
from retinue.actors.domain.budget.state import Cap
from retinue.actors.domain.errors import NotFound, Unavailable
from retinue.actors.domain.permissions.boundary import EscapeState
from retinue.actors.domain.session.commands import FinishRun, RememberEscape, SettleReservation
from retinue.actors.domain.session.result import Result
from retinue.actors.domain.session.state import Profile, the_profile
from retinue.actors.durable.entity import Entity
from retinue.actors.durable.journal import Key, Summary
from retinue.actors.durable.machines import SESSION
from retinue.actors.durable.runtime import Runtime
from retinue.actors.leases.budget_lease import BudgetLease
from retinue.actors.leases.host_leases import HostLeases
from retinue.actors.ports import HostProvider, Stores
from retinue.actors.session.authorizer import Authorizer
from retinue.actors.session.history import History, SessionEntity
from retinue.actors.session.listing import CODES, position
from retinue.actors.session.summary import encode_summary, shown, summarise
from retinue.actors.views import (
    EventKind,
    FeedEvent,
    SessionSummary,
    SessionView,
    WorkspaceSettings,
)


class HostServices(Protocol):
    """The services that a live session needs from its host."""

    runtime: Runtime
    hosts: HostProvider
    name: str

    def note(self, event: FeedEvent) -> None:
        """Passes an event on to those who watch its family."""


class Activation:
    """A live session's own side, for the engine of its turns, their spawns and the host."""

    def __init__(
        self,
        entity: SessionEntity,
        stores: Stores,
        workspace: WorkspaceSettings,
        leases: HostLeases,
        host: HostServices,
    ) -> None:
        self.entity = entity
        self.host = host
        self.runtime: Runtime = host.runtime
        self.stores = stores
        self.workspace = workspace
        self.history: History = History(entity)
        self.untold: dict[str, None] = {}
        """Operations that were decided, but of which no agent has been told."""
        self._compacting: asyncio.Task[None] | None = None
        self.budget_lease: BudgetLease = BudgetLease(entity, leases.money, slack=True)
        self.authorizer: Authorizer = Authorizer(
            self.profile,
            workspace,
            stores,
            self.budget_lease,
            self.runtime.clock,
            leases.permissions,
            self._remember_escape,
        )
        self._shown: tuple[object, ...] = ()
        self._listed = ""
        entity.summarise(self._summary)

    @property
    def profile(self) -> Profile:
        return the_profile(self.entity.state)

    @property
    def id(self) -> str:
        return self.entity.key.id

    @property
    def escapes(self) -> EscapeState:
        state = self.entity.state
        return EscapeState(tuple(state.escapes), tuple(state.session_escapes))

    async def open_family(self) -> None:
        """Register a root session's budget with its workspace."""
        profile, budget, spent = self.profile, self.profile.budget, self.entity.state.spent
        cap, most = Cap(budget.session_max, budget.warn_at_percent), profile.limits.max_total
        await self.stores.budget.open_family(
            OpenFamily(profile.family_id, cap, budget.per_action_max, most, spent)
        )

    async def stand_still(self) -> None:
        """Returns once the workspace is not on hold: the agent is about to be called."""
        await self.runtime.brakes.clear(self.entity.key.workspace_id)

    def keep_small(self) -> None:
        """Write a snapshot in the background when enough rows have come together."""
        if self.entity.wants_compaction and (self._compacting is None or self._compacting.done()):
            self._compacting = asyncio.create_task(self._compact())

    async def _compact(self) -> None:
        with contextlib.suppress(Unavailable):
            await self.entity.compact()

    def notify(self, kind: EventKind, text: str = "", cost: int = 0, count: int = 0) -> None:
        """Tells the family's watchers; not durable."""
        profile, now = self.profile, self.runtime.clock()
        self.host.note(
            FeedEvent(kind, profile.id, profile.family_id, now, text, cost, profile.label, count)
        )

    def summary(self) -> SessionSummary:
        """The line about this session as of now."""
        return summarise(self.entity.state, self.runtime.clock())

    def view(self) -> SessionView:
        """The view of the session for clients."""
        state = self.entity.state
        running = next((run.id for run in state.runs.values() if run.started is not None), None)
        return SessionView(
            summary=self.summary(),
            profile=self.profile,
            queued=[run.id for run in state.runs.values() if run.started is None],
            running=running,
            results=dict(state.results),
            token_count=state.token_count,
            title=state.metadata.title,
            tags=list(state.metadata.tags),
            turn_count=state.metadata.turn_count,
            tool_call_count=state.metadata.tool_call_count,
            approval_count=state.metadata.approval_count,
            seen_at=self.runtime.clock(),
        )

    async def finish(self, run_id: str, result: Result) -> Result:
        """Give the run its result, report the spend, and return it once that is durable."""
        self.release_untold()
        if not result.output and not result.structured:
            result = structs.replace(result, output=await self.history.last_assistant_text())
        final = cast(Result, self.entity.do(FinishRun(run_id, result)))
        await self.entity.committed()
        await self.budget_lease.report()
        return final

    def release_untold(self) -> None:
        """Releases the reservations of decisions that no agent was told of: they cost nothing."""
        for operation in self.untold:
            self.entity.do(SettleReservation(operation, 0))
        self.untold.clear()

    def _remember_escape(self, path: str, always: bool) -> None:
        self.entity.do(RememberEscape(path, always))

    def _summary(self) -> Summary | None:
        """The line for listings, if it has changed."""
        seen = shown(self.entity.state)
        if seen == self._shown:
            return None
        self._shown = seen
        summary = self.summary()
        return Summary(summary.family_id, encode_summary(summary), self._newly_listed(summary))

    def _newly_listed(self, summary: SessionSummary) -> tuple[bytes, bytes] | None:
        """The place of this session in the index of root sessions, if it has changed."""
        if summary.parent_id is not None or summary.status == self._listed:
            return None
        self._listed = summary.status
        return CODES[summary.status], position(summary.created_at, summary.id)


def new_entity(runtime: Runtime, profile: Profile, creator: str) -> SessionEntity:
    """A session that does not exist yet; its first commit creates it."""
    key = Key(profile.workspace_id, SESSION.kind, profile.id)
    return Entity(SESSION, key, runtime.committer, runtime.keyring, runtime.clock, creator)


async def stored_entity(runtime: Runtime, workspace_id: str, session_id: str) -> SessionEntity:
    """Take over a stored session."""
    key = Key(workspace_id, SESSION.kind, session_id)
    return await Entity.activate(SESSION, key, runtime.committer, runtime.keyring, runtime.clock)


def require_known(entity: SessionEntity) -> None:
    """Raises NotFound if the journal has no such session."""
    if entity.state.profile is None:
        raise NotFound(f"session {entity.key.id}: there is no such session")
