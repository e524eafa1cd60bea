"""One connection to Redis for a process: scripts, patience during an outage, and honest errors.

A command that meets a lost connection or a time-out waits and is sent again, for `PATIENCE_S` in
all, and then fails with StoreUnavailable. That is safe because every script of ours may be
repeated: the journal takes a row once, whoever sends it twice.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import hashlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from importlib import resources
from typing import TypeAlias, TypeVar, cast

from redis.exceptions import NoScriptError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from retinue.actors.domain.errors import StoreUnavailable
from retinue.cluster.redis.deployment import Deployment, deployment
from retinue.cluster.redis.errors import explain, is_outage, shown
from retinue.cluster.redis.raw_connections import Argument, RawConnections
from retinue.cluster.settings import ClusterSettings, DiskWait

PATIENCE_S = 30.0
"""Seconds that a command waits for Redis to come back."""

OLDEST = (6, 2)
OLDEST_TO_WAIT = (7, 2)
_UUID_LENGTH = 36
_ANSWER_LIMIT_S = 10.0
_FIRST_PAUSE_S = 0.02
_LONGEST_PAUSE_S = 1.0

Value: TypeAlias = Argument
T = TypeVar("T")


class Script:
    """A Lua file of this package, called by its digest and loaded where it is not yet known."""

    def __init__(self, name: str) -> None:
        self.text: str = resources.files(__package__).joinpath(f"{name}.lua").read_text()
        self.digest: str = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


@functools.lru_cache(maxsize=65536)
def short(id: str) -> str:
    """A UUID in 22 characters instead of 36; any other id unchanged.

    Keys take most of a small session's memory.
    """
    if len(id) != _UUID_LENGTH:
        return id
    return base64.urlsafe_b64encode(bytes.fromhex(id.replace("-", "")))[:22].decode()


def _key_of(words: Sequence[Value]) -> str:
    """The key that determines the node; without one any node will do."""
    return str(words[1]) if len(words) > 1 else ""


class Connection:
    """The connection of journal and registry to Redis; ``namespace`` prefixes every key."""

    def __init__(
        self,
        url: str,
        namespace: str,
        patience_s: float = PATIENCE_S,
        wait_for_disk: DiskWait | None = None,
    ) -> None:
        """``url`` is in one of the forms of `retinue.cluster.redis.deployment`."""
        self.url = url
        self.wait_for_disk = wait_for_disk
        self._prefix = namespace
        self._patience_s = patience_s
        self.deployment: Deployment = deployment(url)

    @classmethod
    def of(cls, settings: ClusterSettings) -> Connection:
        """A separate connection to the cluster's Redis."""
        return cls(settings.redis_url, settings.namespace, wait_for_disk=settings.wait_for_disk)

    def entity(self, workspace_id: str, kind: str, id: str) -> str:
        """The base key of an entity; all keys of a workspace share a hash tag."""
        return f"{self._prefix}:{{{short(workspace_id)}}}:{kind}:{short(id)}"

    def family(self, workspace_id: str, family: str) -> str:
        """The hash of session summaries of one family."""
        return f"{self._prefix}:{{{short(workspace_id)}}}:family:{short(family)}"

    def stopped(self, workspace_id: str) -> str:
        """The key that holds the reason why a workspace is stopped."""
        return f"{self._prefix}:{{{short(workspace_id)}}}:stopped"

    def held(self, workspace_id: str) -> str:
        """The key that holds the brake of a workspace, with its author, if there is a hold."""
        return f"{self._prefix}:{{{short(workspace_id)}}}:held"

    def key(self, *parts: str) -> str:
        """A key of the registry, which belongs to no workspace."""
        return ":".join((self._prefix, *parts))

    async def run(self, script: Script, keys: Sequence[str], arguments: Sequence[Value]) -> object:
        """Run a script; safe to repeat, and repeated through an outage."""
        return (await self._evaluate(script, keys, arguments))[0]

    async def run_to_disk(
        self, script: Script, keys: Sequence[str], arguments: Sequence[Value]
    ) -> object:
        """Runs a script as `run` does, and waits until it is on the disks of ``wait_for_disk``.

        Raises StoreUnavailable if it is not there in time. Redis waits for writes of the same line
        only, so each call writes: a script that finds its rows there, since it is repeated on
        another line, may write nothing.
        """
        wait = self.wait_for_disk or DiskWait()
        mark = keys[0].partition("}")[0] + "}:disk"
        after = (
            ("SET", mark, ""),
            ("WAITAOF", wait.local, wait.replicas, int(wait.timeout_s * 1000)),
        )

        answer, _, reached = await self._evaluate(script, keys, arguments, *after)
        local, replicas = cast("list[int]", reached)
        if local < wait.local or replicas < wait.replicas:
            raise StoreUnavailable(
                f"Redis at {shown(self.url)} did not bring a write to disk in {wait.timeout_s:g} s "
                f"(wait_for_disk): {local} of {wait.local} here, {replicas} of {wait.replicas} "
                "on replicas"
            )
        return answer

    async def _evaluate(
        self,
        script: Script,
        keys: Sequence[str],
        arguments: Sequence[Value],
        *after: Sequence[Value],
    ) -> list[object]:
        async def call() -> list[object]:
            lines = await self.deployment.at(keys[0])
            known = ("EVALSHA", script.digest, len(keys), *keys, *arguments)
            answers = await lines.exchange(known, *after)
            if isinstance(answers[0], NoScriptError):
                whole = ("EVAL", script.text, len(keys), *keys, *arguments)
                answers = await lines.exchange(whole, *after)
            return _without_refusal(answers)

        return await self.patiently(call)

    async def command(self, *words: Value) -> object:
        """The answer to any command that may be repeated."""
        return await self.patiently(lambda: self._send(words))

    async def value(self, *words: Value) -> bytes | None:
        """The answer to a command that returns a string or nothing."""
        return cast("bytes | None", await self.command(*words))

    async def all(self, commands: Sequence[Sequence[Value]]) -> list[object]:
        """The answers to commands that may be repeated, sent together."""

        async def send() -> list[object]:
            by_node: dict[RawConnections, list[int]] = {}
            for at, words in enumerate(commands):
                by_node.setdefault(await self.deployment.at(_key_of(words)), []).append(at)
            answers: dict[int, object] = {}
            for lines, places in by_node.items():
                found = await lines.exchange(*(commands[at] for at in places))
                answers.update(zip(places, found, strict=True))
            return _without_refusal([answers[at] for at in range(len(commands))])

        return await self.patiently(send) if commands else []

    async def values(self, *words: Value) -> list[bytes]:
        """The answer to a command that returns strings."""
        return cast(list[bytes], await self.command(*words))

    async def _send(self, words: Sequence[Value]) -> object:
        lines = await self.deployment.at(_key_of(words))
        return _without_refusal(await lines.exchange(words))[0]

    async def range(self, key: str, start: int, stop: int) -> list[bytes]:
        """The items ``start`` to ``stop`` (exclusive) of a list."""
        if stop <= start:
            return []
        return await self.values("LRANGE", key, start, stop - 1)

    async def patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        """Await ``call()``, again and again through an outage, for as long as patience lasts."""
        deadline = asyncio.get_running_loop().time() + self._patience_s
        pause = _FIRST_PAUSE_S
        while True:
            try:
                return await _in_time(call())
            except (RedisError, OSError) as error:
                outage = is_outage(error, self.deployment.fails_over)
                if not outage or asyncio.get_running_loop().time() + pause > deadline:
                    raise explain(error, self.url) from error
                await self.deployment.look_again()
            await asyncio.sleep(pause * (0.5 + random.random() / 2))
            pause = min(pause * 2, _LONGEST_PAUSE_S)

    async def check(self, durable: bool = True) -> None:
        """Raises StoreUnavailable, naming the setting, if a server can't keep our promises."""
        try:
            primaries = await self.deployment.primaries()
            infos = [await _in_time(client.info("all")) for client in primaries]
        except (RedisError, OSError) as error:
            raise explain(error, self.url) from error
        for info in infos:
            for problem in _problems(
                cast(dict[str, object], info),
                durable,
                self.deployment.clustered,
                self.wait_for_disk,
            ):
                raise StoreUnavailable(f"Redis at {shown(self.url)} {problem}")

    async def scan(self, pattern: str) -> AsyncIterator[bytes]:
        """The keys that match; for maintenance by hand, never on a hot path."""
        for client in await self.deployment.primaries():
            async for key in client.scan_iter(match=pattern, count=500):
                yield key

    async def close(self) -> None:
        await self.deployment.close()


async def _in_time(answer: Awaitable[T]) -> T:
    try:
        async with asyncio.timeout(_ANSWER_LIMIT_S):
            return await answer
    except TimeoutError:
        raise RedisTimeoutError(f"no answer within {_ANSWER_LIMIT_S:g} s") from None


def _without_refusal(answers: list[object]) -> list[object]:
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return answers


def _problems(
    info: dict[str, object], durable: bool, clustered: bool, wait: DiskWait | None
) -> list[str]:
    version = str(info.get("valkey_version") or info.get("redis_version") or "0.0")
    numbers = tuple(int(part) for part in version.split(".")[:2])
    problems = []
    if numbers < OLDEST:
        problems.append(f"is version {version}: 6.2 or newer is needed")
    if wait and numbers < OLDEST_TO_WAIT:
        problems.append(f"is version {version}: wait_for_disk needs WAITAOF, so 7.2 or newer")
    if info.get("cluster_enabled") and not clustered:
        problems.append("is a node of a Redis Cluster: write redis+cluster://host:port,host:port")
    if info.get("role") != "master":
        problems.append("is a read-only replica (role:slave): give the primary's address")
    if durable and not info.get("aof_enabled"):
        problems.append(
            "does not keep its data: set `appendonly yes`, or pass durable=False to accept the loss"
        )
    policy = str(info.get("maxmemory_policy", "noeviction"))
    if policy != "noeviction":
        problems.append(f"may evict our data (maxmemory-policy {policy}): set it to noeviction")
    limit, used = int(str(info.get("maxmemory", 0))), int(str(info.get("used_memory", 0)))
    if limit and used >= limit:
        problems.append(f"is full (used_memory {used} of maxmemory {limit}): raise maxmemory")
    if info.get("aof_last_write_status", "ok") != "ok":
        problems.append(
            "can't write its append-only file (aof_last_write_status): is the disk full?"
        )
    return problems
