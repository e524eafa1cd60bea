"""Keeps one entity active for a store actor, and brings it back after an outage."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from retinue.actors.domain.errors import Fenced, RetinueError, RolledBack
from retinue.actors.durable.codec import Machine
from retinue.actors.durable.entity import Confirms, Entity
from retinue.actors.durable.journal import Key
from retinue.actors.durable.runtime import Runtime

S = TypeVar("S")
C = TypeVar("C")
E = TypeVar("E")
R = TypeVar("R")
T = TypeVar("T")

UPKEEP_S = 60.0
"""Seconds between two checks for due upkeep."""


async def _nothing(sent: Sequence[object]) -> None:
    pass


class SingletonEntity(Generic[S, C, E, R]):
    """The entity of a named actor: activated at the first call and again after a failed write.

    Once Redis has lost writes it stays broken: a fresh start from the rows left would forget
    spending. Once fenced it stays so too, and its process is told to end: the actor that took over
    is the one to ask.

    From the first call on it checks once a minute for upkeep due by its machine, and sends that.
    While none is due it asks nothing of Redis.
    """

    def __init__(
        self,
        machine: Machine[S, C, E, R],
        workspace_id: str,
        id: str,
        runtime: Runtime,
        after_upkeep: Callable[[Sequence[C]], Awaitable[None]] = _nothing,
    ) -> None:
        """Takes ``after_upkeep``, to be called after each check with the commands sent."""
        self._machine = machine
        self._key = Key(workspace_id, machine.kind, id)
        self._runtime = runtime
        self._entity: Entity[S, C, E, R] | None = None
        self._activating = asyncio.Lock()
        self._compacting: asyncio.Task[None] | None = None
        self._after_upkeep = after_upkeep
        self._upkeep: asyncio.Task[None] | None = None

    async def entity(self) -> Entity[S, C, E, R]:
        """The live entity."""
        entity = self._entity
        if entity is None or entity.broken:
            async with self._activating:
                entity = self._entity
                if entity is not None and isinstance(entity.broken, Fenced | RolledBack):
                    raise entity.broken
                if entity is None or entity.broken:
                    entity = self._entity = await self._activate()
        return entity

    async def execute(self, command: C) -> R:
        """Do ``command`` and return its reply, or raise its error, once it is durable."""
        entity = await self.entity()
        try:
            return entity.do(command)
        finally:
            await self.committed(entity)

    async def query(self, read: Callable[[S], T]) -> T:
        """The result of ``read`` on the state, or its error, once it is sure to be the newest."""
        entity = await self.entity()
        try:
            return read(entity.state)
        finally:
            await entity.confirmed()

    async def upkeep(self) -> None:
        """Sends the upkeep commands that are due by now."""
        due = self._machine.due((await self.entity()).state, self._runtime.clock())
        for command in due:
            await self.execute(command)
        await self._after_upkeep(due)

    async def committed(self, entity: Entity[S, C, E, R], *beside: Confirms) -> None:
        """Waits until all that was done, or read, is durable; compacts when it is time.

        ``beside`` are entities on which the reply depends as well. Raises Fenced, for any read,
        if another actor has taken over.
        """
        if beside:
            await asyncio.gather(entity.confirmation(), *(one.confirmation() for one in beside))
        else:
            await entity.confirmed()
        if entity.wants_compaction and (self._compacting is None or self._compacting.done()):
            self._compacting = asyncio.create_task(entity.compact())

    async def _activate(self) -> Entity[S, C, E, R]:
        runtime = self._runtime
        entity = await Entity.activate(
            self._machine, self._key, runtime.committer, runtime.keyring, runtime.clock
        )
        entity.on_break = lambda: self._check_fenced(entity)
        if self._machine.upkeep and self._upkeep is None:
            self._upkeep = asyncio.create_task(self._keep_up())
        return entity

    async def _keep_up(self) -> None:
        """Looks after the entity until another actor does; failed upkeep is due the next time."""
        while True:
            try:
                await self.upkeep()
            except (Fenced, RolledBack):
                return
            except RetinueError:
                pass
            await asyncio.sleep(UPKEEP_S)

    def _check_fenced(self, entity: Entity[S, C, E, R]) -> None:
        if isinstance(entity.broken, Fenced):
            self._runtime.on_fenced()
