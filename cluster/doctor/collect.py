"""Asks every node of a cluster for a report, for `retinue.cluster.doctor.nodes` to judge."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from retinue.actors.domain.errors import ClusterUnavailable, RetinueError
from retinue.cluster.client.calls import Calls
from retinue.cluster.client.client import Retinue
from retinue.cluster.client.connection import Connection
from retinue.cluster.doctor.node_report import node_report, software, versions_report
from retinue.cluster.doctor.nodes import Cluster, Examined
from retinue.cluster.ray import actors as remote
from retinue.cluster.ray.joining import outlives_us
from retinue.cluster.redis.stored_versions import Versions
from retinue.cluster.settings import DEFAULT_NAMESPACE
from retinue.cluster.status import Node

_NODE_LIMIT_S = 30.0


async def examine() -> Cluster:
    """Join the cluster and collect; raises ClusterUnavailable if there is none."""
    if not outlives_us():
        raise ClusterUnavailable(
            "no cluster to examine: start one with `retinue up`, or set RAY_ADDRESS and "
            "RETINUE_REDIS_URL to one that runs"
        )
    async with Retinue(Connection(None, None, DEFAULT_NAMESPACE, None, 600.0)) as retinue:
        return await collect(retinue.calls)


async def collect(calls: Calls) -> Cluster:
    """Ask every node, the pool and Redis, for seconds only, and name those that do not answer."""
    pooled = asyncio.create_task(_pool(calls))
    answers = await asyncio.to_thread(
        remote.on_nodes, node_report, (calls.settings,), remote.nodes(), _NODE_LIMIT_S
    )
    try:
        async with asyncio.timeout(_NODE_LIMIT_S):
            hosts, pool_error = await pooled, ""
    except (RetinueError, TimeoutError) as error:
        hosts, pool_error = [], str(error) or "the directory does not answer"
    nodes = [
        Examined(
            node.id,
            node.address,
            None if isinstance(answer, str) else answer,
            answer if isinstance(answer, str) else "",
            sum(1 for id, _ in hosts if id == node.id),
            sum(sessions for id, sessions in hosts if id == node.id),
        )
        for node, answer in answers
    ]
    stored, stored_error = await _stored(calls, nodes)
    return Cluster(software(), nodes, stored, stored_error, pool_error)


async def _pool(calls: Calls) -> list[tuple[str, int]]:
    """The node's id and number of agents of each host."""
    status = await calls.directory.status()
    return [(host.node, host.sessions) for host in status.hosts]


async def _stored(calls: Calls, nodes: Sequence[Examined]) -> tuple[Versions, str]:
    """The stored forms, as seen by the first node that reaches Redis."""
    able = [one for one in nodes if one.report and not one.report.redis.error]
    if not able:
        return {}, "no node reaches Redis"
    node = Node(able[0].id, able[0].address)
    ((_, answer),) = await asyncio.to_thread(
        remote.on_nodes, versions_report, (calls.settings,), [node], _NODE_LIMIT_S
    )
    return ({}, answer) if isinstance(answer, str) else (answer, "")
