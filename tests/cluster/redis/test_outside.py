"""Redis as others deploy it: TLS, users with few rights, fail-overs, a Cluster, waiting for disks.

All servers are real. TLS ends in front of the server, in a real handshake, since not every
`redis-server` was built with it; `WAITAOF` is answered in its place where it has none.
"""

from __future__ import annotations

import asyncio
import subprocess
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Protocol

import pytest
from redis.crc import key_slot

from retinue.actors.domain.errors import InvalidValue, StoreUnavailable
from retinue.actors.domain.session.settings import Limits
from retinue.actors.domain.session.state import Budget, Profile
from retinue.actors.domain.values.ids import derived_id, uuid7
from retinue.actors.domain.values.keyring import Keyring
from retinue.actors.durable.journal import Append, Key, Outcome
from retinue.actors.views import SessionKey, SessionQuery
from retinue.cluster.doctor.machine import server_version
from retinue.cluster.redis.connection import Connection
from retinue.cluster.redis.journal import RedisJournal
from retinue.cluster.redis.registry import RedisRegistry
from retinue.cluster.redis.server import find_binary
from retinue.cluster.settings import DiskWait, disk_wait
from tests.kit.redis_outside import (
    Certificates,
    DiskFront,
    Node,
    Sentinel,
    TlsFront,
    redis_cluster,
    wait_for,
    watched,
)
from tests.kit.redis_server import RedisServer

A = Key("scope", "session", "a")
OK = Outcome.OK
SCOPE = derived_id("a workspace")
SECRET = "s3cret-Pa55"


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a name that is short enough for sockets."""
    return tmp_path_factory.mktemp("o")


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="session")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Certificates of an authority that nobody here trusts."""
    return Certificates(tmp_path_factory.mktemp("theirs"))


class Connect(Protocol):
    def __call__(
        self, url: str, patience_s: float = 40, wait_for_disk: DiskWait | None = None
    ) -> Connection: ...


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Makes connections to one namespace, and closes them all."""
    made: list[Connection] = []
    namespace = uuid.uuid4().hex

    def one(url: str, patience_s: float = 40, wait_for_disk: DiskWait | None = None) -> Connection:
        made.append(Connection(url, namespace, patience_s, wait_for_disk))
        return made[-1]

    yield one
    for connection in made:
        await connection.close()


def row(after: int, key: Key = A) -> Append:
    create = "me" if after == 0 else ""
    return Append(key, 1, after, b"%d" % (after + 1), [b"m%d" % after], create=create)


def rows(count: int) -> list[bytes]:
    return [b"%d" % (after + 1) for after in range(count)]


async def problem_of(connection: Connection) -> StoreUnavailable:
    """Why neither `check` nor a command gets on, at once and not after waiting."""
    async with asyncio.timeout(10):
        with pytest.raises(StoreUnavailable) as caught:
            await connection.check()
        with pytest.raises(StoreUnavailable) as again:
            await RedisJournal(connection).activate(A)
    assert again.value.message == caught.value.message
    assert "\n" not in caught.value.message
    return caught.value


def profile(id: str) -> Profile:
    return Profile(
        id=id,
        user_id="0123456789abcdef",
        workspace_id=SCOPE,
        family_id=id,
        created_at=1_000_000,
        agent=None,
        isolation="shared",
        budget=Budget(0, 0, 0),
        limits=Limits(),
    )


async def works(connection: Connection) -> None:
    """Everything that journal and registry ask of Redis is answered."""
    await connection.check()
    journal, registry = (
        RedisJournal(connection),
        RedisRegistry(connection, Keyring.parse("00" * 32)),
    )
    assert await journal.append([row(0)]) == [OK]
    assert (await journal.activate(A)).rows == rows(1)
    assert await journal.snapshot(A, 2, 1, b"state") is OK
    assert (await journal.read(A)).snapshot == b"state"
    assert await journal.messages(A, 0, 9) == [b"m0"]
    assert await journal.audit(A, 0, 9) == []
    await registry.put_agent("digest", b"code")
    assert await registry.agent("digest") == b"code"
    root, child = (uuid7(1_000_000, bytes([at] * 10)) for at in (1, 2))
    await registry.register_root(profile(root))
    await registry.register(SessionKey(SCOPE, root), [child])
    assert await registry.places([root, child]) == dict.fromkeys(
        (root, child), SessionKey(SCOPE, root)
    )
    await registry.put_workspace(await registry.workspace("scope"))
    assert [one.workspace_id for one in await registry.workspaces()] == ["scope"]
    await registry.mark_running(root)
    assert await registry.running() == [root]
    await registry.unmark_running(root)
    assert await registry.family(SCOPE, root) == []
    assert (await registry.page(SessionQuery(), None, 10)).sessions == []
    assert await registry.find(child[-6:]) == [child]
    assert len([key async for key in connection.scan("*")]) > 0


# TLS


@pytest.fixture
def server(place: Path) -> Iterator[RedisServer]:
    with RedisServer(place) as server:
        yield server


async def test_over_tls_everything_works(
    server: RedisServer, certificates: Certificates, connect: Connect
) -> None:
    async with TlsFront(server, certificates.context()) as front:
        await works(connect(f"rediss://127.0.0.1:{front.port}?ssl_ca_certs={certificates.ca}"))


async def test_a_server_of_another_authority_is_not_trusted(
    server: RedisServer, certificates: Certificates, strangers: Certificates, connect: Connect
) -> None:
    async with TlsFront(server, strangers.context()) as front:
        url = f"rediss://:{SECRET}@127.0.0.1:{front.port}?ssl_ca_certs={certificates.ca}"
        error = await problem_of(connect(url))
    assert error.message == (
        f"Redis at rediss://127.0.0.1:{front.port} shows a TLS certificate that is not trusted: "
        "name its CA in the URL with ?ssl_ca_certs=/path/to/ca.pem, and the host as the "
        "certificate does"
    )


async def test_a_client_certificate_is_shown_where_it_is_named(
    server: RedisServer, certificates: Certificates, connect: Connect
) -> None:
    own = f"ssl_certfile={certificates.client}&ssl_keyfile={certificates.client_key}"
    async with TlsFront(server, certificates.context(wants_client=True)) as front:
        url = f"rediss://127.0.0.1:{front.port}?ssl_ca_certs={certificates.ca}"
        await works(connect(f"{url}&{own}"))
        with pytest.raises(StoreUnavailable):
            await connect(url, patience_s=0.1).command("GET", "key")


@pytest.mark.parametrize("name", ["ssl_ca_certs", "ssl_certfile", "ssl_keyfile"])
def test_a_file_that_is_not_there_is_named_by_its_option(name: str) -> None:
    with pytest.raises(InvalidValue, match=f"{name} names no file that is here"):
        Connection(f"rediss://localhost?{name}=/nowhere.pem", "namespace")


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost?colour=red",
        "redis+sentinel://localhost:26379",
        "redis+sentinel://localhost/prime?colour=red",
        "redis+sentinel://localhost:port/prime",
        "redis+sentinel:///prime",
        "redis+cluster://",
        "redis+cluster://localhost:7000/3",
        "redis+cluster://localhost?colour=red",
        "redis+ring://localhost",
        "unix+cluster:///socket",
        f"redis+sentinel://user:{SECRET}@localhost:port/prime",
    ],
)
def test_what_is_no_url_is_refused_with_the_forms_there_are(url: str) -> None:
    with pytest.raises(InvalidValue, match=r"redis\+cluster://host:7000,host:7001") as caught:
        Connection(url, "namespace")
    assert SECRET not in caught.value.message
    assert caught.value.__suppress_context__


# Users with few rights

COMMANDS = (
    "+info +time +eval +evalsha +set +get +getrange +del +hget +hset +hsetnx +hdel +hmget +hincrby "
    "+hgetall +hkeys +rpush +lrange +lindex +ltrim +llen +sadd +srem +smembers +zadd +zrem +zrange "
    "+zrangebylex +zrevrangebylex +zlexcount +scan"
)
"""All that Retinue runs; SECURITY.md has them too."""


def user(node: Node, commands: str = COMMANDS, keys: str = "*") -> str:
    with node.client() as client:
        client.acl_setuser(
            "agent",
            enabled=True,
            passwords=[f"+{SECRET}"],
            commands=commands.split(),
            keys=[keys],
        )
    return f"redis://agent:{SECRET}@127.0.0.1:{node.port}"


async def test_a_user_with_the_documented_rights_is_enough(place: Path, connect: Connect) -> None:
    with Node(place / "n") as node:
        await works(connect(user(node)))


async def test_security_md_has_the_rights() -> None:
    text = (Path(__file__).parents[3] / "SECURITY.md").read_text()
    assert COMMANDS in " ".join(text.split())


async def test_a_right_that_scripts_lack_is_said(place: Path, connect: Connect) -> None:
    with Node(place / "n") as node:
        url = user(node, COMMANDS.replace("+hincrby ", ""))
        with pytest.raises(StoreUnavailable, match="check its ACL") as caught:
            await RedisJournal(connect(url)).activate(A)
    assert SECRET not in caught.value.message


async def test_keys_that_are_not_the_users_are_said(place: Path, connect: Connect) -> None:
    with Node(place / "n") as node:
        url = user(node, keys="another:*")
        with pytest.raises(StoreUnavailable, match="check its ACL"):
            await RedisJournal(connect(url)).activate(A)


# Sentinel


async def test_a_fail_over_is_waited_for_and_loses_nothing_that_the_replica_had(
    place: Path, connect: Connect
) -> None:
    with watched(place) as (primary, replica, sentinel):
        connection = connect(sentinel.url)
        await works(connection)
        journal, key = RedisJournal(connection), Key("scope", "session", "b")
        for after in range(20):
            assert await journal.append([row(after, key)]) == [OK]
        await asyncio.to_thread(wait_for, lambda: _has_all(primary, replica))
        primary.kill()
        for after in range(20, 40):
            assert await journal.append([row(after, key)]) == [OK]
        assert (await journal.read(key)).rows == rows(40)
        await connection.check()


async def test_a_primary_that_becomes_a_replica_is_left_for_the_new_one(
    place: Path, connect: Connect
) -> None:
    with watched(place) as (primary, replica, sentinel):
        connection = connect(sentinel.url)
        journal = RedisJournal(connection)
        assert await journal.append([row(0)]) == [OK]
        await asyncio.to_thread(wait_for, lambda: _has_all(primary, replica))
        with primary.client() as old, replica.client() as new:
            new.replicaof("NO", "ONE")
            sentinel.name_instead(replica)
            old.replicaof("127.0.0.1", replica.port)
        assert await journal.append([row(1)]) == [OK]
        assert (await journal.read(A)).rows == rows(2)


async def test_sentinels_that_know_no_such_primary_are_told_of(
    place: Path, connect: Connect
) -> None:
    with Node(place / "1") as primary, Sentinel(place / "s", primary) as sentinel:
        wait_for(sentinel.answers)
        connection = connect(sentinel.url.replace("/prime", "/other"), patience_s=0.1)
        with pytest.raises(StoreUnavailable, match="No master found for 'other'"):
            await connection.check()


async def test_sentinels_that_want_a_password_of_their_own_get_it(
    place: Path, connect: Connect
) -> None:
    with Node(place / "1") as primary, Sentinel(place / "s", primary, SECRET) as sentinel:
        wait_for(sentinel.answers)
        await works(connect(f"{sentinel.url}?sentinel_password={SECRET}"))
        error = await problem_of(connect(sentinel.url))
    assert error.message == (
        f"Redis at {sentinel.url} has Sentinels that want a password: ?sentinel_password=… in the "
        "URL"
    )


def _role(node: Node) -> object:
    with node.client() as client:
        return client.info("replication")["role"]


def _has_all(primary: Node, replica: Node) -> bool:
    with primary.client() as one, replica.client() as other:
        written = one.info("replication")["master_repl_offset"]
        info = other.info("replication")
        return bool(info.get("master_link_status") == "up" and info["slave_repl_offset"] == written)


# A Cluster


async def test_a_cluster_holds_workspaces_on_different_nodes(
    cluster_url: str, connect: Connect
) -> None:
    connection = connect(cluster_url)
    await works(connection)
    journal = RedisJournal(connection)
    keys = [Key(f"workspace {at}", "session", "a") for at in range(12)]
    assert await journal.append([row(0, key) for key in keys]) == [OK] * 12
    for key in keys:
        assert (await journal.read(key)).rows == rows(1)
    counts = [await node.dbsize() for node in await connection.deployment.primaries()]
    assert len(counts) == 3
    assert all(counts)


async def test_a_node_of_a_cluster_says_that_it_is_one(cluster_url: str, connect: Connect) -> None:
    port = cluster_url.rpartition(":")[2]
    with pytest.raises(StoreUnavailable, match=r"node of a Redis Cluster: write redis\+cluster"):
        await connect(f"redis://127.0.0.1:{port}").check()


async def test_a_single_server_says_that_it_is_no_cluster(place: Path, connect: Connect) -> None:
    with Node(place / "n") as node:
        error = await problem_of(connect(f"redis+cluster://127.0.0.1:{node.port}"))
    assert "is no Redis Cluster" in error.message


async def test_a_clusters_fail_over_in_the_middle_of_appends_loses_none(
    place: Path, connect: Connect
) -> None:
    with redis_cluster(place, replicas=1) as nodes:
        replica = nodes[3]
        connection = connect(f"redis+cluster://127.0.0.1:{nodes[1].port}")
        journal, key = RedisJournal(connection), _on_first(nodes)
        switched, count = asyncio.Event(), 0

        async def append() -> None:
            nonlocal count
            after_switch = 0
            while after_switch < 10:
                assert await journal.append([row(count, key)]) == [OK]
                count += 1
                after_switch += switched.is_set()

        appending = asyncio.create_task(append())
        replica.take_over()
        await asyncio.to_thread(wait_for, lambda: _role(replica) == "master")
        nodes[0].kill()
        switched.set()
        await appending
        assert (await journal.read(key)).rows == rows(count)


def _on_first(nodes: list[Node]) -> Key:
    """A key whose slot the first node has."""
    workspace_id = next(f"s{at}" for at in range(1000) if key_slot(f"s{at}".encode()) < 16384 // 3)
    return Key(workspace_id, "session", "a")


# Waiting for disks


def waits() -> bool:
    """Whether the server that tests start has WAITAOF."""
    said = subprocess.run([find_binary(), "--version"], capture_output=True, text=True, check=True)
    version = server_version(said.stdout)
    return version is not None and tuple(map(int, version.split(".")[:2])) >= (7, 2)


@pytest.fixture
async def disk_url(place: Path) -> AsyncIterator[str]:
    """A server with WAITAOF, which is our own stand-in where the real one is too old."""
    with RedisServer(place, appendfsync="always") as server:
        if waits():
            yield server.url
        else:
            async with DiskFront(server.url, place / "f.sock") as front:
                yield front.url


async def test_an_append_counts_when_it_is_on_disk(disk_url: str, connect: Connect) -> None:
    connection = connect(disk_url, wait_for_disk=DiskWait())
    journal = RedisJournal(connection)
    for after in range(3):
        assert await journal.append([row(after)]) == [OK]
    assert await journal.append([row(2)]) == [OK]
    assert (await journal.read(A)).rows == rows(3)
    await connection.close()


async def test_an_append_that_does_not_get_to_the_disks_asked_for_is_not_acknowledged(
    disk_url: str, connect: Connect
) -> None:
    connection = connect(disk_url, wait_for_disk=DiskWait(replicas=1, timeout_s=0.1))
    with pytest.raises(
        StoreUnavailable, match=r"did not bring a write to disk in 0\.1 s"
    ) as caught:
        await RedisJournal(connection).append([row(0)])
    assert "1 of 1 here, 0 of 1 on replicas" in caught.value.message
    await connection.close()


@pytest.mark.skipif(waits(), reason="the server here is new enough")
async def test_a_server_that_is_too_old_to_wait_is_refused(
    server: RedisServer, connect: Connect
) -> None:
    connection = connect(server.url, wait_for_disk=DiskWait())
    with pytest.raises(StoreUnavailable, match=r"wait_for_disk needs WAITAOF, so 7\.2 or newer"):
        await connection.check()
    with pytest.raises(StoreUnavailable, match="unknown command"):
        await RedisJournal(connection).append([row(0)])


async def test_nothing_waits_for_disks_unless_told(server: RedisServer, connect: Connect) -> None:
    connection = connect(server.url)
    assert await RedisJournal(connection).append([row(0)]) == [OK]
    (client,) = await connection.deployment.primaries()
    stats = await client.info("commandstats")
    assert "cmdstat_set" not in stats
    assert "cmdstat_waitaof" not in stats


@pytest.mark.parametrize(
    ("text", "wait"),
    [
        (None, None),
        ("", None),
        ("0", None),
        ("1", DiskWait()),
        ("1,2", DiskWait(replicas=2)),
        ("0,2", DiskWait(local=0, replicas=2)),
    ],
)
def test_waiting_is_a_setting_in_the_environment(text: str | None, wait: DiskWait | None) -> None:
    assert disk_wait(text) == wait


def test_a_setting_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(InvalidValue, match="RETINUE_WAIT_FOR_DISK must be"):
        disk_wait("always")
