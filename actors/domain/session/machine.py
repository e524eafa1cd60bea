"""A session: its runs, its steps, its lease and its children. Messages themselves are kept apart.

1. A run is accepted once (by id), runs after those accepted before it, and gets one result.
2. While a run is under way every step it took is kept, so that it can be resumed: asked for again
   under the same key, a step gives what is recorded and nothing happens twice.
3. Money that an authorised action may cost is reserved until it is settled, once. What a run
   leaves open when it ends is settled in full: nobody can say that it was not spent.
4. A closed session (ended or cancelled) takes no run and no step; closing twice changes nothing.
"""

from __future__ import annotations

from collections import Counter
from copy import copy
from typing import Literal, TypeAlias

from msgspec import Struct, field
from msgspec.msgpack import Encoder
from msgspec.structs import replace

from retinue.actors.domain.errors import (
    Busy,
    CorruptState,
    InvalidValue,
    LimitReached,
    NotFound,
    SessionEnded,
)
from retinue.actors.domain.permissions.decision import Decision
from retinue.actors.domain.session.result import Result
from retinue.actors.domain.session.settings import Isolation, Limits
from retinue.actors.domain.values.money import MAX_NANO
from retinue.actors.domain.values.record import Record

MAX_QUEUED_RUNS = 64
SHARED_ATTEMPTS = 2
"""After so many starts without a new step a shared run gets a process of its own."""

MAX_ATTEMPTS = 8
"""After so many starts without a new step a run has failed."""

MAX_STARTS = 256
"""After so many starts in all a run has failed: one that ends its process after each new step."""

HOST_ENDED = "the process of its host ended"

KEPT_OPERATIONS = 256
"""Of so many messages that came from outside a run it is known that they were added."""

MAX_MESSAGE_BYTES = 256 * 1024 * 1024
"""How much the messages of one session may come to."""

BY_PARENT = "parent"
"""Who has closed a sub-agent whose parent's run is over, or was cancelled."""

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
    """What a session is made with and keeps."""

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

    ``deadline`` is unused, and keeps its place in what is stored.
    """

    run: str
    amount: int
    deadline: int = 0


class ChildSpec(Record, frozen=True):
    """All that it takes to start a sub-agent, again if need be; its one run has its own id."""

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
    """The span of whoever has started it; '' for none."""
    starts: int = 0
    """How often it was started in all; ``attempts`` counts since its last new step."""
    deaths: list[str] = field(default_factory=list)
    """What ended the attempts since its last new step."""


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
    """What all reservations come to."""


class Imported(Record, frozen=True):
    """What an imported document brings along besides the profile."""

    metadata: Metadata
    escapes: list[str]
    token_count: int
    spent: int
    extra: dict[str, bytes]


class Create(Record, frozen=True, tag=True):
    """Make the session; ``imported`` where it comes from a document."""

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
    """The agent's process has ended without a result; ``cause`` is what is known of its death."""

    run: str
    cause: str


class FinishRun(Record, frozen=True, tag=True):
    """Give the run its result; cost, duration and tool calls are filled in here."""

    run: str
    result: Result


class RecordStep(Record, frozen=True, tag=True):
    """Record what a step of a run came to."""

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


class Authorize(Record, frozen=True, tag=True):
    """Record a decision, and reserve what it allows to be spent."""

    run: str
    key: str
    label: str
    decision: Decision
    action: str = ""


class Settle(Record, frozen=True, tag=True):
    """End a reservation: ``actual`` nano-USD were spent (None: all of it; 0: released)."""

    operation: str
    actual: int | None


class Spawn(Record, frozen=True, tag=True):
    """Record sub-agents that a step of a run is to start."""

    run: str
    key: str
    label: str
    children: list[ChildSpec]


class FinishChildren(Record, frozen=True, tag=True):
    """Record the results of sub-agents."""

    results: list[Result]


class Close(Record, frozen=True, tag=True):
    """``by`` whom: a name, or `BY_PARENT`."""

    reason: Literal["ended", "cancelled"]
    by: str = ""


class Describe(Record, frozen=True, tag=True):
    """Set what is given; None leaves a field as it is."""

    title: str | None = None
    tags: list[str] | None = None
    custom: dict[str, str] | None = None


class RememberEscape(Record, frozen=True, tag=True):
    """Remember a path outside of the workspace that was allowed, for good if ``always``."""

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
    | Authorize
    | Settle
    | Spawn
    | FinishChildren
    | Close
    | Describe
    | RememberEscape
)


class Created(Record, frozen=True, tag="created"):
    """The session came to be."""

    profile: Profile
    imported: Imported | None = None


class RunAccepted(Record, frozen=True, tag="accepted"):
    """A run will be done."""

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
    """Messages came to the message list."""

    count: int
    tokens: int
    run: str = ""
    key: str = ""
    bytes: int = 0
    op: str = ""


class MessagesCleared(Record, frozen=True, tag="cleared"):
    """The message list is empty."""

    run: str = ""
    key: str = ""


class Authorized(Record, frozen=True, tag="authorized"):
    """An action was decided, and money reserved for it."""

    run: str
    key: str
    label: str
    decision: Decision
    deadline: int = 0
    """Unused; it keeps its place in what is stored."""
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
    """The session is called something else."""

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


class Charge(Record, frozen=True):
    """What settling did, in nano-USD: ``over`` was spent beyond the reservation."""

    charged: int
    returned: int
    over: int


Reply: TypeAlias = Result | Step | Charge | bool | None


def initial() -> State:
    """A session that is not there yet."""
    return State()


def decide(state: State, command: Command, now: int) -> tuple[list[Event], Reply]:
    """What a command does; raises SessionEnded, Busy, LimitReached, NotFound or InvalidValue."""
    match command:
        case Authorize():
            return _authorize(state, command)
        case Settle(operation, actual):
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
        case Spawn():
            return _spawn(state, command)
        case FinishChildren(results):
            new = _first_results(state, results)
            return ([ChildrenFinished(new)] if new else []), None
        case Create(profile, imported):
            return ([] if state.profile else [Created(profile, imported)]), None
        case Close(reason, by):
            return _close(state, reason, by, now)
        case Describe(title, tags, custom):
            _open(state)
            same = _described(state.metadata, title, tags, custom) == state.metadata
            return ([] if same else [Described(title, tags, custom)]), None
        case RememberEscape(path, always):
            kept = state.escapes if always else state.session_escapes
            return ([] if path in kept else [EscapeRemembered(path, always)]), None


def evolve(state: State, event: Event) -> State:
    """Apply what happened."""
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
            state.metadata = _described(state.metadata, title, tags, custom)
        case EscapeRemembered(path, always):
            (state.escapes if always else state.session_escapes).append(path)
    return state


def isolation_of(state: State, run: Run) -> Isolation:
    """Where a run belongs: one that keeps ending its actor goes to a process of its own."""
    isolation = the_profile(state).isolation
    return "process" if run.attempts > SHARED_ATTEMPTS else isolation


def exhausted(run: Run) -> str | None:
    """Why a run must not be started once more; None if it may."""
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
    """Each cause once, in the order of their first time, and how often it came."""
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
    """The profile; NotFound if the session was never made."""
    if state.profile is None:
        raise NotFound("there is no such session")
    return state.profile


def validate(state: State) -> None:
    """Refuse a stored state that can't be true."""
    amounts = [state.spent, *(one.amount for one in state.reservations.values())]
    if any(not 0 <= amount <= 1 << 62 for amount in amounts):
        raise CorruptState("session: a stored amount is out of range")
    if state.reserved != sum(one.amount for one in state.reservations.values()):
        raise CorruptState("session: what is reserved does not add up")
    if state.token_count < 0 or not 0 <= state.first_message <= state.messages:
        raise CorruptState("session: a stored count is out of range")


def _authorize(state: State, command: Authorize) -> tuple[list[Event], Reply]:
    if _step(state, command.run, command.key):
        return [], None
    _open(state)
    decision = command.decision
    if not 0 <= decision.amount <= MAX_NANO:
        raise InvalidValue("cost_usd: out of range", field="cost_usd")
    return [
        Authorized(command.run, command.key, command.label, decision, action=command.action)
    ], None


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


def _settle(state: State, id: str, actual: int | None) -> tuple[list[Event], Reply]:
    reservation = state.reservations.get(id)
    if reservation is None:
        return [], Charge(0, 0, 0)
    spent = reservation.amount if actual is None else actual
    if not 0 <= spent <= MAX_NANO:
        raise InvalidValue("actual_usd: out of range", field="actual_usd")
    over = max(spent - reservation.amount, 0)
    return [Settled(id, spent)], Charge(spent, max(reservation.amount - spent, 0), over)


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
    """It came further than before, so it is not what ends its process each time."""
    run.attempts = min(run.attempts, 1)
    run.deaths.clear()


def _apply_finished(state: State, event: RunFinished) -> None:
    del state.runs[event.run]
    state.results[event.run] = event.result
    while len(state.results) > the_profile(state).limits.max_results:
        del state.results[next(iter(state.results))]
    for id in [id for id, child in state.children.items() if child.run == event.run]:
        del state.children[id]


def _first_results(state: State, results: list[Result]) -> list[Result]:
    """Those of children that have none yet; of several for one child the first."""
    new: dict[str, Result] = {}
    for result in results:
        child = state.children.get(result.session_id)
        if child and child.result is None:
            new.setdefault(result.session_id, result)
    return list(new.values())


def _spawn(state: State, command: Spawn) -> tuple[list[Event], Reply]:
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


def _apply_created(state: State, profile: Profile, imported: Imported | None) -> None:
    state.profile = profile
    if imported:
        state.metadata = copy(imported.metadata)
        state.escapes = list(imported.escapes)
        state.token_count = imported.token_count
        state.spent = imported.spent
        state.extra = dict(imported.extra)


def _described(
    metadata: Metadata,
    title: str | None,
    tags: list[str] | None,
    custom: dict[str, str] | None,
) -> Metadata:
    return replace(
        metadata,
        title=metadata.title if title is None else title,
        tags=list(metadata.tags if tags is None else tags),
        custom=dict(metadata.custom if custom is None else custom),
    )


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
