"""What an agent does: the same steps on every replay, each in the ledger before and after.

An errand is followed by its seed alone, so two lives of one run do the same. What the system tells
a life is written down as soon as it is told; the checker finds out whether two lives were told
different things, and whether anything that was told got lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import struct
import sys

import msgspec
from msgspec import Struct

from retinue import McpToolCall, Message, StepInterrupted, Task, Turn
from retinue.actors.domain.permissions.decision import Decision
from retinue.actors.domain.values.money import to_usd
from tests.chaos.ledger import Ledger, Line
from tests.chaos.work import helpers
from tests.chaos.work.agents import worker

CENT = 10_000_000
"""In nano-USD."""

GUARDED = "guarded"
"""The MCP server whose tools need an approval."""

CHILD_TIMEOUT_S = 600.0
_ASK_LIMIT_S = 2.0
_BEAT_S = 0.2
# Else a process that it starts would be its neighbours', too.
_HAS_PROCESS = sys.argv[0].endswith("process/worker.py")
_PEER = struct.Struct("3i")  # process, user and group id
_ledgers: dict[str, Ledger] = {}


class Errand(Struct, frozen=True):
    """An agent's prompt. ``label`` names it for the whole run of the harness."""

    ledger: str
    seed: str
    label: str
    wave: int
    levels: int
    slow: float = 1.0


async def run_errand(turn: Turn, prompt: str) -> str:
    """Run the errand that ``prompt`` holds."""
    errand = msgspec.json.decode(prompt, type=Errand)
    ledger = _ledgers.get(errand.ledger)
    if ledger is None:
        ledger = _ledgers[errand.ledger] = Ledger(errand.ledger)
    life = os.urandom(8).hex()
    run = _Run(turn, errand, ledger, life)
    start = helpers.start_of(os.getpid())
    ledger.note(run.line("began", value=errand.label, amount=_host(), proof=start))
    try:
        return await run.all()
    finally:
        ledger.note(run.line("ended", value=errand.label))


def _host() -> int:
    """The process id of the session host: this process, or the one that made its socket to it."""
    if not _HAS_PROCESS:
        return os.getpid()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(int(name))) as line:
            if line.family is socket.AF_UNIX:
                credentials = line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
                if (pid := int(_PEER.unpack(credentials)[0])) != os.getpid():
                    return pid
    return 0


class _Run:
    """One life of one run of an agent, or a branch of it."""

    def __init__(
        self, turn: Turn, errand: Errand, ledger: Ledger, life: str, branch: str = ""
    ) -> None:
        self.turn = turn
        self.errand = errand
        self.ledger = ledger
        self.life = life
        self.branch = branch
        self.rng = random.Random(f"{errand.seed}/{errand.label}/{branch}")
        self.count = 0

    def line(
        self,
        kind: str,
        what: str = "",
        op: str = "",
        *,
        id: str = "",
        amount: int = 0,
        value: str = "",
        proof: str = "",
        many: list[str] | None = None,
    ) -> Line:
        """A line about this life."""
        turn = self.turn
        return Line(
            kind,
            what,
            op,
            life=self.life,
            session=turn.session_id,
            run=turn.run_id,
            family=turn.family_id,
            parent=turn.parent_id or "",
            id=id,
            amount=amount,
            value=value,
            proof=proof,
            many=many or [],
        )

    async def all(self) -> str:
        """The steps, a spawn among them if there are levels left."""
        steps = self.rng.randint(4, 8)
        spawns_at = self.rng.randrange(1, steps) if self.errand.levels else steps
        for number in range(steps):
            if number == spawns_at:
                await self.spawn()
            await self.step(number)
        return f"{self.errand.label} is done"

    async def step(self, number: int) -> None:
        """One step of any kind."""
        kinds = [self.spend] * 5 + [self.permitted] * 4 + [self.say] * 4
        kinds += [self.think] * 3 + [self.compute] * 2 + [self.careful] * 2
        if not self.branch:
            kinds += [self.parallel, self.helper]
        await self.rng.choice(kinds)()

    async def think(self) -> None:
        """Something that takes its time, and shows that it goes on."""
        left = self.rng.uniform(0.1, 1.0) * self.errand.slow
        while left > 0:
            self.ledger.note(self.line("alive"))
            await asyncio.sleep(min(left, _BEAT_S))
            left -= _BEAT_S

    async def say(self) -> None:
        """A message."""
        op = self._op()
        self.ledger.note(self.line("tried", "say", op, value=op))
        await self.turn.add_message(Message.assistant(op))
        self.ledger.note(self.line("told", "say", op, value=op))

    async def compute(self) -> None:
        """A step whose function gives something else each time."""
        op = self._op()

        def function() -> str:
            self.ledger.note(self.line("ran", "compute", op))
            return os.urandom(6).hex()

        value = await self.turn.step(op, function)
        self.ledger.note(self.line("told", "compute", op, value=value))

    async def careful(self) -> None:
        """A step that must not happen twice."""
        op = self._op()

        async def function() -> str:
            self.ledger.note(self.line("ran", "careful", op))
            await asyncio.sleep(0.05)
            return os.urandom(6).hex()

        try:
            value: str = await self.turn.step(op, function, idempotent=False)
        except StepInterrupted:
            return
        self.ledger.note(self.line("told", "careful", op, value=value))

    async def helper(self) -> None:
        """A process beside the agent, which must end with its run, however it was started."""
        op = self._op()
        way, pause = self.rng.choice(helpers.WAYS), self.rng.uniform(0.0, 0.2)
        if _HAS_PROCESS:
            pid = helpers.start(way, self.ledger.path)
            start = helpers.start_of(pid)
            self.ledger.note(self.line("ran", "helper", op, amount=pid, value=start, proof=way))
        await asyncio.sleep(pause)

    async def spend(self) -> None:
        """An action that costs something, paid for in one way or another."""
        op = self._op()
        cost, way = self.rng.randint(1, 12) * CENT, self.rng.random()
        pause = self.rng.uniform(0.0, 0.3)
        decision = await self._authorize(op, McpToolCall("tools", op), cost)
        if not decision.allowed:
            return
        await asyncio.sleep(pause)
        await self._settle(op, decision, way)

    async def permitted(self) -> None:
        """An action that needs a token, an allowance or a person; many want the same one."""
        op, wave = self._op(), self.errand.wave
        tool = self.rng.choice(
            (f"limited-{wave}", f"single-{wave}-0", f"single-{wave}-1", f"shared-{wave}", op)
        )
        cost = self.rng.choice((0, 0, 3)) * CENT
        decision = await self._authorize(op, McpToolCall(GUARDED, tool), cost)
        if decision.allowed and decision.amount:
            await self._settle(op, decision, 0.5)

    async def parallel(self) -> None:
        """Two branches at once, of two steps each."""
        name = self._op().rpartition("#")[2]
        branches = [
            _Run(self.turn, self.errand, self.ledger, self.life, f"{name}{letter}")
            for letter in "ab"
        ]
        await asyncio.gather(*(branch.both() for branch in branches))

    async def both(self) -> None:
        """A branch: the payment comes first, since it tells one branch from another."""
        await self.spend()
        await self.step(1)

    async def spawn(self) -> None:
        """Sub-agents, some with a cap of their own and some in processes of their own."""
        op, errand = self._op(), self.errand
        labels = [f"{op}/{at}" for at in range(self.rng.randint(2, 4))]
        tasks = [self._task(label) for label in labels]
        self.ledger.note(self.line("tried", "spawn", op, many=labels))
        results = await self.turn.spawn(tasks, max_concurrent=errand.levels * 3)
        told = [f"{one.session_id} {one.status} {one.cost}" for one in results]
        self.ledger.note(self.line("told", "spawn", op, many=told))

    def _task(self, label: str) -> Task:
        errand = msgspec.structs.replace(self.errand, label=label, levels=self.errand.levels - 1)
        return Task(
            worker,
            msgspec.json.encode(errand).decode(),
            timeout=CHILD_TIMEOUT_S,
            allotment_usd=self.rng.choice((None, None, "0.15", "0.40")),
            isolation=self.rng.choice(("shared", "process")),
            label=label,
        )

    async def _authorize(self, op: str, action: McpToolCall, cost: int) -> Decision:
        self.ledger.note(self.line("tried", "authorize", op, amount=cost, value=action.tool))
        decision = await self.turn.authorize(action, cost_usd=to_usd(cost), timeout=_ASK_LIMIT_S)
        self.ledger.note(
            self.line(
                "told",
                "authorize",
                op,
                id=decision.operation,
                amount=decision.amount,
                value=decision.kind,
                proof=decision.proof,
            )
        )
        return decision

    async def _settle(self, op: str, decision: Decision, way: float) -> None:
        """Pay all, half or nothing of it, leave it to the end of the run, or pay too much."""
        reserved = decision.amount
        if way < 0.1:
            return
        actual, how = reserved, ""
        if way < 0.3:
            actual = reserved // 2
        elif way < 0.4:
            actual = 0
        elif way > 0.97:
            actual, how = reserved + CENT, "over"
        id = decision.operation
        self.ledger.note(self.line("tried", "settle", op, id=id, amount=actual, value=how))
        await self.turn.settle(decision, to_usd(actual))
        self.ledger.note(self.line("told", "settle", op, id=id, amount=actual))

    def _op(self) -> str:
        self.count += 1
        return f"{self.errand.label}#{self.branch}{self.count}"
