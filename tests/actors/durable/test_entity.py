"""The entity shell: no reply before its commit, and after any failure exactly what is durable."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeAlias

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct, field

from retinue.actors.domain.errors import (
    CorruptState,
    Fenced,
    InvalidValue,
    RetinueError,
    RolledBack,
    StoreUnavailable,
    Tampered,
)
from retinue.actors.domain.values.keyring import Keyring
from retinue.actors.durable import committer as commits
from retinue.actors.durable import entity as shell
from retinue.actors.durable.codec import Machine
from retinue.actors.durable.committer import Committer
from retinue.actors.durable.entity import Entity, read
from retinue.actors.durable.journal import Append, Key, Loaded, Outcome, Outcomes, Summary
from retinue.actors.durable.memory_journal import MemoryJournal

A, B = Key("scope", "ledger", "a"), Key("scope", "ledger", "b")
RING = Keyring(bytes(32))


# A small machine: a ledger that adds up, and a list of names


class State(Struct):
    total: int = 0
    names: list[str] = field(default_factory=list)


class Add(Struct, frozen=True):
    amount: int


class Call(Struct, frozen=True):
    names: list[str]


class CallMore(Struct, frozen=True):
    name: str


class Look(Struct, frozen=True):
    pass


class Added(Struct, frozen=True, tag=True):
    amount: int


class Called(Struct, frozen=True, tag=True):
    names: list[str]


class CalledMore(Struct, frozen=True, tag=True):
    name: str


Command: TypeAlias = Add | Call | CallMore | Look
Event: TypeAlias = Added | Called | CalledMore


def decide(state: State, command: Command, now: int) -> tuple[list[Event], int]:
    match command:
        case Add(amount):
            if amount == 0:
                raise InvalidValue("amount: 0 is nothing", field="amount")
            return [Added(amount)], state.total + amount
        case Call(names):
            return [Called(names)], len(names)
        case CallMore(name):
            return [CalledMore(name)], len(state.names) + 1
        case Look():
            return [], state.total


def evolve(state: State, event: Event) -> State:
    match event:
        case Added(amount):
            state.total += amount
        case Called(names):
            state.names = names
        case CalledMore(name):
            state.names.append(name)
    return state


def validate(state: State) -> None:
    if state.total < 0:
        raise CorruptState("ledger: below zero")


Ledger: TypeAlias = Entity[State, Command, Event, int]


def machine(version: int = 1) -> Machine[State, Command, Event, int]:
    return Machine("ledger", version, State, Event, State, decide, evolve, validate)


# A journal that can be held up, and that can fail


class Faulty(MemoryJournal):
    """Notes the batches; `append` waits for `gate`, and fails as `faults` says, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[list[Append]] = []
        self.snapshots = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.faults: list[str | Exception] = []

    async def append(self, batch: Sequence[Append]) -> Outcomes:
        self.batches.append(list(batch))
        await self.gate.wait()
        fault = self.faults.pop(0) if self.faults else ""
        if isinstance(fault, Exception):
            raise fault
        if fault == "before":
            raise StoreUnavailable("Redis does not answer")
        outcomes = await super().append(batch)
        if fault == "after":
            raise StoreUnavailable("Redis does not answer any more")
        return outcomes

    async def snapshot(self, key: Key, epoch: int, seq: int, data: bytes) -> Outcome:
        self.snapshots += 1
        return await super().snapshot(key, epoch, seq, data)


class Process:
    """A process with its committer; many of them may share a journal."""

    def __init__(self, journal: MemoryJournal | None = None, ring: Keyring = RING) -> None:
        self.journal = Faulty() if journal is None else journal
        self.committer = Committer(self.journal)
        self.ring = ring

    @property
    def faulty(self) -> Faulty:
        assert isinstance(self.journal, Faulty)
        return self.journal

    async def activate(self, key: Key = A, version: int = 1) -> Ledger:
        return await Entity.activate(machine(version), key, self.committer, self.ring, lambda: 0)

    def create(self, key: Key = A, creator: str = "me") -> Ledger:
        return Entity(machine(), key, self.committer, self.ring, lambda: 0, creator)


async def settle_down() -> None:
    """Let everything run that can."""
    for _ in range(10):
        await asyncio.sleep(0)


# No reply before its commit


async def test_a_reply_waits_for_its_commit() -> None:
    process = Process()
    ledger = await process.activate()
    process.faulty.gate.clear()
    replying = asyncio.create_task(ledger.execute(Add(5)))
    await settle_down()
    assert not replying.done()
    assert (await process.journal.read(A)).rows == []
    process.faulty.gate.set()
    assert await replying == 5
    assert len((await process.journal.read(A)).rows) == 1


async def test_a_read_waits_for_the_flush_that_it_may_have_read_from() -> None:
    process = Process()
    ledger = await process.activate()
    process.faulty.gate.clear()
    ledger.do(Add(5))
    queued = asyncio.create_task(ledger.execute(Look()))
    await settle_down()
    under_way = asyncio.create_task(ledger.execute(Look()))
    await settle_down()
    assert not queued.done()
    assert not under_way.done()
    process.faulty.gate.set()
    assert (await queued, await under_way) == (5, 5)
    assert len(process.faulty.batches) == 1


async def test_a_read_of_what_is_durable_waits_for_nothing() -> None:
    process = Process()
    ledger = await process.activate()
    await ledger.execute(Add(5))
    process.faulty.gate.clear()
    assert await ledger.execute(Look()) == 5
    assert len(process.faulty.batches) == 1


async def test_a_command_during_a_flush_goes_with_the_next_one() -> None:
    process = Process()
    ledger = await process.activate()
    process.faulty.gate.clear()
    first = asyncio.create_task(ledger.execute(Add(1)))
    await settle_down()
    second = asyncio.create_task(ledger.execute(Add(2)))
    await settle_down()
    assert len(process.faulty.batches) == 1
    process.faulty.gate.set()
    assert (await first, await second) == (1, 3)
    assert [[one.after for one in batch] for batch in process.faulty.batches] == [[0], [1]]


async def test_one_that_stops_waiting_does_not_disturb_the_others() -> None:
    process = Process()
    ledger = await process.activate()
    process.faulty.gate.clear()
    gone = asyncio.create_task(ledger.execute(Add(1)))
    stays = asyncio.create_task(ledger.execute(Add(2)))
    await settle_down()
    gone.cancel()
    await settle_down()
    process.faulty.gate.set()
    assert await stays == 3
    assert gone.cancelled()
    assert (await process.activate()).state.total == 3


# One commit for many


async def test_many_entities_are_written_in_one_batch() -> None:
    process = Process()
    keys = [Key(f"s{at % 2}", "ledger", f"{at}") for at in range(50)]
    ledgers = await asyncio.gather(*map(process.activate, keys))
    assert await asyncio.gather(*(one.execute(Add(1)) for one in ledgers)) == [1] * 50
    assert [len(batch) for batch in process.faulty.batches] == [50]


async def test_many_commands_of_one_entity_are_one_row() -> None:
    process = Process()
    ledger = await process.activate()
    totals = await asyncio.gather(*(ledger.execute(Add(1)) for _ in range(50)))
    assert list(totals) == list(range(1, 51))
    assert [one.after for batch in process.faulty.batches for one in batch] == [0]


async def test_a_batch_has_a_limit() -> None:
    process = Process()
    count = 2 * commits._MOST_PER_FLUSH + 1
    ledgers = [process.create(Key("scope", "ledger", f"{at}")) for at in range(count)]
    await asyncio.gather(*(one.execute(Add(1)) for one in ledgers))
    assert [len(batch) for batch in process.faulty.batches] == [256, 256, 1]


async def test_draining_waits_for_all_that_is_queued() -> None:
    process = Process()
    ledger = await process.activate()
    ledger.do(Add(1))
    await process.committer.drain()
    await process.committer.drain()
    assert len((await process.journal.read(A)).rows) == 1


async def test_the_newest_summary_goes_along_with_every_row() -> None:
    process = Process()
    ledger = await process.activate()
    ledger.summarise(lambda: Summary("family", f"{ledger.state.total}".encode()))
    for amount in (1, 2):
        await ledger.execute(Add(amount))
    assert process.journal.summaries["scope", "family"]["a"].data == b"3"


# Refusals


async def test_a_refused_command_changes_nothing() -> None:
    process = Process()
    ledger = await process.activate()
    with pytest.raises(InvalidValue, match="0 is nothing"):
        await ledger.execute(Add(0))
    assert process.faulty.batches == []
    assert await ledger.execute(Add(1)) == 1


@pytest.mark.parametrize("command", [CallMore("\ud800"), Call(["fine", "\udcff"]), Add(1 << 70)])
async def test_what_cannot_be_stored_is_refused_before_it_changes_anything(
    command: Command,
) -> None:
    process = Process()
    ledger, other = await process.activate(A), await process.activate(B)
    other.do(Add(7))
    with pytest.raises(InvalidValue, match="ledger/a: what was asked can't be stored"):
        ledger.do(command)
    assert ledger.state == State()
    assert await ledger.execute(Add(1)) == 1
    await other.committed()
    assert (await process.activate(B)).state.total == 7


async def test_an_event_is_stored_as_it_was_when_it_happened() -> None:
    process = Process()
    ledger = await process.activate()
    ledger.do(Call(["ada"]))
    await ledger.execute(CallMore("bob"))
    assert (await process.activate()).state.names == ledger.state.names == ["ada", "bob"]


# Taken over


async def test_an_activation_that_was_taken_over_breaks() -> None:
    process = Process()
    old = await process.activate()
    await old.execute(Add(1))
    new = await process.activate()
    breaks: list[None] = []
    old.on_break = lambda: breaks.append(None)
    with pytest.raises(Fenced, match="ledger/a has been taken over"):
        await old.execute(Add(10))
    assert breaks == [None]
    assert await new.execute(Add(2)) == 3
    assert (await process.activate()).state.total == 3


async def test_what_is_broken_refuses_everything_and_writes_nothing_more() -> None:
    process = Process()
    old = await process.activate()
    await process.activate()
    for attempt in (Add(1), Add(2), Look()):
        with pytest.raises(Fenced):
            await old.execute(attempt)
    with pytest.raises(Fenced):
        await old.committed()
    with pytest.raises(Fenced):
        await old.compact()
    assert len(process.faulty.batches) == 1


async def test_one_that_was_taken_over_does_not_confirm_what_it_remembers() -> None:
    process = Process()
    old = await process.activate()
    await old.execute(Add(1))
    await old.confirmed()
    new = await process.activate()
    await new.execute(Add(2))
    await old.committed()  # it has written nothing since
    with pytest.raises(Fenced):
        await old.confirmed()
    assert (await process.activate()).state.total == 3


async def test_confirming_goes_with_the_commands_of_the_same_flush() -> None:
    process = Process()
    ledger = await process.activate()

    async def add() -> int:
        total = ledger.do(Add(1))
        await ledger.confirmed()
        return total

    assert list(await asyncio.gather(add(), add(), add())) == [1, 2, 3]
    assert [[one.row != b"" for one in batch] for batch in process.faulty.batches] == [[True]]
    await asyncio.gather(ledger.confirmed(), ledger.confirmed())
    assert [one.row for one in process.faulty.batches[1]] == [b""]
    assert await add() == 4
    assert (await process.activate()).state.total == 4


async def test_being_fenced_does_not_hinder_others_in_the_same_batch() -> None:
    process = Process()
    old, other = await process.activate(A), await process.activate(B)
    await process.activate(A)
    results = await asyncio.gather(
        old.execute(Add(1)), other.execute(Add(2)), return_exceptions=True
    )
    assert isinstance(results[0], Fenced)
    assert results[1] == 2
    assert len(process.faulty.batches) == 1


# Coming into being


async def test_an_entity_comes_into_being_with_its_first_row() -> None:
    process = Process()
    ledger = process.create()
    assert await ledger.execute(Add(1)) == 1
    assert await ledger.execute(Add(2)) == 3
    again = await process.activate()
    assert (again.epoch, again.state.total) == (2, 3)


async def test_of_two_creators_one_is_fenced() -> None:
    process = Process()
    results = await asyncio.gather(
        process.create(creator="one").execute(Add(1)),
        Process(process.journal).create(creator="two").execute(Add(2)),
        return_exceptions=True,
    )
    assert results[0] == 1
    assert isinstance(results[1], Fenced)
    assert (await process.activate()).state.total == 1


# The journal fails


@pytest.mark.parametrize(("fault", "total"), [("before", 1), ("after", 11)])
async def test_after_an_outage_the_entity_is_exactly_what_is_durable(
    fault: str, total: int
) -> None:
    process = Process()
    ledger = await process.activate()
    await ledger.execute(Add(1))
    process.faulty.faults = [fault]
    with pytest.raises(StoreUnavailable):
        await ledger.execute(Add(10))
    with pytest.raises(StoreUnavailable):
        ledger.do(Look())
    again = await process.activate()
    assert again.state.total == total
    assert await again.execute(Add(100)) == total + 100


async def test_an_outage_is_told_to_all_who_wait_and_to_those_behind_them() -> None:
    process = Process()
    ledger, other = await process.activate(A), await process.activate(B)
    process.faulty.faults = ["before"]
    process.faulty.gate.clear()
    waiting = [asyncio.create_task(one.execute(Add(1))) for one in (ledger, ledger, other)]
    await settle_down()
    behind = asyncio.create_task(ledger.execute(Add(10)))
    reader = asyncio.create_task(ledger.execute(Look()))
    await settle_down()
    process.faulty.gate.set()
    results = await asyncio.gather(*waiting, behind, reader, return_exceptions=True)
    assert [type(one) for one in results] == [StoreUnavailable] * 5
    await process.committer.drain()
    assert len(process.faulty.batches) == 1
    assert (await process.activate()).state.total == 0


async def test_others_go_on_after_an_outage() -> None:
    process = Process()
    ledger, other = await process.activate(A), await process.activate(B)
    process.faulty.faults = ["before"]
    process.faulty.gate.clear()
    failing = asyncio.create_task(ledger.execute(Add(1)))
    await settle_down()
    later = asyncio.create_task(other.execute(Add(2)))
    await settle_down()
    process.faulty.gate.set()
    assert await later == 2
    with pytest.raises(StoreUnavailable):
        await failing


async def test_a_fault_in_the_journal_itself_leaves_nobody_waiting() -> None:
    process = Process()
    ledger = await process.activate()
    process.faulty.faults = [RuntimeError("a bug")]
    with pytest.raises(StoreUnavailable, match="the journal failed: RuntimeError: a bug"):
        await ledger.execute(Add(1))
    assert await (await process.activate()).execute(Add(2)) == 2


async def test_so_does_a_fault_in_a_summary() -> None:
    process = Process()
    ledger = await process.activate()

    def broken() -> Summary:
        raise RuntimeError("a bug")

    ledger.summarise(broken)
    with pytest.raises(StoreUnavailable, match="a bug"):
        await ledger.execute(Add(1))


async def test_rows_that_redis_has_lost_break_the_entity_and_nobody_goes_on_from_the_rest() -> None:
    process = Process()
    ledger = await process.activate()
    await ledger.execute(Add(1))
    await ledger.execute(Add(2))
    stored = process.journal.entities[A]
    stored.rows.pop()
    stored.seq -= 1
    with pytest.raises(RolledBack, match="ledger/a: Redis has lost rows"):
        await ledger.execute(Add(4))
    await process.committer.drain()
    with pytest.raises(RolledBack, match="ledger/a: Redis has lost rows"):
        await process.activate()
    with pytest.raises(RolledBack, match="ledger/a: Redis has lost rows"):
        await process.activate(B)


async def test_an_epoch_that_redis_has_lost_is_not_taken_for_a_newer_activation() -> None:
    process = Process()
    await process.activate()
    ledger = await process.activate()
    process.journal.entities[A].epoch -= 1
    with pytest.raises(RolledBack, match="ledger/a: Redis has lost rows"):
        await ledger.execute(Add(4))


# Compaction


async def test_a_compacted_entity_is_the_same_when_it_comes_back() -> None:
    process = Process()
    ledger = await process.activate()
    for amount in (1, 2, 3):
        await ledger.execute(Add(amount))
    await ledger.compact()
    await ledger.execute(Call(["ada"]))
    loaded = await process.journal.read(A)
    assert (loaded.seq, len(loaded.rows)) == (4, 1)
    again = await process.activate()
    assert again.state == ledger.state
    assert (again.seq, await again.execute(Add(4))) == (4, 10)


async def test_compaction_waits_for_what_is_queued() -> None:
    process = Process()
    ledger = await process.activate()
    ledger.do(Add(1))
    await ledger.compact()
    loaded = await process.journal.read(A)
    assert (loaded.seq, len(loaded.rows), loaded.snapshot is None) == (1, 0, False)


async def test_rows_that_come_during_a_compaction_are_kept() -> None:
    process = Process()
    ledger = await process.activate()
    await ledger.execute(Add(1))
    await asyncio.gather(ledger.compact(), ledger.execute(Add(2)), ledger.execute(Add(3)))
    assert (await process.activate()).state.total == 6


async def test_there_is_nothing_to_compact_twice() -> None:
    process = Process()
    ledger = await process.activate()
    await ledger.compact()
    await ledger.execute(Add(1))
    await ledger.compact()
    await ledger.compact()
    assert process.faulty.snapshots == 1


async def test_a_compaction_that_was_overtaken_breaks_the_entity() -> None:
    process = Process()
    old = await process.activate()
    await old.execute(Add(1))
    await process.activate()
    await old.compact()
    with pytest.raises(Fenced):
        old.do(Look())
    assert (await process.journal.read(A)).snapshot is None


async def test_compaction_is_wanted_after_enough_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell, "_COMPACT_AFTER_ROWS", 3)
    process = Process()
    ledger = await process.activate()
    for amount in (1, 2):
        await ledger.execute(Add(amount))
    assert not ledger.wants_compaction
    ledger = await process.activate()
    await ledger.execute(Add(3))
    assert ledger.wants_compaction
    await ledger.compact()
    assert not ledger.wants_compaction


# Messages


async def test_messages_become_durable_with_the_events_they_came_with() -> None:
    process = Process()
    ledger = await process.activate()
    ledger.do(Add(1))
    ledger.add_message(0, b"zero")
    ledger.add_message(1, b"one")
    assert await ledger.messages(0, 9) == []
    await ledger.committed()
    assert await ledger.messages(0, 9) == [b"zero", b"one"]
    await ledger.compact()
    assert await (await process.activate()).messages(1, 2) == [b"one"]


# Not to be trusted


Tamper: TypeAlias = Callable[[MemoryJournal], None]


def swap_rows(journal: MemoryJournal) -> None:
    journal.entities[A].rows.reverse()


def change_row(journal: MemoryJournal) -> None:
    row = journal.entities[A].rows[1]
    journal.entities[A].rows[1] = row[:-1] + bytes([row[-1] ^ 1])


def cut_row(journal: MemoryJournal) -> None:
    journal.entities[A].rows[1] = b""


def take_row_of_another(journal: MemoryJournal) -> None:
    journal.entities[A].rows[1] = journal.entities[B].rows[1]


def repeat_row(journal: MemoryJournal) -> None:
    stored = journal.entities[A]
    stored.rows.append(stored.rows[0])
    stored.seq += 1


def change_snapshot(journal: MemoryJournal) -> None:
    stored = journal.entities[A]
    assert stored.snapshot
    stored.snapshot = stored.snapshot[:-1] + bytes([stored.snapshot[-1] ^ 1])


def cut_snapshot(journal: MemoryJournal) -> None:
    journal.entities[A].snapshot = b""


def take_snapshot_of_another(journal: MemoryJournal) -> None:
    journal.entities[A].snapshot = journal.entities[B].snapshot


def put_snapshot_elsewhere(journal: MemoryJournal) -> None:
    stored = journal.entities[A]
    assert stored.snapshot
    stored.snapshot = (9).to_bytes(8, "big") + stored.snapshot[8:]
    stored.seq = 9


def remove_first_row(journal: MemoryJournal) -> None:
    del journal.entities[A].rows[0]


def remove_last_row(journal: MemoryJournal) -> None:
    del journal.entities[A].rows[-1]


def remove_snapshot(journal: MemoryJournal) -> None:
    journal.entities[A].snapshot = None


async def written(compacted: bool) -> Process:
    process = Process(MemoryJournal())
    for key in (A, B):
        ledger = await process.activate(key)
        for amount in (1, 2):
            await ledger.execute(Add(amount))
        if compacted:
            await ledger.compact()
    return process


@pytest.mark.parametrize(
    ("tamper", "error", "says"),
    [
        (swap_rows, Tampered, "row 1 of ledger/a"),
        (change_row, Tampered, "row 2 of ledger/a"),
        (cut_row, Tampered, "row 2 of ledger/a"),
        (take_row_of_another, Tampered, "row 2 of ledger/a"),
        (repeat_row, Tampered, "row 3 of ledger/a"),
        (remove_first_row, CorruptState, "ledger/a: the journal has 1 rows after row 0"),
        (remove_last_row, CorruptState, "ledger/a: the journal has 1 rows after row 0"),
    ],
)
async def test_rows_that_were_tampered_with_are_refused_by_name(
    tamper: Tamper, error: type[RetinueError], says: str
) -> None:
    process = await written(compacted=False)
    tamper(process.journal)
    with pytest.raises(error, match=says):
        await process.activate()


@pytest.mark.parametrize(
    ("tamper", "error", "says"),
    [
        (change_snapshot, Tampered, "the snapshot of ledger/a"),
        (cut_snapshot, Tampered, "the snapshot of ledger/a"),
        (take_snapshot_of_another, Tampered, "the snapshot of ledger/a"),
        (put_snapshot_elsewhere, Tampered, "the snapshot of ledger/a"),
        (remove_snapshot, CorruptState, "ledger/a: the journal has 0 rows after row 0"),
    ],
)
async def test_a_snapshot_that_was_tampered_with_is_refused_by_name(
    tamper: Tamper, error: type[RetinueError], says: str
) -> None:
    process = await written(compacted=True)
    tamper(process.journal)
    with pytest.raises(error, match=says):
        await process.activate()


async def test_messages_that_were_tampered_with_are_refused_by_name() -> None:
    process = Process()
    ledger = await process.activate()
    ledger.do(Add(1))
    ledger.add_message(0, b"zero")
    ledger.add_message(1, b"one")
    await ledger.committed()
    process.journal.entities[A].messages.reverse()
    with pytest.raises(Tampered, match="message 0 of ledger/a"):
        await ledger.messages(0, 2)
    with pytest.raises(Tampered, match="message 1 of ledger/a"):
        await ledger.messages(1, 2)


async def test_what_another_cluster_wrote_is_refused() -> None:
    process = await written(compacted=False)
    with pytest.raises(Tampered, match="row 1 of ledger/a: is not marked by a key"):
        await Process(process.journal, Keyring(b"\1" * 32)).activate()


async def test_what_was_written_before_a_key_was_changed_is_still_read() -> None:
    process = await written(compacted=True)
    ring = Keyring(b"\1" * 32, bytes(32))
    assert (await Process(process.journal, ring).activate()).state.total == 3


@pytest.mark.parametrize("compacted", [False, True])
async def test_what_a_newer_version_wrote_asks_for_an_upgrade(compacted: bool) -> None:
    process = Process()
    ledger = await process.activate(version=2)
    await ledger.execute(Add(1))
    if compacted:
        await ledger.compact()
    with pytest.raises(CorruptState, match=r"of ledger/a was written by a newer version .*upgrade"):
        await process.activate(version=1)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xc1",
        msgspec.msgpack.encode([]),
        msgspec.msgpack.encode("text"),
        msgspec.msgpack.encode([1]),
        msgspec.msgpack.encode(["one", [], [0, b""]]),
        msgspec.msgpack.encode([1, [{"type": "Unknown"}], [0, b""]]),
        msgspec.msgpack.encode([1, [{"type": "Added", "amount": float("nan")}], [0, b""]]),
    ],
)
async def test_what_is_ours_but_makes_no_sense_is_refused_by_name(content: bytes) -> None:
    journal = MemoryJournal()
    await journal.activate(A)
    await journal.append([Append(A, 1, 0, RING.seal(content, "scope/ledger/a/row/1"))])
    with pytest.raises(CorruptState, match="row 1 of ledger/a can't be read"):
        await Process(journal).activate()


async def test_a_state_that_cannot_be_true_is_refused() -> None:
    process = Process()
    ledger = await process.activate()
    await ledger.execute(Add(-5))
    with pytest.raises(CorruptState, match="below zero"):
        await process.activate()


# Reading without taking over


async def test_reading_disturbs_nobody() -> None:
    process = Process()
    ledger = await process.activate()
    assert await read(machine(), B, process.journal, RING) is None
    await ledger.execute(Add(1))
    await ledger.compact()
    await ledger.execute(Add(2))
    assert await read(machine(), A, process.journal, RING) == State(3)
    assert await ledger.execute(Add(4)) == 7


async def test_reading_trusts_no_more_than_activating_does() -> None:
    process = await written(compacted=False)
    change_row(process.journal)
    with pytest.raises(Tampered):
        await read(machine(), A, process.journal, RING)


async def test_machines_with_the_same_events_keep_their_own_states() -> None:
    class Count(Struct):
        seen: int = 0

    def count(state: Count, event: Event) -> Count:
        state.seen += 1
        return state

    process = Process()
    await (await process.activate()).execute(Add(5))
    other: Machine[Count, Command, Event, int] = Machine(
        "ledger", 1, Count, Event, Count, lambda state, command, now: ([], 0), count
    )
    counting = await Entity.activate(other, A, process.committer, RING, lambda: 0)
    await counting.compact()
    again = await Entity.activate(other, A, process.committer, RING, lambda: 0)
    assert again.state == Count(1)


# Whatever happens

happenings = st.lists(
    st.sampled_from(["add", "add", "add", "before", "after", "take over", "compact", "restart"]),
    max_size=30,
)


@given(happenings)
def test_nothing_acknowledged_is_lost_and_nothing_happens_twice(script: list[str]) -> None:
    """Each command adds a power of two, so that the total says which of them count."""

    async def scenario() -> None:
        process = Process()
        ledger = await process.activate()
        acknowledged = unknown = 0
        for at, happening in enumerate(script):
            amount = 1 << at
            if happening in ("before", "after"):
                process.faulty.faults = [happening]
            if happening in ("add", "before", "after"):
                try:
                    await ledger.execute(Add(amount))
                except (StoreUnavailable, Fenced):
                    unknown |= amount
                    ledger = await process.activate()
                else:
                    acknowledged |= amount
            elif happening == "take over":
                await Process(process.journal).activate()
            elif happening == "compact" and ledger.broken is None:
                await ledger.compact()
            elif happening == "restart":
                process = Process(process.journal)
                ledger = await process.activate()
            if ledger.broken:
                ledger = await process.activate()
        total = (await process.activate()).state.total
        assert total & acknowledged == acknowledged
        assert total | acknowledged | unknown == acknowledged | unknown

    asyncio.run(scenario())


def test_an_empty_journal_says_so() -> None:
    assert asyncio.run(MemoryJournal().read(A)) == Loaded(0, 0, None, [])
