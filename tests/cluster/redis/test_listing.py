"""Listings of root sessions in a real Redis: pages, filters, ids by a part, and what they cost."""

from __future__ import annotations

import asyncio
import itertools
import random
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from retinue.actors.domain.errors import InvalidValue, NotFound
from retinue.actors.domain.session.settings import Limits
from retinue.actors.domain.session.state import Budget, Profile
from retinue.actors.domain.values.ids import uuid7
from retinue.actors.domain.values.keyring import Keyring
from retinue.actors.durable.journal import Append, Key, Outcome, Summary
from retinue.actors.session.listing import CODES, position, wanted
from retinue.actors.session.summary import encode_summary
from retinue.actors.views import SessionKey, SessionQuery, SessionSummary
from retinue.cluster.redis.connection import Connection
from retinue.cluster.redis.journal import RedisJournal
from retinue.cluster.redis.registry import RedisRegistry

START = 1_700_000_000_000_000  # microseconds since the epoch
SECOND = 1_000_000
SCOPES = [str(uuid.UUID(int=at + 1)) for at in range(3)]
USERS = [f"{at:016x}" for at in range(4)]
STATES = list(CODES)
MANY = 2500
AT_ONCE = 100

T = TypeVar("T")


class Many(Protocol):
    """Calls a function with `MANY` sessions that it only reads."""

    def __call__(self, use: Callable[[Sessions], Awaitable[T]]) -> T: ...


@dataclass
class Sessions:
    """Writes root sessions as hosts do, and knows what a listing of them must show."""

    connection: Connection
    there: dict[str, SessionSummary] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.registry = RedisRegistry(self.connection, Keyring(bytes(32)))
        self.journal = RedisJournal(self.connection)

    async def register(self, one: SessionSummary) -> None:
        """What comes before a session."""
        profile = Profile(
            id=one.id,
            user_id=one.user_id,
            workspace_id=one.workspace_id,
            family_id=one.id,
            created_at=one.created_at,
            agent=None,
            isolation="shared",
            budget=Budget(0, 0, 0),
            limits=Limits(),
        )
        await self.registry.register_root(profile)

    async def write(self, one: SessionSummary) -> None:
        """A row of a session, and its summary."""
        after = self.rows.get(one.id, 0)
        listed = (CODES[one.status], position(one.created_at, one.id))
        row = Append(
            Key(one.workspace_id, "session", one.id),
            epoch=1,
            after=after,
            row=b"row",
            summary=Summary(one.id, encode_summary(one), listed),
            create="" if after else "its maker",
        )
        assert list(await self.journal.append([row])) == [Outcome.OK]
        self.rows[one.id] = after + 1
        self.there[one.id] = one

    async def make(self, *made: SessionSummary) -> None:
        """Sessions that were not there."""
        for at in range(0, len(made), AT_ONCE):
            some = made[at : at + AT_ONCE]
            await asyncio.gather(*map(self.register, some))
            await asyncio.gather(*map(self.write, some))

    async def turn(self, id: str, status: str) -> None:
        """Another state for a session."""
        await self.write(structs.replace(self.there[id], status=status))

    def fitting(self, query: SessionQuery) -> list[str]:
        """What a listing must show: the plain filter."""
        found = [one for one in self.there.values() if wanted(query, one)]
        found.sort(key=lambda one: position(one.created_at, one.id), reverse=True)
        return [one.id for one in found]

    async def listed(
        self,
        query: SessionQuery,
        count: int = 200,
        between: Callable[[], Awaitable[None]] | None = None,
    ) -> list[str]:
        """What all pages show together; ``between()`` happens after each."""
        found: list[str] = []
        after: str | None = None
        while True:
            page = await self.registry.page(query, after, count)
            assert len(page.sessions) <= count
            found += [one.id for one in page.sessions]
            after = page.next
            if after is None:
                return found
            if between:
                await between()


def session(at: int, **given: object) -> SessionSummary:
    """A session that was made ``at`` seconds after the start, in some scope, by some user."""
    chance = random.Random(at)
    created = START + at * SECOND + chance.randrange(SECOND)
    values: dict[str, object] = {
        "id": uuid7(created, chance.randbytes(10)),
        "user_id": chance.choice(USERS),
        "status": chance.choice(STATES),
        "created_at": created,
        "workspace_id": chance.choice(SCOPES),
        **given,
    }
    id = str(values["id"])
    one = SessionSummary(id, id, None, 0, USERS[0], "", "idle", created, 0)
    return structs.replace(one, **values)


@pytest.fixture
async def sessions(redis_url: str) -> AsyncIterator[Sessions]:
    """No sessions yet."""
    connection = Connection(redis_url, uuid.uuid4().hex, patience_s=5)
    yield Sessions(connection)
    await connection.close()


@pytest.fixture(scope="module")
def many(redis_url: str) -> Many:
    """`MANY` sessions, for what only reads: calls a function with them."""
    namespace = uuid.uuid4().hex
    known: dict[str, SessionSummary] = {}

    def call(use: Callable[[Sessions], Awaitable[T]]) -> T:
        async def connected() -> T:
            connection = Connection(redis_url, namespace, patience_s=5)
            try:
                return await use(Sessions(connection, known))
            finally:
                await connection.close()

        return asyncio.run(connected())

    call(lambda empty: empty.make(*map(session, range(MANY))))
    return call


EVERYTHING = SessionQuery()


# Pages


async def test_where_there_is_nothing_the_page_is_empty(sessions: Sessions) -> None:
    page = await sessions.registry.page(EVERYTHING, None, 10)
    assert (page.sessions, page.next) == ([], None)


@pytest.mark.parametrize("count", [7, 50, 500])
def test_pages_are_complete_and_show_the_newest_first(many: Many, count: int) -> None:
    assert many(lambda all: all.listed(EVERYTHING, count)) == many(_fitting(EVERYTHING))


@pytest.mark.parametrize("length", [19, 20, 21])
async def test_a_last_page_that_is_full_is_the_last(sessions: Sessions, length: int) -> None:
    await sessions.make(*map(session, range(length)))
    first = await sessions.registry.page(EVERYTHING, None, 20)
    assert len(first.sessions) == min(length, 20)
    rest = await sessions.registry.page(EVERYTHING, first.next, 20) if first.next else None
    assert len(rest.sessions if rest else []) == max(length - 20, 0)


@pytest.mark.parametrize(
    "query",
    [EVERYTHING, SessionQuery(workspace_id=SCOPES[0]), SessionQuery(user_id=USERS[0])],
    ids=["all", "of a workspace", "of a user"],
)
async def test_pages_are_complete_while_sessions_come_and_change(
    sessions: Sessions, query: SessionQuery
) -> None:
    await sessions.make(*map(session, range(600)))
    before = sessions.fitting(query)
    chance = random.Random(1)
    came = iter(range(600, 10_000))

    async def meanwhile() -> None:
        await sessions.make(*(session(next(came)) for _ in range(5)))
        for id in chance.sample(list(sessions.there), 20):
            await sessions.turn(id, chance.choice(STATES))

    assert await sessions.listed(query, 20, meanwhile) == before


async def test_of_a_state_those_that_stay_in_it_are_shown_once(sessions: Sessions) -> None:
    await sessions.make(*(session(at, status="running") for at in range(600)))
    query = SessionQuery(states=["running"])
    chance = random.Random(2)
    leaving = iter(chance.sample(list(sessions.there), 300))
    left: set[str] = set()

    async def meanwhile() -> None:
        for id in (next(leaving) for _ in range(10)):
            left.add(id)
            await sessions.turn(id, "failed")

    before = sessions.fitting(query)
    found = await sessions.listed(query, 30, meanwhile)
    assert len(set(found)) == len(found)
    assert [id for id in found if id not in left] == [id for id in before if id not in left]
    assert await sessions.listed(query) == sessions.fitting(query)
    assert len(left) > 50


async def test_a_session_is_always_in_one_state_or_another(sessions: Sessions) -> None:
    await sessions.make(*(session(at, workspace_id=SCOPES[0], status="idle") for at in range(100)))
    ids = list(sessions.there)
    over = asyncio.Event()

    async def changing() -> None:
        for status in itertools.cycle(["running", "idle", "failed"]):
            for id in ids:
                await sessions.turn(id, status)
                if over.is_set():
                    return

    change = asyncio.create_task(changing())
    for query in [
        SessionQuery(workspace_id=SCOPES[0]),
        SessionQuery(states=["idle", "running", "failed"]),
    ]:
        for _ in range(20):
            found = await sessions.registry.page(query, None, 200)
            assert len({one.id for one in found.sessions}) == len(found.sessions) == 100
    over.set()
    await change


async def test_what_never_came_to_be_is_in_nobodys_way(sessions: Sessions) -> None:
    await sessions.make(*map(session, range(0, 60, 2)))
    for at in range(1, 60, 2):
        await sessions.register(session(at))
    for query in (EVERYTHING, SessionQuery(user_id=USERS[0])):
        assert await sessions.listed(query, 4) == sessions.fitting(query)


async def test_a_session_that_is_made_again_is_listed_once(sessions: Sessions) -> None:
    one = session(0)
    await sessions.make(one)
    await sessions.register(structs.replace(one, created_at=one.created_at + SECOND))
    await sessions.register(structs.replace(one, user_id=USERS[-1], created_at=START - SECOND))
    assert await sessions.listed(EVERYTHING) == [one.id]
    assert await sessions.listed(SessionQuery(user_id=one.user_id)) == [one.id]


async def test_an_imported_session_stands_where_it_was_made(sessions: Sessions) -> None:
    """Its id may be of any version, its time long ago, and many may have been made at once."""
    old = [session(0, id=str(uuid.uuid4()), created_at=START) for _ in range(30)]
    older = session(0, id=str(uuid.uuid4()), created_at=-5 * SECOND)
    await sessions.make(*map(session, range(10)), *old, older)
    assert (await sessions.listed(EVERYTHING, 4))[-31:] == sessions.fitting(EVERYTHING)[-31:]
    assert set(sessions.fitting(EVERYTHING)[-31:-1]) == {one.id for one in old}
    assert await sessions.listed(SessionQuery(until=0)) == [older.id]


@pytest.mark.parametrize("cursor", ["", "x", "0" * 43, "0" * 45, "g" * 44, "A" * 44])
async def test_what_is_no_cursor_is_refused(sessions: Sessions, cursor: str) -> None:
    with pytest.raises(InvalidValue, match="after: "):
        await sessions.registry.page(EVERYTHING, cursor, 10)


async def test_what_is_no_state_is_refused(sessions: Sessions) -> None:
    with pytest.raises(InvalidValue, match="state: 'asleep' is not one of idle"):
        await sessions.registry.page(SessionQuery(states=["idle", "asleep"]), None, 10)


# Filters

times = st.none() | st.integers(-5, MANY + 5).map(lambda at: START + at * SECOND)
queries = st.builds(
    SessionQuery,
    workspace_id=st.none() | st.sampled_from([*SCOPES, str(uuid.UUID(int=99))]),
    user_id=st.none() | st.sampled_from([*USERS, "f" * 16]),
    states=st.lists(st.sampled_from(STATES), max_size=3),
    since=times,
    until=times,
)


@given(queries, st.integers(20, 300))
def test_a_listing_is_a_plain_filter(many: Many, query: SessionQuery, count: int) -> None:
    assert many(lambda all: all.listed(query, count)) == many(_fitting(query))


async def test_times_are_exact(sessions: Sessions) -> None:
    await sessions.make(*(session(at, created_at=START + at) for at in range(-3, 4)))
    for since in range(START - 4, START + 5):
        for until in (None, START, START + 2):
            query = SessionQuery(since=since, until=until)
            assert await sessions.listed(query, 2) == sessions.fitting(query)


async def test_a_state_is_found_in_more_scopes_than_are_looked_into(sessions: Sessions) -> None:
    scopes = [str(uuid.UUID(int=1000 + at)) for at in range(200)]
    await sessions.make(
        *(session(at, workspace_id=workspace_id) for at, workspace_id in enumerate(scopes))
    )
    query = SessionQuery(states=["failed", "idle"])
    assert await sessions.listed(query, 5) == sessions.fitting(query)


# What a page costs

READS = {"hget", "evalsha", "zrevrangebylex", "zlexcount", "zrange"}


async def cost(sessions: Sessions, work: Awaitable[T]) -> tuple[T, dict[str, int]]:
    """What ``work`` gives, and how often each command was called for it."""
    (client,) = await sessions.connection.deployment.primaries()
    await client.config_resetstat()
    result = await work
    stats = cast("dict[str, dict[str, int]]", await client.info("commandstats"))
    calls = {name.removeprefix("cmdstat_"): one["calls"] for name, one in stats.items()}
    for own in ("config", "config|resetstat", "info", "client", "client|setinfo"):
        calls.pop(own, None)
    return result, calls


@pytest.mark.parametrize(
    ("query", "searches"),
    [
        (SessionQuery(), 2),
        (SessionQuery(since=START + 100 * SECOND, until=START + 2000 * SECOND), 2),
        (SessionQuery(user_id=USERS[1]), 4),
        (SessionQuery(workspace_id=SCOPES[1]), 18),
        (SessionQuery(workspace_id=SCOPES[1], states=["failed"]), 4),
        (SessionQuery(states=["failed"]), 11),
    ],
    ids=["all", "a time", "a user", "a workspace", "a workspace's state", "a state"],
)
def test_a_page_costs_as_much_as_it_shows(many: Many, query: SessionQuery, searches: int) -> None:
    async def measure(all: Sessions) -> None:
        await all.registry.page(query, None, 1)  # from then on the server knows the script
        for after in (None, position(START + 1500 * SECOND, USERS[0] * 2).hex()):
            page, calls = await cost(all, all.registry.page(query, after, 20))
            assert len(page.sessions) == 20
            assert set(calls) <= READS
            assert calls.pop("hget") == 40
            assert sum(calls.values()) <= searches

    many(measure)


async def test_a_page_gives_up_and_says_where_to_go_on(sessions: Sessions) -> None:
    """No index knows who has both: a page looks at so many, and then it is the next one's turn."""
    theirs = [session(at, user_id=USERS[0], status="ended") for at in range(1500)]
    others = [session(at, user_id=USERS[1], status="failed") for at in range(2000, 3600)]
    both = session(100, user_id=USERS[0], status="failed", id=str(uuid.uuid4()))
    await sessions.make(*theirs, *others, both)
    query = SessionQuery(user_id=USERS[0], states=["failed"])
    first, calls = await cost(sessions, sessions.registry.page(query, None, 20))
    assert (first.sessions, first.next is None) == ([], False)
    assert sum(calls.values()) < 2500
    assert await sessions.listed(query) == [both.id]


async def test_the_shortest_index_is_read(sessions: Sessions) -> None:
    rare = [session(at, status="failed") for at in range(300, 900, 300)]
    await sessions.make(*(session(at, status="ended") for at in range(1000)), *rare)
    newest = sessions.there[rare[-1].id]
    query = SessionQuery(
        user_id=newest.user_id, workspace_id=newest.workspace_id, states=["failed"]
    )
    page, calls = await cost(sessions, sessions.registry.page(query, None, 20))
    assert newest.id in {one.id for one in page.sessions}
    assert sum(calls.values()) < 20


async def test_a_state_is_kept_in_one_index_and_a_sub_agent_in_none(sessions: Sessions) -> None:
    one = session(0, workspace_id=SCOPES[0], status="idle")
    await sessions.make(one)
    for status in STATES:
        await sessions.turn(one.id, status)
    child = Append(
        Key(SCOPES[0], "session", str(uuid.uuid4())),
        epoch=1,
        after=0,
        row=b"row",
        summary=Summary(one.id, b"line"),
        create="maker",
    )
    stale = Append(
        Key(SCOPES[0], "session", one.id),
        epoch=0,
        after=len(STATES) + 1,
        row=b"row",
        summary=Summary(one.id, b"line", (b"x", position(one.created_at, one.id))),
    )
    outcomes = await sessions.journal.append([child, stale])
    assert list(outcomes) == [Outcome.OK, Outcome.FENCED]
    (client,) = await sessions.connection.deployment.primaries()
    indexes = [key async for key in client.scan_iter(sessions.connection.key("*:index:*"))]
    (index,) = indexes
    members = await client.zrange(index, 0, -1)
    assert members == [CODES[STATES[-1]] + position(one.created_at, one.id)]


# Ids by a part


async def test_a_root_session_is_found_by_either_end(sessions: Sessions) -> None:
    made = [session(at * 7) for at in range(90)]
    await sessions.make(*made)
    ids = [one.id for one in made]
    for id in random.Random(3).sample(ids, 12):
        for length in range(6, 36):
            begin, end = id[:length], id[-length:]
            fitting = [one for one in ids if one.startswith(begin) or one.endswith(begin)]
            assert await sessions.registry.find(begin) == sorted(fitting)
            fitting = [one for one in ids if one.startswith(end) or one.endswith(end)]
            assert await sessions.registry.find(end) == sorted(fitting)


async def test_so_is_an_imported_one(sessions: Sessions) -> None:
    made = [session(at, id=str(uuid.uuid4())) for at in range(50)]
    early = session(0, id=uuid7(START - 86_400 * SECOND, bytes(10)))
    await sessions.make(*made, early)
    for one in (*made, early):
        for length in (6, 7, 9, 14, 36):
            assert one.id in await sessions.registry.find(one.id[:length])
            assert one.id in await sessions.registry.find(one.id[-length:])


async def test_a_sub_agent_is_found_by_its_end(sessions: Sessions) -> None:
    root = session(0)
    await sessions.make(root)
    ids = [uuid7(root.created_at, uuid.uuid4().bytes[6:]) for _ in range(300)]
    place = SessionKey(root.workspace_id, root.id)
    await sessions.registry.register(place, ids)
    await sessions.registry.register(place, ids)
    for id in ids:
        assert await sessions.registry.locate(id) == place
    assert await sessions.registry.find(ids[7][-12:]) == [ids[7]]
    assert await sessions.registry.find(root.id[:8]) == [root.id]
    assert await sessions.registry.locate(root.id) == SessionKey(root.workspace_id, root.id)


@pytest.mark.parametrize("text", ["0190000000", "------", "abcde-", "-00000a", "0" * 35, "0" * 36])
async def test_what_fits_nothing_finds_nothing(sessions: Sessions, text: str) -> None:
    await sessions.make(session(0))
    assert await sessions.registry.find(text) == []
    with pytest.raises(NotFound):
        await sessions.registry.locate(str(uuid.UUID(int=7)))


def test_finding_costs_no_more_among_many(many: Many) -> None:
    async def measure(all: Sessions) -> None:
        id = next(iter(all.there))
        for fragment in (id[:8], id[-8:]):
            found, calls = await cost(all, all.registry.find(fragment))
            assert id in found
            assert calls == {"zrangebylex": 2, "hkeys": 1}
        everything = await all.registry.find(id[:6])
        assert len(everything) == 100  # so many show that it was no good beginning

    many(measure)


def _fitting(query: SessionQuery) -> Callable[[Sessions], Awaitable[list[str]]]:
    async def fitting(sessions: Sessions) -> list[str]:
        return sessions.fitting(query)

    return fitting
