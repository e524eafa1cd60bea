"""A question that policy alone does not answer, and the order in which others are asked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

from msgspec import Struct

from retinue.actors.domain.permissions.action_ref import ActionRef
from retinue.actors.domain.permissions.allowances.allowance import Allowance
from retinue.actors.domain.permissions.allowances.machine import Consume
from retinue.actors.domain.permissions.approvals.machine import Ask, ClaimOnce
from retinue.actors.domain.permissions.approvals.request import (
    WAIT_US,
    ApprovalRequest,
    Resolution,
    request_for,
)
from retinue.actors.domain.permissions.approvals.state import Entry
from retinue.actors.domain.values.ids import derived_id


class Question(Struct, frozen=True):
    """A session's question about an action; repeated for its operation, it uses up nothing more.

    ``context`` is the session's reason; ``wait_us`` is its wait for a person, in microseconds.
    """

    ref: ActionRef
    session_id: str
    family_id: str
    user_id: str
    workspace_root: str | None
    context: str = ""
    wait_us: int = WAIT_US


class Permitted(Struct, frozen=True):
    """Consent, ``by`` an allowance as it was after this use, or by an approval now used up."""

    by: Allowance | Resolution


class Waiting(Struct, frozen=True):
    """A person must decide; ``watched`` tells whether anybody is there who could answer now."""

    entry: Entry
    watched: bool


Answer: TypeAlias = Permitted | Waiting


def attempts(question: Question, now: int) -> Iterator[Consume | ClaimOnce | Ask]:
    """The commands to send, one after the other: the first that has a reply answers the question.

    An allowance comes first, which may cost one of its uses; then an approval that came too late
    for its own operation, and is good for one of the same family and arguments; then a person.
    """
    action, hash, op = question.ref
    yield Consume(op, action, question.family_id, question.workspace_root)
    yield ClaimOnce(op, question.session_id, question.family_id, hash)
    yield Ask(_request(question, now))


def _request(question: Question, now: int) -> ApprovalRequest:
    """The operation's request: the same one, however often the operation asks."""
    return request_for(
        question.ref.action,
        id=derived_id(f"{question.session_id}/{question.ref.operation}"),
        session_id=question.session_id,
        family_id=question.family_id,
        user_id=question.user_id,
        now=now,
        context=question.context,
        wait_us=question.wait_us,
        known_hash=question.ref.hash,
    )
