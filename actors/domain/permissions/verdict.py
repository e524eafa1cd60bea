"""A rule's verdict on an action: it may go on, somebody must approve it, or it is blocked."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from msgspec import Struct


class Allowed(Struct, frozen=True, tag=True):
    """The rule has no objection; ``reason`` names the part of the rule that applied."""

    reason: str = ""


class NeedsApproval(Struct, frozen=True, tag=True):
    """Somebody, or an allowance or capability in their place, must say yes first."""

    reason: str


class Blocked(Struct, frozen=True, tag=True):
    """The action is blocked: no approval can change that."""

    reason: str


Verdict: TypeAlias = Allowed | NeedsApproval | Blocked

_SEVERITY: dict[type[Verdict], int] = {Allowed: 0, NeedsApproval: 1, Blocked: 2}


def strictest(verdicts: Iterable[Verdict]) -> Verdict:
    """The strictest of several, the first of equals; ``Allowed`` where there are none."""
    return max(verdicts, key=lambda verdict: _SEVERITY[type(verdict)], default=Allowed())
