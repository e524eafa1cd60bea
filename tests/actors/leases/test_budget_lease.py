"""How a lease's messages are sent and awaited: one at a time, once what they say is durable."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinue.actors.domain.budget import lease as leases
from retinue.actors.domain.budget.commands import CapWarning, Exceeded, LeaseGranted, LeaseRequest
from retinue.actors.domain.errors import Fenced, RolledBack, StoreUnavailable
from retinue.actors.domain.session.state import committed_money
from retinue.actors.leases.batcher import Batcher
from retinue.actors.leases.budget_lease import BudgetLease
from tests.kit.money import Bank, Wallet
from tests.kit.waiting import until


async def test_a_no_gives_back_what_was_held_for_it() -> None:
    bank, wallet = Bank(100), Wallet()
    mine = BudgetLease(wallet, bank.lend)
    await mine.hold(60)
    await mine.give_back(60)
    assert bank.held == 0


async def test_a_message_that_failed_leaves_nothing_held() -> None:
    bank, wallet = Bank(100), Wallet()
    bank.loses_answers = True
    mine = BudgetLease(wallet, bank.lend)
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

    mine = BudgetLease(wallet, lend)
    holding = asyncio.create_task(mine.hold(60))
    await arrived.wait()
    holding.cancel()
    await asyncio.wait([holding])
    assert await mine.hold(50) is None
    assert bank.held == 50


async def test_holds_that_come_while_a_message_is_under_way_share_the_next() -> None:
    bank, wallet = Bank(100), Wallet()
    mine = BudgetLease(wallet, Batcher(bank.lend_many))
    assert await asyncio.gather(*(mine.hold(2) for _ in range(30))) == [None] * 30
    assert [want.lent for want in bank.wants] == [2, 60]


async def test_all_that_one_message_covers_are_warned_with_it() -> None:
    bank, wallet = Bank(100), Wallet()
    mine = BudgetLease(wallet, Batcher(bank.lend_many))
    warning = CapWarning("session", 90, 100, 80)
    answers = await asyncio.gather(*(mine.hold(30) for _ in range(3)))
    assert answers == [None, warning, warning]


async def test_a_message_without_an_answer_leaves_the_loan_unknown() -> None:
    bank, wallet = Bank(100), Wallet()
    mine = BudgetLease(wallet, bank.lend)
    await mine.hold(60)
    mine.drop(60)
    bank.loses_answers = True
    with pytest.raises(StoreUnavailable):
        await mine.report()
    bank.loses_answers = False
    assert bank.held == 0
    await mine.hold(50)
    assert bank.held == 50


async def test_of_two_holds_at_once_the_one_that_fits_is_granted() -> None:
    bank, wallet = Bank(15), Wallet()
    batcher = Batcher(bank.lend_many)
    mine = BudgetLease(wallet, batcher)
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
    mine = BudgetLease(wallet, batcher)
    answers = await asyncio.gather(*map(mine.hold, amounts))
    assert {amount: type(answer) for amount, answer in zip(amounts, answers, strict=True)} == {
        10: type(None),
        99: Exceeded,
    }
    assert bank.held == 10


# Slack


def lavish(bank: Bank, wallet: Wallet) -> BudgetLease:
    """A lease that asks for more than it needs."""
    return BudgetLease(wallet, bank.lend, slack=True)


async def test_without_slack_it_is_told_at_once() -> None:
    bank, wallet = Bank(10_000), Wallet()
    mine = BudgetLease(wallet, bank.lend)
    await mine.hold(10)
    action = wallet.reserve(10)
    mine.drop(10)
    wallet.settle(action, 4)
    await mine.settled()
    assert (bank.spent, bank.held) == (4, 4)


async def test_a_call_back_overtakes_the_message_that_is_under_way() -> None:
    bank, wallet = Bank(10_000), Wallet()
    answered = asyncio.Event()

    async def lend(want: LeaseRequest) -> LeaseGranted | Exceeded:
        answer = await bank.lend(want)
        await answered.wait()
        return answer

    mine = BudgetLease(wallet, lend, slack=True)
    holding = asyncio.create_task(mine.hold(10))
    await until(lambda: bank.held == 90)
    want = await mine.call_back()
    assert want is not None
    await bank.lend(want)
    assert bank.held == 0
    answered.set()
    assert await holding is None
    assert bank.held == 10


async def test_what_is_overspent_while_a_message_is_under_way_is_no_room_for_it() -> None:
    bank, wallet = Bank(40), Wallet()
    answered = asyncio.Event()

    async def lend(want: LeaseRequest) -> LeaseGranted | Exceeded:
        answer = await bank.lend(want)
        await answered.wait()
        return answer

    mine = BudgetLease(wallet, lend, slack=True)
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
    mine = BudgetLease(wallet, lend, slack=True)
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
    durable = asyncio.Event()

    class Slow(Wallet):
        async def committed(self) -> None:
            await durable.wait()

    bank, wallet = Bank(100), Slow()
    wallet.state.spent = 40
    reporting = asyncio.create_task(BudgetLease(wallet, bank.lend).report())
    await settle_down()
    assert bank.wants == []
    durable.set()
    await reporting
    assert bank.spent == 40


async def test_nothing_is_told_by_an_activation_that_is_over() -> None:
    class Ending(Wallet):
        over = False

        async def committed(self) -> None:
            if self.over:
                raise Fenced("taken over")

    bank, wallet = Bank(10_000), Ending()
    mine = lavish(bank, wallet)
    await mine.hold(10)
    wallet.over = True
    assert await mine.call_back() is None
    with pytest.raises(Fenced):
        await mine.report()
    assert len(bank.wants) == 1


async def test_a_session_of_which_the_budget_knows_more_than_its_journal_stops() -> None:
    async def lend(want: LeaseRequest) -> LeaseGranted | Exceeded:
        return LeaseGranted(0, behind=True)

    wallet = Wallet()
    with pytest.raises(RolledBack, match="session/me: the budget of its workspace has heard"):
        await BudgetLease(wallet, lend).hold(10)
    assert isinstance(wallet.failed, RolledBack)


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
    mine = BudgetLease(wallet, post.lend, slack)
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
        patch.setattr(leases, "TIGHT_S", tight_s)
        asyncio.run(scenario())
    assert bank.most_held <= (100 * cap if slack else cap)
    assert bank.held == bank.spent == wallet.state.spent


@given(st.integers(0, 60), st.lists(st.integers(1, 30), max_size=8), st.data())
def test_a_hold_is_refused_only_if_it_does_not_fit_beside_those_that_were_granted(
    cap: int, amounts: list[int], data: st.DataObject
) -> None:
    bank, wallet = Bank(cap), Wallet()
    post = Post(bank, lambda count: data.draw(st.integers(0, count - 1)))
    mine = BudgetLease(wallet, post.lend)
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
