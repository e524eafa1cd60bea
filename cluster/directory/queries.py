"""What is stored, for clients to read: sessions, families, workspaces and the audit log."""

from __future__ import annotations

import asyncio

from retinue.actors.domain.budget.state import Hold
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
from retinue.cluster.directory.audit_log import ChainKey, chains, report


class Queries:
    """The directory's answers that need no live session."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def workspaces(self) -> list[WorkspaceSettings]:
        return await self._runtime.registry.workspaces()

    async def holds(self) -> dict[str, Hold]:
        """Who holds which workspaces, by workspace id."""
        ids = [one.workspace_id for one in await self.workspaces()]
        found = await asyncio.gather(*map(self._runtime.brakes.refresh, ids))
        return {workspace_id: hold for workspace_id, hold in zip(ids, found, strict=True) if hold}

    async def put_agent(self, digest: str, blob: bytes) -> None:
        await self._runtime.registry.put_agent(digest, blob)

    async def family(self, session_id: str) -> list[SessionSummary]:
        """The summaries of a session's whole family. NotFound if the session is unknown."""
        place = await self._runtime.registry.locate(session_id)
        return await self._runtime.registry.family(place.workspace_id, place.family_id)

    async def sign_audit(self, text: str) -> str:
        """An exported audit log with the cluster's signature."""
        return sign_audit(self._runtime.keyring, text)

    async def place_of(self, session_id: str) -> SessionKey:
        """The workspace and family of a session. NotFound if it is unknown."""
        return await self._runtime.registry.locate(session_id)

    async def audit_chains(self, workspace_id: str) -> list[ChainKey]:
        """The entities of a workspace that have an audit chain."""
        return await chains(self._runtime, workspace_id)

    async def audit_report(self, chain: ChainKey) -> Report:
        """One chain, read and verified."""
        return await report(self._runtime, chain)

    async def page(self, query: SessionQuery, after: str | None, count: int) -> SessionPage:
        """Root sessions, the newest first: up to ``count`` of those after a cursor."""
        return await self._runtime.registry.page(query, after, count)

    async def running(self) -> list[str]:
        """Root sessions with work in flight, or that had when they were last heard of."""
        return await self._runtime.registry.running()

    async def find(self, fragment: str) -> list[str]:
        """Ids of root sessions that begin with ``fragment``, and of sessions that end with it."""
        return await self._runtime.registry.find(fragment)
