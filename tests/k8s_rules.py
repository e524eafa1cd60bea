"""Our own rules for manifests. A rule is a function: manifests in, what is wrong with them out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tests.k8s_build import Manifest, name_of
from tests.k8s_pods import HEAD_PORT_PARAMETERS, PORT_PARAMETERS, Pod, Ports, pods

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
            context = {**pod.spec.get("securityContext", {}), **container.get("securityContext", {})}
            if not context.get("runAsUser") or context.get("runAsNonRoot") is not True:
                problems.append(f"{pod.where}: {container['name']} may run as root")
    return problems


def nothing_gains_privileges(manifests: Sequence[Manifest]) -> list[str]:
    """No escalation, no capability, no part of the host; and a root file system that is read-only."""
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


def ports_are_closed(manifests: Sequence[Manifest]) -> list[str]:
    """Every port is opened by a policy, to somebody in particular; every pod is under a policy."""
    problems = []
    for pod in pods(manifests):
        rules = _rules_for(pod, manifests)
        if rules is None:
            problems.append(f"{pod.where}: no NetworkPolicy closes it")
        for port in pod.ports:
            opening = [rule for rule in rules or [] if _covers(rule, port)]
            if not opening:
                problems.append(f"{pod.where}: no NetworkPolicy names port {port.name}")
            if any(not rule.get("from") for rule in opening):
                problems.append(f"{pod.where}: port {port.name} is open to all")
    return problems


def _rules_for(pod: Pod, manifests: Sequence[Manifest]) -> list[Manifest] | None:
    """The rules that let something in to a pod; None if nothing keeps anything out."""
    policies = [
        one["spec"]
        for one in manifests
        if one["kind"] == "NetworkPolicy"
        and "Ingress" in one["spec"]["policyTypes"]
        and selects(one["spec"]["podSelector"], pod.labels)
    ]
    return [rule for one in policies for rule in one.get("ingress", [])] if policies else None


def _covers(rule: Manifest, ports: Ports) -> bool:
    return "ports" not in rule or any(
        one["port"] == ports.name
        if isinstance(one["port"], str)
        else one["port"] <= ports.first and ports.last <= one.get("endPort", one["port"])
        for one in rule["ports"]
        if one.get("protocol", "TCP") == "TCP"
    )


def selects(selector: Manifest, labels: Mapping[str, str]) -> bool:
    """Whether a label selector means a pod with these labels."""
    wanted = selector.get("matchLabels", {})
    return wanted.items() <= labels.items() and all(
        _matches(one, labels.get(one["key"])) for one in selector.get("matchExpressions", [])
    )


def _matches(expression: Manifest, value: str | None) -> bool:
    match expression["operator"]:
        case "In":
            return value in expression["values"]
        case "NotIn":
            return value not in expression["values"]
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case other:
            raise ValueError(f"no such operator: {other}")


def services_lead_somewhere(manifests: Sequence[Manifest]) -> list[str]:
    """Every port of a Service is one that each pod behind it names, so a policy covers it."""
    problems = []
    for service in (one for one in manifests if one["kind"] == "Service"):
        selector = {"matchLabels": service["spec"]["selector"]}
        behind = [pod for pod in pods(manifests) if selects(selector, pod.labels)]
        if not behind:
            problems.append(f"{name_of(service)}: selects no pod")
        for port in service["spec"]["ports"]:
            target = port.get("targetPort", port["port"])
            problems += [
                f"{name_of(service)}: {pod.where} has no port {target}"
                for pod in behind
                if not any(target in (one.name, one.first) for one in pod.ports)
            ]
    return problems


def policies_mean_somebody(manifests: Sequence[Manifest]) -> list[str]:
    """A policy or disruption budget that selects no pod is a mistake in its labels."""
    found = list(pods(manifests))
    return [
        f"{name_of(one)}: selects no pod"
        for one in manifests
        for selector in [one.get("spec", {}).get("podSelector", one.get("spec", {}).get("selector"))]
        if one["kind"] in ("NetworkPolicy", "PodDisruptionBudget")
        and not any(selects(selector, pod.labels) for pod in found)
    ]


def references_exist(
    manifests: Sequence[Manifest], secrets: Mapping[str, set[str]]
) -> list[str]:
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
    known = {"Secret": secrets, "ConfigMap": config_maps, "claim": dict.fromkeys(claims, set[str]())}
    return [
        f"{name_of(one)}: no {kind} {name}" + (f" with {key}" if key else "")
        for one in manifests
        for kind, name, key in _references(one)
        if name not in known[kind] or (key and key not in known[kind][name])
    ]


def _references(node: object) -> Iterator[tuple[str, str, str | None]]:
    """Kind, name and key of all that is named anywhere in a manifest."""
    if isinstance(node, list):
        for child in node:
            yield from _references(child)
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
                yield from _references(child)


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
