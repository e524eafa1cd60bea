"""A session, as its client holds it."""

from __future__ import annotations

from collections.abc import AsyncIterator

from retinue.actors.domain.budget.commands import SetCap
from retinue.actors.domain.budget.state import Cap
from retinue.actors.domain.errors import ClusterUnavailable, InvalidValue
from retinue.actors.domain.session.commands import DescribeSession
from retinue.actors.domain.session.messages import Message, check_message
from retinue.actors.domain.session.result import Result
from retinue.actors.domain.values.money import Usd, to_nano
from retinue.actors.requests import Await, Close, Edit, Last, Post, SessionAt, Start
from retinue.actors.telemetry import tracing
from retinue.actors.views import FeedEvent, SessionSummary, SessionView
from retinue.cluster.client.budgets import BudgetStatus, budget_status
from retinue.cluster.client.calls import Calls
from retinue.cluster.client.documents import export_document
from retinue.cluster.client.tree import FamilyStats, SessionTree, build_tree, family_stats

_POLL_S = 20.0


class Session:
    """A session of the cluster, by id."""

    def __init__(self, calls: Calls, id: str) -> None:
        self._calls = calls
        self.id = id

    async def run(
        self, prompt: str, *, run_id: str | None = None, timeout: float | None = None
    ) -> Result:
        """Runs the agent on ``prompt`` and waits for the result.

        Args:
            prompt: What the agent is called with.
            run_id: The run's id (default: a fresh one). The same id twice is one run, whatever the
                second prompt.
            timeout: How long the run may take, in seconds (default: no limit).

        Raises Busy if 64 runs wait already, NotFound for an unknown session, SessionEnded for one
        that is over, WorkspaceHeld while its workspace is on hold.
        """
        return await self.result(await self.start(prompt, run_id=run_id, timeout=timeout))

    async def start(
        self, prompt: str, *, run_id: str | None = None, timeout: float | None = None
    ) -> str:
        """Queues a run, and returns its id once that is durable.

        Args:
            prompt: What the agent is called with.
            run_id: The run's id (default: a fresh one). The same id twice is one run.
            timeout: How long the run may take, in seconds (default: no limit).

        Raises as `run` does.
        """
        if not isinstance(prompt, str):
            raise InvalidValue("prompt: must be a str", field="prompt")
        run_id = run_id or self._calls.new_id()
        limit = None if timeout is None else int(timeout * 1_000_000)
        trace = tracing.current()
        run = Start(self.id, run_id=run_id, prompt=prompt, timeout=limit, trace=trace)
        await self._calls.sessions.start(run)
        return run_id

    async def result(self, run_id: str) -> Result:
        """Waits for the result of the run ``run_id``, however often its host dies.

        Raises NotFound for an unknown run; ClusterUnavailable when the directory does not answer
        for 30 s.
        """
        run = Await(self.id, run_id=run_id, timeout_s=_POLL_S)
        while True:
            try:
                found = await self._calls.sessions.result(run)
            except ClusterUnavailable:
                await self._calls.directory.locate(self.id)
                continue
            if found is not None:
                return found

    async def resume(self) -> list[str]:
        """Go on with runs that were queued or under way when the cluster died; their ids."""
        return await self._calls.sessions.resume(SessionAt(self.id))

    async def status(self) -> SessionView:
        """The session as it is now."""
        return await self._calls.sessions.view(SessionAt(self.id))

    async def messages(self, last: int | None = None) -> list[Message]:
        """The last messages, or all; oldest first."""
        return await self._calls.sessions.messages(Last(self.id, count=last))

    async def add_message(self, message: Message) -> None:
        """Appends ``message`` to the history, between turns; durable when it returns."""
        post = Post(self.id, message=check_message(message), op=self._calls.new_id())
        await self._calls.sessions.add_message(post)

    async def clear_messages(self) -> None:
        """Forget the history; the system prompt stays."""
        await self._calls.sessions.clear_messages(SessionAt(self.id))

    async def describe(
        self,
        *,
        title: str | None = None,
        tags: list[str] | None = None,
        custom: dict[str, str] | None = None,
    ) -> None:
        """Set title, tags or custom metadata."""
        change = DescribeSession(title, tags, custom)
        await self._calls.sessions.describe(Edit(self.id, change=change))

    async def family(self) -> list[SessionSummary]:
        """A line about each session of the tree that this one belongs to."""
        return await self._calls.queries.family(self.id)

    async def stats(self) -> FamilyStats:
        """The family's sub-agents by what became of them."""
        view, summaries = await self.status(), await self.family()
        profile = view.profile
        spawned = await self._calls.stores(profile.workspace_id).budget.children(profile.family_id)
        return family_stats(summaries, spawned, profile.limits.max_concurrent)

    async def tree(self) -> SessionTree:
        """This session and all below it, with costs."""
        return build_tree(self.id, await self.family())

    async def budget(self) -> BudgetStatus:
        """The session budget, which the whole family shares, collected from all of it first."""
        view = await self.status()
        return await budget_status(self._calls, view.profile.workspace_id, view.profile.family_id)

    async def set_budget(self, max_usd: Usd, *, by: str | None = None) -> None:
        """Raises or lowers the session budget; it holds for the whole family at once.

        Args:
            max_usd: The new cap, in USD. Below what is spent it blocks.
            by: Who does it, for the audit log (default: the client's ``actor``).

        Raises InvalidValue for an amount that is none, NotFound for an unknown session.
        """
        view = await self.status()
        profile = view.profile
        cap = Cap(to_nano(max_usd, "max_usd"), profile.budget.warn_at_percent)
        command = SetCap(profile.family_id, cap, by or self._calls.actor)
        await self._calls.stores(profile.workspace_id).budget.set_cap(command)

    async def events(self) -> AsyncIterator[FeedEvent]:
        """Yields the events of the whole subtree, live, until the session is ended or cancelled."""
        place = await self._calls.registry.locate(self.id)
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
        """Cancels the session and all below it; returns when nothing of it runs any more.

        Args:
            by: Who does it, for the audit log (default: the client's ``actor``).

        Raises NotFound for an unknown session.
        """
        await self._calls.sessions.cancel(Close(self.id, by=by or self._calls.actor))

    async def end(self, *, by: str | None = None) -> None:
        """Ends the session and all below it, for good; its session-only permissions are gone.

        Ended again, it stays so.

        Args:
            by: Who does it, for the audit log (default: the client's ``actor``).

        Raises NotFound for an unknown session.
        """
        await self._calls.sessions.end(Close(self.id, by=by or self._calls.actor))

    async def export(self) -> str:
        """The session document, as JSON."""
        return await export_document(self._calls, self.id)

    async def _subtree(self) -> set[str]:
        return {node.id for node in (await self.tree()).walk()}
