"""A node's report on itself, made there in a process of its own, without any actor."""

from __future__ import annotations

import asyncio
import sys
import time

import msgspec

from retinue.actors.agent.versions import installed
from retinue.actors.domain.errors import RetinueError
from retinue.cluster.local.memory import available_memory
from retinue.cluster.local.state import cluster_key
from retinue.cluster.redis.connection import Connection
from retinue.cluster.redis.stored_versions import Versions, stored_versions
from retinue.cluster.settings import ClusterSettings

_PATIENCE_S = 2.0
_ROUNDS = 5


class Software(msgspec.Struct, frozen=True):
    """The versions that must match across a cluster."""

    retinue: str
    ray: str
    python: str
    cloudpickle: str


class RedisView(msgspec.Struct, frozen=True):
    """Redis as seen from a node, or the reason it can't be reached.

    The quickest round trip, and the lag of its clock behind ours, are in milliseconds.
    """

    round_trip_ms: float = 0.0
    skew_ms: float = 0.0
    error: str = ""


class NodeReport(msgspec.Struct, frozen=True):
    """A node's report. ``issuer`` is the public part of its cluster key; memory in bytes."""

    software: Software
    redis: RedisView
    memory_free: int | None
    issuer: str = ""
    key_error: str = ""


def software() -> Software:
    """The versions that run in this process."""
    python = sys.version.split()[0]
    return Software(installed("retinue"), installed("ray"), python, installed("cloudpickle"))


def node_report(settings: ClusterSettings) -> NodeReport:
    """The report of the node that this runs on."""
    issuer, key_error = "", ""
    try:
        issuer = cluster_key(settings).issuer
    except RetinueError as error:
        key_error = error.message
    redis = asyncio.run(_redis(settings))
    return NodeReport(software(), redis, available_memory(), issuer, key_error)


def versions_report(settings: ClusterSettings) -> Versions:
    """The versions of the stored forms, as a node sees them; raises StoreUnavailable."""

    async def look() -> Versions:
        connection = _connection(settings)
        try:
            return await stored_versions(connection)
        finally:
            await connection.close()

    return asyncio.run(look())


async def _redis(settings: ClusterSettings) -> RedisView:
    connection = None
    try:
        connection = _connection(settings)
        await connection.command("PING")  # so that connecting does not count
        return min([await _measure(connection) for _ in range(_ROUNDS)], key=_round_trip)
    except RetinueError as error:
        return RedisView(error=error.message)
    finally:
        if connection:
            await connection.close()


async def _measure(connection: Connection) -> RedisView:
    before, began = time.time(), time.perf_counter()
    seconds, microseconds = await connection.values("TIME")
    took = time.perf_counter() - began
    there = int(seconds) + int(microseconds) / 1_000_000
    return RedisView(took * 1000, (before + took / 2 - there) * 1000)


def _round_trip(view: RedisView) -> float:
    return view.round_trip_ms


def _connection(settings: ClusterSettings) -> Connection:
    return Connection(settings.redis_url, settings.namespace, _PATIENCE_S)
