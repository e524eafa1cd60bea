"""The approval request that a person gets, and the answer to it: the values of `approvals`."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, TypeAlias

from msgspec import Struct
from msgspec.structs import force_setattr

from retinue.actors.domain.permissions.actions import Action, argument_hash
from retinue.actors.domain.permissions.base_action import Risk
from retinue.actors.domain.values.fields import choice

WAIT_US = 5 * 60 * 1_000_000
ALWAYS_US = 60 * 60 * 1_000_000
"""Microseconds for which the token of an approval "always" is valid, from the decision on."""


class Priority(StrEnum):
    """The urgency of a request for the people who decide."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"
    CRITICAL = "critical"


class Fallback(StrEnum):
    """The agent's behaviour while nobody has decided."""

    BLOCK = "block"
    SKIP = "skip"
    SAFE_DEFAULT = "safe_default"
    QUEUE = "queue"


class Scope(StrEnum):
    """The reach of a decision; ``deny`` is the one that refuses."""

    ONCE = "once"
    SESSION = "session"
    WORKSPACE = "workspace"
    ALWAYS = "always"
    CUSTOM = "custom"
    DENY = "deny"


ApprovalScope: TypeAlias = Literal["once", "session", "workspace", "always"]
"""The reach that a person may give to an approval."""


class ApprovalRequest(Struct, frozen=True):
    """One action that somebody is asked to approve. ``expires`` is when the agent stops waiting.

    ``user_id`` is the user of the session that asks; '' in requests stored before it was recorded.
    """

    id: str
    session_id: str
    family_id: str
    action: Action
    description: str
    argument_hash: str
    risk: Risk
    context: str
    created: int
    expires: int
    priority: Priority
    fallback: Fallback = Fallback.BLOCK
    user_id: str = ""

    def __post_init__(self) -> None:
        force_setattr(self, "priority", choice(Priority, self.priority, "priority"))
        force_setattr(self, "fallback", choice(Fallback, self.fallback, "fallback"))


class Resolution(Struct, frozen=True):
    """A final answer. ``scope`` is the scope granted, ``asked`` the scope asked for."""

    request_id: str
    approved: bool
    scope: Scope
    asked: Scope
    reason: str
    decided_by: str
    decided_at: int
    argument_hash: str


_PRIORITY_OF_RISK = {
    Risk.LOW: Priority.LOW,
    Risk.MEDIUM: Priority.NORMAL,
    Risk.HIGH: Priority.HIGH,
    Risk.CRITICAL: Priority.CRITICAL,
}


def request_for(
    action: Action,
    *,
    id: str,
    session_id: str,
    family_id: str,
    now: int,
    user_id: str = "",
    context: str = "",
    wait_us: int = WAIT_US,
    priority: Priority | None = None,
    fallback: Fallback = Fallback.BLOCK,
    known_hash: str = "",
) -> ApprovalRequest:
    """The request for an action; its priority follows the action's risk unless given.

    ``known_hash`` is the action's `argument_hash`, where it is at hand.
    """
    return ApprovalRequest(
        id=id,
        session_id=session_id,
        family_id=family_id,
        action=action,
        description=action.describe(),
        argument_hash=known_hash or argument_hash(action),
        risk=action.risk,
        context=context,
        created=now,
        expires=now + wait_us,
        priority=_PRIORITY_OF_RISK[action.risk] if priority is None else priority,
        fallback=fallback,
        user_id=user_id,
    )


def grantable(action: Action, asked: Scope) -> Scope:
    """The scope granted for ``asked``: some actions can only be approved once."""
    return asked if action.lasting or asked is Scope.DENY else Scope.ONCE
