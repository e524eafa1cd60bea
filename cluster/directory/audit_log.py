"""Finds and reads the audit strands of a workspace."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple, TypeVar

from retinue.actors.domain.errors import RetinueError
from retinue.actors.durable.audit import Head, Report, verify
from retinue.actors.durable.entity import Machine, read, read_with_head
from retinue.actors.durable.journal import Key
from retinue.actors.durable.machines import ALLOWANCES, APPROVALS, BUDGET, CAPABILITIES, SESSION
from retinue.actors.durable.runtime import Runtime

CLUSTER_SCOPE = "cluster"
"""The scope of what belongs to no workspace."""

_PAGE = 1000

S = TypeVar("S")
C = TypeVar("C")
E = TypeVar("E")
R = TypeVar("R")


class ChainKey(NamedTuple):
    """An entity that has a strand; one that is ``required`` must not be gone as a whole."""

    key: Key
    required: bool


async def strands(wiring: Runtime, scope: str) -> list[ChainKey]:
    """The strands of a workspace, and that of the cluster's capabilities."""
    state = await read(BUDGET, Key(scope, "budget", "budget"), wiring.journal, wiring.keyring)
    accounts = state.accounts if state else {}
    families = state.families if state else {}
    return [
        ChainKey(Key(scope, "budget", "budget"), False),
        ChainKey(Key(scope, "allowances", "allowances"), False),
        ChainKey(Key(scope, "approvals", "approvals"), False),
        ChainKey(Key(CLUSTER_SCOPE, "capabilities", "capabilities"), False),
        *(
            ChainKey(Key(scope, "session", id), id in families or account.spent > 0)
            for id, account in accounts.items()
        ),
    ]


async def report(wiring: Runtime, strand: ChainKey) -> Report:
    """One strand, read and verified; an entity that can't be trusted is a problem, too."""
    key = Key(*strand.key)
    try:
        head = await _HEADS[key.kind](wiring, key)
    except RetinueError as error:
        return Report(str(key), [], error.message)
    if head is None:
        return Report(str(key), [], _gone(key) if strand.required else None)
    rows: list[bytes] = []
    while page := await wiring.journal.audit(key, len(rows), len(rows) + _PAGE):
        rows.extend(page)
    return verify(str(key), rows, head, wiring.keyring, _EVENTS[key.kind])


def _gone(key: Key) -> str:
    return f"{key}: entry 0 and all that followed were removed"


def _head_of(machine: Machine[S, C, E, R]) -> Callable[[Runtime, Key], Awaitable[Head | None]]:
    async def head(wiring: Runtime, key: Key) -> Head | None:
        found = await read_with_head(machine, key, wiring.journal, wiring.keyring)
        return found[1] if found else None

    return head


_HEADS = {
    ALLOWANCES.kind: _head_of(ALLOWANCES),
    APPROVALS.kind: _head_of(APPROVALS),
    BUDGET.kind: _head_of(BUDGET),
    CAPABILITIES.kind: _head_of(CAPABILITIES),
    SESSION.kind: _head_of(SESSION),
}
_EVENTS = {
    machine.kind: machine.event
    for machine in (ALLOWANCES, APPROVALS, BUDGET, CAPABILITIES, SESSION)
}
