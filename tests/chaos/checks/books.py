"""What Redis has in the end, read without the actors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from retinue.actors.domain.budget import machine as budget
from retinue.actors.domain.permissions.allowances import machine as allowances
from retinue.actors.domain.permissions.approvals import machine as approvals
from retinue.actors.domain.permissions.capabilities import machine as capabilities
from retinue.actors.domain.session import machine as session
from retinue.actors.domain.session.messages import Message
from retinue.actors.durable.audit import Report
from retinue.actors.durable.codec import Codec
from retinue.actors.durable.entity import read
from retinue.actors.durable.journal import Key
from retinue.actors.durable.machines import ALLOWANCES, APPROVALS, BUDGET, CAPABILITIES, SESSION
from retinue.actors.durable.runtime import Runtime
from retinue.actors.stores.table import THE_CLUSTER
from retinue.actors.views import SessionSummary
from retinue.cluster.directory.audit_log import chains, report

_MESSAGE = msgspec.msgpack.Decoder(Message)
_ALL = 1 << 30


@dataclass
class Books:
    """Sessions by id; the others by workspace. ``reports`` has every audit chain, by its name."""

    sessions: dict[str, session.State] = field(default_factory=dict)
    texts: dict[str, list[str]] = field(default_factory=dict)
    summaries: dict[str, SessionSummary] = field(default_factory=dict)
    budgets: dict[str, budget.State] = field(default_factory=dict)
    allowances: dict[str, allowances.State] = field(default_factory=dict)
    approvals: dict[str, approvals.State] = field(default_factory=dict)
    capabilities: capabilities.State = field(default_factory=capabilities.initial)
    reports: dict[str, Report] = field(default_factory=dict)

    def spent(self, session_id: str) -> int:
        """What a session itself has spent, in nano-USD."""
        state = self.sessions.get(session_id)
        return state.spent if state else 0

    def is_done(self, session_id: str) -> bool:
        """Whether a session has had all its runs."""
        state = self.sessions[session_id]
        return bool(state.results) and not state.runs


async def read_books(runtime: Runtime, workspaces: Iterable[str], families: Iterable[str]) -> Books:
    """Read everything of these workspaces and root sessions. Raises Tampered or CorruptState."""
    books = Books()
    for workspace_id in workspaces:
        await _read_workspace(runtime, workspace_id, books)
    for family in families:
        workspace_id = (await runtime.registry.locate(family)).workspace_id
        for summary in await runtime.registry.family(workspace_id, family):
            books.summaries[summary.id] = summary
            await _read_session(runtime, Key(workspace_id, SESSION.kind, summary.id), books)
    key = Key(THE_CLUSTER, CAPABILITIES.kind, "capabilities")
    state = await read(CAPABILITIES, key, runtime.journal, runtime.keyring)
    books.capabilities = state or capabilities.initial()
    return books


async def read_budget(runtime: Runtime, workspace_id: str) -> budget.State:
    """A workspace's budget as it is stored now."""
    key = Key(workspace_id, BUDGET.kind, "budget")
    return await read(BUDGET, key, runtime.journal, runtime.keyring) or budget.initial()


async def _read_workspace(runtime: Runtime, workspace_id: str, books: Books) -> None:
    journal, keyring = runtime.journal, runtime.keyring
    books.budgets[workspace_id] = await read_budget(runtime, workspace_id)
    kept = await read(ALLOWANCES, Key(workspace_id, "allowances", "allowances"), journal, keyring)
    books.allowances[workspace_id] = kept or allowances.initial()
    asked = await read(APPROVALS, Key(workspace_id, "approvals", "approvals"), journal, keyring)
    books.approvals[workspace_id] = asked or approvals.initial()
    for chain in await chains(runtime, workspace_id):
        found = await report(runtime, chain)
        books.reports[f"{chain.key.workspace_id}/{found.chain}"] = found


async def _read_session(runtime: Runtime, key: Key, books: Books) -> None:
    state = await read(SESSION, key, runtime.journal, runtime.keyring)
    if state is None:
        return
    books.sessions[key.id] = state
    codec = Codec(SESSION, key, runtime.keyring)
    sealed = await runtime.journal.messages(key, 0, _ALL)
    books.texts[key.id] = [
        _MESSAGE.decode(codec.open_message(at, data)).text for at, data in enumerate(sealed)
    ]
