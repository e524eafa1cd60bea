"""Finds and reads the audit chains of a workspace."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple, TypeVar

from retinue.actors.domain.errors import RetinueError
from retinue.actors.durable.audit import Head, Report, verify
from retinue.actors.durable.codec import Machine
from retinue.actors.durable.entity import read, read_with_head
from retinue.actors.durable.journal import Key
from retinue.actors.durable.machines import ALLOWANCES, APPROVALS, BUDGET, CAPABILITIES, SESSION
from retinue.actors.durable.runtime import Runtime

THE_CLUSTER = "cluster"
"""The workspace of what belongs to no workspace."""

_PAGE = 1000

S = TypeVar("S")
C = TypeVar("C")
E = TypeVar("E")
R = TypeVar("R")


class ChainKey(NamedTuple):
    """An entity that has a chain; one that is ``required`` must not be gone as a whole."""

    key: Key
    required: bool


async def chains(runtime: Runtime, workspace_id: str) -> list[ChainKey]:
    """The chains of a workspace, and that of the cluster's capabilities."""
    state = await read(
        BUDGET, Key(workspace_id, "budget", "budget"), runtime.journal, runtime.keyring
    )
    accounts = state.accounts if state else {}
    families = state.families if state else {}
    return [
        ChainKey(Key(workspace_id, "budget", "budget"), False),
        ChainKey(Key(workspace_id, "allowances", "allowances"), False),
        ChainKey(Key(workspace_id, "approvals", "approvals"), False),
        ChainKey(Key(THE_CLUSTER, "capabilities", "capabilities"), False),
        *(
            ChainKey(Key(workspace_id, "session", id), id in families or account.spent > 0)
            for id, account in accounts.items()
        ),
    ]


async def report(runtime: Runtime, chain: ChainKey) -> Report:
    """One chain, read and verified; an entity that can't be trusted is a problem, too."""
    key = Key(*chain.key)
    try:
        head = await _HEADS[key.kind](runtime, key)
    except RetinueError as error:
        return Report(str(key), [], error.message)
    if head is None:
        return Report(str(key), [], _gone(key) if chain.required else None)
    rows: list[bytes] = []
    while page := await runtime.journal.audit(key, len(rows), len(rows) + _PAGE):
        rows.extend(page)
    return verify(str(key), rows, head, runtime.keyring, _EVENTS[key.kind])


def _gone(key: Key) -> str:
    return f"{key}: entry 0 and all that followed were removed"


def _head_of(machine: Machine[S, C, E, R]) -> Callable[[Runtime, Key], Awaitable[Head | None]]:
    async def head(runtime: Runtime, key: Key) -> Head | None:
        found = await read_with_head(machine, key, runtime.journal, runtime.keyring)
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
