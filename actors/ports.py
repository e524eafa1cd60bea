"""What actors ask of one another. Calls go down the tree or to stores; stores call nobody."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Literal, Protocol, TypeAlias

from msgspec import Struct

from actors.domain.actions import Action
from actors.domain.allowances import Allowance
from actors.domain.approvals import ApprovalRequest, Decision, Entry, Scope
from actors.domain.boundary import Boundary
from actors.domain.budget import (
    Admit,
    Admitted,
    Exceeded,
    Granted,
    Hold,
    Level,
    OpenFamily,
    OpenWorkspace,
    Refused,
    SetCap,
    SetHold,
    Standing,
    Want,
)
from actors.domain.capability_token import Token
from actors.domain.money import to_usd
from actors.domain.patterns import Pattern
from actors.domain.policy import Policy
from actors.domain.record import Record
from actors.domain.result import Result
from actors.domain.session import ChildSpec, Profile


class WorkspaceSettings(Record, frozen=True):
    """A workspace as it is registered. ``path`` is absolute and resolved; None for a session
    without one, which has a scope of its own."""

    scope: str
    path: str | None
    policy: Policy
    boundary: Boundary


class SessionSummary(Record, frozen=True):
    """A line about a session: what listings and trees are made of. Money in nano-USD."""

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
    scope: str = ""


class SessionQuery(Struct, frozen=True):
    """Which root sessions a listing is of; what is not given does not matter.

    ``states`` are the statuses that will do (none: all). Created from ``since`` on and before
    ``until``, in microseconds since the epoch.
    """

    scope: str | None = None
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


class FeedEvent(Struct, frozen=True):
    """Something that happened in a family, for those who watch; not durable.

    ``at`` in microseconds since the epoch, ``cost`` in nano-USD; ``count`` is how many sub-agents
    were spawned.
    """

    kind: str
    session_id: str
    family_id: str
    at: int
    text: str = ""
    cost: int = 0
    label: str = ""
    count: int = 0

    @property
    def cost_usd(self) -> Decimal:
        """What it cost, in USD."""
        return to_usd(self.cost)


class Asked(Struct, frozen=True):
    """``watched`` says whether anybody is there who could answer now."""

    entry: Entry
    watched: bool


class BudgetPort(Protocol):
    """``budget/<workspace>``."""

    async def open_family(self, command: OpenFamily) -> None: ...
    async def admit(self, command: Admit) -> Admitted | Refused: ...
    async def lease(self, wants: list[Want]) -> list[Granted | Exceeded]: ...
    async def await_recall(self, host: str, seen: int, timeout_s: float) -> int: ...
    async def return_slack(self, host: str, call: int, wants: list[Want]) -> None: ...
    async def set_cap(self, command: SetCap) -> None: ...
    async def open_workspace(self, command: OpenWorkspace) -> Standing: ...
    async def set_hold(self, command: SetHold) -> Hold | None: ...
    async def held(self) -> Hold | None: ...
    async def levels(self, names: list[str]) -> list[Level]: ...
    async def children(self, family_id: str) -> int: ...


class PermissionsPort(Protocol):
    """``allowances/<workspace>``: allowances, and the approvals that make them."""

    async def consume(
        self, op: str, action: Action, family_id: str, root: str | None
    ) -> Allowance | None: ...
    async def grant(self, allowance: Allowance, by: str = "") -> Allowance: ...
    async def revoke(self, allowance_id: str, by: str = "") -> None: ...
    async def await_recall(self, host: str, seen: int, timeout_s: float) -> int: ...
    async def leases_dropped(self, host: str, call: int) -> None: ...
    async def allowances(self) -> list[Allowance]: ...
    async def import_allowances(self, allowances: list[Allowance]) -> int: ...
    async def clear_session(self, family_id: str) -> None: ...
    async def ask(self, request: ApprovalRequest) -> Asked: ...
    async def await_decision(self, request_id: str, timeout_s: float) -> Entry: ...
    async def claim(
        self, op: str, session_id: str, family_id: str, argument_hash: str
    ) -> Decision | None: ...
    async def decide(
        self,
        request_id: str,
        scope: Scope,
        decided_by: str,
        argument_hash: str,
        reason: str,
        pattern: Pattern | None,
    ) -> Decision: ...
    async def open_requests(self) -> list[Entry]: ...
    async def unwatch(self, family_id: str | None) -> None: ...
    async def watch(
        self, seen: int, family_id: str | None, timeout_s: float
    ) -> tuple[int, list[Entry]]: ...


class CapabilitiesPort(Protocol):
    """``capabilities``: the cluster's capability tokens."""

    async def add(self, token: Token) -> None: ...
    async def find(
        self, op: str, action: Action, family_id: str, user_id: str, only: list[str] | None
    ) -> Token | None: ...
    async def use(self, op: str, token_id: str) -> bool: ...
    async def issue(self, request: ApprovalRequest, user_id: str) -> Token: ...
    async def revoke(self, token_id: str) -> None: ...
    async def tokens(self) -> list[Token]: ...


class Stores(Protocol):
    """The shared stores of a session's scope, by handle."""

    @property
    def budget(self) -> BudgetPort: ...
    @property
    def permissions(self) -> PermissionsPort: ...
    @property
    def capabilities(self) -> CapabilitiesPort: ...


class StoreProvider(Protocol):
    """Gives the stores of a scope, and starts them where they are not running."""

    async def stores(self, scope: str) -> Stores: ...


class Batch(Struct, frozen=True):
    """Sub-agents to run for ``parent``; ``again`` if they may have been started before."""

    parent: Profile
    children: list[ChildSpec]
    again: bool


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
        """How long the session has been there, in seconds."""
        return (self.seen_at - self.profile.created_at) / 1_000_000

    def is_near_limit(self, max_tokens: int, threshold: float) -> bool:
        """Whether the estimated tokens are over ``threshold`` (a fraction) of ``max_tokens``."""
        return self.token_count > max_tokens * threshold


class HostPort(Protocol):
    """A SessionActor, as other hosts and clients call it."""

    async def start_children(self, batch: Batch) -> None: ...
    async def collect(
        self, parent_id: str, epoch: int, seen: list[str], timeout_s: float
    ) -> list[Result]: ...
    async def cancel_children(self, batch: Batch) -> None: ...
    async def abandon(self, session_ids: list[str]) -> None: ...


Slot: TypeAlias = str
"""The name of the host on which one sub-agent may run."""


class DirectoryPort(Protocol):
    """The named actor ``directory``."""

    async def acquire(
        self,
        spawner: str,
        family_id: str,
        done: list[str],
        want: list[str],
        limit: int,
        isolation: Literal["process", "shared"],
        near: str,
        timeout_s: float,
    ) -> dict[str, Slot]: ...
    async def release(self, spawner: str) -> None: ...
    async def locate(self, session_id: str) -> tuple[str, str]: ...
    async def hosts(self) -> list[str]: ...
    async def news(self, host: str, families: list[str], gone: list[str]) -> list[str]: ...
    async def publish(self, events: list[FeedEvent]) -> None: ...


class HostProvider(Protocol):
    """Finds hosts by name."""

    def host(self, name: str) -> HostPort: ...

    @property
    def directory(self) -> DirectoryPort: ...


class Place(Record, frozen=True):
    """Where a session belongs: its workspace's scope, and its family."""

    scope: str
    family_id: str


class Registry(Protocol):
    """What is found by name and not by activation: agents, workspaces, where sessions belong."""

    async def put_agent(self, digest: str, blob: bytes) -> None: ...
    async def agent(self, digest: str) -> bytes: ...
    async def put_workspace(self, settings: WorkspaceSettings) -> None: ...
    async def workspace(self, scope: str) -> WorkspaceSettings: ...
    async def workspaces(self) -> list[WorkspaceSettings]: ...
    async def locate(self, session_id: str) -> Place: ...
    async def places(self, session_ids: Sequence[str]) -> dict[str, Place]: ...
    async def register(self, place: Place, session_ids: Sequence[str]) -> None: ...
    async def register_root(self, profile: Profile) -> None: ...
    async def mark_running(self, session_id: str) -> None: ...
    async def unmark_running(self, session_id: str) -> None: ...
    async def running(self) -> list[str]: ...
    async def family(self, scope: str, family_id: str) -> list[SessionSummary]: ...
    async def page(self, query: SessionQuery, after: str | None, count: int) -> SessionPage: ...
    async def find(self, fragment: str) -> list[str]: ...
