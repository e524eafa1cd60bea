"""What must be true of a schedule, whatever went wrong in it.

The `Witness` stands where Redis is and shows the checker every row that is stored, in order. From
these the checker derives the states once more, each row in its own small step, and holds:

1. Fencing: a row is taken from the newest activation only, once, and in sequence.
2. Caps: no loan grows past a cap, and what sessions have spent and reserved together never passes
   a cap by more than what was settled beyond its reservation.
3. Money: an operation reserves once and is settled once.
4. Uses: no allowance, single-use token or approval goes to more operations than it is for.
5. Closed is closed: nothing happens in a session after it was ended or cancelled, and its tokens
   are revoked.
6. A death is no result: no run fails, whatever was killed, and nothing that happened because
   everything was taken down is noted at all.
7. The brake holds: from `FRESH_S` after it was acknowledged until it is let go of no agent is
   called, and none is told a decision; and never, if that was stored when the hold was there.

Whoever gets a reply in the schedule tells the checker, which holds that what it rests on was
stored before (reply after commit) and that no later reply contradicts it. At the end, what can be
recovered must be what was stored, the books of budget and sessions must agree, and root sessions
must be listed as what they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from retinue.actors.domain.budget import machine as budget
from retinue.actors.domain.budget.events import CapSet, ChildrenAdmitted, FamilyOpened, Reported
from retinue.actors.domain.budget.state import WORKSPACE
from retinue.actors.domain.budget.totals import level_of
from retinue.actors.domain.errors import RetinueError
from retinue.actors.domain.permissions.allowances.state import UseConsumed
from retinue.actors.domain.permissions.approvals.request import Resolution, Scope
from retinue.actors.domain.permissions.approvals.state import Claimed, Decided
from retinue.actors.domain.permissions.capabilities.state import TokenUsed
from retinue.actors.domain.permissions.decision import Decision
from retinue.actors.domain.session import machine as session
from retinue.actors.domain.session import state as session_state
from retinue.actors.domain.session.events import (
    AttemptEnded,
    Authorized,
    ChildrenFinished,
    Created,
    RunAccepted,
    RunFinished,
    RunStarted,
    Settled,
    StepRecorded,
)
from retinue.actors.domain.session.messages import Message
from retinue.actors.domain.session.result import Result
from retinue.actors.domain.session.state import committed_money
from retinue.actors.domain.values.ids import derived_id
from retinue.actors.domain.values.keyring import Keyring
from retinue.actors.durable.brakes import FRESH_S
from retinue.actors.durable.entity import read
from retinue.actors.durable.journal import Append, Key
from retinue.actors.durable.machines import ALLOWANCES, APPROVALS, BUDGET, CAPABILITIES, SESSION
from retinue.actors.durable.memory_journal import MemoryJournal
from retinue.actors.session.listing import CODES, position
from retinue.actors.session.summary import summarise
from retinue.actors.stores.table import MACHINES
from tests.simulation.processes import SWEPT
from tests.simulation.witness import Shadow

_DECISION = msgspec.msgpack.Decoder(Decision)
_MESSAGE = msgspec.msgpack.Decoder(Message)


class Checker:
    """Collects what is wrong in ``violations``: sentences, the first one first."""

    def __init__(self, keyring: Keyring, now: Callable[[], float]) -> None:
        """``now()`` gives the time in seconds."""
        self.now = now
        self.violations: list[str] = []
        self.acknowledged = 0
        self.results: dict[tuple[str, str], Result] = {}
        self._keyring = keyring
        self._shadows: dict[Key, Shadow] = {}
        self._epochs: dict[Key, int] = {}
        self._accepted: set[tuple[str, str]] = set()
        self._authorized: dict[str, float] = {}
        self._offered: dict[str, list[int]] = {}
        self._settled: dict[str, int] = {}
        self._revoked: dict[str, float] = {}
        self._held: float | None = None
        self._begun: dict[tuple[str, str], float] = {}
        self._steps: dict[tuple[str, str, str], bytes] = {}
        self._texts: dict[str, list[str]] = {}
        self._said: dict[tuple[str, ...], object] = {}
        self._spent: dict[str, int] = {}
        self._committed: dict[str, int] = {}
        self._overspent: set[str] = set()
        self._over: dict[str, int] = {}
        self._caps: dict[str, int] = {}
        self._uses: dict[str, str] = {}
        self._cancelled_families: set[str] = set()

    def wrong(self, what: str) -> None:
        """Note a violation."""
        self.violations.append(what)

    # --- what is stored ------------------------------------------------------------------

    def activated(self, key: Key, epoch: int) -> None:
        """An entity was taken over."""
        self._epochs[key] = epoch

    def stored(self, one: Append) -> None:
        """A row was written."""
        epoch = self._epochs.setdefault(one.key, one.epoch)
        if one.epoch != epoch:
            self.wrong(f"{one.key}: a row of epoch {one.epoch} was taken in epoch {epoch}")
        shadow = self._shadows.get(one.key)
        if shadow is None:
            shadow = Shadow(MACHINES[one.key.kind], one.key, self._keyring)
            self._shadows[one.key] = shadow
        if one.after != shadow.seq:
            self.wrong(f"{one.key}: row {one.after + 1} was taken after row {shadow.seq}")
        shadow.seq += 1
        try:
            events, _ = shadow.codec.events(one.after + 1, one.row)
            self._store_messages(one, shadow)
            for event in events:
                self._before(one.key, shadow.state, event)
                shadow.state = shadow.machine.evolve(shadow.state, event)
                self._after(one.key, shadow.state, event)
        except (RetinueError, KeyError, ValueError) as error:
            self.wrong(f"{one.key}: row {one.after + 1} can't be replayed: {error!r}")

    def _store_messages(self, one: Append, shadow: Shadow) -> None:
        texts = self._texts.setdefault(one.key.id, [])
        for sealed in one.messages:
            message = _MESSAGE.decode(shadow.codec.open_message(len(texts), sealed))
            if message.text in texts:
                self.wrong(f"{one.key}: message {message.text!r} was stored twice")
            texts.append(message.text)

    def _before(self, key: Key, state: Any, event: object) -> None:
        """Look at an event and the state that it meets."""
        match event:
            case Settled(operation, actual):
                reserved = state.reservations[operation].amount
                if operation in self._settled:
                    self.wrong(f"operation {operation} was settled twice")
                self._settled[operation] = actual
                if actual > reserved:
                    self._overspent.add(key.id)
                for level in self._levels(key.id):
                    over = self._over.get(level, 0)
                    self._over[level] = over + max(actual - reserved, 0)
            case Authorized(run, step):
                self._before_authorized(key, state, session_state.operation(run, step))
            case Reported(id, _, _, spent, lent):
                self._before_reported(state, id, spent, lent)
            case UseConsumed(id, op):
                self._once(f"allowance use by {op}", id)
                if (state.allowances[id].uses_left or 0) < 1:
                    self.wrong(f"allowance {id} was used too often, by {op}")
            case TokenUsed(op, token_ids):
                for token_id in token_ids:
                    self._once(f"token {token_id}", op)
            case Decided(decision):
                self._once(f"request {decision.request_id}", decision.decided_by)
            case Claimed(request_id, op):
                self._once(f"claim of {request_id}", op)
        if key.kind == SESSION.kind and state.closed:
            self._in_closed(key, state, event)

    def _before_authorized(self, key: Key, state: Any, operation: str) -> None:
        if operation in self._authorized:
            self.wrong(f"{key}: {operation} was authorised twice")
        if operation in state.reservations:
            self.wrong(f"{key}: {operation} was reserved twice")
        self._authorized[operation] = self.now()

    def _before_reported(self, state: budget.State, id: str, spent: int, lent: int) -> None:
        account = state.accounts[id]
        if spent < account.spent:
            self.wrong(f"budget: the spend of {id} fell from {account.spent} to {spent}")
        if spent > max(account.spent, self._spent.get(id, 0)):
            self.wrong(f"budget: learned that {id} spent {spent} before that was stored")
        if lent < min(account.lent, self._committed.get(id, 0)) and id not in self._overspent:
            self.wrong(f"budget: {id} gave back what was not stored to be free: {lent} are left")
        grows = max(lent, spent) - max(account.held, spent)
        if grows <= 0:
            return
        for level in (*account.path, account.family, WORKSPACE):
            figures = level_of(state, level)
            held = figures.held - account.held + max(lent, spent)
            if figures.max is not None and held > figures.max:
                self.wrong(f"budget: the loan to {id} takes {level} to {held} of {figures.max}")

    def _in_closed(self, key: Key, state: session.State, event: object) -> None:
        if not isinstance(event, ChildrenFinished):
            self.wrong(f"{key}: {type(event).__name__} after it was {state.closed}")

    def _after(self, key: Key, state: Any, event: object) -> None:
        """Look at an event and the state that it has led to."""
        match event:
            case Created(profile):
                if profile.family_id in self._cancelled_families:
                    self.wrong(f"{key}: came to be after its family was closed")
            case RunStarted(run):
                self._begun[key.id, run] = self.now()
            case RunAccepted(run):
                self._accepted.add((key.id, run))
            case RunFinished(run, result):
                if (key.id, run) in self.results:
                    self.wrong(f"{key}: run {run} has two results")
                self.results[key.id, run] = result
                if result.status == "failed":
                    self.wrong(f"{key}: run {run} failed: {result.error}")
            case AttemptEnded(run, cause) if cause == SWEPT:
                self.wrong(f"{key}: run {run} has noted that its agent was {cause}")
            case StepRecorded(run, _, step) if step.payload is not None:
                self._steps[key.id, run, step.label] = step.payload
            case CapSet(level, cap) if cap.max is not None:
                self._caps[level] = max(cap.max, self._caps.get(level, 0))
            case FamilyOpened(family, cap) if cap.max is not None:
                self._caps[family] = cap.max
            case ChildrenAdmitted(_, _, children):
                caps = {child.id: child.allotment for child in children}
                self._caps.update({id: cap for id, cap in caps.items() if cap is not None})
        if key.kind == SESSION.kind:
            self._check_money(key.id, state)

    def _check_money(self, id: str, state: session.State) -> None:
        self._spent[id] = state.spent
        now = committed_money(state)
        more = now - self._committed.get(id, 0)
        self._committed[id] = now
        if more <= 0:
            return
        for level in self._levels(id):
            if level not in self._caps:
                continue
            most = self._caps[level] + self._over.get(level, 0)
            total = sum(self._committed.get(one, 0) for one in self._accounts_under(level))
            if total > most:
                self.wrong(f"{level}: {total} spent and reserved, and {most} may be")

    def _budget(self) -> budget.State:
        for key, shadow in self._shadows.items():
            if key.kind == BUDGET.kind:
                state: budget.State = shadow.state
                return state
        return budget.initial()

    def _levels(self, id: str) -> list[str]:
        account = self._budget().accounts.get(id)
        return [*account.path, account.family, WORKSPACE] if account else []

    def _accounts_under(self, level: str) -> Iterator[str]:
        for id, account in self._budget().accounts.items():
            if level in (account.family, WORKSPACE) or level in account.path:
                yield id

    def _once(self, what: str, by: str) -> None:
        before = self._uses.setdefault(what, by)
        if before != by or f"{what} by {by}" in self._uses:
            self.wrong(f"{what}: went to {before}, and to {by} as well")
        self._uses[f"{what} by {by}"] = by

    # --- what was acknowledged -----------------------------------------------------------

    def _told(self, what: str, known: bool) -> None:
        self.acknowledged += 1
        if not known:
            self.wrong(f"{what}: acknowledged, and not stored")

    def _same(self, what: tuple[str, ...], value: object) -> None:
        """Nobody hears one thing first and another later."""
        before = self._said.setdefault(what, value)
        if before != value:
            self.wrong(f"{' '.join(what)}: {before!r} was said first, then {value!r}")

    def was_accepted(self, id: str, run: str) -> None:
        """A client was told that its run is queued."""
        self._told(f"session {id}: run {run}", (id, run) in self._accepted)

    def was_held(self) -> None:
        """An operator was told that the workspace is on hold."""
        hold = self._budget().brake.hold
        self._told("a hold", hold is not None)
        self._held = self.now() if self._held is None else self._held

    def will_release(self) -> None:
        """An operator is about to let go of the brake."""
        self._held = None

    def was_called(self, id: str, run: str) -> None:
        """An agent was called."""
        self._check_brake(f"session {id}: run {run} began", self._begun.get((id, run), 0.0))

    def _check_brake(self, what: str, stored: float) -> None:
        held = self._held
        if held is None:
            return
        if stored > held:
            self.wrong(f"{what}: while the workspace was on hold, since {held:.3f}")
        elif self.now() > held + FRESH_S:
            self.wrong(f"{what}: {self.now() - held:.3f} s after the workspace was put on hold")

    def was_authorized(self, decision: Decision, began: float) -> None:
        """An agent got a decision that it had asked for at ``began``."""
        operation = decision.operation
        decided = self._authorized.get(operation)
        self._check_brake(f"{operation} was told", decided or 0.0)
        self._told(f"decision {operation}", decided is not None)
        self._same(("decision", operation), decision)
        kind, _, id = decision.proof.partition(":")
        if decision.allowed and kind == "capability":
            token = self._state(CAPABILITIES.kind).tokens.get(id)
            used = self._uses.get(f"token {id}") == operation
            known = token is not None and (used or not token.single_use)
            self._told(f"use of token {id} by {operation}", known)
        elif decision.allowed and kind == "allowance" and decided is not None:
            if self._revoked.get(id, began) < began <= decided:
                self.wrong(f"{operation}: passed through allowance {id} after it was revoked")
        elif decision.allowed and kind == "approval":
            entry = self._state(APPROVALS.kind).requests[id]
            self._told(f"approval {id}", entry.decision is not None and entry.decision.approved)

    def will_settle(self, operation: str, amount: int) -> None:
        """An agent is about to settle an operation: not the first to try, maybe."""
        self._offered.setdefault(operation, []).append(amount)

    def was_settled(self, operation: str) -> None:
        """An agent was told that an operation is settled: with an amount that was given for it."""
        stored = self._settled.get(operation)
        self._told(f"charge of {operation}", stored in self._offered[operation])

    def was_said(self, id: str, text: str) -> None:
        """An agent or a client was told that its message is kept."""
        self._told(f"session {id}: message {text!r}", text in self._texts.get(id, ()))

    def was_stepped(self, id: str, run: str, name: str, value: object) -> None:
        """An agent got the result of a step."""
        payload = self._steps.get((id, run, name))
        self._told(f"session {id}: step {name!r}", payload is not None)
        self._same(("step", id, run, name), value)

    def was_finished(self, id: str, run: str, result: Result) -> None:
        """A client got the result of a run."""
        self._told(f"session {id}: result of {run}", self.results.get((id, run)) == result)
        self._same(("result", id, run), result)

    def was_spawned(self, id: str, results: Sequence[Result]) -> None:
        """An agent got the results of its sub-agents."""
        for result in results:
            self._same(("sub-agent", result.session_id), result)
            own = self.results.get((result.session_id, result.session_id))
            if result.success:
                self._told(f"session {id}: sub-agent {result.session_id}", own == result)

    def was_closed(self, family_id: str) -> None:
        """A client was told that a root session and all below it are closed."""
        self._cancelled_families.add(family_id)
        for key, shadow in self._shadows.items():
            if key.kind != SESSION.kind or shadow.state.profile.family_id != family_id:
                continue
            idle = not shadow.state.runs
            self._told(f"end of {key}", bool(shadow.state.closed) or idle)
            if key.id == family_id:
                self._told(f"end of {key}", bool(shadow.state.closed))
        tokens = self._state(CAPABILITIES.kind)
        for token in tokens.tokens.values():
            if token.family_id == family_id:
                self._told(f"end of token {token.id}", token.id in tokens.revoked)

    def was_granted(self, id: str) -> None:
        """An operator was told that an allowance is there."""
        state = self._state(ALLOWANCES.kind)
        self._told(f"allowance {id}", id in state.allowances or id in state.revoked)

    def was_added(self, id: str) -> None:
        """An operator was told that a token is there."""
        self._told(f"token {id}", id in self._state(CAPABILITIES.kind).tokens)

    def was_revoked(self, id: str) -> None:
        """An operator was told that an allowance is gone."""
        self._told(f"revocation of {id}", id in self._state(ALLOWANCES.kind).revoked)
        self._revoked[id] = self.now()

    def was_decided(self, decision: Resolution) -> None:
        """Somebody was told that his decision stands."""
        entry = self._state(APPROVALS.kind).requests.get(decision.request_id)
        self._told(f"decision on {decision.request_id}", bool(entry) and entry.decision == decision)
        self._same(("request", decision.request_id), decision)
        if decision.scope is Scope.ALWAYS:
            id = derived_id(f"token of {decision.request_id}")
            self._told(f"token {id}", id in self._state(CAPABILITIES.kind).tokens)

    def was_capped(self, cap: int) -> None:
        """An operator was told that the workspace has this cap."""
        self._told(f"cap of {cap}", self._caps.get(WORKSPACE, -1) >= cap)

    def _state(self, kind: str) -> Any:
        for key, shadow in self._shadows.items():
            if key.kind == kind:
                return shadow.state
        return MACHINES[kind].initial()

    # --- the end -------------------------------------------------------------------------

    async def finish(self, journal: MemoryJournal) -> None:
        """Everything is over: what is stored must be recoverable, and the books must agree."""
        for key, shadow in self._shadows.items():
            try:
                state = await read(shadow.machine, key, journal, self._keyring)
            except RetinueError as error:
                self.wrong(f"{key}: can't be recovered: {error}")
                continue
            if state != shadow.state:
                self.wrong(f"{key}: recovered as something else than was stored")
            if key.kind == SESSION.kind:
                await self._check_session(key, shadow, journal)
        self._check_books()

    async def _check_session(self, key: Key, shadow: Shadow, journal: MemoryJournal) -> None:
        state: session.State = shadow.state
        if state.runs or state.reservations:
            self.wrong(f"{key}: still has {len(state.runs)} runs and reservations at the end")
        sealed = await journal.messages(key, 0, state.messages + 1)
        texts = self._texts.get(key.id, [])
        if len(sealed) != len(texts) or state.messages != len(texts):
            self.wrong(f"{key}: {len(sealed)} messages kept, {state.messages} counted")
        self._check_listed(key, state, journal)

    def _check_listed(self, key: Key, state: session.State, journal: MemoryJournal) -> None:
        summary = summarise(state, 0)
        where = position(summary.created_at, key.id)
        code = journal.listed.get(key.workspace_id, {}).get(where)
        if code != (None if summary.parent_id else CODES[summary.status]):
            self.wrong(f"{key}: is {summary.status}, and listed as {code!r}")

    def _check_books(self) -> None:
        books = self._budget()
        for key, shadow in self._shadows.items():
            if key.kind != SESSION.kind:
                continue
            account = books.accounts.get(key.id)
            spent = shadow.state.spent
            if account is None:
                if spent:
                    self.wrong(f"{key}: spent {spent} without an account")
            elif account.spent != spent:
                self.wrong(f"{key}: spent {spent}, and the budget knows of {account.spent}")
            elif account.held != spent:
                self.wrong(f"{key}: spent {spent}, and still has {account.held} lent")
