"""What is stored, for clients to read: sessions, families, workspaces and the audit log."""

from __future__ import annotations

import asyncio

from retinue.actors.domain.budget import Hold
from retinue.actors.durable.audit import Report
from retinue.actors.durable.runtime import Runtime
from retinue.actors.views import (
    SessionKey,
    SessionPage,
    SessionQuery,
    SessionSummary,
    WorkspaceSettings,
)
from retinue.cluster.directory.audit_export import sign_audit
from retinue.cluster.directory.audit_log import ChainKey, report, strands


class Queries:
    """The directory's answers that need no live session."""

    def __init__(self, wiring: Runtime) -> None:
        self._wiring = wiring

    async def workspaces(self) -> list[WorkspaceSettings]:
        return await self._wiring.registry.workspaces()

    async def holds(self) -> dict[str, Hold]:
        """Who holds which workspaces, by the scopes of those that are on hold."""
        scopes = [one.scope for one in await self.workspaces()]
        found = await asyncio.gather(*map(self._wiring.brakes.refresh, scopes))
        return {scope: hold for scope, hold in zip(scopes, found, strict=True) if hold}

    async def put_agent(self, digest: str, blob: bytes) -> None:
        await self._wiring.registry.put_agent(digest, blob)

    async def family(self, session_id: str) -> list[SessionSummary]:
        """The summaries of a session's whole family. NotFound if the session is unknown."""
        place = await self._wiring.registry.locate(session_id)
        return await self._wiring.registry.family(place.scope, place.family_id)

    async def sign_audit(self, text: str) -> str:
        """An exported audit log with the cluster's signature."""
        return sign_audit(self._wiring.keyring, text)

    async def place_of(self, session_id: str) -> SessionKey:
        """The scope and family of a session. NotFound if it is unknown."""
        return await self._wiring.registry.locate(session_id)

    async def audit_strands(self, scope: str) -> list[ChainKey]:
        """The entities of a workspace that have an audit strand."""
        return await strands(self._wiring, scope)

    async def audit_report(self, strand: ChainKey) -> Report:
        """One strand, read and verified."""
        return await report(self._wiring, strand)

    async def page(self, query: SessionQuery, after: str | None, count: int) -> SessionPage:
        """Root sessions, the newest first: up to ``count`` of those after a cursor."""
        return await self._wiring.registry.page(query, after, count)

    async def running(self) -> list[str]:
        """Root sessions with work in flight, or that had when they were last heard of."""
        return await self._wiring.registry.running()

    async def find(self, fragment: str) -> list[str]:
        """Ids of root sessions that begin with ``fragment``, and of sessions that end with it."""
        return await self._wiring.registry.find(fragment)
