"""Who answers a question: an allowance, else an approval that came late, else a person."""

from __future__ import annotations

import pytest
from msgspec import structs

from retinue.actors.domain.errors import InvalidValue
from retinue.actors.domain.permissions.action_ref import ActionRef
from retinue.actors.domain.permissions.actions import FileRead, argument_hash
from retinue.actors.domain.permissions.allowances import machine as allowances
from retinue.actors.domain.permissions.allowances.allowance import Allowance
from retinue.actors.domain.permissions.allowances.machine import Consume, Grant
from retinue.actors.domain.permissions.approvals import machine as approvals
from retinue.actors.domain.permissions.approvals.machine import Ask, ClaimOnce, Decide, Defer
from retinue.actors.domain.permissions.approvals.question import Question, command_for
from retinue.actors.domain.permissions.approvals.request import Scope, request_for
from retinue.actors.domain.permissions.patterns import FilePattern
from retinue.actors.domain.values.ids import derived_id

NOW = 1_800_000_000_000_000
READ = FileRead("/w/a")
LATE = request_for(READ, id="late", session_id="s", family_id="f", now=NOW)
QUESTION = Question("op", structs.replace(LATE, id="new"), "/w")
CLAIM = ClaimOnce("op", "s", "f", LATE.argument_hash)


class Books:
    """The two entities that a question is about."""

    def __init__(self) -> None:
        self.granted = allowances.initial()
        self.asked = approvals.initial()

    def command(self, question: Question = QUESTION) -> Consume | ClaimOnce | Ask:
        return command_for(self.granted, self.asked, question, NOW)

    def allow(self) -> None:
        once = Allowance(derived_id("it"), FilePattern("/w/*", "read"), NOW, max_uses=1)
        self.do_granted(Grant(once))

    def approve_late(self) -> None:
        self.do_asked(Ask(LATE))
        self.do_asked(Defer("late", "nobody there"))
        self.do_asked(Decide("late", Scope.ONCE, "ann", LATE.argument_hash))

    def do_granted(self, command: allowances.Command) -> None:
        for event in allowances.decide(self.granted, command, NOW)[0]:
            allowances.evolve(self.granted, event)

    def do_asked(self, command: approvals.Command) -> None:
        for event in approvals.decide(self.asked, command, NOW)[0]:
            approvals.evolve(self.asked, event)


@pytest.fixture
def books() -> Books:
    return Books()


def test_a_person_is_asked_last(books: Books) -> None:
    assert books.command() == Ask(QUESTION.request)
    books.approve_late()
    assert books.command() == CLAIM
    books.allow()
    assert isinstance(books.command(), Consume)


def test_asked_again_the_same_operation_meets_what_it_has_used(books: Books) -> None:
    books.approve_late()
    books.do_asked(CLAIM)
    assert books.command() == CLAIM
    other = structs.replace(QUESTION, op="other")
    assert isinstance(books.command(other), Ask)
    books.allow()
    consume = books.command(other)
    assert isinstance(consume, Consume)
    books.do_granted(consume)
    assert books.command(other) == consume
    assert books.command() == CLAIM  # its own answer still


def test_nothing_is_changed_by_looking(books: Books) -> None:
    books.approve_late()
    books.allow()
    books.command()
    untouched = Books()
    untouched.approve_late()
    untouched.allow()
    assert (books.granted, books.asked) == (untouched.granted, untouched.asked)


def test_an_operation_that_was_used_for_something_else_is_refused(books: Books) -> None:
    books.approve_late()
    books.do_asked(CLAIM)
    request = request_for(FileRead("/w/b"), id="b", session_id="s", family_id="f", now=NOW)
    with pytest.raises(InvalidValue, match="op: "):
        books.command(Question("op", request, "/w"))


def test_the_hash_follows_the_action() -> None:
    ref = ActionRef(READ, argument_hash(READ), "op")
    assert ref.to(READ) is ref
    assert ref.to(FileRead("/w/b")) == (FileRead("/w/b"), argument_hash(FileRead("/w/b")), "op")
