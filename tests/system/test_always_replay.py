"""A turn that is started again after each of its steps comes to the same end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from retinue import Policy, Retinue, connect
from retinue.actors.session.agents import ALWAYS_REPLAY
from tests.kit import cluster_agents as agents

pytestmark = [
    pytest.mark.own_cluster,
    pytest.mark.asyncio(loop_scope="module"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def replaying(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Retinue]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RETINUE_HOME", str(tmp_path_factory.mktemp("retinue")))
        environment.setenv(ALWAYS_REPLAY, "1")
        async with connect() as client:
            yield client


@pytest.mark.parametrize("isolation", ["process", "shared"])
async def test_every_step_is_taken_once_however_often_the_agent_is_called(
    replaying: Retinue, tmp_path: Path, isolation: str
) -> None:
    workspace = await replaying.workspace(tmp_path, max_usd="1")
    session = await replaying.create_session(
        agents.counts_its_calls,
        workspace=workspace,
        isolation=isolation,  # type: ignore[arg-type]
    )
    result = await session.run(str(tmp_path))
    assert result.output == "1 1 hello child"
    assert (tmp_path / "calls").read_text() == "x" * 6
    assert (tmp_path / "step").read_text() == "x"
    assert result.cost_usd == (await session.budget()).spent_usd
    assert str(result.cost_usd) == "0.25"
    assert [message.text for message in await session.messages()] == ["hello"]
    assert len(await session.family()) == 2


async def test_a_turn_that_takes_other_steps_is_told_so(replaying: Retinue, tmp_path: Path) -> None:
    session = await replaying.create_session(agents.never_the_same, isolation="shared")
    result = await session.run(str(tmp_path / "calls"))
    assert result.status == "failed"
    assert "NonDeterministicTurn" in str(result.error)
    assert "'step 1'" in str(result.error)
    assert "'step 2'" in str(result.error)


async def test_parallel_steps_find_their_results(replaying: Retinue, tmp_path: Path) -> None:
    session = await replaying.create_session(agents.steps_in_parallel, isolation="shared")
    assert (await session.run(str(tmp_path))).value == [0, 1, 2, 3]
    assert {path.read_text() for path in tmp_path.glob("step *")} == {"x"}


async def test_whoever_asks_for_approval_asks_once(replaying: Retinue, tmp_path: Path) -> None:
    policy = Policy(approval_required_tools=("survey/parse",))
    workspace = await replaying.workspace(tmp_path, policy=policy)
    asked: list[str] = []

    async def approve(request: object) -> str:
        asked.append(str(request))
        return "once"

    session = await replaying.create_session(
        agents.calls_tool,
        workspace=workspace,
        isolation="shared",
        on_approval=approve,  # type: ignore[arg-type]
    )
    assert (await session.run("20")).output == "allowed approval"
    assert len(asked) == 1
