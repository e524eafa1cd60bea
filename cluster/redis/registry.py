"""Implements `retinue.actors.ports.Registry` in Redis: all that is found by name.

The sets kept here are supersets of the truth, which is in the journals: an entry is written before
its target and removed after it, so that a crash in between leaves an entry too many, which its
reader detects, and never one too few.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from retinue.actors.domain.errors import CorruptState, InvalidAgent
from retinue.actors.domain.permissions.boundary import Boundary
from retinue.actors.domain.permissions.policy import Policy
from retinue.actors.domain.session.state import Profile
from retinue.actors.domain.values.keyring import Keyring
from retinue.actors.durable.codec import written_by_newer
from retinue.actors.session.summary import decode_summary
from retinue.actors.views import (
    SessionKey,
    SessionPage,
    SessionQuery,
    SessionSummary,
    WorkspaceSettings,
)
from retinue.cluster.redis.connection import Connection
from retinue.cluster.redis.listing import Listing
from retinue.cluster.redis.locations import Locations

_ENCODER = msgspec.msgpack.Encoder()
_SETTINGS = msgspec.msgpack.Decoder(tuple[int, msgspec.Raw])

SETTINGS_FORM = 1
"""The version of the stored form of a workspace's settings: [version, settings]."""


class RedisRegistry:
    """Agents, workspaces, the workspace of each session, and the sessions with work in flight."""

    def __init__(self, connection: Connection, keyring: Keyring) -> None:
        self._redis = connection
        self._keyring = keyring
        self._locations = Locations(connection)
        self._listing = Listing(connection, self._locations)
        self._settings: dict[str, tuple[bytes, WorkspaceSettings]] = {}

    async def put_agent(self, digest: str, blob: bytes) -> None:
        sealed = self._keyring.seal(blob, f"agent/{digest}")
        key = self._redis.key("agents")
        await self._redis.command("HSETNX", key, digest, sealed)

    async def agent(self, digest: str) -> bytes:
        """The pickle, its seal checked; raises Tampered or, if it is not stored, InvalidAgent."""
        key = self._redis.key("agents")
        sealed = await self._redis.value("HGET", key, digest)
        if sealed is None:
            raise InvalidAgent(f"agent {digest[:12]}: it is not stored here")
        return self._keyring.open(sealed, f"agent/{digest}", f"agent {digest[:12]}")

    async def put_workspace(self, settings: WorkspaceSettings) -> None:
        data = _ENCODER.encode((SETTINGS_FORM, settings))
        sealed = self._keyring.seal(data, f"workspace/{settings.workspace_id}")
        key = self._redis.key("workspaces")
        await self._redis.command("HSET", key, settings.workspace_id, sealed)

    async def workspace(self, workspace_id: str) -> WorkspaceSettings:
        key = self._redis.key("workspaces")
        sealed = await self._redis.value("HGET", key, workspace_id)
        if sealed is None:
            return WorkspaceSettings(workspace_id, None, Policy(), Boundary())
        return self._open(workspace_id, sealed)

    async def workspaces(self) -> list[WorkspaceSettings]:
        key = self._redis.key("workspaces")
        found = await self._redis.values("HGETALL", key)
        pairs = zip(found[::2], found[1::2], strict=True)
        return [self._open(workspace_id.decode(), sealed) for workspace_id, sealed in pairs]

    async def locate(self, session_id: str) -> SessionKey:
        return await self._locations.get(session_id)

    async def places(self, session_ids: Sequence[str]) -> dict[str, SessionKey]:
        """The locations of those of these sessions that are known."""
        return await self._locations.known(session_ids)

    async def register(self, place: SessionKey, session_ids: Sequence[str]) -> None:
        await self._locations.put(place, session_ids)

    async def register_root(self, profile: Profile) -> None:
        """File a root session that is about to be made, and list it."""
        await self._locations.put(SessionKey(profile.workspace_id, profile.id), [profile.id])
        await self._listing.add(
            profile.workspace_id, profile.user_id, profile.created_at, profile.id
        )

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

    async def family(self, workspace_id: str, family_id: str) -> list[SessionSummary]:
        key = self._redis.family(workspace_id, family_id)
        found = await self._redis.values("HGETALL", key)
        lines = zip(found[::2], found[1::2], strict=True)
        return [decode_summary(data, id.decode(), family_id, workspace_id) for id, data in lines]

    async def page(self, query: SessionQuery, after: str | None, count: int) -> SessionPage:
        return await self._listing.page(query, after, count)

    async def find(self, fragment: str) -> list[str]:
        """The ids of root sessions that begin with ``fragment``, and of sessions that end with it.

        It has at least six hex digits and hyphens; of very many matching ids some are left out.
        """
        begin = await self._listing.beginning(fragment)
        return sorted({*begin, *await self._locations.ending(fragment)})

    def _open(self, workspace_id: str, sealed: bytes) -> WorkspaceSettings:
        known = self._settings.get(workspace_id)
        if known and known[0] == sealed:  # checking a policy costs milliseconds
            return known[1]
        what = f"the settings of workspace {workspace_id}"
        opened = self._keyring.open(sealed, f"workspace/{workspace_id}", what)
        try:
            form, data = _SETTINGS.decode(opened)
            if form > SETTINGS_FORM:  # a policy that is read in part would allow too much
                raise written_by_newer(what, form, SETTINGS_FORM)
            settings = msgspec.msgpack.decode(data, type=WorkspaceSettings)
        except msgspec.DecodeError as error:
            raise CorruptState(f"{what} can't be read: {error}") from error
        self._settings[workspace_id] = (sealed, settings)
        return settings
