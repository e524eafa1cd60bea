"""How many sub-agents of a family run at once, and who is next. Pure bookkeeping.

A sub-agent that waits for its own sub-agents does not count: otherwise a family at its limit
could wait for itself. Where several spawns wait, they take turns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class _Spawn:
    family: str
    parent: str
    limit: int
    held: dict[str, str] = field(default_factory=dict)


class Gate:
    """The spawns under way, by name; each holds slots for its children."""

    def __init__(self) -> None:
        self._spawns: dict[str, _Spawn] = {}
        self._families: dict[str, dict[str, _Spawn]] = {}
        self.queued: dict[str, int] = {}

    def open(self, name: str, family: str, limit: int) -> None:
        """Note a spawn, or the limit it runs with now."""
        spawn = self._spawns.get(name)
        if spawn is None:
            spawn = self._spawns[name] = _Spawn(family, name.partition("/")[0], limit)
            self._families.setdefault(family, {})[name] = spawn
        spawn.limit = limit

    def done(self, name: str, children: list[str]) -> None:
        """Take back the slots of children that have ended."""
        spawn = self._spawns.get(name)
        if spawn:
            for child in children:
                spawn.held.pop(child, None)

    def is_open(self, name: str) -> bool:
        """Whether a spawn is known and not over."""
        return name in self._spawns

    def close(self, name: str) -> None:
        """Forget a spawn and what it holds."""
        spawn = self._spawns.pop(name, None)
        if spawn is None:
            return
        family = self._families[spawn.family]
        del family[name]
        if not family:
            del self._families[spawn.family]

    def grant(
        self, name: str, want: list[str], place: Callable[[int], list[str]]
    ) -> dict[str, str]:
        """Slots for some of ``want``; those granted before are granted again."""
        spawn = self._spawns[name]
        granted = {child: spawn.held[child] for child in want if child in spawn.held}
        fresh = [child for child in want if child not in spawn.held]
        room = min(self._room(spawn), spawn.limit - len(spawn.held), len(fresh))
        for child, host in zip(fresh, place(max(room, 0)), strict=False):
            spawn.held[child] = granted[child] = host
        return granted

    def lost(self, host: str) -> None:
        """A host is gone, and with it the slots there."""
        for spawn in self._spawns.values():
            for child in [child for child, where in spawn.held.items() if where == host]:
                del spawn.held[child]

    def active(self, family: str) -> int:
        """Sub-agents of a family that run and do not wait for others."""
        spawns = self._families.get(family, {})
        held = sum(len(spawn.held) for spawn in spawns.values())
        waiting_parents = {spawn.parent for spawn in spawns.values()} - {family}
        return max(held - len(waiting_parents), 0)

    def _room(self, spawn: _Spawn) -> int:
        limit = max(one.limit for one in self._families[spawn.family].values())
        return limit - self.active(spawn.family)
