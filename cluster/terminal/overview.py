"""The data of `retinue ps`, `tree` and `show`, gathered, and as JSON. Reads summaries only.

A session stored as running without a host that has its run was interrupted: its host died.
"""

from __future__ import annotations

import asyncio
from collections.abc import Container, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, cast

from retinue.actors.domain.budget.state import Hold
from retinue.actors.domain.session.result import Result
from retinue.actors.domain.values.json_value import JsonValue
from retinue.actors.domain.values.money import usd_text
from retinue.actors.domain.values.rfc3339 import to_rfc3339
from retinue.actors.views import SessionSummary
from retinue.cluster.client.tree import SessionTree, build_tree

if TYPE_CHECKING:
    from retinue.cluster.client.budgets import BudgetStatus
    from retinue.cluster.client.client import Retinue
    from retinue.cluster.client.inbox import InboxRequest
    from retinue.cluster.client.workspace import Workspace


INTERRUPTED = "interrupted"
HELD = "held"
_ACTIVE = ("running", "initialising")


@dataclass(frozen=True)
class Overview:
    """A family in one line. ``total`` is its whole spend in nano-USD."""

    summary: SessionSummary
    status: str
    agents: int
    total: int


@dataclass(frozen=True)
class Filters:
    """The choice of listed sessions: all, or those that match.

    ``state`` may also be ``interrupted``, or ``held``: at work in a workspace that is on hold.
    """

    workspace: Workspace | None = None
    user_id: str | None = None
    state: str | None = None
    since: datetime | None = None
    until: datetime | None = None


ALL = Filters()


async def list_sessions(
    retinue: Retinue, limit: int, filters: Filters = ALL, after: str | None = None
) -> tuple[list[Overview], str | None]:
    """The newest matching root sessions, ``limit`` of them after a cursor, and the next cursor.

    The first page of all sessions also has every one with work in flight or interrupted. States
    are matched as shown: a page may have fewer than ``limit`` sessions though others follow.
    """
    calls = retinue.calls
    newest = await retinue.sessions(
        workspace=filters.workspace,
        user_id=filters.user_id,
        state=_stored_as(filters.state),
        since=filters.since,
        until=filters.until,
        limit=limit,
        after=after,
    )
    unfinished = await calls.registry.running() if filters == ALL and after is None else []
    working = await calls.directory.working()
    known = {one.id for one in newest}
    ids = [one.id for one in newest] + [id for id in reversed(unfinished) if id not in known]
    families = await asyncio.gather(*(calls.queries.family(id) for id in ids))
    live = {*working, *await calls.directory.working()}  # some have begun while we were reading
    held = await calls.queries.holds()
    listed = [
        summed_up(id, family, live, held)
        for id, family in zip(ids, families, strict=True)
        if family
    ]
    return [one for one in listed if filters.state in (None, one.status)], newest.next


def summed_up(
    root: str, family: Iterable[SessionSummary], live: set[str], held: Container[str] = ()
) -> Overview:
    """A family in one line; ``held`` are the workspaces that are on hold."""
    nodes = list(build_tree(root, list(family)).walk())
    summary = nodes[0].summary
    status = status_of(summary, root in live)
    return Overview(
        summary,
        HELD if status in _ACTIVE and summary.workspace_id in held else status,
        len(nodes) - 1,
        sum(node.summary.spent for node in nodes),
    )


async def get_tree(retinue: Retinue, session_id: str) -> tuple[SessionTree, bool]:
    """The tree below a session, and whether its family is at work now."""
    calls = retinue.calls
    before = await calls.directory.working()
    family = await calls.queries.family(session_id)
    live = {*before, *await calls.directory.working()}
    return build_tree(session_id, family), bool(live.intersection(one.id for one in family))


def _stored_as(state: str | None) -> tuple[str, ...]:
    """The stored statuses of sessions that may be shown as ``state``."""
    if state is None:
        return ()
    return _ACTIVE if state in (INTERRUPTED, HELD) else (state,)


def status_of(summary: SessionSummary, live: bool) -> str:
    """A session's status; ``live`` says whether its family is at work."""
    return INTERRUPTED if summary.status in _ACTIVE and not live else summary.status


def hold_text(hold: Hold) -> str:
    """A hold in words."""
    return f"on hold since {to_rfc3339(hold.since)} by {hold.by}: {hold.why}"


def hold_json(hold: Hold | None) -> JsonValue:
    """A hold as the commands print it; None if there is none."""
    if hold is None:
        return None
    return {"by": hold.by, "why": hold.why, "since": to_rfc3339(hold.since)}


def overview_json(one: Overview) -> JsonValue:
    """A line of `ps` as JSON."""
    return {
        **_summary_json(one.summary, one.status),
        "agents": one.agents,
        "total_usd": usd_text(one.total),
    }


def tree_json(tree: SessionTree, live: bool) -> JsonValue:
    """A session and all below it as JSON."""
    return {
        **_summary_json(tree.summary, status_of(tree.summary, live)),
        "total_usd": usd_text(tree.total),
        "children": [tree_json(child, live) for child in tree.children],
    }


def result_json(result: Result) -> dict[str, JsonValue]:
    """A result as JSON; ``output`` is a text, or the JSON value that the agent returned."""
    return {
        "session": result.session_id,
        "run": result.run_id,
        "status": result.status,
        "success": result.success,
        "output": cast(JsonValue, result.value) if result.success else result.output,
        "error": result.error,
        "cost_usd": usd_text(result.cost),
        "duration_s": result.duration_s,
        "tool_calls": result.tool_calls,
    }


def budget_json(status: BudgetStatus) -> dict[str, JsonValue]:
    """Spend, reservations and cap, as JSON."""
    return {
        "spent_usd": usd_text(status.spent),
        "reserved_usd": usd_text(status.reserved),
        "max_usd": None if status.max is None else usd_text(status.max),
    }


def request_json(request: InboxRequest) -> JsonValue:
    """A request for approval as JSON."""
    return {
        "id": request.id,
        "session": request.session_id,
        "family": request.family_id,
        "description": request.description,
        "context": request.context,
        "risk": request.risk,
        "priority": request.priority,
        "deferred": request.deferred,
        "created": to_rfc3339(request.created_at),
    }


def _summary_json(summary: SessionSummary, status: str) -> dict[str, JsonValue]:
    return {
        "id": summary.id,
        "parent": summary.parent_id,
        "label": summary.label,
        "status": status,
        "error": summary.error,
        "cost_usd": usd_text(summary.spent),
        "isolation": summary.isolation,
        "turns": summary.turns,
        "messages": summary.messages,
        "workspace": summary.workspace_path,
        "user": summary.user_id,
        "created": to_rfc3339(summary.created_at),
        "updated": to_rfc3339(summary.updated_at),
    }
