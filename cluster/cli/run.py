"""`retinue run` and `retinue resume`: start or continue runs, and wait for the results."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from retinue.actors.agent.shipping import name_of
from retinue.actors.agent.turn import AgentFunction
from retinue.actors.domain.errors import (
    ClusterUnavailable,
    InvalidAgent,
    InvalidValue,
    NotFound,
    RetinueError,
)
from retinue.actors.domain.session.result import Result
from retinue.actors.domain.session.settings import BudgetConfig, Isolation
from retinue.actors.domain.values.ids import parse_uuid
from retinue.actors.domain.values.money import to_nano
from retinue.cluster.cli.agent_file import load_agent
from retinue.cluster.cli.common import connected
from retinue.cluster.cli.lookup import check_fragment, find_session
from retinue.cluster.ray.joining import outlives_us
from retinue.cluster.terminal.approver import Asker, approve_all, can_ask
from retinue.cluster.terminal.display import Display, make_display
from retinue.cluster.terminal.follow import conclusion, follow
from retinue.cluster.terminal.outcome import FAILED, OK, print_json, report
from retinue.cluster.terminal.overview import result_json
from retinue.cluster.terminal.render import clean, say

if TYPE_CHECKING:
    from retinue.cluster.client.client import Retinue
    from retinue.cluster.client.inbox import ApprovalHandler
    from retinue.cluster.client.session import Session

T = TypeVar("T")

_WHOLE_ID = 36  # characters


@dataclass(frozen=True)
class RunOptions:
    """The arguments of `retinue run`; None for those not given."""

    agent: str
    prompt: str
    workspace: Path | None
    budget: str | None
    per_action: str | None
    isolation: Isolation | None
    approve: str
    run_id: str | None
    session: str | None
    by: str | None = None


async def run(options: RunOptions, as_json: bool) -> int:
    """Run an agent, in a new session or in an existing one."""
    agent = load_agent(options.agent)
    _check(options)
    async with connected(actor=options.by) as retinue:
        session = await _session_for(retinue, agent, options)
        say(f"retinue: session {session.id}")
        async with _showing(retinue, [session], options.approve) as display:
            run_id = await session.start(options.prompt, run_id=options.run_id)
            runs = [(session, run_id)]
            (result,) = await _through_losses(retinue, lambda: follow(runs, display))
        await _conclude(retinue, session, result)
        if as_json:
            print_json(result_json(result))
        elif result.output:
            _print_output(result.output)
    return OK if result.success else FAILED


async def resume(
    session_id: str | None, everything: bool, approve: str, by: str | None, as_json: bool
) -> int:
    """Continue queued and interrupted runs, in one session or in all."""
    if (session_id is None) != everything:
        raise InvalidValue("resume: give the id of a session, or --all")
    async with connected(actor=by) as retinue:
        sessions = await _to_resume(retinue, session_id)
        async with _showing(retinue, sessions, approve) as display:
            runs, errors = await _resumed(sessions)
            results = await _through_losses(retinue, lambda: follow(runs, display)) if runs else []
        by_run = {run_id: session for session, run_id in runs}
        for result in results:
            await _conclude(retinue, by_run[result.run_id], result, several=len(results) > 1)
        if as_json:
            print_json({"results": [result_json(result) for result in results]})
        else:
            _print_outputs(results)
        if not runs and not errors:
            say("retinue: nothing to resume")
    codes = [report(error, as_json=False) for error in errors]
    return max([*codes, *(OK if result.success else FAILED for result in results)], default=OK)


async def _through_losses(retinue: Retinue, work: Callable[[], Awaitable[T]]) -> T:
    """The result of ``work``, repeated if the local cluster is lost and comes back."""
    while True:
        try:
            return await work()
        except ClusterUnavailable as error:
            if not retinue.comes_back:
                raise
            say(f"retinue: {error.message}")
            if not await retinue.rejoin():
                raise
            say("retinue: the local cluster is back: the run goes on")


def _check(options: RunOptions) -> None:
    """Refuse wrong options before a cluster is started for them."""
    if options.workspace is not None and not options.workspace.is_dir():
        raise InvalidValue(f"--workspace: {options.workspace} is not a directory")
    for name, amount in (("--budget", options.budget), ("--per-action", options.per_action)):
        if amount is not None:
            to_nano(amount, name)
    if options.session is not None:
        check_fragment(options.session, "--session")
    if options.run_id is not None:
        parse_uuid(options.run_id, "--run-id")


async def _session_for(retinue: Retinue, agent: AgentFunction, options: RunOptions) -> Session:
    if options.session is None:
        return await _new_session(retinue, agent, options, None)
    try:
        session = await find_session(retinue, options.session)
    except NotFound:
        if len(options.session) != _WHOLE_ID:
            raise
        return await _new_session(retinue, agent, options, options.session)
    await _require_same(session, agent, options)
    return session


async def _new_session(
    retinue: Retinue, agent: AgentFunction, options: RunOptions, session_id: str | None
) -> Session:
    workspace = await retinue.workspace(options.workspace or Path.cwd())
    defaults = BudgetConfig()
    budget = BudgetConfig()
    if options.budget is not None:
        budget.session_max = to_nano(options.budget, "--budget")
    if options.per_action is not None:
        budget.per_action_max = to_nano(options.per_action, "--per-action")
    elif options.budget is not None:
        budget.per_action_max = min(defaults.per_action_max, budget.session_max)
    return await retinue.create_session(
        agent,
        workspace=workspace,
        budget=budget,
        isolation=options.isolation or "process",
        session_id=session_id,
    )


async def _require_same(session: Session, agent: AgentFunction, options: RunOptions) -> None:
    """Raises InvalidValue for options that a session, which keeps its own, would ignore.

    Raises InvalidAgent if it has no agent, or another one.
    """
    given = {
        "--workspace": options.workspace,
        "--budget": options.budget,
        "--per-action": options.per_action,
        "--isolation": options.isolation,
    }
    for name, value in given.items():
        if value is not None:
            raise InvalidValue(
                f"{name}: session {session.id} is there already and keeps what it was made with; "
                f"its cap is changed by `retinue budget {session.id} --set USD`"
            )
    own = (await session.status()).profile.agent
    if own is None:
        raise InvalidAgent(
            f"session {session.id} has no agent: import it again with --agent {options.agent}"
        )
    if own.name != name_of(agent):
        raise InvalidAgent(
            f"session {session.id} runs the agent {own.name}, not {name_of(agent)}: "
            "leave --session away for a new session"
        )


async def _to_resume(retinue: Retinue, session_id: str | None) -> list[Session]:
    if session_id is None:
        return [retinue.session(id) for id in await retinue.calls.registry.running()]
    session = await find_session(retinue, session_id)
    family = (await retinue.calls.registry.locate(session.id)).family_id
    if family != session.id:
        say(f"retinue: {session.id} is a sub-agent of {family}, which is what goes on")
    return [retinue.session(family)]


async def _resumed(
    sessions: Sequence[Session],
) -> tuple[list[tuple[Session, str]], list[RetinueError]]:
    """The runs that go on, and the errors of single sessions."""
    runs: list[tuple[Session, str]] = []
    errors: list[RetinueError] = []
    for session in sessions:
        try:
            found = await session.resume()
        except RetinueError as error:
            errors.append(error)
            continue
        if found:
            say(f"retinue: session {session.id}")
        runs += [(session, run_id) for run_id in found]
    return runs, errors


@contextlib.asynccontextmanager
async def _showing(
    retinue: Retinue, sessions: Sequence[Session], approve: str
) -> AsyncIterator[Display]:
    """Shows progress and answers the agents' requests; if interrupted, says how to resume."""
    display = make_display()
    try:
        handler = _handler(approve, display) if sessions else None
        for session in sessions:
            if handler is not None:
                await retinue.answer(session.id, handler)
        yield display
    except asyncio.CancelledError:
        display.close()
        for session in sessions:
            say(_how_to_go_on(session.id))
        raise
    except ClusterUnavailable:
        display.close()
        for session in sessions:
            say(f"retinue: nothing is lost: `retinue resume {session.id}` goes on")
        raise
    finally:
        display.close()


def _handler(approve: str, display: Display) -> ApprovalHandler | None:
    if approve == "all":
        return approve_all
    if approve == "ask" and can_ask():
        return Asker(display)
    if approve == "ask":
        say("retinue: no terminal to ask at: what needs approval waits in `retinue approvals`")
    return None


def _how_to_go_on(id: str) -> str:
    if outlives_us():
        return (
            f"retinue: left; the run goes on: `retinue resume {id}` waits for it, "
            f"`retinue cancel {id}` stops it"
        )
    return f"retinue: interrupted; nothing is lost: `retinue resume {id}` goes on"


async def _conclude(
    retinue: Retinue, session: Session, result: Result, several: bool = False
) -> None:
    agents, waiting = await _through_losses(retinue, lambda: _around(retinue, session))
    which = f"session {session.id}: " if several else ""
    say(f"retinue: {which}{conclusion(result, agents)}")
    if waiting:
        what = "action waits" if waiting == 1 else "actions wait"
        say(f"retinue: {waiting} {what} for a decision: see `retinue approvals`")


async def _around(retinue: Retinue, session: Session) -> tuple[int, int]:
    """Counts a session's sub-agents, and its family's actions that wait for a person."""
    agents = len(await session.family()) - 1
    place = await retinue.calls.registry.locate(session.id)
    requests = await retinue.calls.stores(place.workspace_id).permissions.open_requests()
    return agents, sum(1 for one in requests if one.request.family_id == place.family_id)


def _print_outputs(results: Sequence[Result]) -> None:
    for result in results:
        if result.output:
            if len(results) > 1:
                print(f"== {result.session_id}")
            _print_output(result.output)


def _print_output(output: str) -> None:
    print(clean(output) if sys.stdout.isatty() else output, flush=True)
