"""Asks the person at the terminal what an agent may do."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from typing import TYPE_CHECKING

from retinue.actors.domain.permissions.actions import argument_hash
from retinue.cluster.terminal.display import Display
from retinue.cluster.terminal.render import clean, one_line, say

if TYPE_CHECKING:
    from retinue.cluster.client.inbox import Answer, InboxRequest

_QUESTION = "  [o]nce, [s]ession, [w]orkspace, [a]lways (1 h), [d]eny, [l]ater? "
_ANSWERS: dict[str, Answer] = {
    "o": "once",
    "s": "session",
    "w": "workspace",
    "a": "always",
    "d": "deny",
    "l": None,
}


def can_ask() -> bool:
    """Returns whether there is a terminal to ask at."""
    return sys.stdin.isatty() and sys.stderr.isatty()


async def approve_all(request: InboxRequest) -> Answer:
    """The handler of ``--approve all``: grants everything, for the workspace."""
    return "workspace"


class Asker:
    """The handler of ``--approve ask``: one question at a time.

    Requests for the same action that were waiting meanwhile get the same answer, unless it was for
    one action only. Later ones are left to allowances.
    """

    def __init__(self, display: Display) -> None:
        self._display = display
        self._one_at_a_time = asyncio.Lock()
        self._answered: dict[str, tuple[int, Answer]] = {}

    async def __call__(self, request: InboxRequest) -> Answer:
        async with self._one_at_a_time:
            action = argument_hash(request.action)
            until, answer = self._answered.get(action, (0, None))
            if request.created_at > until:
                with self._display.paused():
                    answer = await _ask(request)
                if answer not in ("once", None):
                    self._answered[action] = (time.time_ns() // 1000, answer)
            return answer


async def _ask(request: InboxRequest) -> Answer:
    say(f"retinue: an agent asks: {clean(request.description)}  (risk: {request.risk})")
    if request.context:
        say(f"  why: {one_line(request.context, 200)}")
    while True:
        print(_QUESTION, end="", file=sys.stderr, flush=True)
        line = await _read_line()
        if line is None:
            say("no answer: it waits in the inbox (`retinue approvals`)")
            return None
        if (letter := line.strip().lower()[:1]) in _ANSWERS:
            return _ANSWERS[letter]


async def _read_line() -> str | None:
    """A line from the terminal, or None at its end; can be cancelled, as a thread could not."""
    loop, file = asyncio.get_running_loop(), sys.stdin.fileno()
    ready = loop.create_future()

    def read() -> None:
        if not ready.done():
            ready.set_result(os.read(file, 4096))

    loop.add_reader(file, read)
    try:
        data: bytes = await ready
    except asyncio.CancelledError:
        say("")
        raise
    finally:
        loop.remove_reader(file)
    return data.decode(errors="replace") if data else None
