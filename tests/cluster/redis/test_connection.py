"""Redis away, cut off, or not fit to keep promises: nothing happens twice.

Errors say in one line what to do, without a password in it.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Protocol

import pytest
from redis import exceptions

from retinue.actors.domain.errors import InvalidValue, StoreUnavailable
from retinue.actors.durable.journal import Append, Key, Loaded, Outcome
from retinue.cluster.redis import connection as connections
from retinue.cluster.redis.connection import Connection, Script
from retinue.cluster.redis.errors import explain, shown
from retinue.cluster.redis.journal import RedisJournal
from tests.kit.redis_server import Line, Moment, RedisServer
from tests.kit.waiting import until

A = Key("scope", "session", "a")
SECRET = "s3cret-Pa55"
OTHER_SECRET = "an0ther-Pa55"


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a name that is short enough for sockets."""
    return tmp_path_factory.mktemp("r")


class Connect(Protocol):
    def __call__(self, url: str, patience_s: float = 10, namespace: str = "") -> Connection: ...


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Makes connections, each in a namespace of its own unless told, and closes them all."""
    made: list[Connection] = []

    def one(url: str, patience_s: float = 10, namespace: str = "") -> Connection:
        made.append(Connection(url, namespace or uuid.uuid4().hex, patience_s))
        return made[-1]

    yield one
    for connection in made:
        await connection.close()


def row(after: int, create: str = "") -> Append:
    name = b"%d" % (after + 1)
    return Append(A, 1, after, name, [b"m" + name], [b"a" + name], create=create)


async def problem_of(connection: Connection) -> StoreUnavailable:
    """What `check` has against a server."""
    with pytest.raises(StoreUnavailable) as caught:
        await connection.check()
    return caught.value


def everything_said(error: BaseException) -> str:
    """All that a log of the error could show."""
    chain: BaseException | None = error
    said = ""
    while chain:
        said += repr(chain) + str(getattr(chain, "details", ""))
        chain = chain.__cause__ or chain.__context__
    return said


# Cut off in the middle


class Cut:
    """A journal whose line to Redis can be cut, and one beside it to look at the outcome."""

    def __init__(self, line: Line, journal: RedisJournal, beside: RedisJournal) -> None:
        self.line = line
        self.journal = journal
        self.beside = beside


@pytest.fixture
async def cut(redis_url: str, place: Path, connect: Connect) -> AsyncIterator[Cut]:
    namespace = uuid.uuid4().hex
    beside = RedisJournal(connect(redis_url, namespace=namespace))
    async with Line(redis_url, place / "l.sock") as line:
        through = connect(line.url, namespace=namespace)
        yield Cut(line, RedisJournal(through), beside)
        await through.close()


both_moments = pytest.mark.parametrize("moment", ["before", "after"])


@both_moments
async def test_an_append_that_was_cut_is_applied_once(cut: Cut, moment: Moment) -> None:
    await cut.journal.activate(A)
    await cut.journal.append([row(0)])
    cut.line.cut(Script("append").digest, moment)
    assert await cut.journal.append([row(1)]) == [Outcome.OK]
    assert cut.line.cuts == 1
    assert await cut.beside.read(A) == Loaded(1, 2, None, [b"1", b"2"])
    assert await cut.beside.messages(A, 0, 9) == [b"m1", b"m2"]
    assert await cut.beside.audit(A, 0, 9) == [b"a1", b"a2"]


@both_moments
async def test_a_creation_that_was_cut_is_applied_once(cut: Cut, moment: Moment) -> None:
    cut.line.cut(Script("append").digest, moment)
    assert await cut.journal.append([row(0, create="me")]) == [Outcome.OK]
    assert cut.line.cuts == 1
    assert await cut.beside.read(A) == Loaded(1, 1, None, [b"1"])
    assert await cut.beside.messages(A, 0, 9) == [b"m1"]


@both_moments
async def test_an_activation_that_was_cut_gives_the_epoch_that_counts(
    cut: Cut, moment: Moment
) -> None:
    await cut.journal.append([row(0, create="me")])
    await cut.journal.activate(A)
    cut.line.cut(Script("activate").digest, moment)
    loaded = await cut.journal.activate(A)
    assert cut.line.cuts == 1
    assert loaded == await cut.beside.read(A)
    assert loaded.rows == [b"1"]


@both_moments
async def test_a_snapshot_that_was_cut_is_there_once(cut: Cut, moment: Moment) -> None:
    await cut.journal.activate(A)
    await cut.journal.append([row(0)])
    await cut.journal.append([row(1)])
    cut.line.cut(Script("snapshot").digest, moment)
    assert await cut.journal.snapshot(A, 1, 1, b"state") is Outcome.OK
    assert cut.line.cuts == 1
    assert await cut.beside.read(A) == Loaded(1, 2, b"state", [b"2"])


# Away


async def test_while_redis_is_away_commands_wait_and_then_go_on(
    place: Path, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = RedisServer(place)
    connection = connect(server.url)
    journal = RedisJournal(connection)
    attempts = 0
    lines = await connection.deployment.at("any")
    exchange = lines.exchange

    async def counted(*commands: Any) -> object:
        nonlocal attempts
        attempts += 1
        return await exchange(*commands)

    monkeypatch.setattr(lines, "exchange", counted)
    try:
        first = asyncio.create_task(journal.append([row(0, create="me")]))
        await until(lambda: attempts >= 2)
        server.start()
        assert await first == [Outcome.OK]
        server.kill()
        attempts = 0
        second = asyncio.create_task(journal.append([row(1)]))
        await until(lambda: attempts >= 2)
        server.start()
        assert await second == [Outcome.OK]
        assert (await journal.read(A)).rows == [b"1", b"2"]
    finally:
        server.kill()


async def test_patience_ends_in_an_error_that_names_the_address(
    place: Path, connect: Connect
) -> None:
    connection = connect(f"unix://:{SECRET}@{place}/nobody.sock", patience_s=0.1)
    with pytest.raises(StoreUnavailable, match="does not answer: start it") as caught:
        await RedisJournal(connection).activate(A)
    assert f"Redis at unix://{place}/nobody.sock" in caught.value.message
    assert SECRET not in everything_said(caught.value)


async def test_connecting_to_nobody_fails_at_once(place: Path, connect: Connect) -> None:
    error = await problem_of(connect(f"unix://{place}/nobody.sock"))
    assert "does not answer: start it, or check the address" in error.message


# Not fit


async def test_a_server_that_keeps_its_data_is_accepted(redis_url: str, connect: Connect) -> None:
    connection = connect(redis_url)
    await connection.check()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"appendonly": "no"}, "`appendonly yes`"),
        ({"maxmemory_policy": "allkeys-lru"}, "maxmemory-policy allkeys-lru.*noeviction"),
        ({"maxmemory": "100kb"}, "is full .*raise maxmemory"),
        ({"replicaof": "127.0.0.1 1"}, "read-only replica .*give the primary's address"),
    ],
)
async def test_a_server_that_cannot_keep_promises_is_refused_by_the_name_of_the_setting(
    place: Path, settings: dict[str, str], says: str, connect: Connect
) -> None:
    replicaof = settings.pop("replicaof", "")
    if replicaof:
        (place / "replica.conf").write_text(f"replicaof {replicaof}\n")
        settings = {"include": str(place / "replica.conf")}
    with RedisServer(place, **settings) as server:
        error = await problem_of(connect(server.url))
    assert error.message.startswith(f"Redis at {server.url} ")
    assert "\n" not in error.message
    with pytest.raises(StoreUnavailable, match=says):
        raise error


async def test_a_server_without_its_file_is_accepted_by_those_who_accept_the_loss(
    place: Path, connect: Connect
) -> None:
    with RedisServer(place, appendonly="no") as server:
        connection = connect(server.url)
        await connection.check(durable=False)


@pytest.mark.parametrize(
    ("info", "says"),
    [
        ({"redis_version": "6.0.16"}, "is version 6.0.16: 6.2 or newer is needed"),
        ({"redis_version": "5.0"}, "is version 5.0: 6.2 or newer is needed"),
        ({"aof_last_write_status": "err"}, "aof_last_write_status.*is the disk full"),
        ({"role": "slave"}, "read-only replica"),
    ],
)
async def test_what_a_server_says_of_itself_counts(
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
    info: dict[str, str],
    says: str,
    connect: Connect,
) -> None:
    connection = connect(redis_url)
    (client,) = await connection.deployment.primaries()
    real = await client.info("all")

    async def told(section: str) -> dict[str, object]:
        return real | info

    monkeypatch.setattr(client, "info", told)
    with pytest.raises(StoreUnavailable, match=says):
        await connection.check()


@pytest.mark.parametrize(
    "info",
    [
        {"redis_version": "6.2.0"},
        {"redis_version": "10.0.1"},
        {"redis_version": "6.0.0", "valkey_version": "8.1.0"},
    ],
)
async def test_newer_servers_and_valkey_are_accepted(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, info: dict[str, str], connect: Connect
) -> None:
    connection = connect(redis_url)
    (client,) = await connection.deployment.primaries()
    real = await client.info("all")

    async def told(section: str) -> dict[str, object]:
        return real | info

    monkeypatch.setattr(client, "info", told)
    await connection.check()


async def test_a_replica_takes_no_appends_and_says_why(place: Path, connect: Connect) -> None:
    (place / "replica.conf").write_text("replicaof 127.0.0.1 1\n")
    with RedisServer(place, include=str(place / "replica.conf")) as server:
        connection = connect(server.url, patience_s=60)
        async with asyncio.timeout(10):
            with pytest.raises(StoreUnavailable, match="read-only replica"):
                await RedisJournal(connection).activate(A)


async def test_a_full_server_takes_no_appends_and_says_why(place: Path, connect: Connect) -> None:
    with RedisServer(place) as server:
        connection = connect(server.url, patience_s=60)
        journal = RedisJournal(connection)
        await journal.append([row(0, create="me")])
        await connection.command("CONFIG", "SET", "maxmemory", "100kb")
        async with asyncio.timeout(10):
            with pytest.raises(StoreUnavailable, match="is full: raise maxmemory"):
                await journal.append([row(1)])
        await connection.command("CONFIG", "SET", "maxmemory", "0")
        assert await journal.append([row(1)]) == [Outcome.OK]


async def test_a_user_who_may_not_run_scripts_is_told_to_check_the_acl(
    place: Path, connect: Connect
) -> None:
    with RedisServer(place) as server:
        owner = connect(server.url)
        await owner.command("ACL", "SETUSER", "reader", "on", f">{SECRET}", "+info", "~*")
        connection = connect(f"unix://reader:{SECRET}@{server.socket}", patience_s=60)
        async with asyncio.timeout(10):
            with pytest.raises(StoreUnavailable, match="check its ACL") as caught:
                await RedisJournal(connection).activate(A)
    assert SECRET not in everything_said(caught.value)


# Passwords


async def test_the_right_password_is_accepted(place: Path, connect: Connect) -> None:
    with RedisServer(place, requirepass=SECRET) as server:
        connection = connect(f"unix://:{SECRET}@{server.socket}")
        await connection.check()


async def test_a_wrong_password_is_said_and_not_shown(place: Path, connect: Connect) -> None:
    with RedisServer(place, requirepass=SECRET) as server:
        url = f"unix://:{OTHER_SECRET}@{server.socket}"
        error = await problem_of(connect(url))
        connection = connect(url, patience_s=60)
        async with asyncio.timeout(10):
            with pytest.raises(StoreUnavailable, match="password") as caught:
                await RedisJournal(connection).activate(A)
    assert "refuses the password or user" in error.message
    assert f"Redis at {server.url} " in error.message
    assert OTHER_SECRET not in everything_said(error) + everything_said(caught.value)


async def test_a_missing_password_is_asked_for(place: Path, connect: Connect) -> None:
    with RedisServer(place, requirepass=SECRET) as server:
        error = await problem_of(connect(server.url))
    assert "wants a password: give it in the URL" in error.message


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:6379",
        "http://localhost",
        f"redis://:{SECRET}@localhost:port",
        f"redis://:{SECRET}/more@localhost:6379",
        f"{SECRET}@localhost",
        f"redis://localhost/0?socket_timeout={SECRET}",
    ],
)
def test_what_is_no_url_is_refused_without_showing_a_password(url: str) -> None:
    with pytest.raises(InvalidValue, match="redis_url: ") as caught:
        Connection(url, "namespace")
    assert caught.value.details == {"field": "redis_url"}
    assert SECRET not in caught.value.message
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        (f"redis://:{SECRET}@localhost", "redis://localhost"),
        (f"rediss://user:{SECRET}@db.example:6380/1", "rediss://db.example:6380/1"),
        (f"redis://user:p@{SECRET}@localhost", "redis://localhost"),
        (f"unix://:{SECRET}@/run/redis.sock", "unix:///run/redis.sock"),
        (f"unix:///run/redis.sock?db=1&password={SECRET}", "unix:///run/redis.sock"),
        (f"{SECRET}@localhost", "localhost"),
    ],
)
def test_a_url_is_shown_without_its_secrets(url: str, text: str) -> None:
    assert shown(url) == text


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            exceptions.ResponseError("MISCONF Redis is configured to save"),
            "can't write to its disk",
        ),
        (exceptions.OutOfMemoryError("OOM command not allowed"), "is full: raise maxmemory"),
        (exceptions.ReadOnlyError("READONLY You can't write"), "read-only replica"),
        (exceptions.AuthenticationError("no"), "refuses the password or user"),
        (exceptions.ResponseError("ERR so"), "refused a command: ERR so"),
        (exceptions.TimeoutError("Timeout reading"), "does not answer"),
        (OSError(2, "No such file"), "does not answer"),
    ],
)
def test_every_error_becomes_one_line_that_says_what_to_do(error: Exception, says: str) -> None:
    explained = explain(error, f"redis://:{SECRET}@localhost")
    assert explained.message.startswith("Redis at redis://localhost ")
    assert says in explained.message
    assert "\n" not in explained.message


def test_patience_is_as_long_as_documented() -> None:
    assert connections.PATIENCE_S == 30.0
