"""The cluster of one schedule: the real hosts and stores, and what befalls their processes."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import random
from collections.abc import Callable
from typing import TypeVar

from retinue.actors.domain.errors import RetinueError
from retinue.actors.domain.permissions.boundary import Boundary
from retinue.actors.domain.permissions.policy import Policy
from retinue.actors.domain.values.ids import uuid7
from retinue.actors.domain.values.keyring import Keyring
from retinue.actors.durable.runtime import Runtime
from retinue.actors.ports import DirectoryPort, HostPort, Registry, Stores
from retinue.actors.requests import SessionAt
from retinue.actors.session.host import SessionHost
from retinue.actors.stores.table import STORES, StoreSpec, handles
from retinue.actors.views import WorkspaceSettings
from retinue.cluster.local import reaper
from tests.simulation.faults import Actor, FaultyJournal, Network, Weather
from tests.simulation.loop import Loop, Process
from tests.simulation.processes import KILLED, SWEPT, Agent, SimulatedProcesses, kill
from tests.simulation.registry import Books, SimulatedDirectory, SimulatedRegistry
from tests.simulation.witness import Witness

P = TypeVar("P")

EPOCH_US = 1_800_000_000_000_000
"""The time at which every schedule begins, in microseconds."""

SCOPE = "workspace"
ROOT = "/tmp"  # a directory that is there
STORE_NAMES = {spec.actor_name(SCOPE): spec for spec in STORES}

KEYRING = Keyring(bytes(range(32)))

_MOST_SKEW_US = 5_000_000
_RESTART_S = 0.05
_PING_EVERY_S = 0.1
_HOSTS = 2


class SimulatedWiring(Runtime):
    """Its ids come from the schedule's randomness."""

    entropy: random.Random

    def new_id(self) -> str:
        return uuid7(self.clock(), self.entropy.randbytes(10))


class Cluster:
    """Processes with hosts and stores in them, started, killed, paused and taken for dead."""

    def __init__(self, loop: Loop, rng: random.Random, journal: Witness) -> None:
        self.loop = loop
        self.rng = rng
        self.journal = journal
        self.outside = contextvars.copy_context()
        self.weather = Weather(rng)
        self.weather.begin(loop.time)
        self.network = Network(rng, self.weather, self.outside)
        self.directory = SimulatedDirectory(self, SCOPE, self.outside)
        self.books = Books()
        self.books.workspaces[SCOPE] = WorkspaceSettings(SCOPE, ROOT, Policy(), Boundary(ROOT))
        self.hosts: dict[str, Actor] = {}
        self.zombies: list[Actor] = []
        self.agents: list[Agent] = []
        self.down = False
        """Whether everything is being taken down, or is down."""
        self.handles = handles(self._find)
        self._started = 0

    def start(self) -> None:
        """Start the stores and the first hosts."""
        for name in STORE_NAMES:
            self._start_store(name)
        for _ in range(_HOSTS):
            self._start_host()

    def now(self) -> int:
        """The time outside of all processes, in microseconds."""
        return EPOCH_US + int(self.loop.time() * 1_000_000)

    def any_host(self) -> str:
        """The name of a host, if there is any."""
        return self.rng.choice(list(self.hosts) or ["nobody"])

    def all_hosts(self) -> list[str]:
        """The names of the hosts."""
        return list(self.hosts)

    def has_host(self, name: str) -> bool:
        """Whether a host is there, and not taken for dead."""
        return name in self.hosts

    # --- implements StoreProvider and HostProvider ----------------------------------------

    async def stores(self, workspace_id: str) -> Stores:
        return self.handles

    def host(self, name: str) -> HostPort:
        return self.network.proxy(HostPort, name, patient=False)

    def _find(self, spec: StoreSpec[P]) -> P:
        return self.network.proxy(spec.port, spec.actor_name(SCOPE))

    # --- what befalls processes ----------------------------------------------------------

    async def misfortunes(self) -> None:
        """Let things happen to processes, at times and in an order that the schedule draws."""
        rng = self.rng
        kinds = (
            self._kill_host,
            self._kill_host,
            self._host_taken_for_dead,
            self._host_taken_for_dead,
            self._pause_host,
            self._kill_store,
            self._store_taken_for_dead,
            self._pause_store,
            self._outage,
            self._kill_agent,
            self._kill_agent,
            self._take_down,
        )
        for _ in range(rng.randrange(5)):
            await asyncio.sleep(rng.expovariate(1 / 0.08))
            if self.weather.calm:
                return
            if not self.down:
                rng.choice(kinds)()

    def heal(self) -> None:
        """From now on nothing goes wrong; zombies that are paused wake up."""
        self.weather.calm = True
        for actor in (*self.zombies, *self.network.actors.values()):
            self.loop.resume(actor.process)

    def _kill_host(self) -> None:
        actor = self.rng.choice(list(self.hosts.values()))
        self.weather.count("kill host")
        actor.process.alive = False
        self._replace_host(actor)

    def _kill_agent(self) -> None:
        if self.agents:
            self.weather.count("kill agent")
            kill(self.rng.choice(self.agents), KILLED, self.weather.delay())

    def _take_down(self) -> None:
        """Kill everything in the order of `retinue.cluster.local.reaper`, and start it later."""
        self.weather.count("take down")
        self.down = True
        self.loop.create_task(self._sweep(), context=self.outside.copy())

    async def _sweep(self) -> None:
        rng = self.rng
        agents = list(self.agents)
        actors = [*self.network.actors.values(), *self.zombies]
        doomed: list[Actor | Agent] = [*actors, *agents]
        is_agent = {at for at, one in enumerate(doomed) if isinstance(one, Agent)}
        for wave in reaper.waves(set(range(len(doomed))), is_agent):
            for at in rng.sample(sorted(wave), len(wave)):
                await asyncio.sleep(rng.uniform(0.0, 0.002))
                one = doomed[at]
                if isinstance(one, Agent):
                    kill(one, SWEPT, 0.0)
                else:
                    one.process.alive = False
        for actor in actors:
            self.network.remove(actor)
        self._end_agents_of_the_dead()
        self.hosts.clear()
        await asyncio.sleep(rng.uniform(0.01, 0.3))
        self.down = False
        self.directory = SimulatedDirectory(self, SCOPE, self.outside)
        self.start()
        for session_id in list(self.books.running):
            self.loop.create_task(self._resume(session_id), context=self.outside.copy())

    async def _resume(self, session_id: str) -> None:
        """As a user does, with everything that was at work."""
        while session_id in self.books.running:
            host = self.host(self.directory.host_of(session_id))
            try:
                await host.resume(SessionAt(session_id, SCOPE))
            except RetinueError:
                await asyncio.sleep(_PING_EVERY_S)
            else:
                return

    def _end_agents_of_the_dead(self) -> None:
        """Nobody serves them any more, and nobody hears that they end."""
        for agent in list(self.agents):
            if not agent.host.alive:
                agent.process.alive = False
                self.agents.remove(agent)

    def _die(self, process: Process) -> None:
        """A process ends by itself, and is replaced if it is one that should be there."""
        process.alive = False
        self._end_agents_of_the_dead()
        for actor in self.network.all_of(process):
            if self.down:  # nothing is put in its place
                self.network.remove(actor)
            elif actor.name in STORE_NAMES:
                self._replace_store(actor)
            elif actor.name in self.hosts:
                self._replace_host(actor)
            else:
                self.network.remove(actor)

    def _host_taken_for_dead(self) -> None:
        """Paused, or cut off and busy: its sessions go on elsewhere, and then it wakes up."""
        actor = self.rng.choice(list(self.hosts.values()))
        self.weather.count("zombie host")
        if self.rng.random() < 0.7:
            self._pause(actor)
        self.zombies.append(actor)
        self._replace_host(actor)

    def _pause_host(self) -> None:
        self.weather.count("pause host")
        self._pause(self.rng.choice(list(self.hosts.values())))

    def _kill_store(self) -> None:
        actor = self._some_store()
        if actor:
            self.weather.count("kill store")
            actor.process.alive = False
            self._replace_store(actor)

    def _store_taken_for_dead(self) -> None:
        actor = self._some_store()
        if actor:
            self.weather.count("zombie store")
            if self.rng.random() < 0.7:
                self._pause(actor)
            self.zombies.append(actor)
            self._replace_store(actor)

    def _pause_store(self) -> None:
        actor = self._some_store()
        if actor:
            self.weather.count("pause store")
            self._pause(actor)

    def _outage(self) -> None:
        self.weather.outage(self.rng.uniform(0.01, 0.3))

    def _some_store(self) -> Actor | None:
        return self.network.actors.get(self.rng.choice(list(STORE_NAMES)))

    def _pause(self, actor: Actor) -> None:
        actor.process.paused = True
        self._after(self.rng.uniform(0.01, 0.5), lambda: self.loop.resume(actor.process))

    def _replace_host(self, actor: Actor) -> None:
        del self.hosts[actor.name]
        self.network.remove(actor)
        self._end_agents_of_the_dead()
        if len(self.hosts) < _HOSTS:
            self._start_host()
        held = self.directory.forget(actor.name)
        self.loop.create_task(self._revive(actor.name, held), context=self.outside.copy())

    async def _revive(self, lost: str, held: list[str]) -> None:
        """As the real directory does: roots with work in flight go on elsewhere."""
        self.directory.slots.lost(lost, held)
        await asyncio.sleep(self.weather.delay())
        for session_id in held:
            if session_id in self.books.running:
                host = self.host(self.directory.host_of(session_id))
                try:
                    await host.resume_all([(session_id, SCOPE)])
                except RetinueError:
                    continue
        while self.directory.slots.has_orphans:
            await asyncio.sleep(_PING_EVERY_S)
            await asyncio.gather(*(self._ping(name) for name in self.hosts))

    async def _ping(self, name: str) -> None:
        with contextlib.suppress(RetinueError, TimeoutError):
            async with asyncio.timeout(_PING_EVERY_S):
                _, live = await self.host(name).ping()
            self.directory.slots.seen(name, [session_id for session_id, _ in live])

    def _replace_store(self, actor: Actor) -> None:
        current = self.network.actors.get(actor.name)
        self.network.remove(actor)
        if current is actor:
            self._after(_RESTART_S * self.rng.random(), lambda: self._start_store(actor.name))

    def _start_store(self, name: str) -> None:
        if self.down or name in self.network.actors:
            return
        process, runtime = self._process(name)
        spec = STORE_NAMES[name]
        actor = process.context.run(spec.make, runtime, SCOPE, self._find)
        self.network.add(Actor(name, process, actor))

    def _start_host(self) -> None:
        self._started += 1
        name = f"host/{self._started}"
        process, runtime = self._process(name)
        processes = SimulatedProcesses(process, self.agents, self._agent_process, self._delay)
        host = process.context.run(
            lambda: SessionHost(runtime, self, _Hosts(self), name, processes=processes)
        )
        actor = self.hosts[name] = Actor(name, process, host)
        self.network.add(actor)

    def _process(self, name: str) -> tuple[Process, Runtime]:
        skew = self.rng.randrange(-_MOST_SKEW_US, _MOST_SKEW_US)
        process = self.outside.copy().run(lambda: Process(name, skew))
        journal = FaultyJournal(
            self.journal, self.weather, self.outside, lambda: self._die(process)
        )
        registry: Registry = SimulatedRegistry(self.books)
        runtime = SimulatedWiring(journal, registry, KEYRING, lambda: self.now() + skew)
        runtime.on_fenced = lambda: self._die(process)
        runtime.entropy = self.rng
        return process, runtime

    def _agent_process(self, name: str) -> Process:
        return self.outside.copy().run(lambda: Process(name))

    def _delay(self) -> float:
        """Between a host and its agents there is no network."""
        return self.rng.uniform(0.0, 0.002)

    def _after(self, delay: float, callback: Callable[[], None]) -> None:
        self.loop.call_later(delay, callback, context=self.outside)


class _Hosts:
    """The hosts and the directory, as a host sees them."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def host(self, name: str) -> HostPort:
        return self._cluster.host(name)

    @property
    def directory(self) -> DirectoryPort:
        return self._cluster.directory
