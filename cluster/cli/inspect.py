"""The commands that show sessions and budgets: `ps`, `tree`, `show`, `budget`, `approvals`."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

from retinue.actors.domain.budget.state import Hold
from retinue.actors.domain.errors import InvalidValue, NotFound
from retinue.actors.domain.values.ids import parse_user
from retinue.actors.domain.values.json_value import JsonValue
from retinue.actors.domain.values.money import to_nano, to_usd
from retinue.actors.session.listing import parse_cursor
from retinue.cluster.cli.brake import say_held
from retinue.cluster.cli.common import connected
from retinue.cluster.cli.lookup import find_request, find_session
from retinue.cluster.client.times import parse_moment
from retinue.cluster.terminal import render
from retinue.cluster.terminal.outcome import OK, print_json
from retinue.cluster.terminal.overview import (
    ALL,
    INTERRUPTED,
    Filters,
    budget_json,
    get_tree,
    hold_json,
    list_sessions,
    overview_json,
    request_json,
    result_json,
    status_of,
    tree_json,
)
from retinue.cluster.terminal.render import Folding, say

if TYPE_CHECKING:
    from retinue.actors.domain.permissions.approvals.request import ApprovalScope
    from retinue.cluster.client.budgets import BudgetStatus
    from retinue.cluster.client.client import Retinue
    from retinue.cluster.client.inbox import InboxRequest
    from retinue.cluster.client.workspace import Workspace

State: TypeAlias = Literal[
    "idle",
    "initialising",
    "running",
    "interrupted",
    "held",
    "completed",
    "failed",
    "timed_out",
    "cancelled",
    "ended",
]

_NO_CAP = "none"


@dataclass(frozen=True)
class PsOptions:
    """The options of `ps`: ``limit`` sessions from a cursor on; the others as they were typed."""

    workspace: Path | None
    user: str | None
    state: State | None
    since: str | None
    until: str | None
    limit: int
    after: str | None


async def ps(options: PsOptions, as_json: bool) -> int:
    """List the newest sessions that match; without a filter also all with work in flight."""
    now = time.time_ns() // 1000
    since, until = (
        None if text is None else parse_moment(text, field, now)
        for text, field in ((options.since, "--since"), (options.until, "--until"))
    )
    user = None if options.user is None else parse_user(options.user, "--user")
    parse_cursor(options.after, "--after")
    async with connected() as retinue:
        place = options.workspace
        workspace = None if place is None else await _workspace(retinue, place, register=False)
        filters = Filters(workspace, user, options.state, since, until)
        listed, following = await list_sessions(retinue, options.limit, filters, options.after)
        held = await _held(retinue)
        if as_json:
            print_json(
                {
                    "sessions": [overview_json(one) for one in listed],
                    "next": following,
                    "held": [
                        {"workspace": path, **cast("dict[str, JsonValue]", hold_json(hold))}
                        for path, hold in held
                    ],
                }
            )
        elif listed:
            render.show(render.sessions_table(listed, render.stdout().width))
        elif filters != ALL or options.after:
            say("retinue: no session fits")
        else:
            say("retinue: no sessions yet: `retinue run FILE:AGENT --prompt …` makes one")
        for path, hold in held:
            say_held(path, hold)
        if following and not as_json:
            say(f"retinue: --limit N shows more than {options.limit}; --after {following} goes on")
        _hint_at_resume([one.summary.id for one in listed if one.status == INTERRUPTED])
    return OK


async def tree(session_id: str, folding: Folding, as_json: bool) -> int:
    """Show a session and all below it, with costs."""
    async with connected() as retinue:
        session = await find_session(retinue, session_id)
        found, live = await get_tree(retinue, session.id)
        if as_json:
            print_json(tree_json(found, live))
        else:
            render.show(render.tree_view(found, live, folding))
        if status_of(found.summary, live) == INTERRUPTED:
            _hint_at_resume([found.summary.family_id])
    return OK


async def show(session_id: str, messages: int, as_json: bool) -> int:
    """Show all about one session."""
    async with connected() as retinue:
        session = await find_session(retinue, session_id)
        found, live = await get_tree(retinue, session.id)
        view, budget = await session.status(), await session.budget()
        status = status_of(view.summary, live)
        history = await session.messages(last=messages) if messages else []
        agents = sum(1 for _ in found.walk()) - 1
        if as_json:
            summary = cast("dict[str, JsonValue]", tree_json(found, live))
            del summary["children"]
            print_json(
                {
                    **summary,
                    "agents": agents,
                    "agent": view.profile.agent.name if view.profile.agent else None,
                    "model": view.profile.model,
                    "tags": view.tags,
                    "tool_calls": view.tool_call_count,
                    "approvals": view.approval_count,
                    "tokens": view.token_count,
                    "queued": view.queued,
                    "running": view.running,
                    "budget": budget_json(budget),
                    "results": [result_json(one) for one in view.results.values()],
                    "last_messages": [{"role": one.role, "text": one.text} for one in history],
                }
            )
        else:
            render.show(render.session_details(view, status, budget, agents, found.total))
            if view.results:
                render.show("\n[bold]runs[/bold]", render.results_view(view.results.values()))
            if history:
                render.show("\n[bold]last messages[/bold]", render.messages_view(history))
        if status == INTERRUPTED:
            _hint_at_resume([view.summary.family_id])
    return OK


async def _held(retinue: Retinue) -> list[tuple[str, Hold]]:
    """The workspaces that are on hold."""
    holds = await retinue.calls.queries.holds()
    return [(one.path, holds[one.id]) for one in await retinue.workspaces() if one.id in holds]


async def budget(
    session_id: str | None,
    directory: Path | None,
    cap: str | None,
    by: str | None,
    as_json: bool,
) -> int:
    """Show or set the budget of a session or workspace, or show those of every workspace."""
    if session_id is not None and directory is not None:
        raise InvalidValue("budget: give a session or --workspace, not both")
    if cap is not None and session_id is None and directory is None:
        raise InvalidValue("--set: whose cap? Give a session or --workspace DIR")
    if directory is not None and not directory.is_dir():
        raise InvalidValue(f"--workspace: {directory} is not a directory")
    if cap is not None and (session_id is not None or cap != _NO_CAP):
        to_nano(cap, "--set")
    async with connected(actor=by) as retinue:
        if session_id is not None:
            found = [await _session_budget(retinue, session_id, cap)]
        elif directory is not None:
            found = [await _workspace_budget(retinue, directory, cap)]
        else:
            workspaces = await retinue.workspaces()
            budgets = await asyncio.gather(*(one.budget() for one in workspaces))
            found = [(one.path, status) for one, status in zip(workspaces, budgets, strict=True)]
        held = dict(await _held(retinue))
        if as_json:
            print_json(
                {
                    "budgets": [
                        {"name": name, **budget_json(one), "held": hold_json(held.get(name))}
                        for name, one in found
                    ]
                }
            )
        elif found:
            render.show(render.budgets_table(found))
            for name, _ in found:
                if hold := held.get(name):
                    say_held(name, hold)
        else:
            say("retinue: no workspaces yet: the first `retinue run` registers one")
    return OK


async def list_approvals(as_json: bool) -> int:
    """List the requests that wait for a decision, the most urgent first."""
    async with connected() as retinue:
        requests = await retinue.pending()
        if as_json:
            print_json({"approvals": [request_json(one) for one in requests]})
        elif requests:
            render.show(render.requests_view(requests))
            say(
                "retinue: decide with `retinue approvals ID approve` or `retinue approvals ID deny`"
            )
        else:
            say("retinue: nothing waits for a decision")
    return OK


async def approve(request_id: str, scope: ApprovalScope, by: str | None, as_json: bool) -> int:
    """Approve a request."""
    async with connected(actor=by) as retinue:
        request = await find_request(retinue, request_id)
        decision = await request.approve(scope)
        granted = str(decision.scope)
        line = f"approved ({granted}): {request.description}"
        if granted != scope:
            line += f"; {scope} is not granted for such actions"
        _tell_decision(request, True, granted, line, as_json)
    return OK


async def deny(request_id: str, reason: str, by: str | None, as_json: bool) -> int:
    """Deny a request."""
    async with connected(actor=by) as retinue:
        request = await find_request(retinue, request_id)
        await request.deny(reason)
        _tell_decision(request, False, "deny", f"denied: {request.description}", as_json)
    return OK


def _tell_decision(
    request: InboxRequest, approved: bool, scope: str, line: str, as_json: bool
) -> None:
    if as_json:
        print_json({"id": request.id, "approved": approved, "scope": scope})
    else:
        say(f"retinue: {line}")
        if approved and request.deferred:
            say(f"retinue: its agent went on without; run it again in session {request.family_id}")


async def _session_budget(
    retinue: Retinue, session_id: str, cap: str | None
) -> tuple[str, BudgetStatus]:
    session = await find_session(retinue, session_id)
    if cap is not None:
        await session.set_budget(to_usd(to_nano(cap, "--set")))
    return session.id, await session.budget()


async def _workspace_budget(
    retinue: Retinue, directory: Path, cap: str | None
) -> tuple[str, BudgetStatus]:
    workspace = await _workspace(retinue, directory, register=cap is not None)
    if cap is not None:
        await workspace.set_budget(None if cap == _NO_CAP else to_usd(to_nano(cap, "--set")))
    return workspace.path, await workspace.budget()


async def _workspace(retinue: Retinue, directory: Path, register: bool) -> Workspace:
    if register:
        return await retinue.workspace(directory)
    path = os.path.realpath(directory)
    for one in await retinue.workspaces():
        if one.path == path:
            return one
    raise NotFound(f"workspace {directory}: nothing has run there yet")


def _hint_at_resume(interrupted: Sequence[str]) -> None:
    for id in interrupted[:3]:
        say(f"retinue: interrupted: `retinue resume {id}` goes on")
    if len(interrupted) > 3:
        say(f"retinue: and {len(interrupted) - 3} more: `retinue resume --all`")
