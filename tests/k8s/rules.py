"""Our own rules for manifests. A rule is a function: manifests in, what is wrong with them out.

Those about the network are in `k8s_network`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tests.k8s.build import Manifest, name_of
from tests.k8s.pods import HEAD_PORT_PARAMETERS, PORT_PARAMETERS, pods

PINNED = re.compile(r"[\w.:/-]+:v?\d+\.\d+\.\d+[\w.-]*|[\w.:/-]+@sha256:[0-9a-f]{64}")
SECRET_NAME = re.compile(r"PASSWORD|PASSWD|TOKEN$|SECRET|CREDENTIAL|_KEY$|_AUTH$|REDIS_URL$", re.I)
SECRET_TEXT = re.compile(
    r"://[^/\s:@]*:[^@\s$]+@"  # scheme://user:password@host
    r"|(?:requirepass|masterauth|--pass|REDISCLI_AUTH=)[ \"']*(?![$\s\"'])\S"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY"
)


def containers_have_limits(manifests: Sequence[Manifest]) -> list[str]:
    """Every container asks for processor and memory, and may not take more than it says."""
    return [
        f"{pod.where}: {container['name']} has no {kind} of {what}"
        for pod in pods(manifests)
        for container in pod.containers
        for kind in ("requests", "limits")
        for what in ("cpu", "memory")
        if what not in container.get("resources", {}).get(kind, {})
    ]


def nothing_runs_as_root(manifests: Sequence[Manifest]) -> list[str]:
    """Every container has a user, by number, that is not root."""
    problems = []
    for pod in pods(manifests):
        for container in pod.containers:
            context = {
                **pod.spec.get("securityContext", {}),
                **container.get("securityContext", {}),
            }
            if not context.get("runAsUser") or context.get("runAsNonRoot") is not True:
                problems.append(f"{pod.where}: {container['name']} may run as root")
    return problems


def nothing_gains_privileges(manifests: Sequence[Manifest]) -> list[str]:
    """No escalation, no capability, nothing of the host, and a read-only root file system."""
    problems = []
    for pod in pods(manifests):
        context = pod.spec.get("securityContext", {})
        if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            problems.append(f"{pod.where}: no seccompProfile")
        for host in ("hostNetwork", "hostPID", "hostIPC"):
            if pod.spec.get(host):
                problems.append(f"{pod.where}: {host}")
        for volume in pod.spec.get("volumes", []):
            if "hostPath" in volume:
                problems.append(f"{pod.where}: volume {volume['name']} is a hostPath")
        for container in pod.containers:
            problems += [
                f"{pod.where}: {container['name']}: {problem}"
                for problem in _privileges(container.get("securityContext", {}))
            ]
    return problems


def _privileges(context: Mapping[str, Any]) -> Iterator[str]:
    if context.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation is not false"
    if context.get("privileged"):
        yield "privileged"
    capabilities = context.get("capabilities", {})
    if capabilities.get("drop") != ["ALL"] or capabilities.get("add"):
        yield "capabilities are not dropped"
    if context.get("readOnlyRootFilesystem") is not True:
        yield "its root file system can be written"


def references_exist(manifests: Sequence[Manifest], secrets: Mapping[str, set[str]]) -> list[str]:
    """Every ConfigMap and claim that is named is there; every Secret is one of ``secrets``."""
    config_maps = {
        one["metadata"]["name"]: set(one.get("data", {}))
        for one in manifests
        if one["kind"] == "ConfigMap"
    }
    claims = {one["metadata"]["name"] for one in manifests if one["kind"].endswith("VolumeClaim")}
    claims |= {
        f"{template['metadata']['name']}-{one['metadata']['name']}-{number}"
        for one in manifests
        if one["kind"] == "StatefulSet"
        for template in one["spec"].get("volumeClaimTemplates", [])
        for number in range(one["spec"].get("replicas", 1))
    }
    known = {
        "Secret": secrets,
        "ConfigMap": config_maps,
        "claim": {name: set[str]() for name in claims},
    }
    return [
        f"{name_of(one)}: no {kind} {name}" + (f" with {key}" if key else "")
        for one in manifests
        for kind, name, key in references(one)
        if name not in known[kind] or (key and key not in known[kind][name])
    ]


def references(node: object) -> Iterator[tuple[str, str, str | None]]:
    """Kind, name and key (None: the whole) of all that is named anywhere in a manifest."""
    if isinstance(node, list):
        for child in node:
            yield from references(child)
    if not isinstance(node, dict):
        return
    for field, child in node.items():
        match field, child:
            case "secretKeyRef", {"name": name, "key": key}:
                yield "Secret", name, key
            case "configMapKeyRef", {"name": name, "key": key}:
                yield "ConfigMap", name, key
            case "secretRef", {"name": name}:
                yield "Secret", name, None
            case "configMapRef" | "configMap", {"name": name}:
                yield "ConfigMap", name, None
            case "secret", {"secretName": name}:
                yield "Secret", name, None
            case "authOptions", {"secretName": name}:
                yield "Secret", name, "auth_token"
            case "persistentVolumeClaim", {"claimName": name}:
                yield "claim", name, None
            case _:
                yield from references(child)


def images_are_pinned(manifests: Sequence[Manifest]) -> list[str]:
    """Every image has a full version or a digest."""
    return [
        f"{pod.where}: {container['name']} runs {container.get('image')}"
        for pod in pods(manifests)
        for container in pod.containers
        if not PINNED.fullmatch(str(container.get("image")))
    ]


def no_secret_is_told(manifests: Sequence[Manifest]) -> list[str]:
    """No Secret's data, no value where a reference belongs, no password within a text."""
    return [
        f"{name_of(one)}: {problem}"
        for one in manifests
        for problem in (["is in a file"] if one["kind"] == "Secret" else _told(one, ""))
    ]


def _told(node: object, path: str) -> Iterator[str]:
    match node:
        case str():
            if SECRET_TEXT.search(node):
                yield f"{path} holds a password"
        case list():
            for number, child in enumerate(node):
                yield from _told(child, f"{path}[{number}]")
        case dict():
            if "value" in node and SECRET_NAME.search(str(node.get("name", path))):
                yield f"{node.get('name', path)} is given as plain text"
            for field, child in node.items():
                yield from _told(child, f"{path}.{field}")


def ray_is_guarded(manifests: Sequence[Manifest]) -> list[str]:
    """Ray asks for its token, picks no port at random, and its pods drain before they end."""
    problems = []
    for one in manifests:
        spec = one["spec"] if one["kind"] == "RayCluster" else one.get("spec", {})
        cluster = spec if one["kind"] == "RayCluster" else spec.get("rayClusterSpec")
        if cluster is None:
            continue
        options = cluster.get("authOptions", {})
        if options.get("mode") != "token" or not options.get("secretName"):
            problems.append(f"{name_of(one)}: asks for no token")
        if "redisPassword" not in cluster.get("gcsFaultToleranceOptions", {}):
            problems.append(f"{name_of(one)}: forgets all when its head goes")
    for pod in pods(manifests):
        if pod.group is None:
            continue
        is_head = pod.labels["ray.io/node-type"] == "head"
        told = pod.group.get("rayStartParams", {})
        wanted = HEAD_PORT_PARAMETERS if is_head else PORT_PARAMETERS
        problems += [
            f"{pod.where}: {name} is any port"
            for name in (*wanted, "min-worker-port", "max-worker-port")
            if name not in told
        ]
        stop = pod.spec["containers"][0].get("lifecycle", {}).get("preStop", {})
        if "drain" not in " ".join(stop.get("exec", {}).get("command", [])):
            problems.append(f"{pod.where}: does not drain")
    return problems
