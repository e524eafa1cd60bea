"""The gate in front of every sensitive action: policy, capability, budget, allowance, approval.

A "no" at any step, and a deferral, gives back the reserved money. A capability or an allowance
stands in for a person's approval, never for policy or budget.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass

from msgspec import structs

from retinue.actors.domain.budget.commands import CapWarning, Exceeded
from retinue.actors.domain.budget.levels import describe, over_per_action
from retinue.actors.domain.permissions import boundary as boundaries
from retinue.actors.domain.permissions import policy as policies
from retinue.actors.domain.permissions.action_ref import ActionRef
from retinue.actors.domain.permissions.actions import (
    Action,
)
from retinue.actors.domain.permissions.approvals.question import Question, Waiting
from retinue.actors.domain.permissions.approvals.request import Resolution, Scope
from retinue.actors.domain.permissions.approvals.state import Entry
from retinue.actors.domain.permissions.boundary import EscapeState
from retinue.actors.domain.permissions.decision import Decision
from retinue.actors.domain.permissions.verdict import Blocked, NeedsApproval, Verdict, strictest
from retinue.actors.domain.session.state import Profile
from retinue.actors.durable.entity import Clock
from retinue.actors.leases.budget_lease import BudgetLease
from retinue.actors.leases.permission_leases import PermissionLeases
from retinue.actors.ports import Stores
from retinue.actors.telemetry import metrics
from retinue.actors.views import WorkspaceSettings

_REMEMBERED = frozenset({Scope.SESSION, Scope.ALWAYS})


@dataclass(frozen=True)
class Authorizer:
    """Decides on the actions of one session."""

    profile: Profile
    workspace: WorkspaceSettings
    stores: Stores
    budget_lease: BudgetLease
    clock: Clock
    leases: PermissionLeases
    remember_escape: Callable[[str, bool], None]

    async def authorize(
        self, ref: ActionRef, cost: int, context: str, timeout: int, escapes: EscapeState
    ) -> Decision:
        """The decision; if it is yes, ``cost`` nano-USD are held in the lease for it.

        The action's operation identifies the request: repeated, it uses up nothing a second time.
        """
        action, operation = resolved(ref.action, self.workspace.path), ref.operation
        verdict = judge(self.workspace, action, escapes)
        if isinstance(verdict, Blocked):
            return Decision("denied", reason=verdict.reason, operation=operation)
        over = over_per_action(cost, self.profile.budget.per_action_max)
        held = over or (await self.budget_lease.hold(cost) if cost else None)
        if isinstance(held, Exceeded):
            return Decision("exceeded", reason=describe(held), operation=operation)
        try:
            if isinstance(verdict, NeedsApproval):
                why = context or verdict.reason
                decision = await self._approve(ref.to(action), why, timeout)
            else:
                decision = Decision("allowed", proof="policy", reason=verdict.reason)
        except BaseException:
            self.budget_lease.drop(cost)
            raise
        if not decision.allowed:
            await self.budget_lease.give_back(cost)
            return structs.replace(decision, operation=operation)
        return structs.replace(decision, operation=operation, amount=cost, warning=_warning(held))

    async def _approve(self, ref: ActionRef, why: str, timeout: int) -> Decision:
        profile, stores = self.profile, self.stores
        kept = self.leases.find(ref.action, profile.family_id, self.workspace.path, self.clock())
        if kept:
            metrics.PERMISSIONS.add(label="lease")
            return Decision("allowed", proof=f"allowance:{kept.id}")
        metrics.PERMISSIONS.add(label="store")
        token = await stores.capabilities.find(
            ref.operation, ref.action, profile.family_id, profile.user_id, profile.capabilities
        )
        if token and await stores.capabilities.use(ref.operation, token.id):
            return Decision("allowed", proof=f"capability:{token.id}")
        asked = self.leases.question()
        question = Question(
            ref, profile.id, profile.family_id, profile.user_id, self.workspace.path, why, timeout
        )
        answer = await stores.permissions.resolve(question)
        if isinstance(answer, Waiting) and answer.entry.finished is None:
            limit = timeout / 1_000_000 if answer.watched else 0.0
            entry = await stores.permissions.await_decision(answer.entry.request.id, limit)
            if not entry.needs_claim:
                return self._answer(entry)
            answer = await stores.permissions.resolve(question)
        if isinstance(answer, Waiting):
            return self._answer(answer.entry)
        if isinstance(answer.by, Resolution):
            return Decision("allowed", proof=f"approval:{answer.by.request_id}")
        self.leases.keep(asked, answer.by)
        return Decision("allowed", proof=f"allowance:{answer.by.id}")

    def _answer(self, entry: Entry) -> Decision:
        request, decision = entry.request, entry.decision
        if decision is None or entry.needs_claim:  # or another operation has used it up
            return Decision("deferred", reason=entry.reason, request_id=request.id)
        if not decision.approved:
            return Decision(
                "denied",
                reason=decision.reason or f"denied by {decision.decided_by}",
                request_id=request.id,
            )
        if decision.scope in _REMEMBERED:
            for path in request.action.paths():
                self.remember_escape(path, decision.scope is Scope.ALWAYS)
        return Decision("allowed", proof=f"approval:{request.id}", request_id=request.id)


def judge(workspace: WorkspaceSettings, action: Action, escapes: EscapeState) -> Verdict:
    """The joint verdict of policy and boundary on a resolved action."""
    verdict = policies.check(workspace.policy, action)
    operation, boundary = action.operation, workspace.boundary
    if operation is None:
        return verdict
    places = (boundaries.check(boundary, path, operation, escapes) for path in action.paths())
    return strictest([verdict, *places])


def resolved(action: Action, workspace: str | None) -> Action:
    """The action with its paths absolute and their links resolved."""
    given = action.paths()
    paths = [real_path(os.path.join(workspace or "/", path)) for path in given]
    if paths == given:
        return action
    return structs.replace(action, **dict(zip(action.path_fields, paths, strict=True)))


def real_path(path: str) -> str:
    """As `os.path.realpath`, in half the time if nothing on the way is a link."""
    if not path.startswith("/") or path.startswith("//") or os.path.normpath(path) != path:
        return os.path.realpath(path)
    end = 0
    while end < len(path):
        end = path.find("/", end + 1)
        end = len(path) if end < 0 else end
        try:
            if stat.S_ISLNK(os.lstat(path[:end]).st_mode):
                return os.path.realpath(path)
        except OSError:
            return os.path.realpath(path)
    return path


def _warning(held: object) -> CapWarning | None:
    return held if isinstance(held, CapWarning) else None
