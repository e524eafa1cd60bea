"""The state of a session, except its messages, and queries of it."""

from __future__ import annotations

from collections import Counter
from typing import Literal, TypeAlias

from msgspec import Struct, field
from msgspec.structs import replace

from retinue.actors.domain.errors import NotFound
from retinue.actors.domain.session.result import Result
from retinue.actors.domain.session.settings import Isolation, Limits
from retinue.actors.domain.values.record import Record

SHARED_ATTEMPTS = 2
"""The number of starts without a new step after which a shared run gets its own process."""

MAX_ATTEMPTS = 8
"""The number of starts without a new step after which a run has failed."""

MAX_STARTS = 256
"""The starts in all after which a run has failed, one that ends its process after each new step."""

Closed: TypeAlias = Literal["", "ended", "cancelled"]


class Agent(Record, frozen=True):
    """A shipped agent: ``digest`` finds its pickle, ``name`` is for people."""

    digest: str
    name: str


class Budget(Record, frozen=True):
    """The session budget in nano-USD, as `BudgetConfig` gave it."""

    session_max: int
    per_action_max: int
    warn_at_percent: int


class Profile(Record, frozen=True):
    """The lasting properties that a session is made with."""

    id: str
    user_id: str
    workspace_id: str
    family_id: str
    created_at: int
    agent: Agent | None
    isolation: Isolation
    budget: Budget
    limits: Limits
    parent_id: str | None = None
    depth: int = 0
    system_prompt: str = ""
    workspace_path: str | None = None
    model: str | None = None
    label: str = ""
    capabilities: list[str] | None = None


class Metadata(Struct, array_like=True):
    """Title and tags are the user's; the counts are the runtime's."""

    title: str | None = None
    tags: list[str] = field(default_factory=list)
    turn_count: int = 0
    tool_call_count: int = 0
    approval_count: int = 0
    custom: dict[str, str] = field(default_factory=dict)


class Step(Record, frozen=True):
    """A step that was taken: ``payload`` is its encoded result, None while it is unknown."""

    kind: str
    label: str
    payload: bytes | None


class Reservation(Record, frozen=True):
    """Money set aside for an action, in nano-USD, until it is settled or its run ends.

    ``deadline`` is unused, and keeps its place in the stored form.
    """

    run: str
    amount: int
    deadline: int = 0


class ChildSpec(Record, frozen=True):
    """All the data needed to start a sub-agent, again if need be; its one run has its own id."""

    id: str
    run: str
    agent: Agent
    prompt: str
    timeout: int
    isolation: Isolation
    label: str
    system_prompt: str = ""
    model: str | None = None
    allotment: int | None = None
    capabilities: list[str] | None = None
    trace: str = ""


class Child(Struct, array_like=True):
    """A sub-agent of a run that is under way."""

    spec: ChildSpec
    run: str
    result: Result | None = None


class Run(Struct, array_like=True):
    """A run that is queued or under way; times in microseconds, ``timeout`` too."""

    id: str
    prompt: str
    accepted: int
    timeout: int | None = None
    started: int | None = None
    cost: int = 0
    tool_calls: int = 0
    epoch: int = 0
    attempts: int = 0
    steps: dict[str, Step] = field(default_factory=dict)
    trace: str = ""
    """The span of the run's starter; '' for none."""
    starts: int = 0
    """The number of starts in all; ``attempts`` counts since the last new step."""
    deaths: list[str] = field(default_factory=list)
    """The causes that ended the attempts since the last new step."""


class State(Struct, array_like=True):
    """Everything about a session but its messages."""

    profile: Profile | None = None
    metadata: Metadata = field(default_factory=Metadata)
    escapes: list[str] = field(default_factory=list)
    session_escapes: list[str] = field(default_factory=list)
    closed: Closed = ""
    token_count: int = 0
    messages: int = 0
    first_message: int = 0
    message_bytes: int = 0
    spent: int = 0
    reservations: dict[str, Reservation] = field(default_factory=dict)
    runs: dict[str, Run] = field(default_factory=dict)
    results: dict[str, Result] = field(default_factory=dict)
    children: dict[str, Child] = field(default_factory=dict)
    spawned: int = 0
    children_cost: int = 0
    extra: dict[str, bytes] = field(default_factory=dict)
    operations: list[str] = field(default_factory=list)
    reserved: int = 0
    """The sum of all reservations, in nano-USD."""


class Imported(Record, frozen=True):
    """The content of an imported document besides the profile."""

    metadata: Metadata
    escapes: list[str]
    token_count: int
    spent: int
    extra: dict[str, bytes]


def isolation_of(state: State, run: Run) -> Isolation:
    """The isolation that a run needs: one that keeps ending its actor gets a process of its own."""
    isolation = the_profile(state).isolation
    return "process" if run.attempts > SHARED_ATTEMPTS else isolation


def exhausted(run: Run) -> str | None:
    """The reason not to start a run again; None if it may be started."""
    if run.attempts > MAX_ATTEMPTS:
        return (
            f"its process ended {run.attempts - 1} times without getting on: "
            f"{'; '.join(_counted(run.deaths))}"
        )
    if run.starts > MAX_STARTS:
        last = f", at last: {run.deaths[-1]}" if run.deaths else ""
        return f"its process ended {run.starts - 1} times{last}"
    return None


def _counted(deaths: list[str]) -> list[str]:
    """Each cause once, in order of first occurrence, with its count."""
    counts = Counter(deaths)
    return [f"{cause} ({n} times)" if n > 1 else cause for cause, n in counts.items()]


def operation(run: str, key: str) -> str:
    """The id under which an authorised action is reserved and settled."""
    return f"{run}/{key}"


def committed_money(state: State) -> int:
    """Spent and reserved, in nano-USD: the loan that the session needs."""
    return state.spent + state.reserved


def children_of(state: State, run: str, key: str) -> list[Child]:
    """The sub-agents that a spawn step has started, in order."""
    step = state.runs[run].steps[key]
    return [state.children[id] for id in (step.payload or b"").decode().split(",") if id]


def the_profile(state: State) -> Profile:
    """The profile; raises NotFound if the session was never made."""
    if state.profile is None:
        raise NotFound("there is no such session")
    return state.profile


def described(
    metadata: Metadata,
    title: str | None,
    tags: list[str] | None,
    custom: dict[str, str] | None,
) -> Metadata:
    """The metadata with the given fields set; None leaves a field as it is."""
    return replace(
        metadata,
        title=metadata.title if title is None else title,
        tags=list(metadata.tags if tags is None else tags),
        custom=dict(metadata.custom if custom is None else custom),
    )
