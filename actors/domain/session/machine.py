"""A session: its runs, its steps, its lease and its children. Messages themselves are kept apart.

1. A run is accepted once (by id), runs after those accepted before it, and gets one result.
2. While a run is under way every step it took is kept, so that it can be resumed: asked for again
   under the same key, a step gives its recorded result and nothing happens twice.
3. Money that an authorised action may cost is reserved until it is settled, once. A reservation
   left open at the end of a run is settled in full: nobody can say that it was not spent.
4. A closed session (ended or cancelled) takes no run and no step; closing twice changes nothing.
"""

from __future__ import annotations

from typing import Literal

from retinue.actors.domain.errors import (
    Busy,
    CorruptState,
    InvalidValue,
    LimitReached,
    NotFound,
    SessionEnded,
)
from retinue.actors.domain.session.commands import (
    AcceptRun,
    AddMessages,
    ClearMessages,
    Close,
    Command,
    Create,
    DescribeSession,
    EndAttempt,
    FinishChildren,
    FinishRun,
    RecordDecision,
    RecordStep,
    RememberEscape,
    Reply,
    Settlement,
    SettleReservation,
    SpawnChildren,
    StartRun,
)
from retinue.actors.domain.session.events import (
    AttemptEnded,
    Authorized,
    ChildrenFinished,
    ChildrenSpawned,
    Created,
    Described,
    EscapeRemembered,
    Event,
    MessagesAdded,
    MessagesCleared,
    RunAccepted,
    RunFinished,
    RunStarted,
    Settled,
    StepRecorded,
    WasClosed,
    evolve,
)
from retinue.actors.domain.session.result import Result
from retinue.actors.domain.session.state import Run, State, Step, described, the_profile
from retinue.actors.domain.values.money import MAX_NANO

__all__ = [
    "Command",
    "Event",
    "Reply",
    "State",
    "decide",
    "evolve",
    "initial",
    "validate",
]

MAX_QUEUED_RUNS = 64

MAX_MESSAGE_BYTES = 256 * 1024 * 1024
"""The most bytes that the messages of one session may have in all."""


def initial() -> State:
    """A session that does not exist yet."""
    return State()


def decide(state: State, command: Command, now: int) -> tuple[list[Event], Reply]:
    """The events and reply of a command.

    Raises SessionEnded, Busy, LimitReached, NotFound or InvalidValue.
    """
    match command:
        case RecordDecision():
            return _authorize(state, command)
        case SettleReservation(operation, actual):
            return _settle(state, operation, actual)
        case RecordStep(run, key, step):
            known = _step(state, run, key)
            if known is not None and (known.payload is not None or step.payload is None):
                return [], known
            return [StepRecorded(run, key, step)], step
        case AddMessages(count, tokens, run, key, size, op):
            if op in state.operations or (key and _step(state, run, key)):
                return [], False
            _open(state)
            _require_room(state, size)
            return [MessagesAdded(count, tokens, run, key, size, op)], True
        case ClearMessages(run, key):
            if key and _step(state, run, key):
                return [], None
            _open(state)
            return [MessagesCleared(run, key)], None
        case AcceptRun():
            return _accept(state, command, now)
        case StartRun(run, epoch):
            return _start(state, run, epoch, now), None
        case EndAttempt(run, cause):
            _open(state)
            return [AttemptEnded(_run(state, run).id, cause)], None
        case FinishRun(run, result):
            return _finish(state, run, result, now)
        case SpawnChildren():
            return _spawn(state, command)
        case FinishChildren(results):
            new = _first_results(state, results)
            return ([ChildrenFinished(new)] if new else []), None
        case Create(profile, imported):
            return ([] if state.profile else [Created(profile, imported)]), None
        case Close(reason, by):
            return _close(state, reason, by, now)
        case DescribeSession(title, tags, custom):
            _open(state)
            same = described(state.metadata, title, tags, custom) == state.metadata
            return ([] if same else [Described(title, tags, custom)]), None
        case RememberEscape(path, always):
            kept = state.escapes if always else state.session_escapes
            return ([] if path in kept else [EscapeRemembered(path, always)]), None


def validate(state: State) -> None:
    """Raises CorruptState for a stored state that can't be true."""
    amounts = [state.spent, *(one.amount for one in state.reservations.values())]
    if any(not 0 <= amount <= 1 << 62 for amount in amounts):
        raise CorruptState("session: a stored amount is out of range")
    if state.reserved != sum(one.amount for one in state.reservations.values()):
        raise CorruptState("session: what is reserved does not add up")
    if state.token_count < 0 or not 0 <= state.first_message <= state.messages:
        raise CorruptState("session: a stored count is out of range")


def _authorize(state: State, command: RecordDecision) -> tuple[list[Event], Reply]:
    if _step(state, command.run, command.key):
        return [], None
    _open(state)
    decision = command.decision
    if not 0 <= decision.amount <= MAX_NANO:
        raise InvalidValue("cost_usd: out of range", field="cost_usd")
    return [
        Authorized(command.run, command.key, command.label, decision, action=command.action)
    ], None


def _settle(state: State, id: str, actual: int | None) -> tuple[list[Event], Reply]:
    reservation = state.reservations.get(id)
    if reservation is None:
        return [], Settlement(0, 0, 0)
    spent = reservation.amount if actual is None else actual
    if not 0 <= spent <= MAX_NANO:
        raise InvalidValue("actual_usd: out of range", field="actual_usd")
    over = max(spent - reservation.amount, 0)
    return [Settled(id, spent)], Settlement(spent, max(reservation.amount - spent, 0), over)


def _accept(state: State, command: AcceptRun, now: int) -> tuple[list[Event], Reply]:
    run = command.run
    if run in state.results or run in state.runs:
        return [], state.results.get(run)
    _open(state)
    if len(state.runs) >= MAX_QUEUED_RUNS + 1:
        raise Busy(f"{MAX_QUEUED_RUNS} runs are queued on this session: wait for some to finish")
    return [RunAccepted(run, command.prompt, now, command.timeout, command.trace)], None


def _start(state: State, run_id: str, epoch: int, now: int) -> list[Event]:
    _open(state)
    run = _run(state, run_id)
    if run.started is not None and run.epoch == epoch:
        return []
    first = next(iter(state.runs))
    if first != run_id:
        raise Busy(f"run {run_id} comes after run {first}, which is not finished", run=first)
    return [RunStarted(run_id, now, epoch)]


def _finish(state: State, run_id: str, result: Result, now: int) -> tuple[list[Event], Reply]:
    if run_id in state.results:
        return [], state.results[run_id]
    run = _run(state, run_id)
    left_open = {id: one.amount for id, one in state.reservations.items() if one.run == run_id}
    of_children = sum(
        child.result.cost
        for child in state.children.values()
        if child.run == run_id and child.result
    )
    whole = Result(
        session_id=the_profile(state).id,
        status=result.status,
        output=result.output,
        error=result.error,
        cost=run.cost + sum(left_open.values()) + of_children,
        duration=now - run.accepted,
        tool_calls=run.tool_calls,
        run_id=run_id,
        structured=result.structured,
    )
    settled: list[Event] = [Settled(id, amount) for id, amount in left_open.items()]
    return [*settled, RunFinished(run_id, whole)], whole


def _first_results(state: State, results: list[Result]) -> list[Result]:
    """The results of children that have none yet; of several for one child, the first."""
    new: dict[str, Result] = {}
    for result in results:
        child = state.children.get(result.session_id)
        if child and child.result is None:
            new.setdefault(result.session_id, result)
    return list(new.values())


def _spawn(state: State, command: SpawnChildren) -> tuple[list[Event], Reply]:
    if _step(state, command.run, command.key):
        return [], None
    _open(state)
    profile = the_profile(state)
    limits = profile.limits
    if profile.depth + 1 > limits.max_depth:
        raise LimitReached(
            f"sub-agents at depth {profile.depth + 1}: max_depth is {limits.max_depth}",
            limit="max_depth",
            value=limits.max_depth,
        )
    if state.spawned + len(command.children) > limits.max_children:
        raise LimitReached(
            f"{state.spawned + len(command.children)} children of one session: "
            f"max_children is {limits.max_children}",
            limit="max_children",
            value=limits.max_children,
        )
    return [ChildrenSpawned(command.run, command.key, command.label, command.children)], None


def _close(
    state: State, reason: Literal["ended", "cancelled"], by: str, now: int
) -> tuple[list[Event], Reply]:
    if state.closed:
        return [], None
    events: list[Event] = []
    for run in state.runs:
        cancelled = Result(the_profile(state).id, "cancelled", error=f"the session was {reason}")
        events += _finish(state, run, cancelled, now)[0]
    return [*events, WasClosed(reason, by)], None


def _open(state: State) -> None:
    if state.closed:
        raise SessionEnded(f"the session was {state.closed}: start a new one")
    the_profile(state)


def _run(state: State, id: str) -> Run:
    run = state.runs.get(id)
    if run is None:
        raise NotFound(f"run {id}: no such run is queued or under way", run=id)
    return run


def _step(state: State, run: str, key: str) -> Step | None:
    return _run(state, run).steps.get(key)


def _require_room(state: State, size: int) -> None:
    if state.message_bytes + size > MAX_MESSAGE_BYTES:
        raise LimitReached(
            f"the messages of this session would come to over {MAX_MESSAGE_BYTES} bytes",
            limit="message_bytes",
            value=MAX_MESSAGE_BYTES,
        )
