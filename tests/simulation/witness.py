"""The journal as the checker sees it: every row that is stored, in order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from retinue.actors.domain.values.keyring import Keyring
from retinue.actors.durable.codec import Codec
from retinue.actors.durable.journal import Append, Key, Loaded, Outcome, Outcomes
from retinue.actors.durable.machines import AnyMachine
from retinue.actors.durable.memory_journal import MemoryJournal


class Watcher(Protocol):
    """Who is shown what happens to the journal."""

    def activated(self, key: Key, epoch: int) -> None: ...
    def stored(self, one: Append) -> None: ...


class Witness:
    """A journal that shows all that happens to it."""

    def __init__(self, inner: MemoryJournal, watcher: Watcher) -> None:
        self.inner = inner
        self._watcher = watcher

    async def activate(self, key: Key, newest: int | None = None) -> Loaded:
        loaded = await self.inner.activate(key, newest)
        self._watcher.activated(key, loaded.epoch)
        return loaded

    async def read(self, key: Key) -> Loaded:
        return await self.inner.read(key)

    async def append(self, batch: Sequence[Append]) -> Outcomes:
        outcomes = Outcomes([], {})
        for one in batch:
            before = self._rows(one.key)
            answer = await self.inner.append([one])
            outcomes.extend(answer)
            outcomes.brakes |= answer.brakes
            if self._rows(one.key) > before:
                self._watcher.stored(one)
        return outcomes

    async def brake(self, workspace_id: str) -> bytes:
        return await self.inner.brake(workspace_id)

    async def stop(self, workspace_id: str, why: str) -> None:
        raise AssertionError(f"nothing goes back here: {why}")

    async def snapshot(self, key: Key, epoch: int, seq: int, data: bytes) -> Outcome:
        return await self.inner.snapshot(key, epoch, seq, data)

    async def messages(self, key: Key, start: int, stop: int) -> Sequence[bytes]:
        return await self.inner.messages(key, start, stop)

    async def audit(self, key: Key, start: int, stop: int) -> Sequence[bytes]:
        return await self.inner.audit(key, start, stop)

    def _rows(self, key: Key) -> int:
        stored = self.inner.entities.get(key)
        return stored.seq if stored else 0


class Shadow:
    """One entity, derived from its rows as they are stored."""

    def __init__(self, machine: AnyMachine, key: Key, keyring: Keyring) -> None:
        self.machine = machine
        self.codec: Codec[Any, Any] = Codec(machine, key, keyring)
        self.state: Any = machine.initial()
        self.seq = 0
