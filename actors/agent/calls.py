"""The calls of agent code to the runtime, as data.

They are the same whether the agent runs in the actor's process or in one of its own, in which
case they travel over a socket.
"""

from __future__ import annotations

from typing import TypeAlias

from msgspec import Struct

from retinue.actors.domain.permissions.actions import Action
from retinue.actors.domain.permissions.decision import Decision
from retinue.actors.domain.session.messages import Message
from retinue.actors.domain.session.result import Result
from retinue.actors.domain.session.settings import Isolation


class Shipped(Struct, frozen=True):
    """A pickled agent: ``digest`` is the SHA-256 of ``blob``; empty where it is known already."""

    digest: str
    name: str
    blob: bytes = b""


class TaskSpec(Struct, frozen=True):
    """A task of a spawn: amounts in nano-USD, times in microseconds."""

    agent: Shipped
    prompt: str
    timeout: int
    label: str
    allotment: int | None = None
    capabilities: list[str] | None = None
    model: str | None = None
    isolation: Isolation | None = None


class Authorize(Struct, frozen=True, tag=True):
    """Answered with a Decision. ``timeout`` is the longest wait for a person, in microseconds."""

    action: Action
    cost: int
    context: str
    timeout: int


class Settle(Struct, frozen=True, tag=True):
    """``actual`` in nano-USD, None for the reservation; answered with a Charge."""

    operation: str
    actual: int | None


class AddMessage(Struct, frozen=True, tag=True):
    """Adds a message to the session."""

    message: Message


class ClearMessages(Struct, frozen=True, tag=True):
    """Removes all messages."""


class LastMessages(Struct, frozen=True, tag=True):
    """Answered with the last ``count`` messages, or all (None)."""

    count: int | None


class BeginStep(Struct, frozen=True, tag=True):
    """Answered with a StepState."""

    name: str
    idempotent: bool


class EndStep(Struct, frozen=True, tag=True):
    """Records the result of a step under the key that `StepState` gave."""

    name: str
    key: str
    payload: bytes


class Spawn(Struct, frozen=True, tag=True):
    """Answered with a list of Results in the order of the tasks."""

    tasks: list[TaskSpec]
    max_concurrent: int | None
    fail_fast: bool
    queue: bool
    near: bool = True

    @property
    def label(self) -> str:
        """A line for people: the number of tasks and the agent's name."""
        return f"{len(self.tasks)} x {self.tasks[0].agent.name}"


class Describe(Struct, frozen=True, tag=True):
    """Changes the session's title, tags or metadata; None leaves a field as it is."""

    title: str | None
    tags: list[str] | None
    custom: dict[str, str] | None


Call: TypeAlias = (
    Authorize
    | Settle
    | AddMessage
    | ClearMessages
    | LastMessages
    | BeginStep
    | EndStep
    | Spawn
    | Describe
)


class StepState(Struct, frozen=True, tag=True):
    """The key to record a step under; ``payload`` is its recorded result, if there is one."""

    key: str
    payload: bytes | None


class Charge(Struct, frozen=True, tag=True):
    """The amount charged by settling, in nano-USD, and how much of it exceeds the reservation."""

    charged: int
    over: int


class Decided(Struct, frozen=True, tag=True):
    """The decision on an `Authorize`."""

    decision: Decision


class Results(Struct, frozen=True, tag=True):
    """The results of a `Spawn`, in the order of its tasks."""

    results: list[Result]


class Messages(Struct, frozen=True, tag=True):
    """The messages that `LastMessages` asked for."""

    messages: list[Message]


Answer: TypeAlias = StepState | Charge | Decided | Results | Messages | None


class TurnInfo(Struct, frozen=True):
    """The facts that a turn knows about itself."""

    session_id: str
    run_id: str
    family_id: str
    depth: int
    workspace: str | None
    system_prompt: str
    model: str | None
    user_id: str
    parent_id: str | None
