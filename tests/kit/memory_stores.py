"""The stores of permissions in memory, going by a time that tests move."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

from retinue.actors.domain.permissions.action_ref import ActionRef
from retinue.actors.domain.permissions.actions import ExecuteCommand, argument_hash
from retinue.actors.domain.permissions.approvals.question import Question
from retinue.actors.domain.permissions.approvals.state import State
from retinue.actors.domain.values.ids import derived_id
from retinue.actors.domain.values.keyring import Keyring
from retinue.actors.durable.audit import Head, verify
from retinue.actors.durable.entity import read
from retinue.actors.durable.journal import Append, Key, Outcomes
from retinue.actors.durable.machines import APPROVALS
from retinue.actors.durable.memory_journal import MemoryJournal
from retinue.actors.durable.runtime import Runtime
from retinue.actors.ports import CapabilitiesPort, Registry
from retinue.actors.stores.capabilities import CapabilitiesActor
from retinue.actors.stores.permissions import PermissionsActor
from retinue.actors.views import WorkspaceSettings

START = 1_800_000_000_000_000
FAMILY = derived_id("family")
USER = "0123456789abcdef"
RUN = ExecuteCommand("make")
REF = ActionRef(RUN, argument_hash(RUN), "op")
QUESTION = Question(REF, FAMILY, FAMILY, USER, None)
REQUEST_ID = derived_id(f"{FAMILY}/op")
BOOK = Key("scope", "approvals", "approvals")


class CountingJournal(MemoryJournal):
    """Counts what it is asked to append, questions included."""

    asked = flushes = 0

    async def append(self, batch: Sequence[Append]) -> Outcomes:
        self.asked += len(batch)
        self.flushes += 1
        return await super().append(batch)


class _Registry:
    async def workspace(self, workspace_id: str) -> WorkspaceSettings:
        return cast(WorkspaceSettings, type("Settings", (), {"path": None}))


@dataclass
class MemoryStores:
    """``now`` is in microseconds."""

    journal: CountingJournal = field(default_factory=CountingJournal)
    now: int = START

    def __post_init__(self) -> None:
        registry = cast(Registry, _Registry())
        self.runtime = Runtime(self.journal, registry, Keyring(bytes(32)), lambda: self.now)
        self.capabilities = CapabilitiesActor(self.runtime, "cluster")
        self.permissions = self.another()

    def another(self, capabilities: CapabilitiesPort | None = None) -> PermissionsActor:
        """The store of permissions, in an actor that takes over from the one before."""
        return PermissionsActor(self.runtime, "scope", capabilities or self.capabilities)

    def rows(self) -> int:
        """How many rows are stored in all."""
        return sum(one.seq for one in self.journal.entities.values())

    async def book(self) -> State:
        state = await read(APPROVALS, BOOK, self.journal, self.runtime.keyring)
        assert state is not None
        return state

    async def status(self) -> str:
        return str((await self.book()).requests[REQUEST_ID].status)

    async def audited(self) -> list[str]:
        rows = await self.journal.audit(BOOK, 0, 100)
        head = Head(len(rows), rows[-1][:20])
        report = verify("book", rows, head, self.runtime.keyring, APPROVALS.event)
        assert report.problem is None
        return [entry.kind for entry in report.entries]
