"""The placement of sessions on hosts, and the start of further hosts. Pure bookkeeping.

It reads no clock and waits for nothing: ``now`` is in seconds, of any clock that does not jump.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from retinue.actors.domain.session.settings import Isolation
from retinue.cluster.directory.pool import Pool
from retinue.cluster.status import Node

PATIENCE_S = 20.0
"""Seconds that a root session waits for a host of its own to start."""


class Placement:
    """Decides over a `Pool`."""

    def __init__(self, pool: Pool, warm: int, start: Callable[[str | None], str]) -> None:
        """``warm``: the number of hosts kept however idle; ``start(node)`` starts one, by its name.

        Without a node, the host starts once there is room anywhere.
        """
        self.pool = pool
        self._warm = warm
        self._start = start

    def root(self, session_id: str, isolation: Isolation, now: float) -> str | None:
        """Assigns a host to a root session and returns it; None until a host of its own runs.

        If hosts fail to start for `PATIENCE_S` seconds, the session shares one that runs.
        """
        found = self.pool.locate(session_id) or self._assign(session_id, isolation, now)
        return found if found and self.pool.is_ready(found) else None

    def any_host(self, session_id: str, now: float) -> str:
        """Assigns a host to a session at once and returns it; the host may not have started yet."""
        found = self.pool.locate(session_id)
        if found is None:
            best = next(self.pool.for_children("shared", "", 1), None)
            found = best or self._start_host(now)
            self.pool.put(session_id, found, "shared")
        return found

    def for_children(self, isolation: Isolation, near: str, count: int, now: float) -> list[str]:
        """Hosts for sub-agents of the host ``near``; if too few, another one is started."""
        found = list(self.pool.for_children(isolation, near, count))
        if len(found) < count and self.pool.may_grow and self.pool.starting_since() is None:
            self._start_host(now)
        return found

    def granted(self, hosts: Mapping[str, str], isolation: Isolation, now: float) -> None:
        """Note the hosts of sub-agents that were granted slots, by session id."""
        for session_id, host in hosts.items():
            self.pool.put(session_id, host, isolation)
        self._start_another(now)

    def see(self, nodes: Iterable[Node], now: float, idle_s: float) -> list[str]:
        """Take in the current nodes, and return the hosts to let go, each once.

        These are the hosts of nodes that are to go, and those idle for ``idle_s`` seconds.
        """
        before = set(self._leaving())
        if self.pool.see(nodes, now):
            self._start_another(now)
        for name in self.pool.spare(now - idle_s, self._warm):
            self.pool.hosts[name].leaving = True
        return [name for name in self._leaving() if name not in before]

    def keep_warm(self, now: float) -> None:
        """Start hosts until the warm number of them stays."""
        while len(self.pool.hosts) - len(self._leaving()) < self._warm:
            self._start_host(now)

    def _assign(self, session_id: str, isolation: Isolation, now: float) -> str | None:
        """Find a host for a root, or start one; if hosts fail to start, share one."""
        since = self.pool.starting_since()
        grows = since is None or now - since < PATIENCE_S
        found = self.pool.for_root(isolation, grows)
        if found is None:
            if not (grows and self.pool.may_grow):
                return None
            found = self._start_host(now)
        self.pool.put(session_id, found, isolation)
        self._start_another(now)
        return found

    def _leaving(self) -> list[str]:
        return [host.name for host in self.pool.hosts.values() if host.leaving]

    def _start_another(self, now: float) -> None:
        if self.pool.wants_another:
            self._start_host(now)

    def _start_host(self, now: float) -> str:
        """Start a host on a node with room; without room, Ray starts it once there is some."""
        node = self.pool.node_for_host()
        name = self._start(node)
        self.pool.add(name, now, node or "")
        if node:
            self.pool.take_room(node)
        return name
