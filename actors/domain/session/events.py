"""The events of a session, as they are stored, and their effects."""

from __future__ import annotations

from copy import copy
from typing import Literal, TypeAlias, assert_never

from msgspec.msgpack import Encoder

from retinue.actors.domain.permissions.decision import Decision
from retinue.actors.domain.session.result import Result
from retinue.actors.domain.session.state import (
    Child,
    ChildSpec,
    Imported,
    Profile,
    Reservation,
    Run,
    State,
    Step,
    described,
    operation,
    the_profile,
)
from retinue.actors.domain.values.record import Record

HOST_ENDED = "the process of its host ended"

KEPT_OPERATIONS = 256
"""The number of latest messages from outside a run whose operations are remembered."""


class Created(Record, frozen=True, tag="created"):
    """The session was created."""

    profile: Profile
    imported: Imported | None = None


class RunAccepted(Record, frozen=True, tag="accepted"):
    """A run was accepted."""

    run: str
    prompt: str
    at: int
    timeout: int | None
    trace: str = ""


class RunStarted(Record, frozen=True, tag="started"):
    """A run began, or began again."""

    run: str
    at: int
    epoch: int = 0


class AttemptEnded(Record, frozen=True, tag="attempt"):
    """An agent's process ended without a result."""

    run: str
    cause: str


class RunFinished(Record, frozen=True, tag="finished"):
    """A run is over."""

    run: str
    result: Result


class StepRecorded(Record, frozen=True, tag="step"):
    """A step of a run has a result."""

    run: str
    key: str
    step: Step


class MessagesAdded(Record, frozen=True, tag="messages"):
    """Messages were added to the message list."""

    count: int
    tokens: int
    run: str = ""
    key: str = ""
    bytes: int = 0
    op: str = ""


class MessagesCleared(Record, frozen=True, tag="cleared"):
    """All messages were removed."""

    run: str = ""
    key: str = ""


class Authorized(Record, frozen=True, tag="authorized"):
    """An action was decided, and money reserved for it."""

    run: str
    key: str
    label: str
    decision: Decision
    deadline: int = 0
    """Unused; it keeps its place in the stored form."""
    action: str = ""


class Settled(Record, frozen=True, tag="settled"):
    """A reservation is over: ``actual`` nano-USD were spent."""

    operation: str
    actual: int


class ChildrenSpawned(Record, frozen=True, tag="spawned"):
    """Sub-agents are to be started."""

    run: str
    key: str
    label: str
    children: list[ChildSpec]


class ChildrenFinished(Record, frozen=True, tag="children"):
    """Sub-agents have their results."""

    results: list[Result]


class WasClosed(Record, frozen=True, tag="closed"):
    """The session takes no more runs."""

    reason: Literal["ended", "cancelled"]
    by: str = ""


class Described(Record, frozen=True, tag="described"):
    """The session's title, tags or metadata changed."""

    title: str | None
    tags: list[str] | None
    custom: dict[str, str] | None


class EscapeRemembered(Record, frozen=True, tag="escape"):
    """A path outside of the workspace is allowed from now on."""

    path: str
    always: bool


Event: TypeAlias = (
    Created
    | RunAccepted
    | RunStarted
    | AttemptEnded
    | RunFinished
    | StepRecorded
    | MessagesAdded
    | MessagesCleared
    | Authorized
    | Settled
    | ChildrenSpawned
    | ChildrenFinished
    | WasClosed
    | Described
    | EscapeRemembered
)


def evolve(state: State, event: Event) -> State:
    """Applies an event, in place."""
    match event:
        case Authorized():
            _apply_authorized(state, event)
        case Settled(operation, actual):
            reservation = state.reservations.pop(operation)
            state.reserved -= reservation.amount
            state.spent += actual
            if run := state.runs.get(reservation.run):
                run.cost += actual
        case StepRecorded(run_id, key, step):
            _take_step(state.runs[run_id], key, step)
        case MessagesAdded(count, tokens, run_id, key, size, op):
            state.messages += count
            state.message_bytes += size
            state.token_count += tokens
            _mark(state, run_id, key, "message")
            _remember(state, op)
        case MessagesCleared(run_id, key):
            state.first_message = state.messages
            state.token_count = 0
            _mark(state, run_id, key, "clear")
        case RunAccepted(run_id, prompt, at, timeout, trace):
            state.runs[run_id] = Run(run_id, prompt, at, timeout, trace=trace)
        case RunStarted():
            _apply_started(state, event)
        case AttemptEnded(run_id, cause):
            _begin_attempt(state.runs[run_id], cause)
        case RunFinished():
            _apply_finished(state, event)
        case ChildrenSpawned(run_id, key, label, children):
            _take_step(state.runs[run_id], key, Step("spawn", label, _ids(children)))
            state.spawned += len(children)
            for spec in children:
                state.children[spec.id] = Child(spec, run_id)
        case ChildrenFinished(results):
            for result in results:
                child = state.children[result.session_id]
                child.result = result
                state.children_cost += result.cost
                if run := state.runs.get(child.run):
                    _got_on(run)
        case Created(profile, imported):
            _apply_created(state, profile, imported)
        case WasClosed(reason, _):
            state.closed = reason
        case Described(title, tags, custom):
            state.metadata = described(state.metadata, title, tags, custom)
        case EscapeRemembered(path, always):
            (state.escapes if always else state.session_escapes).append(path)
        case _:
            assert_never(event)
    return state


def _apply_authorized(state: State, event: Authorized) -> None:
    run, decision = state.runs[event.run], event.decision
    _take_step(run, event.key, Step("authorize", event.label, _encode(decision)))
    if not decision.allowed:
        return
    run.tool_calls += 1
    state.metadata.tool_call_count += 1
    if decision.proof.startswith("approval:"):
        state.metadata.approval_count += 1
    if decision.amount:
        state.reserved += decision.amount
        id = operation(event.run, event.key)
        state.reservations[id] = Reservation(event.run, decision.amount)


def _apply_started(state: State, event: RunStarted) -> None:
    run = state.runs[event.run]
    run.epoch = event.epoch
    if run.started is None:
        run.started = event.at
        run.attempts = run.starts = 1
        state.metadata.turn_count += 1
    else:
        _begin_attempt(run, HOST_ENDED)


def _begin_attempt(run: Run, death: str) -> None:
    run.attempts += 1
    run.starts += 1
    run.deaths.append(death)


def _take_step(run: Run, key: str, step: Step) -> None:
    run.steps[key] = step
    _got_on(run)


def _got_on(run: Run) -> None:
    """Resets the attempts: the run got further, so it does not end its process every time."""
    run.attempts = min(run.attempts, 1)
    run.deaths.clear()


def _apply_finished(state: State, event: RunFinished) -> None:
    del state.runs[event.run]
    state.results[event.run] = event.result
    while len(state.results) > the_profile(state).limits.max_results:
        del state.results[next(iter(state.results))]
    for id in [id for id, child in state.children.items() if child.run == event.run]:
        del state.children[id]


def _apply_created(state: State, profile: Profile, imported: Imported | None) -> None:
    state.profile = profile
    if imported:
        state.metadata = copy(imported.metadata)
        state.escapes = list(imported.escapes)
        state.token_count = imported.token_count
        state.spent = imported.spent
        state.extra = dict(imported.extra)


def _mark(state: State, run: str, key: str, kind: str) -> None:
    if key:
        _take_step(state.runs[run], key, Step(kind, "", b""))


def _remember(state: State, op: str) -> None:
    if op:
        state.operations.append(op)
        del state.operations[:-KEPT_OPERATIONS]


def _ids(children: list[ChildSpec]) -> bytes:
    return ",".join(spec.id for spec in children).encode()


def _encode(decision: Decision) -> bytes:
    return _DECISION.encode(decision)


_DECISION = Encoder()
