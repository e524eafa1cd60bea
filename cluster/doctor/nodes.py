"""`retinue doctor --cluster`: each node's own report, and its fit with the others.

Pure: it judges the data collected by `retinue.cluster.doctor.collect`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import cast

import msgspec
from msgspec import structs

from retinue.actors.stores.table import MACHINES
from retinue.cluster.doctor.machine import Check
from retinue.cluster.doctor.node_report import NodeReport, Software
from retinue.cluster.redis.stored_versions import Versions

NEWEST = {kind: machine.version for kind, machine in MACHINES.items()}

_GIB = 1 << 30
_MEMORY = _GIB
_SKEW_MS = 1000.0
_FAR_MS = 50.0


class Examined(msgspec.Struct, frozen=True):
    """A node with its report, or the reason it has none, and its part of the pool."""

    id: str
    address: str
    report: NodeReport | None
    error: str = ""
    hosts: int = 0
    agents: int = 0


class Cluster(msgspec.Struct, frozen=True):
    """All data collected; ``pool_error`` and ``stored_error`` are the reasons for missing parts."""

    client: Software
    nodes: list[Examined]
    stored: Versions = {}
    stored_error: str = ""
    pool_error: str = ""


class Findings(msgspec.Struct, frozen=True):
    """The findings about each node, by its id, and about all of them together."""

    nodes: dict[str, list[Check]]
    cluster: list[Check]

    @property
    def fine(self) -> bool:
        """True if there is no problem."""
        found = [*self.cluster, *(one for checks in self.nodes.values() for one in checks)]
        return all(one.verdict != "problem" for one in found)


def judge(cluster: Cluster) -> Findings:
    """Lists the problems with their remedies; healthy parts are left out."""
    issuers = Counter(one.report.issuer for one in cluster.nodes if one.report)
    issuers.pop("", None)
    issuer = max(issuers, key=lambda one: issuers[one], default="")
    return Findings(
        {one.id: list(_node(one, cluster.client, issuer)) for one in cluster.nodes},
        [*_stored_checks(cluster), *_pool_checks(cluster)],
    )


def _node(node: Examined, client: Software, issuer: str) -> Iterator[Check]:
    report = node.report
    if report is None:
        yield Check("node", "problem", f"can't be examined: {node.error}", "see Ray's log there")
        return
    yield from _versions(report.software, client)
    yield from _redis(report)
    if report.key_error:
        yield Check("cluster key", "problem", report.key_error, "give this node the cluster's key")
    elif report.issuer != issuer:
        found = "is another one than elsewhere: what is written here is refused there"
        yield Check("cluster key", "problem", found, "give all nodes the same RETINUE_KEY_FILE")
    if report.memory_free is not None and report.memory_free < _MEMORY:
        found = f"{report.memory_free / _GIB:.1f} GiB free"
        yield Check("memory", "note", found, "Ray ends processes where memory runs out: add some")


def _versions(node: Software, client: Software) -> Iterator[Check]:
    if node.ray != client.ray:
        found = f"{node.ray}, and {client.ray} at the client"
        yield Check("Ray", "problem", found, "all nodes and clients need the same")
    if _minor(node.python) != _minor(client.python):
        found = f"{node.python}, and {client.python} at the client: it can't open its agents"
        yield Check("Python", "problem", found, "use the same image, or the same version")
    elif node.python != client.python:
        found = f"{node.python}, and {client.python} at the client"
        yield Check("Python", "note", found, "agents open; Ray wants the same for joining")
    if _major(node.cloudpickle) != _major(client.cloudpickle):
        found = f"{node.cloudpickle}, and {client.cloudpickle} at the client: agents don't open"
        yield Check("cloudpickle", "problem", found, "install the same")
    if node.retinue != client.retinue:
        found = f"{node.retinue or 'not installed'}, and {client.retinue or 'none'} at the client"
        remedy = "finish the upgrade: an older one refuses what a newer one wrote"
        yield Check("Retinue", "note", found, remedy)


def _redis(report: NodeReport) -> Iterator[Check]:
    redis = report.redis
    if redis.error:
        remedy = "open the way from this node (network policy, DNS, password)"
        yield Check("Redis", "problem", redis.error, remedy)
        return
    if abs(redis.skew_ms) > _SKEW_MS:
        ahead = "ahead of" if redis.skew_ms > 0 else "behind"
        found = f"{abs(redis.skew_ms) / 1000:.1f} s {ahead} Redis's"
        yield Check("clock", "note", found, "synchronise it (NTP): leases and tokens go by it")
    if redis.round_trip_ms > _FAR_MS:
        found = f"{redis.round_trip_ms:.0f} ms for a round trip"
        yield Check("Redis", "note", found, "every commit takes one: bring them closer together")


def _stored_checks(cluster: Cluster) -> Iterator[Check]:
    if cluster.stored_error:
        yield Check("stored", "problem", cluster.stored_error, "see what is said of Redis")
    for kind, counts in cluster.stored.items():
        newer = {form: count for form, count in counts.items() if form > NEWEST.get(kind, 0)}
        for form, count in newer.items():
            found = f"{kind}: {count} in form {form}, and we read up to {NEWEST.get(kind, 0)}"
            yield Check("stored", "problem", found, "upgrade: a newer Retinue wrote them")


def _pool_checks(cluster: Cluster) -> Iterator[Check]:
    if cluster.pool_error:
        yield Check("pool", "problem", cluster.pool_error, "see what is said of the nodes")


def as_json(cluster: Cluster, findings: Findings) -> Mapping[str, object]:
    """The document of ``--json``."""
    nodes = [{**structs.asdict(one), "checks": findings.nodes[one.id]} for one in cluster.nodes]
    document = {
        "ok": findings.fine,
        "client": cluster.client,
        "nodes": nodes,
        "stored": cluster.stored,
        "checks": findings.cluster,
    }
    return cast("dict[str, object]", msgspec.to_builtins(document, str_keys=True))


def _minor(version: str) -> list[str]:
    return version.split(".")[:2]


def _major(version: str) -> str:
    return version.partition(".")[0]
