"""The named actor ``directory``: where sessions are, which host takes the next, who is waiting.

Nothing here is durable. What must survive is in the journals and the registry; this is a cache of
it that a restart rebuilds by asking the hosts. It never decides whether an activation is the right
one: the epoch in Redis does.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Literal, Protocol, TypeAlias

from retinue.actors.domain.errors import Unavailable
from retinue.actors.domain.session.settings import Isolation
from retinue.actors.durable.runtime import Runtime
from retinue.actors.ports import HostName
from retinue.actors.requests import Acquire
from retinue.actors.tasks import Tasks
from retinue.actors.views import FeedEvent, WorkspaceSettings
from retinue.cluster.directory.feed import Feed
from retinue.cluster.directory.hosts import PING_EVERY_S, HostLauncher, Hosts, now
from retinue.cluster.directory.nodes import NODES_EVERY_S, NodeLauncher, Nodes
from retinue.cluster.directory.placement import PATIENCE_S
from retinue.cluster.directory.pool import Pool
from retinue.cluster.directory.queries import Queries
from retinue.cluster.directory.slots import Slots
from retinue.cluster.directory.stores import StoreLauncher, Stores
from retinue.cluster.status import ClusterStatus, HostStatus, NodeStatus

_LOOK_AGAIN_S = 1.0

Part: TypeAlias = Literal["queries", "registry"]


class Launcher(HostLauncher, StoreLauncher, NodeLauncher, Protocol):
    """Starts, calls and ends hosts and stores, and knows the nodes below."""


class Directory:
    """Implements `retinue.cluster.directory.port.ClusterDirectoryPort`."""

    def __init__(
        self,
        runtime: Runtime,
        launcher: Launcher,
        pool: Pool,
        warm: int,
        idle_s: float,
        restarted: bool = False,
    ) -> None:
        """``warm`` hosts stay, others end after ``idle_s`` seconds without a session.

        So do a workspace's stores that nobody calls for so long. ``restarted`` if there was a
        directory before it in this cluster.
        """
        self._registry = runtime.registry
        self._parts: dict[Part, object] = {"queries": Queries(runtime), "registry": self._registry}
        self._pool = pool
        self._idle_s = idle_s
        self._restarted = restarted
        self._tasks = Tasks()
        self._feed = Feed()
        self._slots = Slots()
        self._stores = Stores(launcher, idle_s)
        self._hosts = Hosts(runtime, launcher, pool, warm, self._slots, self._stores, self._tasks)
        self._nodes = Nodes(launcher, pool, self._hosts, idle_s)
        self._placement = self._hosts.placement
        self._beginning: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Find the hosts that are there, start those that should be, and watch them.

        Once; whatever it fails with, the next caller tries again.
        """
        begun = self._beginning
        if begun is None or (begun.done() and (begun.cancelled() or begun.exception())):
            begun = self._beginning = self._tasks.start(self._begin())
        await asyncio.shield(begun)

    async def _begin(self) -> None:
        found = await self._hosts.find()
        held = {id for host in found for id in host.sessions}
        with contextlib.suppress(Unavailable):
            await self._nodes.see()
        self._placement.keep_warm(now())
        if found or self._restarted:  # the cluster lives: what died meanwhile goes on
            self._tasks.start(self._hosts.revive_all_but(held))
        self._tasks.repeat(self._hosts.ping_all, PING_EVERY_S)
        self._tasks.repeat(self._nodes.see, NODES_EVERY_S)
        self._tasks.repeat(self._stores.end_idle, max(self._idle_s / 4, NODES_EVERY_S))

    # --- what hosts ask -------------------------------------------------------------------

    async def locate(self, session_id: str) -> tuple[str, str]:
        """(workspace id, host) of a session; it gets a host if it has none. Raises NotFound."""
        await self.begin()
        workspace_id = (await self._registry.locate(session_id)).workspace_id
        self._stores.open(workspace_id)
        return workspace_id, self._placement.any_host(session_id, now())

    async def hosts(self) -> list[str]:
        """The hosts that run."""
        await self.begin()
        return self._pool.ready()

    async def acquire(self, request: Acquire) -> dict[str, HostName]:
        """Slots for some of the sub-agents in ``want``, after taking back those that are done."""
        await self.begin()
        self._forget(request.done)
        granted = await self._slots.acquire(
            request.spawner,
            request.family_id,
            request.done,
            request.want,
            request.limit,
            lambda n: self._placement.for_children(request.isolation, request.near, n, now()),
            request.timeout_s,
        )
        self._placement.granted(granted, request.isolation, now())
        return granted

    async def release(self, spawner: str) -> None:
        """A spawn is over: take back all its slots, and those that it still waits for."""
        self._forget(self._slots.release(spawner))

    async def news(self, host: str, families: list[str], gone: list[str]) -> list[str]:
        """Takes in a host's news: the sessions it has let go, and the families with events.

        Answers which of these somebody watches: their events are worth sending.
        """
        await self.begin()
        self._forget([id for id in gone if self._pool.locate(id) == host])
        if gone:
            self._slots.changed.notify()
        return self._feed.watched(families)

    async def publish(self, events: list[FeedEvent]) -> None:
        """Takes in events of watched families, in order."""
        self._feed.add(events)

    # --- what clients ask -----------------------------------------------------------------

    async def place(self, session_id: str, workspace_id: str, isolation: Isolation) -> str:
        """The host for a root session that is about to be made or called."""
        await self.begin()
        self._stores.open(workspace_id)
        deadline = now() + PATIENCE_S
        self._slots.waiting[session_id] = 1
        try:
            while True:
                found = self._placement.root(session_id, isolation, now())
                if found:
                    return found
                if now() > deadline:  # there is no room for its host, nor was any made
                    self._pool.forget(session_id)
                await self._slots.changed.wait(_LOOK_AGAIN_S)
        finally:
            self._slots.waiting.pop(session_id, None)

    async def lost(self, host: str) -> None:
        """A caller found a host dead."""
        if host in self._pool.hosts:
            await self._hosts.ping(host)

    async def ask(self, part: Part, method: str, *arguments: object) -> object:
        """Answers as `Queries` or the registry would, for callers that can't reach Redis."""
        answer: object = await getattr(self._parts[part], method)(*arguments)
        return answer

    async def events(
        self, family_id: str | None, after: int | None, timeout_s: float
    ) -> tuple[int, list[FeedEvent]]:
        """Events of a family after position ``after`` (None: from now), as soon as there are."""
        return await self._feed.after(family_id, after, timeout_s)

    async def put_workspace(self, settings: WorkspaceSettings) -> None:
        """Register a workspace's settings and start its stores."""
        await self._registry.put_workspace(settings)
        self._stores.open(settings.workspace_id)

    async def open(self, workspace_id: str) -> None:
        """Start a workspace's stores: somebody did not find them, whatever we believe."""
        self._stores.reopen(workspace_id)

    async def store_names(self) -> list[str]:
        """The workspaces whose stores are running."""
        return list(self._stores.workspaces)

    async def working(self) -> list[str]:
        """Root sessions whose runs are under way now. Others that look so were interrupted."""
        await self.begin()
        return await self._hosts.working()

    async def go_on(self, left: list[str]) -> None:
        """Bring back all that was at work when the cluster died, but for what is in ``left``."""
        await self.begin()
        await self._hosts.revive_all_but(set(left))

    async def status(self) -> ClusterStatus:
        """Hosts, and what waits."""
        await self.begin()
        hosts = [
            HostStatus(host.name, host.pid, len(host.sessions), host.node, host.leaving)
            for host in self._pool.hosts.values()
        ]
        queued = sum(self._slots.waiting.values())
        workspaces = list(self._stores.workspaces)
        return ClusterStatus(hosts, self._pool.most, queued, workspaces, self._nodes.statuses())

    async def drain(self, name: str) -> NodeStatus:
        """Have a node's sessions and stores go elsewhere; what is left there now.

        To be asked again until nothing is left; then Ray ends the node. ``name`` is the node's id,
        the beginning of that, its name or its address. NotFound names those that there are.
        """
        await self.begin()
        return await self._nodes.drain(name)

    def _forget(self, sessions: list[str]) -> None:
        """Stops counting ended sessions at their hosts; a host that still has one will say so."""
        for session_id in sessions:
            self._pool.forget(session_id)
