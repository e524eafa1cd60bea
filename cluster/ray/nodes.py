"""The machines below the actors: Ray's knowledge of its nodes, and the draining of one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import ray
from ray.exceptions import RayError

from retinue.actors.domain.errors import ClusterUnavailable
from retinue.cluster.ray import private
from retinue.cluster.status import Node


def nodes() -> list[Node]:
    """All nodes that Ray has known, including those that are gone. Blocks.

    Raises ClusterUnavailable while Ray's head does not answer.
    """
    with _asking():
        draining = private.draining_nodes()
        free = private.free_resources()
        rows = ray.nodes()  # type: ignore[no-untyped-call]
    found = []
    for row in rows:
        id = row["NodeID"]
        left = free.get(id, {})
        found.append(
            Node(
                id=id,
                address=row["NodeManagerAddress"],
                name=row["NodeName"] or row["NodeManagerHostname"],
                alive=row["Alive"],
                draining=id in draining,
                cpus=row["Resources"].get("CPU", 0.0),
                free_cpus=left.get("CPU", 0.0),
                free_memory=left.get("memory", 0.0),
            )
        )
    return found


def here() -> str:
    """The id of the node that this process is on."""
    return str(ray.get_runtime_context().get_node_id())


def drain(node_id: str) -> None:
    """Have Ray start nothing more there, and end the node when its last actor has gone. Blocks.

    Repeated, it changes nothing. Raises ClusterUnavailable if Ray refuses.
    """
    with _asking():
        accepted, why = private.drain(node_id, "retinue drain")
    if not accepted:
        raise ClusterUnavailable(f"Ray does not drain node {node_id}: {why}", node=node_id)


def actors_on(node_id: str, namespace: str) -> list[str]:
    """The names of our actors that live on a node. Blocks."""
    with _asking():
        return private.actors_on(node_id, namespace)


@contextlib.contextmanager
def _asking() -> Iterator[None]:
    """Raises any error that Ray has while its head is away or restarting as ClusterUnavailable."""
    try:
        yield
    except Exception as error:
        raise ClusterUnavailable(f"Ray does not tell of its nodes: {error}") from error


def move(name: str, namespace: str) -> None:
    """End a store's process; Ray starts it again, on another node if this one is drained."""
    with contextlib.suppress(ValueError, RayError):
        ray.kill(ray.get_actor(name, namespace=namespace), no_restart=False)
