"""The parts of the actors' answers: plain data for clients and listings."""

from __future__ import annotations

from decimal import Decimal
from typing import Literal, TypeAlias

from msgspec import Struct

from retinue.actors.domain.permissions.boundary import Boundary
from retinue.actors.domain.permissions.policy import Policy
from retinue.actors.domain.session.result import Result
from retinue.actors.domain.session.state import Profile
from retinue.actors.domain.values.money import to_usd
from retinue.actors.domain.values.record import Record


class WorkspaceSettings(Record, frozen=True):
    """A workspace as it is registered.

    ``path`` is absolute and resolved; None for a session without one, which has a workspace of its
    own.
    """

    workspace_id: str
    path: str | None
    policy: Policy
    boundary: Boundary


class SessionSummary(Record, frozen=True):
    """A line about a session, of which listings and trees are made. Money in nano-USD."""

    id: str
    family_id: str
    parent_id: str | None
    depth: int
    user_id: str
    label: str
    status: str
    created_at: int
    updated_at: int
    spent: int = 0
    isolation: str = "process"
    run_id: str | None = None
    closed: str = ""
    error: str | None = None
    turns: int = 0
    messages: int = 0
    spawned: int = 0
    workspace_path: str | None = None
    workspace_id: str = ""


class SessionQuery(Struct, frozen=True):
    """A filter of root sessions for a listing; fields not given do not matter.

    ``states`` are the accepted statuses (none: all). Created from ``since`` on and before
    ``until``, in microseconds since the epoch.
    """

    workspace_id: str | None = None
    user_id: str | None = None
    states: list[str] = []
    since: int | None = None
    until: int | None = None


class SessionPage(Struct, frozen=True):
    """Some sessions of a listing; ``next`` is the cursor for more (None: there are no more).

    It may have fewer than were asked for, and still others come after it: a page looks at a
    bounded number of sessions.
    """

    sessions: list[SessionSummary]
    next: str | None


EventKind: TypeAlias = Literal[
    "session_started",
    "run_started",
    "attempt_ended",
    "run_finished",
    "authorized",
    "spent",
    "spawned",
    "ended",
    "cancelled",
]
"""The kinds of events of a session; the last two end it."""


class FeedEvent(Struct, frozen=True):
    """An event in a family, for those who watch it; not durable.

    ``at`` in microseconds since the epoch, ``cost`` in nano-USD; ``count`` is the number of
    sub-agents spawned.
    """

    kind: EventKind
    session_id: str
    family_id: str
    at: int
    text: str = ""
    cost: int = 0
    label: str = ""
    count: int = 0

    @property
    def cost_usd(self) -> Decimal:
        """The cost, in USD."""
        return to_usd(self.cost)


class SessionView(Struct, frozen=True):
    """A session as a client sees it; ``seen_at`` is when, in microseconds since the epoch."""

    summary: SessionSummary
    profile: Profile
    queued: list[str]
    running: str | None
    results: dict[str, Result]
    token_count: int
    title: str | None
    tags: list[str]
    turn_count: int
    tool_call_count: int
    approval_count: int
    seen_at: int

    @property
    def status(self) -> str:
        """idle, initialising, running, completed, failed, cancelled, timed_out or ended."""
        return self.summary.status

    @property
    def duration_s(self) -> float:
        """The session's age, in seconds."""
        return (self.seen_at - self.profile.created_at) / 1_000_000

    def is_near_limit(self, max_tokens: int, threshold: float) -> bool:
        """True if the estimated tokens exceed ``threshold`` (a fraction) of ``max_tokens``."""
        return self.token_count > max_tokens * threshold


class SessionKey(Record, frozen=True):
    """A session's place: its workspace's id, and its family."""

    workspace_id: str
    family_id: str
