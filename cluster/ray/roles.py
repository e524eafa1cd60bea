"""The classes that Ray runs: those of `actors`, wired to Redis and to one another."""

from __future__ import annotations

import asyncio
import functools
import gc
import os
import time
from collections.abc import Awaitable, Callable
from typing import ClassVar, TypeVar, cast

from retinue.actors.agent.process.watchdog import exit_process
from retinue.actors.domain.errors import StoreUnavailable
from retinue.actors.durable.runtime import Runtime
from retinue.actors.ports import DirectoryPort, HostPort, PeerPort, Stores
from retinue.actors.session.host import SessionHost
from retinue.actors.stores.table import STORES, Find, StoreSpec, handles
from retinue.actors.telemetry import tracing
from retinue.cluster.directory.directory import Directory
from retinue.cluster.directory.hosts import HostControl
from retinue.cluster.directory.pool import Pool
from retinue.cluster.directory.port import ClusterDirectoryPort
from retinue.cluster.local.state import cluster_key
from retinue.cluster.names import DIRECTORY, HOST_PREFIX, workspace_of
from retinue.cluster.ray import actors as remote
from retinue.cluster.ray import nodes
from retinue.cluster.ray.actors import proxy
from retinue.cluster.ray.metrics import Exporter
from retinue.cluster.redis.connection import Connection
from retinue.cluster.redis.journal import RedisJournal
from retinue.cluster.redis.registry import RedisRegistry
from retinue.cluster.settings import ClusterSettings
from retinue.cluster.status import Node

P = TypeVar("P")

_COLLECT_AFTER = (50_000, 20, 20)
"""Objects made, and collections of the generation before, between two collections."""


def wire(settings: ClusterSettings) -> Runtime:
    """Journal, registry and key for a process of this cluster."""
    connection = Connection.of(settings)
    keyring = cluster_key(settings)
    return Runtime(RedisJournal(connection), RedisRegistry(connection, keyring), keyring)


def wire_store(settings: ClusterSettings) -> Runtime:
    """As `wire`; a store that was taken over ends its process, and Ray restarts the right one."""
    runtime = wire(settings)
    runtime.on_fenced = lambda: exit_process("another actor has taken over what this one kept")
    return runtime


class Process:
    """The base of every actor: its process's set-up, and its answers about itself."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)
        gc.collect()
        gc.freeze()  # what was imported stays: looking for garbage in it is a fifth of the work
        gc.set_threshold(*_COLLECT_AFTER)
        Exporter().start()
        tracing.set_up()

    async def process_id(self) -> int:
        return os.getpid()

    async def node_id(self) -> str:
        return remote.node().id


Method = Callable[..., Awaitable[object]]


def _noted(method: Method) -> Method:
    @functools.wraps(method)
    async def call(store: _WorkspaceStore, *arguments: object) -> object:
        store.calls += 1
        try:
            return await method(store, *arguments)
        finally:
            store.calls -= 1
            store.last_used = time.monotonic()

    return call


class _Store(Process):
    """A store, wired to Redis and to the stores that it calls."""

    spec: ClassVar[StoreSpec[object]]

    def __init__(self, settings: ClusterSettings, workspace_id: str) -> None:
        called = map(caller(settings, workspace_id), self.spec.calls)
        super().__init__(wire_store(settings), workspace_id, *called)


class _WorkspaceStore(_Store):
    """A store of one workspace, which knows since when nobody has called it."""

    def __init_subclass__(cls) -> None:
        for name in dir(cls):
            method = getattr(cls, name)
            own = name.startswith("_") or hasattr(_WorkspaceStore, name)
            if not own and asyncio.iscoroutinefunction(method):
                setattr(cls, name, _noted(method))

    def __init__(self, settings: ClusterSettings, workspace_id: str) -> None:
        super().__init__(settings, workspace_id)
        self.calls = 0
        self.last_used = time.monotonic()

    async def idle_for(self) -> float:
        """Seconds since the last call ended; 0 while one is under way."""
        return 0.0 if self.calls else time.monotonic() - self.last_used


def _class_of(spec: StoreSpec[object]) -> type:
    """The class that Ray runs for a store: `Budget`, say, which its processes are called after."""
    bases = (_Store if spec.shared else _WorkspaceStore, cast(type, spec.actor))
    made = type(spec.name.capitalize(), bases, {"__module__": __name__, "spec": spec})
    globals()[made.__name__] = made  # where nodes find it, and need not be sent it
    return made


STORE_CLASSES = {spec.name: _class_of(spec) for spec in STORES}


class SessionActor(Process, SessionHost):
    """``host/<id>``."""

    def __init__(self, settings: ClusterSettings, name: str) -> None:
        peers = Peers(settings)
        super().__init__(wire(settings), peers, peers, name, settings.idle_s)

    async def node(self) -> str:
        """The id of the node that it is on."""
        return nodes.here()


class DirectoryActor(Process, Directory):
    """``directory``."""

    def __init__(self, settings: ClusterSettings) -> None:
        pool = Pool(settings.max_hosts, settings.host_cpus, settings.host_memory)
        launcher = RayLauncher(settings)
        super().__init__(
            wire(settings),
            launcher,
            pool,
            settings.warm_hosts,
            settings.idle_s,
            remote.was_restarted(),
        )
        self._settings = settings

    async def require_redis(self, durable: bool) -> None:
        """StoreUnavailable, naming this node, if Redis can't be reached or used from here."""
        connection = Connection.of(self._settings)
        try:
            await connection.check(durable)
        except StoreUnavailable as error:
            address = remote.node().address
            raise StoreUnavailable(f"node {address}: {error.message}", node=address) from None
        finally:
            await connection.close()


# Others call them so; the type checker sees to it that they can.
_HOST: type[HostPort] = SessionActor
_CONTROL: type[HostControl] = SessionActor
_DIRECTORY: type[ClusterDirectoryPort] = DirectoryActor


class RayLauncher:
    """Implements `retinue.cluster.directory.directory.Launcher`."""

    def __init__(self, settings: ClusterSettings) -> None:
        self._settings = settings
        self._namespace = settings.namespace

    def start(self, name: str, node: str | None) -> None:
        remote.start_host(SessionActor, name, self._settings, node, self._settings, name)

    def kill(self, name: str) -> None:
        remote.kill(name, self._namespace)

    def known(self) -> list[str]:
        return [name for name in remote.named(self._namespace) if name.startswith(HOST_PREFIX)]

    def host(self, name: str) -> HostControl:
        return proxy(HostControl, name, self._namespace, restarts=False)

    def open_stores(self, workspace_id: str) -> None:
        start_stores(self._settings, workspace_id)

    async def nodes(self) -> list[Node]:
        return await asyncio.to_thread(nodes.nodes)

    async def drain(self, node_id: str) -> None:
        await asyncio.to_thread(nodes.drain, node_id)

    async def stores_on(self, node_id: str) -> list[str]:
        found = await asyncio.to_thread(nodes.actors_on, node_id, self._namespace)
        return [name for name in found if not name.startswith(HOST_PREFIX)]

    async def idle_stores(self) -> dict[str, float]:
        names = await asyncio.to_thread(remote.named, self._namespace)
        stores = [name for name in names if workspace_of(name)]
        asked = [proxy(_WorkspaceStore, one, self._namespace, restarts=False) for one in stores]
        answers = await asyncio.gather(*(one.idle_for() for one in asked), return_exceptions=True)
        return {
            name: answer
            for name, answer in zip(stores, answers, strict=True)
            if isinstance(answer, float)
        }

    async def move(self, name: str) -> None:
        await asyncio.to_thread(nodes.move, name, self._namespace)


class Peers:
    """The other actors of the cluster, by name: a StoreProvider and a HostProvider."""

    def __init__(self, settings: ClusterSettings) -> None:
        self._settings = settings
        self._stores: dict[str, Stores] = {}
        self._hosts: dict[str, PeerPort] = {}
        self._directory = proxy(ClusterDirectoryPort, DIRECTORY, settings.namespace)

    async def stores(self, workspace_id: str) -> Stores:
        """Handles of the workspace's stores, which are started where they are not running."""
        found = self._stores.get(workspace_id)
        if found is None:
            found = self._stores[workspace_id] = handles(caller(self._settings, workspace_id))
        return found

    def host(self, name: str) -> PeerPort:
        found = self._hosts.get(name)
        if found is None:
            found = proxy(PeerPort, name, self._settings.namespace, restarts=False)
            self._hosts[name] = found
        return found

    @property
    def directory(self) -> DirectoryPort:
        return self._directory


def caller(settings: ClusterSettings, workspace_id: str) -> Find:
    """Gives what calls the stores of a workspace, which are started where they are not running."""

    async def start() -> None:
        await asyncio.to_thread(start_stores, settings, workspace_id)

    def find(spec: StoreSpec[P]) -> P:
        name = spec.actor_name(workspace_id)
        return proxy(spec.port, name, settings.namespace, start=start)

    return find


def start_stores(settings: ClusterSettings, workspace_id: str, node: str | None = None) -> None:
    """Start the stores of a workspace, and the shared ones, on ``node`` if there is room."""
    for spec in STORES:
        name, owner = spec.actor_name(workspace_id), spec.owner(workspace_id)
        remote.start_store(STORE_CLASSES[spec.name], name, settings, settings, owner, node=node)
