"""Who may talk to whom, by the NetworkPolicies of some manifests; and our rules about that."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, TypeAlias

from tests.k8s.build import Manifest, name_of
from tests.k8s.pods import Ports, pods

Labels: TypeAlias = Mapping[str, str]


def may_reach(
    manifests: Iterable[Manifest],
    source: Labels,
    target: Labels,
    port: int,
    *,
    namespace: Labels | None = None,
) -> bool:
    """Whether a pod may open a connection to another one of Retinue's.

    ``namespace`` is the labels of the caller's namespace, where that isn't Retinue's own.
    """
    asked = Ports("", port, port)
    manifests = list(manifests)
    out = None if namespace is not None else _rules(manifests, source, "Egress")
    into = _rules(manifests, target, "Ingress")
    return _opened(out, "to", target, asked, None) and _opened(
        into, "from", source, asked, namespace
    )


def _opened(
    rules: list[Manifest] | None,
    side: Literal["from", "to"],
    peer: Labels,
    asked: Ports,
    namespace: Labels | None,
) -> bool:
    return rules is None or any(
        _covers(rule, asked)
        and (not rule.get(side) or any(_is(one, peer, namespace) for one in rule[side]))
        for rule in rules
    )


def _is(named: Manifest, labels: Labels, namespace: Labels | None) -> bool:
    if "namespaceSelector" not in named:
        return namespace is None and selects(named["podSelector"], labels)
    there = {"kubernetes.io/metadata.name": "retinue"} if namespace is None else namespace
    return selects(named["namespaceSelector"], there) and selects(
        named.get("podSelector", {}), labels
    )


def ports_are_closed(manifests: Sequence[Manifest]) -> list[str]:
    """Every port is opened by a policy, to somebody in particular; every pod is under a policy."""
    problems = []
    for pod in pods(manifests):
        rules = _rules(manifests, pod.labels, "Ingress")
        if rules is None:
            problems.append(f"{pod.where}: no NetworkPolicy closes it")
        for port in pod.ports:
            opening = [rule for rule in rules or [] if _covers(rule, port)]
            if not opening:
                problems.append(f"{pod.where}: no NetworkPolicy names port {port.name}")
            if any(not rule.get("from") for rule in opening):
                problems.append(f"{pod.where}: port {port.name} is open to all")
    return problems


def _rules(
    manifests: Iterable[Manifest], labels: Labels, way: Literal["Ingress", "Egress"]
) -> list[Manifest] | None:
    """The rules that let something in to a pod, or out of it; None if nothing is closed."""
    policies = [
        one["spec"]
        for one in manifests
        if one["kind"] == "NetworkPolicy"
        and way in one["spec"]["policyTypes"]
        and selects(one["spec"]["podSelector"], labels)
    ]
    return [rule for one in policies for rule in one.get(way.lower(), [])] if policies else None


def _covers(rule: Manifest, ports: Ports) -> bool:
    return "ports" not in rule or any(
        one["port"] == ports.name
        if isinstance(one["port"], str)
        else one["port"] <= ports.first and ports.last <= one.get("endPort", one["port"])
        for one in rule["ports"]
        if one.get("protocol", "TCP") == "TCP"
    )


def selects(selector: Manifest, labels: Labels) -> bool:
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
        for selector in [
            one.get("spec", {}).get("podSelector", one.get("spec", {}).get("selector"))
        ]
        if one["kind"] in ("NetworkPolicy", "PodDisruptionBudget")
        and not any(selects(selector, pod.labels) for pod in found)
    ]
