"""Spans of OpenTelemetry: one trace from the client's span down to what sub-agents do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from retinue import FileRead, InvalidValue, Task, Turn, connect
from retinue.actors.telemetry import tracing
from tests.kit import spans
from tests.kit.waiting import until


async def reads(turn: Turn, prompt: str) -> str:
    """A sub-agent: an authorisation and a step."""
    await turn.authorize(FileRead(path="a.txt"))
    return await turn.step("think", lambda: "thought")


async def sends_two(turn: Turn, prompt: str) -> list[object]:
    """One sub-agent in this process, one in its own."""
    results = await turn.spawn([Task(reads, isolation="shared"), Task(reads, isolation="process")])
    return [result.value for result in results]


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "spans"
    monkeypatch.setenv("RETINUE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv(spans.FILE, str(file))
    monkeypatch.setenv(tracing.TRACING, "tests.kit.spans:set_up")
    return file


@pytest.mark.own_cluster
async def test_a_run_is_one_trace_from_the_client_down_to_its_sub_agents(
    written: Path, directory: Path
) -> None:
    tracer = TracerProvider().get_tracer("a client")
    async with connect() as retinue:
        workspace = await retinue.workspace(directory)
        session = await retinue.create_session(sends_two, workspace=workspace, isolation="shared")
        with tracer.start_as_current_span("the client's") as outer:
            result = await session.run("go")
        assert result.value == ["thought", "thought"]
        await until(lambda: _names(_read(written)).count("run") == 3)
    found = _read(written)
    by_id = {one["id"]: one for one in found}
    below_client = [one for one in found if one["parent"] == outer.get_span_context().span_id]
    assert _names(below_client) == ["run"]
    assert {one["trace"] for one in found} == {outer.get_span_context().trace_id}
    paths = sorted({_path(one, by_id) for one in found})
    assert paths == [
        "run",
        "run/turn",
        "run/turn/spawn",
        "run/turn/spawn/run",
        "run/turn/spawn/run/turn",
        "run/turn/spawn/run/turn/authorize",
        "run/turn/spawn/run/turn/step",
    ]
    assert _names(found).count("authorize") == 2


async def test_without_the_setting_there_are_no_spans() -> None:
    assert tracing.now() == 0
    with tracing.span("run") as span:
        assert span is None
    assert trace.get_current_span().get_span_context().is_valid is False


def test_a_function_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(tracing.TRACING, "tests.kit.spans:nothing")
    with pytest.raises(InvalidValue, match=r"RETINUE_TRACING=tests\.kit\.spans:nothing"):
        tracing.set_up()


def _read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def _names(found: list[dict[str, Any]]) -> list[str]:
    return [str(one["name"]) for one in found]


def _path(one: dict[str, Any], by_id: dict[int, dict[str, Any]]) -> str:
    above = by_id.get(one["parent"])
    return f"{_path(above, by_id)}/{one['name']}" if above else str(one["name"])
