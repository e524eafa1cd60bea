"""The agents that are measured. They use nothing but what any agent can."""

from __future__ import annotations

import asyncio
import os
import random
import time
from pathlib import Path

from retinue import FileRead, Message, Task, Turn

READ = FileRead(path="a.txt")
"""The action that is authorised: a file inside the workspace, which nobody has to approve."""

COST = "0.0001"
CENT = 10_000_000
MOST_CENTS = 20
HOLDER_SPENDS = 3


async def leaf(turn: Turn, prompt: str) -> str:
    """A sub-agent: three authorisations and a result."""
    for _ in range(3):
        decision = await turn.authorize(READ, cost_usd=COST)
        if not decision.allowed:
            raise RuntimeError(decision.reason)
    return "ok"


async def fans_out(turn: Turn, prompt: str) -> float:
    """As many leaves as the prompt says, all at once; the seconds until the last result."""
    count = int(prompt)
    begin = time.perf_counter()
    tasks = [Task(leaf, str(at), isolation="shared") for at in range(count)]
    results = await turn.spawn(tasks, max_concurrent=count)
    seconds = time.perf_counter() - begin
    failed = [result.error for result in results if result.output != "ok"]
    if failed:
        raise RuntimeError(f"{len(failed)} of {count} failed: {failed[0]}")
    return seconds


async def says_hello(turn: Turn, prompt: str) -> str:
    """Replies at once."""
    return "hello"


async def spawns_processes(turn: Turn, prompt: str) -> list[float]:
    """Children with processes of their own, one after another; seconds to each one's reply."""
    seconds = []
    for _ in range(int(prompt)):
        begin = time.perf_counter()
        (result,) = await turn.spawn([Task(says_hello, isolation="process")])
        seconds.append(time.perf_counter() - begin)
        if result.output != "hello":
            raise RuntimeError(str(result.error))
    return seconds


async def authorizes(turn: Turn, prompt: str) -> list[float]:
    """Authorisations one after another; the seconds of each."""
    seconds = []
    for _ in range(int(prompt)):
        begin = time.perf_counter()
        decision = await turn.authorize(READ, cost_usd=COST)
        seconds.append(time.perf_counter() - begin)
        if not decision.allowed:
            raise RuntimeError(decision.reason)
    return seconds


async def authorizes_along(turn: Turn, prompt: str) -> list[float]:
    """Authorisations one after another; when the first was asked for, and the last answered."""
    begin = time.monotonic()
    for _ in range(int(prompt)):
        decision = await turn.authorize(READ, cost_usd=COST)
        if not decision.allowed:
            raise RuntimeError(decision.reason)
    return [begin, time.monotonic()]


async def adds_messages(turn: Turn, prompt: str) -> list[float]:
    """Messages one after another; the seconds of each."""
    seconds = []
    for at in range(int(prompt)):
        message = Message.user(f"message number {at} of this conversation")
        begin = time.perf_counter()
        await turn.add_message(message)
        seconds.append(time.perf_counter() - begin)
    return seconds


async def converses(turn: Turn, prompt: str) -> float:
    """A usual turn: reads the last messages, adds two, and is authorised once.

    Answers with the time at which it was called. With a number as its prompt it adds as many
    messages instead; with a path it only waits for that file, so that turns can queue behind it.
    """
    begin = time.monotonic()
    if prompt.isdigit():
        for at in range(int(prompt)):
            await turn.add_message(Message.user(f"message number {at} of this conversation"))
    elif prompt:
        while not os.path.exists(prompt):
            await asyncio.sleep(0.005)
        begin = time.monotonic()
    else:
        await turn.messages(last=5)
        await turn.add_message(Message.user("what do you make of it?"))
        await turn.authorize(READ, cost_usd=COST)
        await turn.add_message(Message.assistant("not much, to be honest"))
    return begin


async def chats(turn: Turn, prompt: str) -> str:
    """Adds as many short messages as the prompt says, users' and assistants' by turns."""
    for at in range(int(prompt)):
        text = f"short message number {at}"
        await turn.add_message(Message.assistant(text) if at % 2 else Message.user(text))
    return "ok"


async def works_on(turn: Turn, prompt: str) -> str:
    """Work in flight: paid for and noted down, it marks that it is there and waits for a file."""
    marks, go = prompt.split()
    decision = await turn.authorize(READ, cost_usd=COST)
    await turn.add_message(Message.assistant("under way"))
    with open(marks, "a") as out:
        out.write(f"{turn.session_id} {time.monotonic()}\n")
    while not os.path.exists(go):
        await asyncio.sleep(0.5 + random.random())
    await turn.settle(decision)
    return "done"


async def races(turn: Turn, prompt: str) -> int:
    """Spends cents as fast as it can until not even one is left; the nano-USD that it spent.

    The prompt is a seed. Some of what is reserved is given back each time.
    """
    chance = random.Random(int(prompt))
    most, spent = MOST_CENTS, 0
    while most:
        cents = chance.randint(1, most)
        decision = await turn.authorize(READ, cost_usd=f"{cents / 100:.2f}")
        if decision.allowed:
            actual = chance.randint(1, cents)
            await turn.settle(decision, f"{actual / 100:.2f}")
            spent += actual * CENT
        else:
            most = 1 if cents > 1 else 0
    return spent


async def holds(turn: Turn, prompt: str) -> int:
    """Spends three cents and then stays in its turn, with whatever it was lent."""
    for _ in range(HOLDER_SPENDS):
        decision = await turn.authorize(READ, cost_usd="0.01")
        if not decision.allowed:
            raise RuntimeError(decision.reason)
        await turn.settle(decision)
    Path(f"{prompt}.{turn.session_id}").touch()
    while not os.path.exists(prompt):
        await asyncio.sleep(0.05)
    return HOLDER_SPENDS * CENT


async def claims(turn: Turn, prompt: str) -> int:
    """Tries to spend what should be left, whole and else cent by cent; the nano-USD it got."""
    left = int(prompt)
    got = 0
    for nano in [left] + [CENT] * (left // CENT):
        if nano and got + nano <= left:
            decision = await turn.authorize(READ, cost_usd=f"{nano / 10**9:.9f}")
            if decision.allowed:
                await turn.settle(decision)
                got += nano
    return got
