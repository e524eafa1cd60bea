"""What can be hit on every stage: an actor, an agent's process, the driver."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Iterator

from tests.chaos import helpers
from tests.chaos.faults.kinds import FaultKind, Field, Ground
from tests.chaos.ledger import Line
from tests.chaos.plan import Fault
from tests.kit import processes

Hit = Callable[[Field[Ground], Fault], Awaitable[str]]

_RECENT = 600
_BACK_LIMIT_S = 25.0
_AGENT_LIMIT_S = 5.0
_LOOK_EVERY_S = 0.1
_CRASHES = 0.3
_SIGNALS = (signal.SIGSEGV, signal.SIGABRT)


def host_at_work(*, own_process: bool) -> Hit:
    """Kills the host of an agent that began not long ago, in a process of its own or not."""

    async def hit(field: Field[Ground], fault: Fault) -> str:
        hosts = (line.amount for line in _at_work(field) if _is_process(line) == own_process)
        busy = next((pid for pid in hosts if processes.carries(pid, field.ground.sign)), None)
        pid = busy or await any_actor(field, "SessionActor", fault.pick)
        return f"pid {pid}" if pid and processes.kill(pid) else ""

    return hit


def actor(cls: str) -> Hit:
    """Kills one of the actors of a class."""

    async def hit(field: Field[Ground], fault: Fault) -> str:
        pid = await any_actor(field, cls, fault.pick)
        return f"pid {pid}" if pid and processes.kill(pid) else ""

    return hit


async def agent_process(field: Field[Ground], fault: Fault) -> str:
    """Kills the process of an agent at work, now and then as a crash in it would."""
    sign = signal.SIGKILL if fault.strength > _CRASHES else _SIGNALS[int(fault.pick * 2)]
    deadline = time.monotonic() + _AGENT_LIMIT_S
    while time.monotonic() < deadline:
        agents = [line for line in _at_work(field) if _is_process(line)]
        alive = [line.pid for line in agents if helpers.start_of(line.pid) == line.proof]
        if alive:
            pid = alive[int(fault.pick * len(alive))]
            return f"pid {pid}, {sign.name}" if processes.kill(pid, sign) else ""
        await asyncio.sleep(_LOOK_EVERY_S)
    return ""


async def driver(field: Field[Ground], fault: Fault) -> str:
    """Kills the driver, and starts the next one."""
    pid = field.drivers.kill()
    await asyncio.sleep(fault.strength)
    field.drivers.start()
    return f"pid {pid}" if pid else ""


def note_orphans(field: Field[Ground], raylet: int) -> int:
    """Note all that a raylet has started, before it is killed; how many processes that is."""
    orphans = processes.of_raylet(raylet)
    for process in orphans:
        field.ledger.note(Line("orphaned", amount=process.pid))
    return len(orphans)


async def any_actor(field: Field[Ground], cls: str, pick: float) -> int | None:
    """One of the actors of a class; they may be on their way back from the fault before."""
    deadline = time.monotonic() + _BACK_LIMIT_S
    while not (found := processes.actors(field.ground.sign, cls)):
        if time.monotonic() > deadline:
            return None
        await asyncio.sleep(_LOOK_EVERY_S)
    return int(found[int(pick * len(found))].pid)


def _at_work(field: Field[Ground]) -> Iterator[Line]:
    """How the agents began that began not long ago and have not ended, the newest first."""
    lines = field.reader.read()[-_RECENT:]
    ended = {line.life for line in lines if line.kind == "ended"}
    return (line for line in reversed(lines) if line.kind == "began" and line.life not in ended)


def _is_process(line: Line) -> bool:
    return line.amount != line.pid


FAULTS: tuple[FaultKind[Ground], ...] = (
    FaultKind("session_host", host_at_work(own_process=True), during=1),
    FaultKind("shared_host", host_at_work(own_process=False), during=2),
    FaultKind("agent_process", agent_process, during=1),
    FaultKind("budget", actor("Budget"), during=1),
    FaultKind("allowances", actor("Allowances"), during=1),
    FaultKind("capabilities", actor("Capabilities")),
    FaultKind("directory", actor("DirectoryActor")),
    FaultKind("driver", driver),
)
