"""What every journal must do, in memory and in Redis: a real server, and a Cluster of three."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import TypeAlias, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinue.actors.domain.errors import RolledBack
from retinue.actors.durable.journal import Append, Key, Loaded, Outcome, Summary
from retinue.actors.durable.memory_journal import MemoryJournal
from retinue.cluster.redis.connection import Connection
from retinue.cluster.redis.journal import RedisJournal

AnyJournal: TypeAlias = MemoryJournal | RedisJournal

OK, FENCED, GAP = Outcome.OK, Outcome.FENCED, Outcome.GAP
A, B, C = Key("s1", "session", "a"), Key("s1", "session", "b"), Key("s2", "budget", "c")
ALL_BYTES = bytes(range(256))


@pytest.fixture
async def connection(redis_url: str) -> AsyncIterator[Connection]:
    connection = Connection(redis_url, uuid.uuid4().hex, patience_s=5)
    yield connection
    await connection.close()


@pytest.fixture(params=["memory", "redis", "cluster"])
async def journal(
    request: pytest.FixtureRequest, connection: Connection
) -> AsyncIterator[AnyJournal]:
    if request.param == "cluster":
        url = request.getfixturevalue("cluster_url")
        clustered = Connection(url, uuid.uuid4().hex, patience_s=5)
        yield RedisJournal(clustered)
        await clustered.close()
    else:
        yield MemoryJournal() if request.param == "memory" else RedisJournal(connection)


def row(
    key: Key, after: int, text: str = "", epoch: int = 1, *, create: str = "", brake: bytes = b""
) -> Append:
    """A row with a message, an audit row and a summary, all of which tell which row it is."""
    name = text or f"{after + 1}"
    return Append(
        key,
        epoch,
        after,
        name.encode(),
        messages=[f"m{name}".encode()],
        audit=[f"a{name}".encode()],
        summary=Summary("family", f"s{name}".encode()),
        create=create,
        brake=brake,
    )


async def write(journal: AnyJournal, *appends: Append) -> list[Outcome]:
    return list(await journal.append(appends))


async def contents(journal: AnyJournal, key: Key) -> list[bytes]:
    """Everything that is stored of an entity but its epoch, in one list."""
    loaded = await journal.read(key)
    return [
        b"%d" % loaded.seq,
        loaded.snapshot or b"",
        *loaded.rows,
        *await journal.messages(key, 0, 1000),
        *await journal.audit(key, 0, 1000),
        await summary(journal, key),
    ]


async def summary(journal: AnyJournal, key: Key) -> bytes:
    """The line of an entity in the listing of its family."""
    if isinstance(journal, MemoryJournal):
        found = journal.summaries.get((key.workspace_id, "family"), {}).get(key.id)
        return found.data if found else b""
    redis = journal._redis
    return await redis.value("HGET", redis.family(key.workspace_id, "family"), key.id) or b""


# Taking over and loading


async def test_an_entity_that_is_not_there_is_empty_at_epoch_0(journal: AnyJournal) -> None:
    assert await journal.read(A) == Loaded(0, 0, None, [])
    assert await journal.messages(A, 0, 10) == []
    assert await journal.audit(A, 0, 10) == []


async def test_activating_raises_the_epoch_and_loads(journal: AnyJournal) -> None:
    assert await journal.activate(A) == Loaded(1, 0, None, [])
    await write(journal, row(A, 0))
    await write(journal, row(A, 1))
    assert await journal.activate(A) == Loaded(2, 2, None, [b"1", b"2"])
    assert await journal.activate(A) == Loaded(3, 2, None, [b"1", b"2"])


async def test_reading_does_not_take_over(journal: AnyJournal) -> None:
    await journal.activate(A)
    await write(journal, row(A, 0))
    assert await journal.read(A) == Loaded(1, 1, None, [b"1"])
    assert await journal.read(A) == Loaded(1, 1, None, [b"1"])
    assert await write(journal, row(A, 1)) == [OK]


async def test_no_two_activations_get_the_same_epoch(journal: AnyJournal) -> None:
    loaded = await asyncio.gather(*(journal.activate(A) for _ in range(20)))
    assert sorted(one.epoch for one in loaded) == list(range(1, 21))


async def test_entities_are_kept_apart(journal: AnyJournal) -> None:
    for other in (
        Key("s1", "session", "b"),
        Key("s1", "budget", "a"),
        Key("s2", "session", "a"),
    ):
        await journal.activate(other)
        await write(journal, row(other, 0))
    assert await journal.read(A) == Loaded(0, 0, None, [])
    assert await journal.messages(A, 0, 9) == []
    assert await journal.audit(A, 0, 9) == []


# Appending


async def test_all_parts_of_an_append_become_visible(journal: AnyJournal) -> None:
    await journal.activate(A)
    assert await write(journal, row(A, 0)) == [OK]
    assert await contents(journal, A) == [b"1", b"", b"1", b"m1", b"a1", b"s1"]


async def test_the_last_summary_counts_and_none_leaves_it(journal: AnyJournal) -> None:
    await journal.activate(A)
    await write(journal, row(A, 0))
    await write(journal, row(A, 1))
    await write(journal, Append(A, 1, 2, b"3"))
    assert await summary(journal, A) == b"s2"


async def test_an_older_epoch_is_fenced_and_writes_nothing(journal: AnyJournal) -> None:
    await journal.activate(A)
    await write(journal, row(A, 0))
    await journal.activate(A)
    before = await contents(journal, A)
    assert await write(journal, row(A, 1, epoch=1)) == [FENCED]
    assert await contents(journal, A) == before
    assert await write(journal, row(A, 1, epoch=2)) == [OK]


async def test_an_epoch_that_never_was_is_a_gap_for_what_is_stored_went_back(
    journal: AnyJournal,
) -> None:
    await journal.activate(A)
    assert await write(journal, row(A, 0, epoch=2)) == [GAP]
    assert await write(journal, row(A, 0, epoch=0)) == [FENCED]
    assert await write(journal, row(B, 0, epoch=0)) == [FENCED]
    assert await write(journal, row(B, 0, epoch=1)) == [GAP]
    assert await journal.snapshot(A, 2, 0, b"state") is GAP
    assert await journal.snapshot(B, 1, 0, b"nobody") is GAP
    assert [(await journal.read(key)).rows for key in (A, B)] == [[], []]


async def test_in_a_scope_that_was_stopped_nobody_goes_on(journal: AnyJournal) -> None:
    for key in (A, C):
        await journal.activate(key)
        await write(journal, row(key, 0))
    await journal.stop(A.workspace_id, "the reason")
    await journal.stop(A.workspace_id, "another reason")
    for key in (A, B):
        with pytest.raises(RolledBack, match="the reason"):
            await journal.activate(key)
    assert await write(journal, row(A, 1), row(B, 0, create="me"), row(C, 1)) == [GAP, GAP, OK]
    assert await write(journal, Append(A, 1, 1, b"")) == [GAP]
    assert await journal.read(A) == Loaded(1, 1, None, [b"1"])


async def test_a_repeated_append_is_written_once(journal: AnyJournal) -> None:
    await journal.activate(A)
    await write(journal, row(A, 0))
    once = await contents(journal, A)
    assert await write(journal, row(A, 0)) == [OK]
    assert await contents(journal, A) == once


async def test_a_repeat_is_fenced_once_somebody_took_over(journal: AnyJournal) -> None:
    await journal.activate(A)
    await write(journal, row(A, 0))
    await journal.activate(A)
    assert await write(journal, row(A, 0)) == [FENCED]


@pytest.mark.parametrize("after", [1, 2, 5])
async def test_a_gap_is_refused_and_nothing_of_it_written(journal: AnyJournal, after: int) -> None:
    await journal.activate(A)
    before = await contents(journal, A)
    assert await write(journal, row(A, after)) == [GAP]
    assert await contents(journal, A) == before


async def test_a_row_far_behind_is_not_taken_for_new(journal: AnyJournal) -> None:
    await journal.activate(A)
    for after in range(3):
        await write(journal, row(A, after))
    before = await contents(journal, A)
    assert await write(journal, row(A, 0)) == [GAP]
    assert await contents(journal, A) == before


async def test_without_a_row_it_says_whose_turn_it_is_and_writes_nothing(
    journal: AnyJournal,
) -> None:
    await journal.activate(A)
    await write(journal, row(A, 0))
    assert await write(journal, Append(A, 1, 1, b"")) == [OK]
    assert await write(journal, Append(A, 1, 2, b"")) == [GAP]
    await journal.activate(A)
    assert await write(journal, Append(A, 1, 1, b""), Append(A, 2, 1, b"")) == [FENCED, OK]
    assert await journal.read(A) == Loaded(2, 1, None, [b"1"])


async def test_any_bytes_are_stored_as_they_are(journal: AnyJournal) -> None:
    await journal.activate(A)
    big = ALL_BYTES * 4096
    await write(
        journal,
        Append(A, 1, 0, big, [ALL_BYTES, b"", big], [b"", ALL_BYTES], Summary("family", ALL_BYTES)),
    )
    assert (await journal.read(A)).rows == [big]
    assert await journal.messages(A, 0, 3) == [ALL_BYTES, b"", big]
    assert await journal.audit(A, 0, 2) == [b"", ALL_BYTES]
    assert await summary(journal, A) == ALL_BYTES


async def test_messages_are_read_in_part(journal: AnyJournal) -> None:
    await journal.activate(A)
    await write(journal, Append(A, 1, 0, b"1", [b"0", b"1", b"2"], [b"x", b"y"]))
    await write(journal, Append(A, 1, 1, b"2", [b"3"]))
    assert await journal.messages(A, 0, 4) == [b"0", b"1", b"2", b"3"]
    assert await journal.messages(A, 1, 3) == [b"1", b"2"]
    assert await journal.messages(A, 3, 99) == [b"3"]
    assert await journal.messages(A, 4, 9) == []
    assert await journal.messages(A, 2, 2) == []
    assert await journal.messages(A, 3, 1) == []
    assert await journal.audit(A, 1, 2) == [b"y"]


# Coming into being without an activation


async def test_of_two_creators_one_wins(journal: AnyJournal) -> None:
    assert await write(journal, row(A, 0, "winner", create="one")) == [OK]
    assert await write(journal, row(A, 0, "loser", create="two")) == [FENCED]
    assert await contents(journal, A) == [
        b"1",
        b"",
        b"winner",
        b"mwinner",
        b"awinner",
        b"swinner",
    ]


async def test_creators_that_race_find_one_winner(journal: AnyJournal) -> None:
    outcomes = await asyncio.gather(
        *(write(journal, row(A, 0, f"{at}", create=f"{at}")) for at in range(20))
    )
    assert outcomes.count([OK]) == 1
    assert (await journal.read(A)).rows == [b"%d" % outcomes.index([OK])]


async def test_the_winners_repeat_succeeds_and_the_losers_does_not(journal: AnyJournal) -> None:
    await write(journal, row(A, 0, "winner", create="one"))
    once = await contents(journal, A)
    assert await write(journal, row(A, 0, "loser", create="two")) == [FENCED]
    assert await write(journal, row(A, 0, "winner", create="one")) == [OK]
    assert await write(journal, row(A, 0, "loser", create="two")) == [FENCED]
    assert await contents(journal, A) == once


async def test_the_creator_goes_on_at_epoch_1(journal: AnyJournal) -> None:
    await write(journal, row(A, 0, create="one"))
    assert await write(journal, row(A, 1)) == [OK]
    assert (await journal.activate(A)).epoch == 2
    assert await write(journal, row(A, 2)) == [FENCED]


async def test_a_creator_is_fenced_once_somebody_took_over(journal: AnyJournal) -> None:
    await write(journal, row(A, 0, create="one"))
    await journal.activate(A)
    assert await write(journal, row(A, 0, create="one")) == [FENCED]


async def test_nobody_creates_in_a_later_epoch(journal: AnyJournal) -> None:
    await write(journal, row(A, 0, create="one"))
    await journal.activate(A)
    assert await write(journal, row(A, 1, create="one", epoch=2)) == [FENCED]


async def test_what_was_activated_first_cannot_be_created(journal: AnyJournal) -> None:
    await journal.activate(A)
    assert await write(journal, row(A, 0, create="one")) == [FENCED]
    assert (await journal.read(A)).rows == []


# Many in one batch


async def test_a_batch_of_none_is_no_work(journal: AnyJournal) -> None:
    assert await write(journal) == []


async def test_many_entities_of_several_scopes_go_in_one_batch(journal: AnyJournal) -> None:
    keys = [Key(f"s{at % 3}", "session", f"{at}") for at in range(60)]
    outcomes = await write(journal, *(row(key, 0, key.id, create="me") for key in keys))
    assert outcomes == [OK] * 60
    for key in keys:
        assert (await journal.read(key)).rows == [key.id.encode()]


async def test_one_that_is_refused_does_not_hinder_the_others(journal: AnyJournal) -> None:
    for key in (A, B, C):
        await journal.activate(key)
    await journal.activate(B)
    fenced, gap = row(B, 0, epoch=1), row(C, 7)
    more = Key("s2", "session", "d")
    assert await write(journal, row(A, 0), fenced, gap, row(more, 0, create="me")) == [
        OK,
        FENCED,
        GAP,
        OK,
    ]
    assert [(await journal.read(key)).rows for key in (A, B, C, more)] == [[b"1"], [], [], [b"1"]]
    assert [await journal.messages(key, 0, 9) for key in (A, B, C, more)] == [
        [b"m1"],
        [],
        [],
        [b"m1"],
    ]


async def test_outcomes_are_in_the_order_of_the_batch(journal: AnyJournal) -> None:
    for key in (A, C):
        await journal.activate(key)
    assert await write(journal, row(A, 0), row(C, 5), row(A, 5), row(C, 0), row(A, 1)) == [
        OK,
        GAP,
        GAP,
        OK,
        OK,
    ]


# Compaction


async def test_a_snapshot_replaces_rows_and_keeps_messages_and_audit(journal: AnyJournal) -> None:
    await journal.activate(A)
    for after in range(3):
        await write(journal, row(A, after))
    assert await journal.snapshot(A, 1, 3, b"state") is OK
    assert await journal.read(A) == Loaded(1, 3, b"state", [])
    assert await journal.messages(A, 0, 9) == [b"m1", b"m2", b"m3"]
    assert await journal.audit(A, 0, 9) == [b"a1", b"a2", b"a3"]
    assert await summary(journal, A) == b"s3"


async def test_rows_after_the_snapshot_stay(journal: AnyJournal) -> None:
    await journal.activate(A)
    for after in range(4):
        await write(journal, row(A, after))
    assert await journal.snapshot(A, 1, 2, ALL_BYTES) is OK
    assert await journal.activate(A) == Loaded(2, 4, ALL_BYTES, [b"3", b"4"])


async def test_after_a_snapshot_rows_are_numbered_on(journal: AnyJournal) -> None:
    await journal.activate(A)
    await write(journal, row(A, 0))
    await journal.snapshot(A, 1, 1, b"state")
    assert await write(journal, row(A, 0)) == [OK]  # a repeat, of which nothing is written
    assert await write(journal, row(A, 1)) == [OK]
    assert await journal.read(A) == Loaded(1, 2, b"state", [b"2"])


async def test_a_later_snapshot_replaces_the_one_before(journal: AnyJournal) -> None:
    await journal.activate(A)
    for after in range(2):
        await write(journal, row(A, after))
        await journal.snapshot(A, 1, after + 1, b"%d" % after)
    assert await journal.read(A) == Loaded(1, 2, b"1", [])


async def test_a_fenced_snapshot_is_refused(journal: AnyJournal) -> None:
    await journal.activate(A)
    await write(journal, row(A, 0))
    await journal.activate(A)
    assert await journal.snapshot(A, 1, 1, b"old") is FENCED
    assert await journal.read(A) == Loaded(2, 1, None, [b"1"])


async def test_a_snapshot_of_rows_that_are_not_there_is_refused(journal: AnyJournal) -> None:
    await journal.activate(A)
    await write(journal, row(A, 0))
    assert await journal.snapshot(A, 1, 2, b"future") is GAP
    assert await journal.read(A) == Loaded(1, 1, None, [b"1"])


async def test_a_repeated_snapshot_is_harmless(journal: AnyJournal) -> None:
    await journal.activate(A)
    for after in range(2):
        await write(journal, row(A, after))
    for _ in range(2):
        assert await journal.snapshot(A, 1, 1, b"state") is OK
    assert await journal.read(A) == Loaded(1, 2, b"state", [b"2"])


async def test_a_snapshot_that_comes_after_a_newer_one_is_too_late(journal: AnyJournal) -> None:
    await journal.activate(A)
    for after in range(4):
        await write(journal, row(A, after))
    assert await journal.snapshot(A, 1, 3, b"newer") is OK
    assert await journal.snapshot(A, 1, 2, b"older") is OK
    assert await journal.read(A) == Loaded(1, 4, b"newer", [b"4"])


# The brake


async def test_a_scope_that_never_had_a_brake_has_an_empty_one(journal: AnyJournal) -> None:
    await journal.activate(A)
    assert await journal.brake("s1") == b""
    assert (await journal.append([row(A, 0)])).brakes == {"s1": b""}


async def test_a_row_brings_a_brake_that_every_append_of_its_scope_is_told(
    journal: AnyJournal,
) -> None:
    for key in (A, B, C):
        await journal.activate(key)
    assert (await journal.append([row(B, 0), row(A, 0, brake=ALL_BYTES)])).brakes == {
        "s1": ALL_BYTES
    }
    assert (await journal.append([row(B, 1)])).brakes == {"s1": ALL_BYTES}
    question = Append(A, 1, 1, b"")
    assert (await journal.append([question, row(C, 0)])).brakes == {"s1": ALL_BYTES, "s2": b""}
    assert await journal.brake("s1") == ALL_BYTES
    await journal.append([row(A, 1, brake=b"next")])
    assert (await journal.append([row(B, 2)])).brakes == {"s1": b"next"}


async def test_a_row_that_is_not_written_brings_no_brake(journal: AnyJournal) -> None:
    await journal.activate(A)
    await journal.append([row(A, 0, brake=b"first")])
    await journal.append([row(A, 1, brake=b"second")])
    assert await write(journal, row(A, 1, brake=b"again")) == [OK]
    assert await write(journal, row(A, 0, brake=b"gap")) == [GAP]
    await journal.activate(A)
    assert await write(journal, row(A, 2, brake=b"fenced")) == [FENCED]
    assert await journal.brake("s1") == b"second"


async def test_the_brake_outlives_snapshots_and_taking_over(journal: AnyJournal) -> None:
    await journal.activate(A)
    await journal.append([row(A, 0, brake=b"it")])
    await journal.snapshot(A, 1, 1, b"state")
    await journal.activate(A)
    assert (await journal.append([row(A, 1, epoch=2)])).brakes == {"s1": b"it"}


# Both are the same

keys = st.sampled_from([A, B, C])
numbers = st.integers(0, 3)
appends = st.builds(
    row, keys, numbers, st.sampled_from("xyz"), numbers, create=st.sampled_from(["", "", "p", "q"])
)
calls = st.one_of(
    st.tuples(st.just("activate"), keys),
    st.tuples(st.just("append"), st.lists(appends, max_size=3)),
    st.tuples(st.just("snapshot"), keys, numbers, numbers),
    st.tuples(st.just("brake"), keys, numbers, numbers),
)


async def answers(journal: AnyJournal, script: Sequence[tuple[object, ...]]) -> list[object]:
    """What the journal answers to the calls, and what it holds in the end."""
    heard: list[object] = []
    for call in script:
        match call:
            case ("activate", Key() as key):
                heard.append(await journal.activate(key))
            case ("append", batch):
                heard.append(await write(journal, *cast("list[Append]", batch)))
            case ("snapshot", Key() as key, int() as epoch, int() as seq):
                heard.append(await journal.snapshot(key, epoch, seq, b"state"))
            case ("brake", Key() as key, int() as after, int() as epoch):
                braking = row(key, after, epoch=epoch, brake=b"%d%d" % (after, epoch))
                told = await journal.append([row(key, after), braking])
                heard += [list(told), told.brakes, await journal.brake(key.workspace_id)]
    for key in (A, B, C):
        heard += [await journal.read(key), await contents(journal, key)]
    return heard


@given(st.lists(calls, max_size=12))
def test_redis_answers_as_memory_does(redis_url: str, script: list[tuple[object, ...]]) -> None:
    async def in_redis() -> list[object]:
        connection = Connection(redis_url, uuid.uuid4().hex)
        try:
            return await answers(RedisJournal(connection), script)
        finally:
            await connection.close()

    assert asyncio.run(in_redis()) == asyncio.run(answers(MemoryJournal(), script))
