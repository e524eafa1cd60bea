"""A client's calls to the cluster's actors, and what to do when one has moved."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Protocol, cast

from retinue.actors.domain.budget.state import Hold
from retinue.actors.domain.errors import ClusterUnavailable, Fenced, StoreUnavailable
from retinue.actors.domain.session import machine as session
from retinue.actors.domain.session.machine import Imported, Profile
from retinue.actors.domain.session.messages import Message
from retinue.actors.domain.values.ids import parse_uuid, uuid7
from retinue.actors.durable.audit import Report
from retinue.actors.ports import BudgetPort, CapabilitiesPort, PermissionsPort
from retinue.actors.views import (
    FeedEvent,
    SessionKey,
    SessionPage,
    SessionQuery,
    SessionSummary,
    SessionView,
    WorkspaceSettings,
)
from retinue.cluster.client.whoami import actor_name
from retinue.cluster.directory.audit_log import ChainKey
from retinue.cluster.names import CAPABILITIES, DIRECTORY, allowances_name, budget_name
from retinue.cluster.ray.actors import Proxy
from retinue.cluster.settings import ClusterSettings
from retinue.cluster.status import ClusterStatus, NodeStatus

_PATIENCE_S = 30.0
_PAUSE_S = 0.1


class DirectoryClient(Protocol):
    """The directory, as clients call it."""

    async def place(self, session_id: str, workspace_id: str, isolation: str) -> str: ...
    async def locate(self, session_id: str) -> tuple[str, str]: ...
    async def place_of(self, session_id: str) -> SessionKey: ...
    async def lost(self, host: str) -> None: ...
    async def events(
        self, family_id: str | None, after: int | None, timeout_s: float
    ) -> tuple[int, list[FeedEvent]]: ...
    async def put_workspace(self, settings: WorkspaceSettings) -> None: ...
    async def workspaces(self) -> list[WorkspaceSettings]: ...
    async def holds(self) -> dict[str, Hold]: ...
    async def put_agent(self, digest: str, blob: bytes) -> None: ...
    async def family(self, session_id: str) -> list[SessionSummary]: ...
    async def page(self, query: SessionQuery, after: str | None, count: int) -> SessionPage: ...
    async def running(self) -> list[str]: ...
    async def audit_chains(self, workspace_id: str) -> list[ChainKey]: ...
    async def sign_audit(self, text: str) -> str: ...
    async def audit_report(self, chain: ChainKey) -> Report: ...
    async def working(self) -> list[str]: ...
    async def go_on(self, left: list[str]) -> None: ...
    async def find(self, fragment: str) -> list[str]: ...
    async def open(self, workspace_id: str) -> None: ...
    async def store_names(self) -> list[str]: ...
    async def status(self) -> ClusterStatus: ...
    async def drain(self, name: str) -> NodeStatus: ...


class HostClient(Protocol):
    """A host, as clients call it."""

    async def create(
        self, profile: Profile, imported: Imported | None, messages: list[Message]
    ) -> None: ...
    async def report(self, workspace_id: str) -> None: ...


class Calls:
    """The cluster's actors by name, and the sessions wherever they are."""

    def __init__(self, settings: ClusterSettings, actor: str | None = None) -> None:
        """``actor`` is who calls, for the audit log (default: the login name with the machine)."""
        self.actor = actor_name(actor)
        self.settings = settings
        self.directory = cast(DirectoryClient, self._proxy(DIRECTORY))
        self._where: dict[str, tuple[str, str]] = {}

    def now(self) -> int:
        """Microseconds since the epoch, UTC."""
        return time.time_ns() // 1000

    def new_id(self, now: int | None = None) -> str:
        """A fresh UUID v7, of ``now`` in microseconds since the epoch (default: of this moment)."""
        return uuid7(self.now() if now is None else now, os.urandom(10))

    def budget(self, workspace_id: str) -> BudgetPort:
        return cast(BudgetPort, self._store(budget_name(workspace_id), workspace_id))

    def permissions(self, workspace_id: str) -> PermissionsPort:
        return cast(PermissionsPort, self._store(allowances_name(workspace_id), workspace_id))

    def capabilities(self) -> CapabilitiesPort:
        return cast(CapabilitiesPort, self._proxy(CAPABILITIES))

    def host(self, name: str) -> HostClient:
        return cast(HostClient, Proxy(name, self.settings.namespace, restarts=False))

    async def create(
        self, profile: Profile, imported: Imported | None, messages: list[Message]
    ) -> None:
        """Make a root session, on another host if the first one dies; repeated, it is one."""
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            host = await self.directory.place(profile.id, profile.workspace_id, profile.isolation)
            try:
                await self.host(host).create(profile, imported, messages)
            except (ClusterUnavailable, Fenced):
                if time.monotonic() > deadline:
                    raise
                await self.directory.lost(host)
                await asyncio.sleep(_PAUSE_S)
            else:
                self._where[profile.id] = (profile.workspace_id, host)
                return

    async def view(self, session_id: str) -> SessionView:
        return cast(SessionView, await self.on_host(session_id, "view"))

    async def state(self, session_id: str) -> session.State:
        return cast(session.State, await self.on_host(session_id, "state"))

    async def messages(self, session_id: str, last: int | None) -> list[Message]:
        return cast(list[Message], await self.on_host(session_id, "messages", last))

    async def on_host(self, session_id: str, method: str, *arguments: object) -> object:
        """Call ``method`` of the host where the session is; found again if it has moved.

        Every one of these may be repeated. ClusterUnavailable when no host answers for 30 s.
        """
        parse_uuid(session_id, "session")
        deadline: float | None = None
        while True:
            workspace_id, host = self._where.get(session_id) or await self._locate(session_id)
            proxy = Proxy(host, self.settings.namespace, restarts=False)
            try:
                return await getattr(proxy, method)(session_id, workspace_id, *arguments)
            except (ClusterUnavailable, Fenced) as error:
                self._where.pop(session_id, None)
                deadline = deadline or time.monotonic() + _PATIENCE_S  # it may have lasted before
                if time.monotonic() > deadline:
                    raise
                if isinstance(error, ClusterUnavailable):
                    await self.directory.lost(host)
            except StoreUnavailable:
                self._where.pop(session_id, None)
                raise
            await asyncio.sleep(_PAUSE_S)

    async def _locate(self, session_id: str) -> tuple[str, str]:
        return await self.directory.locate(session_id)

    def _store(self, name: str, workspace_id: str) -> Proxy:
        """A store of a workspace, which the directory starts if it is not there."""

        async def start() -> None:
            await self.directory.open(workspace_id)

        return Proxy(name, self.settings.namespace, start=start)

    def _proxy(self, name: str) -> Proxy:
        return Proxy(name, self.settings.namespace)
