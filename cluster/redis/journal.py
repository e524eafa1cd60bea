"""The journal in Redis: one short script for each operation, one hash tag for each workspace.

All keys of a workspace share the hash tag, so that a group commit of any number of its entities is
one script call in one slot, and listings can be written in the same step as what they list.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

from retinue.actors.domain.errors import RolledBack
from retinue.actors.durable.journal import Append, Key, Loaded, Outcome, Outcomes
from retinue.actors.session.listing import CODES
from retinue.cluster.redis.connection import Connection, Script
from retinue.cluster.redis.listing import roots_of

_APPEND = Script("append")
_ACTIVATE = Script("activate")
_READ = Script("read")
_SNAPSHOT = Script("snapshot")
_STATES = b"".join(CODES.values())


class RedisJournal:
    """Implements `retinue.actors.durable.journal.Journal`."""

    def __init__(self, connection: Connection) -> None:
        self._redis = connection
        self._write = connection.run_to_disk if connection.wait_for_disk else connection.run

    async def activate(self, key: Key, newest: int | None = None) -> Loaded:
        return await self._load(_ACTIVATE, key, [] if newest is None else [newest])

    async def read(self, key: Key) -> Loaded:
        return await self._load(_READ, key, [])

    async def append(self, batch: Sequence[Append]) -> Outcomes:
        by_workspace: dict[str, list[Append]] = {}
        for one in batch:
            by_workspace.setdefault(one.key.workspace_id, []).append(one)
        if len(by_workspace) == 1:
            return await self._append(batch)
        groups = await asyncio.gather(*map(self._append, by_workspace.values()))
        outcomes = dict(zip(by_workspace, map(iter, groups), strict=True))
        brakes = {
            workspace_id: brake for group in groups for workspace_id, brake in group.brakes.items()
        }
        return Outcomes([next(outcomes[one.key.workspace_id]) for one in batch], brakes)

    async def brake(self, workspace_id: str) -> bytes:
        return await self._redis.value("GET", self._redis.held(workspace_id)) or b""

    async def stop(self, workspace_id: str, why: str) -> None:
        key = self._redis.stopped(workspace_id)
        remedy = f"bring back the newest copy of Redis, or accept the loss: redis-cli del '{key}'"
        await self._redis.command("SET", key, f"{why}. Then {remedy}, and restart", "NX")

    async def snapshot(self, key: Key, epoch: int, seq: int, data: bytes) -> Outcome:
        base = self._base(key)
        answer = await self._redis.run(
            _SNAPSHOT, [base, base + ":j", base + ":s"], [epoch, seq, data]
        )
        return Outcome[cast(bytes, answer).decode()]

    async def messages(self, key: Key, start: int, stop: int) -> Sequence[bytes]:
        return await self._redis.range(self._base(key) + ":m", start, stop)

    async def audit(self, key: Key, start: int, stop: int) -> Sequence[bytes]:
        return await self._redis.range(self._base(key) + ":a", start, stop)

    async def _append(self, batch: Sequence[Append]) -> Outcomes:
        if not batch:
            return Outcomes([], {})
        workspace_id = batch[0].key.workspace_id
        keys = [self._redis.stopped(workspace_id), self._redis.held(workspace_id)]
        arguments: list[bytes | str | int] = []
        changes: list[bytes | str | int] = []
        for at, one in enumerate(batch, start=1):
            base, summary = self._base(one.key), one.summary
            family = self._redis.family(one.key.workspace_id, summary.family) if summary else base
            keys += (base, family)
            arguments += (one.key.id, one.epoch, one.after, one.create, one.row)
            arguments += (len(one.messages), *one.messages, len(one.audit), *one.audit)
            arguments.append(summary.data if summary else b"")
            if one.brake:
                changes += (at, b"!", one.brake)
            if summary and summary.listed:
                state, position = summary.listed
                changes += (at, _STATES.replace(state, b""), state + position)
        if changes:
            keys.append(roots_of(self._redis, workspace_id))
            arguments += changes
        answers = await self._write(_APPEND, keys, arguments)
        if isinstance(answers, bytes):
            return Outcomes([Outcome.GAP] * len(batch), {})
        brake, *outcomes = cast(list[bytes], answers)
        return Outcomes([Outcome[one.decode()] for one in outcomes], {workspace_id: brake})

    async def _load(self, script: Script, key: Key, arguments: Sequence[int]) -> Loaded:
        base = self._base(key)
        keys = [base, base + ":j", base + ":s", self._redis.stopped(key.workspace_id)]
        answer = await self._redis.run(script, keys, arguments)
        if isinstance(answer, bytes):
            raise RolledBack(answer.decode())
        epoch, seq, snapshot, rows = cast(tuple[int, int, bytes | None, list[bytes]], answer)
        return Loaded(epoch, seq, snapshot, rows)

    def _base(self, key: Key) -> str:
        return self._redis.entity(key.workspace_id, key.kind, key.id)
