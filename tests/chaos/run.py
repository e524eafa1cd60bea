"""Runs the plan: a working cluster, one fault after another, and then the comparison."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable

from actors.domain import budget
from actors.domain.errors import TroupeError
from actors.domain.ids import derived_id
from cluster.calls import Calls
from cluster.roles import wire
from tests.chaos import processes
from tests.chaos.books import read_books, read_budget
from tests.chaos.checker import check
from tests.chaos.cluster import ChaosCluster
from tests.chaos.driver import Place
from tests.chaos.drivers import Drivers
from tests.chaos.errands import CENT
from tests.chaos.faults import Faults
from tests.chaos.findings import Findings
from tests.chaos.ledger import Ledger, Reader
from tests.chaos.plan import Fault, Round
from tests.chaos.records import Records
from tests.chaos.workload import WORKSPACES

_START_LIMIT_S = 90.0
_FINISH_LIMIT_S = 180.0
_GONE_LIMIT_S = 10.0
_BEAT_S = 0.5
_ENOUGH_TO_START = 20


class Harness:
    """One run, in a cluster that is up."""

    def __init__(self, cluster: ChaosCluster, seed: int) -> None:
        paths = [cluster.home / f"w{at}" for at in range(WORKSPACES)]
        for path in paths:
            path.mkdir()
        ledger = cluster.home / "ledger.jsonl"
        place = Place(
            seed,
            cluster.address,
            cluster.settings,
            str(ledger),
            [str(path) for path in paths],
            str(cluster.home / "stop"),
        )
        self._cluster = cluster
        self._wiring = wire(cluster.direct_settings())
        self._scopes = [derived_id(f"workspace:{path}") for path in paths]
        self._reader = Reader(ledger)
        self._drivers = Drivers(cluster.home, place)
        self._faults = Faults(
            cluster, self._drivers, self._reader, Ledger(str(ledger)), Calls(cluster.settings)
        )
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
        self._say("waiting for the workload to begin")
        self._drivers.start()
        begun = await self._until(lambda: self._told() > _ENOUGH_TO_START, _START_LIMIT_S)
        if not begun:
            self._findings.add("lost", "the workload did not begin")
        for one in plan:
            await self._play(one, len(plan))
        self._say("waiting for the workload to end")
        self._drivers.finish()
        if not await self._until(self._drivers.watch, _FINISH_LIMIT_S):
            self._findings.add("lost", "the workload did not come to its end")
        await self._compare()
        return self._findings

    async def _play(self, one: Round, count: int) -> None:
        began, told = time.monotonic(), self._told()
        faults = [asyncio.create_task(self._at(fault)) for fault in one.faults]
        while time.monotonic() < began + one.length or not all(fault.done() for fault in faults):
            await asyncio.sleep(_BEAT_S)
            self._drivers.watch()
            await self._sample()
        await self._faults.mend()
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

    def _told(self) -> int:
        return sum(1 for line in self._reader.read() if line.kind == "told")

    # --- caps, while it runs -------------------------------------------------------------

    async def _sample(self) -> None:
        """Caps hold at every instant, so they do at this one."""
        for scope in self._scopes:
            with contextlib.suppress(TroupeError, TimeoutError):
                async with asyncio.timeout(1.0):
                    state = await read_budget(self._wiring, scope)
                self._check_caps(scope, state)

    def _check_caps(self, scope: str, state: budget.State) -> None:
        """No level has lent more than its cap, but for what was paid beyond a reservation."""
        over: Counter[str] = Counter()
        highest = 0
        for line in self._reader.read():
            if line.what == "settle" and line.kind == "tried" and line.value == "over":
                over[line.family] += CENT
            elif line.what == "cap" and line.kind == "tried" and line.id == scope:
                highest = max(highest, line.amount)
        limits = {budget.WORKSPACE: highest + sum(over.values())} if highest else {}
        for id, family in state.families.items():
            limits[id] = (family.cap.max or 0) + over[id]
        for id, most in state.allotments.items():
            limits[id] = most + over[state.accounts[id].family]
        for name, most in limits.items():
            held = budget.level(state, name).held
            if held > most and name not in self._passed:
                self._passed.add(name)
                self._findings.add("overspent", f"budget: {held} of {most} lent at {name}")

    # --- the end -------------------------------------------------------------------------

    async def _compare(self) -> None:
        self._say("comparing")
        records = Records(self._reader.read())
        self.acknowledged = records.acknowledged
        families = [op.line.session for op in records.of("create") if op.told]
        books = await read_books(self._wiring, self._scopes, families)
        self._findings.take(check(records, books))
        for crash in self._drivers.crashes:
            self._findings.add("lost", crash)
        await self._check_processes(records)

    async def _check_processes(self, records: Records) -> None:
        """No agent's process and nothing of a dead node is there any more."""
        started = {line.pid for _, line in records.lives.values() if line.pid != line.amount}
        for op in records.of("helper"):
            started.update(line.amount for _, line in op.ran)

        def left() -> list[str]:
            agents = [f"process {pid} of an agent" for pid in started if processes.is_ours(pid)]
            dead = [
                f"process {processes.describe(process)} of a dead node"
                for raylet in self._faults.dead_raylets
                for process in processes.of_raylet(raylet)
            ]
            return agents + dead

        self._say("looking for what is left")
        await self._until(lambda: not left(), _GONE_LIMIT_S)
        for text in left():
            self._findings.add("leaked", text)
