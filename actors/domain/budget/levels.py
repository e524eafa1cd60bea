"""The levels at which money is capped, all listed in `LEVELS`.

An account counts at every level of its path by a name: the session's that has the allotment, the
family's (its root session), and the workspace's. No two levels have a name in common.

`PER_ACTION` is none of them, though a refusal may name it: nothing is ever held there, and each
session holds its actions to it by itself, without a message.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from retinue.actors.domain.budget.commands import Exceeded
from retinue.actors.domain.budget.state import WORKSPACE, Account, Cap, State
from retinue.actors.domain.errors import NotFound
from retinue.actors.domain.values.money import usd_text

PER_ACTION = "per_action"

SetCap: TypeAlias = Callable[[State, str, Cap, str], None]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of level: its name for people, and its place in an account and in the state."""

    title: str
    above: Callable[[Account], Iterable[str]]
    """The names of this kind under which an account counts, innermost first."""
    names: Callable[[State], Iterable[str]]
    cap: Callable[[State, str], Cap]
    set_cap: SetCap | None = None
    """Sets the cap of a name for somebody; None if it is given once, with no warnings."""


def _set_workspace(state: State, name: str, cap: Cap, by: str) -> None:
    state.workspace, state.named, state.named_by = cap, True, by


def _set_family(state: State, name: str, cap: Cap, by: str) -> None:
    state.families[name].cap = cap


LEVELS = (
    Kind(
        "allotment",
        above=lambda account: reversed(account.path),
        names=lambda state: state.allotments,
        cap=lambda state, name: Cap(state.allotments[name], 100),
    ),
    Kind(
        "session",
        above=lambda account: (account.family,),
        names=lambda state: state.families,
        cap=lambda state, name: state.families[name].cap,
        set_cap=_set_family,
    ),
    Kind(
        "workspace",
        above=lambda account: (WORKSPACE,),
        names=lambda state: (WORKSPACE,),
        cap=lambda state, name: state.workspace,
        set_cap=_set_workspace,
    ),
)
"""The kinds of level, innermost first: the order in which they are asked for room."""


def kind_of(state: State, name: str) -> Kind | None:
    """The kind of level that has this name."""
    return next((kind for kind in LEVELS if name in kind.names(state)), None)


def above(account: Account) -> list[tuple[Kind, str]]:
    """All levels at which an account counts, innermost first."""
    return [(kind, name) for kind in LEVELS for name in kind.above(account)]


def caps(state: State) -> Iterator[tuple[str, Cap]]:
    """Every level of the workspace, and its cap."""
    for kind in LEVELS:
        for name in kind.names(state):
            yield name, kind.cap(state, name)


def cap_to_set(state: State, name: str) -> Cap:
    """The cap of a level that people may set; raises NotFound if there is no such level."""
    return _settable(state, name)[0].cap(state, name)


def set_cap(state: State, name: str, cap: Cap, by: str) -> None:
    """Set the cap of a level; raises as `cap_to_set`."""
    _settable(state, name)[1](state, name, cap, by)


def _settable(state: State, name: str) -> tuple[Kind, SetCap]:
    kind = kind_of(state, name)
    if kind is None or kind.set_cap is None:
        raise NotFound(f"no session budget of {name} in this workspace")
    return kind, kind.set_cap


def over_per_action(cost: int, most: int) -> Exceeded | None:
    """The refusal of an action that costs more than one of its session may, in nano-USD."""
    return Exceeded(PER_ACTION, cost, most) if cost > most else None


def describe(refusal: Exceeded) -> str:
    """One line for a person."""
    asked, left = usd_text(refusal.requested), usd_text(refusal.available)
    if refusal.level == PER_ACTION:
        return f"{PER_ACTION}: {asked} USD asked, an action may cost {left} USD"
    return f"{refusal.level} budget: {asked} USD asked, {left} USD left"
