"""The ways in which a Redis is deployed, each with a form of URL and a client of its own.

| URL | deployment |
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

import asyncio
from pathlib import Path
from typing import Any, Protocol, TypeAlias, cast

import redis.asyncio as redis
from redis.asyncio.connection import SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import ConnectionError, RedisError

from retinue.actors.domain.errors import InvalidValue
from retinue.cluster.redis.errors import shown
from retinue.cluster.redis.raw_connections import RawConnections

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
_SLOTS = 16384
_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")

Options: TypeAlias = dict[str, Any]
Address: TypeAlias = tuple[str, int]


class Deployment(Protocol):
    """The facts that `retinue.cluster.redis.connection` needs."""

    @property
    def clustered(self) -> bool: ...

    @property
    def fails_over(self) -> bool:
        """True if a refusal by a replica may pass, since another server becomes the primary."""
        ...

    async def at(self, key: str) -> RawConnections:
        """The lines to the server that has ``key``."""
        ...

    async def primaries(self) -> list[redis.Redis]:
        """The clients of all servers that take writes."""
        ...

    async def look_again(self) -> None:
        """Has the next command find the primary anew, since it may have changed."""
        ...

    async def close(self) -> None: ...


class Server:
    """One server."""

    clustered = False
    fails_over = False

    def __init__(self, client: redis.Redis) -> None:
        self.lines: RawConnections = RawConnections(client)

    async def at(self, key: str) -> RawConnections:
        return self.lines

    async def primaries(self) -> list[redis.Redis]:
        return [self.lines.client]

    async def look_again(self) -> None:
        await self.lines.hang_up()

    async def close(self) -> None:
        await self.lines.close()


class Watched(Server):
    """The primary that Sentinels name at the time of a connect."""

    fails_over = True

    def __init__(self, sentinel: Sentinel, name: str) -> None:
        super().__init__(sentinel.master_for(name))
        self._sentinel = sentinel

    async def close(self) -> None:
        await super().close()
        await self._sentinel.aclose()


class Cluster:
    """A Redis Cluster: a client for each node, and a map that says which one has a key.

    Any error may mean that the map is out of date, so it is fetched again after each. The library's
    own client aborts the commands of others under way at the first error.
    """

    clustered = True
    fails_over = True

    def __init__(self, seeds: list[Address], options: Options) -> None:
        self._options = options
        self._nodes: dict[Address, RawConnections] = {}
        self._owners: list[Address | None] = []
        self._looking = asyncio.Lock()
        self._seeds = [self._node(seed) for seed in seeds]

    async def at(self, key: str) -> RawConnections:
        await self._look()
        slot = key_slot(key.encode())
        owner = self._owners[slot]
        if owner is None:
            raise ConnectionError(f"no node of the cluster has slot {slot} now")
        return self._node(owner)

    async def primaries(self) -> list[redis.Redis]:
        await self._look()
        return [self._node(owner).client for owner in dict.fromkeys(self._owners) if owner]

    async def look_again(self) -> None:
        self._owners = []
        for node in list(self._nodes.values()):
            await node.hang_up()

    async def close(self) -> None:
        for node in self._nodes.values():
            await node.close()

    async def _look(self) -> None:
        async with self._looking:
            if self._owners:
                return
            failure: Exception = ConnectionError("the cluster has no nodes")
            for node in dict.fromkeys((*self._seeds, *self._nodes.values())):
                try:
                    self._owners = await _owners(node)
                    return
                except (RedisError, OSError) as error:
                    failure = error
            raise failure

    def _node(self, address: Address) -> RawConnections:
        node = self._nodes.get(address)
        if node is None:
            host, port = address
            node = RawConnections(redis.Redis(host=host, port=port, **self._options))
            self._nodes[address] = node
        return node


async def _owners(node: RawConnections) -> list[Address | None]:
    """The slots of each node, as told by this one."""
    (found,) = await node.exchange(("CLUSTER", "SLOTS"))
    if isinstance(found, Exception):
        raise found
    owners: list[Address | None] = [None] * _SLOTS
    for first, last, primary, *_ in cast("list[tuple[int, int, list[Any]]]", found):
        host = primary[0].decode() or node.client.connection_pool.connection_kwargs["host"]
        owners[first : last + 1] = [(host, int(primary[1]))] * (last + 1 - first)
    return owners


def deployment(url: str) -> Deployment:
    """The deployment at ``url``; raises InvalidValue, without its secrets, if it names none."""
    scheme, _, rest = url.partition("://")
    base, _, kind = scheme.partition("+")
    try:
        if not kind:
            return Server(_one(url))
        if base not in ("redis", "rediss") or kind not in ("sentinel", "cluster"):
            raise _Wrong("this is no scheme of ours")
        return _many(base, kind, rest)
    except (ValueError, TypeError) as error:
        raise _invalid(url, str(error) if isinstance(error, _Wrong) else "") from None


class _Wrong(ValueError):
    """A mistake in a URL, described without any part of it that may be secret."""


def _invalid(url: str, why: str) -> InvalidValue:
    return InvalidValue(
        f"redis_url: {shown(url)!r} is no Redis URL{': ' if why else ''}{why}; give {FORMS}, with "
        "special characters of a password percent-encoded",
        field="redis_url",
    )


def _one(url: str) -> redis.Redis:
    client: redis.Redis = redis.Redis.from_url(url, **_common())
    _check(client.connection_pool.connection_kwargs)
    _try_out(client)
    return client


def _many(base: str, kind: str, rest: str) -> Deployment:
    place, _, query = rest.partition("?")
    user, at, hosts_and_name = place.rpartition("@")
    hosts, _, name = hosts_and_name.partition("/")
    options: Options = {}
    nodes: list[Address] = []
    for host in hosts.split(","):
        options = dict(parse_url(f"{base}://{user}{at}{host}?{query}"))
        if "host" not in options:
            raise _Wrong("a host is missing")
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


def _watched(nodes: list[Address], options: Options, name: str) -> Deployment:
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
    sentinel = Sentinel(  # type: ignore[no-untyped-call]
        nodes, sentinel_kwargs=for_sentinels | own, **options
    )
    watched = Watched(sentinel, name)
    _try_out(watched.lines.client)
    return watched


def _cluster(nodes: list[Address], options: Options, name: str) -> Deployment:
    if name not in ("", "0"):
        raise _Wrong("a Redis Cluster has no databases, so nothing follows its hosts")
    _try_out(redis.Redis(**options))
    return Cluster(nodes, options)


def _common() -> Options:
    return {
        "protocol": 2,
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": None,  # `retinue.cluster.redis.connection` has one for each exchange
        "socket_connect_timeout": 5,
    }


def _try_out(client: redis.Redis) -> None:
    """Raises the error for an unknown option now instead of at the first command."""
    pool = client.connection_pool
    pool.connection_class(**pool.connection_kwargs)


def _check(options: Options) -> None:
    for name in _FILES:
        file = options.get(name)
        if file and not Path(file).is_file():
            raise _Wrong(f"{name} names no file that is here")
