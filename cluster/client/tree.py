"""A family of sessions as a tree, with the cost of each branch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal

from retinue.actors.domain.errors import NotFound
from retinue.actors.domain.values.money import to_usd
from retinue.actors.views import SessionSummary


@dataclass(frozen=True)
class SessionTree:
    """A session and its sub-agents.

    ``summary`` is the line about the session, ``children`` are the trees of those that it spawned,
    in the order in which they were made.
    """

    summary: SessionSummary
    children: list[SessionTree] = field(default_factory=list)

    @property
    def id(self) -> str:
        """The session's id."""
        return self.summary.id

    @property
    def total(self) -> int:
        """The spend of the session and all below it, in nano-USD."""
        return sum(node.summary.spent for node in self.walk())

    @property
    def cost_usd(self) -> Decimal:
        """The session's own spend, in USD."""
        return to_usd(self.summary.spent)

    @property
    def total_usd(self) -> Decimal:
        """The spend of the session and all below it, in USD."""
        return to_usd(self.total)

    def walk(self) -> Iterator[SessionTree]:
        """This node and all below it, parents first."""
        waiting = [self]
        while waiting:
            node = waiting.pop()
            yield node
            waiting.extend(reversed(node.children))


@dataclass(frozen=True)
class FamilyStats:
    """The sub-agents of a family by what became of them.

    ``active`` ones run and ``queued`` ones wait; ``available`` may start at once; ``succeeded``,
    ``failed``, ``cancelled`` and ``timed_out`` have ended so.
    """

    active: int
    queued: int
    available: int
    succeeded: int
    failed: int
    cancelled: int
    timed_out: int


def family_stats(summaries: list[SessionSummary], spawned: int, max_concurrent: int) -> FamilyStats:
    """Counts a family's sub-agents by summary; ``spawned``: the number of them asked for."""
    below = [one.status for one in summaries if one.parent_id is not None]
    active = below.count("running") + below.count("initialising")
    return FamilyStats(
        active=active,
        queued=max(spawned - len(below), 0),
        available=max(max_concurrent - active, 0),
        succeeded=below.count("completed"),
        failed=below.count("failed"),
        cancelled=below.count("cancelled"),
        timed_out=below.count("timed_out"),
    )


def build_tree(root: str, summaries: list[SessionSummary]) -> SessionTree:
    """The tree below ``root``; raises NotFound if it is not among the summaries."""
    below: dict[str | None, list[SessionSummary]] = {}
    nodes: dict[str, SessionTree] = {}
    for summary in sorted(summaries, key=lambda one: (one.created_at, one.id)):
        below.setdefault(summary.parent_id, []).append(summary)
        nodes[summary.id] = SessionTree(summary)
    if root not in nodes:
        raise NotFound(f"session {root}: there is no such session", session=root)
    for parent, children in below.items():
        if parent in nodes:
            nodes[parent].children.extend(nodes[child.id] for child in children)
    return nodes[root]
