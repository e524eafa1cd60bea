"""What is found by name and not by activation, in Redis: implements `actors.ports.Registry`.

The sets kept here are supersets of the truth, which is in the journals: an entry is written before
what it points to and removed after it, so that a crash in between leaves an entry too many, which
whoever reads it finds out, and never one too few.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import msgspec

from actors.domain.boundary import Boundary
from actors.domain.errors import InvalidAgent, NotFound
from actors.domain.keyring import Keyring
from actors.domain.policy import Policy
from actors.entity import written_by_newer
from actors.ports import Place, SessionSummary, WorkspaceSettings
from actors.summary import decode_summary
from cluster.redis.connection import Connection

_ENCODER = msgspec.msgpack.Encoder()
_SCANNED_AT_ONCE = 1000
_SETTINGS = msgspec.msgpack.Decoder(tuple[int, msgspec.Raw])

SETTINGS_FORM = 1
"""The version of the stored form of a workspace's settings: [version, settings]."""


class RedisRegistry:
    """Agents, workspaces, the scope of each session, and the sessions with work in flight."""

    def __init__(self, connection: Connection, keyring: Keyring) -> None:
        self._redis = connection
        self._keyring = keyring
        self._settings: dict[str, tuple[bytes, WorkspaceSettings]] = {}

    async def put_agent(self, digest: str, blob: bytes) -> None:
        sealed = self._keyring.seal(blob, f"agent/{digest}")
        key = self._redis.key("agents")
        await self._redis.command("HSETNX", key, digest, sealed)

    async def agent(self, digest: str) -> bytes:
        """The pickle, once its seal was found right; Tampered, naming it, if it is not."""
        key = self._redis.key("agents")
        sealed = await self._redis.value("HGET", key, digest)
        if sealed is None:
            raise InvalidAgent(f"agent {digest[:12]}: it is not stored here")
        return self._keyring.open(sealed, f"agent/{digest}", f"agent {digest[:12]}")

    async def put_workspace(self, settings: WorkspaceSettings) -> None:
        data = _ENCODER.encode((SETTINGS_FORM, settings))
        sealed = self._keyring.seal(data, f"workspace/{settings.scope}")
        key = self._redis.key("workspaces")
        await self._redis.command("HSET", key, settings.scope, sealed)

    async def workspace(self, scope: str) -> WorkspaceSettings:
        key = self._redis.key("workspaces")
        sealed = await self._redis.value("HGET", key, scope)
        if sealed is None:
            return WorkspaceSettings(scope, None, Policy(), Boundary())
        return self._open(scope, sealed)

    async def workspaces(self) -> list[WorkspaceSettings]:
        key = self._redis.key("workspaces")
        found = await self._redis.values("HGETALL", key)
        pairs = zip(found[::2], found[1::2], strict=True)
        return [self._open(scope.decode(), sealed) for scope, sealed in pairs]

    async def locate(self, session_id: str) -> Place:
        key = self._redis.key("sessions")
        place = await self._redis.value("HGET", key, session_id)
        if place is None:
            raise NotFound(
                f"session {session_id}: there is no such session; `troupe ps` lists them",
                session=session_id,
            )
        return Place(*place.decode().split("/", 1))

    async def register(
        self, place: Place, session_ids: Sequence[str], *, root: bool = False
    ) -> None:
        key = self._redis.key("sessions")
        value = f"{place.scope}/{place.family_id}"
        places = [part for id in session_ids for part in (id, value)]
        await self._redis.command("HSET", key, *places)
        if root:
            scored = [part for id in session_ids for part in (0, id)]
            await self._redis.command("ZADD", self._redis.key("roots"), *scored)

    async def mark_running(self, session_id: str) -> None:
        key = self._redis.key("running")
        await self._redis.command("SADD", key, session_id)

    async def unmark_running(self, session_id: str) -> None:
        key = self._redis.key("running")
        await self._redis.command("SREM", key, session_id)

    async def running(self) -> list[str]:
        key = self._redis.key("running")
        found = await self._redis.values("SMEMBERS", key)
        return sorted(id.decode() for id in found)

    async def family(self, scope: str, family_id: str) -> list[SessionSummary]:
        key = self._redis.family(scope, family_id)
        found = await self._redis.values("HVALS", key)
        return [decode_summary(data) for data in found]

    async def roots(self, after: str | None, count: int) -> list[SessionSummary]:
        key = self._redis.key("roots")
        end = f"({after}" if after else "+"  # ids of version 7 sort by age
        ids = await self._redis.values("ZREVRANGEBYLEX", key, end, "-", "LIMIT", 0, count)
        return [summary for id in ids if (summary := await self._root(id.decode()))]

    async def find(self, fragment: str) -> list[str]:
        """Ids of sessions that begin or end with ``fragment`` (hex digits and hyphens)."""
        found: set[str] = set()
        for pattern in (f"{fragment}*", f"*{fragment}"):
            cursor = "0"
            while True:
                cursor, pairs = await self._scan(cursor, pattern)
                found.update(id.decode() for id in pairs[::2])
                if cursor == "0":
                    break
        return sorted(found)

    async def _scan(self, cursor: str, pattern: str) -> tuple[str, list[bytes]]:
        key = self._redis.key("sessions")
        words = ("HSCAN", key, cursor, "MATCH", pattern, "COUNT", _SCANNED_AT_ONCE)
        after, pairs = cast("tuple[bytes, list[bytes]]", await self._redis.command(*words))
        return after.decode(), pairs

    async def _root(self, id: str) -> SessionSummary | None:
        place = await self.locate(id)
        key = self._redis.family(place.scope, id)
        data = await self._redis.value("HGET", key, id)
        return decode_summary(data) if data else None

    def _open(self, scope: str, sealed: bytes) -> WorkspaceSettings:
        known = self._settings.get(scope)
        if known and known[0] == sealed:  # checking a policy costs milliseconds
            return known[1]
        what = f"the settings of workspace {scope}"
        form, data = _SETTINGS.decode(self._keyring.open(sealed, f"workspace/{scope}", what))
        if form > SETTINGS_FORM:  # a policy that is read in part would allow too much
            raise written_by_newer(what, form, SETTINGS_FORM)
        settings = msgspec.msgpack.decode(data, type=WorkspaceSettings)
        self._settings[scope] = (sealed, settings)
        return settings
