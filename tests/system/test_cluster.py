"""The whole: a real Ray, a real Redis, real processes."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import cast

import pytest

from retinue import (
    BudgetConfig,
    ExactTool,
    InboxRequest,
    InvalidAgent,
    InvalidValue,
    Limits,
    Message,
    NotFound,
    Policy,
    Retinue,
    SessionEnded,
    Workspace,
)
from retinue.actors.domain.errors import AlreadyDecided
from retinue.actors.domain.permissions.approvals.machine import Decide
from retinue.actors.domain.permissions.approvals.request import Scope
from tests.kit import cluster_agents as agents
from tests.kit.waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="session")]

ASKS_FOR_PARSE = Policy(approval_required_tools=("survey/parse",))


async def _workspace(retinue: Retinue, directory: Path, **settings: object) -> Workspace:
    return await retinue.workspace(directory, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("isolation", ["process", "shared"])
async def test_a_run_gives_its_result_once(retinue: Retinue, isolation: str) -> None:
    session = await retinue.create_session(agents.echo, isolation=isolation)  # type: ignore[arg-type]
    first = await session.run("hello", run_id="00000000-0000-7000-8000-000000000001")
    again = await session.run("other", run_id="00000000-0000-7000-8000-000000000001")
    assert first.success
    assert first.output == "hello"
    assert again == first
    assert [message.text for message in await session.messages()] == ["hello", "heard hello"]
    status = await session.status()
    assert status.turn_count == 1
    assert status.status == "completed"
    assert status.duration_s > 0
    assert status.token_count == len("hello") // 4 + len("heard hello") // 4
    assert status.is_near_limit(10, 0.2)
    assert not status.is_near_limit(10, 0.3)


async def test_messages_last_and_clear(retinue: Retinue) -> None:
    session = await retinue.create_session(agents.says_nothing, isolation="shared")
    for at in range(70):
        await session.add_message(Message.user(f"message {at}"))
    assert (await session.run("")).output == "my last words"
    assert [m.text for m in await session.messages(last=2)] == ["message 69", "my last words"]
    assert len(await session.messages(last=1000)) == 71
    assert (await session.messages())[0].text == "message 0"
    await session.clear_messages()
    assert await session.messages() == []
    assert (await session.status()).token_count == 0


async def test_turns_of_one_session_run_in_order(retinue: Retinue) -> None:
    session = await retinue.create_session(agents.echo, isolation="shared")
    runs = [await session.start(f"{at}") for at in range(10)]
    await asyncio.gather(*(session.result(run) for run in runs))
    heard = [m.text for m in await session.messages() if m.role == "user"]
    assert heard == [str(at) for at in range(10)]


async def test_children_share_the_session_and_the_workspace_budget(
    retinue: Retinue, directory: Path
) -> None:
    workspace = await _workspace(retinue, directory, max_usd="1")
    budget = BudgetConfig(session_max_usd="0.02")
    sessions = [
        await retinue.create_session(
            agents.hammering_family,
            workspace=workspace,
            isolation="shared",
            budget=budget,
        )
        for _ in range(2)
    ]
    results = await asyncio.gather(*(session.run("30") for session in sessions))
    for session, result in zip(sessions, results, strict=True):
        status = await session.budget()
        tree = await session.tree()
        assert result.success
        assert status.reserved == 0
        assert status.spent == tree.total == result.cost
        assert 19_000_000 < status.spent <= 20_000_000
    assert (await workspace.budget()).spent == sum(result.cost for result in results)


async def test_two_sessions_race_to_the_workspace_cap(retinue: Retinue, directory: Path) -> None:
    workspace = await _workspace(retinue, directory, max_usd="0.0305")
    sessions = [
        await retinue.create_session(
            agents.hammering_family, workspace=workspace, isolation="shared"
        )
        for _ in range(2)
    ]
    results = await asyncio.gather(*(session.run("40") for session in sessions))
    status = await workspace.budget()
    assert status.spent == sum(result.cost for result in results)
    assert status.reserved == 0
    assert 30_500_000 - 1_000_000 < status.spent <= 30_500_000


async def test_caps_of_action_and_session(retinue: Retinue, directory: Path) -> None:
    workspace = await _workspace(retinue, directory)
    session = await retinue.create_session(
        agents.spends,
        workspace=workspace,
        isolation="shared",
        budget=BudgetConfig(session_max_usd="3", per_action_max_usd="2"),
    )
    result = await session.run("2 2.5 0.5 1 0.5")
    assert result.output == "allowed exceeded allowed exceeded allowed"
    assert result.cost_usd == 3
    assert (await workspace.budget()).spent_usd == 3
    await session.set_budget("4")
    assert (await session.run("1")).output == "allowed"


async def test_an_approval_for_the_workspace_lets_every_session_pass(
    retinue: Retinue, directory: Path
) -> None:
    asked: list[str] = []

    async def approve(request: InboxRequest) -> str:
        asked.append(request.description)
        return "workspace"

    workspace = await _workspace(retinue, directory, policy=ASKS_FOR_PARSE)
    session = await retinue.create_session(
        agents.calls_tool,
        workspace=workspace,
        isolation="shared",
        on_approval=approve,  # type: ignore[arg-type]
    )
    other = await retinue.create_session(agents.calls_tool, workspace=workspace, isolation="shared")
    assert (await session.run("30")).output == "allowed approval"
    assert (await session.run("30")).output == "allowed allowance"
    assert (await other.run("30")).output == "allowed allowance"
    assert asked == ["call survey/parse"]
    (allowance,) = await workspace.allowances()
    assert allowance.pattern == ExactTool("survey", "parse")
    await workspace.revoke(allowance.id)
    assert (await other.run("0")).output == "deferred"


async def test_nobody_there_defers_and_a_late_approval_lets_the_retry_pass(
    retinue: Retinue, directory: Path
) -> None:
    workspace = await _workspace(retinue, directory, policy=ASKS_FOR_PARSE)
    session = await retinue.create_session(
        agents.calls_tool, workspace=workspace, isolation="shared"
    )
    assert (await session.run("60")).output == "deferred"
    (request,) = await workspace.inbox()
    assert request.deferred
    await request.approve("once", by="alice")
    with pytest.raises(AlreadyDecided, match="alice"):
        await request.deny(by="bob")
    assert (await session.run("0")).output == "allowed approval"
    assert (await session.run("0")).output == "deferred"


async def test_an_unknown_request_grants_nothing(retinue: Retinue, directory: Path) -> None:
    workspace = await _workspace(retinue, directory, policy=ASKS_FOR_PARSE)
    permissions = retinue.calls.stores(workspace.id).permissions
    with pytest.raises(NotFound):
        await permissions.decide(Decide("nobody", Scope.ONCE, "me", ""))
    assert await workspace.allowances() == []


async def test_always_is_a_token_for_this_user(retinue: Retinue, directory: Path) -> None:
    async def approve(request: InboxRequest) -> str:
        return "always"

    workspace = await _workspace(retinue, directory, policy=ASKS_FOR_PARSE)
    mine = await retinue.create_session(
        agents.calls_tool,
        workspace=workspace,
        user_id="00000000000000aa",
        isolation="shared",
        on_approval=approve,  # type: ignore[arg-type]
    )
    assert (await mine.run("30")).output == "allowed approval"

    async def passes_by_token() -> bool:  # it is issued once the handler has answered
        return (await mine.run("30")).output == "allowed capability"

    await until(passes_by_token)
    theirs = await retinue.create_session(
        agents.calls_tool, workspace=workspace, user_id="00000000000000bb", isolation="shared"
    )
    assert (await theirs.run("0")).output == "deferred"


async def test_a_blocked_command_is_denied_without_a_question(
    retinue: Retinue, directory: Path
) -> None:
    workspace = await _workspace(retinue, directory)
    session = await retinue.create_session(
        agents.runs_command, workspace=workspace, isolation="shared"
    )
    assert (await session.run("/usr/bin/sudo ls")).output == "denied"
    assert await workspace.inbox() == []
    assert (await session.run("ls")).output == "deferred"
    assert (await workspace.budget()).reserved == 0


@pytest.mark.parametrize("isolation", ["process", "shared"])
async def test_a_failing_child_is_a_result(retinue: Retinue, isolation: str) -> None:
    session = await retinue.create_session(agents.mixed_children, isolation=isolation)  # type: ignore[arg-type]
    result = await session.run(isolation)
    assert result.success
    fine, failed, late, gone = json.loads(result.output)
    assert fine == ["completed", None]
    assert failed == ["failed", "ValueError: on purpose"]
    assert late == ["timed_out", "timed out after 0.5 s"]
    stats = await session.stats()
    assert (stats.succeeded, stats.failed, stats.timed_out) == (1, 2, 1)
    assert (stats.active, stats.queued, stats.available) == (0, 0, 4)
    assert gone[0] == "failed"
    assert "code 3" in gone[1]


async def test_children_have_processes_of_their_own(retinue: Retinue) -> None:
    session = await retinue.create_session(agents.has_children)
    result = await session.run("6")
    assert result.value == [f"child {at}" for at in range(6)]


async def test_depth_is_limited_by_name_and_value(retinue: Retinue) -> None:
    session = await retinue.create_session(agents.deep, isolation="shared")
    assert (await session.run("3")).output == "bottom"
    assert "max_depth is 3" in (await session.run("4")).output


async def test_total_is_limited_all_or_nothing(retinue: Retinue) -> None:
    limits = Limits(max_total=3)
    session = await retinue.create_session(agents.has_children, isolation="shared", limits=limits)
    result = await session.run("4")
    assert result.status == "failed"
    assert "max_total is 3" in str(result.error)
    assert (await session.run("3")).success


async def test_what_does_not_fit_at_once_is_refused_and_counts_for_nothing(
    retinue: Retinue,
) -> None:
    session = await retinue.create_session(
        agents.too_many_at_once, isolation="shared", limits=Limits(max_total=6)
    )
    refused, *outputs = cast("list[str]", (await session.run("")).value)
    assert refused == "3 sub-agents at once: max_concurrent is 2, and 2 fit now"
    assert outputs == ["child 0", "child 1", "child 2"] * 2


async def test_cancel_takes_the_whole_tree(retinue: Retinue) -> None:
    session = await retinue.create_session(agents.sleeping_tree, isolation="shared")
    run = await session.start("root")

    async def all_run() -> bool:
        return len(await session.family()) == 7

    await until(all_run)
    await session.cancel()
    assert (await session.result(run)).status == "cancelled"
    assert {one.status for one in await session.family()} == {"cancelled"}
    with pytest.raises(SessionEnded):
        await session.start("again")


async def test_cancel_kills_what_the_agent_started(retinue: Retinue, tmp_path: Path) -> None:
    session = await retinue.create_session(agents.starts_process)
    note = tmp_path / "pid"
    await session.start(str(note))

    async def noted() -> bool:
        return note.exists() and note.read_text() != ""

    await until(noted)
    await session.cancel()
    assert not _runs(int(note.read_text()))


async def test_an_agent_that_blocks_times_out(retinue: Retinue) -> None:
    session = await retinue.create_session(agents.blocks)
    assert (await session.run("", timeout=0.5)).status == "timed_out"
    assert (await session.run("", timeout=0.5)).status == "timed_out"


async def test_an_agent_may_return_json_only(retinue: Retinue) -> None:
    session = await retinue.create_session(agents.returns_object, isolation="shared")
    result = await session.run("")
    assert result.status == "failed"
    assert "object" in str(result.error)


async def test_end_is_idempotent_and_final(retinue: Retinue) -> None:
    session = await retinue.create_session(agents.echo, isolation="shared")
    await session.end()
    await session.end()
    with pytest.raises(SessionEnded):
        await session.run("too late")


async def test_export_and_import(retinue: Retinue, directory: Path) -> None:
    workspace = await _workspace(retinue, directory)
    session = await retinue.create_session(
        agents.spends, workspace=workspace, isolation="shared", system_prompt="Be brief."
    )
    await session.add_message(Message.user("hello"))
    await session.run("0.25")
    document = json.loads(await session.export())
    assert document["budget_snapshot"]["session_spent_usd"] == "0.25"
    assert document["messages"] == [{"role": "user", "content": {"Text": "hello"}}]
    document["id"] = "00000000-0000-0000-0000-0000000000aa"
    document["future_field"] = {"kept": True}
    copy = await retinue.import_session(document, agent=agents.spends, isolation="shared")
    assert [m.text for m in await copy.messages()] == ["hello"]
    assert (await copy.budget()).spent_usd == (await session.budget()).spent_usd
    assert json.loads(await copy.export())["future_field"] == {"kept": True}
    with pytest.raises(InvalidValue, match="here already"):
        await retinue.import_session(document)
    bad = dict(document, id="00000000-0000-0000-0000-0000000000bb")
    bad["messages"] = [{"role": "wizard", "content": "hm"}]
    with pytest.raises(InvalidValue, match=r"messages\[0\]\.role"):
        await retinue.import_session(bad)
    with pytest.raises(NotFound):
        await retinue.session(bad["id"]).status()


async def test_events_tell_of_the_whole_subtree(retinue: Retinue) -> None:
    session = await retinue.create_session(agents.has_children, isolation="shared")
    finished: list[str] = []

    async def listen() -> None:
        async for event in session.events():
            if event.kind == "run_finished":
                finished.append(event.session_id)
            if event.kind == "run_finished" and event.session_id == session.id:
                return

    listening = asyncio.create_task(listen())
    while not finished:
        await session.run("3")
    await listening
    assert len(set(finished)) >= 2


async def test_wrong_calls_name_what_is_wrong(retinue: Retinue, tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match="user_id"):
        await retinue.create_session(agents.echo, user_id="xyz")
    with pytest.raises(InvalidValue, match="isolation"):
        await retinue.create_session(agents.echo, isolation="thread")  # type: ignore[arg-type]
    with pytest.raises(InvalidAgent, match="not async"):
        await retinue.create_session(len)  # type: ignore[arg-type]
    with pytest.raises(InvalidValue, match="not a directory"):
        await retinue.workspace(tmp_path / "nowhere")
    with pytest.raises(InvalidValue, match="not a UUID"):
        retinue.session("nonsense")
    with pytest.raises(NotFound, match="no such session"):
        await retinue.session("00000000-0000-7000-8000-00000000ffff").status()
    with pytest.raises(InvalidValue, match="max_usd"):
        await retinue.workspace(tmp_path, max_usd="-1")


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return state != "Z"
