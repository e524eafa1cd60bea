"""Agents for the tests that run on a real cluster."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from pathlib import Path

from retinue import ExecuteCommand, FileRead, LimitReached, McpToolCall, Message, Policy, Task, Turn
from retinue.actors.domain.session.settings import Isolation

ASKS_FOR_PARSE = Policy(approval_required_tools=("survey/parse",))
"""Under which the tool that some of these call needs an approval."""


async def echo(turn: Turn, prompt: str) -> str:
    """Answers with its prompt."""
    await turn.add_message(Message.user(prompt))
    await turn.add_message(Message.assistant(f"heard {prompt}"))
    return prompt


async def says_nothing(turn: Turn, prompt: str) -> None:
    """Leaves its last message as the output."""
    await turn.add_message(Message.assistant("my last words"))


async def spends(turn: Turn, prompt: str) -> str:
    """Asks for the given USD amounts one after another; answers with the kinds of the answers."""
    kinds = []
    for cost in prompt.split():
        decision = await turn.authorize(FileRead(path="a.txt"), cost_usd=cost)
        kinds.append(decision.kind)
    return " ".join(kinds)


async def hammers(turn: Turn, prompt: str) -> int:
    """Spends a tenth of a cent until it is told no; answers with how often it could."""
    count = 0
    for _ in range(int(prompt)):
        decision = await turn.authorize(FileRead(path="a.txt"), cost_usd="0.001")
        if not decision.allowed:
            break
        await turn.settle(decision, "0.001" if count % 2 else "0.0007")
        count += 1
    return count


async def hammering_family(turn: Turn, prompt: str) -> list[object]:
    """Five sub-agents that hammer the budget in parallel."""
    tasks = [Task(hammers, prompt, isolation="shared") for _ in range(5)]
    return [result.value for result in await turn.spawn(tasks, max_concurrent=5)]


async def calls_tool(turn: Turn, prompt: str) -> str:
    """Calls survey/parse; the prompt is how long to wait for a person, in seconds."""
    decision = await turn.authorize(McpToolCall("survey", "parse"), timeout=float(prompt))
    return f"{decision.kind} {decision.proof.partition(':')[0]}".strip()


async def runs_command(turn: Turn, prompt: str) -> str:
    """Asks to run a command, ten seconds of patience."""
    name, *arguments = prompt.split()
    action = ExecuteCommand(name, tuple(arguments))
    decision = await turn.authorize(action, timeout=10, cost_usd="0.5")
    return decision.kind


async def has_children(turn: Turn, prompt: str) -> list[str]:
    """Spawns as many echoes as the prompt says."""
    tasks = [Task(echo, f"child {at}") for at in range(int(prompt))]
    return [result.output for result in await turn.spawn(tasks, max_concurrent=8)]


async def too_many_at_once(turn: Turn, prompt: str) -> list[str]:
    """Spawns that must fit at once: one that does, one that doesn't, and one that does again."""
    tasks = [Task(echo, f"child {at}") for at in range(3)]
    first = await turn.spawn(tasks, max_concurrent=3, queue=False)
    try:
        await turn.spawn(tasks, max_concurrent=2, queue=False)
    except LimitReached as error:
        refused = error.message
    last = await turn.spawn(tasks, max_concurrent=3, queue=False)
    return [refused, *(result.output for result in (*first, *last))]


async def mixed_children(turn: Turn, prompt: str) -> list[list[str | None]]:
    """Children that succeed, fail, run out of time and exit; none of it is an exception here."""
    isolation: Isolation = "process" if prompt == "process" else "shared"
    tasks = [
        Task(echo, "fine", isolation=isolation),
        Task(fails, "", isolation=isolation),
        Task(sleeps, "", isolation=isolation, timeout=0.5),
        Task(exits, "", isolation="process"),
    ]
    results = await turn.spawn(tasks, max_concurrent=4)
    return [[result.status, result.error] for result in results]


async def fails(turn: Turn, prompt: str) -> str:
    """Raises."""
    raise ValueError("on purpose")


async def sleeps(turn: Turn, prompt: str) -> str:
    """Never returns by itself."""
    await asyncio.sleep(3600)
    return "awake"


async def blocks(turn: Turn, prompt: str) -> str:
    """Never gives the loop back."""
    while True:
        time.sleep(0.1)


async def exits(turn: Turn, prompt: str) -> str:
    """Ends its process."""
    os._exit(3)


async def leaves(turn: Turn, prompt: str) -> str:
    """Asks its process to end in the ordinary way."""
    raise SystemExit(4)


async def kills_itself(turn: Turn, prompt: str) -> str:
    """Kills the process that it runs in."""
    os.kill(os.getpid(), signal.SIGKILL)
    return "alive"


async def fills_memory(turn: Turn, prompt: str) -> str:
    """Takes more memory than there is."""
    held = [bytearray(1 << 28) for _ in range(1 << 10)]
    return str(len(held))


async def hogs_memory(turn: Turn, prompt: str) -> str:
    """Takes as many pieces of 256 MiB as the prompt says, and keeps them."""
    held = [b"x" * (1 << 28) for _ in range(int(prompt))]
    await asyncio.sleep(3600)
    return str(len(held))


async def returns_object(turn: Turn, prompt: str) -> object:
    """Returns what is neither text nor JSON."""
    return object()


async def starts_process(turn: Turn, prompt: str) -> str:
    """Leaves a process behind and goes to sleep; the prompt is where to write its id."""
    child = subprocess.Popen(["sleep", "3600"])
    with open(prompt, "w") as out:
        out.write(str(child.pid))
    await asyncio.sleep(3600)
    return ""


async def leaves_process(turn: Turn, prompt: str) -> str:
    """Leaves a process behind, in a session of its own, and returns; writes its id down."""
    child = subprocess.Popen(["sleep", "3600"], start_new_session=True)
    Path(prompt).write_text(str(child.pid))
    return "done"


async def step_by_step(turn: Turn, prompt: str) -> str:
    """Two paid steps that leave a mark in a directory; the second waits for a file named go."""
    directory = Path(prompt)
    async with turn.authorized(McpToolCall("survey", "parse"), cost_usd="1"):
        first = await turn.step("first", lambda: _mark(directory / "first"))
    await turn.add_message(Message.assistant("first done"))

    async def second() -> int:
        marks = _mark(directory / "second")
        while not (directory / "go").exists():
            await asyncio.sleep(0.02)
        return marks

    async with turn.authorized(McpToolCall("survey", "parse"), cost_usd="1"):
        last = await turn.step("second", second)
    await turn.add_message(Message.assistant("second done"))
    return f"{first} {last}"


async def counts_its_calls(turn: Turn, prompt: str) -> str:
    """One step of each kind, and a mark for each time that it is called."""
    directory = Path(prompt)
    _mark(directory / "calls")
    async with turn.authorized(FileRead(path="a.txt"), cost_usd="0.5") as permit:
        permit.settle("0.25")
    await turn.add_message(Message.assistant("hello"))
    first = await turn.step("step", lambda: _mark(directory / "step"))
    again = await turn.step("same", lambda: first)
    results = await turn.spawn([Task(answers, "child", isolation="shared")])
    return f"{first} {again} hello {results[0].output}"


async def answers(turn: Turn, prompt: str) -> str:
    """Returns its prompt, and does nothing else."""
    return prompt


async def never_the_same(turn: Turn, prompt: str) -> str:
    """Its step has another name at each call."""
    await turn.step(f"step {_mark(Path(prompt))}", lambda: 1)
    return "done"


async def steps_in_parallel(turn: Turn, prompt: str) -> list[int]:
    """Four steps at once, which finish in the opposite order."""

    async def one(at: int) -> int:
        await asyncio.sleep(0.01 * (4 - at))

        def mark() -> int:
            _mark(Path(prompt) / f"step {at}")
            return at

        return await turn.step(f"number {at}", mark)

    return list(await asyncio.gather(*(one(at) for at in range(4))))


def _mark(path: Path) -> int:
    with path.open("a") as out:
        out.write("x")
    return path.stat().st_size


async def deep(turn: Turn, prompt: str) -> str:
    """Spawns one child that does the same, ``prompt`` levels down."""
    levels = int(prompt)
    if levels == 0:
        return "bottom"
    results = await turn.spawn([Task(deep, str(levels - 1), isolation="shared")])
    return results[0].output or str(results[0].error)


async def sleeping_tree(turn: Turn, prompt: str) -> str:
    """A root with two children with two sleepers each."""
    if prompt == "leaf":
        await asyncio.sleep(3600)
    below = "leaf" if prompt == "branch" else "branch"
    await turn.spawn([Task(sleeping_tree, below, isolation="shared") for _ in range(2)])
    return "done"


async def paces(turn: Turn, prompt: str) -> str:
    """Pays a cent for each of 40 marks in a file; the prompt is its path."""
    for _ in range(40):
        async with turn.authorized(FileRead(path="a.txt"), cost_usd="0.01"):
            _mark(Path(prompt))
        await asyncio.sleep(0.05)
    return "done"


async def pacing_family(turn: Turn, prompt: str) -> str:
    """Eight sub-agents, two at once, that pay a cent for a mark; the prompt is a file's path."""
    tasks = [Task(pays_and_marks, prompt, timeout=30) for _ in range(8)]
    results = await turn.spawn(tasks, max_concurrent=2)
    return " ".join(result.status for result in results)


async def pays_and_marks(turn: Turn, prompt: str) -> str:
    """Marks that it was called, then pays a cent and marks that."""
    _mark(Path(f"{prompt}.called"))
    async with turn.authorized(FileRead(path="a.txt"), cost_usd="0.01"):
        _mark(Path(prompt))
    await asyncio.sleep(0.1)
    return "done"


async def waits_to_pay(turn: Turn, prompt: str) -> str:
    """Marks that it was called, waits for a file named go, and pays a dollar."""
    _mark(Path(prompt) / "called")
    while not (Path(prompt) / "go").exists():
        await asyncio.sleep(0.02)
    decision = await turn.authorize(FileRead(path="a.txt"), cost_usd="1")
    _mark(Path(prompt) / "told")
    return decision.kind
