"""The nodes below the hosts, as they join, are drained, or become idle."""

from __future__ import annotations

from typing import Protocol

from msgspec import structs

from retinue.actors.domain.errors import ClusterUnavailable, InvalidValue, NotFound
from retinue.cluster.directory.hosts import Hosts, now
from retinue.cluster.directory.pool import Pool
from retinue.cluster.names import DIRECTORY
from retinue.cluster.status import Node, NodeStatus

NODES_EVERY_S = 2.0
_SHOWN = 8


class NodeLauncher(Protocol):
    """Lists the nodes and their stores, and ends or moves these."""

    def kill(self, name: str) -> None: ...
    async def nodes(self) -> list[Node]: ...
    async def drain(self, node_id: str) -> None: ...
    async def stores_on(self, node_id: str) -> list[str]: ...
    async def move(self, name: str) -> None: ...


class Nodes:
    """Moves hosts and stores as nodes come and go."""

    def __init__(self, launcher: NodeLauncher, pool: Pool, hosts: Hosts, idle_s: float) -> None:
        """Ends hosts without a session, and stores on nodes without a host, after ``idle_s``."""
        self._launcher = launcher
        self._pool = pool
        self._hosts = hosts
        self._idle_s = idle_s
        self._bare: dict[str, float] = {}

    async def see(self) -> None:
        """Takes in nodes that joined or are to go, and lets go of unneeded hosts.

        Raises ClusterUnavailable while Ray does not answer.
        """
        nodes = await self._launcher.nodes()
        self._hosts.let_go(self._hosts.placement.see(nodes, now(), self._idle_s))
        bare = self._pool.bare() if self._pool.hosts else []
        self._bare = {node.id: self._bare.get(node.id, now()) for node in bare}
        for node in self._pool.bare():
            if node.draining:
                await self._move_stores(node.id)
            elif now() - self._bare.get(node.id, now()) > self._idle_s:
                self._bare[node.id] = now()
                await self._end_stores(node.id)

    async def drain(self, name: str) -> NodeStatus:
        """Moves a node's sessions and stores elsewhere; returns the node with all that is left.

        Raises NotFound or InvalidValue unless exactly one node has this name, ClusterUnavailable
        if no other node stays.
        """
        await self.see()
        node = find_node(name, list(self._pool.nodes.values()))
        if node.alive and not node.draining:
            nodes = self._pool.nodes.values()
            if not any(one.alive and not one.draining and one != node for one in nodes):
                raise ClusterUnavailable(
                    f"node {node.id[:_SHOWN]} is the only one: nothing on it has where to go"
                )
            await self._launcher.drain(node.id)
            await self.see()
        stores = await self._launcher.stores_on(node.id) if node.alive else []
        return structs.replace(self._status(node), draining=True, stores=len(stores))

    def statuses(self) -> list[NodeStatus]:
        """The living nodes, with the hosts and sessions on them."""
        return [self._status(node) for node in self._pool.nodes.values() if node.alive]

    def _status(self, node: Node) -> NodeStatus:
        hosts = [host for host in self._pool.hosts.values() if host.node == node.id]
        sessions = sum(len(host.sessions) for host in hosts)
        return NodeStatus(node.id, node.address, node.name, node.draining, len(hosts), sessions)

    async def _move_stores(self, node_id: str) -> None:
        stores = await self._launcher.stores_on(node_id)
        for store in sorted(stores, key=lambda one: one == DIRECTORY):  # itself last
            await self._launcher.move(store)

    async def _end_stores(self, node_id: str) -> None:
        """Ends a node's stores; callers start them again, nearer to a host."""
        for store in await self._launcher.stores_on(node_id):
            if store != DIRECTORY:
                self._launcher.kill(store)


def find_node(name: str, nodes: list[Node]) -> Node:
    """The one node called ``name``; raises NotFound or InvalidValue, listing the nodes."""
    called = [node for node in nodes if node.is_called(name)]
    found = [node for node in called if node.alive] or called
    if len(found) == 1:
        return found[0]
    there = ", ".join(f"{one.id[:_SHOWN]} ({one.address})" for one in nodes if one.alive)
    if found:
        raise InvalidValue(f"node {name}: {len(found)} nodes are called so, of {there}")
    raise NotFound(f"node {name}: there is no such node, but {there}")
