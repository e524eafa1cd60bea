"""What is found by name, and where sessions are: the registry and the directory of a schedule."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Sequence
from typing import Protocol

from retinue.actors.domain.errors import NotFound
from retinue.actors.domain.session.state import Profile
from retinue.actors.ports import HostName
from retinue.actors.requests import Acquire
from retinue.actors.views import (
    FeedEvent,
    SessionKey,
    SessionPage,
    SessionQuery,
    SessionSummary,
    WorkspaceSettings,
)
from retinue.cluster.directory.slots import Slots


class Books:
    """What the registry keeps."""

    def __init__(self) -> None:
        self.agents: dict[str, bytes] = {}
        self.workspaces: dict[str, WorkspaceSettings] = {}
        self.places: dict[str, SessionKey] = {}
        self.running: dict[str, None] = {}


class SimulatedRegistry:
    """`retinue.actors.ports.Registry` in the memory of the schedule."""

    def __init__(self, books: Books) -> None:
        self._books = books

    async def put_agent(self, digest: str, blob: bytes) -> None:
        self._books.agents[digest] = blob

    async def agent(self, digest: str) -> bytes:
        return self._books.agents[digest]

    async def put_workspace(self, settings: WorkspaceSettings) -> None:
        self._books.workspaces[settings.workspace_id] = settings

    async def workspace(self, workspace_id: str) -> WorkspaceSettings:
        return self._books.workspaces[workspace_id]

    async def workspaces(self) -> list[WorkspaceSettings]:
        return list(self._books.workspaces.values())

    async def locate(self, session_id: str) -> SessionKey:
        place = self._books.places.get(session_id)
        if place is None:
            raise NotFound(f"session {session_id}: there is no such session")
        return place

    async def places(self, session_ids: Sequence[str]) -> dict[str, SessionKey]:
        return {id: self._books.places[id] for id in session_ids if id in self._books.places}

    async def register(self, place: SessionKey, session_ids: Sequence[str]) -> None:
        self._books.places.update(dict.fromkeys(session_ids, place))

    async def register_root(self, profile: Profile) -> None:
        self._books.places[profile.id] = SessionKey(profile.workspace_id, profile.id)

    async def mark_running(self, session_id: str) -> None:
        self._books.running[session_id] = None

    async def unmark_running(self, session_id: str) -> None:
        self._books.running.pop(session_id, None)

    async def running(self) -> list[str]:
        return list(self._books.running)

    async def family(self, workspace_id: str, family_id: str) -> list[SessionSummary]:
        return []

    async def page(self, query: SessionQuery, after: str | None, count: int) -> SessionPage:
        return SessionPage([], None)

    async def find(self, fragment: str) -> list[str]:
        return [id for id in self._books.places if fragment in id]


class Hosts(Protocol):
    """The hosts that there are."""

    def any_host(self) -> str: ...
    def all_hosts(self) -> list[str]: ...
    def has_host(self, name: str) -> bool: ...


class SimulatedDirectory:
    """`retinue.actors.ports.DirectoryPort`: a cache of where sessions are, and no proof."""

    def __init__(self, hosts: Hosts, workspace_id: str, outside: contextvars.Context) -> None:
        self.slots = Slots()
        self._hosts = hosts
        self._workspace_id = workspace_id
        self._outside = outside
        self._where: dict[str, str] = {}

    async def acquire(self, request: Acquire) -> dict[str, HostName]:
        """Outside of the caller's process: if that dies, nobody tells the directory."""
        asking = self.slots.acquire(
            request.spawner,
            request.family_id,
            request.done,
            request.want,
            request.limit,
            lambda count: [self._hosts.any_host() for _ in range(count)],
            request.timeout_s,
        )
        loop = asyncio.get_running_loop()
        slots = await asyncio.shield(loop.create_task(asking, context=self._outside.copy()))
        self._where.update(slots)
        return slots

    async def locate(self, session_id: str) -> tuple[str, str]:
        return self._workspace_id, self.host_of(session_id)

    async def hosts(self) -> list[str]:
        return self._hosts.all_hosts()

    async def release(self, spawner: str) -> None:
        self.slots.release(spawner)

    async def publish(self, events: list[FeedEvent]) -> None:
        raise AssertionError("nobody watches")

    async def news(self, host: str, families: list[str], gone: list[str]) -> list[str]:
        for session_id in gone:
            if self._where.get(session_id) == host:
                del self._where[session_id]
        return []

    def host_of(self, session_id: str) -> str:
        """Where a session is, or will be."""
        host = self._where.get(session_id)
        if host is None or not self._hosts.has_host(host):
            host = self._where[session_id] = self._hosts.any_host()
        return host

    def forget(self, host: str) -> list[str]:
        """A host is gone; the sessions that it had."""
        held = [id for id, where in self._where.items() if where == host]
        for id in held:
            del self._where[id]
        return held
