"""The cluster's capability store: its tokens, their uses and their revocations.

1. The store checks form, time, revocation and use. Signatures are the shell's to check (`verify`)
   before it sends `Add`, and (`check_signature`) when it reads a state back.
2. A token holds only while every token that it was attenuated from does. So revoking one takes
   its descendants along, and all that come from one single-use token share its one use.
3. A revocation or use stays known until the token has expired beyond the skew, and a token that
   may have been forgotten can't be added again, even if the clock goes back.
4. Ending a session revokes its tokens rather than dropping them: a copy kept by somebody must not
   come back.

Times are microseconds since the epoch.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TypeAlias

from retinue.actors.domain.errors import InvalidValue
from retinue.actors.domain.permissions.capabilities.state import (
    Event,
    Forgotten,
    Reason,
    SessionCleared,
    State,
    TokenAdded,
    TokenRevoked,
    TokenUsed,
    evolve,
    get,
    initial,
    line_of,
    refusal,
    unrevoked_of,
)
from retinue.actors.domain.permissions.capabilities.token import (
    SKEW_US,
    Token,
    check_form,
    check_narrower,
    check_time,
)
from retinue.actors.domain.permissions.resource_pattern import (
    Resource,
    is_covered,
    parse_resource,
)
from retinue.actors.domain.values.checks import check_name
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


class Add(Record, frozen=True, tag=True):
    """Store a token whose signature was verified. Reply: Accepted, also if it is there already.

    InvalidValue for one that is malformed, expired, revoked, wider than its parent, or of an id
    that another has; NotFound if its parent isn't here.
    """

    token: Token


class Use(Record, frozen=True, tag=True):
    """Rely on a token for the operation ``op``. Reply: Used or UseRefused.

    A single-use token goes to the first operation, which gets Used however often it asks.
    """

    op: str
    token_id: str


class Revoke(Record, frozen=True, tag=True):
    """End a token and all that were attenuated from it. Reply: Accepted. NotFound."""

    token_id: str


class ClearSession(Record, frozen=True, tag=True):
    """Revoke the session tokens of a family. Reply: Accepted."""

    family_id: str


class CleanupExpired(Record, frozen=True, tag=True):
    """Forget the tokens that have expired beyond the skew. Reply: Accepted."""


Command: TypeAlias = Add | Use | Revoke | ClearSession | CleanupExpired


class Accepted(Record, frozen=True, tag=True):
    """The state is as the command asked, by this command or before it."""


class Used(Record, frozen=True, tag=True):
    """The operation may rely on the token."""

    token_id: str


class UseRefused(Record, frozen=True, tag=True):
    """The operation may not rely on the token."""

    reason: Reason


Reply: TypeAlias = Accepted | Used | UseRefused


def decide(state: State, command: Command, now: int) -> tuple[list[Event], Reply]:
    """The events that ``command`` makes, and the reply once they are stored."""
    match command:
        case Add(token):
            return _add(state, token, now), Accepted()
        case Use(op, token_id):
            return _use(state, op, token_id, now)
        case Revoke(token_id):
            return _revoke(state, token_id, now), Accepted()
        case ClearSession(family_id):
            return _clear_session(state, family_id, now), Accepted()
        case CleanupExpired():
            return _cleanup(state, now), Accepted()


def usable(state: State, now: int) -> list[Token]:
    """All tokens that can be relied on now: soonest to expire first, then oldest, then by id."""
    tokens = [token for token in state.tokens.values() if refusal(state, token.id, now) is None]
    return sorted(tokens, key=_preference)


def find(
    state: State,
    resource: str,
    permission: str,
    *,
    family_id: str,
    user: str,
    now: int,
    op: str | None = None,
    only: Collection[str] | None = None,
) -> Token | None:
    """The token to `Use` for ``permission`` on ``resource``, or None.

    Of several, the one that expires soonest, then the oldest, then by id. An operation ``op`` that
    is sent again first finds the single-use token that it has used. ``only`` narrows the choice to
    some ids: those a child session was given.
    """
    wanted = parse_resource(resource)
    if wanted is None:
        return None
    holding = (
        token
        for token in _candidates(state, wanted, only)
        if token.user == user
        and permission in token.permissions
        and (token.family_id is None or token.family_id == family_id)
        and is_covered(token.resource, wanted)
        and refusal(state, token.id, now, op) is None
    )

    def rank(token: Token) -> tuple[bool, int, int, str]:
        return op is None or state.used.get(token.id) != op, *_preference(token)

    return min(holding, key=rank, default=None)


def _add(state: State, token: Token, now: int) -> list[Event]:
    check_form(token)
    if token.id in state.revoked:
        raise InvalidValue(f"id: token {token.id} was revoked; mint a new one", field="id")
    if token.id in state.tokens:
        if state.tokens[token.id] == token:
            return []
        raise InvalidValue(f"id: another token has the id {token.id}", field="id")
    check_time(token, now)
    if token.expires <= state.forgotten:
        raise InvalidValue(f"expires: token {token.id} has expired", field="expires")
    if token.parent is not None:
        _check_parent(state, token, token.parent)
    return [TokenAdded(token)]


def _check_parent(state: State, token: Token, parent_id: str) -> None:
    check_narrower(get(state, parent_id), token)
    for link in line_of(state, parent_id):
        if link is not None and link.id in state.revoked:
            raise InvalidValue(f"parent: token {link.id} was revoked", field="parent")


def _use(state: State, op: str, token_id: str, now: int) -> tuple[list[Event], Reply]:
    check_name(op, "op")
    if state.used.get(token_id) == op:
        return [], Used(token_id)
    reason = refusal(state, token_id, now, op)
    if reason is not None:
        return [], UseRefused(reason)
    consumed = [
        link.id
        for link in line_of(state, token_id)
        if link is not None and link.single_use and link.id not in state.used
    ]
    return [TokenUsed(op, consumed)] if consumed else [], Used(token_id)


def _revoke(state: State, token_id: str, now: int) -> list[Event]:
    get(state, token_id)
    return [] if token_id in state.revoked else [TokenRevoked(token_id, now)]


def _clear_session(state: State, family_id: str, now: int) -> list[Event]:
    open_tokens = any(True for _ in unrevoked_of(state, family_id))
    return [SessionCleared(family_id, now)] if open_tokens else []


def _cleanup(state: State, now: int) -> list[Event]:
    until = now - SKEW_US
    expired = any(token.expires <= until for token in state.tokens.values())
    return [Forgotten(until)] if expired else []


def _candidates(state: State, wanted: Resource, only: Collection[str] | None) -> Iterator[Token]:
    for token_id in state.index.ids_for(wanted):
        if only is None or token_id in only:
            yield state.tokens[token_id]


def _preference(token: Token) -> tuple[int, int, str]:
    return token.expires, token.issued, token.id
