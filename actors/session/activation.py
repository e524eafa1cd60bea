"""One session, live in this actor: its state, messages, money, and its runs one after another."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import cast

from msgspec import structs

from retinue.actors.domain.budget.commands import OpenFamily
from retinue.actors.domain.budget.state import Cap
from retinue.actors.domain.errors import NotFound, Unavailable
from retinue.actors.domain.permissions.boundary import EscapeState
from retinue.actors.domain.session import machine as session
from retinue.actors.domain.session.machine import Profile
from retinue.actors.domain.session.result import Result
from retinue.actors.durable.entity import Entity
from retinue.actors.durable.journal import Key, Summary
from retinue.actors.durable.machines import SESSION
from retinue.actors.durable.runtime import Runtime
from retinue.actors.leases.budget_lease import BudgetLease, Lend
from retinue.actors.leases.permission_leases import PermissionLeases
from retinue.actors.ports import Stores
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


class Activation:
    """A live session under one epoch. Made by `Activation.create` or `Activation.activate`."""

    def __init__(
        self,
        entity: SessionEntity,
        runtime: Runtime,
        stores: Stores,
        workspace: WorkspaceSettings,
        lend: Lend,
        leases: PermissionLeases,
        feed: Callable[[FeedEvent], None],
    ) -> None:
        self.entity = entity
        self.runtime = runtime
        self.stores = stores
        self.workspace = workspace
        self.history = History(entity)
        self.last_used = runtime.clock()
        self.calls = 0
        self.closing = False
        self.untold: dict[str, None] = {}
        """Operations that were decided, and of which no agent has been told."""
        self._compacting: asyncio.Task[None] | None = None
        self._feed = feed
        self.budget_lease = BudgetLease(entity, lend, slack=True)
        self.authorizer = Authorizer(
            self.profile,
            workspace,
            stores,
            self.budget_lease,
            runtime.clock,
            leases,
            self._remember_escape,
        )
        self._shown: tuple[object, ...] = ()
        self._listed = ""
        entity.summarise(self._summary)

    @property
    def profile(self) -> Profile:
        return session.the_profile(self.entity.state)

    @property
    def id(self) -> str:
        return self.entity.key.id

    @property
    def idle(self) -> bool:
        """Whether nothing runs and nobody waits for an answer."""
        return not self.entity.state.runs and self.calls == 0

    @property
    def escapes(self) -> EscapeState:
        state = self.entity.state
        return EscapeState(tuple(state.escapes), tuple(state.session_escapes))

    async def open_family(self) -> None:
        """Register a root session's budget with its workspace."""
        profile, state = self.profile, self.entity.state
        cap = Cap(profile.budget.session_max, profile.budget.warn_at_percent)
        await self.stores.budget.open_family(
            OpenFamily(
                profile.family_id,
                cap,
                profile.budget.per_action_max,
                profile.limits.max_total,
                state.spent,
            )
        )

    def keep_small(self) -> None:
        """Write a snapshot in the background when enough rows have come together."""
        if self.entity.wants_compaction and (self._compacting is None or self._compacting.done()):
            self._compacting = asyncio.create_task(self._compact())

    async def _compact(self) -> None:
        with contextlib.suppress(Unavailable):
            await self.entity.compact()

    def notify(self, kind: EventKind, text: str = "", cost: int = 0, count: int = 0) -> None:
        """Tell those who watch the family; not durable."""
        profile = self.profile
        self._feed(
            FeedEvent(
                kind,
                profile.id,
                profile.family_id,
                self.runtime.clock(),
                text,
                cost,
                profile.label,
                count,
            )
        )

    def summary(self) -> SessionSummary:
        """The line about this session as of now."""
        return summarise(self.entity.state, self.runtime.clock())

    def view(self) -> SessionView:
        """What a client may see."""
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
        final = cast(Result, self.entity.do(session.FinishRun(run_id, result)))
        await self.entity.committed()
        await self.budget_lease.report()
        return final

    def release_untold(self) -> None:
        """Nothing is done any more that nobody was told of: it has cost nothing."""
        for operation in self.untold:
            self.entity.do(session.Settle(operation, 0))
        self.untold.clear()

    def _remember_escape(self, path: str, always: bool) -> None:
        self.entity.do(session.RememberEscape(path, always))

    def _summary(self) -> Summary | None:
        """The line for listings, where it says something new."""
        state = self.entity.state
        if state.profile is None:
            return None
        seen = shown(state)
        if seen == self._shown:
            return None
        self._shown = seen
        summary = self.summary()
        return Summary(summary.family_id, encode_summary(summary), self._newly_listed(summary))

    def _newly_listed(self, summary: SessionSummary) -> tuple[bytes, bytes] | None:
        """Where the index of root sessions has this one, if that is another place than before."""
        if summary.parent_id is not None or summary.status == self._listed:
            return None
        self._listed = summary.status
        return CODES[summary.status], position(summary.created_at, summary.id)


def new_entity(runtime: Runtime, profile: Profile, creator: str) -> SessionEntity:
    """A session that is not there yet; it comes to be with its first commit."""
    key = Key(profile.workspace_id, SESSION.kind, profile.id)
    return Entity(SESSION, key, runtime.committer, runtime.keyring, runtime.clock, creator)


async def stored_entity(runtime: Runtime, workspace_id: str, session_id: str) -> SessionEntity:
    """Take over a stored session."""
    key = Key(workspace_id, SESSION.kind, session_id)
    return await Entity.activate(SESSION, key, runtime.committer, runtime.keyring, runtime.clock)


def require_known(entity: SessionEntity) -> None:
    """NotFound if the journal has no such session."""
    if entity.state.profile is None:
        raise NotFound(f"session {entity.key.id}: there is no such session")
