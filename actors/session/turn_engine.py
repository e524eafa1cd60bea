"""Carries out the calls of a turn: finds the step in the record, or takes it and records it."""

from __future__ import annotations

from typing import cast

import msgspec

from retinue.actors.agent import calls
from retinue.actors.domain.errors import SessionEnded, StepInterrupted
from retinue.actors.domain.permissions.action_ref import ActionRef
from retinue.actors.domain.permissions.actions import argument_hash
from retinue.actors.domain.permissions.decision import Decision
from retinue.actors.domain.session import state as session_state
from retinue.actors.domain.session.commands import (
    DescribeSession,
    RecordDecision,
    RecordStep,
    Settlement,
    SettleReservation,
)
from retinue.actors.domain.session.replay import Replay
from retinue.actors.domain.session.result import Result
from retinue.actors.domain.session.state import Step
from retinue.actors.session.activation import Activation
from retinue.actors.session.spawn import Spawner
from retinue.actors.telemetry import metrics, tracing

_SHOWN = 200  # characters of an action's description that the audit log keeps
_DECISION = msgspec.msgpack.Decoder(Decision)


class TurnEngine:
    """The engine of one run; implements `retinue.actors.agent.turn.Engine`."""

    def __init__(self, activation: Activation, run_id: str, spawner: Spawner) -> None:
        self._activation = activation
        self._entity = activation.entity
        self._runtime = activation.runtime
        self._brakes = activation.runtime.brakes
        self._workspace_id = activation.entity.key.workspace_id
        self._run_id = run_id
        self._spawner = spawner
        self._replay = Replay(activation.entity.state.runs[run_id].steps)
        self._began: dict[str, int] = {}
        self._closed = False

    async def handle(self, branch: int, call: calls.Call) -> calls.Answer:
        """Carries out ``call`` durably, and answers it; raises SessionEnded once it is closed."""
        self._require_open()
        self._activation.keep_small()
        match call:
            case calls.Authorize():
                with metrics.AUTHORIZE_SECONDS.timed(), tracing.span("authorize"):
                    return calls.Decided(await self._authorize(branch, call))
            case calls.Settle(operation, actual):
                return await self._settle(operation, actual)
            case calls.AddMessage(message):
                key = self._replay.key(branch, "message", "")
                self._activation.history.add(message, self._run_id, key)
            case calls.ClearMessages():
                key = self._replay.key(branch, "clear", "")
                self._activation.history.clear(self._run_id, key)
            case calls.LastMessages(count):
                return calls.Messages(await self._activation.history.last(count))
            case calls.BeginStep(name, idempotent):
                begun = self._begin_step(branch, name, idempotent)
                self._began[begun.key] = tracing.now()
                await self._entity.committed()  # or a crash could hide that it was begun
                return begun
            case calls.EndStep(name, key, payload):
                step = Step("step", name, payload)
                self._entity.do(RecordStep(self._run_id, key, step))
                tracing.ended("step", self._began.pop(key, 0), step=name)
            case calls.Spawn():
                with tracing.span("spawn", count=len(call.tasks)):
                    return calls.Results(await self._spawn(branch, call))
            case calls.Describe(title, tags, custom):
                self._entity.do(DescribeSession(title, tags, custom))
        await self._entity.committed()
        return None

    def close(self) -> None:
        """Refuses all calls from now on: the turn is over."""
        self._closed = True

    @property
    def steps(self) -> dict[str, Step]:
        """The steps that the run has recorded, by their keys; SessionEnded if it is over."""
        run = self._entity.state.runs.get(self._run_id)
        if run is None:
            raise SessionEnded("the turn is over: its run has ended or was cancelled")
        return run.steps

    async def _authorize(self, branch: int, call: calls.Authorize) -> Decision:
        hash = argument_hash(call.action)
        label = f"{call.action.kind}:{hash[:16]}"
        key = self._replay.key(branch, "authorize", label)
        recorded = self._recorded(key)
        if recorded is not None:
            await self._entity.confirmed()  # it is told once more, and there may be a hold by now
            return await self._told(_DECISION.decode(recorded))
        if self._brakes.hold(self._workspace_id):
            await self._clear()
        activation = self._activation
        operation = session_state.operation(self._run_id, key)
        decision = await activation.authorizer.authorize(
            ActionRef(call.action, hash, operation),
            call.cost,
            call.context,
            call.timeout,
            activation.escapes,
        )
        try:
            shown = call.action.describe()[:_SHOWN]
            self._entity.do(RecordDecision(self._run_id, key, label, decision, shown))
        finally:
            activation.budget_lease.drop(decision.amount)
        await self._entity.committed()
        metrics.AUTHORIZATIONS.add(label=decision.kind)
        activation.notify("authorized", f"{decision.kind}: {label}", decision.amount)
        activation.untold[decision.operation] = None
        return await self._told(decision)

    async def _told(self, decision: Decision) -> Decision:
        """The decision for the agent, once the workspace is not on hold."""
        await self._clear()
        self._activation.untold.pop(decision.operation, None)
        return decision

    async def _clear(self) -> None:
        """Waits while the workspace is on hold."""
        if not self._brakes.is_clear(self._workspace_id):
            await self._brakes.clear(self._workspace_id)
            self._require_open()

    def _require_open(self) -> None:
        if self._closed:
            raise SessionEnded("the turn is over: its run has ended or was cancelled")

    async def _settle(self, operation: str, actual: int | None) -> calls.Charge:
        reply = self._entity.do(SettleReservation(operation, actual))
        charge = cast(Settlement, reply)
        await self._entity.committed()
        if charge.returned or charge.over:
            await self._activation.budget_lease.settled()
        if charge.charged:
            self._activation.notify("spent", cost=charge.charged)
        return calls.Charge(charge.charged, charge.over)

    def _begin_step(self, branch: int, name: str, idempotent: bool) -> calls.StepState:
        key = self._replay.key(branch, "step", name)
        step = self.steps.get(key)
        if step is not None and step.payload is None:
            raise StepInterrupted(
                f"step {name!r} was running when its process died; it may have happened or not",
                step=name,
            )
        if step is None and not idempotent:
            started = Step("step", name, None)
            self._entity.do(RecordStep(self._run_id, key, started))
        return calls.StepState(key, step.payload if step else None)

    async def _spawn(self, branch: int, call: calls.Spawn) -> list[Result]:
        key = self._replay.key(branch, "spawn", call.label)
        begun = self._recorded(key) is not None
        if self._brakes.hold(self._workspace_id):
            await self._clear()
        return await self._spawner.spawn(self._run_id, key, call, begun, self._clear)

    def _recorded(self, key: str) -> bytes | None:
        step = self.steps.get(key)
        return step.payload if step else None
