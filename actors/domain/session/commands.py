"""The commands of a session, and its replies."""

from __future__ import annotations

from typing import Literal, TypeAlias

from retinue.actors.domain.permissions.decision import Decision
from retinue.actors.domain.session.result import Result
from retinue.actors.domain.session.state import ChildSpec, Imported, Profile, Step
from retinue.actors.domain.values.record import Record

BY_PARENT = "parent"
"""The closer of a sub-agent whose parent's run is over, or was cancelled."""


class Create(Record, frozen=True, tag=True):
    """Make the session; ``imported`` if it comes from a document."""

    profile: Profile
    imported: Imported | None = None


class AcceptRun(Record, frozen=True, tag=True):
    """Queue a run; ``timeout`` in microseconds."""

    run: str
    prompt: str
    timeout: int | None = None
    trace: str = ""


class StartRun(Record, frozen=True, tag=True):
    """Start a run, or start it again in a later activation's ``epoch``."""

    run: str
    epoch: int = 0


class EndAttempt(Record, frozen=True, tag=True):
    """The agent's process has ended without a result; ``cause`` is the known cause of its death."""

    run: str
    cause: str


class FinishRun(Record, frozen=True, tag=True):
    """Give the run its result; cost, duration and tool calls are filled in here."""

    run: str
    result: Result


class RecordStep(Record, frozen=True, tag=True):
    """Record the result of a step of a run."""

    run: str
    key: str
    step: Step


class AddMessages(Record, frozen=True, tag=True):
    """Count messages that go to the message list; ``key`` makes it a step of ``run``.

    ``op`` is the operation of a client: sent again, it adds nothing.
    """

    count: int
    tokens: int
    run: str = ""
    key: str = ""
    bytes: int = 0
    op: str = ""


class ClearMessages(Record, frozen=True, tag=True):
    """Remove all messages; ``key`` makes it a step of ``run``."""

    run: str = ""
    key: str = ""


class RecordDecision(Record, frozen=True, tag=True):
    """Record a decision, and reserve the money that it allows to be spent."""

    run: str
    key: str
    label: str
    decision: Decision
    action: str = ""


class SettleReservation(Record, frozen=True, tag=True):
    """End a reservation: ``actual`` nano-USD were spent (None: all of it; 0: released)."""

    operation: str
    actual: int | None


class SpawnChildren(Record, frozen=True, tag=True):
    """Record sub-agents that a step of a run is to start."""

    run: str
    key: str
    label: str
    children: list[ChildSpec]


class FinishChildren(Record, frozen=True, tag=True):
    """Record the results of sub-agents."""

    results: list[Result]


class Close(Record, frozen=True, tag=True):
    """Close the session; ``by`` is a name, or `BY_PARENT`."""

    reason: Literal["ended", "cancelled"]
    by: str = ""


class DescribeSession(Record, frozen=True, tag=True):
    """Set title, tags or metadata; None leaves a field as it is."""

    title: str | None = None
    tags: list[str] | None = None
    custom: dict[str, str] | None = None


class RememberEscape(Record, frozen=True, tag=True):
    """Remember an allowed path outside of the workspace, permanently if ``always``."""

    path: str
    always: bool


Command: TypeAlias = (
    Create
    | AcceptRun
    | StartRun
    | EndAttempt
    | FinishRun
    | RecordStep
    | AddMessages
    | ClearMessages
    | RecordDecision
    | SettleReservation
    | SpawnChildren
    | FinishChildren
    | Close
    | DescribeSession
    | RememberEscape
)


class Settlement(Record, frozen=True):
    """The effect of settling, in nano-USD: ``over`` was spent beyond the reservation."""

    charged: int
    returned: int
    over: int


Reply: TypeAlias = Result | Step | Settlement | bool | None
