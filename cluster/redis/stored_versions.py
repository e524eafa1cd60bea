"""The versions of stored forms in Redis: for `retinue doctor`, never on a hot path."""

from __future__ import annotations

from collections import Counter
from typing import TypeAlias

from retinue.actors.durable.journal import SNAPSHOT_HEADER, VERSION_AT
from retinue.cluster.redis.connection import Connection

Versions: TypeAlias = dict[str, dict[int, int]]
"""By kind of entity: the number of examined entities of each version."""

MOST = 10_000
"""The number of entities examined; there may be others."""


async def stored_versions(connection: Connection, most: int = MOST) -> Versions:
    """The version of each entity: that of its newest row, or of its snapshot if it has no row."""
    newest: dict[str, int] = {}
    for suffix in (":j", ":s"):  # rows follow the snapshot, so what they say comes first
        async for key in connection.scan(connection.entity("*", "*", f"*{suffix}")):
            if len(newest) >= most:
                break
            entity = key.decode().removesuffix(suffix)
            if entity not in newest:
                newest[entity] = await _version(connection, key.decode())
    found: dict[str, Counter[int]] = {}
    for entity, version in newest.items():
        found.setdefault(_kind(entity), Counter())[version] += 1
    return {kind: dict(sorted(counts.items())) for kind, counts in sorted(found.items())}


async def _version(connection: Connection, key: str) -> int:
    if key.endswith(":j"):
        row = await connection.value("LINDEX", key, -1) or b""
        return int.from_bytes(row[VERSION_AT : VERSION_AT + 1], "big")
    at = SNAPSHOT_HEADER + VERSION_AT
    return int.from_bytes(await connection.value("GETRANGE", key, at, at) or b"", "big")


def _kind(entity: str) -> str:
    """The kind in ``namespace:{workspace_id}:kind:id``."""
    return entity.rpartition("}:")[2].partition(":")[0]
