"""The hosts: found, started, pinged and let go. Work of a dead host goes on elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Protocol

from retinue.actors.domain.errors import RetinueError, Unavailable
from retinue.actors.durable.runtime import Runtime
from retinue.actors.ports import ManagedPort
from retinue.actors.tasks import Tasks
from retinue.cluster.directory.placement import Placement
from retinue.cluster.directory.pool import Host, Pool
from retinue.cluster.directory.slots import Slots
from retinue.cluster.directory.stores import Stores
from retinue.cluster.names import HOST_PREFIX

PING_EVERY_S = 1.0
_PING_LIMIT_S = 5.0
_MISSED_PINGS = 6
_REVIVED_AT_ONCE = 64
_LEAVE_LIMIT_S = 20.0


class HostControl(ManagedPort, Protocol):
    """A host, with calls that only its own process can answer."""

    async def node(self) -> str: ...


class HostLauncher(Protocol):
    """Starts, calls and ends hosts."""

    def start(self, name: str, node: str | None) -> None: ...
    def kill(self, name: str) -> None: ...
    def known(self) -> list[str]: ...
    def host(self, name: str) -> HostControl: ...


class Hosts:
    """The processes behind a `Pool`; keeps the pool up to date."""

    def __init__(
        self,
        runtime: Runtime,
        launcher: HostLauncher,
        pool: Pool,
        warm: int,
        slots: Slots,
        stores: Stores,
        tasks: Tasks,
    ) -> None:
        self.placement: Placement = Placement(pool, warm, self._start)
        self._runtime = runtime
        self._launcher = launcher
        self._pool = pool
        self._slots = slots
        self._stores = stores
        self._tasks = tasks

    async def find(self) -> list[Host]:
        """Adds the hosts that run already, with their sessions, and returns them."""
        for name in self._launcher.known():
            self._pool.add(name, now())
        found = list(self._pool.hosts.values())
        await asyncio.gather(*(self.ping(host.name) for host in found))
        for host in found:
            self._tasks.start(self._make_ready(host.name))
        return found

    async def ping_all(self) -> None:
        """Pings every host that runs."""
        await asyncio.gather(*(self.ping(name) for name in self._pool.ready()))

    async def ping(self, name: str) -> None:
        """Updates the sessions that a host holds; replaces one that is gone or hangs for long."""
        try:
            async with asyncio.timeout(_PING_LIMIT_S):
                pid, live = await self._launcher.host(name).ping()
        except TimeoutError:
            if host := self._pool.hosts.get(name):
                host.missed += 1
                if host.missed >= _MISSED_PINGS and host.ready:
                    self._launcher.kill(name)
                    self._gone(name)
        except Unavailable:
            if self._pool.is_ready(name):
                self._gone(name)
        else:
            if host := self._pool.hosts.get(name):
                host.pid, host.ready, host.missed = pid, True, 0
                self._pool.sync(name, live, now())
            self._slots.seen(name, [session_id for session_id, _ in live])

    async def working(self) -> list[str]:
        """The root sessions whose runs are under way."""
        found = await asyncio.gather(*(self._working(name) for name in self._pool.ready()))
        return [id for ids in found for id in ids]

    def let_go(self, names: list[str]) -> None:
        """Ends hosts: idle sessions there are written out, running ones go on elsewhere."""
        for name in names:
            self._tasks.start(self._let_go(name))

    async def revive_all_but(self, held: set[str]) -> None:
        """Revives sessions with work except for ``held``, those that hosts had at the start.

        That includes any that were placed since.
        """
        await self._revive(set(await self._runtime.registry.running()) - held)

    def _start(self, node: str | None) -> str:
        name = f"{HOST_PREFIX}{self._runtime.new_id()}"
        self._launcher.start(name, node)
        self._tasks.start(self._make_ready(name))
        return name

    async def _make_ready(self, name: str) -> None:
        """Wait until a host runs, however long it lacks room, and then stay with it."""
        control = self._launcher.host(name)
        node = ""
        with contextlib.suppress(Unavailable):
            node = await control.node()
            await control.warm()
        if host := self._pool.hosts.get(name):
            host.node, host.ready, host.since = node, True, now()
        self._tasks.start(self._stay_with(name))
        self._slots.changed.notify()

    async def _stay_with(self, name: str) -> None:
        """Notice a host's death at once, and not only at the next ping."""
        with contextlib.suppress(RetinueError):
            await self._launcher.host(name).stay()
        await self.ping(name)

    async def _working(self, name: str) -> list[str]:
        try:
            async with asyncio.timeout(_PING_LIMIT_S):
                return await self._launcher.host(name).working()
        except Unavailable:
            return []
        except TimeoutError:  # too busy to answer is not idle
            host = self._pool.hosts.get(name)
            return list(host.sessions) if host else []

    async def _let_go(self, name: str) -> None:
        if self._pool.is_ready(name):
            with contextlib.suppress(Unavailable, TimeoutError):
                async with asyncio.timeout(_LEAVE_LIMIT_S):
                    await self._launcher.host(name).leave()
            await self.ping(name)  # what was called there meanwhile is to go on elsewhere, too
        self._launcher.kill(name)
        self._gone(name)

    def _gone(self, name: str) -> None:
        """Frees the slots of a dead host, and has roots that were at work go on elsewhere."""
        held = self._pool.remove(name)
        self._slots.lost(name, held)
        self.placement.keep_warm(now())
        if held:
            self._tasks.start(self._revive(set(held)))

    async def _revive(self, lost: set[str]) -> None:
        """Revive the lost sessions that were at work, in batches, so that all get their turn."""
        registry = self._runtime.registry
        at_work = lost.intersection(await registry.running())
        by_host: dict[str, list[tuple[str, str]]] = {}
        for session_id, place in (await registry.places(sorted(at_work))).items():
            self._stores.open(place.workspace_id)
            host = self.placement.any_host(session_id, now())
            by_host.setdefault(host, []).append((session_id, place.workspace_id))
        await asyncio.gather(*(self._resume(host, ones) for host, ones in by_host.items()))

    async def _resume(self, host: str, sessions: list[tuple[str, str]]) -> None:
        """Resume sessions at a host; if it dies meanwhile, they are revived like any others."""
        with contextlib.suppress(RetinueError):
            for at in range(0, len(sessions), _REVIVED_AT_ONCE):
                await self._launcher.host(host).resume_all(sessions[at : at + _REVIVED_AT_ONCE])


def now() -> float:
    """The time of the loop, in seconds."""
    return asyncio.get_running_loop().time()
