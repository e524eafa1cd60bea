"""What the cluster says of itself: plain data for its clients, and for whoever places hosts."""

from __future__ import annotations

from msgspec import Struct


class Node(Struct, frozen=True):
    """A node. Memory in bytes; what is free is free for actors that ask for it."""

    id: str
    address: str
    name: str = ""
    alive: bool = True
    draining: bool = False
    cpus: float = 0.0
    free_cpus: float = 0.0
    free_memory: float = 0.0

    def is_called(self, text: str) -> bool:
        """Whether ``text`` is its id, the beginning of that, its name or its address."""
        return text in (self.address, self.name) or (bool(text) and self.id.startswith(text))


class HostStatus(Struct, frozen=True):
    """A host as `retinue ps` and `retinue doctor` show it. ``node`` is the id of its node."""

    name: str
    pid: int | None
    sessions: int
    node: str = ""
    draining: bool = False


class NodeStatus(Struct, frozen=True):
    """A node, and what of ours is still on it; ``sessions`` are those that are live there."""

    id: str
    address: str
    name: str
    draining: bool
    hosts: int
    sessions: int
    stores: int = 0


class ClusterStatus(Struct, frozen=True):
    """What the directory knows about the cluster."""

    hosts: list[HostStatus]
    max_hosts: int
    queued: int
    workspaces: list[str]
    nodes: list[NodeStatus] = []
