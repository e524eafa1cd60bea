"""The location of each session in Redis, sub-agents included.

The hash of all of them is cut into 4096 by the last three digits of the id. Such small hashes are
stored without a pointer, which takes a third of the memory, and an id is found by its end.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import cast

from retinue.actors.domain.errors import NotFound
from retinue.actors.views import SessionKey
from retinue.cluster.redis.connection import Connection, Script, Value

_REGISTER = Script("register")
_BUCKET_DIGITS = 3
_ID_BYTES = 16


class Locations:
    """The place of each session by its id."""

    def __init__(self, connection: Connection) -> None:
        self._redis = connection
        self._buckets = connection.key("{sessions}")

    async def put(self, place: SessionKey, session_ids: Sequence[str]) -> None:
        """File the sessions; repeated, it changes nothing."""
        ids, family = _packed("".join(session_ids)), _packed(place.family_id)
        value = _packed(place.workspace_id) + (b"" if ids == family else family)
        await self._redis.run(_REGISTER, [self._buckets], [value, ids])

    async def get(self, session_id: str) -> SessionKey:
        """The place of a session; raises NotFound if there is no such session."""
        value = await self._redis.value(*self.query(session_id))
        if value is None:
            raise NotFound(
                f"session {session_id}: there is no such session; `retinue ps` lists them",
                session=session_id,
            )
        return read_place(session_id, value)

    async def known(self, session_ids: Sequence[str]) -> dict[str, SessionKey]:
        """The places of those of these sessions that exist."""
        found = await self._redis.all([self.query(id) for id in session_ids])
        return {
            id: read_place(id, value)
            for id, value in zip(session_ids, cast("list[bytes | None]", found), strict=True)
            if value is not None
        }

    def query(self, session_id: str) -> tuple[Value, ...]:
        """The command whose answer `read_place` reads."""
        return ("HGET", self._bucket(session_id), _packed(session_id))

    async def ending(self, fragment: str) -> list[str]:
        """The ids that end with ``fragment``, which has at least the digits that name a bucket."""
        if "-" in fragment[-_BUCKET_DIGITS:]:
            return []
        found = await self._redis.values("HKEYS", self._bucket(fragment))
        return [id for id in map(_unpacked, found) if id.endswith(fragment)]

    def _bucket(self, id: str) -> str:
        return f"{self._buckets}:{id[-_BUCKET_DIGITS:]}"


def read_place(session_id: str, value: bytes) -> SessionKey:
    """A stored place: the workspace, and for a sub-agent its family; a root is its own family."""
    workspace_id, family = value[:_ID_BYTES], value[_ID_BYTES:]
    return SessionKey(_unpacked(workspace_id), _unpacked(family) if family else session_id)


def _packed(ids: str) -> bytes:
    return bytes.fromhex(ids.replace("-", ""))


def _unpacked(id: bytes) -> str:
    return str(uuid.UUID(bytes=id))
