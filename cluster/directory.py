"""The named actor ``directory``: where sessions are, which host takes the next, who is waiting.

Nothing here is durable. What must survive is in the journals and the registry; this is a cache of
it that a restart rebuilds by asking the hosts. It never decides whether an activation is the right
one: the epoch in Redis does.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Coroutine
from typing import Protocol

from msgspec import Struct

from actors import metrics
from actors.audit import Report
from actors.domain.errors import TroupeError, Unavailable
from actors.ports import (
    FeedEvent,
    Place,
    SessionPage,
    SessionQuery,
    SessionSummary,
    WorkspaceSettings,
)
from actors.wiring import Wiring
from cluster.audit_export import sign_audit
from cluster.audit_log import StrandKey, report, strands
from cluster.gate import Gate
from cluster.pool import Isolation, Pool

_PING_EVERY_S = 1.0
_PING_LIMIT_S = 5.0
_MISSED_PINGS = 6
_FEED_LENGTH = 20_000
_WATCHED_S = 30.0  # so long after its last question a watcher may come back
_REVIVED_AT_ONCE = 64
_START_LIMIT_S = 60.0


HOST_PREFIX = "host/"


class HostControl(Protocol):
    """What the directory asks of a host."""

    async def ping(self) -> tuple[int, list[tuple[str, Isolation]]]: ...
    async def warm(self) -> None: ...
    async def working(self) -> list[str]: ...
    async def resume_all(self, sessions: list[tuple[str, str]]) -> None: ...
    async def stay(self) -> None: ...


class Launcher(Protocol):
    """Starts, calls and ends hosts."""

    def start(self, name: str) -> None: ...
    def kill(self, name: str) -> None: ...
    def known(self) -> list[str]: ...
    def host(self, name: str) -> HostControl: ...
    def open_scope(self, scope: str) -> None: ...


class HostStatus(Struct, frozen=True):
    """A host as `troupe ps` and `troupe doctor` show it."""

    name: str
    pid: int | None
    sessions: int


class ClusterStatus(Struct, frozen=True):
    """What the directory knows about the cluster."""

    hosts: list[HostStatus]
    max_hosts: int
    queued: int
    scopes: list[str]


class Directory:
    """Implements `actors.ports.DirectoryPort`, and what clients call."""

    def __init__(self, wiring: Wiring, launcher: Launcher, pool: Pool, warm: int) -> None:
        self._wiring = wiring
        self._launcher = launcher
        self._pool = pool
        self._warm = warm
        self._gate = Gate()
        self._changed = asyncio.Condition()
        self._feed: deque[tuple[int, FeedEvent]] = deque(maxlen=_FEED_LENGTH)
        self._feed_end = 0
        self._watched: dict[str | None, float] = {}
        self._fed = asyncio.Condition()
        self._scopes: dict[str, None] = {}
        self._waiting: dict[str, int] = {}
        self._missed: dict[str, int] = {}
        self._ready: set[str] = set()
        self._watching: asyncio.Task[None] | None = None
        self._background: set[asyncio.Task[None]] = set()

    async def begin(self) -> None:
        """Find the hosts that are there, start those that should be, and watch them."""
        if self._watching is not None:
            return
        self._watching = asyncio.create_task(self._watch())
        for name in self._launcher.known():
            self._pool.add(name)
        await asyncio.gather(*(self._ping(name) for name in list(self._pool.hosts)))
        found = set(self._pool.hosts)
        for name in found:
            self._in_background(self._stay_with(name))
        while len(self._pool.hosts) < self._warm:
            self._start_host()
        if found:  # this is a restart in a living cluster: what died meanwhile goes on
            self._in_background(self._revive_unheld())

    # --- sessions ------------------------------------------------------------------------

    async def place(self, session_id: str, scope: str, isolation: Isolation) -> str:
        """The host for a root session that is about to be made or called."""
        await self.begin()
        self.open_scope(scope)
        found = self._pool.locate(session_id)
        if found is None:
            found = self._pool.for_root(isolation) or self._start_host()
            self._pool.put(session_id, found, isolation)
            self._start_another()
        return found

    async def locate(self, session_id: str) -> tuple[str, str]:
        """(scope, host) of a session; it gets a host if it has none. NotFound if it is unknown."""
        await self.begin()
        scope = (await self._wiring.registry.locate(session_id)).scope
        self.open_scope(scope)
        return scope, self._host_of(session_id)

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
        self._gate.open(spawner, family_id, limit)
        if done:
            self._gate.done(spawner, done)
            await self._notify()
        if not want:
            return {}
        deadline = asyncio.get_running_loop().time() + timeout_s
        self._waiting[spawner] = len(want)
        metrics.SPAWNS_WAITING.set(sum(self._waiting.values()))
        try:
            while True:
                granted = self._gate.grant(
                    spawner,
                    want,
                    lambda count: list(self._pool.for_children(isolation, near, count)),
                )
                left = deadline - asyncio.get_running_loop().time()
                if granted or left <= 0:
                    break
                await self._wait(left)
                if not self._gate.is_open(spawner):
                    return {}
        finally:
            self._waiting.pop(spawner, None)
            metrics.SPAWNS_WAITING.set(sum(self._waiting.values()))
        for session_id, host in granted.items():
            self._pool.put(session_id, host, isolation)
        self._start_another()
        return granted

    async def release(self, spawner: str) -> None:
        """A spawn is over: take back all its slots, and those that it still waits for."""
        self._gate.close(spawner)
        await self._notify()

    async def news(self, host: str, families: list[str], gone: list[str]) -> list[str]:
        """Which sessions a host has let go, and in which families something happened.

        Answers which of these somebody watches: their events are worth sending.
        """
        await self.begin()
        for session_id in gone:
            if self._pool.locate(session_id) == host:
                self._pool.forget(session_id)
        if gone:
            await self._notify()
        now = asyncio.get_running_loop().time()
        self._watched = {one: until for one, until in self._watched.items() if until > now}
        return families if None in self._watched else [f for f in families if f in self._watched]

    async def publish(self, events: list[FeedEvent]) -> None:
        """What happened in families that are watched, in order."""
        for event in events:
            self._feed_end += 1
            self._feed.append((self._feed_end, event))
        async with self._fed:
            self._fed.notify_all()

    async def lost(self, host: str) -> None:
        """A caller found a host dead."""
        if host in self._pool.hosts:
            await self._ping(host)

    # --- what clients ask ----------------------------------------------------------------

    async def events(
        self, family_id: str | None, after: int | None, timeout_s: float
    ) -> tuple[int, list[FeedEvent]]:
        """Events of a family after position ``after`` (None: from now), as soon as there are."""
        after = self._feed_end if after is None else after
        deadline = asyncio.get_running_loop().time() + timeout_s
        self._watched[family_id] = deadline + _WATCHED_S
        while True:
            end = self._feed_end
            found = [
                event
                for position, event in self._feed
                if position > after and family_id in (None, event.family_id)
            ]
            left = deadline - asyncio.get_running_loop().time()
            if found or left <= 0:
                return end, found
            await _wait_on(self._fed, left)

    async def put_workspace(self, settings: WorkspaceSettings) -> None:
        """Register a workspace's settings and start its stores."""
        await self._wiring.registry.put_workspace(settings)
        self.open_scope(settings.scope)

    async def workspaces(self) -> list[WorkspaceSettings]:
        return await self._wiring.registry.workspaces()

    async def put_agent(self, digest: str, blob: bytes) -> None:
        await self._wiring.registry.put_agent(digest, blob)

    async def family(self, session_id: str) -> list[SessionSummary]:
        """The summaries of a session's whole family. NotFound if the session is unknown."""
        place = await self._wiring.registry.locate(session_id)
        return await self._wiring.registry.family(place.scope, place.family_id)

    async def sign_audit(self, text: str) -> str:
        """An exported audit log with the cluster's signature."""
        return sign_audit(self._wiring.keyring, text)

    async def place_of(self, session_id: str) -> Place:
        """The scope and family of a session. NotFound if it is unknown."""
        return await self._wiring.registry.locate(session_id)

    async def audit_strands(self, scope: str) -> list[StrandKey]:
        """The entities of a workspace that have an audit strand."""
        return await strands(self._wiring, scope)

    async def audit_report(self, strand: StrandKey) -> Report:
        """One strand, read and verified."""
        return await report(self._wiring, strand)

    async def page(self, query: SessionQuery, after: str | None, count: int) -> SessionPage:
        """Root sessions, the newest first: up to ``count`` of those after a cursor."""
        return await self._wiring.registry.page(query, after, count)

    async def running(self) -> list[str]:
        """Root sessions with work in flight, or that had when they were last heard of."""
        return await self._wiring.registry.running()

    async def working(self) -> list[str]:
        """Root sessions whose runs are under way now. Others that look so were interrupted."""
        await self.begin()
        found = await asyncio.gather(*(self._working(name) for name in list(self._ready)))
        return [id for ids in found for id in ids]

    async def find(self, fragment: str) -> list[str]:
        """Ids of root sessions that begin with ``fragment``, and of sessions that end with it."""
        return await self._wiring.registry.find(fragment)

    async def open(self, scope: str) -> None:
        """Start a scope's stores: somebody did not find them, whatever we believe."""
        self._scopes.pop(scope, None)
        self.open_scope(scope)

    async def scope_names(self) -> list[str]:
        """The scopes whose stores are running."""
        return list(self._scopes)

    async def status(self) -> ClusterStatus:
        """Hosts, and what waits."""
        await self.begin()
        hosts = [
            HostStatus(host.name, host.pid, len(host.sessions))
            for host in self._pool.hosts.values()
        ]
        return ClusterStatus(
            hosts, self._pool.most, sum(self._waiting.values()), list(self._scopes)
        )

    def open_scope(self, scope: str) -> None:
        """Start a scope's stores unless they run."""
        if scope not in self._scopes:
            self._launcher.open_scope(scope)
            self._scopes[scope] = None

    # --- hosts ---------------------------------------------------------------------------

    def _start_host(self) -> str:
        name = f"{HOST_PREFIX}{self._wiring.new_id()}"
        self._pool.add(name)
        self._launcher.start(name)
        self._in_background(self._make_ready(name))
        return name

    def _start_another(self) -> None:
        starting = [name for name in self._pool.hosts if name not in self._ready]
        if not starting and self._pool.wants_another:
            self._start_host()

    async def _make_ready(self, name: str) -> None:
        with contextlib.suppress(Unavailable, TimeoutError):
            async with asyncio.timeout(_START_LIMIT_S):
                await self._launcher.host(name).warm()
        self._ready.add(name)
        self._in_background(self._stay_with(name))
        await self._notify()

    async def _stay_with(self, name: str) -> None:
        """Hear of a host's death when it happens, and not with the next ping."""
        with contextlib.suppress(TroupeError):
            await self._launcher.host(name).stay()
        await self._ping(name)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_PING_EVERY_S)
            await asyncio.gather(*(self._ping(name) for name in list(self._pool.hosts)))

    async def _ping(self, name: str) -> None:
        try:
            async with asyncio.timeout(_PING_LIMIT_S):
                pid, live = await self._launcher.host(name).ping()
        except TimeoutError:
            self._missed[name] = self._missed.get(name, 0) + 1
            if self._missed[name] >= _MISSED_PINGS and name in self._ready:
                self._launcher.kill(name)
                await self._gone(name)
        except Unavailable:
            if name in self._ready:
                await self._gone(name)
        else:
            self._missed.pop(name, None)
            self._ready.add(name)
            if host := self._pool.hosts.get(name):
                host.pid = pid
                self._pool.sync(name, live)

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
        self._ready.discard(name)
        self._missed.pop(name, None)
        held = self._pool.remove(name)
        self._gate.lost(name)
        while len(self._pool.hosts) < self._warm:
            self._start_host()
        await self._notify()
        if held:
            self._in_background(self._revive(set(held)))

    async def _revive_unheld(self) -> None:
        running = await self._wiring.registry.running()
        await self._revive({id for id in running if self._pool.locate(id) is None})

    async def _revive(self, lost: set[str]) -> None:
        """Bring back what was at work, so many on each host at a time that all get their turn."""
        registry = self._wiring.registry
        at_work = lost.intersection(await registry.running())
        by_host: dict[str, list[tuple[str, str]]] = {}
        for session_id, place in (await registry.places(sorted(at_work))).items():
            self.open_scope(place.scope)
            host = self._host_of(session_id)
            by_host.setdefault(host, []).append((session_id, place.scope))
        await asyncio.gather(*(self._resume(host, ones) for host, ones in by_host.items()))

    async def _resume(self, host: str, sessions: list[tuple[str, str]]) -> None:
        """If the host dies meanwhile, what it holds by then is revived as any other."""
        with contextlib.suppress(TroupeError):
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

    def _in_background(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _wait(self, limit_s: float) -> None:
        await _wait_on(self._changed, limit_s)


async def _wait_on(condition: asyncio.Condition, limit_s: float) -> None:
    async with condition:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await condition.wait()
