"""All private parts of Ray in use: only this module imports them.

Each function states its purpose (For) and the public call that would replace it (Instead). `USED`
names the parts Ray must have; a test looks for each by name. Ray may change them in any release, so
`retinue` asks for a range of releases, and `check_version` warns outside of it.
"""

from __future__ import annotations

import json
import logging
import re
import subprocess
from collections.abc import Iterator
from importlib import metadata
from typing import NamedTuple

import ray
from ray._private import auto_init_hook, ray_constants, services
from ray._private import state as ray_state
from ray._private import worker as ray_worker
from ray._private.services import ProcessInfo
from ray._raylet import (  # type: ignore[attr-defined]
    AuthenticationTokenLoader,
    Config,
    GcsClient,
)
from ray.core.generated import autoscaler_pb2, gcs_pb2

USED = (
    "ray._private.auto_init_hook:enable_auto_connect",
    "ray._private.ray_constants:ENABLE_RAY_CLUSTER",
    "ray._private.ray_constants:PROCESS_TYPE_GCS_SERVER",
    "ray._private.ray_constants:PROCESS_TYPE_RAYLET",
    "ray._private.node:Node.__init__.all_processes",
    "ray._private.services:ProcessInfo.process",
    "ray._private.services:canonicalize_bootstrap_address",
    "ray._private.services:find_node_ids",
    "ray._private.state:state._connect_and_get_accessor",
    "ray._private.state:state.available_resources_per_node",
    "ray._private.state:state.get_draining_nodes",
    "ray._private.worker:_global_node",
    "ray._private.worker:connect.gcs_client",
    "ray._private.worker:print_to_stdstream",
    "ray._raylet:AuthenticationTokenLoader.has_token",
    "ray._raylet:AuthenticationTokenLoader.instance",
    "ray._raylet:AuthenticationTokenLoader.reset_cache",
    "ray._raylet:Config.initialize",
    "ray._raylet:InnerGcsClient.drain_node",
    "ray._raylet:InnerGcsClient.get_all_node_info",
    "ray._raylet:InnerGcsClient.internal_kv_get",
    "ray._raylet:GlobalStateAccessor.get_actor_table",
    "ray.core.generated.autoscaler_pb2:DRAIN_NODE_REASON_PREEMPTION",
    "ray.core.generated.gcs_pb2:ActorTableData.FromString",
    "ray.core.generated.gcs_pb2:GcsNodeInfo.GcsNodeState.ALIVE",
)
"""``module:name`` of each part with its attributes, or after a function those that it sets."""

_PARTS = {
    ray_constants.PROCESS_TYPE_RAYLET: "raylet",
    ray_constants.PROCESS_TYPE_GCS_SERVER: "control service (GCS)",
}
_METADATA = (b"CLUSTER_METADATA", b"cluster")

_log = logging.getLogger("retinue")


class Head(NamedTuple):
    """A head's answer: the versions of its cluster, and the ids of its living nodes."""

    versions: dict[str, str]
    nodes: frozenset[str]


def check_version() -> str | None:
    """The warning, also logged, that this Ray is outside the range that was tried; None if not.

    For: the functions below. Instead: nothing, once nothing private is used.
    """
    problem = outside(ray.__version__, metadata.requires("retinue") or [])
    if problem:
        _log.warning("%s", problem)
    return problem


def outside(version: str, requirements: list[str]) -> str | None:
    """The warning about a Ray of this version, by our requirements; None if it fits."""
    wanted = next(one for one in requirements if re.match(r"ray\W", one) and "extra" not in one)
    limits = {sign: _release(number) for sign, number in re.findall(r"(>=|<)([\d.]+)", wanted)}
    if limits[">="] <= _release(version) < limits["<"]:
        return None
    return (
        f"Ray {version} was not tried with this Retinue, which needs {wanted}: "
        f"pip install '{wanted}'"
    )


def never_start_by_itself() -> None:
    """Keeps a call to a lost cluster from starting another one.

    For: clients whose cluster went away. Instead: RAY_ENABLE_AUTO_CONNECT=0, which Ray reads when
    it is imported, so before us.
    """
    auto_init_hook.enable_auto_connect = False


def stay_on_loopback() -> None:
    """Keeps Ray listening on the loopback interface only.

    Ray replaces 127.0.0.1 by an outside address, so that other machines can join, and then listens
    on all interfaces, unless it is told, as for firewalls that would ask, that none will.

    For: starting Ray for this machine. Instead: an argument of `ray.init` for where to listen.
    """
    ray_constants.ENABLE_RAY_CLUSTER = False


def keep_output_clean() -> None:
    """Keeps Ray's messages about dead workers, which are in its log, out of our standard output.

    For: `--json`. Instead: ``log_to_driver=False``, if it covered this.
    """
    ray_worker.print_to_stdstream = lambda *_, **__: None


def own_processes() -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The essential processes of the Ray that was started here, with their names.

    For: noticing at once that it died. Instead: a call for a local cluster's process ids.
    """
    node = ray_worker._global_node
    started: dict[str, list[ProcessInfo]] = node.all_processes if node else {}
    for kind, name in _PARTS.items():
        for info in started.get(kind, []):
            yield name, info.process


def head_address(address: str) -> str:
    """HOST:PORT of an address, which may be ``auto``; raises ConnectionError if there is none.

    For: asking the head before Ray does, which tries for half a minute. Instead: `ray.init`, if it
    failed within seconds and with the reason.
    """
    return services.canonicalize_bootstrap_address(address) or address


def nodes_here() -> set[str]:
    """The ids of the nodes that run on this machine.

    For: as above; a client shares memory with a node. Instead: as above.
    """
    found: set[str] = services.find_node_ids()  # type: ignore[no-untyped-call]
    return found


def ask_head(address: str, limit_s: float) -> Head:
    """The answer of the head at HOST:PORT; raises RayError if it does not answer as a head.

    For: as above. Instead: as above.
    """
    client = GcsClient(address=address)
    versions = client.internal_kv_get(*_METADATA, timeout=limit_s)
    nodes = client.get_all_node_info(timeout=limit_s).values()
    alive = gcs_pb2.GcsNodeInfo.GcsNodeState.ALIVE  # type: ignore[attr-defined]
    living = [one.node_id.hex() for one in nodes if one.state == alive]
    return Head(json.loads(versions or b"{}"), frozenset(living))


def has_token() -> bool:
    """Returns whether Ray finds a token; raises AuthenticationError if it can't be read.

    For: Ray ends the process where there is none. Instead: an error of `ray.init`.
    """
    return bool(AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True))


def read_token_again() -> None:
    """Have Ray read its environment again.

    For: Ray reads it when imported, and keeps the previous cluster's token. Instead: a token as an
    argument of `ray.init`.
    """
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def draining_nodes() -> set[str]:
    """The ids of the nodes being drained. Blocks.

    For: starting nothing there. Instead: a field in `ray.nodes`.
    """
    return set(ray_state.state.get_draining_nodes())


def free_resources() -> dict[str, dict[str, float]]:
    """The free resources, by node id and name. Blocks.

    For: `retinue nodes`. Instead: `ray.available_resources`, if it told nodes apart.
    """
    table = ray_state.state
    free: dict[str, dict[str, float]] = table.available_resources_per_node()  # type: ignore[no-untyped-call]
    return free


def drain(node_id: str, why: str) -> tuple[bool, str]:
    """Have Ray start nothing more on a node; returns its consent, or the reason against. Blocks.

    For: `retinue drain`. Instead: `ray drain-node`, if it were a function.
    """
    reason = autoscaler_pb2.DrainNodeReason.Value(  # type: ignore[attr-defined]
        "DRAIN_NODE_REASON_PREEMPTION"  # the one that a node does not refuse
    )
    client = ray_worker.global_worker.gcs_client  # type: ignore[attr-defined]
    accepted, reason_not = client.drain_node(node_id, reason, why, 0)
    return accepted, reason_not


def actors_on(node_id: str, namespace: str) -> list[str]:
    """The names of a namespace's actors that live on a node. Blocks.

    For: moving stores off a node. Instead: `ray.util.state.list_actors`, if it did without the
    dashboard.
    """
    rows = ray_state.state._connect_and_get_accessor().get_actor_table(None, "ALIVE")
    parse = gcs_pb2.ActorTableData.FromString  # type: ignore[attr-defined]
    return [
        actor.name
        for actor in map(parse, rows)  # what Ray makes of them leaves out the namespace
        if actor.ray_namespace == namespace and actor.address.node_id.hex() == node_id
    ]


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])
