"""The classes that Ray runs: those of `actors`, wired to Redis and to one another."""

from __future__ import annotations

import asyncio
import gc
import os
from dataclasses import dataclass
from typing import cast

from actors.host import SessionHost
from actors.ports import (
    BudgetPort,
    CapabilitiesPort,
    DirectoryPort,
    HostPort,
    PermissionsPort,
    Stores,
)
from actors.stores import BudgetActor, CapabilitiesActor, PermissionsActor
from actors.watchdog import exit_process
from actors.wiring import Wiring
from cluster import ray_nodes, remote
from cluster.audit_log import CLUSTER_SCOPE
from cluster.directory import HOST_PREFIX, Directory, HostControl
from cluster.pool import Pool
from cluster.ray_nodes import Node
from cluster.redis.connection import Connection
from cluster.redis.journal import RedisJournal
from cluster.redis.registry import RedisRegistry
from cluster.remote import Proxy
from cluster.settings import ClusterSettings

_COLLECT_AFTER = (50_000, 20, 20)
"""Objects made, and collections of the generation before, between two collections."""


def wire(settings: ClusterSettings) -> Wiring:
    """Journal, registry and key for a process of this cluster."""
    connection = Connection(settings.redis_url, settings.namespace)
    keyring = settings.keyring()
    return Wiring(RedisJournal(connection), RedisRegistry(connection, keyring), keyring)


def wire_store(settings: ClusterSettings) -> Wiring:
    """As `wire`; a store that was taken over ends its process, and Ray restarts the right one."""
    wiring = wire(settings)
    wiring.on_fenced = lambda: exit_process("another actor has taken over what this one kept")
    return wiring


class _Process:
    """What every actor's process does and says of itself."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)
        gc.collect()
        gc.freeze()  # what was imported stays: looking for garbage in it is a fifth of the work
        gc.set_threshold(*_COLLECT_AFTER)

    async def process_id(self) -> int:
        return os.getpid()


class Budget(_Process, BudgetActor):
    """``budget/<workspace>``."""

    def __init__(self, settings: ClusterSettings, scope: str) -> None:
        super().__init__(wire_store(settings), scope)


class Allowances(_Process, PermissionsActor):
    """``allowances/<workspace>``."""

    def __init__(self, settings: ClusterSettings, scope: str) -> None:
        super().__init__(wire_store(settings), scope)


class Capabilities(_Process, CapabilitiesActor):
    """``capabilities``."""

    def __init__(self, settings: ClusterSettings) -> None:
        super().__init__(wire_store(settings), CLUSTER_SCOPE)


class SessionActor(_Process, SessionHost):
    """``host/<id>``."""

    def __init__(self, settings: ClusterSettings, name: str) -> None:
        peers = Peers(settings)
        super().__init__(wire(settings), peers, peers, name, settings.idle_s)

    async def node(self) -> str:
        """The id of the node that it is on."""
        return ray_nodes.here()


class DirectoryActor(_Process, Directory):
    """``directory``."""

    def __init__(self, settings: ClusterSettings) -> None:
        pool = Pool(settings.max_hosts, settings.host_cpus, settings.host_memory)
        launcher = RayLauncher(settings)
        super().__init__(wire(settings), launcher, pool, settings.warm_hosts, settings.idle_s)


class RayLauncher:
    """Implements `cluster.directory.Launcher`."""

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
        return cast(HostControl, Proxy(name, self._namespace, restarts=False))

    def open_scope(self, scope: str) -> None:
        start_stores(self._settings, scope)

    async def nodes(self) -> list[Node]:
        return await asyncio.to_thread(ray_nodes.nodes)

    async def drain(self, node_id: str) -> None:
        await asyncio.to_thread(ray_nodes.drain, node_id)

    async def stores_on(self, node_id: str) -> list[str]:
        found = await asyncio.to_thread(ray_nodes.actors_on, node_id, self._namespace)
        return [name for name in found if not name.startswith(HOST_PREFIX)]

    async def move(self, name: str) -> None:
        await asyncio.to_thread(ray_nodes.move, name, self._namespace)


@dataclass(frozen=True)
class StoreHandles:
    """The stores of one scope, by handle."""

    budget: BudgetPort
    permissions: PermissionsPort
    capabilities: CapabilitiesPort


class Peers:
    """The other actors of the cluster, by name: a StoreProvider and a HostProvider."""

    def __init__(self, settings: ClusterSettings) -> None:
        self._settings = settings
        self._stores: dict[str, Stores] = {}
        self._hosts: dict[str, HostPort] = {}
        self._directory = cast(DirectoryPort, Proxy(remote.DIRECTORY, settings.namespace))

    async def stores(self, scope: str) -> Stores:
        """Handles of the scope's stores, which are started where they are not running."""
        found = self._stores.get(scope)
        if found is None:
            namespace = self._settings.namespace

            async def start() -> None:
                await asyncio.to_thread(start_stores, self._settings, scope)

            found = StoreHandles(
                cast(BudgetPort, Proxy(remote.budget_name(scope), namespace, start=start)),
                cast(PermissionsPort, Proxy(remote.allowances_name(scope), namespace, start=start)),
                cast(CapabilitiesPort, Proxy(remote.CAPABILITIES, namespace, start=start)),
            )
            self._stores[scope] = found
        return found

    def host(self, name: str) -> HostPort:
        found = self._hosts.get(name)
        if found is None:
            namespace = self._settings.namespace
            found = cast(HostPort, Proxy(name, namespace, restarts=False))
            self._hosts[name] = found
        return found

    @property
    def directory(self) -> DirectoryPort:
        return self._directory


def start_stores(settings: ClusterSettings, scope: str) -> None:
    """Start the named actors of a scope, and the cluster's capability store."""
    remote.start_store(Budget, remote.budget_name(scope), settings, settings, scope)
    remote.start_store(Allowances, remote.allowances_name(scope), settings, settings, scope)
    remote.start_store(Capabilities, remote.CAPABILITIES, settings, settings)
