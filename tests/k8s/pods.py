"""The pods that manifests lead to, those of Ray's operator included: labels, containers, ports."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from tests.k8s.build import Manifest, name_of

PORT_PARAMETERS = (
    "metrics-export-port",
    "node-manager-port",
    "object-manager-port",
    "dashboard-agent-grpc-port",
    "dashboard-agent-listen-port",
    "runtime-env-agent-port",
)
"""Ports of every Ray node. Ray picks those at random that it is not told."""

HEAD_PORT_PARAMETERS = ("port", "dashboard-port", *PORT_PARAMETERS)

WITHOUT_PODS = frozenset(
    {
        "ConfigMap",
        "Namespace",
        "NetworkPolicy",
        "PersistentVolumeClaim",
        "PodDisruptionBudget",
        "Service",
    }
)
WITH_TEMPLATE = frozenset({"Deployment", "Job", "StatefulSet"})


@dataclass(frozen=True)
class Ports:
    """A port, or a range of them, that something in a pod listens on."""

    name: str
    first: int
    last: int


@dataclass(frozen=True)
class Pod:
    """A pod as it will run; ``group`` is what Ray is told, where it is a Ray node."""

    where: str
    labels: dict[str, str]
    spec: Manifest
    sidecars: list[Manifest] = field(default_factory=list)
    group: Manifest | None = None

    @property
    def containers(self) -> list[Manifest]:
        """All of them, those that run first included."""
        return [*self.spec.get("initContainers", []), *self.spec["containers"], *self.sidecars]

    @property
    def ports(self) -> list[Ports]:
        """What its containers name, and what Ray is told to listen on."""
        named = [
            Ports(port.get("name", "-"), port["containerPort"], port["containerPort"])
            for container in self.containers
            for port in container.get("ports", [])
        ]
        told = (self.group or {}).get("rayStartParams", {})
        single = [
            Ports(name, int(told[name]), int(told[name]))
            for name in HEAD_PORT_PARAMETERS
            if name in told
        ]
        actors = (
            [Ports("actors", int(told["min-worker-port"]), int(told["max-worker-port"]))]
            if {"min-worker-port", "max-worker-port"} <= told.keys()
            else []
        )
        return named + single + actors


def pods(manifests: Iterable[Manifest]) -> Iterator[Pod]:
    """Every pod; ValueError for a kind of which it is not known whether it makes any."""
    for manifest in manifests:
        kind, where = manifest["kind"], name_of(manifest)
        spec = manifest.get("spec", {})
        if kind in WITH_TEMPLATE:
            yield _pod(where, spec["template"])
        elif kind == "CronJob":
            yield _pod(where, spec["jobTemplate"]["spec"]["template"])
        elif kind == "RayCluster":
            yield from _ray_pods(where, manifest["metadata"]["name"], spec)
        elif kind == "RayJob":
            if "rayClusterSpec" in spec:
                yield from _ray_pods(where, manifest["metadata"]["name"], spec["rayClusterSpec"])
            yield _pod(f"{where} submitter", spec["submitterPodTemplate"])
        elif kind not in WITHOUT_PODS:
            raise ValueError(f"{where}: does a {kind} make pods?")


def _pod(where: str, template: Manifest) -> Pod:
    return Pod(where, template.get("metadata", {}).get("labels", {}), template["spec"])


def _ray_pods(where: str, cluster: str, spec: Manifest) -> Iterator[Pod]:
    """As KubeRay makes them: its labels, and the autoscaler beside the head."""
    head = spec["headGroupSpec"]
    scaler = spec.get("autoscalerOptions", {}) if spec.get("enableInTreeAutoscaling") else None
    image = head["template"]["spec"]["containers"][0].get("image")
    sidecars = [] if scaler is None else [{"name": "autoscaler", "image": image, **scaler}]
    for group in (head, *spec.get("workerGroupSpecs", [])):
        is_head = group is head
        own = group["template"].get("metadata", {}).get("labels", {})
        labels = {
            **own,
            "ray.io/cluster": cluster,
            "ray.io/node-type": "head" if is_head else "worker",
            "ray.io/group": "headgroup" if is_head else group["groupName"],
        }
        name = f"{where} {labels['ray.io/group']}"
        yield Pod(name, labels, group["template"]["spec"], sidecars if is_head else [], group)
