"""The progress of a family: counted from its events, corrected by its summaries.

Events are quick and may be lost; summaries are exact and cost a look at each session. Pure.
"""

# mypy: enable-error-code="exhaustive-match"
# Every kind of event must be known here; what a newer host has to say passes by at run time.

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from retinue.actors.views import FeedEvent, SessionSummary

_FAILED = frozenset({"failed", "timed_out", "cancelled"})
_DONE = frozenset({"completed", "ended", "idle"})


@dataclass(frozen=True)
class Counts:
    """Sub-agents by state; the root sessions themselves are not counted."""

    running: int = 0
    finished: int = 0
    failed: int = 0
    queued: int = 0

    @property
    def total(self) -> int:
        return self.running + self.finished + self.failed + self.queued


@dataclass
class Seen:
    """The last known state of a session; ``since`` in microseconds."""

    label: str
    status: str
    since: int


class Progress:
    """The state of one or more root sessions and all below them. ``spent`` in nano-USD."""

    def __init__(self, roots: Iterable[str]) -> None:
        self.roots: frozenset[str] = frozenset(roots)
        self.sessions: dict[str, Seen] = {}
        self.spent: int = 0
        self._spawned = 0

    def reset(self, summaries: Iterable[SessionSummary]) -> None:
        """Start again from the stored summaries."""
        known = list(summaries)
        children: dict[str, int] = {}
        for one in known:
            if one.parent_id:
                children[one.parent_id] = children.get(one.parent_id, 0) + 1
        self.sessions = {one.id: Seen(one.label, one.status, one.updated_at) for one in known}
        self.spent = sum(one.spent for one in known)
        self._spawned = sum(
            one.spawned if _active(one.status) else children.get(one.id, 0) for one in known
        )

    def apply(self, event: FeedEvent) -> None:
        """Take in an event."""
        match event.kind:
            case "run_started":
                self._put(event, "running")
            case "run_finished":
                self._put(event, "failed" if event.text else "completed")
            case "ended" | "cancelled":
                self._put(event, event.kind)
            case "spawned":
                self._spawned += event.count
            case "spent":
                self.spent += event.cost
            case "session_started" | "attempt_ended" | "authorized":
                pass  # the states and sums shown here stay as they are

    def counts(self) -> Counts:
        """The number of sub-agents in each state."""
        below = [one.status for id, one in self.sessions.items() if id not in self.roots]
        return Counts(
            running=sum(1 for status in below if _active(status)),
            finished=sum(1 for status in below if status in _DONE),
            failed=sum(1 for status in below if status in _FAILED),
            queued=max(self._spawned - len(below), 0),
        )

    def running(self, most: int) -> list[Seen]:
        """The sessions at work now: the longest-running sub-agents, else the roots."""
        active = [(id, one) for id, one in self.sessions.items() if _active(one.status)]
        below = [one for id, one in active if id not in self.roots]
        shown = below or [one for _, one in active]
        return sorted(shown, key=lambda one: one.since)[:most]

    def _put(self, event: FeedEvent, status: str) -> None:
        self.sessions[event.session_id] = Seen(event.label, status, event.at)


def _active(status: str) -> bool:
    return status in ("running", "initialising")
