"""What a process knows of a brake: as of each commit, sealed, and good for a moment only."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from retinue.actors.domain.budget.commands import SetCap, SetHold
from retinue.actors.domain.budget.state import WORKSPACE, Brake, Cap, Hold
from retinue.actors.domain.errors import Tampered, WorkspaceHeld
from retinue.actors.domain.values.keyring import Keyring
from retinue.actors.durable import brakes
from retinue.actors.durable.brakes import Brakes, TimeLimit, held_error, open_brake, seal_brake
from retinue.actors.durable.journal import Key
from retinue.actors.durable.memory_journal import MemoryJournal
from retinue.actors.durable.runtime import Runtime
from retinue.actors.ports import Registry
from retinue.actors.stores.budget import BudgetActor
from tests.kit.waiting import until

RING = Keyring(bytes(range(32)))
HOLD = Hold("ada", "it spends", 5)
ON, OFF = Brake(1, HOLD), Brake(2, None, 9)


@pytest.fixture
def journal() -> MemoryJournal:
    return MemoryJournal()


@pytest.fixture
def known(journal: MemoryJournal, monkeypatch: pytest.MonkeyPatch) -> Brakes:
    monkeypatch.setattr(brakes, "_POLL_S", 0.001)
    return Brakes(journal, RING)


def sealed(brake: Brake, workspace_id: str = "scope") -> bytes:
    return seal_brake(RING, workspace_id, brake)


def now() -> float:
    return asyncio.get_running_loop().time()


def started(wait: Callable[[str], Awaitable[None]]) -> asyncio.Future[None]:
    return asyncio.ensure_future(wait("scope"))


def wired(journal: MemoryJournal) -> Runtime:
    registry: Registry = None  # type: ignore[assignment]
    return Runtime(journal, registry, RING, lambda: 5)


# The seal


@pytest.mark.parametrize("brake", [ON, OFF])
def test_what_was_sealed_is_opened(brake: Brake) -> None:
    assert open_brake(RING, "scope", sealed(brake)) == brake


def test_nothing_is_a_brake_that_was_never_pulled() -> None:
    assert open_brake(RING, "scope", b"") == Brake()


@pytest.mark.parametrize("at", range(0, 60, 3))
def test_a_bent_brake_is_refused_by_name(at: int) -> None:
    data = bytearray(sealed(ON))
    data[at % len(data)] ^= 1
    with pytest.raises(Tampered, match="brake of workspace scope"):
        open_brake(RING, "scope", bytes(data))


def test_the_brake_of_another_workspace_or_number_is_refused() -> None:
    later = (7).to_bytes(8, "big") + sealed(OFF)[8:]
    for forged in (sealed(OFF, "other"), later, b"\0" * 8, b"x"):
        with pytest.raises(Tampered):
            open_brake(RING, "scope", forged)


# What is known


async def test_the_latest_brake_is_known_whatever_comes_late(known: Brakes) -> None:
    for brake, hold in ((ON, HOLD), (OFF, None), (ON, None), (Brake(3, HOLD), HOLD), (OFF, HOLD)):
        known.learn({"scope": sealed(brake)}, now())
        assert known.hold("scope") == hold
    known.learn({"scope": b""}, now())
    assert known.hold("scope") == HOLD


async def test_a_bent_brake_holds_until_a_true_one_comes(known: Brakes) -> None:
    known.learn({"scope": sealed(OFF)}, now())
    known.learn({"scope": sealed(OFF, "other")}, now())
    hold = known.hold("scope")
    assert hold
    assert "brake of workspace scope" in hold.why
    assert isinstance(known.refusal("scope", "/w"), Tampered)
    known.learn({"scope": sealed(ON)}, now())  # one from before does not help
    assert known.hold("scope")
    known.learn({"scope": sealed(OFF)}, now())
    assert known.hold("scope") is None
    assert known.refusal("scope", "/w") is None


async def test_the_seal_is_opened_only_when_the_bytes_have_changed(
    known: Brakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[bytes] = []

    def look(keyring: Keyring, workspace_id: str, stored: bytes) -> Brake:
        opened.append(stored)
        return ON

    monkeypatch.setattr(brakes, "open_brake", look)
    for _ in range(5):
        known.learn({"scope": b"it"}, now())
    assert opened == [b"it"]


async def test_who_sleeps_asks_again_before_going_on(known: Brakes, journal: MemoryJournal) -> None:
    known.learn({"scope": b""}, now())
    assert known.is_clear("scope")
    known.learn({"late": b""}, now() - brakes.FRESH_S - 0.01)
    assert not known.is_clear("late")
    journal.brakes["late"] = sealed(ON, "late")
    waiting = asyncio.ensure_future(known.clear("late"))
    await until(lambda: known.hold("late") == HOLD)
    assert not waiting.done()
    waiting.cancel()


async def test_who_waits_goes_on_with_the_release(known: Brakes, journal: MemoryJournal) -> None:
    journal.brakes["scope"] = sealed(ON)
    await known.refresh("scope")
    waiting = [started(known.released) for _ in range(3)] + [started(known.clear)]
    await asyncio.wait(waiting, timeout=0.02)
    assert not any(one.done() for one in waiting)
    waiting.pop(0).cancel()
    journal.brakes["scope"] = sealed(OFF)
    await asyncio.gather(*waiting)


async def test_one_asks_for_all_who_wait_and_nobody_for_none(
    known: Brakes, journal: MemoryJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0

    async def brake(workspace_id: str) -> bytes:
        nonlocal asked
        asked += 1
        return journal.brakes[workspace_id]

    monkeypatch.setattr(brakes, "_POLL_S", 10.0)
    monkeypatch.setattr(journal, "brake", brake)
    known.learn({"scope": sealed(ON)}, now())
    journal.brakes["scope"] = sealed(ON)
    waiting = [started(known.released) for _ in range(50)]
    await until(lambda: asked > 0)
    assert asked == 1
    for one in waiting:
        one.cancel()
    await asyncio.wait(waiting)
    assert len(asyncio.all_tasks()) == 1


async def test_every_commit_of_the_scope_is_told_of_the_hold(journal: MemoryJournal) -> None:
    here, there = wired(journal), wired(journal)
    await BudgetActor(here, "scope").set_hold(SetHold("it spends", "ada"))
    assert here.brakes.hold("scope") == HOLD
    assert there.brakes.hold("scope") is None
    other = BudgetActor(there, "scope")
    assert await other.held() == HOLD
    assert there.brakes.hold("scope") == HOLD
    assert await other.set_hold(SetHold(None, "ben")) == HOLD
    assert there.brakes.hold("scope") is None
    assert here.brakes.hold("scope") == HOLD  # until it hears of anything
    assert await here.brakes.refresh("scope") is None


async def test_a_brake_that_was_removed_comes_back_with_what_the_budget_stores(
    journal: MemoryJournal,
) -> None:
    budget = BudgetActor(wired(journal), "scope")
    await budget.set_hold(SetHold("it spends", "ada"))
    journal.brakes.clear()
    await budget.set_cap(SetCap(WORKSPACE, Cap(7), "ada"))
    assert await wired(journal).brakes.refresh("scope")


async def test_a_hold_is_in_the_audit_log_with_who_and_why(journal: MemoryJournal) -> None:
    budget = BudgetActor(wired(journal), "scope")
    await budget.set_hold(SetHold("it spends", "ada"))
    await budget.set_hold(SetHold(None, "ben"))
    rows = b"".join(await journal.audit(Key("scope", "budget", "budget"), 0, 9))
    for word in (b"Held", b"ada", b"it spends", b"Released", b"ben"):
        assert word in rows


def test_the_refusal_says_who_why_since_when_and_the_way_out() -> None:
    error = held_error(Hold("ada", "it spends", 1_700_000_000_000_000), "/w")
    assert isinstance(error, WorkspaceHeld)
    for word in ("/w", "2023-11-14T22:13:20", "ada", "it spends", "retinue release --workspace /w"):
        assert word in error.message


# A run's time


async def test_time_on_hold_does_not_count(known: Brakes, journal: MemoryJournal) -> None:
    clock = [0]
    limit = TimeLimit(0.05, known, "scope", lambda: clock[0])
    journal.brakes["scope"] = sealed(Brake(2, None, 60_000_000))  # it was held, and nobody told us
    forever = asyncio.get_running_loop().create_future()
    waiting = asyncio.ensure_future(limit.wait(forever))
    await asyncio.wait([waiting], timeout=0.15)
    assert not waiting.done()
    forever.set_result(None)
    await waiting


async def test_while_it_is_on_hold_time_stands_still(known: Brakes, journal: MemoryJournal) -> None:
    limit = TimeLimit(0.01, known, "scope", lambda: 5)
    journal.brakes["scope"] = sealed(ON)
    waiting = asyncio.ensure_future(limit.wait(asyncio.get_running_loop().create_future()))
    await asyncio.wait([waiting], timeout=0.1)
    assert not waiting.done()
    known.learn({"scope": sealed(Brake(2, None, 0))}, now())
    await waiting


@pytest.mark.parametrize("limit_s", [0.0, 0.01])
async def test_time_is_up_where_nobody_holds(known: Brakes, limit_s: float) -> None:
    limit = TimeLimit(limit_s, known, "scope", lambda: 5)
    await limit.wait(asyncio.get_running_loop().create_future())
