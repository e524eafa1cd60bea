"""One workspace's allowances: the state, its events, and their effects."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias, assert_never

from msgspec import Struct
from msgspec.structs import replace

from retinue.actors.domain.permissions.actions import Action
from retinue.actors.domain.permissions.allowances.allowance import Allowance
from retinue.actors.domain.permissions.patterns import index_key, index_keys
from retinue.actors.domain.values.record import Record


class State(Struct, array_like=True, dict=True):
    """All allowances, by id.

    ``uses`` has the operations that consumed a limited one, in order; ``revoked`` has the times of
    revocation; ``spent`` has the number of uses taken of those cleared with their session;
    ``swept`` is when expired ones were last removed: no earlier time counts any more.
    """

    allowances: dict[str, Allowance] = {}
    uses: dict[str, list[str]] = {}
    revoked: dict[str, int] = {}
    spent: dict[str, int] = {}
    swept: int = 0

    def __post_init__(self) -> None:
        self.index: Index = Index(self)


class Index:
    """An index derived from a state to search it, and not stored with it."""

    def __init__(self, state: State) -> None:
        self._by_key: dict[str, dict[str, None]] = {}
        self.by_operation: dict[str, str] = {op: id for id, ops in state.uses.items() for op in ops}
        for allowance in state.allowances.values():
            self.add(allowance)

    def add(self, allowance: Allowance) -> None:
        self._by_key.setdefault(index_key(allowance.pattern), {})[allowance.id] = None

    def remove(self, allowance: Allowance, operations: list[str]) -> None:
        key = index_key(allowance.pattern)
        self._by_key[key].pop(allowance.id)
        if not self._by_key[key]:
            del self._by_key[key]
        for operation in operations:
            del self.by_operation[operation]

    def candidates(self, action: Action, workspace_root: str | None) -> Iterator[str]:
        for key in index_keys(action, workspace_root):
            yield from self._by_key.get(key, ())


class Granted(Record, frozen=True, tag=True):
    """An allowance was added: granted ``by`` somebody, or ('') imported."""

    allowance: Allowance
    by: str = ""


class UseConsumed(Record, frozen=True, tag=True):
    """Operation ``op`` took one use of a limited allowance."""

    id: str
    op: str


class Revoked(Record, frozen=True, tag=True):
    """An allowance was taken away permanently."""

    id: str
    at: int
    by: str = ""


class SessionCleared(Record, frozen=True, tag=True):
    """The session-only allowances of a family were removed."""

    family_id: str


class ExpiredRemoved(Record, frozen=True, tag=True):
    """Expired allowances were removed."""

    ids: tuple[str, ...]
    at: int


Event: TypeAlias = Granted | UseConsumed | Revoked | SessionCleared | ExpiredRemoved


def initial() -> State:
    """No allowances."""
    return State()


def evolve(state: State, event: Event) -> State:
    """Applies an event in place; the only thing that changes a state."""
    match event:
        case Granted(allowance, _):
            state.allowances[allowance.id] = allowance
            state.index.add(allowance)
        case UseConsumed(id, op):
            _count_use(state, id, op)
        case Revoked(id, at, _):
            _remove(state, id)
            state.revoked[id] = at
        case SessionCleared(family_id):
            _clear(state, family_id)
        case ExpiredRemoved(ids, at):
            for id in ids:
                _remove(state, id)
            state.swept = at
        case _:
            assert_never(event)
    return state


def of_session(allowance: Allowance, family_id: str) -> bool:
    """Returns whether it is a session-only allowance of this family."""
    return allowance.session_only and allowance.family_id == family_id


def _count_use(state: State, id: str, op: str) -> None:
    allowance = state.allowances[id]
    state.allowances[id] = replace(allowance, uses_left=(allowance.uses_left or 0) - 1)
    state.uses.setdefault(id, []).append(op)
    state.index.by_operation[op] = id


def _clear(state: State, family_id: str) -> None:
    for allowance in [one for one in state.allowances.values() if of_session(one, family_id)]:
        _remove(state, allowance.id)
        taken = (allowance.max_uses or 0) - (allowance.uses_left or 0)
        if taken:
            state.spent[allowance.id] = max(taken, state.spent.get(allowance.id, 0))


def _remove(state: State, id: str) -> None:
    state.index.remove(state.allowances.pop(id), state.uses.pop(id, []))
