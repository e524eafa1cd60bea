"""The git state of a workspace, for the session document. Never an error, and never a hang."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
from contextlib import suppress
from typing import Final

from retinue.actors.domain.documents.document import GitState

TIME_LIMIT_S: Final = 2.0

_REAP_LIMIT_S = 0.5
_LONGEST_ANSWER = 4096  # bytes; far below what a pipe holds, so git never waits for its reader
_ANSWER = re.compile(r"([0-9a-f]{40}|[0-9a-f]{64})\n([^\n]+)\n")
# A caller that runs inside a git hook has these set: they would name the hook's repository.
_OTHER_REPOSITORY = ("GIT_DIR", "GIT_WORK_TREE", "GIT_COMMON_DIR", "GIT_INDEX_FILE")


async def capture_git_state(path: str, *, timeout: float = TIME_LIMIT_S) -> GitState | None:
    """The branch and commit of the repository that contains ``path``.

    The branch is None if the head is detached. Returns None if there is no git, no repository, no
    commit yet, no such path, or no answer within ``timeout`` seconds.
    """
    git = shutil.which("git")
    if git is None or not path:  # `git -C ""` would answer for the current directory
        return None
    try:
        output = await _output(
            [git, "-C", path, "rev-parse", "HEAD", "--abbrev-ref", "HEAD"], timeout
        )
        answer = _ANSWER.fullmatch(output.decode())
    except (OSError, ValueError):  # among them TimeoutError, and a path that is no path
        return None
    if answer is None:
        return None
    commit, branch = answer.groups()
    return GitState(branch=None if branch == "HEAD" else branch, commit=commit)


async def _output(command: list[str], timeout: float) -> bytes:
    """The command's output, if it succeeded in time and stayed within its limit."""
    # A pipe of our own, read after the end: what the command leaves running may hold it open.
    reader, writer = os.pipe()
    try:
        try:
            process = await _start(command, writer)
        finally:
            os.close(writer)
        try:
            async with asyncio.timeout(timeout):
                status = await process.wait()
        finally:
            await _stop(process)
        os.set_blocking(reader, False)
        return os.read(reader, _LONGEST_ANSWER) if status == 0 else b""
    finally:
        os.close(reader)


async def _start(command: list[str], stdout: int) -> asyncio.subprocess.Process:
    kept = {name: value for name, value in os.environ.items() if name not in _OTHER_REPOSITORY}
    return await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=stdout,
        stderr=asyncio.subprocess.DEVNULL,
        env={**kept, "GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0"},
        start_new_session=True,
    )


async def _stop(process: asyncio.subprocess.Process) -> None:
    """Kill the process, if it still runs, with all that it started."""
    if process.returncode is not None:
        return
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(TimeoutError):  # a process that waits for a dead disk outlives even SIGKILL
        async with asyncio.timeout(_REAP_LIMIT_S):
            await process.wait()
