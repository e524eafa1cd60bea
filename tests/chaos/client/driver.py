"""The driver: a client in a process of its own, which is killed and started again like any other.

``python -m tests.chaos.client.driver PLACE`` goes on where the ledger says that the last one has
stopped, with the same ids, until the file of `Place.stop` is there. Then it finishes what it has
begun, asks what everything has cost, and ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct

from retinue import (
    Allowance,
    AlreadyDecided,
    BudgetConfig,
    InboxRequest,
    Message,
    NotFound,
    Policy,
    Retinue,
    Session,
    SessionEnded,
    Unavailable,
    Workspace,
    connect,
)
from retinue.actors.domain.permissions.capabilities.token import Token
from retinue.actors.domain.values.money import to_usd
from retinue.cluster.local.running import Running, running
from retinue.cluster.local.state import cluster_key
from retinue.cluster.settings import ClusterSettings
from tests.chaos import helpers
from tests.chaos.client import waves
from tests.chaos.client.waves import FamilyPlan, RunPlan, WavePlan
from tests.chaos.ledger import Ledger, Line, Reader
from tests.chaos.workloads.agents import worker
from tests.chaos.workloads.life import GUARDED, Errand

T = TypeVar("T")

GONE = 75
"""The exit code when what was joined is gone: a process can be a client of one Ray in its life."""

_AT_ONCE = 8
_PAUSE_S = 0.2


class Place(Struct, frozen=True):
    """Where the driver finds everything; without an address it joins what `up` has started."""

    seed: str
    address: str | None
    settings: ClusterSettings
    ledger: str
    workspaces: list[str]
    stop: str
    work: tuple[str, ...] = ()


class Driver:
    """The client's life."""

    def __init__(self, place: Place, retinue: Retinue) -> None:
        self._place = place
        self._retinue = retinue
        self._ledger = Ledger(place.ledger)
        self._reader = Reader(Path(place.ledger))
        lines = self._reader.read()
        self._looked = 0
        self._helpers: list[Line] = []
        self._hosts: dict[str, int] = {}
        self._told = {line.op for line in lines if line.kind == "told"}
        self._tried = {line.op for line in lines if line.kind == "tried"}
        begun = {int(line.value) for line in lines if line.what == "wave"}
        self._first = min((at for at in begun if not self._is_done(at)), default=len(begun))
        self._begun = len(begun)
        self._workspaces: list[Workspace] = []
        self._room = asyncio.Semaphore(_AT_ONCE)

    async def run(self) -> None:
        """Wave after wave, until it is told to stop."""
        for path in self._place.workspaces:
            self._workspaces.append(await self._insist(partial(self._workspace, path)))
        inbox = asyncio.create_task(self._decide())
        number = self._first
        async with asyncio.TaskGroup() as families:
            while number < self._begun or not self._stopped:
                await self._wave(waves.wave(self._place.seed, number), families)
                number += 1
        inbox.cancel()
        await self._report()

    def _is_done(self, number: int) -> bool:
        plan = waves.wave(self._place.seed, number)
        ops = {f"family {family.number}" for family in plan.families} | {f"revoke {plan.shared}"}
        return ops <= self._told

    async def _workspace(self, path: str) -> Workspace:
        policy = Policy(approval_required_tools=(GUARDED,))
        return await self._retinue.workspace(path, policy=policy)

    async def _wave(self, plan: WavePlan, families: asyncio.TaskGroup) -> None:
        """What a wave shares, and then its families, a few at once."""
        self._note("tried", "wave", f"wave {plan.number}", value=str(plan.number))
        workspace = self._workspaces[plan.workspace]
        await self._share(plan, workspace)
        for family in plan.families:
            if f"family {family.number}" in self._told:
                continue
            if self._stopped and f"family {family.number}" not in self._tried:
                return
            await self._room.acquire()
            families.create_task(self._family(family, plan, workspace))
        families.create_task(self._revoke(plan, workspace))

    @property
    def _stopped(self) -> bool:
        return Path(self._place.stop).exists()

    async def _share(self, plan: WavePlan, workspace: Workspace) -> None:
        op = f"cap {plan.number}"
        if op not in self._told:
            budget = await self._insist(workspace.budget)
            cap = budget.spent + plan.margin
            self._note("tried", "cap", op, id=workspace.id, amount=cap)
            await self._insist(lambda: workspace.set_budget(to_usd(cap), by="driver"))
            self._note("told", "cap", op, id=workspace.id, amount=cap)
        root = workspace.path
        limited = waves.allowance(plan.limited, f"limited-{plan.number}", plan.uses, root)
        shared = waves.allowance(plan.shared, f"shared-{plan.number}", None, root)
        for allowance in (limited, shared):
            await self._allow(workspace, allowance)
        for at in range(len(plan.tokens)):
            await self._add_token(waves.token(cluster_key(self._place.settings), plan, at))

    async def _allow(self, workspace: Workspace, allowance: Allowance) -> None:
        op, uses = f"allow {allowance.id}", allowance.max_uses or 0
        if op in self._told:
            return
        self._note("tried", "allow", op, id=allowance.id, amount=uses, value=workspace.id)
        grant = self._retinue.calls.stores(workspace.id).permissions.grant
        await self._insist(lambda: grant(allowance))
        self._note("told", "allow", op, id=allowance.id, amount=uses, value=workspace.id)

    async def _add_token(self, token: Token) -> None:
        op = f"token {token.id}"
        if op in self._told:
            return
        self._note("tried", "token", op, id=token.id)
        capabilities = self._retinue.calls.stores(self._workspaces[0].id).capabilities
        await self._insist(lambda: capabilities.add(token))
        self._note("told", "token", op, id=token.id)

    async def _revoke(self, plan: WavePlan, workspace: Workspace) -> None:
        op = f"revoke {plan.shared}"
        if op in self._told:
            return
        await asyncio.sleep(plan.revoked_after)
        self._note("tried", "revoke", op, id=plan.shared, value=workspace.id)
        await self._insist(lambda: workspace.revoke(plan.shared))
        self._note("told", "revoke", op, id=plan.shared, value=workspace.id)

    # --- a family ------------------------------------------------------------------------

    async def _family(self, plan: FamilyPlan, wave: WavePlan, workspace: Workspace) -> None:
        op = f"family {plan.number}"
        try:
            self._note("tried", "family", op, family=plan.id)
            create, budget = f"create {plan.id}", plan.budget
            self._note("tried", "create", create, session=plan.id, amount=budget)
            session = await self._insist(lambda: self._create(plan, wave, workspace))
            self._note("told", "create", create, session=plan.id, amount=budget)
            talk = [self._say(session, plan, at, after) for at, after in enumerate(plan.messages)]
            runs = [self._run(session, plan, run) for run in plan.runs]
            await asyncio.gather(*runs, *talk, self._end(session, plan))
            self._note("told", "family", op, family=plan.id)
        finally:
            self._room.release()

    async def _create(self, plan: FamilyPlan, wave: WavePlan, workspace: Workspace) -> Session:
        return await self._retinue.create_session(
            worker,
            user_id=wave.user,
            workspace=workspace,
            budget=BudgetConfig(session_max_usd=to_usd(plan.budget), per_action_max_usd="0.11"),
            isolation=plan.isolation,
            title=f"f{plan.number}",
            session_id=plan.id,
        )

    async def _run(self, session: Session, plan: FamilyPlan, run: RunPlan) -> None:
        errand = Errand(
            self._place.ledger,
            self._place.seed,
            run.label,
            plan.wave,
            plan.levels,
            plan.slow,
            self._place.work,
        )
        prompt = msgspec.json.encode(errand).decode()
        self._note("tried", "start", f"start {run.id}", session=session.id, run=run.id)
        try:
            await self._insist(lambda: session.start(prompt, run_id=run.id))
        except SessionEnded:
            self._note("ended", "start", f"start {run.id}", session=session.id, run=run.id)
            return
        self._note("told", "start", f"start {run.id}", session=session.id, run=run.id)
        result = await self._insist(lambda: session.result(run.id))
        self._look_for_helpers("result", run.id, session, f"{run.label}#")
        self._note(
            "told",
            "result",
            f"result {run.id}",
            session=session.id,
            run=run.id,
            amount=result.cost,
            value=result.status,
            proof=result.error or "",
        )

    async def _say(self, session: Session, plan: FamilyPlan, at: int, after: float) -> None:
        """A message from outside, and then the history, which must have all that was told."""
        op = f"f{plan.number}m{at}"
        await asyncio.sleep(after)
        if op not in self._tried:
            self._note("tried", "say", op, session=session.id, value=op)
            try:
                await self._insist(lambda: session.add_message(Message.user(op)), once=True)
            except (SessionEnded, Unavailable):
                return
            self._note("told", "say", op, session=session.id, value=op)
        read = f"read {op} {os.getpid()}"
        self._note("tried", "read", read, session=session.id)
        texts = [one.text for one in await self._insist(session.messages)]
        self._note("told", "read", read, session=session.id, many=texts)

    async def _end(self, session: Session, plan: FamilyPlan) -> None:
        await asyncio.sleep(plan.ends_after)
        match plan.ending:
            case "end":
                await self._close(session, "end", f"f{plan.number}r")
            case "cancel":
                await self._close(session, "cancel", f"f{plan.number}r")
            case "cancel_child":
                children = [one for one in await self._insist(session.family) if one.depth == 1]
                if children:
                    chosen = min(children, key=lambda one: one.label)
                    child = self._retinue.session(chosen.id)
                    await self._close(child, "cancel", f"{chosen.label}#")

    async def _close(self, session: Session, how: str, labels: str) -> None:
        """End or cancel; what is done there has operations that begin with ``labels``."""
        op = f"{how} {session.id}"
        self._note("tried", how, op, session=session.id)
        await self._insist(session.end if how == "end" else session.cancel)
        self._look_for_helpers(how, session.id, session, labels)
        self._note("told", how, op, session=session.id)

    def _look_for_helpers(self, what: str, id: str, session: Session, labels: str) -> None:
        """Note the helpers that are still there, now that an end was acknowledged.

        Those of a host that is dead are left out: they end by themselves, and who goes on with its
        sessions elsewhere knows nothing of them.
        """
        lines = self._reader.read()
        for line in lines[self._looked :]:
            if line.kind == "began":
                self._hosts[line.life] = line.amount
            elif line.what == "helper":
                self._helpers.append(line)
        self._looked = len(lines)
        for line in self._helpers:
            if not line.op.startswith(labels) or helpers.start_of(line.amount) != line.value:
                continue
            if helpers.start_of(self._hosts[line.life]):
                self._note(
                    "left",
                    what,
                    f"{what} {id}",
                    session=session.id,
                    amount=line.amount,
                    value=line.op,
                    proof=line.life,
                    many=[line.proof],
                )

    # --- requests ------------------------------------------------------------------------

    async def _decide(self) -> None:
        async with asyncio.TaskGroup() as deciding:
            async for request in self._retinue.inbox():
                for name in waves.deciders(request.id):
                    deciding.create_task(self._decide_as(request, name))

    async def _decide_as(self, request: InboxRequest, name: str) -> None:
        op = f"decide {request.id} {name}"
        shared = "#" not in request.description
        workspace_id = waves.scope_for(request.id, shared)
        self._note("tried", "decide", op, id=request.id, value=workspace_id, proof=name)
        try:
            decision = await self._insist(
                lambda: (
                    request.deny("no", by=name)
                    if workspace_id == "deny"
                    else request.approve(workspace_id, by=name)
                )
            )
        except (AlreadyDecided, NotFound):
            return
        self._note("told", "decide", op, id=request.id, value=decision.scope, proof=name)

    # --- the end -------------------------------------------------------------------------

    async def _report(self) -> None:
        for workspace in self._workspaces:
            budget = await self._insist(workspace.budget)
            self._note(
                "told",
                "budget",
                f"budget {workspace.id}",
                id=workspace.id,
                amount=budget.spent,
                value=str(budget.reserved),
            )

    async def _insist(self, call: Callable[[], Awaitable[T]], *, once: bool = False) -> T:
        """Call until there is an answer; what is called may be repeated, unless ``once``."""
        while True:
            try:
                return await call()
            except Unavailable as error:
                self._note("unavailable", proof=f"{type(error).__name__}: {error}")
                if once:
                    raise
            await asyncio.sleep(_PAUSE_S)

    def _note(
        self,
        kind: str,
        what: str = "",
        op: str = "",
        *,
        session: str = "",
        run: str = "",
        family: str = "",
        id: str = "",
        amount: int = 0,
        value: str = "",
        proof: str = "",
        many: list[str] | None = None,
    ) -> None:
        if kind == "told":
            self._told.add(op)
        self._ledger.note(
            Line(
                kind,
                what,
                op,
                session=session,
                run=run,
                family=family,
                id=id,
                amount=amount,
                value=value,
                proof=proof,
                many=many or [],
            )
        )


async def main(place: Place) -> None:
    """Connect, and work."""
    while True:
        with contextlib.suppress(Unavailable):
            async with _joined(place) as retinue:
                await Driver(place, retinue).run()
                return
        await asyncio.sleep(_PAUSE_S)


def _joined(place: Place) -> Retinue:
    if place.address:
        return connect(place.address, redis_url=place.settings.redis_url)
    while (found := running()) is None:  # else it would bring up a cluster of its own
        time.sleep(_PAUSE_S)
    threading.Thread(target=_leave_with, args=(found,), daemon=True).start()
    return connect()


def _leave_with(joined: Running) -> None:
    """End with what was joined, whatever the other threads are waiting for."""
    while running() == joined:
        time.sleep(_PAUSE_S)
    os._exit(GONE)


if __name__ == "__main__":
    asyncio.run(main(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Place)))
