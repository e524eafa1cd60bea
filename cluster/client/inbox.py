"""What waits for a person's decision, as the client holds it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Literal, TypeAlias

from retinue.actors.domain.errors import InvalidValue
from retinue.actors.domain.permissions.actions import Action
from retinue.actors.domain.permissions.approvals.request import Resolution, Scope
from retinue.actors.domain.permissions.approvals.state import Entry
from retinue.actors.domain.permissions.patterns import Pattern
from retinue.cluster.client.calls import Calls

ApprovalScope: TypeAlias = Literal["once", "session", "workspace", "always"]


class InboxRequest:
    """An action that waits for somebody's decision."""

    def __init__(self, calls: Calls, workspace_id: str, entry: Entry) -> None:
        self._calls = calls
        self._workspace_id = workspace_id
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
    ) -> Resolution:
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
        return await self._decide(chosen, by, "", pattern)

    async def deny(self, reason: str = "", *, by: str | None = None) -> Resolution:
        """Say no. AlreadyDecided if somebody was faster, or it has expired."""
        return await self._decide(Scope.DENY, by, reason, None)

    async def _decide(
        self, scope: Scope, by: str | None, reason: str, pattern: Pattern | None
    ) -> Resolution:
        request, by = self._entry.request, by or self._calls.actor
        return await self._calls.permissions(self._workspace_id).decide(
            request.id, scope, by, request.argument_hash, reason, pattern
        )


Answer: TypeAlias = "ApprovalScope | Literal['deny'] | bool | None"
"""What a handler may return: a scope, True (once), False or "deny", or None to leave it open."""

ApprovalHandler: TypeAlias = Callable[[InboxRequest], Awaitable[Answer]]
