"""The allowances of one workspace, as one entity: the standing permissions that people gave.

1. An allowance is *valid* until it expires and while it has uses left.
2. Finding and consuming is one step. Of several that match, the one is taken that expires soonest,
   then has fewest uses left, then is oldest, then has the lowest id: the same on every run.
3. Uses never exceed ``max_uses``. One operation consumes one use, however often it is sent.
4. One with a workspace root matches in that very workspace only, a session-only one only in its
   family.
5. A revoked id never comes back, neither by `Grant` nor by `Import`; an id cleared with its session
   may, with no more uses than it had left.

Only limited uses are recorded: consuming an unlimited allowance makes no event. The sender of
`Import` has checked the signatures. Times are microseconds since the epoch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

from msgspec.structs import replace

from retinue.actors.domain.errors import InvalidValue, NotFound
from retinue.actors.domain.permissions.actions import Action
from retinue.actors.domain.permissions.allowances.allowance import Allowance, signing_bytes, valid
from retinue.actors.domain.permissions.allowances.state import (
    Event,
    ExpiredRemoved,
    Granted,
    Revoked,
    SessionCleared,
    State,
    UseConsumed,
    evolve,
    initial,
    of_session,
)
from retinue.actors.domain.permissions.patterns import matches
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

_NEVER = 2**63


class Grant(Record, frozen=True, tag=True):
    """Add an allowance that is valid now. Replies `Stored`; InvalidValue if its id was revoked."""

    allowance: Allowance
    by: str = ""


class Consume(Record, frozen=True, tag=True):
    """Find an allowance for an action and take one use of it, as operation ``op``.

    Replies `Consumed`, or None if no allowance matches. InvalidValue if ``op`` consumed a use for
    something else before.
    """

    op: str
    action: Action
    family_id: str
    workspace_root: str | None


class Revoke(Record, frozen=True, tag=True):
    """Take an allowance away permanently. Replies `RevokedAt`; NotFound for an unknown id."""

    id: str
    by: str = ""


class ClearSession(Record, frozen=True, tag=True):
    """Remove the session-only allowances of a family that ended. Replies `Done`."""

    family_id: str


class CleanupExpired(Record, frozen=True, tag=True):
    """Forget expired allowances. Replies `Done`."""


class Import(Record, frozen=True, tag=True):
    """Add those of ``allowances`` that are valid now and were never revoked here.

    Replies `Stored` with those that are here now. One that is here already keeps its count.
    """

    allowances: tuple[Allowance, ...]


Command: TypeAlias = Grant | Consume | Revoke | ClearSession | CleanupExpired | Import


class Stored(Record, frozen=True, tag=True):
    """The allowances with these ids are here."""

    ids: tuple[str, ...]


class Consumed(Record, frozen=True, tag=True):
    """The allowance that covers the action, as it was after this use."""

    allowance: Allowance


class RevokedAt(Record, frozen=True, tag=True):
    """The allowance is revoked, since ``at``."""

    id: str
    at: int


class Done(Record, frozen=True, tag=True):
    """The command's result holds now, even if there was nothing to do."""


Reply: TypeAlias = Stored | Consumed | RevokedAt | Done | None


def decide(state: State, command: Command, now: int) -> tuple[list[Event], Reply]:
    """The events and the reply of a command. Raises the errors that the command names."""
    now = max(now, state.swept)  # a clock set back must not bring the expired to life
    match command:
        case Grant(allowance, by):
            return _grant(state, allowance, by, now)
        case Consume():
            return _consume(state, command, now)
        case Revoke(id, by):
            return _revoke(state, id, by, now)
        case ClearSession(family_id):
            held = any(of_session(one, family_id) for one in state.allowances.values())
            return [SessionCleared(family_id)] if held else [], Done()
        case CleanupExpired():
            expired = (one.id for one in state.allowances.values() if _has_expired(one, now))
            ids = tuple(expired)
            return [ExpiredRemoved(ids, now)] if ids else [], Done()
        case Import(allowances):
            return _import(state, allowances, now)


def count(state: State, now: int) -> int:
    """The number of valid allowances."""
    return sum(1 for _ in _valid(state, now))


def _grant(state: State, allowance: Allowance, by: str, now: int) -> tuple[list[Event], Reply]:
    reply = Stored((allowance.id,))
    if allowance.id in state.revoked:
        raise InvalidValue("id: this allowance was revoked; grant one with a new id", field="id")
    held = state.allowances.get(allowance.id)
    if held is not None:
        _check_same(held, allowance, "id")
        return [], reply
    returned = _as_returned(state, allowance)
    if not valid(returned, now):
        field = "uses_left" if returned.uses_left == 0 else "expires"
        raise InvalidValue(f"{field}: this allowance is not valid any more", field=field)
    return [Granted(returned, by)], reply


def _import(state: State, allowances: tuple[Allowance, ...], now: int) -> tuple[list[Event], Reply]:
    events: list[Event] = []
    here: dict[str, Allowance] = {}
    for index, allowance in enumerate(allowances):
        returned = _as_returned(state, allowance)
        if allowance.id in state.revoked or not valid(returned, now):
            continue
        held = here.get(allowance.id) or state.allowances.get(allowance.id)
        if held is None:
            events.append(Granted(returned))
        else:
            _check_same(held, allowance, f"allowances[{index}].id")
        here[allowance.id] = held or returned
    return events, Stored(tuple(here))


def _check_same(held: Allowance, allowance: Allowance, field: str) -> None:
    if signing_bytes(held) != signing_bytes(allowance):
        raise InvalidValue(f"{field}: {allowance.id} names another allowance already", field=field)


def _as_returned(state: State, allowance: Allowance) -> Allowance:
    """The allowance with no more uses than were left when it was cleared here, if it was."""
    if allowance.uses_left is None or allowance.max_uses is None:
        return allowance
    left = max(0, allowance.max_uses - state.spent.get(allowance.id, 0))
    return replace(allowance, uses_left=min(left, allowance.uses_left))


def _consume(state: State, command: Consume, now: int) -> tuple[list[Event], Reply]:
    before = state.index.by_operation.get(command.op)
    if before is not None:
        return [], _consumed_before(state, state.allowances[before], command)
    found = _best(state, command, now)
    if found is None:
        return [], None
    if found.uses_left is None:
        return [], Consumed(found)
    return [UseConsumed(found.id, command.op)], Consumed(
        replace(found, uses_left=found.uses_left - 1)
    )


def _consumed_before(state: State, allowance: Allowance, command: Consume) -> Consumed:
    if not _covers(allowance, command):
        raise InvalidValue(f"op: {command.op} was used for something else", field="op")
    operations = state.uses[allowance.id]
    later = len(operations) - 1 - operations.index(command.op)
    return Consumed(replace(allowance, uses_left=(allowance.uses_left or 0) + later))


def _best(state: State, command: Consume, now: int) -> Allowance | None:
    candidates = state.index.candidates(command.action, command.workspace_root)
    allowances = (state.allowances[id] for id in candidates)
    fitting = (one for one in allowances if valid(one, now) and _covers(one, command))
    return min(fitting, key=_preference, default=None)


def _preference(allowance: Allowance) -> tuple[int, int, int, str]:
    expires = _NEVER if allowance.expires is None else allowance.expires
    uses_left = _NEVER if allowance.uses_left is None else allowance.uses_left
    return expires, uses_left, allowance.created, allowance.id


def _covers(allowance: Allowance, command: Consume) -> bool:
    if allowance.session_only and allowance.family_id != command.family_id:
        return False
    if allowance.workspace_root not in (None, command.workspace_root):
        return False
    return matches(allowance.pattern, command.action, command.workspace_root)


def _revoke(state: State, id: str, by: str, now: int) -> tuple[list[Event], Reply]:
    at = state.revoked.get(id)
    if at is not None:
        return [], RevokedAt(id, at)
    if id not in state.allowances:
        raise NotFound(f"allowance {id}: there is none with this id here", id=id)
    return [Revoked(id, now, by)], RevokedAt(id, now)


def _has_expired(allowance: Allowance, now: int) -> bool:
    return allowance.expires is not None and allowance.expires <= now


def _valid(state: State, now: int) -> Iterator[Allowance]:
    return (one for one in state.allowances.values() if valid(one, now))
