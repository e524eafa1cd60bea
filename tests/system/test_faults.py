"""Actors killed, agents that misbehave, stored data edited: what must hold on a real cluster."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil
import pytest
import redis

from retinue import BudgetConfig, Result, Retinue, Session, Tampered
from retinue.actors.domain.session.settings import Isolation
from retinue.actors.requests import Await, Close, SessionAt
from retinue.actors.stores.table import BUDGET, PERMISSIONS
from retinue.cluster.names import DIRECTORY
from retinue.cluster.redis.connection import short
from tests.kit import cluster_agents as agents
from tests.kit.actor_pids import pid_of
from tests.kit.waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="session")]


async def _stepping(retinue: Retinue, directory: Path, isolation: str) -> tuple[Session, str]:
    """A session in the middle of its second paid step."""
    workspace = await retinue.workspace(directory, policy=agents.ASKS_FOR_PARSE)

    async def approve(request: object) -> str:
        return "workspace"

    session = await retinue.create_session(
        agents.step_by_step,
        workspace=workspace,
        isolation=isolation,  # type: ignore[arg-type]
        on_approval=approve,  # type: ignore[arg-type]
    )
    run = await session.start(str(directory))
    await until(_exists(directory / "second"))
    return session, run


async def _finishes_as_if_nothing_had_been(
    session: Session, run: str, directory: Path, attempts: int
) -> None:
    (directory / "go").touch()
    result = await session.result(run)
    assert result.success, result.error
    assert result.cost_usd == 2
    assert (await session.budget()).spent_usd == 2
    assert (directory / "first").read_text() == "x"
    assert len((directory / "second").read_text()) == attempts
    texts = [message.text for message in await session.messages()]
    assert texts == ["first done", "second done"]


@pytest.mark.parametrize("isolation", ["process", "shared"])
async def test_a_killed_host_loses_nothing(
    retinue: Retinue, directory: Path, isolation: str
) -> None:
    session, run = await _stepping(retinue, directory, isolation)
    _, host = await retinue.calls.directory.locate(session.id)
    os.kill(await pid_of(retinue, host), signal.SIGKILL)
    await until(_grown(directory / "second", 2))
    await _finishes_as_if_nothing_had_been(session, run, directory, 2)


async def _agent_of(retinue: Retinue, session: Session) -> psutil.Process:
    """The process in which a session's agent runs: the one that is in its workspace."""
    path = (await session.status()).profile.workspace_path
    (found,) = [one for one in psutil.process_iter() if _is_agent_in(one, str(path))]
    return found


def _is_agent_in(process: psutil.Process, path: str) -> bool:
    with contextlib.suppress(psutil.Error):
        return "retinue.actors.agent.process.worker" in process.cmdline() and process.cwd() == path
    return False


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
async def test_a_killed_agent_goes_on_in_place(
    retinue: Retinue, directory: Path, sign: signal.Signals
) -> None:
    session, run = await _stepping(retinue, directory, "process")
    for attempts in (2, 3):
        (await _agent_of(retinue, session)).send_signal(sign)
        await until(_grown(directory / "second", attempts))
    await _finishes_as_if_nothing_had_been(session, run, directory, 3)


async def test_an_agent_whose_process_always_ends_fails_and_says_why(retinue: Retinue) -> None:
    session = await retinue.create_session(agents.exits)
    result = await session.run("", timeout=60)
    assert result.status == "failed"
    assert "exited with code 3 before the agent returned (8 times)" in str(result.error)


@pytest.mark.parametrize("isolation", ["process", "shared"])
async def test_a_run_whose_workspace_is_gone_fails_and_names_it(
    retinue: Retinue, tmp_path: Path, isolation: Isolation
) -> None:
    directory = tmp_path / "workspace"
    directory.mkdir()
    workspace = await retinue.workspace(directory)
    session = await retinue.create_session(agents.echo, workspace=workspace, isolation=isolation)
    directory.rmdir()
    result = await session.run("")
    assert result.status == "failed"
    assert f"workspace {directory}" in str(result.error)


async def test_what_a_shared_agent_leaves_behind_is_gone_before_its_result(
    retinue: Retinue, directory: Path
) -> None:
    session = await retinue.create_session(agents.leaves_process, isolation="shared")
    result = await session.run(str(directory / "pid"))
    assert result.success, result.error
    pid = int((directory / "pid").read_text())
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(
    "store", [BUDGET.actor_name, PERMISSIONS.actor_name, lambda workspace_id: DIRECTORY]
)
async def test_a_killed_store_comes_back_by_itself(
    retinue: Retinue, directory: Path, store: Callable[[str], str]
) -> None:
    session, run = await _stepping(retinue, directory, "shared")
    workspace_id = (await session.status()).profile.workspace_id
    os.kill(await pid_of(retinue, store(workspace_id)), signal.SIGKILL)
    await _finishes_as_if_nothing_had_been(session, run, directory, 1)


async def test_a_paused_host_can_do_nothing_after_it_was_replaced(
    retinue: Retinue, directory: Path
) -> None:
    session, run = await _stepping(retinue, directory, "shared")
    workspace_id, host = await retinue.calls.directory.locate(session.id)
    pid = await pid_of(retinue, host)
    status = await retinue.status()
    other = next(one.name for one in status.hosts if one.name != host)
    os.kill(pid, signal.SIGSTOP)
    try:
        await retinue.calls.host(other).resume(SessionAt(session.id, workspace_id))
        await until(_grown(directory / "second", 2))
    finally:
        os.kill(pid, signal.SIGCONT)
    (directory / "go").touch()
    end = Await(session.id, workspace_id, run_id=run, timeout_s=20.0)
    result = await retinue.calls.host(other).result(end)
    assert isinstance(result, Result)
    assert result.cost_usd == 2
    assert (await session.budget()).spent_usd == 2
    assert [m.text for m in await session.messages()] == ["first done", "second done"]


async def test_an_agent_that_ends_or_blocks_a_shared_actor_harms_only_itself(
    retinue: Retinue, directory: Path
) -> None:
    neighbour, run = await _stepping(retinue, directory, "shared")
    for agent in (agents.exits, agents.leaves):
        poison = await retinue.create_session(agent, isolation="shared")
        result = await poison.run("", timeout=30)
        assert result.status == "failed"
        assert "end its process" in str(result.error)
    await _finishes_as_if_nothing_had_been(neighbour, run, directory, 1)


async def test_an_agent_that_kills_its_actor_gets_a_process_of_its_own(
    retinue: Retinue, directory: Path
) -> None:
    session = await retinue.create_session(agents.kills_itself, isolation="shared")
    result = await session.run("", timeout=100)
    assert result.status == "failed"
    assert "SIGKILL" in str(result.error)


async def test_an_agent_that_fills_memory_fails_alone(retinue: Retinue) -> None:
    session = await retinue.create_session(agents.fills_memory)
    result = await session.run("", timeout=60)
    assert result.status == "failed"
    assert "MemoryError" in str(result.error)


async def test_the_audit_log_tells_and_verifies(retinue: Retinue, directory: Path) -> None:
    session, run = await _stepping(retinue, directory, "shared")
    await _finishes_as_if_nothing_had_been(session, run, directory, 1)
    await session.end()
    workspace = await retinue.workspace(directory)
    reports = await workspace.audit()
    assert [report.problem for report in reports] == [None] * len(reports)
    kinds = [entry.kind for report in reports for entry in report.entries]
    assert kinds.count("authorized") == 2
    for kind in ("created", "closed", "Granted", "Asked", "Decided", "FamilyOpened"):
        assert kind in kinds, kind


async def test_an_edited_audit_log_names_the_entry(retinue: Retinue, directory: Path) -> None:
    session, run = await _stepping(retinue, directory, "shared")
    await _finishes_as_if_nothing_had_been(session, run, directory, 1)
    workspace = await retinue.workspace(directory)
    client = _redis(retinue)
    key = f"retinue:{{{short(workspace.id)}}}:session:{short(session.id)}:a"
    rows: list[bytes] = client.lrange(key, 0, -1)  # type: ignore[assignment]
    assert len(rows) >= 3

    async def problem_of(changed: list[bytes]) -> str:
        client.delete(key)
        client.rpush(key, *changed)
        problems = [report.problem for report in await workspace.audit() if report.problem]
        assert len(problems) == 1
        return problems[0]

    edited = rows[1][:-3] + b"xyz"
    assert "entry 1 was changed" in await problem_of([rows[0], edited, *rows[2:]])
    assert "entry 1 was removed or moved" in await problem_of([rows[0], *rows[2:]])
    assert "entry 0 was removed or moved" in await problem_of([rows[1], rows[0], *rows[2:]])
    last = len(rows) - 1
    assert f"entry {last} and what followed were removed" in await problem_of(rows[:-1])
    client.delete(key)
    client.rpush(key, *rows)
    assert not any(report.problem for report in await workspace.audit())


async def test_an_edited_balance_allowance_snapshot_or_agent_is_refused_by_name(
    retinue: Retinue, directory: Path
) -> None:
    workspace = await retinue.workspace(directory, policy=agents.ASKS_FOR_PARSE, max_usd="7")
    session = await retinue.create_session(
        agents.spends, workspace=workspace, isolation="shared", budget=BudgetConfig(50)
    )
    await session.run("0.5")
    profile = (await session.status()).profile
    assert profile.agent is not None
    _, host = await retinue.calls.directory.locate(session.id)
    await retinue.calls.host(host).deactivate(session.id)
    base = f"retinue:{{{short(workspace.id)}}}"
    client = _redis(retinue)

    async def refused(call: Callable[[], Awaitable[object]], name: str) -> None:
        with pytest.raises(Tampered, match=name):
            await call()

    with _Edited(client, f"{base}:session:{short(session.id)}:s"):
        await refused(session.status, f"snapshot of session/{session.id}")
    os.kill(await pid_of(retinue, BUDGET.actor_name(workspace.id)), signal.SIGKILL)
    with _Edited(client, f"{base}:budget:budget:j"):
        await refused(workspace.budget, "row .* of budget/budget")
    os.kill(await pid_of(retinue, PERMISSIONS.actor_name(workspace.id)), signal.SIGKILL)
    client.rpush(f"{base}:allowances:allowances:j", b"forged")
    client.hincrby(f"{base}:allowances:allowances", "seq", 1)
    await refused(workspace.allowances, "row 1 of allowances/allowances")
    with _Edited(client, "retinue:agents", profile.agent.digest):
        other = await retinue.create_session(agents.spends)
        result = await other.run("")
        assert "agent" in str(result.error)
        assert result.status == "failed"


async def test_an_end_that_comes_to_another_host_is_acknowledged_when_nothing_runs_on_the_first(
    retinue: Retinue, directory: Path
) -> None:
    workspace = await retinue.workspace(directory)
    session = await retinue.create_session(agents.starts_process, workspace=workspace)
    note = directory / "pid"
    run = await session.start(str(note))
    await until(_exists(note))
    child = psutil.Process(int(note.read_text()))
    workspace_id, host = await retinue.calls.directory.locate(session.id)
    other = next(one.name for one in (await retinue.status()).hosts if one.name != host)
    await retinue.calls.host(other).end(Close(session.id, workspace_id))
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    assert (await session.result(run)).status == "cancelled"


def _redis(retinue: Retinue) -> redis.Redis:
    url = retinue.calls.settings.redis_url
    return redis.Redis(unix_socket_path=url.removeprefix("unix://"))


class _Edited:
    """One byte of a stored value is another, for a while."""

    def __init__(self, client: redis.Redis, key: str, field: str | None = None) -> None:
        self._client, self._key, self._field = client, key, field

    def __enter__(self) -> None:
        self._kind = self._client.type(self._key)
        self._before = self._read()
        self._write(self._before[:-2] + bytes([self._before[-2] ^ 1]) + self._before[-1:])

    def __exit__(self, *_: object) -> None:
        self._write(self._before)

    def _read(self) -> bytes:
        if self._kind == b"list":
            return self._client.lindex(self._key, -1)  # type: ignore[return-value]
        if self._kind == b"hash":
            return self._client.hget(self._key, str(self._field))  # type: ignore[return-value]
        return self._client.get(self._key)  # type: ignore[return-value]

    def _write(self, value: bytes) -> None:
        if self._kind == b"list":
            self._client.lset(self._key, -1, value)  # type: ignore[arg-type]
        elif self._kind == b"hash":
            self._client.hset(self._key, str(self._field), value)
        else:
            self._client.set(self._key, value)


def _exists(path: Path) -> Callable[[], Awaitable[bool]]:
    async def check() -> bool:
        return path.exists()

    return check


def _grown(path: Path, size: int) -> Callable[[], Awaitable[bool]]:
    async def check() -> bool:
        return path.stat().st_size >= size

    return check
