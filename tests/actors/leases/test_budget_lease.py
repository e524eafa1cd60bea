"""A session's money in hand, in front of a real budget: never more than was lent, and no
refusal of what there is room for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinue.actors.domain import budget
from retinue.actors.domain.budget import (
    Cap,
    CapWarning,
    Exceeded,
    Lease,
    LeaseGranted,
    LeaseRequest,
    OpenFamily,
)
from retinue.actors.domain.errors import Fenced, StoreUnavailable
from retinue.actors.domain.session import machine as session
from retinue.actors.domain.session.machine import Reservation, committed_money
from retinue.actors.domain.values.money import NANO
from retinue.actors.leases import budget_lease as budget_leases
from retinue.actors.leases.batcher import Batcher
from retinue.actors.leases.budget_lease import MOST_SLACK, BudgetLease
from tests.kit.waiting import until

ME = "me"


class Bank:
    """A budget, and how its messages travel: `post` is awaited with each before it arrives."""

    def __init__(self, max: int | None) -> None:
        self.state = budget.initial()
        self.wants: list[LeaseRequest] = []
        self.most_held = 0
        self.loses_answers = False
        self.do(OpenFamily(ME, Cap(max), 10 * NANO, 100))

    def do(self, command: budget.Command) -> budget.Reply:
        events, reply = budget.decide(self.state, command, 0)
        for event in events:
            budget.evolve(self.state, event)
        self.most_held = max(self.most_held, self.held)
        return reply

    async def lend(self, want: LeaseRequest) -> LeaseGranted | Exceeded:
        self.wants.append(want)
        answer = self.take([want])[0]
        if self.loses_answers:
            raise StoreUnavailable("the answer was lost")
        return answer

    async def lend_many(self, wants: list[LeaseRequest]) -> list[LeaseGranted | Exceeded]:
        self.wants += wants
        return self.take(wants)

    def take(self, wants: list[LeaseRequest]) -> list[LeaseGranted | Exceeded]:
        return cast("list[LeaseGranted | Exceeded]", self.do(Lease(wants)))

    @property
    def held(self) -> int:
        return budget.level(self.state, ME).held

    @property
    def spent(self) -> int:
        return budget.level(self.state, ME).spent


class Wallet:
    """A session as the lease sees it: what it has spent and reserved."""

    def __init__(self) -> None:
        self.state = session.initial()
        self.count = 0

    def reserve(self, amount: int) -> str:
        self.count += 1
        self.state.reservations[f"{self.count}"] = Reservation("run", amount)
        self.state.reserved += amount
        return f"{self.count}"

    def settle(self, id: str, actual: int) -> None:
        self.state.reserved -= self.state.reservations.pop(id).amount
        self.state.spent += actual


def budget_lease(bank: Bank, wallet: Wallet, epoch: int = 1) -> BudgetLease:
    return BudgetLease(ME, epoch, lambda: wallet.state, bank.lend)


async def test_what_is_held_is_lent_by_the_budget() -> None:
    bank, wallet = Bank(100), Wallet()
    mine = budget_lease(bank, wallet)
    assert await mine.hold(30) is None
    assert await mine.hold(20) is None
    assert bank.held == 50


async def test_a_refusal_names_the_level_and_holds_nothing() -> None:
    bank, wallet = Bank(100), Wallet()
    mine = budget_lease(bank, wallet)
    await mine.hold(70)
    assert await mine.hold(31) == Exceeded("session", 31, 30)
    assert bank.held == 70
    assert await mine.hold(30) == CapWarning("session", 100, 100, 80)


async def test_a_hold_that_became_a_reservation_is_counted_once() -> None:
    bank, wallet = Bank(100), Wallet()
    mine = budget_lease(bank, wallet)
    await mine.hold(60)
    wallet.reserve(60)
    mine.drop(60)
    await mine.report()
    assert bank.held == 60
    assert isinstance(await mine.hold(41), Exceeded)


async def test_what_was_not_spent_goes_back_with_the_next_report() -> None:
    bank, wallet = Bank(100), Wallet()
    mine = budget_lease(bank, wallet)
    await mine.hold(60)
    action = wallet.reserve(60)
    mine.drop(60)
    wallet.settle(action, 25)
    await mine.report()
    assert (bank.spent, bank.held) == (25, 25)


async def test_what_was_overspent_is_reported_past_the_cap() -> None:
    bank, wallet = Bank(100), Wallet()
    mine = budget_lease(bank, wallet)
    await mine.hold(100)
    action = wallet.reserve(100)
    mine.drop(100)
    wallet.settle(action, 130)
    await mine.report()
    assert (bank.spent, bank.held) == (130, 130)


async def test_a_no_gives_back_what_was_held_for_it() -> None:
    bank, wallet = Bank(100), Wallet()
    mine = budget_lease(bank, wallet)
    await mine.hold(60)
    await mine.give_back(60)
    assert bank.held == 0


async def test_a_session_that_has_spent_nothing_reports_nothing() -> None:
    bank = Bank(100)
    await budget_lease(bank, Wallet()).report()
    assert bank.wants == []


async def test_what_was_reported_is_not_reported_again() -> None:
    bank, wallet = Bank(100), Wallet()
    mine = budget_lease(bank, wallet)
    await mine.hold(60)
    action = wallet.reserve(60)
    mine.drop(60)
    wallet.settle(action, 25)
    await mine.report()
    told = len(bank.wants)
    await mine.report()
    assert len(bank.wants) == told
    await mine.hold(10)
    await mine.give_back(10)
    assert (bank.spent, bank.held) == (25, 25)


async def test_a_session_that_comes_back_reports_what_it_had_spent() -> None:
    bank, wallet = Bank(100), Wallet()
    wallet.state.spent = 40
    await budget_lease(bank, wallet, epoch=2).report()
    assert (bank.spent, bank.held) == (40, 40)


async def test_what_the_activation_before_held_is_free_again() -> None:
    bank, wallet = Bank(100), Wallet()
    await budget_lease(bank, wallet, epoch=1).hold(90)
    assert await budget_lease(bank, wallet, epoch=2).hold(50) is None
    assert bank.held == 50


async def test_an_activation_that_was_overtaken_stops() -> None:
    bank, wallet = Bank(100), Wallet()
    old = budget_lease(bank, wallet, epoch=1)
    await budget_lease(bank, Wallet(), epoch=2).hold(10)
    with pytest.raises(Fenced, match="session me: a newer activation"):
        await old.hold(50)
    assert bank.held == 10


async def test_a_message_that_arrived_twice_does_not_pass_for_a_yes() -> None:
    bank, wallet = Bank(10), Wallet()

    async def twice(want: LeaseRequest) -> LeaseGranted | Exceeded:
        await bank.lend(want)
        return await bank.lend(want)

    mine = BudgetLease(ME, 1, lambda: wallet.state, twice)
    with pytest.raises(Fenced):
        await mine.hold(11)
    assert await mine.hold(7) is None
    assert bank.held == 7


async def test_a_message_that_failed_leaves_nothing_held() -> None:
    bank, wallet = Bank(100), Wallet()
    bank.loses_answers = True
    mine = budget_lease(bank, wallet)
    with pytest.raises(StoreUnavailable):
        await mine.hold(60)
    assert bank.held == 60
    bank.loses_answers = False
    assert await mine.hold(50) is None
    assert bank.held == 50


async def test_a_hold_that_was_cancelled_leaves_nothing_held() -> None:
    bank, wallet = Bank(100), Wallet()
    arrived, never = asyncio.Event(), asyncio.Event()

    async def lend(want: LeaseRequest) -> LeaseGranted | Exceeded:
        if not arrived.is_set():
            arrived.set()
            await never.wait()
        return await bank.lend(want)

    mine = BudgetLease(ME, 1, lambda: wallet.state, lend)
    holding = asyncio.create_task(mine.hold(60))
    await arrived.wait()
    holding.cancel()
    await asyncio.wait([holding])
    assert await mine.hold(50) is None
    assert bank.held == 50


async def test_holds_that_come_while_a_message_is_under_way_share_the_next() -> None:
    bank, wallet = Bank(100), Wallet()
    mine = BudgetLease(ME, 1, lambda: wallet.state, Batcher(bank.lend_many))
    assert await asyncio.gather(*(mine.hold(2) for _ in range(30))) == [None] * 30
    assert [want.lent for want in bank.wants] == [2, 60]


async def test_all_that_one_message_covers_are_warned_with_it() -> None:
    bank, wallet = Bank(100), Wallet()
    mine = BudgetLease(ME, 1, lambda: wallet.state, Batcher(bank.lend_many))
    warning = CapWarning("session", 90, 100, 80)
    answers = await asyncio.gather(*(mine.hold(30) for _ in range(3)))
    assert answers == [None, warning, warning]


async def test_a_message_without_an_answer_leaves_the_loan_unknown() -> None:
    bank, wallet = Bank(100), Wallet()
    mine = budget_lease(bank, wallet)
    await mine.hold(60)
    mine.drop(60)
    bank.loses_answers = True
    with pytest.raises(StoreUnavailable):
        await mine.report()
    bank.loses_answers = False
    assert bank.held == 0
    await mine.hold(50)
    assert bank.held == 50


async def test_what_was_lent_by_an_answer_that_was_lost_goes_back() -> None:
    bank, wallet = Bank(100), Wallet()
    mine = budget_lease(bank, wallet)
    await mine.report()
    await mine.hold(10)
    await mine.give_back(10)
    bank.loses_answers = True
    with pytest.raises(StoreUnavailable):
        await mine.hold(60)
    bank.loses_answers = False
    assert bank.held == 60
    await mine.report()
    assert bank.held == 0


async def test_of_two_holds_at_once_the_one_that_fits_is_granted() -> None:
    bank, wallet = Bank(15), Wallet()
    batcher = Batcher(bank.lend_many)
    mine = BudgetLease(ME, 1, lambda: wallet.state, batcher)
    first, second = await asyncio.gather(mine.hold(10), mine.hold(10))
    assert first is None
    assert isinstance(second, Exceeded)
    assert bank.held == 10


@pytest.mark.parametrize("amounts", [(99, 10), (10, 99)])
async def test_a_small_hold_is_granted_beside_one_that_is_far_too_large(
    amounts: tuple[int, int],
) -> None:
    bank, wallet = Bank(15), Wallet()
    batcher = Batcher(bank.lend_many)
    mine = BudgetLease(ME, 1, lambda: wallet.state, batcher)
    answers = await asyncio.gather(*map(mine.hold, amounts))
    assert {amount: type(answer) for amount, answer in zip(amounts, answers, strict=True)} == {
        10: type(None),
        99: Exceeded,
    }
    assert bank.held == 10


# Slack


def lavish(bank: Bank, wallet: Wallet) -> BudgetLease:
    """A lease that asks for more than it needs."""
    return BudgetLease(ME, 1, lambda: wallet.state, bank.lend, slack=True)


async def test_slack_is_asked_for_with_what_is_needed_and_doubled_each_time() -> None:
    bank, wallet = Bank(0), Wallet()
    mine = lavish(bank, wallet)
    for _ in range(8):
        await mine.hold(3)
    assert [want.slack for want in bank.wants] == [
        3 * slack for slack in (8, 16, 32, 64, 128, 256, MOST_SLACK, MOST_SLACK)
    ]


async def test_what_fits_into_the_slack_needs_no_message() -> None:
    bank, wallet = Bank(10_000), Wallet()
    mine = lavish(bank, wallet)
    await mine.hold(10)
    assert bank.held == 90
    for _ in range(8):
        assert await mine.hold(10) is None
    assert len(bank.wants) == 1
    await mine.hold(1)
    assert len(bank.wants) == 2


async def test_with_slack_the_budget_is_not_told_of_every_settlement() -> None:
    bank, wallet = Bank(10_000), Wallet()
    mine = lavish(bank, wallet)
    await mine.hold(10)
    action = wallet.reserve(10)
    mine.drop(10)
    wallet.settle(action, 4)
    await mine.settled()
    assert (len(bank.wants), bank.spent) == (1, 0)
    await mine.report()
    assert (bank.spent, bank.held) == (4, 4)


async def test_without_slack_it_is_told_at_once() -> None:
    bank, wallet = Bank(10_000), Wallet()
    mine = budget_lease(bank, wallet)
    await mine.hold(10)
    action = wallet.reserve(10)
    mine.drop(10)
    wallet.settle(action, 4)
    await mine.settled()
    assert (bank.spent, bank.held) == (4, 4)


async def test_slack_that_is_called_back_goes_back_and_is_not_used_any_more() -> None:
    bank, wallet = Bank(10_000), Wallet()
    mine = lavish(bank, wallet)
    await mine.hold(10)
    want = await mine.call_back()
    assert want is not None
    await bank.lend(want)
    assert bank.held == 10
    await mine.hold(20)
    assert bank.held == 30
    assert bank.wants[-1].slack == 0


async def test_after_a_call_the_budget_is_told_of_every_settlement_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bank, wallet = Bank(10_000), Wallet()
    mine = lavish(bank, wallet)
    await mine.hold(10)
    await mine.call_back()
    mine.drop(10)
    await mine.settled()
    assert bank.held == 0
    monkeypatch.setattr(budget_leases, "TIGHT_S", 0.0)
    await mine.call_back()
    await mine.hold(1)
    assert bank.wants[-1].slack > 0


async def test_who_has_no_slack_has_nothing_to_return() -> None:
    bank, wallet = Bank(10_000), Wallet()
    assert await lavish(bank, wallet).call_back() is None
    mine = budget_lease(bank, wallet)
    await mine.hold(10)
    assert await mine.call_back() is None
    assert bank.held == 10


async def test_a_call_back_overtakes_the_message_that_is_under_way() -> None:
    bank, wallet = Bank(10_000), Wallet()
    answered = asyncio.Event()

    async def lend(want: LeaseRequest) -> LeaseGranted | Exceeded:
        answer = await bank.lend(want)
        await answered.wait()
        return answer

    mine = BudgetLease(ME, 1, lambda: wallet.state, lend, slack=True)
    holding = asyncio.create_task(mine.hold(10))
    await until(lambda: bank.held == 90)
    want = await mine.call_back()
    assert want is not None
    await bank.lend(want)
    assert bank.held == 0
    answered.set()
    assert await holding is None
    assert bank.held == 10


async def test_a_message_that_asks_for_no_slack_is_not_overtaken() -> None:
    bank, wallet = Bank(10_000), Wallet()
    answered = asyncio.Event()

    async def lend(want: LeaseRequest) -> LeaseGranted | Exceeded:
        answer = await bank.lend(want)
        await answered.wait()
        return answer

    mine = BudgetLease(ME, 1, lambda: wallet.state, lend, slack=True)
    await mine.call_back()
    holding = asyncio.create_task(mine.hold(10))
    await until(lambda: bank.held == 10)
    assert await mine.call_back() is None
    answered.set()
    assert await holding is None
    assert len(bank.wants) == 1


async def test_what_is_overspent_while_a_message_is_under_way_is_no_room_for_it() -> None:
    bank, wallet = Bank(40), Wallet()
    answered = asyncio.Event()

    async def lend(want: LeaseRequest) -> LeaseGranted | Exceeded:
        answer = await bank.lend(want)
        await answered.wait()
        return answer

    mine = BudgetLease(ME, 1, lambda: wallet.state, lend, slack=True)
    answered.set()
    await mine.hold(34)
    action = wallet.reserve(34)
    mine.drop(34)
    answered.clear()
    holding = asyncio.create_task(mine.hold(6 + 40))  # refused
    await settle_down()
    small = asyncio.create_task(mine.hold(6))
    await settle_down()
    wallet.settle(action, 41)
    answered.set()
    assert isinstance(await holding, Exceeded)
    assert isinstance(await small, Exceeded)
    assert bank.held == 41


async def test_nor_when_it_has_to_be_sent_again() -> None:
    bank, wallet = Bank(40), Wallet()
    arrived, answered = asyncio.Event(), asyncio.Event()

    async def lend(want: LeaseRequest) -> LeaseGranted | Exceeded:
        arrived.set()
        await answered.wait()
        return await bank.lend(want)

    answered.set()
    mine = BudgetLease(ME, 1, lambda: wallet.state, lend, slack=True)
    await mine.hold(30)
    action = wallet.reserve(30)
    mine.drop(30)
    await mine.report()
    answered.clear()
    arrived.clear()
    holding = asyncio.create_task(mine.hold(10))
    await arrived.wait()
    want = await mine.call_back()
    assert want is not None
    await bank.lend(want)
    wallet.settle(action, 45)
    answered.set()
    assert isinstance(await holding, Exceeded)
    assert bank.held == 45


# Only what is durable is told


async def test_a_message_waits_until_what_it_rests_on_is_durable() -> None:
    bank, wallet = Bank(100), Wallet()
    durable = asyncio.Event()

    async def committed() -> None:
        await durable.wait()

    mine = BudgetLease(ME, 1, lambda: wallet.state, bank.lend, committed=committed)
    wallet.state.spent = 40
    reporting = asyncio.create_task(mine.report())
    await settle_down()
    assert bank.wants == []
    durable.set()
    await reporting
    assert bank.spent == 40


async def test_nothing_is_told_by_an_activation_that_is_over() -> None:
    bank, wallet = Bank(10_000), Wallet()
    over = False

    async def committed() -> None:
        if over:
            raise Fenced("taken over")

    mine = BudgetLease(ME, 1, lambda: wallet.state, bank.lend, True, committed)
    await mine.hold(10)
    over = True
    assert await mine.call_back() is None
    with pytest.raises(Fenced):
        await mine.report()
    assert len(bank.wants) == 1


async def settle_down() -> None:
    """Let everything run that can."""
    for _ in range(10):
        await asyncio.sleep(0)


# However messages travel


class Post:
    """Delivers messages, and their answers, in an order that the test draws."""

    def __init__(self, bank: Bank, pick: Callable[[int], int]) -> None:
        self._bank = bank
        self._pick = pick
        self._letters: list[asyncio.Future[None]] = []

    async def lend(self, want: LeaseRequest) -> LeaseGranted | Exceeded:
        await self.pause()
        answer = await self._bank.lend(want)
        await self.pause()
        return answer

    async def deliver(self, tasks: list[asyncio.Task[None]]) -> None:
        """Bring letters one at a time until the tasks are done."""
        while not all(task.done() for task in tasks):
            if self._letters:
                self._letters.pop(self._pick(len(self._letters))).set_result(None)
            await asyncio.sleep(0)

    async def pause(self) -> None:
        """Wait to be the one that is picked."""
        letter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._letters.append(letter)
        await letter


@given(
    st.integers(0, 60),
    st.lists(st.tuples(st.integers(1, 20), st.integers(0, 20), st.booleans()), max_size=6),
    st.booleans(),
    st.integers(0, 3),
    st.sampled_from([0.0, 60.0]),
    st.data(),
)
def test_however_messages_travel_no_more_is_promised_than_was_lent(
    cap: int,
    actions: list[tuple[int, int, bool]],
    slack: bool,
    calls: int,
    tight_s: float,
    data: st.DataObject,
) -> None:
    bank, wallet = Bank(100 * cap if slack else cap), Wallet()
    post = Post(bank, lambda count: data.draw(st.integers(0, count - 1)))
    mine = BudgetLease(ME, 1, lambda: wallet.state, post.lend, slack)
    promised = 0

    async def call_back() -> None:
        await post.pause()
        if want := await mine.call_back():
            await post.lend(want)

    async def act(amount: int, actual: int, allowed: bool) -> None:
        nonlocal promised
        if isinstance(await mine.hold(amount), Exceeded):
            return
        promised += amount
        assert promised + committed_money(wallet.state) <= bank.held
        await asyncio.sleep(0)
        promised -= amount
        if not allowed:
            await mine.give_back(amount)
            return
        action = wallet.reserve(amount)
        mine.drop(amount)
        await asyncio.sleep(0)
        wallet.settle(action, min(actual, amount))
        await mine.settled()

    async def scenario() -> None:
        tasks = [asyncio.create_task(act(*action)) for action in actions]
        tasks += [asyncio.create_task(call_back()) for _ in range(calls)]
        await post.deliver(tasks)
        await asyncio.gather(*tasks)
        last = asyncio.create_task(mine.report())
        await post.deliver([last])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(budget_leases, "TIGHT_S", tight_s)
        asyncio.run(scenario())
    assert bank.most_held <= (100 * cap if slack else cap)
    assert bank.held == bank.spent == wallet.state.spent


@given(st.integers(0, 60), st.lists(st.integers(1, 30), max_size=8), st.data())
def test_a_hold_is_refused_only_if_it_does_not_fit_beside_those_that_were_granted(
    cap: int, amounts: list[int], data: st.DataObject
) -> None:
    bank, wallet = Bank(cap), Wallet()
    post = Post(bank, lambda count: data.draw(st.integers(0, count - 1)))
    mine = BudgetLease(ME, 1, lambda: wallet.state, post.lend)
    granted: list[int] = []
    refused: list[int] = []

    async def hold(amount: int) -> None:
        answer = await mine.hold(amount)
        (refused if isinstance(answer, Exceeded) else granted).append(amount)

    async def scenario() -> None:
        tasks = [asyncio.create_task(hold(amount)) for amount in amounts]
        await post.deliver(tasks)
        await asyncio.gather(*tasks)

    asyncio.run(scenario())
    assert sum(granted) <= cap
    assert all(sum(granted) + amount > cap for amount in refused)
