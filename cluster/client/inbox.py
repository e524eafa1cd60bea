"""Requests that wait for a person's decision, as the client holds them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Literal, TypeAlias, get_args

from retinue.actors.domain.errors import InvalidValue, RetinueError, Unavailable
from retinue.actors.domain.permissions.actions import Action
from retinue.actors.domain.permissions.approvals.machine import Decide
from retinue.actors.domain.permissions.approvals.request import ApprovalScope, Resolution, Scope
from retinue.actors.domain.permissions.approvals.state import Entry
from retinue.actors.domain.permissions.patterns import Pattern
from retinue.actors.tasks import Tasks
from retinue.cluster.client.calls import Calls

_WATCH_S = 10.0
_RETRY_S = 0.5


class InboxRequest:
    """An action that waits for somebody's decision."""

    def __init__(self, calls: Calls, workspace_id: str, entry: Entry) -> None:
        self._calls = calls
        self._workspace_id = workspace_id
        self._entry = entry

    @property
    def id(self) -> str:
        """The request's id."""
        return self._entry.request.id

    @property
    def session_id(self) -> str:
        """The id of the session that asks."""
        return self._entry.request.session_id

    @property
    def family_id(self) -> str:
        """The id of that session's root."""
        return self._entry.request.family_id

    @property
    def action(self) -> Action:
        """The action that the session wants to take."""
        return self._entry.request.action

    @property
    def description(self) -> str:
        """The action in one line."""
        return self._entry.request.description

    @property
    def context(self) -> str:
        """The agent's reason."""
        return self._entry.request.context

    @property
    def risk(self) -> str:
        """The danger of the action: ``low``, ``medium``, ``high`` or ``critical``."""
        return str(self._entry.request.risk)

    @property
    def priority(self) -> str:
        """The urgency of an answer: ``low``, ``normal``, ``high`` or ``critical``."""
        return str(self._entry.request.priority)

    @property
    def created_at(self) -> int:
        """Microseconds since the epoch."""
        return self._entry.request.created

    @property
    def deferred(self) -> bool:
        """True once the agent has stopped waiting; a decision then lets the retried action pass."""
        return str(self._entry.status) == "deferred"

    async def approve(
        self,
        scope: ApprovalScope = "once",
        *,
        pattern: Pattern | None = None,
        by: str | None = None,
    ) -> Resolution:
        """Says yes.

        Actions that are never granted wholesale fall back to once; the answer says what was
        granted.

        Args:
            scope: How far it reaches: ``once``, the ``session``'s family, the ``workspace``, or
                ``always`` (a token for the user, for an hour).
            pattern: Gives the workspace an allowance for this instead.
            by: Who says so, for the audit log (default: the client's ``actor``).

        Raises AlreadyDecided if somebody was faster, or the request has expired; InvalidValue for
        an unknown scope.
        """
        if scope not in get_args(ApprovalScope):
            raise InvalidValue(
                f"scope: {scope!r} is not once, session, workspace or always", field="scope"
            )
        chosen = Scope.CUSTOM if pattern is not None else Scope(scope)
        return await self._decide(chosen, by, "", pattern)

    async def deny(self, reason: str = "", *, by: str | None = None) -> Resolution:
        """Says no.

        Args:
            reason: What the agent is told; empty by default.
            by: Who says so, for the audit log (default: the client's ``actor``).

        Raises AlreadyDecided if somebody was faster, or the request has expired.
        """
        return await self._decide(Scope.DENY, by, reason, None)

    async def _decide(
        self, scope: Scope, by: str | None, reason: str, pattern: Pattern | None
    ) -> Resolution:
        request, by = self._entry.request, by or self._calls.actor
        command = Decide(request.id, scope, by, request.argument_hash, reason, pattern)
        return await self._calls.stores(self._workspace_id).permissions.decide(command)


Answer: TypeAlias = "ApprovalScope | Literal['deny'] | bool | None"
"""A handler's answer: a scope, True (once), False or "deny", or None to leave it open."""

ApprovalHandler: TypeAlias = Callable[[InboxRequest], Awaitable[Answer]]


async def open_requests(calls: Calls) -> list[InboxRequest]:
    """All requests that wait for a decision now, workspace by workspace."""
    known = [one.workspace_id for one in await calls.registry.workspaces()]
    found: list[InboxRequest] = []
    for workspace_id in dict.fromkeys([*known, *await calls.directory.store_names()]):
        entries = await calls.stores(workspace_id).permissions.open_requests()
        found += [InboxRequest(calls, workspace_id, entry) for entry in entries]
    return found


async def all_requests(calls: Calls) -> AsyncIterator[InboxRequest]:
    """The requests of all workspaces, each once: those that are open, then those that come."""
    queue: asyncio.Queue[InboxRequest] = asyncio.Queue()
    watchers = Tasks()
    watchers.start(_watch_all(calls, watchers, queue))
    try:
        while True:
            yield await queue.get()
    finally:
        await watchers.cancel()


async def keep_answering(
    calls: Calls, watchers: Tasks, workspace_id: str, family_id: str, handler: ApprovalHandler
) -> None:
    """Answer from now on: any request made once this has returned finds its handler."""
    await calls.stores(workspace_id).permissions.watch(0, family_id, 0.0)
    watchers.start(_answer(calls, workspace_id, family_id, handler))


async def _watch_all(calls: Calls, watchers: Tasks, queue: asyncio.Queue[InboxRequest]) -> None:
    watched: set[str] = set()
    while True:
        for workspace_id in await calls.directory.store_names():
            if workspace_id not in watched:
                watched.add(workspace_id)
                watchers.start(_watch(calls, workspace_id, queue))
        await asyncio.sleep(_RETRY_S)


async def _watch(calls: Calls, workspace_id: str, queue: asyncio.Queue[InboxRequest]) -> None:
    async for request in _requests(calls, workspace_id, None):
        queue.put_nowait(request)


async def _requests(
    calls: Calls, workspace_id: str, family_id: str | None
) -> AsyncIterator[InboxRequest]:
    """The requests of a workspace, each once, as they come."""
    seen: set[str] = set()
    version = 0
    permissions = calls.stores(workspace_id).permissions
    while True:
        try:
            version, entries = await permissions.watch(version, family_id, _WATCH_S)
        except RetinueError:
            await asyncio.sleep(_RETRY_S)
            continue
        for entry in entries:
            if entry.request.id not in seen:
                seen.add(entry.request.id)
                yield InboxRequest(calls, workspace_id, entry)


async def _answer(
    calls: Calls, workspace_id: str, family_id: str, handler: ApprovalHandler
) -> None:
    answering = Tasks()
    try:
        async for request in _requests(calls, workspace_id, family_id):
            if not request.deferred:
                answering.start(_answer_one(request, handler))
    finally:
        await answering.cancel()
        with contextlib.suppress(RetinueError):
            await calls.stores(workspace_id).permissions.unwatch(family_id)


async def _answer_one(request: InboxRequest, handler: ApprovalHandler) -> None:
    """Ask the handler; a request that it leaves open, or fails on, stays open for others."""
    answer = await handler(request)
    while True:
        try:
            if answer is True:
                await request.approve()
            elif answer is False or answer == "deny":
                await request.deny("denied by the handler")
            elif answer is not None:
                await request.approve(answer)
        except Unavailable:  # the store is on its way back: the answer must not get lost
            await asyncio.sleep(_RETRY_S)
        except RetinueError:
            return
        else:
            return
