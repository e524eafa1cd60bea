"""The git state of a workspace: right where there is one, none otherwise, and never a wait."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from retinue.actors.domain.documents.document import GitState
from retinue.cluster.client.git_state import capture_git_state

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
    ran = subprocess.run(
        ["git", *identity, "-C", str(folder), *arguments],
        check=True,
        capture_output=True,
        text=True,
    )
    return ran.stdout.strip()


def repository(folder: Path) -> Path:
    folder.mkdir()
    git(folder, "init", "-q", "-b", "orchard/south")
    git(folder, "commit", "-q", "--allow-empty", "-m", "first")
    return folder


def fake_git(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    program = folder / "git"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def alive(pid: str) -> bool:
    """Whether the process still runs; one that only waits to be collected doesn't."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state.rsplit(")", 1)[1].split()[0] != "Z"


async def gone(pid_file: Path) -> None:
    """Wait until the process whose id stands in the file is dead: it was sent SIGKILL."""
    pid = pid_file.read_text().strip()
    assert pid
    async with asyncio.timeout(5):
        while alive(pid):
            await asyncio.sleep(0.01)


async def test_branch_and_commit_of_a_repository(tmp_path: Path) -> None:
    folder = repository(tmp_path / "garden")
    inside = folder / "beds" / "north"
    inside.mkdir(parents=True)
    expected = GitState(branch="orchard/south", commit=git(folder, "rev-parse", "HEAD"))
    assert await capture_git_state(str(folder)) == expected
    assert await capture_git_state(str(inside)) == expected


async def test_a_detached_head_is_on_no_branch(tmp_path: Path) -> None:
    folder = repository(tmp_path / "garden")
    git(folder, "checkout", "-q", "--detach")
    assert await capture_git_state(str(folder)) == GitState(
        branch=None, commit=git(folder, "rev-parse", "HEAD")
    )


async def test_without_a_repository_a_commit_or_a_path_there_is_none(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    unborn = tmp_path / "unborn"
    unborn.mkdir()
    git(unborn, "init", "-q")
    file = tmp_path / "file"
    file.touch()
    for path in (empty, unborn, file, tmp_path / "gone"):
        assert await capture_git_state(str(path)) is None


@pytest.mark.parametrize("path", ["", "\0", "/x\0y", "/\ud800", "--version", "-"])
async def test_what_is_no_path_gives_none(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository(tmp_path / "garden"))
    assert await capture_git_state(path) is None


@pytest.mark.parametrize("search_path", ["", "/nowhere"])
async def test_without_git_there_is_none(
    search_path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = repository(tmp_path / "garden")
    monkeypatch.setenv("PATH", search_path)
    assert await capture_git_state(str(folder)) is None


async def test_a_git_that_cannot_be_started_gives_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = repository(tmp_path / "garden")
    fake_git(tmp_path / "bin", "", monkeypatch)
    (tmp_path / "bin" / "git").write_bytes(b"\x7fELF, but not really")
    assert await capture_git_state(str(folder)) is None


async def test_the_environment_of_a_git_hook_does_not_lead_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, elsewhere = repository(tmp_path / "here"), repository(tmp_path / "elsewhere")
    git(elsewhere, "checkout", "-q", "-b", "elsewhere")
    monkeypatch.setenv("GIT_DIR", str(elsewhere / ".git"))
    state = await capture_git_state(str(here))
    assert state is not None
    assert state.branch == "orchard/south"


@pytest.mark.parametrize(
    "script",
    [
        "echo $$ > {pid}; exec sleep 60",
        "sleep 60 & echo $! > {pid}; wait",
        "trap '' TERM INT HUP; echo $$ > {pid}; while :; do sleep 1; done",
        "echo $$ > {pid}; yes",
    ],
    ids=["hangs", "child-hangs", "ignores-signals", "floods"],
)
async def test_a_git_that_hangs_gives_none_in_time_and_is_killed(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = tmp_path / "pid"
    fake_git(tmp_path / "bin", script.format(pid=pid), monkeypatch)
    start = time.monotonic()
    assert await capture_git_state(str(tmp_path), timeout=0.3) is None
    assert time.monotonic() - start < 1.5
    await gone(pid)


async def test_what_git_leaves_running_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = tmp_path / "pid"
    script = f"sleep 60 & echo $! > {pid}; printf '%040d\\nmain\\n' 0"
    fake_git(tmp_path / "bin", script, monkeypatch)
    state = await capture_git_state(str(tmp_path), timeout=30)
    os.kill(int(pid.read_text()), signal.SIGKILL)
    assert state == GitState(branch="main", commit="0" * 40)


@pytest.mark.parametrize(
    "script",
    [
        "exit 0",
        "echo main",
        "echo not-a-commit; echo main",
        "printf '%040d\\nmain\\n' 0; exit 1",
        "printf '%040d\\nmain\\nand more\\n' 0",
        "printf '\\377\\376\\n\\377\\n'",
        "head -c 50000 /dev/zero",
    ],
)
async def test_an_answer_that_makes_no_sense_is_none(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_git(tmp_path / "bin", script, monkeypatch)
    assert await capture_git_state(str(tmp_path)) is None


async def test_git_is_asked_without_prompts_locks_or_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = (
        f"{{ echo $GIT_TERMINAL_PROMPT $GIT_OPTIONAL_LOCKS; cat; }} > {tmp_path}/seen\n"
        "printf '%040d\\nmain\\n' 0"
    )
    fake_git(tmp_path / "bin", script, monkeypatch)
    assert await capture_git_state(str(tmp_path)) == GitState(branch="main", commit="0" * 40)
    assert (tmp_path / "seen").read_text() == "0 0\n"


async def test_a_cancelled_capture_leaves_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = tmp_path / "pid"
    fake_git(tmp_path / "bin", f"echo $$ > {pid}; exec sleep 60", monkeypatch)
    capture = asyncio.create_task(capture_git_state(str(tmp_path), timeout=30))
    async with asyncio.timeout(10):
        while not (pid.exists() and pid.read_text()):
            await asyncio.sleep(0.01)
    capture.cancel()
    with pytest.raises(asyncio.CancelledError):
        await capture
    await gone(pid)
