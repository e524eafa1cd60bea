"""Runs a stage's rounds: a working cluster, one fault after another, and then the comparison."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from retinue.actors.domain.budget import machine as budget
from retinue.actors.domain.budget.state import WORKSPACE
from retinue.actors.domain.budget.totals import level_of
from retinue.actors.domain.errors import RetinueError
from retinue.actors.domain.values.ids import derived_id
from retinue.cluster.ray.roles import wire
from tests.chaos import helpers
from tests.chaos.checks.books import read_books, read_budget
from tests.chaos.checks.check import check
from tests.chaos.checks.findings import Findings
from tests.chaos.checks.records import Records
from tests.chaos.client.driver import Place
from tests.chaos.client.drivers import Drivers
from tests.chaos.client.waves import WORKSPACES
from tests.chaos.faults.kinds import Faults, Field, Ground
from tests.chaos.ledger import Ledger, Reader
from tests.chaos.plan import Fault, Round
from tests.chaos.stages import Stage
from tests.chaos.workloads.life import CENT
from tests.kit import processes

_START_LIMIT_S = 90.0
_FINISH_LIMIT_S = 180.0
_GONE_LIMIT_S = 10.0
_GOES_ON_LIMIT_S = 15.0
_BEAT_S = 0.5
_ENOUGH_TO_START = 20


class Harness:
    """One run, on a ground that is up; of all kinds of work, unless some are named."""

    def __init__(
        self, stage: Stage[Any], ground: Ground, seed: str, work: tuple[str, ...] = ()
    ) -> None:
        paths = [ground.home / f"w{at}" for at in range(WORKSPACES)]
        for path in paths:
            path.mkdir()
        ledger = ground.home / "ledger.jsonl"
        place = Place(
            seed,
            ground.address,
            ground.settings,
            str(ledger),
            [str(path) for path in paths],
            str(ground.home / "stop"),
            work,
        )
        self._ground = ground
        self._runtime = wire(ground.direct_settings())
        self._workspaces = [derived_id(f"workspace:{path}") for path in paths]
        self._reader = Reader(ledger)
        self._drivers = Drivers(ground.home, place)
        field = Field(ground, self._drivers, self._reader, Ledger(str(ledger)))
        self._faults = Faults(stage.kinds, field)
        self._helper = helpers.command(str(ledger))
        self._findings = Findings()
        self._passed: set[str] = set()
        self._began = time.monotonic()
        self.acknowledged = 0

    @property
    def hits(self) -> dict[str, int]:
        """How often each fault hit something."""
        return dict(sorted(self._faults.hits.items()))

    async def run(self, plan: list[Round]) -> Findings:
        """Play the rounds, let everything come to its end, and compare."""
        try:
            await self._run(plan)
        finally:
            self._drivers.close()
        return self._findings

    async def _run(self, plan: list[Round]) -> None:
        self._say("waiting for the workload to begin")
        self._drivers.start()
        begun = await self._until(lambda: self._told() > _ENOUGH_TO_START, _START_LIMIT_S)
        if not begun:
            self._findings.add("lost", "the workload did not begin")
        for one in plan:
            await self._play(one, plan[-1].number)
        self._say("waiting for the workload to end")
        self._drivers.finish()
        if not await self._until(self._drivers.watch, _FINISH_LIMIT_S):
            self._findings.add("lost", "the workload did not come to its end")
        await self._compare()

    async def _play(self, one: Round, count: int) -> None:
        """A round, which begins when work goes on after the one before."""
        before = self._told()
        await self._until(lambda: self._goes_on(before), _GOES_ON_LIMIT_S)
        began, told = time.monotonic(), self._told()
        faults = [asyncio.create_task(self._at(fault)) for fault in one.faults]
        while time.monotonic() < began + one.length or not all(fault.done() for fault in faults):
            await asyncio.sleep(_BEAT_S)
            self._drivers.watch()
            await self._sample()
        await self._ground.mend()
        texts = " + ".join(fault.result() for fault in faults)
        print(
            f"{one.number:4}/{count}  {time.monotonic() - began:4.1f} s  "
            f"{self._told():6} (+{self._told() - told})  {texts}",
            flush=True,
        )

    async def _at(self, fault: Fault) -> str:
        await asyncio.sleep(fault.at)
        return await self._faults.make(fault)

    def _say(self, text: str) -> None:
        print(f"{time.monotonic() - self._began:6.1f} s  {text}", flush=True)

    async def _until(self, condition: Callable[[], bool], limit_s: float) -> bool:
        deadline = time.monotonic() + limit_s
        while not condition():
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(_BEAT_S)
        return True

    def _goes_on(self, told: int) -> bool:
        self._drivers.watch()
        return self._told() > told

    def _told(self) -> int:
        return sum(1 for line in self._reader.read() if line.kind == "told")

    # --- caps, while it runs -------------------------------------------------------------

    async def _sample(self) -> None:
        """Caps hold at every instant, so they do at this one."""
        for workspace_id in self._workspaces:
            with contextlib.suppress(RetinueError, TimeoutError):
                async with asyncio.timeout(1.0):
                    state = await read_budget(self._runtime, workspace_id)
                self._check_caps(workspace_id, state)

    def _check_caps(self, workspace_id: str, state: budget.State) -> None:
        """No level has lent more than its cap, but for what was paid beyond a reservation."""
        over: Counter[str] = Counter()
        highest = 0
        for line in self._reader.read():
            if line.what == "settle" and line.kind == "tried" and line.value == "over":
                over[line.family] += CENT
            elif line.what == "cap" and line.kind == "tried" and line.id == workspace_id:
                highest = max(highest, line.amount)
        limits = {WORKSPACE: highest + sum(over.values())} if highest else {}
        for id, family in state.families.items():
            limits[id] = (family.cap.max or 0) + over[id]
        for id, most in state.allotments.items():
            limits[id] = most + over[state.accounts[id].family]
        for name, most in limits.items():
            held = level_of(state, name).held
            if held > most and name not in self._passed:
                self._passed.add(name)
                self._findings.add("overspent", f"budget: {held} of {most} lent at {name}")

    # --- the end -------------------------------------------------------------------------

    async def _compare(self) -> None:
        self._say("comparing")
        records = Records(self._reader.read())
        self.acknowledged = records.acknowledged
        families = [op.line.session for op in records.of("create") if op.told]
        books = await read_books(self._runtime, self._workspaces, families)
        self._findings.take(check(records, books))
        for crash in self._drivers.crashes:
            self._findings.add("lost", crash)
        await self._check_processes(records)

    async def _check_processes(self, records: Records) -> None:
        """No agent's process, no helper of one and nothing of a dead node is there any more."""
        lives = [line for _, line in records.lives.values() if line.pid != line.amount]

        def left() -> list[str]:
            agents = [
                f"process {line.pid} of an agent"
                for line in lives
                if helpers.start_of(line.pid) == line.proof
            ]
            of_agents = [
                f"helper {process.pid} of an agent"
                for process in processes.with_command(self._helper)
            ]
            dead = [
                f"process {processes.describe(process)} of a dead node"
                for raylet in self._ground.dead_raylets
                if not processes.is_alive(raylet)
                for process in processes.of_raylet(raylet)
            ]
            return agents + of_agents + dead

        self._say("looking for what is left")
        await self._until(lambda: not left(), _GONE_LIMIT_S)
        for text in left():
            self._findings.add("leaked", text)
        for process in processes.with_command(self._helper):
            processes.kill(process.pid)
