"""Systems that are wrong on purpose. The simulation must catch each, to be believed otherwise.

Each variant breaks one rule, in the way that somebody might break it by mistake.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, cast
from unittest.mock import patch

from msgspec import structs

from retinue.actors.agent import calls
from retinue.actors.agent.process import wire
from retinue.actors.domain.budget import machine as budget
from retinue.actors.domain.budget.commands import Lease, LeaseRequest
from retinue.actors.domain.permissions.allowances import machine as allowances
from retinue.actors.domain.permissions.capabilities import machine as capabilities
from retinue.actors.domain.session import events
from retinue.actors.domain.session import machine as session
from retinue.actors.domain.session.children import Children
from retinue.actors.domain.session.state import the_profile
from retinue.actors.durable.brakes import Brakes
from retinue.actors.durable.committer import Committer
from retinue.actors.durable.entity import Entity
from retinue.actors.durable.journal import Append, Journal, Outcomes
from retinue.actors.durable.machines import ALLOWANCES, BUDGET, CAPABILITIES
from retinue.actors.durable.memory_journal import MemoryJournal
from retinue.actors.leases.budget_lease import BudgetLease, Journaled
from retinue.actors.session import activation, catalog, turn_engine
from retinue.actors.session.live import LiveSession
from retinue.actors.stores import budget as budget_store
from retinue.actors.stores import capabilities as capability_store
from retinue.actors.stores import permissions as permission_store
from retinue.actors.views import SessionSummary
from retinue.cluster.directory.concurrency import ConcurrencyLimit
from retinue.cluster.local import reaper
from tests.simulation import agents, clients
from tests.simulation.processes import SimulatedProcesses

AnyEntity: TypeAlias = Entity[Any, Any, Any, Any]


@dataclass(frozen=True)
class Variant:
    """A mistake: a journal that makes it, or a patch that does."""

    journal: Callable[[], MemoryJournal] = MemoryJournal
    patched: Callable[[], AbstractContextManager[None]] = nullcontext
    within: int = 1000
    """In so many schedules at most it must be caught."""


class _Unfenced(MemoryJournal):
    """Takes rows from any epoch."""

    async def append(self, batch: Sequence[Append]) -> Outcomes:
        epochs = {key: stored.epoch for key, stored in self.entities.items()}
        return await super().append(
            [one._replace(epoch=epochs.get(one.key, one.epoch)) for one in batch]
        )


class _Forgetful(MemoryJournal):
    """Writes a row again that is sent again."""

    async def append(self, batch: Sequence[Append]) -> Outcomes:
        answers = [await self._again(one) for one in batch]
        brakes = {
            workspace_id: brake for one in answers for workspace_id, brake in one.brakes.items()
        }
        return Outcomes([outcome for one in answers for outcome in one], brakes)

    async def _again(self, one: Append) -> Outcomes:
        stored = self.entities.get(one.key)
        repeated = stored is not None and stored.seq == one.after + 1 and one.row
        return await super().append([one._replace(after=one.after + 1) if repeated else one])


@contextmanager
def _reply_before_commit() -> Iterator[None]:
    async def at_once(entity: AnyEntity) -> None:
        if entity.broken:
            raise entity.broken
        await asyncio.sleep(0)

    with patch.object(Entity, "committed", at_once), patch.object(Entity, "confirmed", at_once):
        yield


@contextmanager
def _answers_from_memory() -> Iterator[None]:
    with patch.object(Entity, "confirmed", Entity.committed):
        yield


@contextmanager
def _reports_before_commit() -> Iterator[None]:
    class Hasty:
        def __init__(self, session: AnyEntity) -> None:
            self._session = session

        def __getattr__(self, name: str) -> Any:
            return getattr(self._session, name)

        async def committed(self) -> None:
            """All is durable, it says."""

    def hasty(session: AnyEntity, *arguments: Any, **options: Any) -> BudgetLease:
        return BudgetLease(cast(Journaled, Hasty(session)), *arguments, **options)

    with patch.object(activation, "BudgetLease", hasty):
        yield


@contextmanager
def _begins_before_commit() -> Iterator[None]:
    """A step that must not run twice runs while the note of it is still on its way."""
    handle = turn_engine.TurnEngine.handle

    async def hasty(self: turn_engine.TurnEngine, branch: int, call: Any) -> Any:
        if isinstance(call, calls.BeginStep):
            return self._begin_step(branch, call.name, call.idempotent)
        return await handle(self, branch, call)

    with patch.object(turn_engine.TurnEngine, "handle", hasty):
        yield


@contextmanager
def _refund_on_death() -> Iterator[None]:
    recover = activation.stored_entity

    async def refunded(*arguments: Any) -> Any:
        entity = await recover(*arguments)
        entity.state.reservations.clear()
        entity.state.reserved = 0
        return entity

    with patch.object(catalog, "stored_entity", refunded):
        yield


@contextmanager
def _stale_leases() -> Iterator[None]:
    """The budget takes every message for the newest, whatever its epoch and number."""

    def decide(state: budget.State, command: budget.Command, now: int) -> Any:
        if isinstance(command, Lease):
            command = Lease([_as_newest(state, want) for want in command.wants])
        return budget.decide(state, command, now)

    with patch.object(budget_store, "BUDGET", replace(BUDGET, decide=decide)):
        yield


def _as_newest(state: budget.State, want: LeaseRequest) -> LeaseRequest:
    account = state.accounts.get(want.session)
    if account is None:
        return want
    return structs.replace(want, epoch=account.epoch, number=account.number + 1)


@contextmanager
def _forgets_operations() -> Iterator[None]:
    """The allowance store consumes once more for an operation that is sent again."""

    def decide(state: allowances.State, command: allowances.Command, now: int) -> Any:
        known, state.index.by_operation = state.index.by_operation, {}
        try:
            return allowances.decide(state, command, now)
        finally:
            state.index.by_operation = known

    with patch.object(permission_store, "ALLOWANCES", replace(ALLOWANCES, decide=decide)):
        yield


@contextmanager
def _forgets_steps() -> Iterator[None]:
    """A replayed step is taken once more."""
    with patch.object(session, "_step", lambda state, run, key: None):
        yield


@contextmanager
def _tokens_for_all() -> Iterator[None]:
    """A token that is good for one use is good for everybody who asks."""

    def decide(state: capabilities.State, command: capabilities.Command, now: int) -> Any:
        if isinstance(command, capabilities.Use):
            return [], capabilities.Used(command.token_id)
        return capabilities.decide(state, command, now)

    with patch.object(capability_store, "CAPABILITIES", replace(CAPABILITIES, decide=decide)):
        yield


@contextmanager
def _leaves_tokens() -> Iterator[None]:
    """The end of a session leaves its tokens as they are."""

    async def nothing(self: capability_store.CapabilitiesActor, family_id: str) -> None:
        pass

    with patch.object(capability_store.CapabilitiesActor, "clear_session", nothing):
        yield


@contextmanager
def _tokens_come_later() -> Iterator[None]:
    """An approval "always" is told while its token is still being made."""
    issue = permission_store.PermissionsActor._issue_token
    issuing = set[asyncio.Task[None]]()

    async def later(self: permission_store.PermissionsActor, request_id: str) -> None:
        issuing.add(asyncio.create_task(issue(self, request_id)))

    with patch.object(permission_store.PermissionsActor, "_issue_token", later):
        yield


@contextmanager
def _comes_back() -> Iterator[None]:
    """A session that was closed takes new runs and steps."""
    with patch.object(session, "_open", the_profile):
        yield


@contextmanager
def _forgets_messages() -> Iterator[None]:
    """A message that a client sends again is added again."""
    with patch.object(events, "_remember", lambda state, op: None):
        yield


@contextmanager
def _leaves_orphans() -> Iterator[None]:
    """Sub-agents outlive the run that started them, and its session."""

    async def nothing(self: LiveSession) -> None:
        pass

    with patch.object(LiveSession, "cancel_children", nothing):
        yield


@contextmanager
def _forgets_what_a_host_lost() -> Iterator[None]:
    """Sub-agents whose host is gone are waited for there."""
    with patch.object(Children, "lose", lambda self, host, specs: None):
        yield


@contextmanager
def _listed_once() -> Iterator[None]:
    """The index of root sessions keeps the state in which it first heard of a session."""
    newly_listed = activation.Activation._newly_listed

    def first(self: activation.Activation, summary: SessionSummary) -> tuple[bytes, bytes] | None:
        return None if self._listed else newly_listed(self, summary)

    with patch.object(activation.Activation, "_newly_listed", first):
        yield


@contextmanager
def _keeps_the_slots_of_the_dead() -> Iterator[None]:
    """Whoever waited for sub-agents' slots when its process died still gets them."""
    lost = ConcurrencyLimit.lost

    def childless(self: ConcurrencyLimit, host: str, sessions: Collection[str]) -> None:
        lost(self, host, [])

    with _crowded(), patch.object(ConcurrencyLimit, "lost", childless):
        yield


@contextmanager
def _crowded() -> Iterator[None]:
    """Families that spawn whenever they can, and have room for one sub-agent.

    Else it takes some 3000 schedules until a host dies just while somebody waits there for a slot.
    """
    with patch.object(agents, "SPAWNS", 20), patch.object(clients, "MOST_AT_ONCE", 1):
        yield


@contextmanager
def _sweeps_in_any_order() -> Iterator[None]:
    """Everything is taken down at once: agents may die before those who note it."""
    with patch.object(reaper, "waves", lambda ours, agents: [ours]):
        yield


@contextmanager
def _never_heard_of_the_brake() -> Iterator[None]:
    """Sessions go by what they knew when they began, and by what they are called for."""

    def deaf(self: Committer, journal: Journal, learn: object = None) -> None:
        make(self, journal)

    make = Committer.__init__
    with patch.object(Committer, "__init__", deaf), patch.object(Brakes, "_is_fresh", _always):
        yield


@contextmanager
def _takes_a_death_for_a_result() -> Iterator[None]:
    """The end of an agent's process is the end of its run."""

    def failed(self: SimulatedProcesses, cause: str) -> wire.Outcome:
        return wire.Outcome(error=cause)

    with patch.object(SimulatedProcesses, "died", failed):
        yield


@contextmanager
def _tells_before_it_looks() -> Iterator[None]:
    """The brake counts before a decision is stored, and not after."""

    async def hasty(self: turn_engine.TurnEngine, decision: Any) -> Any:
        self._activation.untold.pop(decision.operation, None)
        return decision

    with patch.object(turn_engine.TurnEngine, "_told", hasty):
        yield


@contextmanager
def _begins_on_hold() -> Iterator[None]:
    """Runs begin, and stand still only at their first step."""

    async def at_once(self: LiveSession) -> bool:
        return True

    with (
        patch.object(LiveSession, "_released", at_once),
        patch.object(activation.Activation, "stand_still", at_once),
    ):
        yield


def _always(self: Brakes, workspace_id: str) -> bool:
    return True


BROKEN: dict[str, Variant] = {
    "no fencing": Variant(journal=_Unfenced),
    "repeated rows": Variant(journal=_Forgetful),
    "reply before commit": Variant(patched=_reply_before_commit),
    "zombies answer from memory": Variant(patched=_answers_from_memory, within=2500),
    "reports before commit": Variant(patched=_reports_before_commit),
    "steps begin before commit": Variant(patched=_begins_before_commit),
    "refund on death": Variant(patched=_refund_on_death),
    "stale leases": Variant(patched=_stale_leases),
    "operations forgotten": Variant(patched=_forgets_operations),
    "steps forgotten": Variant(patched=_forgets_steps),
    "messages forgotten": Variant(patched=_forgets_messages),
    "orphans": Variant(patched=_leaves_orphans),
    "lost children forgotten": Variant(patched=_forgets_what_a_host_lost),
    "tokens for all": Variant(patched=_tokens_for_all),
    "tokens outlive sessions": Variant(patched=_leaves_tokens),
    "always comes later": Variant(patched=_tokens_come_later),
    "closed sessions come back": Variant(patched=_comes_back),
    "listed once and for all": Variant(patched=_listed_once),
    "sweeps in any order": Variant(patched=_sweeps_in_any_order),
    "deaths are results": Variant(patched=_takes_a_death_for_a_result),
    "brakes unheard of": Variant(patched=_never_heard_of_the_brake),
    "told before the brake is looked at": Variant(patched=_tells_before_it_looks),
    "runs begin on hold": Variant(patched=_begins_on_hold),
    "slots kept for the dead": Variant(patched=_keeps_the_slots_of_the_dead),
}
