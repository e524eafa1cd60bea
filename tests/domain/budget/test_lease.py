"""A session's money in hand: never more than was lent, and nothing refused that has room."""

from __future__ import annotations

import copy
from typing import cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from retinue.actors.domain.budget.commands import (
    CapWarning,
    Exceeded,
    Lease,
    LeaseGranted,
    LeaseRequest,
    OpenFamily,
    SetCap,
)
from retinue.actors.domain.budget.lease import MOST_SLACK, TIGHT_S, LeaseMachine, Step
from retinue.actors.domain.budget.state import WORKSPACE, Account, Cap
from retinue.actors.domain.budget.totals import level_of
from retinue.actors.domain.errors import Fenced
from retinue.actors.domain.session import machine as session
from retinue.actors.domain.values.money import NANO
from tests.kit.money import ME, Bank, Wallet

RIVAL = "rival"


class Desk:
    """A lease whose messages are answered at once."""

    def __init__(self, bank: Bank, wallet: Wallet, epoch: int = 1, slack: bool = False) -> None:
        self.bank = bank
        self.wallet = wallet
        self.lease = LeaseMachine(ME, epoch, slack)
        self.now = 0.0

    def hold(self, amount: int) -> CapWarning | Exceeded | None:
        return self.end_of(self.ask(amount))

    def ask(self, amount: int) -> Step:
        return self.lease.need(self.wallet.state, amount, amount, self.now)

    def report(self) -> None:
        self.end_of(self.lease.report(self.wallet.state))

    def reserve(self, amount: int) -> str:
        """Hold and record."""
        assert not isinstance(self.hold(amount), Exceeded)
        self.lease.drop(amount)
        return self.wallet.reserve(amount)

    def settle(self, action: str, actual: int) -> None:
        self.wallet.settle(action, actual)
        if self.lease.is_exact(self.now):
            self.report()

    def recall(self) -> LeaseRequest | None:
        return self.lease.recalled(self.wallet.state, self.now)

    def end_of(self, step: Step) -> CapWarning | Exceeded | None:
        while isinstance(step, LeaseRequest):
            step = self.answer(step)
        return step

    def answer(self, request: LeaseRequest) -> Step:
        return self.lease.answered(self.wallet.state, request, self.bank.take(request))


def desk(cap: int, spent: int = 0, epoch: int = 1, slack: bool = False) -> Desk:
    wallet = Wallet()
    wallet.state.spent = spent
    return Desk(Bank(cap), wallet, epoch, slack)


def asked(step: Step) -> LeaseRequest:
    assert isinstance(step, LeaseRequest)
    return step


def test_what_is_held_is_lent_by_the_budget() -> None:
    mine = desk(100)
    assert mine.hold(30) is None
    assert mine.hold(20) is None
    assert mine.bank.held == 50


def test_a_refusal_names_the_level_and_holds_nothing() -> None:
    mine = desk(100)
    mine.hold(70)
    assert mine.hold(31) == Exceeded("session", 31, 30)
    assert mine.bank.held == 70
    assert mine.hold(30) == CapWarning("session", 100, 100, 80)


def test_what_the_budget_knows_after_a_refusal_is_not_told_again() -> None:
    mine = desk(100)
    mine.hold(70)
    mine.hold(31)
    assert mine.lease.report(mine.wallet.state) is None


def test_a_hold_that_became_a_reservation_is_counted_once() -> None:
    mine = desk(100)
    mine.reserve(60)
    mine.report()
    assert mine.bank.held == 60
    assert isinstance(mine.hold(41), Exceeded)


@pytest.mark.parametrize("actual", [25, 130])
def test_what_was_spent_is_reported_and_the_rest_goes_back(actual: int) -> None:
    mine = desk(100)
    mine.settle(mine.reserve(100), actual)
    assert (mine.bank.spent, mine.bank.held) == (actual, actual)


def test_a_session_that_has_spent_nothing_reports_nothing() -> None:
    mine = desk(100)
    mine.report()
    assert mine.bank.wants == []


def test_what_was_reported_is_not_reported_again() -> None:
    mine = desk(100)
    mine.settle(mine.reserve(60), 25)
    told = len(mine.bank.wants)
    mine.report()
    assert len(mine.bank.wants) == told
    mine.hold(10)
    mine.lease.drop(10)
    mine.report()
    assert (mine.bank.spent, mine.bank.held) == (25, 25)


def test_a_session_that_comes_back_reports_what_it_had_spent() -> None:
    mine = desk(100, spent=40, epoch=2)
    mine.report()
    assert (mine.bank.spent, mine.bank.held) == (40, 40)


def test_what_the_activation_before_held_is_free_again() -> None:
    old = desk(100)
    old.hold(90)
    assert Desk(old.bank, old.wallet, epoch=2).hold(50) is None
    assert old.bank.held == 50


def test_an_activation_that_was_overtaken_stops() -> None:
    old = desk(100)
    Desk(old.bank, Wallet(), epoch=2).hold(10)
    with pytest.raises(Fenced, match="session me: a newer activation"):
        old.hold(50)
    assert old.bank.held == 10


def test_a_message_that_arrived_twice_does_not_pass_for_a_yes() -> None:
    mine = desk(10)
    request = asked(mine.ask(11))
    for _ in range(2):
        mine.bank.take(request)
        request = asked(mine.answer(request))
    mine.bank.take(request)
    with pytest.raises(Fenced):
        mine.answer(request)
    assert mine.hold(7) is None
    assert mine.bank.held == 7


def test_an_answer_that_comes_twice_holds_nothing_twice() -> None:
    mine = desk(100)
    request = asked(mine.ask(60))
    assert mine.answer(request) is None
    assert mine.answer(request) is None
    assert mine.ask(0) is None  # 60 are held
    assert isinstance(mine.ask(1), LeaseRequest)


def test_a_message_that_was_lost_leaves_nothing_held() -> None:
    mine = desk(100)
    mine.bank.take(asked(mine.ask(60)))
    mine.lease.lost()
    assert mine.bank.held == 60
    assert mine.hold(50) is None
    assert mine.bank.held == 50


def test_what_was_lent_by_an_answer_that_was_lost_goes_back() -> None:
    mine = desk(100)
    mine.reserve(10)
    mine.bank.take(asked(mine.ask(60)))
    mine.lease.lost()
    assert mine.bank.held == 70
    mine.report()
    assert mine.bank.held == 10


def test_what_was_overspent_while_a_question_was_under_way_is_no_room_for_it() -> None:
    mine = desk(40)
    action = mine.reserve(34)
    request = asked(mine.ask(6))
    answer = mine.bank.take(request)
    mine.wallet.settle(action, 41)
    step = mine.lease.answered(mine.wallet.state, request, answer)
    assert isinstance(mine.end_of(step), Exceeded)
    assert mine.bank.held == 41


# Slack


def test_slack_is_asked_for_with_what_is_needed_and_doubled_each_time() -> None:
    mine = desk(0, slack=True)
    for _ in range(8):
        mine.hold(3)
    assert [want.slack for want in mine.bank.wants] == [
        3 * slack for slack in (8, 16, 32, 64, 128, 256, MOST_SLACK, MOST_SLACK)
    ]


def test_what_fits_into_the_slack_needs_no_message() -> None:
    mine = desk(10_000, slack=True)
    mine.hold(10)
    assert mine.bank.held == 90
    for _ in range(8):
        assert mine.lease.holds(mine.wallet.state, 10)
    assert not mine.lease.holds(mine.wallet.state, 1)


def test_with_slack_the_budget_is_not_told_of_every_settlement() -> None:
    mine = desk(10_000, slack=True)
    mine.settle(mine.reserve(10), 4)
    assert (len(mine.bank.wants), mine.bank.spent) == (1, 0)
    mine.report()
    assert (mine.bank.spent, mine.bank.held) == (4, 4)


def test_slack_that_is_recalled_goes_back_and_is_not_used_any_more() -> None:
    mine = desk(10_000, slack=True)
    mine.hold(10)
    mine.bank.take(asked(mine.recall()))
    assert mine.bank.held == 10
    mine.hold(20)
    assert mine.bank.held == 30
    assert mine.bank.wants[-1].slack == 0


def test_after_a_recall_the_budget_is_told_of_every_settlement_for_a_while() -> None:
    mine = desk(10_000, slack=True)
    action = mine.reserve(10)
    mine.recall()
    mine.settle(action, 0)
    assert mine.bank.held == 0
    mine.now = TIGHT_S
    mine.hold(1)
    assert mine.bank.wants[-1].slack > 0


def test_who_has_no_slack_has_nothing_to_return() -> None:
    assert desk(10_000, slack=True).recall() is None
    mine = desk(10_000)
    mine.hold(10)
    assert mine.recall() is None
    assert mine.bank.held == 10


def test_a_recall_overtakes_the_question_that_is_under_way() -> None:
    mine = desk(10_000, slack=True)
    request = asked(mine.ask(10))
    answer = mine.bank.take(request)
    assert mine.bank.held == 90
    mine.bank.take(asked(mine.recall()))
    assert mine.bank.held == 0
    again = asked(mine.lease.answered(mine.wallet.state, request, answer))
    assert mine.answer(again) is None
    assert mine.bank.held == 10


def test_a_question_that_asks_for_no_slack_is_not_overtaken() -> None:
    mine = desk(10_000, slack=True)
    mine.recall()
    request = asked(mine.ask(10))
    assert mine.recall() is None
    assert mine.answer(request) is None
    assert len(mine.bank.wants) == 1


def test_what_was_overspent_is_no_loan_when_slack_is_recalled() -> None:
    mine = desk(100, slack=True)
    first, second = mine.reserve(50), mine.reserve(50)
    mine.settle(first, 80)
    request = asked(mine.ask(10))
    mine.bank.take(asked(mine.recall()))
    assert isinstance(mine.end_of(mine.answer(request)), Exceeded)
    mine.wallet.settle(second, 0)
    assert isinstance(mine.hold(50), Exceeded)
    assert mine.hold(20) == CapWarning("session", 100, 100, 80)


# However messages travel


class Travels(RuleBasedStateMachine):
    """One session at a budget, beside a rival: messages and answers are lost, late and repeated.

    Whoever wants money waits in a queue, as in the shell; each activation has its own lease.
    """

    def __init__(self) -> None:
        super().__init__()
        self.wallet = Wallet()
        self.over = 0  # spent beyond reservations
        self.now = 0.0
        self.epoch = 0
        self.sent: list[LeaseRequest] = []
        self.answers: list[tuple[LeaseRequest, LeaseGranted | Exceeded]] = []
        self.reserved: list[tuple[str, int]] = []

    @initialize(cap=st.sampled_from([60, 10_000, 300]), slack=st.booleans())
    def open(self, cap: int, slack: bool) -> None:
        self.cap = cap
        self.slack = slack
        self.bank = Bank(None)
        self.bank.do(SetCap(WORKSPACE, Cap(cap), "ada"))
        self.bank.do(OpenFamily(RIVAL, Cap(None), NANO, 1))
        self.rival = 0
        self.activate()

    def activate(self) -> None:
        """What was not recorded is gone, and who waited."""
        self.epoch += 1
        self.lease = LeaseMachine(ME, self.epoch, self.slack)
        self.queue: list[int | None] = []  # amounts, and None for a report
        self.under_way: LeaseRequest | None = None
        self.held: list[int] = []

    # What the session does

    @rule(amount=st.integers(1, 20), calm=st.booleans())
    def want(self, amount: int, calm: bool) -> None:
        """Ask for an action; all messages are answered at once if it is ``calm``."""
        if self.lease.holds(self.books, amount):
            self.promise(amount)
        else:
            self.queue.append(amount)
            self.go_on()
        while calm and self.under_way:
            self.comes_back(False)

    @rule()
    def report(self) -> None:
        self.queue.append(None)
        self.go_on()

    @precondition(lambda self: self.held)
    @rule(data=st.data(), allowed=st.booleans())
    def decide(self, data: st.DataObject, allowed: bool) -> None:
        amount = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        self.lease.drop(amount)
        if allowed:
            self.reserved.append((self.wallet.reserve(amount), amount))
        else:
            self.report()

    @precondition(lambda self: self.reserved)
    @rule(data=st.data(), actual=st.integers(0, 30), overspends=st.booleans())
    def settle(self, data: st.DataObject, actual: int, overspends: bool) -> None:
        at = data.draw(st.integers(0, len(self.reserved) - 1))
        action, amount = self.reserved.pop(at)
        actual = actual if overspends else min(actual, amount)
        self.over += max(actual - amount, 0)
        self.wallet.settle(action, actual)
        if self.lease.is_exact(self.now):
            self.report()

    @rule(what=st.integers(0, 7), lent=st.integers(0, 50))
    def meanwhile(self, what: int, lent: int) -> None:
        """Time passes, a rival asks for the same money, or, seldom, the process dies."""
        if what == 7:
            self.activate()
        elif what > 4:
            self.now += TIGHT_S
        else:
            self.rival += 1
            self.bank.do(Lease([LeaseRequest(RIVAL, 1, self.rival, 0, lent)]))

    # What becomes of messages

    @rule()
    def recall(self) -> None:
        request = self.lease.recalled(self.books, self.now)
        if request:
            self.send(request)

    @precondition(lambda self: self.under_way)
    @rule(lost=st.sampled_from([False, False, True]))
    def comes_back(self, lost: bool) -> None:
        """The question under way is answered, or never will be."""
        request = cast(LeaseRequest, self.under_way)
        if not lost:
            self.take(request, self.bank.take(request))
            return
        self.lease.lost()
        self.under_way = None
        self.queue.pop(0)
        self.go_on()

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), answered=st.booleans())
    def travels(self, data: st.DataObject, answered: bool) -> None:
        """A message or an answer arrives, in any order, for the first time or once more."""
        if answered and self.answers:
            self.take(*data.draw(st.sampled_from(self.answers[-4:])))
        else:
            request = data.draw(st.sampled_from(self.sent[-4:]))
            self.answers.append((request, self.bank.take(request)))

    # As the shell does it

    @property
    def books(self) -> session.State:
        return self.wallet.state

    def go_on(self) -> None:
        """Have the first in the queue asked for, and those after it whom that covers."""
        while self.queue and self.under_way is None:
            amount = self.queue[0]
            if amount is None:
                step: Step = self.lease.report(self.books)
            else:
                waiting = sum(one for one in self.queue if one)
                step = self.lease.need(self.books, amount, waiting, self.now)
            self.came_out(step)

    def came_out(self, step: Step) -> None:
        if isinstance(step, LeaseRequest):
            self.under_way = step
            self.send(step)
            return
        self.under_way = None
        amount = self.queue.pop(0)
        if amount and not isinstance(step, Exceeded):
            self.promise(amount)

    def take(self, request: LeaseRequest, answer: LeaseGranted | Exceeded) -> None:
        before = copy.deepcopy(vars(self.lease))
        try:
            step = self.lease.answered(self.books, request, answer)
        except Fenced:  # a message that came over and over again
            self.under_way = None
            self.queue.pop(0)
        else:
            if request != self.under_way:
                assert (step, vars(self.lease)) == (None, before)
                return
            self.came_out(step)
        self.go_on()

    def send(self, request: LeaseRequest) -> None:
        assert request.spent == self.books.spent
        assert request.lent >= self.needed
        self.sent.append(request)

    def promise(self, amount: int) -> None:
        self.held.append(amount)
        assert self.needed <= self.account.lent

    @property
    def account(self) -> Account:
        return self.bank.state.accounts[ME]

    @property
    def needed(self) -> int:
        return self.books.spent + self.books.reserved + sum(self.held)

    @invariant()
    def no_more_is_promised_than_stays_lent_whatever_is_still_on_its_way(self) -> None:
        told = (self.account.epoch, self.account.number)
        late = [one.lent for one in self.sent if (one.epoch, one.number) > told]
        assert self.needed <= min([self.account.held, *late]) + self.over

    @invariant()
    def no_cap_is_passed_but_by_overspending(self) -> None:
        assert level_of(self.bank.state, WORKSPACE).held <= self.cap + self.over

    def teardown(self) -> None:
        """Everything comes to an end, and nothing is left behind."""
        if self.under_way:
            self.lease.lost()
        for amount in self.held:
            self.lease.drop(amount)
        for action, _ in self.reserved:
            self.wallet.settle(action, 0)
        self.under_way, self.held, self.queue = None, [], [None]
        self.go_on()
        while self.under_way:
            self.comes_back(False)
        assert self.account.held == self.account.spent == self.books.spent
        super().teardown()


TestTravels = Travels.TestCase
TestTravels.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)
