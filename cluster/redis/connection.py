"""One connection to Redis for a process: scripts, patience during an outage, and honest errors.

A command that meets a lost connection or a time-out waits and is sent again, for `PATIENCE_S` in
all, and then fails with StoreUnavailable. That is safe because every script of ours may be
repeated: the journal takes a row once, whoever sends it twice.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from importlib import resources
from typing import TypeAlias, TypeVar, cast

import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    ConnectionError,
    NoScriptError,
    RedisError,
    ResponseError,
    TimeoutError,
)

from actors.domain.errors import InvalidValue, StoreUnavailable
from cluster.redis.packing import pack_at_once

PATIENCE_S = 30.0
"""How long a command waits for Redis to come back, in seconds."""

OLDEST = (6, 2)
_FIRST_PAUSE_S = 0.02
_LONGEST_PAUSE_S = 1.0

Value: TypeAlias = bytes | str | int
T = TypeVar("T")


class Script:
    """A Lua file of this package, called by its digest and loaded where it is not yet known."""

    def __init__(self, name: str) -> None:
        self.text = resources.files(__package__).joinpath(f"{name}.lua").read_text()
        self.digest = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


class Connection:
    """Redis as the journal and the registry use it; ``namespace`` prefixes every key."""

    def __init__(self, url: str, namespace: str, patience_s: float = PATIENCE_S) -> None:
        self.url = url
        self._prefix = namespace
        self._patience_s = patience_s
        self.client: redis.Redis = _client(url)
        pack_at_once(self.client)

    def entity(self, scope: str, kind: str, id: str) -> str:
        """The base key of an entity; all keys of a scope share a hash tag."""
        return f"{self._prefix}:{{{scope}}}:{kind}:{id}"

    def family(self, scope: str, family: str) -> str:
        """The hash of session summaries of one family."""
        return f"{self._prefix}:{{{scope}}}:family:{family}"

    def key(self, *parts: str) -> str:
        """A key of the registry, which belongs to no scope."""
        return ":".join((self._prefix, *parts))

    async def run(self, script: Script, keys: Sequence[str], arguments: Sequence[Value]) -> object:
        """Run a script; safe to repeat, and repeated through an outage."""

        async def call() -> object:
            try:
                return await self.client.evalsha(script.digest, len(keys), *keys, *arguments)
            except NoScriptError:
                return await self.client.eval(script.text, len(keys), *keys, *arguments)

        return await self.patiently(call)

    async def command(self, *words: Value) -> object:
        """Any command that may be repeated."""
        return await self.patiently(lambda: self._send(words))

    async def value(self, *words: Value) -> bytes | None:
        """A command that answers with a string or nothing."""
        return cast("bytes | None", await self.command(*words))

    async def all(self, commands: Sequence[Sequence[Value]]) -> list[object]:
        """The answers to commands that may be repeated, sent together."""

        async def send() -> list[object]:
            async with self.client.pipeline(transaction=False) as together:
                for words in commands:
                    together.execute_command(*words)
                return cast("list[object]", await together.execute())

        return await self.patiently(send) if commands else []

    async def values(self, *words: Value) -> list[bytes]:
        """A command that answers with strings."""
        return cast(list[bytes], await self.command(*words))

    async def _send(self, words: Sequence[Value]) -> object:
        """Sent raw, so that maps and sets come back flat, in the form of the protocol."""
        pool = self.client.connection_pool
        connection = await pool.get_connection()  # type: ignore[no-untyped-call]
        try:
            await connection.send_command(*words)
            return await connection.read_response()
        finally:
            await pool.release(connection)

    async def range(self, key: str, start: int, stop: int) -> list[bytes]:
        """Items ``start`` to ``stop`` (exclusive) of a list."""
        if stop <= start:
            return []
        return cast(
            list[bytes],
            await self.patiently(lambda: self.client.lrange(key, start, stop - 1)),
        )

    async def patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        """Await ``call()``, again and again through an outage, for as long as patience lasts."""
        deadline = asyncio.get_running_loop().time() + self._patience_s
        pause = _FIRST_PAUSE_S
        while True:
            try:
                return await call()
            except (RedisError, OSError) as error:
                if not _is_outage(error) or asyncio.get_running_loop().time() + pause > deadline:
                    raise explain(error, self.url) from error
            await asyncio.sleep(pause * (0.5 + random.random() / 2))
            pause = min(pause * 2, _LONGEST_PAUSE_S)

    async def check(self, durable: bool = True) -> None:
        """Refuse, in one line that names the setting, a server that can't keep what we promise."""
        try:
            info = cast(dict[str, object], await self.client.info("all"))
        except (RedisError, OSError) as error:
            raise explain(error, self.url) from error
        for problem in _problems(info, durable):
            raise StoreUnavailable(f"Redis at {shown(self.url)} {problem}")

    async def scan(self, pattern: str) -> AsyncIterator[bytes]:
        """Keys that match; for maintenance by hand, never on a hot path."""
        async for key in self.client.scan_iter(match=pattern, count=500):
            yield key

    async def close(self) -> None:
        await self.client.aclose()


def _client(url: str) -> redis.Redis:
    try:
        return redis.Redis.from_url(
            url,
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=10,
            socket_connect_timeout=5,
        )
    except ValueError:
        raise InvalidValue(
            f"redis_url: {shown(url)!r} is no Redis URL; give redis://user:password@host:6379 or "
            "unix:///path/to.sock, with special characters of a password percent-encoded",
            field="redis_url",
        ) from None


def _problems(info: dict[str, object], durable: bool) -> list[str]:
    version = str(info.get("valkey_version") or info.get("redis_version") or "0.0")
    numbers = tuple(int(part) for part in version.split(".")[:2])
    problems = []
    if numbers < OLDEST:
        problems.append(f"is version {version}: 6.2 or newer is needed")
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


def explain(error: Exception, url: str) -> StoreUnavailable:
    """The error a person can act on, in one line."""
    error = _root(error)
    text, where = str(error), shown(url)
    code = getattr(error, "status_code", None) or ""
    known = {
        "WRONGPASS": "refuses the password or user: check the URL's user and password",
        "NOAUTH": "wants a password: give it in the URL",
        "invalid username-password": "refuses the password or user: check the URL",
        "OOM": "is full: raise maxmemory",
        "MISCONF": "can't write to its disk: is it full? (stop-writes-on-bgsave-error)",
        "READONLY": "is a read-only replica: give the primary's address",
        "NOPERM": "does not let this user run our commands: check its ACL",
    }
    for sign, meaning in known.items():
        if sign.lower() in f"{code} {text}".lower():
            return StoreUnavailable(f"Redis at {where} {meaning}", cause=text)
    if isinstance(error, AuthenticationError):
        return StoreUnavailable(f"Redis at {where} refuses the password or user", cause=text)
    if isinstance(error, ResponseError):
        return StoreUnavailable(f"Redis at {where} refused a command: {text}", cause=text)
    return StoreUnavailable(
        f"Redis at {where} does not answer: start it, or check the address ({text})", cause=text
    )


def _is_outage(error: Exception) -> bool:
    """Whether waiting may help."""
    cause = _root(error)
    return isinstance(cause, ConnectionError | TimeoutError | OSError) and not isinstance(
        cause, AuthenticationError
    )


def _root(error: Exception) -> Exception:
    """What the client library has wrapped: it reports a refused login as a lost connection."""
    inner = error.args[0] if error.args else None
    return inner if isinstance(inner, RedisError) else error


def shown(url: str) -> str:
    """The URL without user, password and options, so without any secret."""
    scheme, separator, rest = url.partition("://")
    place = (rest if separator else url).rpartition("@")[2].partition("?")[0]
    return f"{scheme}{separator}{place}" if separator else place
