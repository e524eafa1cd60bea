"""Agents for `tests.system.restart`: they pay, note each step outside, and take their time.

They are run by the command line from this file, so they import nothing else of the tests.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from retinue import FileRead, Message, Task, Turn

STEPS = 12
CHILDREN = 48
AT_ONCE = 12
COST_USD = "0.01"
_STEP_S = 0.05
_CHILD_S = 0.3


async def alone(turn: Turn, prompt: str) -> str:
    """Takes paid steps, one after another; ``prompt`` is the directory of its notes."""
    for at in range(STEPS):
        await _paid_step(turn, Path(prompt), f"step {at}", _STEP_S)
        await turn.add_message(Message.assistant(f"after step {at}"))
    return "done"


async def lead(turn: Turn, prompt: str) -> str:
    """Has sub-agents take a paid step each."""
    tasks = [Task(child, f"{prompt} {at}", timeout=120) for at in range(CHILDREN)]
    results = await turn.spawn(tasks, max_concurrent=AT_ONCE)
    bad = [result.error for result in results if not result.success]
    return f"{len(results) - len(bad)} well {bad}"


async def child(turn: Turn, prompt: str) -> str:
    """Takes one paid step."""
    directory, _, number = prompt.rpartition(" ")
    await _paid_step(turn, Path(directory), f"child {number}", _CHILD_S)
    return number


async def _paid_step(turn: Turn, directory: Path, name: str, lasts: float) -> None:
    async def work() -> str:
        _note(directory, f"ran {name}")
        await asyncio.sleep(lasts)
        return name

    async with turn.authorized(FileRead(path="a.txt"), cost_usd=COST_USD):
        await turn.step(name, work)
    _note(directory, f"told {name}")


def _note(directory: Path, line: str) -> None:
    """One write to a file that is open for appending: lines stay whole, and in order."""
    notes = os.open(directory / "notes", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(notes, f"{os.getpid()} {line}\n".encode())
    os.close(notes)
