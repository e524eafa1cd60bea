"""A question to which policy alone has no answer, and who answers it.

An allowance comes first, which may cost one of its uses; then an approval that came too late for
the operation that had asked, and is good for one of the same family and arguments; then a person.
"""

from __future__ import annotations

from typing import TypeAlias

from msgspec import Struct

from retinue.actors.domain.permissions.allowances import machine as allowances
from retinue.actors.domain.permissions.allowances.allowance import Allowance
from retinue.actors.domain.permissions.allowances.machine import Consume
from retinue.actors.domain.permissions.approvals import machine as approvals
from retinue.actors.domain.permissions.approvals.machine import Ask, ClaimOnce
from retinue.actors.domain.permissions.approvals.request import ApprovalRequest, Resolution
from retinue.actors.domain.permissions.approvals.state import Entry


class Question(Struct, frozen=True):
    """May operation ``op`` do what ``request`` says? Asked again, it uses up nothing more."""

    op: str
    request: ApprovalRequest
    workspace_root: str | None


class Permitted(Struct, frozen=True):
    """Yes, ``by`` an allowance as it was after this use, or by an approval that is now used up."""

    by: Allowance | Resolution


class Waiting(Struct, frozen=True):
    """A person has the word; ``watched`` says whether anybody is there who could answer now."""

    entry: Entry
    watched: bool


Answer: TypeAlias = Permitted | Waiting


def command_for(
    granted: allowances.State, asked: approvals.State, question: Question, now: int
) -> Consume | ClaimOnce | Ask:
    """The one command that answers a question as things stand. Raises as the commands do."""
    request = question.request
    consume = Consume(question.op, request.action, request.family_id, question.workspace_root)
    if allowances.decide(granted, consume, now)[1]:
        return consume
    claim = ClaimOnce(question.op, request.session_id, request.family_id, request.argument_hash)
    return claim if approvals.decide(asked, claim, now)[1] else Ask(request)
