"""Stored data for clients to read: families, holds and the audit log.

The rest is the registry's, whose methods clients call as they are.
"""

from __future__ import annotations

import asyncio

from retinue.actors.domain.budget.state import Hold
from retinue.actors.durable.audit import Report
from retinue.actors.durable.runtime import Runtime
from retinue.actors.views import SessionSummary
from retinue.cluster.directory.audit_export import sign_audit
from retinue.cluster.directory.audit_log import ChainKey, chains, report


class Queries:
    """Answers that need no live session, but more than one look into the registry."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def holds(self) -> dict[str, Hold]:
        """The holds on workspaces, by workspace id."""
        ids = [one.workspace_id for one in await self._runtime.registry.workspaces()]
        found = await asyncio.gather(*map(self._runtime.brakes.refresh, ids))
        return {workspace_id: hold for workspace_id, hold in zip(ids, found, strict=True) if hold}

    async def family(self, session_id: str) -> list[SessionSummary]:
        """The summaries of a session's whole family; raises NotFound for an unknown session."""
        place = await self._runtime.registry.locate(session_id)
        return await self._runtime.registry.family(place.workspace_id, place.family_id)

    async def sign_audit(self, text: str) -> str:
        """An exported audit log with the cluster's signature."""
        return sign_audit(self._runtime.keyring, text)

    async def audit_chains(self, workspace_id: str) -> list[ChainKey]:
        """The entities of a workspace that have an audit chain."""
        return await chains(self._runtime, workspace_id)

    async def audit_report(self, chain: ChainKey) -> Report:
        """One chain, read and verified."""
        return await report(self._runtime, chain)
