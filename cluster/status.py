"""The cluster's report on itself: plain data for clients, and for the placement of hosts."""

from __future__ import annotations

from msgspec import Struct


class Node(Struct, frozen=True):
    """A node. Memory in bytes; free resources are those left for actors that ask for them."""

    id: str
    address: str
    name: str = ""
    alive: bool = True
    draining: bool = False
    cpus: float = 0.0
    free_cpus: float = 0.0
    free_memory: float = 0.0

    def is_called(self, text: str) -> bool:
        """Returns whether ``text`` is its id, a prefix of that, its name or its address."""
        return text in (self.address, self.name) or (bool(text) and self.id.startswith(text))


class HostStatus(Struct, frozen=True):
    """A host as `retinue ps` and `retinue doctor` show it. ``node`` is the id of its node."""

    name: str
    pid: int | None
    sessions: int
    node: str = ""
    draining: bool = False


class NodeStatus(Struct, frozen=True):
    """A node, with the number of our hosts, live sessions and stores still on it."""

    id: str
    address: str
    name: str
    draining: bool
    hosts: int
    sessions: int
    stores: int = 0


class ClusterStatus(Struct, frozen=True):
    """The directory's knowledge of the cluster."""

    hosts: list[HostStatus]
    max_hosts: int
    queued: int
    workspaces: list[str]
    nodes: list[NodeStatus] = []
