"""The state of the capability store, the events that change it, and queries of it.

A token holds only while every token that it was attenuated from does. Times are microseconds since
the epoch. The rules by which events come about are in `capabilities`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, TypeAlias, assert_never

from msgspec import Struct, field

from retinue.actors.domain.errors import NotFound
from retinue.actors.domain.permissions.capabilities.token import Token, wrong_time
from retinue.actors.domain.permissions.resource_pattern import Resource, index_key, index_keys
from retinue.actors.domain.values.record import Record

Reason: TypeAlias = Literal["unknown", "revoked", "early", "expired", "used"]


class State(Struct, array_like=True, dict=True):
    """Tokens by id; the operation that used each single-use one; when each was revoked.

    Tokens that expired up to ``forgotten`` are gone. The index is derived, and never stored.
    """

    tokens: dict[str, Token] = field(default_factory=dict)
    used: dict[str, str] = field(default_factory=dict)
    revoked: dict[str, int] = field(default_factory=dict)
    forgotten: int = 0

    def __post_init__(self) -> None:
        self.index: Index = Index(self.tokens.values())


class Index:
    """The ids of tokens by the literal start of their resource patterns."""

    def __init__(self, tokens: Iterable[Token]) -> None:
        self._by_key: dict[str, dict[str, None]] = {}
        for token in tokens:
            self.add(token)

    def add(self, token: Token) -> None:
        self._by_key.setdefault(index_key(token.resource), {})[token.id] = None

    def remove(self, token: Token) -> None:
        key = index_key(token.resource)
        self._by_key[key].pop(token.id)
        if not self._by_key[key]:
            del self._by_key[key]

    def ids_for(self, wanted: Resource) -> Iterator[str]:
        """The ids of all tokens that may cover ``wanted``."""
        for key in index_keys(wanted):
            yield from self._by_key.get(key, ())


class TokenAdded(Record, frozen=True, tag=True):
    """A token is in the store."""

    token: Token


class TokenUsed(Record, frozen=True, tag=True):
    """Single-use tokens, of one line of descent, have gone to an operation."""

    op: str
    token_ids: list[str]


class TokenRevoked(Record, frozen=True, tag=True):
    """A token was revoked and can't be used any more."""

    token_id: str
    at: int


class SessionCleared(Record, frozen=True, tag=True):
    """The session tokens of a family are revoked."""

    family_id: str
    at: int


class Forgotten(Record, frozen=True, tag=True):
    """Tokens that expired at ``until`` or before, and all records of them, are dropped."""

    until: int


Event: TypeAlias = TokenAdded | TokenUsed | TokenRevoked | SessionCleared | Forgotten


def initial() -> State:
    """A store without tokens."""
    return State()


def evolve(state: State, event: Event) -> State:
    """The state after ``event``: the same object, changed."""
    match event:
        case TokenAdded(token):
            state.tokens[token.id] = token
            state.index.add(token)
        case TokenUsed(op, token_ids):
            state.used.update(dict.fromkeys(token_ids, op))
        case TokenRevoked(token_id, at):
            state.revoked[token_id] = at
        case SessionCleared(family_id, at):
            for token in unrevoked_of(state, family_id):
                state.revoked[token.id] = at
        case Forgotten(until):
            _forget(state, until)
        case _:
            assert_never(event)
    return state


def get(state: State, token_id: str) -> Token:
    """A token, usable or not; raises NotFound."""
    token = state.tokens.get(token_id)
    if token is None:
        raise NotFound(f"no capability token {token_id}", token_id=token_id)
    return token


def refusal(state: State, token_id: str, now: int, op: str | None = None) -> Reason | None:
    """The reason why a token can't be used now (by the operation ``op``), or None if it can."""
    for link in line_of(state, token_id):
        if link is None:
            return "unknown"
        if link.id in state.revoked:
            return "revoked"
        problem = wrong_time(link, now)
        if problem is not None:
            return problem
        if link.single_use and state.used.get(link.id) not in (None, op):
            return "used"
    return None


def unrevoked_of(state: State, family_id: str) -> Iterator[Token]:
    """The session tokens of a family that are not revoked themselves."""
    for token in state.tokens.values():
        if token.family_id == family_id and token.id not in state.revoked:
            yield token


def line_of(state: State, token_id: str) -> Iterator[Token | None]:
    """A token and its ancestors, nearest first; None in place of one that isn't here."""
    link: str | None = token_id
    while link is not None:
        token = state.tokens.get(link)
        yield token
        link = token.parent if token else None


def _forget(state: State, until: int) -> None:
    for token in [token for token in state.tokens.values() if token.expires <= until]:
        del state.tokens[token.id]
        state.index.remove(token)
        state.used.pop(token.id, None)
        state.revoked.pop(token.id, None)
    state.forgotten = until  # only grows: nothing that expired by then can be added again
