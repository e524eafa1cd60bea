"""Which host a session goes to, and when another host is needed. Pure bookkeeping.

1. A root session with a process of its own gets an actor to itself, as long as there may be one.
2. Sub-agents with processes of their own go where least is going on, near their parent in doubt.
3. Shared sessions are packed: near their parent first, on as many hosts as there are processors.
4. One idle host is kept ready, until there are as many as there may be.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

PROCESSES_PER_HOST = 16
SHARED_PER_HOST = 20_000

Isolation = Literal["process", "shared"]


@dataclass
class Host:
    """A host as the directory knows it."""

    name: str
    sessions: dict[str, Isolation] = field(default_factory=dict)
    pid: int | None = None
    draining: bool = False

    @property
    def idle(self) -> bool:
        return not self.sessions

    def count(self, isolation: Isolation) -> int:
        """How many sessions of a kind are there."""
        return sum(1 for kind in self.sessions.values() if kind == isolation)


class Pool:
    """The hosts and what they hold."""

    def __init__(self, most: int, processors: int) -> None:
        self.hosts: dict[str, Host] = {}
        self.most = most
        self.processors = processors
        self._where: dict[str, str] = {}

    def locate(self, session_id: str) -> str | None:
        """The host that holds a session."""
        return self._where.get(session_id)

    def add(self, name: str) -> Host:
        """A host that was started or found."""
        return self.hosts.setdefault(name, Host(name))

    def remove(self, name: str) -> dict[str, Isolation]:
        """A host that is gone; what it held."""
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

    def sync(self, name: str, live: Iterable[tuple[str, Isolation]]) -> None:
        """Take a host's word for what is live there; what is on its way there stays."""
        for session_id, isolation in live:
            if self._where.get(session_id) is None:
                self.put(session_id, name, isolation)

    def for_root(self, isolation: Isolation) -> str | None:
        """A host for a root session; None if one has to be started for it first."""
        if isolation == "shared":
            return self._shared(None) if len(self._open()) >= self._wanted_shared() else None
        idle = next((host.name for host in self._open() if host.idle), None)
        if idle or len(self.hosts) < self.most:
            return idle
        return self._least("process", PROCESSES_PER_HOST)

    def for_children(self, isolation: Isolation, near: str, count: int) -> Iterator[str]:
        """Hosts for up to ``count`` sub-agents, fewer if there is no room for all."""
        hosts = self._open()
        if isolation == "shared":
            hosts = hosts[: self._wanted_shared()]
        load = {
            host.name: len(host.sessions) if isolation == "shared" else host.count(isolation)
            for host in hosts
        }
        room = SHARED_PER_HOST if isolation == "shared" else PROCESSES_PER_HOST
        for _ in range(count):
            name = min(load, key=lambda one: (load[one] - (one == near), one != near), default=None)
            if name is None or load[name] >= room:
                return
            load[name] += 1
            yield name

    @property
    def wants_another(self) -> bool:
        """Whether a further host should be started behind those in use."""
        if len(self.hosts) >= self.most:
            return False
        return len(self.hosts) < self._wanted_shared() or not any(
            host.idle for host in self._open()
        )

    def _open(self) -> list[Host]:
        return [host for host in self.hosts.values() if not host.draining]

    def _wanted_shared(self) -> int:
        return min(self.processors, self.most)

    def _shared(self, near: str | None) -> str | None:
        packed = self._open()[: self._wanted_shared()]
        best = min(
            packed,
            key=lambda host: (len(host.sessions), host.name != near),
            default=None,
        )
        return best.name if best and len(best.sessions) < SHARED_PER_HOST else None

    def _least(self, isolation: Isolation, room: int) -> str | None:
        best = min(self._open(), key=lambda host: host.count(isolation), default=None)
        return best.name if best and best.count(isolation) < room else None
