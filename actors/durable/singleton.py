"""Keeps one entity active for a store actor, and brings it back after an outage."""

from __future__ import annotations

import asyncio
from typing import Generic, TypeVar

from retinue.actors.domain.errors import Fenced, RolledBack
from retinue.actors.durable.codec import Machine
from retinue.actors.durable.entity import Entity
from retinue.actors.durable.journal import Key
from retinue.actors.durable.runtime import Runtime

S = TypeVar("S")
C = TypeVar("C")
E = TypeVar("E")
R = TypeVar("R")


class SingletonEntity(Generic[S, C, E, R]):
    """The entity of a named actor: activated at the first call and again after a failed write.

    Once Redis went back it stays broken: to start anew from what is left would forget what was
    spent. Once fenced it stays so too, and its process is told to end: the actor that took over is
    the one to ask.
    """

    def __init__(
        self, machine: Machine[S, C, E, R], workspace_id: str, id: str, runtime: Runtime
    ) -> None:
        self._machine = machine
        self._key = Key(workspace_id, machine.kind, id)
        self._runtime = runtime
        self._entity: Entity[S, C, E, R] | None = None
        self._activating = asyncio.Lock()
        self._compacting: asyncio.Task[None] | None = None

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

    async def committed(self, entity: Entity[S, C, E, R]) -> None:
        """Wait until what was done, or read, is durable; compact when it is time.

        Raises Fenced, whatever was read, if another actor has taken over.
        """
        await entity.confirmed()
        if entity.wants_compaction and (self._compacting is None or self._compacting.done()):
            self._compacting = asyncio.create_task(entity.compact())

    async def _activate(self) -> Entity[S, C, E, R]:
        runtime = self._runtime
        entity = await Entity.activate(
            self._machine, self._key, runtime.committer, runtime.keyring, runtime.clock
        )
        entity.on_break = lambda: self._check_fenced(entity)
        return entity

    def _check_fenced(self, entity: Entity[S, C, E, R]) -> None:
        if isinstance(entity.broken, Fenced):
            self._runtime.on_fenced()
