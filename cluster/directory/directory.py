"""The named actor ``directory``: where sessions are, which host takes the next, who is waiting.

Nothing here is durable. What must survive is in the journals and the registry; this is a cache of
it that a restart rebuilds by asking the hosts. It never decides whether an activation is the right
one: the epoch in Redis does.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Protocol

from msgspec import structs

from retinue.actors.domain.errors import (
    ClusterUnavailable,
    InvalidValue,
    NotFound,
    RetinueError,
    Unavailable,
)
from retinue.actors.durable.runtime import Runtime
from retinue.actors.tasks import Tasks
from retinue.actors.views import FeedEvent, WorkspaceSettings
from retinue.cluster.directory.feed import Feed
from retinue.cluster.directory.pool import Isolation, Pool
from retinue.cluster.directory.queries import Queries
from retinue.cluster.directory.slots import Slots
from retinue.cluster.names import DIRECTORY, HOST_PREFIX, workspace_of
from retinue.cluster.status import ClusterStatus, HostStatus, Node, NodeStatus

_PING_EVERY_S = 1.0
_PING_LIMIT_S = 5.0
_MISSED_PINGS = 6
_REVIVED_AT_ONCE = 64
_NODES_EVERY_S = 2.0
_PATIENCE_S = 20.0  # so long a root waits for a host of its own to start
_LOOK_AGAIN_S = 1.0
_LEAVE_LIMIT_S = 20.0
_SHOWN = 8


class HostControl(Protocol):
    """What the directory asks of a host."""

    async def ping(self) -> tuple[int, list[tuple[str, Isolation]]]: ...
    async def node(self) -> str: ...
    async def warm(self) -> None: ...
    async def working(self) -> list[str]: ...
    async def resume_all(self, sessions: list[tuple[str, str]]) -> None: ...
    async def leave(self) -> None: ...
    async def stay(self) -> None: ...


class Launcher(Protocol):
    """Starts, calls and ends hosts, and knows the nodes below."""

    def start(self, name: str, node: str | None) -> None: ...
    def kill(self, name: str) -> None: ...
    def known(self) -> list[str]: ...
    def host(self, name: str) -> HostControl: ...
    def open_stores(self, workspace_id: str) -> None: ...
    async def nodes(self) -> list[Node]: ...
    async def drain(self, node_id: str) -> None: ...
    async def stores_on(self, node_id: str) -> list[str]: ...
    async def idle_stores(self) -> dict[str, float]: ...
    async def move(self, name: str) -> None: ...


class Directory(Queries):
    """Implements `retinue.actors.ports.DirectoryPort`, and what clients call."""

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
        super().__init__(runtime)
        self._launcher = launcher
        self._pool = pool
        self._warm = warm
        self._idle_s = idle_s
        self._restarted = restarted
        self._leaving: set[str] = set()
        self._bare: dict[str, float] = {}
        self._slots = Slots()
        self._feed = Feed()
        self._workspaces: dict[str, None] = {}
        self._missed: dict[str, int] = {}
        self._begun = False
        self._beginning: asyncio.Task[None] | None = None
        self._tasks = Tasks()

    async def begin(self) -> None:
        """Find the hosts that are there, start those that should be, and watch them."""
        if self._begun:
            return
        if self._beginning is None:
            self._beginning = asyncio.create_task(self._begin())
        try:
            await asyncio.shield(self._beginning)
        except Exception:  # whatever it was: the next caller tries again
            self._beginning = None
            raise

    async def _begin(self) -> None:
        for name in self._launcher.known():
            self._pool.add(name, self._now())
        found = set(self._pool.hosts)
        await asyncio.gather(*(self._ping(name) for name in found))
        held = {id for host in self._pool.hosts.values() for id in host.sessions}
        for name in found:
            self._tasks.start(self._make_ready(name))
        with contextlib.suppress(Unavailable):
            await self._see_nodes()
        self._tasks.start(self._watch_nodes())
        self._tasks.start(self._watch_stores())
        while len(self._pool.hosts) < self._warm:
            self._start_host()
        if found or self._restarted:  # the cluster lives: what died meanwhile goes on
            self._tasks.start(self._revive_all_but(held))
        self._tasks.start(self._watch())
        self._begun = True

    # --- sessions ------------------------------------------------------------------------

    async def place(self, session_id: str, workspace_id: str, isolation: Isolation) -> str:
        """The host for a root session that is about to be made or called."""
        await self.begin()
        self.open_stores(workspace_id)
        deadline = self._now() + _PATIENCE_S
        self._slots.waiting[session_id] = 1
        try:
            while True:
                found = self._pool.locate(session_id) or self._assign(session_id, isolation)
                if found and self._is_ready(found):
                    return found
                if self._now() > deadline:  # there is no room for its host, nor was any made
                    self._pool.forget(session_id)
                await self._slots.changed.wait(_LOOK_AGAIN_S)
        finally:
            self._slots.waiting.pop(session_id, None)

    def _assign(self, session_id: str, isolation: Isolation) -> str | None:
        """Find a host for a root, or start one; where that fails to start, one is shared."""
        since = self._pool.starting_since()
        grows = since is None or self._now() - since < _PATIENCE_S
        found = self._pool.for_root(isolation, grows)
        if found is None:
            if not (grows and self._pool.may_grow):
                return None
            found = self._start_host()
        self._pool.put(session_id, found, isolation)
        self._start_another()
        return found

    async def locate(self, session_id: str) -> tuple[str, str]:
        """(workspace id, host) of a session; it gets a host if it has none. Raises NotFound."""
        await self.begin()
        workspace_id = (await self._runtime.registry.locate(session_id)).workspace_id
        self.open_stores(workspace_id)
        return workspace_id, self._host_of(session_id)

    async def hosts(self) -> list[str]:
        """The hosts that run."""
        await self.begin()
        return self._ready()

    async def acquire(
        self,
        spawner: str,
        family_id: str,
        done: list[str],
        want: list[str],
        limit: int,
        isolation: Isolation,
        near: str,
        timeout_s: float,
    ) -> dict[str, str]:
        """Slots for some of the sub-agents in ``want``, after taking back those that are done."""
        await self.begin()
        self._forget(done)
        granted = await self._slots.acquire(
            spawner,
            family_id,
            done,
            want,
            limit,
            lambda count: self._hosts_for(isolation, near, count),
            timeout_s,
        )
        for session_id, host in granted.items():
            self._pool.put(session_id, host, isolation)
        self._start_another()
        return granted

    def _hosts_for(self, isolation: Isolation, near: str, count: int) -> list[str]:
        """Hosts for sub-agents; if they are too few, another one is asked for."""
        found = list(self._pool.for_children(isolation, near, count))
        if len(found) < count and self._pool.may_grow and self._pool.starting_since() is None:
            self._start_host()
        return found

    async def release(self, spawner: str) -> None:
        """A spawn is over: take back all its slots, and those that it still waits for."""
        self._forget(self._slots.release(spawner))

    async def news(self, host: str, families: list[str], gone: list[str]) -> list[str]:
        """Which sessions a host has let go, and in which families something happened.

        Answers which of these somebody watches: their events are worth sending.
        """
        await self.begin()
        for session_id in gone:
            if self._pool.locate(session_id) == host:
                self._pool.forget(session_id)
        if gone:
            self._slots.changed.notify()
        return self._feed.watched(families)

    async def publish(self, events: list[FeedEvent]) -> None:
        """What happened in families that are watched, in order."""
        self._feed.add(events)

    async def lost(self, host: str) -> None:
        """A caller found a host dead."""
        if host in self._pool.hosts:
            await self._ping(host)

    # --- what clients ask ----------------------------------------------------------------

    async def events(
        self, family_id: str | None, after: int | None, timeout_s: float
    ) -> tuple[int, list[FeedEvent]]:
        """Events of a family after position ``after`` (None: from now), as soon as there are."""
        return await self._feed.after(family_id, after, timeout_s)

    async def put_workspace(self, settings: WorkspaceSettings) -> None:
        """Register a workspace's settings and start its stores."""
        await self._runtime.registry.put_workspace(settings)
        self.open_stores(settings.workspace_id)

    async def working(self) -> list[str]:
        """Root sessions whose runs are under way now. Others that look so were interrupted."""
        await self.begin()
        found = await asyncio.gather(*(self._working(name) for name in self._ready()))
        return [id for ids in found for id in ids]

    async def go_on(self, left: list[str]) -> None:
        """Bring back all that was at work when the cluster died, but for what is in ``left``."""
        await self.begin()
        await self._revive_all_but(set(left))

    async def open(self, workspace_id: str) -> None:
        """Start a workspace's stores: somebody did not find them, whatever we believe."""
        self._workspaces.pop(workspace_id, None)
        self.open_stores(workspace_id)

    async def store_names(self) -> list[str]:
        """The workspaces whose stores are running."""
        return list(self._workspaces)

    async def status(self) -> ClusterStatus:
        """Hosts, and what waits."""
        await self.begin()
        hosts = [
            HostStatus(host.name, host.pid, len(host.sessions), host.node, host.draining)
            for host in self._pool.hosts.values()
        ]
        nodes = [self._node_status(node) for node in self._pool.nodes.values() if node.alive]
        queued = sum(self._slots.waiting.values())
        return ClusterStatus(hosts, self._pool.most, queued, list(self._workspaces), nodes)

    async def drain(self, name: str) -> NodeStatus:
        """Have a node's sessions and stores go elsewhere; what is left there now.

        To be asked again until nothing is left; then Ray ends the node. ``name`` is the node's id,
        the beginning of that, its name or its address. NotFound names those that there are.
        """
        await self.begin()
        await self._see_nodes()
        node = find_node(name, list(self._pool.nodes.values()))
        if node.alive and not node.draining:
            if not any(one.alive and not one.draining and one != node for one in self._nodes()):
                raise ClusterUnavailable(
                    f"node {node.id[:_SHOWN]} is the only one: nothing on it has where to go"
                )
            await self._launcher.drain(node.id)
            await self._see_nodes()
        stores = await self._launcher.stores_on(node.id) if node.alive else []
        return structs.replace(self._node_status(node), draining=True, stores=len(stores))

    def open_stores(self, workspace_id: str) -> None:
        """Start a workspace's stores unless they run."""
        if workspace_id not in self._workspaces:
            self._launcher.open_stores(workspace_id)
            self._workspaces[workspace_id] = None

    # --- hosts ---------------------------------------------------------------------------

    def _start_host(self) -> str:
        """Start a host where there is room. Where there is none, Ray starts it once there is."""
        name = f"{HOST_PREFIX}{self._runtime.new_id()}"
        node = self._pool.node_for_host()
        self._pool.add(name, self._now(), node or "")
        if node:
            self._pool.take_room(node)
        self._launcher.start(name, node)
        self._tasks.start(self._make_ready(name))
        return name

    def _start_another(self) -> None:
        if self._pool.wants_another:
            self._start_host()

    async def _make_ready(self, name: str) -> None:
        """Wait until a host runs, however long there is no room for it, and stay with it."""
        control = self._launcher.host(name)
        node = ""
        with contextlib.suppress(Unavailable):
            node = await control.node()
            await control.warm()
        if host := self._pool.hosts.get(name):
            host.node, host.ready, host.since = node, True, self._now()
        self._tasks.start(self._stay_with(name))
        self._slots.changed.notify()

    def _is_ready(self, name: str) -> bool:
        host = self._pool.hosts.get(name)
        return host is not None and host.ready

    def _ready(self) -> list[str]:
        return [host.name for host in self._pool.hosts.values() if host.ready]

    async def _stay_with(self, name: str) -> None:
        """Hear of a host's death when it happens, and not with the next ping."""
        with contextlib.suppress(RetinueError):
            await self._launcher.host(name).stay()
        await self._ping(name)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_PING_EVERY_S)
            await asyncio.gather(*(self._ping(name) for name in self._ready()))

    async def _ping(self, name: str) -> None:
        try:
            async with asyncio.timeout(_PING_LIMIT_S):
                pid, live = await self._launcher.host(name).ping()
        except TimeoutError:
            self._missed[name] = self._missed.get(name, 0) + 1
            if self._missed[name] >= _MISSED_PINGS and self._is_ready(name):
                self._launcher.kill(name)
                await self._gone(name)
        except Unavailable:
            if self._is_ready(name):
                await self._gone(name)
        else:
            self._missed.pop(name, None)
            if host := self._pool.hosts.get(name):
                host.pid, host.ready = pid, True
                self._pool.sync(name, live, self._now())
            self._slots.seen(name, [session_id for session_id, _ in live])

    async def _working(self, name: str) -> list[str]:
        try:
            async with asyncio.timeout(_PING_LIMIT_S):
                return await self._launcher.host(name).working()
        except Unavailable:
            return []
        except TimeoutError:  # too busy to answer is not idle
            host = self._pool.hosts.get(name)
            return list(host.sessions) if host else []

    async def _gone(self, name: str) -> None:
        """A host is dead: its slots are free, and roots that were at work go on elsewhere."""
        self._missed.pop(name, None)
        held = self._pool.remove(name)
        self._slots.lost(name, held)
        while len([one for one in self._pool.hosts.values() if not one.draining]) < self._warm:
            self._start_host()
        self._slots.changed.notify()
        if held:
            self._tasks.start(self._revive(set(held)))

    # --- nodes ---------------------------------------------------------------------------

    async def _watch_nodes(self) -> None:
        while True:
            await asyncio.sleep(_NODES_EVERY_S)
            with contextlib.suppress(Unavailable):
                await self._see_nodes()

    async def _see_nodes(self) -> None:
        """Learn of nodes that came or are to go, and let hosts go that nobody needs."""
        now = self._now()
        if self._pool.see(await self._launcher.nodes(), now):
            self._start_another()
        for name in self._pool.spare(now - self._idle_s, self._warm):
            self._pool.hosts[name].draining = True
        for host in list(self._pool.hosts.values()):
            if host.draining and host.name not in self._leaving:
                self._leaving.add(host.name)
                self._tasks.start(self._let_go(host.name))
        for node in self._pool.bare():
            if node.draining:
                stores = await self._launcher.stores_on(node.id)
                for store in sorted(stores, key=lambda one: one == DIRECTORY):  # itself last
                    await self._launcher.move(store)
            elif self._pool.hosts and now - self._bare.setdefault(node.id, now) > self._idle_s:
                self._bare[node.id] = now
                for store in await self._launcher.stores_on(node.id):
                    if store != DIRECTORY:  # whoever needs it starts it, nearer to a host
                        self._launcher.kill(store)
        for node_id in self._bare.keys() - {node.id for node in self._pool.bare()}:
            del self._bare[node_id]

    async def _watch_stores(self) -> None:
        while True:
            await asyncio.sleep(max(self._idle_s / 4, _NODES_EVERY_S))
            with contextlib.suppress(Exception):  # Ray's head is away, or a store hangs: next time
                async with asyncio.timeout(_PING_LIMIT_S):
                    await self._end_idle_stores()

    async def _end_idle_stores(self) -> None:
        """Stores that nobody has called for long may go: whoever needs one starts it again."""
        for name, seconds in (await self._launcher.idle_stores()).items():
            if seconds > self._idle_s:
                self._launcher.kill(name)
                self._workspaces.pop(workspace_of(name) or "", None)

    async def _let_go(self, name: str) -> None:
        """End a host: what is idle there is written out, what runs goes on elsewhere."""
        if self._is_ready(name):
            with contextlib.suppress(Unavailable, TimeoutError):
                async with asyncio.timeout(_LEAVE_LIMIT_S):
                    await self._launcher.host(name).leave()
            await self._ping(name)  # what was called there meanwhile is to go on elsewhere, too
        self._launcher.kill(name)
        self._leaving.discard(name)
        await self._gone(name)

    def _nodes(self) -> list[Node]:
        return list(self._pool.nodes.values())

    def _node_status(self, node: Node) -> NodeStatus:
        hosts = [host for host in self._pool.hosts.values() if host.node == node.id]
        sessions = sum(len(host.sessions) for host in hosts)
        return NodeStatus(node.id, node.address, node.name, node.draining, len(hosts), sessions)

    async def _revive_all_but(self, held: set[str]) -> None:
        """Bring back what no host had when this began, wherever it was put since."""
        await self._revive(set(await self._runtime.registry.running()) - held)

    async def _revive(self, lost: set[str]) -> None:
        """Bring back what was at work, so many on each host at a time that all get their turn."""
        registry = self._runtime.registry
        at_work = lost.intersection(await registry.running())
        by_host: dict[str, list[tuple[str, str]]] = {}
        for session_id, place in (await registry.places(sorted(at_work))).items():
            self.open_stores(place.workspace_id)
            host = self._host_of(session_id)
            by_host.setdefault(host, []).append((session_id, place.workspace_id))
        await asyncio.gather(*(self._resume(host, ones) for host, ones in by_host.items()))

    async def _resume(self, host: str, sessions: list[tuple[str, str]]) -> None:
        """If the host dies meanwhile, what it holds by then is revived as any other."""
        with contextlib.suppress(RetinueError):
            for at in range(0, len(sessions), _REVIVED_AT_ONCE):
                await self._launcher.host(host).resume_all(sessions[at : at + _REVIVED_AT_ONCE])

    def _host_of(self, session_id: str) -> str:
        """Where a session is, or goes now."""
        found = self._pool.locate(session_id)
        if found is None:
            hosts = list(self._pool.for_children("shared", "", 1))
            found = hosts[0] if hosts else self._start_host()
            self._pool.put(session_id, found, "shared")
        return found

    def _forget(self, children: list[str]) -> None:
        """What is over counts no more at its host; a host that still has it will say so."""
        for session_id in children:
            self._pool.forget(session_id)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


def find_node(name: str, nodes: list[Node]) -> Node:
    """The one node that is called so. NotFound and InvalidValue list what there is."""
    called = [node for node in nodes if node.is_called(name)]
    found = [node for node in called if node.alive] or called
    if len(found) == 1:
        return found[0]
    there = ", ".join(f"{one.id[:_SHOWN]} ({one.address})" for one in nodes if one.alive)
    if found:
        raise InvalidValue(f"node {name}: {len(found)} nodes are called so, of {there}")
    raise NotFound(f"node {name}: there is no such node, but {there}")
