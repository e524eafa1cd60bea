"""What Redis has in the end, read without the actors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from retinue.actors.domain import budget
from retinue.actors.domain.permissions.allowances import machine as allowances
from retinue.actors.domain.permissions.approvals import machine as approvals
from retinue.actors.domain.permissions.capabilities import machine as capabilities
from retinue.actors.domain.session import machine as session
from retinue.actors.domain.session.messages import Message
from retinue.actors.durable.audit import Report
from retinue.actors.durable.entity import Codec, read
from retinue.actors.durable.journal import Key
from retinue.actors.durable.machines import ALLOWANCES, APPROVALS, BUDGET, CAPABILITIES, SESSION
from retinue.actors.durable.runtime import Runtime
from retinue.actors.views import SessionSummary
from retinue.cluster.directory.audit_log import CLUSTER_SCOPE, report, strands

_MESSAGE = msgspec.msgpack.Decoder(Message)
_ALL = 1 << 30


@dataclass
class Books:
    """Sessions by id; the others by scope. ``reports`` has every audit strand, by its name."""

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


async def read_books(wiring: Runtime, scopes: Iterable[str], families: Iterable[str]) -> Books:
    """Read everything of these workspaces and root sessions. Raises Tampered or CorruptState."""
    books = Books()
    for scope in scopes:
        await _read_scope(wiring, scope, books)
    for family in families:
        scope = (await wiring.registry.locate(family)).scope
        for summary in await wiring.registry.family(scope, family):
            books.summaries[summary.id] = summary
            await _read_session(wiring, Key(scope, SESSION.kind, summary.id), books)
    key = Key(CLUSTER_SCOPE, CAPABILITIES.kind, "capabilities")
    state = await read(CAPABILITIES, key, wiring.journal, wiring.keyring)
    books.capabilities = state or capabilities.initial()
    return books


async def read_budget(wiring: Runtime, scope: str) -> budget.State:
    """A workspace's budget as it is stored now."""
    key = Key(scope, BUDGET.kind, "budget")
    return await read(BUDGET, key, wiring.journal, wiring.keyring) or budget.initial()


async def _read_scope(wiring: Runtime, scope: str, books: Books) -> None:
    journal, keyring = wiring.journal, wiring.keyring
    books.budgets[scope] = await read_budget(wiring, scope)
    kept = await read(ALLOWANCES, Key(scope, "allowances", "allowances"), journal, keyring)
    books.allowances[scope] = kept or allowances.initial()
    asked = await read(APPROVALS, Key(scope, "approvals", "approvals"), journal, keyring)
    books.approvals[scope] = asked or approvals.initial()
    for strand in await strands(wiring, scope):
        found = await report(wiring, strand)
        books.reports[f"{strand.key.scope}/{found.strand}"] = found


async def _read_session(wiring: Runtime, key: Key, books: Books) -> None:
    state = await read(SESSION, key, wiring.journal, wiring.keyring)
    if state is None:
        return
    books.sessions[key.id] = state
    codec = Codec(SESSION, key, wiring.keyring)
    sealed = await wiring.journal.messages(key, 0, _ALL)
    books.texts[key.id] = [
        _MESSAGE.decode(codec.open_message(at, data)).text for at, data in enumerate(sealed)
    ]
