"""The ways in which a Redis is deployed, each with a form of URL and a client of its own.

| URL | what is there |
| --- | --- |
| ``redis://user:password@host:6379/0`` | one server |
| ``unix:///path/to.sock`` | one server on this machine |
| ``redis+sentinel://user:password@host:26379,host:26379/name`` | the primary that Sentinels name |
| ``redis+cluster://user:password@host:7000,host:7001`` | a Redis Cluster |

``rediss`` in place of ``redis`` is TLS. Options follow a question mark, as redis-py takes them:
``ssl_ca_certs``, ``ssl_certfile`` and ``ssl_keyfile`` name files, ``ssl_check_hostname=false`` is
for certificates that name no host, ``sentinel_username`` and ``sentinel_password`` are for the
Sentinels themselves. Special characters of a password are percent-encoded.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias, cast

import redis.asyncio as redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.connection import SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException, RedisError, ResponseError

from actors.domain.errors import InvalidValue
from cluster.redis.explanation import shown
from cluster.redis.packing import packing

SCHEMES = (
    "redis://",
    "rediss://",
    "unix://",
    "redis+sentinel://",
    "rediss+sentinel://",
    "redis+cluster://",
    "rediss+cluster://",
)
FORMS = (
    "redis://user:password@host:6379, rediss:// for TLS, unix:///path/to.sock, "
    "redis+sentinel://host:26379,host:26379/name or redis+cluster://host:7000,host:7001"
)
_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")

Word: TypeAlias = bytes | str | int
Options: TypeAlias = dict[str, Any]


class Deployment(Protocol):
    """What `cluster.redis.connection` needs beside the commands of a client."""

    client: redis.Redis
    clustered: bool
    fails_over: bool
    """Whether a refusal by a replica may pass, since somebody else becomes the primary."""

    async def exchange(self, *commands: Sequence[Word]) -> list[object]:
        """Commands on the key that the first one names, sent in one go, on one line.

        Answers are raw, so that maps and sets come back flat, in the form of the protocol; one
        that is a refusal is an Exception in the list.
        """
        ...

    async def infos(self) -> list[dict[str, object]]:
        """What each server that takes writes says of itself."""
        ...

    async def look_again(self) -> None:
        """Somebody else may be the primary now: find out before the next command."""
        ...

    async def close(self) -> None: ...


class Server:
    """One server, or the primary that Sentinels name."""

    clustered = False

    def __init__(self, client: redis.Redis, fails_over: bool = False) -> None:
        self.client = client
        self.fails_over = fails_over
        pool = client.connection_pool
        pool.connection_class = packing(pool.connection_class)

    async def exchange(self, *commands: Sequence[Word]) -> list[object]:
        pool = self.client.connection_pool
        line = await pool.get_connection()  # type: ignore[no-untyped-call]
        try:
            return await _exchange(line, commands)
        finally:
            await pool.release(line)

    async def infos(self) -> list[dict[str, object]]:
        return [cast("dict[str, object]", await self.client.info("all"))]

    async def look_again(self) -> None:
        await self.client.connection_pool.disconnect(inuse_connections=False)

    async def close(self) -> None:
        await self.client.aclose()


class Watched(Server):
    """The primary that Sentinels name at the time of a connect."""

    def __init__(self, sentinel: Sentinel, name: str) -> None:
        super().__init__(sentinel.master_for(name), fails_over=True)
        self._sentinel = sentinel

    async def close(self) -> None:
        await super().close()
        await self._sentinel.aclose()


class Cluster:
    """A Redis Cluster; each command goes to the node that has its key."""

    clustered = True
    fails_over = True

    def __init__(self, cluster: RedisCluster) -> None:
        self._cluster = cluster
        self.client = cast(redis.Redis, cluster)  # it offers the same commands
        options = cluster.connection_kwargs  # which all its nodes share
        options["connection_class"] = packing(options["connection_class"])
        for node in cluster.nodes_manager.startup_nodes.values():
            node.connection_class = options["connection_class"]

    async def exchange(self, *commands: Sequence[Word]) -> list[object]:
        node = await self._node(commands[0])
        line = node.acquire_connection()
        try:
            await node.disconnect_if_needed(line)
            return await _exchange(line, commands)
        finally:
            node.release(line)

    async def infos(self) -> list[dict[str, object]]:
        found = await self.client.info("all", target_nodes=RedisCluster.PRIMARIES)
        by_node = cast("dict[str, dict[str, object]]", found)
        many = all(isinstance(one, dict) for one in by_node.values())
        return list(by_node.values()) if many else [cast("dict[str, object]", found)]

    async def look_again(self) -> None:
        with contextlib.suppress(RedisError, RedisClusterException, OSError):
            await self._cluster.nodes_manager.initialize()

    async def close(self) -> None:
        await self._cluster.aclose()

    async def _node(self, words: Sequence[Word]) -> ClusterNode:
        await self._cluster.initialize()
        key = words[3] if words[0] in ("EVAL", "EVALSHA") else words[1]
        node = self._cluster.get_node_from_key(str(key))
        if node is None:
            raise RedisClusterException(f"no node has the slot of {key!r}")
        return node


def deployment(url: str) -> Deployment:
    """What ``url`` names; InvalidValue, without its secrets, if it names nothing."""
    scheme, separator, rest = url.partition("://")
    base, _, kind = scheme.partition("+")
    try:
        if not kind:
            return Server(_one(url))
        if separator and base in ("redis", "rediss") and kind in ("sentinel", "cluster"):
            return _many(base, kind, rest)
    except (ValueError, TypeError, RedisClusterException) as error:
        why = str(error) if isinstance(error, _Wrong) else ""
        raise _invalid(url, why) from None
    raise _invalid(url)


class _Wrong(ValueError):
    """A mistake in a URL, said without anything of the URL that may be secret."""


def _invalid(url: str, why: str = "") -> InvalidValue:
    return InvalidValue(
        f"redis_url: {shown(url)!r} is no Redis URL{': ' if why else ''}{why}; give {FORMS}, with "
        "special characters of a password percent-encoded",
        field="redis_url",
    )


def _one(url: str) -> redis.Redis:
    client: redis.Redis = redis.Redis.from_url(url, **_common())
    pool = client.connection_pool
    _check(pool.connection_kwargs)
    pool.connection_class(**pool.connection_kwargs)  # an unknown option is an error now
    return client


def _many(base: str, kind: str, rest: str) -> Deployment:
    place, _, query = rest.partition("?")
    user, at, hosts_and_name = place.rpartition("@")
    hosts, _, name = hosts_and_name.partition("/")
    options: Options = {}
    nodes: list[tuple[str, int]] = []
    for host in hosts.split(","):
        options = dict(parse_url(f"{base}://{user}{at}{host}?{query}"))
        default = 26379 if kind == "sentinel" else 6379
        nodes.append((options.pop("host"), options.pop("port", default)))
    options["ssl"] = options.pop("connection_class", None) is SSLConnection
    _check(options)
    options |= {name: value for name, value in _common().items() if name not in options}
    if kind == "cluster":
        return _cluster(nodes, options, name)
    if not name:
        raise _Wrong("the name of the primary follows the Sentinels, as in host:26379/mymaster")
    return _watched(nodes, options, name)


def _watched(nodes: list[tuple[str, int]], options: Options, name: str) -> Deployment:
    own = {
        word: options.pop(f"sentinel_{word}")
        for word in ("username", "password")
        if f"sentinel_{word}" in options
    }
    for_sentinels = {
        word: value
        for word, value in options.items()
        if word.startswith(("ssl", "socket_")) or word in ("protocol", "retry")
    }
    if not options["ssl"]:
        del options["ssl"]
    sentinel = Sentinel(  # type: ignore[no-untyped-call]
        nodes, sentinel_kwargs=for_sentinels | own, **options
    )
    watched = Watched(sentinel, name)
    pool = watched.client.connection_pool
    pool.connection_class(**pool.connection_kwargs)  # an unknown option is an error now
    return watched


def _cluster(nodes: list[tuple[str, int]], options: Options, name: str) -> Deployment:
    if name not in ("", "0"):
        raise _Wrong("a Redis Cluster has no databases, so nothing follows its hosts")
    startup = [ClusterNode(host, port) for host, port in nodes]
    return Cluster(RedisCluster(startup_nodes=startup, **options))


def _common() -> Options:
    return {
        "protocol": 2,
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": 10,
        "socket_connect_timeout": 5,
    }


def _check(options: Options) -> None:
    for name in _FILES:
        file = options.get(name)
        if file and not Path(file).is_file():
            raise _Wrong(f"{name} names no file that is here")


async def _exchange(line: Any, commands: Sequence[Sequence[Word]]) -> list[object]:
    try:
        await line.send_packed_command(
            b"".join(part for words in commands for part in line.pack_command(*words))
        )
        return [await _answer(line) for _ in commands]
    except BaseException:
        await line.disconnect(nowait=True)  # what is left of the answers is nobody's
        raise


async def _answer(line: Any) -> object:
    try:
        return await line.read_response()
    except ResponseError as error:
        return error
