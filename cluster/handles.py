"""What a client holds: a workspace, a session, a request in the inbox."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from decimal import Decimal
from typing import Literal, TypeAlias

from msgspec import Struct

from actors import tracing
from actors.audit import Report
from actors.domain.actions import Action
from actors.domain.allowances import Allowance
from actors.domain.approvals import Decision, Entry, Scope
from actors.domain.budget import WORKSPACE, Cap, Hold, Level, SetCap, SetHold
from actors.domain.errors import ClusterUnavailable, InvalidValue
from actors.domain.messages import Message, check_message
from actors.domain.money import Usd, to_nano, to_usd, usd_text
from actors.domain.patterns import Pattern
from actors.domain.result import Result
from actors.domain.session import Describe
from actors.views import FeedEvent, SessionSummary, SessionView, WorkspaceSettings
from cluster.audit_export import render_audit
from cluster.calls import Calls
from cluster.documents import export_document
from cluster.tree import FamilyStats, SessionTree, build_tree, family_stats

ApprovalScope: TypeAlias = Literal["once", "session", "workspace", "always"]

_POLL_S = 20.0


class BudgetStatus(Struct, frozen=True):
    """Money at one level, exact when it was asked for. Amounts in nano-USD and as USD."""

    spent: int
    reserved: int
    max: int | None

    @property
    def spent_usd(self) -> Decimal:
        return to_usd(self.spent)

    @property
    def reserved_usd(self) -> Decimal:
        return to_usd(self.reserved)

    @property
    def max_usd(self) -> Decimal | None:
        return None if self.max is None else to_usd(self.max)


class Workspace:
    """A registered workspace."""

    def __init__(self, calls: Calls, settings: WorkspaceSettings) -> None:
        self._calls = calls
        self._settings = settings

    @property
    def id(self) -> str:
        return self._settings.scope

    @property
    def path(self) -> str:
        return str(self._settings.path)

    @property
    def settings(self) -> WorkspaceSettings:
        return self._settings

    async def budget(self) -> BudgetStatus:
        """What the workspace has spent and reserved, collected from all its sessions first."""
        return await _budget(self._calls, self.id, WORKSPACE)

    async def set_budget(
        self, max_usd: Usd | None, *, warn_at_percent: int = 80, by: str | None = None
    ) -> None:
        """Raise or lower the cap, in USD (None: no cap). Below what is spent it blocks."""
        command = SetCap(WORKSPACE, cap_of(max_usd, warn_at_percent), by or self._calls.actor)
        await self._calls.budget(self.id).set_cap(command)

    async def hold(self, why: str, *, cancel: bool = False, by: str | None = None) -> int:
        """Put on the brake: no action is authorised, and no run or sub-agent begins, anywhere here.

        What is at work stands still at its next such step, until `release`; meanwhile its time
        does not run. With ``cancel`` all root sessions with runs are cancelled then; answers how
        many. Who holds again changes who and why.
        """
        by = by or self._calls.actor
        await self._calls.budget(self.id).set_hold(SetHold(why, by))
        return await self._cancel_all(by) if cancel else 0

    async def release(self, *, by: str | None = None) -> Hold | None:
        """Let go of the brake: everything goes on where it stood. The hold that was, if any."""
        return await self._calls.budget(self.id).set_hold(SetHold(None, by or self._calls.actor))

    async def held(self) -> Hold | None:
        """Who holds the workspace, why and since when; None if nobody does."""
        return await self._calls.budget(self.id).held()

    async def _cancel_all(self, by: str) -> int:
        places = {id: self._calls.directory.place_of(id) for id in await self._running()}
        found = await asyncio.gather(*places.values())
        here = [id for id, place in zip(places, found, strict=True) if place.scope == self.id]
        return sum(await asyncio.gather(*(self._cancel_if_busy(id, by) for id in here)))

    async def _running(self) -> list[str]:
        return await self._calls.directory.running()

    async def _cancel_if_busy(self, id: str, by: str) -> bool:
        view = await self._calls.view(id)
        busy = bool(view.queued or view.running)
        if busy:
            await Session(self._calls, id).cancel(by=by)
        return busy

    async def allow(
        self,
        pattern: Pattern,
        *,
        max_uses: int | None = None,
        expires_in_s: float | None = None,
        id: str | None = None,
        by: str | None = None,
    ) -> Allowance:
        """Let every session of the workspace do what ``pattern`` matches without asking."""
        now = self._calls.now()
        allowance = Allowance(
            id=id or self._calls.new_id(),
            pattern=pattern,
            created=now,
            expires=None if expires_in_s is None else now + int(expires_in_s * 1_000_000),
            max_uses=max_uses,
            uses_left=max_uses,
            workspace_root=self._settings.path,
        )
        return await self._calls.permissions(self.id).grant(allowance, by or self._calls.actor)

    async def allowances(self) -> list[Allowance]:
        """All allowances of the workspace, session-only ones included."""
        return await self._calls.permissions(self.id).allowances()

    async def revoke(self, allowance_id: str, *, by: str | None = None) -> None:
        """Withdraw an allowance: once this returns nobody passes through it; or NotFound."""
        await self._calls.permissions(self.id).revoke(allowance_id, by or self._calls.actor)

    async def audit(self) -> list[Report]:
        """The audit log: every strand of the workspace, verified; see `Report.problem`."""
        keys = await self._calls.directory.audit_strands(self.id)
        return [await self._calls.directory.audit_report(key) for key in keys]

    async def export_audit(self) -> str:
        """The audit log as a JSON document that carries a signature; see `cluster.audit_export`."""
        return await self._calls.directory.sign_audit(render_audit(self.path, await self.audit()))

    async def inbox(self) -> list[InboxRequest]:
        """The requests that wait for a decision now, the most urgent first."""
        entries = await self._calls.permissions(self.id).open_requests()
        return [InboxRequest(self._calls, self.id, entry) for entry in entries]


class InboxRequest:
    """An action that waits for somebody's decision."""

    def __init__(self, calls: Calls, scope: str, entry: Entry) -> None:
        self._calls = calls
        self._scope = scope
        self._entry = entry

    @property
    def id(self) -> str:
        return self._entry.request.id

    @property
    def session_id(self) -> str:
        return self._entry.request.session_id

    @property
    def family_id(self) -> str:
        return self._entry.request.family_id

    @property
    def action(self) -> Action:
        return self._entry.request.action

    @property
    def description(self) -> str:
        """The action in one line."""
        return self._entry.request.description

    @property
    def context(self) -> str:
        """Why the agent wants it."""
        return self._entry.request.context

    @property
    def risk(self) -> str:
        return str(self._entry.request.risk)

    @property
    def priority(self) -> str:
        return str(self._entry.request.priority)

    @property
    def created_at(self) -> int:
        """Microseconds since the epoch."""
        return self._entry.request.created

    @property
    def deferred(self) -> bool:
        """Whether the agent has stopped waiting; a decision then lets the retried action pass."""
        return str(self._entry.status) == "deferred"

    async def approve(
        self,
        scope: ApprovalScope = "once",
        *,
        pattern: Pattern | None = None,
        by: str | None = None,
    ) -> Decision:
        """Say yes: once, for the session's family, for the workspace, or always (a token, 1 h).

        With ``pattern`` the workspace gets an allowance for that instead. Actions that are never
        granted wholesale fall back to once; the answer says what was granted. AlreadyDecided if
        somebody was faster, or it has expired.
        """
        if scope not in ("once", "session", "workspace", "always"):
            raise InvalidValue(
                f"scope: {scope!r} is not once, session, workspace or always", field="scope"
            )
        chosen = Scope.CUSTOM if pattern is not None else Scope(scope)
        decision = await self._decide(chosen, by, "", pattern)
        if decision.scope is Scope.ALWAYS:
            view = await self._calls.view(self.session_id)
            request = self._entry.request
            await self._calls.capabilities().issue(request, view.profile.user_id)
        return decision

    async def deny(self, reason: str = "", *, by: str | None = None) -> Decision:
        """Say no. AlreadyDecided if somebody was faster, or it has expired."""
        return await self._decide(Scope.DENY, by, reason, None)

    async def _decide(
        self, scope: Scope, by: str | None, reason: str, pattern: Pattern | None
    ) -> Decision:
        request, by = self._entry.request, by or self._calls.actor
        return await self._calls.permissions(self._scope).decide(
            request.id, scope, by, request.argument_hash, reason, pattern
        )


Answer: TypeAlias = "ApprovalScope | Literal['deny'] | bool | None"
"""What a handler may return: a scope, True (once), False or "deny", or None to leave it open."""

ApprovalHandler: TypeAlias = Callable[[InboxRequest], Awaitable[Answer]]


class Session:
    """A session of the cluster, by id."""

    def __init__(self, calls: Calls, id: str) -> None:
        self._calls = calls
        self.id = id

    async def run(
        self, prompt: str, *, run_id: str | None = None, timeout: float | None = None
    ) -> Result:
        """Run the agent on ``prompt`` and wait for the result; ``timeout`` in seconds.

        The same ``run_id`` twice is one run, whatever the second prompt.
        """
        return await self.result(await self.start(prompt, run_id=run_id, timeout=timeout))

    async def start(
        self, prompt: str, *, run_id: str | None = None, timeout: float | None = None
    ) -> str:
        """Queue a run and return its id once it is durable; Busy if 64 wait already."""
        if not isinstance(prompt, str):
            raise InvalidValue("prompt: must be a str", field="prompt")
        run_id = run_id or self._calls.new_id()
        limit = None if timeout is None else int(timeout * 1_000_000)
        await self._calls.on_host(self.id, "start", run_id, prompt, limit, tracing.current())
        return run_id

    async def result(self, run_id: str) -> Result:
        """Wait for a run's result, however long it takes, and however often its host dies.

        NotFound for an unknown run; ClusterUnavailable when the directory does not answer for 30 s.
        """
        while True:
            try:
                found = await self._calls.on_host(self.id, "result", run_id, _POLL_S)
            except ClusterUnavailable:
                await self._calls.directory.locate(self.id)
                continue
            if isinstance(found, Result):
                return found

    async def resume(self) -> list[str]:
        """Go on with runs that were queued or under way when the cluster died; their ids."""
        found = await self._calls.on_host(self.id, "resume")
        return [str(id) for id in found] if isinstance(found, list) else []

    async def status(self) -> SessionView:
        """The session as it is now."""
        return await self._calls.view(self.id)

    async def messages(self, last: int | None = None) -> list[Message]:
        """The last messages, or all; oldest first."""
        return await self._calls.messages(self.id, last)

    async def add_message(self, message: Message) -> None:
        """Append to the history from outside a turn."""
        await self._calls.on_host(
            self.id, "add_message", check_message(message), self._calls.new_id()
        )

    async def clear_messages(self) -> None:
        """Forget the history; the system prompt stays."""
        await self._calls.on_host(self.id, "clear_messages")

    async def describe(
        self,
        *,
        title: str | None = None,
        tags: list[str] | None = None,
        custom: dict[str, str] | None = None,
    ) -> None:
        """Set title, tags or custom metadata."""
        await self._calls.on_host(self.id, "describe", Describe(title, tags, custom))

    async def family(self) -> list[SessionSummary]:
        """A line about each session of the tree that this one belongs to."""
        return await self._calls.directory.family(self.id)

    async def stats(self) -> FamilyStats:
        """The family's sub-agents by what became of them."""
        view, summaries = await self.status(), await self.family()
        profile = view.profile
        spawned = await self._calls.budget(profile.scope).children(profile.family_id)
        return family_stats(summaries, spawned, profile.limits.max_concurrent)

    async def tree(self) -> SessionTree:
        """This session and all below it, with costs."""
        return build_tree(self.id, await self.family())

    async def budget(self) -> BudgetStatus:
        """The session budget, which the whole family shares, collected from all of it first."""
        view = await self.status()
        return await _budget(self._calls, view.profile.scope, view.profile.family_id)

    async def set_budget(self, max_usd: Usd, *, by: str | None = None) -> None:
        """Raise or lower the session budget, in USD."""
        view = await self.status()
        profile = view.profile
        cap = Cap(to_nano(max_usd, "max_usd"), profile.budget.warn_at_percent)
        command = SetCap(profile.family_id, cap, by or self._calls.actor)
        await self._calls.budget(profile.scope).set_cap(command)

    async def events(self) -> AsyncIterator[FeedEvent]:
        """What happens in the whole subtree, live, until the session is ended or cancelled."""
        place = await self._calls.directory.place_of(self.id)
        position: int | None = None
        below = {self.id} if self.id != place.family_id else None
        while True:
            position, events = await self._calls.directory.events(
                place.family_id, position, _POLL_S
            )
            if below is not None and events:
                below = await self._subtree()
            for event in events:
                if below is None or event.session_id in below:
                    yield event
                if event.session_id == self.id and event.kind in ("ended", "cancelled"):
                    return

    async def cancel(self, *, by: str | None = None) -> None:
        """Cancel the session and all below it; returns when nothing of it runs any more."""
        await self._calls.on_host(self.id, "cancel", by or self._calls.actor)

    async def end(self, *, by: str | None = None) -> None:
        """End the session and all below it; idempotent. Its session-only allowances are gone."""
        await self._calls.on_host(self.id, "end", by or self._calls.actor)

    async def export(self) -> str:
        """The session document, as JSON."""
        return await export_document(self._calls, self.id)

    async def _subtree(self) -> set[str]:
        return {node.id for node in (await self.tree()).walk()}


def cap_of(max_usd: Usd | None, warn_at_percent: int) -> Cap:
    """A cap as it was given; InvalidValue for an amount that is none."""
    most = None if max_usd is None else to_nano(max_usd, "max_usd")
    return Cap(most, min(max(warn_at_percent, 0), 100))


def cap_text(cap: Cap) -> str:
    """A cap in words."""
    if cap.max is None:
        return "none"
    return f"{usd_text(cap.max)} USD with a warning at {cap.warn_at_percent} %"


async def _budget(calls: Calls, scope: str, name: str) -> BudgetStatus:
    status = await calls.directory.status()
    await asyncio.gather(
        *(calls.host(host.name).report(scope) for host in status.hosts), return_exceptions=True
    )
    level: Level = (await calls.budget(scope).levels([name]))[0]
    return BudgetStatus(level.spent, level.reserved, level.max)
