"""Finds and reads the audit chains of a workspace."""

from __future__ import annotations

from typing import NamedTuple

from retinue.actors.domain.errors import RetinueError
from retinue.actors.durable.audit import Report, verify
from retinue.actors.durable.entity import read, read_with_head
from retinue.actors.durable.journal import Key
from retinue.actors.durable.machines import BUDGET
from retinue.actors.durable.runtime import Runtime
from retinue.actors.stores.table import MACHINES, STORES

_PAGE = 1000


class ChainKey(NamedTuple):
    """An entity that has a chain; one that is ``required`` must not be gone as a whole."""

    key: Key
    required: bool


async def chains(runtime: Runtime, workspace_id: str) -> list[ChainKey]:
    """The chains of a workspace's stores and sessions, and those of the shared stores."""
    state = await read(
        BUDGET, Key(workspace_id, "budget", "budget"), runtime.journal, runtime.keyring
    )
    accounts = state.accounts if state else {}
    families = state.families if state else {}
    return [
        *(ChainKey(key, False) for spec in STORES for key in spec.keys(workspace_id)),
        *(
            ChainKey(Key(workspace_id, "session", id), id in families or account.spent > 0)
            for id, account in accounts.items()
        ),
    ]


async def report(runtime: Runtime, chain: ChainKey) -> Report:
    """One chain, read and verified; an entity that can't be trusted is a problem, too."""
    key = Key(*chain.key)
    machine = MACHINES[key.kind]
    try:
        found = await read_with_head(machine, key, runtime.journal, runtime.keyring)
    except RetinueError as error:
        return Report(str(key), [], error.message)
    if found is None:
        return Report(str(key), [], _gone(key) if chain.required else None)
    rows: list[bytes] = []
    while page := await runtime.journal.audit(key, len(rows), len(rows) + _PAGE):
        rows.extend(page)
    return verify(str(key), rows, found[1], runtime.keyring, machine.event)


def _gone(key: Key) -> str:
    return f"{key}: entry 0 and all that followed were removed"
