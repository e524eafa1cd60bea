"""The limit on a family's concurrent sub-agents, and whose turn is next. Pure bookkeeping.

A sub-agent that waits for its own sub-agents does not count: otherwise a family at its limit
could wait for itself. Where several spawns wait, they take turns.

A spawn whose parent died with its host is an orphan until the parent, at another host, asks again.
Nobody starts anything in its name meanwhile: it keeps the slots of those of its sub-agents that
are seen running, and no others, or a family at its limit could wait for a parent that has died.
One that was started again waits for nobody until it asks.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field


@dataclass
class _Spawn:
    family: str
    parent: str
    limit: int
    held: dict[str, str] = field(default_factory=dict)
    orphan: bool = False


@dataclass
class _Family:
    spawns: dict[str, _Spawn] = field(default_factory=dict)
    holders: set[str] = field(default_factory=set)

    @property
    def limit(self) -> int:
        return max(spawn.limit for spawn in self.spawns.values())

    @property
    def active(self) -> int:
        waiting = {spawn.parent for spawn in self.spawns.values() if not spawn.orphan}
        return len(self.holders) - len(waiting & self.holders)


class ConcurrencyLimit:
    """The spawns under way, by name; each holds slots for its children."""

    def __init__(self) -> None:
        self._spawns: dict[str, _Spawn] = {}
        self._families: dict[str, _Family] = {}

    def open(self, name: str, family: str, limit: int) -> None:
        """Note a spawn, or the limit it runs with now."""
        spawn = self._spawns.get(name)
        if spawn is None:
            spawn = self._spawns[name] = _Spawn(family, name.partition("/")[0], limit)
            self._families.setdefault(family, _Family()).spawns[name] = spawn
        spawn.limit, spawn.orphan = limit, False

    def done(self, name: str, children: Collection[str]) -> None:
        """Take back the slots of children that have ended."""
        if spawn := self._spawns.get(name):
            self._free(spawn, children)

    def is_open(self, name: str) -> bool:
        """Returns whether a spawn is known, not over, and not an orphan."""
        spawn = self._spawns.get(name)
        return spawn is not None and not spawn.orphan

    def close(self, name: str) -> list[str]:
        """Forget a spawn, and return the children that held a slot."""
        spawn = self._spawns.pop(name, None)
        if spawn is None:
            return []
        held = list(spawn.held)
        self._free(spawn, held)
        family = self._families[spawn.family]
        del family.spawns[name]
        if not family.spawns:
            del self._families[spawn.family]
        return held

    def grant(
        self, name: str, want: list[str], place: Callable[[int], list[str]]
    ) -> dict[str, str]:
        """Grants slots to some of ``want``, as host by child; slots held already are included."""
        spawn = self._spawns[name]
        family = self._families[spawn.family]
        granted = {child: spawn.held[child] for child in want if child in spawn.held}
        fresh = [child for child in want if child not in spawn.held]
        room = min(family.limit - family.active, spawn.limit - len(spawn.held), len(fresh))
        for child, host in zip(fresh, place(max(room, 0)), strict=False):
            spawn.held[child] = granted[child] = host
            family.holders.add(child)
        return granted

    def lost(self, host: str, sessions: Collection[str]) -> None:
        """Frees the slots of a host that is gone; spawns of its ``sessions`` become orphans."""
        for name, spawn in list(self._spawns.items()):
            self._free(spawn, [child for child, where in spawn.held.items() if where == host])
            spawn.orphan = spawn.orphan or spawn.parent in sessions
            if spawn.orphan:
                self._close_if_over(name)

    def seen(self, host: str, sessions: Collection[str]) -> None:
        """Frees orphans' slots at a host, except those of the ``sessions`` seen there."""
        for name, spawn in list(self._spawns.items()):
            if spawn.orphan:
                there = [child for child, where in spawn.held.items() if where == host]
                self._free(spawn, [child for child in there if child not in sessions])
                self._close_if_over(name)

    @property
    def has_orphans(self) -> bool:
        """True while the parent of any spawn has died and not come back."""
        return any(spawn.orphan for spawn in self._spawns.values())

    def active(self, family: str) -> int:
        """The number of a family's sub-agents that run and do not wait for others."""
        known = self._families.get(family)
        return known.active if known else 0

    def _free(self, spawn: _Spawn, children: Collection[str]) -> None:
        family = self._families[spawn.family]
        for child in children:
            if spawn.held.pop(child, None):
                family.holders.discard(child)

    def _close_if_over(self, name: str) -> None:
        if not self._spawns[name].held:
            self.close(name)
