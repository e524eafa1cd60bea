"""One workspace's approval requests: the state, its events, and their effects."""

from __future__ import annotations

from enum import StrEnum
from typing import TypeAlias, assert_never

from msgspec import Struct, field
from msgspec.structs import replace

from retinue.actors.domain.permissions.approvals.request import ApprovalRequest, Resolution, Scope
from retinue.actors.domain.values.record import Record

RETENTION_US = 24 * 60 * 60 * 1_000_000


class Status(StrEnum):
    """The stage of a request's life."""

    PENDING = "pending"
    DEFERRED = "deferred"
    DECIDED = "decided"
    EXPIRED = "expired"


class Entry(Record, frozen=True):
    """A request and its outcome. ``finished`` is the time of the last thing that happened to it."""

    request: ApprovalRequest
    status: Status = Status.PENDING
    reason: str = ""
    deferred_expires: int | None = None
    decision: Resolution | None = None
    claimable: bool = False
    claimed_by: str | None = None
    finished: int | None = None

    @property
    def grant_key(self) -> str:
        """The key of its list in `State.grants` while it can be claimed."""
        return grant_key(self.request.family_id, self.request.argument_hash)

    @property
    def needs_claim(self) -> bool:
        """True if the decision alone permits nothing: it is good for one claim, taken or not."""
        return self.claimable or self.claimed_by is not None

    @property
    def until(self) -> int:
        """The end of its present stage, while it is open."""
        return self.request.expires if self.deferred_expires is None else self.deferred_expires

    def has_expired(self, now: int) -> bool:
        """Returns whether it is too late to decide the request, recorded as expired or not."""
        if self.status is Status.EXPIRED:
            return True
        return self.status is Status.DEFERRED and self.until <= now

    def is_stale(self, now: int) -> bool:
        """True if it finished long enough ago to be forgotten; no grant is left of it then."""
        return self.finished is not None and self.finished + RETENTION_US <= now


class State(Struct, array_like=True):
    """The entries by request id, with indexes that save a walk through all of them."""

    requests: dict[str, Entry] = field(default_factory=dict)
    open: dict[str, int] = field(default_factory=dict)  # request id -> its `until`
    grants: dict[str, list[str]] = field(default_factory=dict)  # family and hash -> claimable ids
    claims: dict[str, str] = field(default_factory=dict)  # operation id -> request id it claimed


class Asked(Record, frozen=True, tag=True):
    """A request was opened."""

    request: ApprovalRequest


class Deferred(Record, frozen=True, tag=True):
    """A request left the waiting agent for the queue, where it stays until ``expires``."""

    request_id: str
    reason: str
    expires: int


class Decided(Record, frozen=True, tag=True):
    """A request was answered."""

    decision: Resolution


class Expired(Record, frozen=True, tag=True):
    """A deferred request ran out of time."""

    request_id: str
    at: int


class Claimed(Record, frozen=True, tag=True):
    """The one use of a deferred ``once`` was taken."""

    request_id: str
    op: str
    at: int


class Forgotten(Record, frozen=True, tag=True):
    """Finished entries were dropped."""

    request_ids: tuple[str, ...]


Event: TypeAlias = Asked | Deferred | Decided | Expired | Claimed | Forgotten


def evolve(state: State, event: Event) -> State:
    """Apply one event, in place."""
    match event:
        case Asked(request):
            _put(state, Entry(request=request))
        case Decided(decision):
            _put(state, after(state.requests[decision.request_id], event))
        case Deferred(request_id) | Expired(request_id) | Claimed(request_id):
            _put(state, after(state.requests[request_id], event))
        case Forgotten(request_ids):
            for request_id in request_ids:
                _drop(state, request_id)
        case _:
            assert_never(event)
    return state


def grant_key(family_id: str, argument_hash: str) -> str:
    """The key of a family's claimable grants for the same arguments."""
    return f"{family_id} {argument_hash}"


def after(entry: Entry, event: Deferred | Decided | Expired | Claimed) -> Entry:
    """The entry as the event leaves it."""
    match event:
        case Deferred(_, reason, expires):
            return replace(entry, status=Status.DEFERRED, reason=reason, deferred_expires=expires)
        case Decided(decision):
            once = decision.approved and decision.scope is Scope.ONCE
            return replace(
                entry,
                status=Status.DECIDED,
                decision=decision,
                claimable=once and entry.status is Status.DEFERRED,
                finished=decision.decided_at,
            )
        case Expired(_, at):
            return replace(entry, status=Status.EXPIRED, finished=at)
        case Claimed(_, op, at):
            return replace(entry, claimable=False, claimed_by=op, finished=at)
        case _:
            assert_never(event)


def _put(state: State, entry: Entry) -> None:
    request_id = entry.request.id
    state.requests[request_id] = entry
    if entry.finished is None:
        state.open[request_id] = entry.until
    else:
        state.open.pop(request_id, None)
    if entry.claimable:
        state.grants.setdefault(entry.grant_key, []).append(request_id)
    if entry.claimed_by is not None:
        _withdraw(state, entry)
        state.claims[entry.claimed_by] = request_id


def _drop(state: State, request_id: str) -> None:
    entry = state.requests.pop(request_id)
    if entry.claimable:
        _withdraw(state, entry)
    if entry.claimed_by is not None:
        del state.claims[entry.claimed_by]


def _withdraw(state: State, entry: Entry) -> None:
    ids = state.grants[entry.grant_key]
    ids.remove(entry.request.id)
    if not ids:
        del state.grants[entry.grant_key]
