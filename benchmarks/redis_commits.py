"""What a commit costs Redis: sessions that authorise actions, their journal in an embedded server.

No Ray and no agents: the entities of one process and the scripts that they commit with.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import cast

from benchmarks.harness import median, timed
from retinue.actors.domain.permissions.decision import Decision
from retinue.actors.domain.session.commands import (
    AcceptRun,
    Create,
    FinishRun,
    RecordDecision,
    StartRun,
)
from retinue.actors.domain.session.result import Result
from retinue.actors.domain.session.settings import Limits
from retinue.actors.domain.session.state import Budget, Profile, operation
from retinue.actors.domain.values.keyring import Keyring
from retinue.actors.durable.committer import Committer
from retinue.actors.durable.entity import Entity
from retinue.actors.durable.journal import Key
from retinue.actors.durable.machines import SESSION
from retinue.actors.session.history import SessionEntity
from retinue.cluster.redis.connection import Connection
from retinue.cluster.redis.journal import RedisJournal
from retinue.cluster.redis.server import EmbeddedRedis

TOGETHER = 256
"""So many sessions of one process commit at once: as many as fit into one group."""

_IN_A_ROW = 2000
_ACTIONS = 40
_COST = 100_000
_RUN = "run"


async def measure() -> Mapping[str, float]:
    """Figures of commits one at a time, of group commits, and of what they leave behind."""
    with tempfile.TemporaryDirectory(prefix="retinue-") as home:
        server = EmbeddedRedis(Path(home))
        try:
            async with _committer(server.url) as (connection, committer):
                return await _alone(connection, committer) | await _together(connection, committer)
        finally:
            server.stop()


@asynccontextmanager
async def _committer(url: str) -> AsyncIterator[tuple[Connection, Committer]]:
    connection = Connection(url, "bench")
    try:
        yield connection, Committer(RedisJournal(connection))
    finally:
        await connection.close()


async def _alone(connection: Connection, committer: Committer) -> dict[str, float]:
    """One session, one commit after another."""
    (one,) = await _at_work(committer, 1)
    cpu = await _cpu_s(connection)
    seconds = [await timed(partial(_authorized, one, at)) for at in range(_IN_A_ROW)]
    spent = await _cpu_s(connection) - cpu
    return {
        "commit_p50_ms": median(seconds) * 1e3,
        "redis_cpu_us_per_commit_alone": spent / _IN_A_ROW * 1e6,
    }


async def _together(connection: Connection, committer: Committer) -> dict[str, float]:
    """Many sessions whose events one script call stores, and what stays of each action."""
    sessions = await _at_work(committer, TOGETHER)
    count = TOGETHER * _ACTIONS
    before, log, cpu = await _used(connection), await _log(connection), await _cpu_s(connection)
    begin = time.perf_counter()
    await asyncio.gather(*(_acts(one) for one in sessions))
    seconds, spent = time.perf_counter() - begin, await _cpu_s(connection) - cpu
    rows, log = await _used(connection) - before, await _log(connection) - log
    for one in sessions:  # one after another: connections take memory too
        await _ends(one)
    kept = await _used(connection) - before
    return {
        "commits_per_s": count / seconds,
        "redis_cpu_us_per_commit": spent / count * 1e6,
        "redis_bytes_per_commit": rows / count,
        "log_bytes_per_commit": log / count,
        "kept_bytes_per_action": kept / count,
    }


async def _at_work(committer: Committer, count: int) -> Sequence[SessionEntity]:
    """New sessions of one workspace, each with a run under way."""
    keyring, scope = Keyring(bytes(32)), str(uuid.uuid4())
    sessions = []
    for _ in range(count):
        id = str(uuid.uuid4())
        entity: SessionEntity = Entity(
            SESSION, Key(scope, SESSION.kind, id), committer, keyring, _now, id
        )
        budget = Budget(10**15, 10**12, 80)
        entity.do(
            Create(Profile(id, "0" * 16, scope, id, _now(), None, "shared", budget, Limits()))
        )
        entity.do(AcceptRun(_RUN, ""))
        entity.do(StartRun(_RUN, 1))
        sessions.append(entity)
    await asyncio.gather(*(one.committed() for one in sessions))
    return sessions


async def _acts(one: SessionEntity) -> None:
    for at in range(_ACTIONS):
        await _authorized(one, at)


async def _authorized(one: SessionEntity, at: int) -> None:
    """One allowed action, durable, as a turn records it."""
    key = f"authorize/{at}"
    decision = Decision("allowed", proof="policy", operation=operation(_RUN, key), amount=_COST)
    await one.execute(RecordDecision(_RUN, key, "file_read", decision, "read /srv/project/a.txt"))


async def _ends(one: SessionEntity) -> None:
    """The run is over, and the rows are replaced by a snapshot."""
    result = Result(one.key.id, "completed", "ok", run_id=_RUN)
    await one.execute(FinishRun(_RUN, result))
    await one.compact()


def _now() -> int:
    return time.time_ns() // 1000


async def _info(connection: Connection, section: str) -> object:
    (client,) = await connection.deployment.primaries()
    return await client.info(section)


async def _used(connection: Connection) -> int:
    """Bytes that Redis uses, without its buffers."""
    info = cast("dict[str, int]", await _info(connection, "memory"))
    return info["used_memory"] - info["mem_clients_normal"] - info["mem_aof_buffer"]


async def _log(connection: Connection) -> int:
    """Bytes of the append-only file."""
    info = cast("dict[str, int]", await _info(connection, "persistence"))
    return info["aof_current_size"]


async def _cpu_s(connection: Connection) -> float:
    """Seconds of a processor that Redis's one thread for commands has taken."""
    info = cast("dict[str, float]", await _info(connection, "cpu"))
    return info["used_cpu_user"] + info["used_cpu_sys"]
