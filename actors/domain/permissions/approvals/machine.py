"""The approval requests of one workspace, waiting and deferred, as one entity.

The life of a request:

    pending ──► decided                            somebody answered while the agent waited
       └──────► deferred ──► decided               somebody answered after it stopped waiting
                     └─────► expired               nobody did, for 24 hours

1. The first decision wins, is recorded with its author, and is bound to the request's id and
   argument hash. Deciding one request never answers another.
2. A pending request never expires by itself: past its time it counts as deferred, so an answer
   that comes late still finds it. Only a deferred one expires.
3. ``always`` is a token for the user, for an hour: `tokens_due` says which ones must be there.
4. ``once`` on a deferred request leaves one claim, open for 24 hours, so that the retried action
   of the same family and argument hash passes exactly once. Whoever finds an entry that
   ``needs_claim`` must use ``ClaimOnce``; the decision alone is then no permission.
5. Finished entries are forgotten 24 hours after the last thing that happened to them.

Times are microseconds since the epoch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias, assert_never

from msgspec.structs import force_setattr

from retinue.actors.domain.errors import AlreadyDecided, Busy, InvalidValue, NotFound
from retinue.actors.domain.permissions.actions import argument_hash
from retinue.actors.domain.permissions.approvals.request import (
    ALWAYS_US,
    ApprovalRequest,
    Priority,
    Resolution,
    Scope,
    grantable,
)
from retinue.actors.domain.permissions.approvals.state import (
    Asked,
    Claimed,
    Decided,
    Deferred,
    Entry,
    Event,
    Expired,
    Forgotten,
    State,
    Status,
    after,
    evolve,
    grant_key,
)
from retinue.actors.domain.permissions.patterns import Pattern
from retinue.actors.domain.values.fields import choice
from retinue.actors.domain.values.record import Record

__all__ = [
    "Command",
    "Event",
    "Reply",
    "State",
    "decide",
    "evolve",
    "initial",
]

MAX_OPEN = 10_000
DEFERRED_US = 24 * 60 * 60 * 1_000_000


class Ask(Record, frozen=True, tag=True):
    """Open a request. Reply: its Entry. Busy when 10,000 are open."""

    request: ApprovalRequest


class Decide(Record, frozen=True, tag=True):
    """Answer a request. Reply: the Decision as granted, which may be less than ``scope``.

    NotFound, InvalidValue (wrong argument hash), AlreadyDecided (also when expired). The same
    decider repeating the same scope gets the recorded Decision. ``pattern`` is the allowance to
    make of it, where the scope is CUSTOM.
    """

    request_id: str
    scope: Scope
    decided_by: str
    argument_hash: str
    reason: str = ""
    pattern: Pattern | None = None

    def __post_init__(self) -> None:
        force_setattr(self, "scope", choice(Scope, self.scope, "scope"))


class Defer(Record, frozen=True, tag=True):
    """Stop waiting. Reply: the Entry, which may have been decided just before. NotFound."""

    request_id: str
    reason: str


class Expire(Record, frozen=True, tag=True):
    """Move on every request past its time. Reply: the ids, pending and deferred ones alike."""


class Forget(Record, frozen=True, tag=True):
    """Drop finished entries older than the retention. Reply: their ids."""


class ClaimOnce(Record, frozen=True, tag=True):
    """Use up one claimable grant of the family for these arguments. Reply: Decision or None.

    Repeating an ``op`` that claimed gives the same Decision. None is not recorded: an operation
    that got it may get a Decision later. One the session asked for goes first, then the oldest.
    """

    op: str
    session_id: str
    family_id: str
    argument_hash: str


Command: TypeAlias = Ask | Decide | Defer | Expire | Forget | ClaimOnce
Reply: TypeAlias = Entry | Resolution | tuple[str, ...] | None

_URGENCY = {priority: -rank for rank, priority in enumerate(Priority)}


def initial() -> State:
    """No requests."""
    return State()


def decide(state: State, command: Command, now: int) -> tuple[list[Event], Reply]:
    """The events and the reply of a command. Raises the errors that the command names."""
    match command:
        case Ask():
            return _ask(state, command.request, now)
        case Decide():
            return _decide(state, command, now)
        case Defer():
            return _defer(state, command, now)
        case Expire():
            return _expire(state, now)
        case Forget():
            return _forget(state, now)
        case ClaimOnce():
            return _claim(state, command, now)
        case _:
            assert_never(command)


def open_requests(state: State, now: int) -> list[Entry]:
    """Everything that can still be decided: critical first, then the oldest first."""
    entries = [state.requests[request_id] for request_id in state.open]
    return sorted((entry for entry in entries if not entry.has_expired(now)), key=_order)


def tokens_due(state: State, now: int) -> dict[str, tuple[ApprovalRequest, int]]:
    """The requests approved "always", by id, and when, for which a token must exist at ``now``."""
    return {
        request_id: (entry.request, entry.decision.decided_at)
        for request_id, entry in state.requests.items()
        if entry.decision
        and entry.decision.scope is Scope.ALWAYS
        and entry.request.user_id
        and now < entry.decision.decided_at + ALWAYS_US
    }


def get(state: State, request_id: str) -> Entry:
    """A request and its outcome; raises NotFound."""
    entry = state.requests.get(request_id)
    if entry is None:
        raise NotFound(
            f"there is no approval request {request_id} in this workspace, or it is long finished",
            request_id=request_id,
        )
    return entry


def _ask(state: State, request: ApprovalRequest, now: int) -> tuple[list[Event], Entry]:
    known = state.requests.get(request.id)
    if known is not None:
        if _binding(known.request) != _binding(request):
            raise InvalidValue("id: this request id was used for another action", field="id")
        return [], known
    if request.argument_hash != argument_hash(request.action):
        raise InvalidValue(
            "argument_hash: it is not the hash of the request's action", field="argument_hash"
        )
    return [*_room_for_one(state, now), Asked(request)], Entry(request)


def _binding(request: ApprovalRequest) -> tuple[str, str, str]:
    return request.session_id, request.family_id, request.argument_hash


def _room_for_one(state: State, now: int) -> list[Event]:
    if len(state.open) < MAX_OPEN:
        return []
    freed: list[Event] = [event for event in _lapsed(state, now) if isinstance(event, Expired)]
    if not freed:
        raise Busy(
            f"{MAX_OPEN:,} approval requests are open in this workspace; decide some of them first",
            limit=MAX_OPEN,
        )
    return freed


def _decide(state: State, command: Decide, now: int) -> tuple[list[Event], Resolution]:
    entry = get(state, command.request_id)
    if not command.decided_by:
        raise InvalidValue("decided_by: say who decides", field="decided_by")
    if command.argument_hash != entry.request.argument_hash:
        raise InvalidValue(
            "argument_hash: the decision is for other arguments than the request has",
            field="argument_hash",
        )
    if entry.decision is not None:
        return [], _repeated(entry.decision, command)
    if entry.has_expired(now):
        raise AlreadyDecided(
            f"request {command.request_id} has expired; nothing was granted",
            request_id=command.request_id,
        )
    events: list[Event] = []
    if entry.until <= now:
        events.append(_too_late(entry, now))
    decision = _decision(entry.request, command, now)
    return [*events, Decided(decision)], decision


def _repeated(decision: Resolution, command: Decide) -> Resolution:
    if (decision.decided_by, decision.asked) == (command.decided_by, command.scope):
        return decision
    raise AlreadyDecided(
        f"request {decision.request_id} was already decided by {decision.decided_by}:"
        f" {decision.scope}",
        request_id=decision.request_id,
        decided_by=decision.decided_by,
        scope=str(decision.scope),
    )


def _decision(request: ApprovalRequest, command: Decide, now: int) -> Resolution:
    return Resolution(
        request_id=request.id,
        approved=command.scope is not Scope.DENY,
        scope=grantable(request.action, command.scope),
        asked=command.scope,
        reason=command.reason,
        decided_by=command.decided_by,
        decided_at=now,
        argument_hash=request.argument_hash,
    )


def _defer(state: State, command: Defer, now: int) -> tuple[list[Event], Entry]:
    entry = get(state, command.request_id)
    if entry.status is not Status.PENDING:
        return [], entry
    event = Deferred(command.request_id, command.reason, now + DEFERRED_US)
    return [event], after(entry, event)


def _expire(state: State, now: int) -> tuple[list[Event], tuple[str, ...]]:
    moved = list(_lapsed(state, now))
    return [*moved], tuple(event.request_id for event in moved)


def _lapsed(state: State, now: int) -> Iterator[Deferred | Expired]:
    for request_id, until in state.open.items():
        if until <= now:
            entry = state.requests[request_id]
            waited = entry.status is Status.PENDING
            yield _too_late(entry, now) if waited else Expired(request_id, now)


def _too_late(entry: Entry, now: int) -> Deferred:
    return Deferred(entry.request.id, "nobody answered in time", now + DEFERRED_US)


def _forget(state: State, now: int) -> tuple[list[Event], tuple[str, ...]]:
    old = tuple(request_id for request_id, e in state.requests.items() if e.is_stale(now))
    return ([Forgotten(old)] if old else []), old


def _claim(state: State, command: ClaimOnce, now: int) -> tuple[list[Event], Resolution | None]:
    key = grant_key(command.family_id, command.argument_hash)
    claimed = state.claims.get(command.op)
    if claimed is not None:
        if state.requests[claimed].grant_key != key:
            raise InvalidValue("op: this operation id has claimed for another action", field="op")
        return [], state.requests[claimed].decision
    ids = state.grants.get(key, [])
    valid = [e for e in map(state.requests.__getitem__, ids) if not e.is_stale(now)]
    if not valid:
        return [], None
    own = (entry for entry in valid if entry.request.session_id == command.session_id)
    entry = next(own, valid[0])
    return [Claimed(entry.request.id, command.op, now)], entry.decision


def _order(entry: Entry) -> tuple[int, int, str]:
    request = entry.request
    return _URGENCY[request.priority], request.created, request.id
