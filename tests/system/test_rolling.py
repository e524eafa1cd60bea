"""Two versions side by side: the older one refuses what it can't read, and does no harm by it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TypeAlias
from uuid import uuid4

import msgspec
import pytest
import pytest_asyncio
from msgspec import Struct

from retinue.actors.domain.errors import CorruptState, Fenced
from retinue.actors.domain.values.keyring import Keyring
from retinue.actors.domain.values.record import Record
from retinue.actors.durable.codec import Codec, Machine
from retinue.actors.durable.committer import Committer
from retinue.actors.durable.entity import Entity, read
from retinue.actors.durable.journal import Append, Journal, Key, Loaded, Outcome, stored_version
from retinue.actors.durable.machines import ALLOWANCES, APPROVALS, BUDGET, CAPABILITIES, SESSION
from retinue.actors.durable.memory_journal import MemoryJournal
from retinue.cluster.redis.connection import Connection
from retinue.cluster.redis.journal import RedisJournal
from tests.golden.files import AnyMachine
from tests.golden.values import filled

RING = Keyring(b"k" * 32)
KEY = Key("scope", "tally", "a")
SAYS = (
    r"tally/a was written by a newer version of Retinue \(stored form 2; this node reads up to 1\)"
)


class Counted(Record, frozen=True, tag="counted"):
    amount: int


class CountedFor(Record, frozen=True, tag="counted"):
    """The newer form: a field at the end, with a default."""

    amount: int
    reason: str = "none"


class Doubled(Record, frozen=True, tag="doubled"):
    """An event that the older version has never heard of."""


class Old(Struct, array_like=True):
    total: int = 0


class New(Struct, array_like=True):
    total: int = 0
    reason: str = "nothing yet"


Newer: TypeAlias = CountedFor | Doubled


def evolve_old(state: Old, event: Counted) -> Old:
    state.total += event.amount
    return state


def evolve_new(state: New, event: Newer) -> New:
    match event:
        case CountedFor(amount, reason):
            state.total, state.reason = state.total + amount, reason
        case Doubled():
            state.total *= 2
    return state


OLD: Machine[Old, Counted, Counted, int] = Machine(
    "tally", 1, Old, Counted, Old, lambda state, event, now: ([event], 0), evolve_old
)
NEW: Machine[New, Newer, Newer, int] = Machine(
    "tally", 2, New, Newer, New, lambda state, event, now: ([event], 0), evolve_new
)
OldTally: TypeAlias = Entity[Old, Counted, Counted, int]
NewTally: TypeAlias = Entity[New, Newer, Newer, int]


@pytest_asyncio.fixture(params=["memory", "redis"])
async def journal(request: pytest.FixtureRequest) -> AsyncIterator[Journal]:
    if request.param == "memory":
        yield MemoryJournal()
        return
    connection = Connection(request.getfixturevalue("redis_url"), f"rolling-{uuid4()}")
    yield RedisJournal(connection)
    await connection.close()


async def old_node(journal: Journal) -> OldTally:
    return await Entity.activate(OLD, KEY, Committer(journal), RING, lambda: 0)


async def new_node(journal: Journal) -> NewTally:
    return await Entity.activate(NEW, KEY, Committer(journal), RING, lambda: 0)


async def test_the_newer_reads_what_the_older_wrote(journal: Journal) -> None:
    old = await old_node(journal)
    await old.execute(Counted(3))
    await old.compact()
    await old.execute(Counted(4))
    new = await new_node(journal)
    assert new.state == New(7, "none")
    with pytest.raises(Fenced):
        await old.execute(Counted(1))
    await new.execute(CountedFor(1, "rent"))
    assert await read(NEW, KEY, journal, RING) == New(8, "rent")


@pytest.mark.parametrize("compacted", [False, True], ids=["rows", "a snapshot"])
async def test_the_older_refuses_what_the_newer_wrote_and_leaves_it_be(
    journal: Journal, compacted: bool
) -> None:
    new = await new_node(journal)
    await new.execute(CountedFor(1, "rent"))
    await new.execute(Doubled())
    if compacted:
        await new.compact()
    before = await journal.read(KEY)
    for _ in range(2):
        with pytest.raises(CorruptState, match=f"{SAYS}: upgrade this node") as caught:
            await old_node(journal)
    assert caught.value.details == {"form": 2, "newest": 1}
    assert await journal.read(KEY) == before
    await new.execute(CountedFor(5, "food"))  # it was not fenced either
    assert await read(NEW, KEY, journal, RING) == New(7, "food")


async def test_one_row_of_the_newer_after_many_of_the_older_is_refused(journal: Journal) -> None:
    await (await old_node(journal)).execute(Counted(3))
    new = await new_node(journal)
    await new.execute(CountedFor(1, "rent"))
    with pytest.raises(CorruptState, match=f"row 2 of {SAYS}"):
        await old_node(journal)
    await new.execute(Doubled())
    assert new.state.total == 8


async def test_what_the_newer_has_just_made_is_not_taken_from_it(journal: Journal) -> None:
    new: NewTally = Entity(NEW, KEY, Committer(journal), RING, lambda: 0, "creator")
    await new.execute(CountedFor(1, "rent"))
    with pytest.raises(CorruptState, match=SAYS):
        await old_node(journal)
    await new.execute(Doubled())


async def test_the_older_does_not_even_look_into_it(journal: Journal) -> None:
    await (await new_node(journal)).execute(CountedFor(1, "rent"))
    with pytest.raises(CorruptState, match=SAYS):
        await read(OLD, KEY, journal, RING)


async def test_an_older_one_that_was_overtaken_writes_nothing_over_the_newer(
    journal: Journal,
) -> None:
    old = await old_node(journal)
    await old.execute(Counted(3))
    new = await new_node(journal)
    await new.execute(Doubled())
    before = await journal.read(KEY)
    with pytest.raises(Fenced):
        await old.execute(Counted(1))
    with pytest.raises(Fenced):
        await old.compact()
    assert await journal.snapshot(KEY, old.epoch, 1, b"old") is Outcome.FENCED
    assert await journal.read(KEY) == before


async def test_as_long_as_the_newer_wrote_nothing_the_older_may_go_on(journal: Journal) -> None:
    await (await old_node(journal)).execute(Counted(3))
    new = await new_node(journal)
    again = await old_node(journal)
    await again.execute(Counted(4))
    with pytest.raises(Fenced):
        await new.execute(Doubled())
    assert (await new_node(journal)).state.total == 7


async def test_a_version_that_only_its_bytes_claim_is_not_believed(journal: Journal) -> None:
    old = await old_node(journal)
    await old.execute(Counted(3))
    row = bytearray((await journal.read(KEY)).rows[0])
    row[21] = 9
    forged = Key("scope", "tally", "forged")
    await journal.activate(forged)
    await journal.append([Append(forged, 1, 0, bytes(row))])
    with pytest.raises(Exception, match="mark for what it says"):
        await Entity.activate(OLD, forged, Committer(journal), RING, lambda: 0)


@pytest.mark.parametrize("loaded", [Loaded(0, 0, None, []), Loaded(1, 1, b"", [b"short"])])
def test_bytes_that_say_no_version_are_of_version_0(loaded: Loaded) -> None:
    assert stored_version(loaded) == 0


@pytest.mark.parametrize(
    "machine", [ALLOWANCES, APPROVALS, BUDGET, CAPABILITIES, SESSION], ids=lambda one: one.kind
)
def test_the_version_stands_where_the_journal_looks(machine: AnyMachine) -> None:
    codec: Codec[Struct, object] = Codec(machine, KEY, RING)
    row = codec.row(1, [], (0, b""))  # type: ignore[arg-type]
    snapshot = codec.snapshot(1, filled(machine.state), (0, b""))  # type: ignore[arg-type]
    assert 0 < machine.version < 128  # above that it takes more than one byte
    assert stored_version(Loaded(1, 1, None, [row])) == machine.version
    assert stored_version(Loaded(1, 1, snapshot, [])) == machine.version


def test_without_a_new_version_a_new_field_would_be_lost() -> None:
    """Why a field at the end takes a new version too: the older one reads past it, and forgets."""
    newer = msgspec.msgpack.encode(New(7, "rent"))
    older = msgspec.msgpack.decode(newer, type=Old)
    assert older == Old(7)
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(older), type=New)
    assert again == New(7, "nothing yet")
