"""Who answers a question: an allowance, else an approval that came late, else a person."""

from __future__ import annotations

import pytest
from msgspec import structs

from retinue.actors.domain.errors import InvalidValue
from retinue.actors.domain.permissions.action_ref import ActionRef
from retinue.actors.domain.permissions.actions import Action, FileRead, argument_hash
from retinue.actors.domain.permissions.allowances import machine as allowances
from retinue.actors.domain.permissions.allowances.allowance import Allowance
from retinue.actors.domain.permissions.allowances.machine import Consume, Consumed, Grant
from retinue.actors.domain.permissions.approvals import machine as approvals
from retinue.actors.domain.permissions.approvals.machine import Ask, ClaimOnce, Decide, Defer
from retinue.actors.domain.permissions.approvals.question import Question, attempts
from retinue.actors.domain.permissions.approvals.request import Resolution, Scope
from retinue.actors.domain.permissions.approvals.state import Entry
from retinue.actors.domain.permissions.patterns import FilePattern
from retinue.actors.domain.values.ids import derived_id

NOW = 1_800_000_000_000_000
READ = FileRead("/w/a")


def ask(op: str, action: Action = READ) -> Question:
    ref = ActionRef(action, argument_hash(action), op)
    return Question(ref, "s", "f", "0123456789abcdef", "/w", "why", 5)


class Books:
    """The two entities that a question is about."""

    def __init__(self) -> None:
        self.granted = allowances.initial()
        self.asked = approvals.initial()

    def answer(self, question: Question) -> object:
        """As the store does."""
        for command in attempts(question, NOW):
            reply = (
                self.do_granted(command) if isinstance(command, Consume) else self.do_asked(command)
            )
            if reply is not None:
                return reply
        raise AssertionError("somebody is always asked")

    def allow(self) -> None:
        once = Allowance(derived_id("it"), FilePattern("/w/*", "read"), NOW, max_uses=1)
        self.do_granted(Grant(once))

    def approve_late(self) -> None:
        entry = self.answer(ask("early"))
        assert isinstance(entry, Entry)
        request = entry.request
        self.do_asked(Defer(request.id, "nobody there"))
        self.do_asked(Decide(request.id, Scope.ONCE, "ann", request.argument_hash))

    def do_granted(self, command: allowances.Command) -> allowances.Reply:
        events, reply = allowances.decide(self.granted, command, NOW)
        for event in events:
            allowances.evolve(self.granted, event)
        return reply

    def do_asked(self, command: approvals.Command) -> approvals.Reply:
        events, reply = approvals.decide(self.asked, command, NOW)
        for event in events:
            approvals.evolve(self.asked, event)
        return reply


@pytest.fixture
def books() -> Books:
    return Books()


def test_an_allowance_comes_before_an_approval_and_that_before_a_person(books: Books) -> None:
    books.approve_late()
    books.allow()
    assert isinstance(books.answer(ask("1")), Consumed)
    assert isinstance(books.answer(ask("2")), Resolution)
    assert isinstance(books.answer(ask("3")), Entry)


def test_asked_again_an_operation_meets_what_it_has_used(books: Books) -> None:
    books.approve_late()
    books.allow()
    answers = [books.answer(ask(op)) for op in "123"]
    assert [books.answer(ask(op)) for op in "123"] == answers


def test_a_person_is_told_who_wants_what_and_why(books: Books) -> None:
    entry = books.answer(ask("op"))
    assert isinstance(entry, Entry)
    request = entry.request
    assert request.id == derived_id("s/op")
    assert (request.session_id, request.family_id) == ("s", "f")
    assert (request.user_id, request.context) == ("0123456789abcdef", "why")
    assert (request.created, request.expires) == (NOW, NOW + 5)


def test_no_request_is_made_before_there_is_a_need() -> None:
    wrong = structs.replace(ask("op"), ref=ActionRef(READ, "", ""))
    kinds = [type(command) for command, _ in zip(attempts(wrong, NOW), range(2), strict=False)]
    assert kinds == [Consume, ClaimOnce]


def test_an_operation_that_was_used_for_something_else_is_refused(books: Books) -> None:
    books.approve_late()
    books.answer(ask("op"))
    with pytest.raises(InvalidValue, match="op: "):
        books.answer(ask("op", FileRead("/w/b")))


def test_a_hash_that_is_of_another_action_is_refused(books: Books) -> None:
    question = structs.replace(ask("op"), ref=ActionRef(READ, "another", "op"))
    with pytest.raises(InvalidValue, match="argument_hash"):
        books.answer(question)
    assert not books.asked.requests


def test_the_hash_follows_the_action() -> None:
    ref = ActionRef(READ, argument_hash(READ), "op")
    assert ref.to(READ) is ref
    assert ref.to(FileRead("/w/b")) == (FileRead("/w/b"), argument_hash(FileRead("/w/b")), "op")


def test_the_last_that_is_tried_asks(books: Books) -> None:
    assert isinstance(list(attempts(ask("op"), NOW))[-1], Ask)
