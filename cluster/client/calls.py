"""A client's calls to the cluster's actors, and what to do when one has moved."""

from __future__ import annotations

import asyncio
import functools
import os
import time
from typing import TypeVar

from msgspec import structs

from retinue.actors.calling import calling
from retinue.actors.domain.errors import ClusterUnavailable, Fenced, StoreUnavailable
from retinue.actors.domain.values.ids import parse_uuid, uuid7
from retinue.actors.ports import HostPort, Registry, SessionPort, Stores
from retinue.actors.requests import Create, SessionAt
from retinue.actors.stores.table import StoreSpec, handles
from retinue.cluster.client.whoami import actor_name
from retinue.cluster.directory.port import ClusterDirectoryPort
from retinue.cluster.directory.queries import Queries
from retinue.cluster.names import DIRECTORY
from retinue.cluster.ray.actors import proxy
from retinue.cluster.settings import ClusterSettings

P = TypeVar("P")

_PATIENCE_S = 30.0
_PAUSE_S = 0.1


class Calls:
    """The cluster's actors by name, and the sessions wherever they are."""

    def __init__(self, settings: ClusterSettings, actor: str | None = None) -> None:
        """``actor`` is who calls, for the audit log (default: the login name with the machine)."""
        self.actor: str = actor_name(actor)
        self.settings = settings
        self.directory: ClusterDirectoryPort = proxy(
            ClusterDirectoryPort, DIRECTORY, settings.namespace
        )
        # through the directory: Redis may not be reached from here
        self.queries: Queries = calling(Queries, functools.partial(self.directory.ask, "queries"))
        self.registry: Registry = calling(
            Registry, functools.partial(self.directory.ask, "registry")
        )
        self.sessions: SessionPort = calling(SessionPort, self._on_host)
        """Every session, wherever it is: its host is found, and found again if it has moved.

        Each of these calls may be repeated. ClusterUnavailable when no host answers for 30 s.
        """
        self._where: dict[str, tuple[str, str]] = {}

    def now(self) -> int:
        """Microseconds since the epoch, UTC."""
        return time.time_ns() // 1000

    def new_id(self, now: int | None = None) -> str:
        """A fresh UUID v7, of ``now`` in microseconds since the epoch (default: of this moment)."""
        return uuid7(self.now() if now is None else now, os.urandom(10))

    def stores(self, workspace_id: str) -> Stores:
        """The stores of a workspace, which the directory starts where they are not running."""

        async def start() -> None:
            await self.directory.open(workspace_id)

        def find(spec: StoreSpec[P]) -> P:
            name = spec.actor_name(workspace_id)
            return proxy(spec.port, name, self.settings.namespace, start=start)

        return handles(find)

    def host(self, name: str) -> HostPort:
        """A host by name."""
        return proxy(HostPort, name, self.settings.namespace, restarts=False)

    async def create(self, command: Create) -> None:
        """Make a root session, on another host if the first one dies; repeated, it is one."""
        profile = command.profile
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            host = await self.directory.place(profile.id, profile.workspace_id, profile.isolation)
            try:
                await self.host(host).create(command)
            except (ClusterUnavailable, Fenced):
                if time.monotonic() > deadline:
                    raise
                await self.directory.lost(host)
                await asyncio.sleep(_PAUSE_S)
            else:
                self._where[profile.id] = (profile.workspace_id, host)
                return

    async def _on_host(self, method: str, /, *arguments: object) -> object:
        [command] = arguments
        assert isinstance(command, SessionAt)
        session_id = command.session_id
        parse_uuid(session_id, "session")
        deadline: float | None = None
        while True:
            known = self._where.get(session_id)
            workspace_id, host = known or await self.directory.locate(session_id)
            call = getattr(self.host(host), method)
            try:
                return await call(structs.replace(command, workspace_id=workspace_id))
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
