"""The state machines that are stored, each with the version of its stored form.

Every change to a machine's stored form raises its version, so that older nodes refuse data that
they would lose; the files in `tests/golden` hold each version to its bytes.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from retinue.actors.domain.budget import machine as budget
from retinue.actors.domain.budget.events import CapSet, FamilyOpened, Held, Released
from retinue.actors.domain.permissions.allowances import machine as allowances
from retinue.actors.domain.permissions.allowances.state import Granted, Revoked, SessionCleared
from retinue.actors.domain.permissions.approvals import machine as approvals
from retinue.actors.domain.permissions.approvals.state import Asked, Decided, Deferred, Expired
from retinue.actors.domain.permissions.capabilities import machine as capabilities
from retinue.actors.domain.permissions.capabilities.state import TokenAdded, TokenRevoked, TokenUsed
from retinue.actors.domain.session import machine as session
from retinue.actors.domain.session.events import Authorized, ChildrenSpawned, Created, WasClosed
from retinue.actors.durable.codec import Machine

AnyMachine: TypeAlias = Machine[Any, Any, Any, Any]
"""Any of them, with any state, commands and events."""

SESSION: Machine[session.State, session.Command, session.Event, session.Reply] = Machine(
    "session",
    3,
    session.State,
    session.Event,
    session.initial,
    session.decide,
    session.evolve,
    session.validate,
    (Created, WasClosed, ChildrenSpawned, Authorized),
)
BUDGET: Machine[budget.State, budget.Command, budget.Event, budget.Reply] = Machine(
    "budget",
    2,
    budget.State,
    budget.Event,
    budget.initial,
    budget.decide,
    budget.evolve,
    budget.validate,
    (FamilyOpened, CapSet, Held, Released),
    budget.brake_of,
)
ALLOWANCES: Machine[allowances.State, allowances.Command, allowances.Event, allowances.Reply] = (
    Machine(
        "allowances",
        2,
        allowances.State,
        allowances.Event,
        allowances.initial,
        allowances.decide,
        allowances.evolve,
        audited=(Granted, Revoked, SessionCleared),
        upkeep=(allowances.CleanupExpired(),),
    )
)
APPROVALS: Machine[approvals.State, approvals.Command, approvals.Event, approvals.Reply] = Machine(
    "approvals",
    3,
    approvals.State,
    approvals.Event,
    approvals.initial,
    approvals.decide,
    approvals.evolve,
    audited=(Asked, Decided, Deferred, Expired),
    upkeep=(approvals.Expire(), approvals.Forget()),
)
CAPABILITIES: Machine[
    capabilities.State, capabilities.Command, capabilities.Event, capabilities.Reply
] = Machine(
    "capabilities",
    1,
    capabilities.State,
    capabilities.Event,
    capabilities.initial,
    capabilities.decide,
    capabilities.evolve,
    audited=(TokenAdded, TokenUsed, TokenRevoked),
    upkeep=(capabilities.CleanupExpired(),),
)
