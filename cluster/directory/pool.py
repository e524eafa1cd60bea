"""The choice of a session's host, and of the node for another one. Pure bookkeeping.

1. A root session with a process of its own gets an actor to itself, as long as there may be one.
2. Shared sessions are packed on as many hosts as there are processors.
3. Sub-agents go to the least busy host; their parent's node, with its data, is worth a queue.
4. Hosts are spread over the nodes: the next one goes to the node with the fewest per processor,
   and a node that joins gets one at once.
5. One idle host is kept ready where there is room for it, until there are as many as there may be.
6. A host that was idle for long is let go, first on the least busy node, so that nodes empty. A
   node that is to go gets nothing new.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from msgspec import structs

from retinue.actors.domain.session.settings import Isolation
from retinue.cluster.status import Node

PROCESSES_PER_HOST = 16
SHARED_PER_HOST = 20_000

NODE_WORTH = 8
"""The number of extra sessions allowed at a host on the parent's node."""

HOST_WORTH = 8
"""The number of extra processes allowed at the parent's own host, compared with others on its node:
those would have to be called for each start and result. Shared ones are spread for their work."""

ON_ITS_WAY_S = 30.0
"""Seconds after which a session that has not reached its host is no longer on its way there."""


@dataclass
class Host:
    """A host as the directory knows it."""

    name: str
    sessions: dict[str, Isolation] = field(default_factory=dict)
    pid: int | None = None
    node: str = ""
    ready: bool = False
    leaving: bool = False
    """True if it gets nothing new, and ends once its sessions are written out or elsewhere."""
    missed: int = 0
    """The number of consecutive pings without an answer."""
    since: float = 0.0
    """The time in seconds since which it has been starting, or without sessions."""
    awaited: dict[str, float] = field(default_factory=dict)
    """The sessions expected there but missing, each with the time since which it is."""

    @property
    def idle(self) -> bool:
        return not self.sessions

    def count(self, isolation: Isolation) -> int:
        """The number of sessions of a kind."""
        return sum(1 for kind in self.sessions.values() if kind == isolation)


class Pool:
    """The hosts and their sessions."""

    def __init__(self, most: int, host_cpus: float = 0.0, host_memory: float = 0.0) -> None:
        """``most``: the maximum number of hosts; the rest: what each asks for, memory in bytes."""
        self.hosts: dict[str, Host] = {}
        self.nodes: dict[str, Node] = {}
        self.most = most
        self._cpus = host_cpus
        self._memory = host_memory
        self._where: dict[str, str] = {}
        self._joined: set[str] = set()

    @property
    def processors(self) -> int:
        """The number of processors of the nodes that stay, at least one."""
        return max(int(sum(node.cpus for node in self._staying())), 1)

    def see(self, nodes: Iterable[Node], now: float) -> bool:
        """Take in Ray's view of its nodes; ``now`` in seconds, as everywhere here.

        Returns whether a node has joined that has no host yet.
        """
        known, self.nodes = self.nodes, {node.id: node for node in nodes}
        if known:
            self._joined |= self.nodes.keys() - known.keys()
        self._joined.intersection_update(node.id for node in self._staying())
        self._joined.difference_update(host.node for host in self.hosts.values())
        for host in self.hosts.values():
            node = self.nodes.get(host.node)
            if node and node.draining:
                host.leaving = True
            if host.sessions:
                host.since = now
        return bool(self._joined)

    def ready(self) -> list[str]:
        """The hosts that run."""
        return [host.name for host in self.hosts.values() if host.ready]

    def is_ready(self, name: str) -> bool:
        """Returns whether a host is known and running."""
        host = self.hosts.get(name)
        return host is not None and host.ready

    def locate(self, session_id: str) -> str | None:
        """The host that holds a session."""
        return self._where.get(session_id)

    def add(self, name: str, now: float = 0.0, node: str = "") -> Host:
        """Add a host that was started or found."""
        return self.hosts.setdefault(name, Host(name, node=node, since=now))

    def remove(self, name: str) -> dict[str, Isolation]:
        """Remove a host that is gone, and return the sessions it held."""
        host = self.hosts.pop(name, None)
        if host is None:
            return {}
        for session_id in host.sessions:
            self._where.pop(session_id, None)
        return host.sessions

    def put(self, session_id: str, host: str, isolation: Isolation) -> None:
        """Note that a session is, or will be, at a host."""
        self.forget(session_id)
        self._where[session_id] = host
        self.add(host).sessions[session_id] = isolation

    def forget(self, session_id: str) -> None:
        """Note that a session is nowhere."""
        name = self._where.pop(session_id, None)
        if name in self.hosts:
            self.hosts[name].sessions.pop(session_id, None)

    def sync(self, name: str, live: Iterable[tuple[str, Isolation]], now: float) -> None:
        """Take in a host's live sessions; those on their way there stay listed for a while."""
        there = dict(live)
        for session_id, isolation in there.items():
            if self._where.get(session_id) is None:
                self.put(session_id, name, isolation)
        host = self.hosts[name]
        host.awaited = {id: host.awaited.get(id, now) for id in host.sessions if id not in there}
        for session_id, since in list(host.awaited.items()):
            if now - since > ON_ITS_WAY_S:
                self.forget(session_id)

    def for_root(self, isolation: Isolation, grows: bool = True) -> str | None:
        """The host for a root session; None if one has to be started for it first.

        ``grows``: False to choose an existing host even if another one would be better.
        """
        if isolation == "shared":
            enough = len(self._staying_hosts()) >= self._wanted_shared()
            return self._shared() if enough or not grows else None
        if idle := [host for host in self._open() if host.idle]:
            load = self._load()
            return min(idle, key=lambda host: load[host.node]).name
        if grows and self.may_grow:
            return None
        return self._least("process", PROCESSES_PER_HOST)

    def starting_since(self) -> float | None:
        """The time in seconds since which a host has been starting; None if none is."""
        waiting = [host.since for host in self._staying_hosts() if not host.ready]
        return min(waiting, default=None)

    def node_for_host(self) -> str | None:
        """The node for the next host; None if no node has room."""
        hosts = Counter(host.node for host in self.hosts.values())
        room = [
            node
            for node in self._staying()
            if node.free_cpus >= self._cpus and node.free_memory >= self._memory
        ]
        best = min(room, key=lambda node: hosts[node.id] / max(node.cpus, 0.1), default=None)
        return best.id if best else None

    def take_room(self, node_id: str) -> None:
        """Note that a host is on its way to a node, until Ray has counted it."""
        if node := self.nodes.get(node_id):
            self.nodes[node_id] = structs.replace(
                node,
                free_cpus=node.free_cpus - self._cpus,
                free_memory=node.free_memory - self._memory,
            )

    def spare(self, before: float, keep: int) -> list[str]:
        """The hosts that have been idle since ``before`` and may go, so that ``keep`` stay.

        Those on the least busy node come first, the newest first among them.
        """
        hosts = self._staying_hosts()
        load = self._load()
        idle = [host for host in reversed(hosts) if host.idle and host.since < before]
        idle.sort(key=lambda host: (host.ready, load[host.node]))
        return [host.name for host in idle[: max(len(hosts) - keep, 0)]]

    def for_children(self, isolation: Isolation, near: str, count: int) -> Iterator[str]:
        """Hosts for up to ``count`` sub-agents, fewer if there is no room for all."""
        hosts = self._packed() if isolation == "shared" else self._open()
        load = {
            host.name: len(host.sessions) if isolation == "shared" else host.count(isolation)
            for host in hosts
        }
        own = 1 if isolation == "shared" else HOST_WORTH
        worth = {host.name: self._worth(host, near, own) for host in hosts}
        room = SHARED_PER_HOST if isolation == "shared" else PROCESSES_PER_HOST
        for _ in range(count):
            free = [one for one in load if load[one] < room]
            name = min(free, key=lambda one: (load[one] - worth[one], -worth[one]), default=None)
            if name is None:
                return
            load[name] += 1
            yield name

    def bare(self) -> list[Node]:
        """Nodes without a host."""
        used = {host.node for host in self.hosts.values()}
        return [node for node in self.nodes.values() if node.alive and node.id not in used]

    @property
    def may_grow(self) -> bool:
        """True if another host may be started."""
        return len(self.hosts) < self.most

    @property
    def wants_another(self) -> bool:
        """Returns whether a spare host should be started behind those in use."""
        hosts = self._staying_hosts()
        if not self.may_grow or self.starting_since() is not None:
            return False
        if self.node_for_host() is None:
            return False
        enough = len(hosts) >= self._wanted_shared() and any(host.idle for host in hosts)
        return not enough or bool(self._joined)

    def _open(self) -> list[Host]:
        """Hosts that take sessions: those that run, unless there are none yet."""
        hosts = self._staying_hosts()
        return [host for host in hosts if host.ready] or hosts

    def _packed(self) -> list[Host]:
        """The hosts for shared sessions: the first ones of each node, as many as are wanted."""
        before: Counter[str] = Counter()
        ranked: list[tuple[int, Host]] = []
        for host in self._open():
            ranked.append((before[host.node], host))
            before[host.node] += 1
        ranked.sort(key=lambda one: one[0])
        return [host for _, host in ranked[: self._wanted_shared()]]

    def _staying_hosts(self) -> list[Host]:
        return [host for host in self.hosts.values() if not host.leaving]

    def _staying(self) -> list[Node]:
        return [node for node in self.nodes.values() if node.alive and not node.draining]

    def _load(self) -> Counter[str]:
        """The number of sessions on each node."""
        load: Counter[str] = Counter()
        for host in self.hosts.values():
            load[host.node] += len(host.sessions)
        return load

    def _worth(self, host: Host, near: str, own: int) -> int:
        """The number of extra sessions allowed at a host for being on the node of ``near``.

        ``own``: the further number for being ``near`` itself.
        """
        parent = self.hosts.get(near)
        same_node = parent is not None and parent.node == host.node
        return NODE_WORTH * same_node + own * (host.name == near)

    def _wanted_shared(self) -> int:
        return min(self.processors, self.most)

    def _shared(self) -> str | None:
        best = min(self._packed(), key=lambda host: len(host.sessions), default=None)
        return best.name if best and len(best.sessions) < SHARED_PER_HOST else None

    def _least(self, isolation: Isolation, room: int) -> str | None:
        best = min(self._open(), key=lambda host: host.count(isolation), default=None)
        return best.name if best and best.count(isolation) < room else None
