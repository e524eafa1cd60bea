"""The manifests under ``k8s/`` and the image: built, held to their schemas, and to our own rules.

What needs a tool or a file that is not here is checked for nothing, and its name says so.
"""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import jsonschema
import kubernetes_validate
import pytest
import yaml

from retinue.cluster.redis.connection import Connection
from retinue.cluster.redis.server import find_binary
from tests.k8s import network, rules
from tests.k8s.build import (
    K8S,
    ROOT,
    Manifest,
    built,
    closed,
    kustomize,
    name_of,
    ray_schema,
    secrets_told_of,
)
from tests.k8s.good import SECRETS, good
from tests.k8s.network import Labels, may_reach
from tests.k8s.pods import pods
from tests.kit.project import PROJECT, pins

Rule: TypeAlias = Callable[[Sequence[Manifest]], list[str]]

# What is applied to one cluster: an overlay, and what comes after it.
APPLIED = {
    "local": ("overlays/local", "survey", "restore"),
    "production": ("overlays/production", "overlays/production/survey", "restore"),
    "outside-redis": ("overlays/outside-redis", "overlays/production/survey"),
}
OVERLAYS = list(APPLIED) if kustomize() else ["nothing: neither kubectl nor kustomize is here"]
RAY_KINDS = [one for one in ("RayCluster", "RayJob") if ray_schema(one)] or [
    "nothing: the schemas of Ray's kinds are not here"
]
OLDEST_KUBERNETES, LATEST_KUBERNETES = "1.29", kubernetes_validate.latest_version()
README = (K8S / "README.md").read_text()


def applied(overlay: str) -> list[Manifest]:
    """All manifests of an overlay, nothing where nothing can be built."""
    return built(*APPLIED[overlay]) if overlay in APPLIED else []


def references_exist(manifests: Sequence[Manifest]) -> list[str]:
    """The rule, with the Secrets that the README creates."""
    return rules.references_exist(manifests, secrets_told_of(README))


RULES: list[Rule] = [
    rules.containers_have_limits,
    rules.nothing_runs_as_root,
    rules.nothing_gains_privileges,
    rules.images_are_pinned,
    rules.no_secret_is_told,
    rules.ray_is_guarded,
    network.ports_are_closed,
    network.services_lead_somewhere,
    network.policies_mean_somebody,
    references_exist,
]


# --- the manifests -------------------------------------------------------------------------------


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_an_overlay_keeps_the_rule(rule: Rule, overlay: str) -> None:
    assert rule(applied(overlay)) == []


@pytest.mark.parametrize("version", [OLDEST_KUBERNETES, LATEST_KUBERNETES])
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_is_not_rays_holds_to_its_schema(overlay: str, version: str) -> None:
    for manifest in applied(overlay):
        if not manifest["apiVersion"].startswith("ray.io/"):
            kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("kind", RAY_KINDS)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_is_rays_holds_to_its_schema(overlay: str, kind: str) -> None:
    found = [one for one in applied(overlay) if one["kind"] == kind]

    validator = jsonschema.Draft202012Validator(ray_schema(kind) or {})
    assert [error.message for one in found for error in validator.iter_errors(one)] == []
    assert len(found) == (1 if overlay in APPLIED and ray_schema(kind) else 0)


def test_every_directory_to_apply_is_checked() -> None:
    checked = {one for directories in APPLIED.values() for one in directories}
    overlays = {str(file.parent.relative_to(K8S)) for file in K8S.glob("overlays/**/kust*.yaml")}

    assert overlays <= checked


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_ray_and_the_image_are_of_the_versions_of_this_release(overlay: str) -> None:
    manifests = applied(overlay)
    images = {one["image"] for pod in pods(manifests) for one in pod.containers}
    ray = {one["spec"]["rayVersion"] for one in manifests if one["kind"] == "RayCluster"}

    assert ray <= {str(pins()["ray"])}
    assert {one.rpartition(":")[2] for one in images if "retinue" in one} <= {PROJECT["version"]}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_ray_and_sessions_never_share_a_redis(overlay: str) -> None:
    secrets = {
        name: {key for kind, key, _ in rules.references(part) if kind == "Secret"}
        for cluster in applied(overlay)
        if cluster["kind"] == "RayCluster"
        for name, part in (
            ("ray", cluster["spec"]["gcsFaultToleranceOptions"]),
            ("sessions", cluster["spec"]["headGroupSpec"]["template"]["spec"]["containers"]),
        )
    }

    assert secrets in ({"ray": {"retinue-gcs-redis"}, "sessions": {"retinue-session-redis"}}, {})


# --- who may talk to whom ------------------------------------------------------------------------

HEAD = {"ray.io/cluster": "retinue", "ray.io/node-type": "head"}
WORKER = {"ray.io/cluster": "retinue", "ray.io/node-type": "worker"}
CLEANUP = {"ray.io/cluster": "retinue", "ray.io/node-type": "redis-cleanup"}
OTHER_RAY = {"ray.io/cluster": "other", "ray.io/node-type": "head"}
SUBMITTER = {"app.kubernetes.io/component": "job-submitter"}
OPERATOR = {"app.kubernetes.io/component": "kuberay-operator"}
BACKUP = {"app.kubernetes.io/component": "session-backup"}
GCS_REDIS = {"app.kubernetes.io/component": "gcs-redis", "app.kubernetes.io/name": "redis"}
SESSION_REDIS = {"app.kubernetes.io/component": "session-redis", "app.kubernetes.io/name": "redis"}
STRANGER = {"app": "web"}
ELSEWHERE = {"kubernetes.io/metadata.name": "elsewhere"}


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize(
    ("source", "namespace", "target", "port", "open_"),
    [
        (HEAD, None, GCS_REDIS, 6379, True),
        (CLEANUP, None, GCS_REDIS, 6379, True),
        (WORKER, None, GCS_REDIS, 6379, False),
        (STRANGER, None, GCS_REDIS, 6379, False),
        (GCS_REDIS, None, SESSION_REDIS, 6379, False),
        (SESSION_REDIS, None, HEAD, 8265, False),
        (WORKER, None, HEAD, 6379, True),
        (WORKER, None, HEAD, 9001, True),
        (WORKER, None, WORKER, 15000, True),
        (HEAD, None, WORKER, 52365, True),
        (HEAD, None, WORKER, 22, False),
        (WORKER, ELSEWHERE, HEAD, 6379, False),
        (OTHER_RAY, None, WORKER, 15000, False),
        (SUBMITTER, None, HEAD, 8265, True),
        (SUBMITTER, None, HEAD, 6379, False),
        (SUBMITTER, None, WORKER, 52365, False),
        (OPERATOR, ELSEWHERE, HEAD, 8265, True),
        (OPERATOR, ELSEWHERE, HEAD, 6379, False),
        (STRANGER, None, HEAD, 8265, False),
        (STRANGER, ELSEWHERE, WORKER, 8080, False),
        (BACKUP, None, HEAD, 8265, False),
    ],
)
def test_ports_open_to_their_peers_only(
    overlay: str, source: Labels, namespace: Labels | None, target: Labels, port: int, open_: bool
) -> None:
    manifests = applied(overlay)

    assert not manifests or may_reach(manifests, source, target, port, namespace=namespace) is open_


@pytest.mark.parametrize("overlay", [one for one in OVERLAYS if one != "outside-redis"])
@pytest.mark.parametrize(
    ("source", "namespace", "open_"),
    [
        (HEAD, None, True),
        (WORKER, None, True),
        (BACKUP, None, True),
        (CLEANUP, None, False),
        (SUBMITTER, None, False),
        (STRANGER, None, False),
        (WORKER, ELSEWHERE, False),
    ],
)
def test_the_sessions_redis_is_open_to_ray_nodes_and_backups(
    overlay: str, source: Labels, namespace: Labels | None, open_: bool
) -> None:
    manifests = applied(overlay)

    assert (
        not manifests
        or may_reach(manifests, source, SESSION_REDIS, 6379, namespace=namespace) is open_
    )


# --- Redis as it is started in a pod -------------------------------------------------------------


@pytest.fixture
def redis_command(tmp_path: Path) -> list[str]:
    """What the StatefulSet runs, with a server, a directory and a socket of this machine."""
    _, stateful_set, _ = yaml.safe_load_all((K8S / "redis/redis.yaml").read_text())
    config = (K8S / "redis/valkey.conf").read_text()
    config = config.replace("/data", str(tmp_path))
    config = config.replace("port 6379", f"port 0\nunixsocket {tmp_path}/r.sock")
    (tmp_path / "valkey.conf").write_text(config)
    *shell, script = stateful_set["spec"]["template"]["spec"]["containers"][0]["command"]
    script = script.replace("valkey-server", find_binary())
    return [*shell, script.replace("/etc/valkey", str(tmp_path))]


async def test_redis_keeps_what_retinue_needs_and_tells_nobody_its_password(
    redis_command: list[str], tmp_path: Path
) -> None:
    environment = {**os.environ, "REDISCLI_AUTH": "f00d", "MAXMEMORY": "100mb"}
    with subprocess.Popen(redis_command, env=environment, stdout=subprocess.DEVNULL) as server:
        try:
            _wait_for(tmp_path / "r.sock", server)
            connection = Connection(f"unix://:f00d@{tmp_path}/r.sock", "test")
            await connection.check(durable=True)
            limit = await connection.values("CONFIG", "GET", "maxmemory")
            await connection.close()
            command_line = Path(f"/proc/{server.pid}/cmdline").read_bytes()
        finally:
            server.terminate()

    assert limit[1] == b"104857600"
    assert b"redis-server" in command_line
    assert b"f00d" not in command_line
    assert server.returncode == 0, "it did not hear SIGTERM: is it not the container's process?"


def _wait_for(file: Path, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 10
    while not file.exists():
        assert server.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)


# --- the image -----------------------------------------------------------------------------------

DOCKERFILE = (ROOT / "Dockerfile").read_text()


def instructions(text: str) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile, comments left out and lines joined."""
    joined = re.sub(r"\\\n\s*", " ", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE))
    lines = [line.partition(" ") for line in joined.splitlines() if line.strip()]
    return [(word.upper(), rest.strip()) for word, _, rest in lines]


def image_problems(text: str) -> Iterator[str]:
    """What is wrong with a Dockerfile."""
    found = instructions(text)
    for word, rest in found:
        if word == "FROM" and not re.fullmatch(r"python:3\.\d+\.\d+-slim[\w-]*(@\S+)?", rest):
            yield f"{rest} is not a slim image of one version"
        if word in ("ENV", "ARG") and any(
            rules.SECRET_NAME.search(name) for name in re.findall(r"(\w+)=?", rest)
        ):
            yield f"{word} {rest} is a secret for all to see"
    users = [rest for word, rest in found if word == "USER"]
    if not users or not re.fullmatch(r"[1-9]\d*(:[1-9]\d*)?", users[-1]):
        yield "runs as root, or as a name that a cluster can't tell from root"
    commands = [number for number, (word, rest) in enumerate(found) if "pip install -r" in rest]
    code = [n for n, (word, rest) in enumerate(found) if word == "COPY" and "actors" in rest]
    if not commands or not code or commands[0] > code[0]:
        yield "installs what Retinue needs again for every change of its code"


def copied() -> list[str]:
    """What the Dockerfile takes from the repository."""
    copies = [rest.split()[:-1] for word, rest in instructions(DOCKERFILE) if word == "COPY"]
    return [source for sources in copies for source in sources]


def test_the_image_is_slim_pinned_and_for_nobody_special() -> None:
    assert list(image_problems(DOCKERFILE)) == []


@pytest.mark.parametrize("source", copied())
def test_what_the_image_copies_is_here_and_let_through(source: str) -> None:
    assert (ROOT / source).exists()
    assert f"!{source}" in (ROOT / ".dockerignore").read_text().splitlines()


def test_nothing_else_gets_into_the_image() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    named = [line for line in lines if line and line[0] != "#"]

    assert named[0] == "*"
    assert {line[1:] for line in named if line[0] == "!"} == set(copied())


def test_the_jobs_program_is_in_the_image() -> None:
    job = yaml.safe_load((K8S / "survey/rayjob.yaml").read_text())
    python, path = job["spec"]["entrypoint"].split()

    assert python == "python"
    assert ("WORKDIR", os.path.dirname(path)) in instructions(DOCKERFILE)
    assert ("COPY", f"k8s/survey/job.py {os.path.basename(path)}") in instructions(DOCKERFILE)
    assert callable(runpy.run_path(str(K8S / "survey/job.py"))["main"])


# --- that each check can fail --------------------------------------------------------------------


def references_exist_in_good(manifests: Sequence[Manifest]) -> list[str]:
    """The rule, with the Secrets of `good`."""
    return rules.references_exist(manifests, SECRETS)


@pytest.mark.parametrize(
    "rule", [*RULES[:-1], references_exist_in_good], ids=lambda rule: rule.__name__
)
def test_good_manifests_keep_the_rule(rule: Rule) -> None:
    assert rule(good()) == []


CONTAINER = "StatefulSet.spec.template.spec.containers.0"
RAY = "RayCluster.spec"
HEAD_POD = f"{RAY}.headGroupSpec.template.spec"


@pytest.mark.parametrize(
    ("rule", "path", "value", "problem"),
    [
        (rules.containers_have_limits, f"{CONTAINER}.resources.limits.cpu", None, "limits"),
        (rules.containers_have_limits, f"{CONTAINER}.resources", None, "requests of memory"),
        (rules.containers_have_limits, f"{RAY}.autoscalerOptions", {}, "autoscaler"),
        (rules.nothing_runs_as_root, f"{CONTAINER}.securityContext.runAsUser", 0, "redis may"),
        (rules.nothing_runs_as_root, f"{HEAD_POD}.securityContext", None, "headgroup"),
        (
            rules.nothing_runs_as_root,
            "StatefulSet.spec.template.spec.initContainers",
            [{"name": "chown", "securityContext": {"runAsUser": 0}}],
            "chown",
        ),
        (
            rules.nothing_gains_privileges,
            f"{CONTAINER}.securityContext.allowPrivilegeEscalation",
            None,
            "allowPrivilegeEscalation",
        ),
        (
            rules.nothing_gains_privileges,
            f"{CONTAINER}.securityContext.capabilities.add",
            ["NET_ADMIN"],
            "capabilities",
        ),
        (
            rules.nothing_gains_privileges,
            f"{RAY}.autoscalerOptions.securityContext.readOnlyRootFilesystem",
            False,
            "autoscaler",
        ),
        (rules.nothing_gains_privileges, f"{HEAD_POD}.hostNetwork", True, "hostNetwork"),
        (
            rules.nothing_gains_privileges,
            f"{HEAD_POD}.volumes",
            [{"name": "host", "hostPath": {"path": "/"}}],
            "hostPath",
        ),
        (
            rules.nothing_gains_privileges,
            f"{HEAD_POD}.securityContext.seccompProfile",
            None,
            "seccompProfile",
        ),
        (network.ports_are_closed, f"{CONTAINER}.ports.0.containerPort", 6380, "names port"),
        (
            network.ports_are_closed,
            f"{RAY}.headGroupSpec.rayStartParams.max-worker-port",
            "9101",
            "actors",
        ),
        (network.ports_are_closed, "NetworkPolicy/redis.spec.ingress.0.from", [], "to all"),
        (
            network.ports_are_closed,
            "StatefulSet.spec.template.metadata.labels.app",
            "other",
            "no NetworkPolicy closes it",
        ),
        (network.services_lead_somewhere, f"{CONTAINER}.ports", [], "no port redis"),
        (network.services_lead_somewhere, "Service.spec.selector.app", "x", "selects no pod"),
        (
            network.policies_mean_somebody,
            "NetworkPolicy/redis.spec.podSelector.matchLabels.app",
            "x",
            "NetworkPolicy/redis",
        ),
        (rules.images_are_pinned, f"{CONTAINER}.image", "valkey/valkey", "redis runs"),
        (rules.images_are_pinned, f"{CONTAINER}.image", "valkey:latest", "redis runs"),
        (rules.images_are_pinned, f"{CONTAINER}.image", "registry:5000/valkey:8", "redis runs"),
        (rules.images_are_pinned, f"{RAY}.autoscalerOptions.image", "ray:nightly", "scaler"),
        (
            references_exist_in_good,
            f"{CONTAINER}.env.0.valueFrom.secretKeyRef.name",
            "other",
            "Secret other",
        ),
        (
            references_exist_in_good,
            f"{CONTAINER}.env.0.valueFrom.secretKeyRef.key",
            "other",
            "Secret password with other",
        ),
        (references_exist_in_good, f"{RAY}.authOptions.secretName", "password", "auth_token"),
        (references_exist_in_good, "ConfigMap.metadata.name", "other", "ConfigMap redis"),
        (
            references_exist_in_good,
            "StatefulSet.spec.volumeClaimTemplates",
            [],
            "claim data-redis-0",
        ),
        (
            rules.no_secret_is_told,
            f"{CONTAINER}.env.0",
            {"name": "PASSWORD", "value": "hunter2"},
            "PASSWORD",
        ),
        (
            rules.no_secret_is_told,
            f"{RAY}.gcsFaultToleranceOptions.redisPassword",
            {"value": "hunter2"},
            "redisPassword",
        ),
        (
            rules.no_secret_is_told,
            f"{CONTAINER}.command.2",
            "redis-server --requirepass hunter2",
            "command[2]",
        ),
        (
            rules.no_secret_is_told,
            "ConfigMap.data",
            {"url": "redis://:hunter2@redis:6379"},
            "data.url",
        ),
        (rules.no_secret_is_told, "ConfigMap.kind", "Secret", "is in a file"),
        (rules.ray_is_guarded, f"{RAY}.authOptions.mode", "disabled", "token"),
        (rules.ray_is_guarded, f"{RAY}.authOptions", None, "token"),
        (rules.ray_is_guarded, f"{RAY}.gcsFaultToleranceOptions", None, "forgets"),
        (
            rules.ray_is_guarded,
            f"{RAY}.workerGroupSpecs.0.rayStartParams.object-manager-port",
            None,
            "object-manager-port is any port",
        ),
        (rules.ray_is_guarded, f"{HEAD_POD}.containers.0.lifecycle", None, "does not drain"),
    ],
)
def test_a_rule_finds_what_breaks_it(rule: Rule, path: str, value: object, problem: str) -> None:
    """``value`` is put at ``path``; None takes away what is there."""
    problems = rule(spoiled(path, value))

    assert any(problem in one for one in problems), problems


def spoiled(path: str, value: object) -> list[Manifest]:
    """Good manifests, but for one thing. ``path`` starts with ``Kind`` or ``Kind/name``."""
    manifests = good()
    name, *steps = _steps(path)
    place: Any = next(one for one in manifests if name in (one["kind"], name_of(one)))
    for step in steps[:-1]:
        place = place[int(step) if isinstance(place, list) else step]
    if isinstance(place, list):
        place[int(steps[-1])] = value
    elif value is None:
        del place[steps[-1]]
    else:
        place[steps[-1]] = value
    return manifests


def _steps(path: str) -> list[str]:
    """The steps of a path; a full stop before ``io/`` is no end of one."""
    return re.split(r"\.(?!io/)", path)


def test_a_kind_that_nobody_thought_of_is_refused() -> None:
    with pytest.raises(ValueError, match="does a DaemonSet make pods"):
        list(pods([{"kind": "DaemonSet", "metadata": {"name": "x"}}]))


@pytest.mark.parametrize(
    ("manifest", "fault"),
    [
        ({"spec": {"size": 1}}, None),
        ({"spec": {"size": 1, "sise": 1}}, "sise"),
        ({"spec": {"size": "one"}}, "is not of type"),
        ({"spec": {"parts": [{"size": 1}]}}, None),
        ({"spec": {"parts": [{"nmae": "x"}]}}, "nmae"),
        ({"spec": {"labels": {"any": {"size": 1}}}}, None),
        ({"spec": {"labels": {"any": {"other": 1}}}}, "other"),
        ({"spec": {"free": {"any": 1}}}, None),
        ({"metadata": {"any": 1}}, None),
    ],
)
def test_a_closed_schema_refuses_what_it_does_not_name(
    manifest: Manifest, fault: str | None
) -> None:
    part: Manifest = {"type": "object", "properties": {"size": {"type": "integer"}}}
    free = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    labels = {"type": "object", "additionalProperties": part}
    parts = {"type": "array", "items": part}
    more = {**part["properties"], "parts": parts, "labels": labels, "free": free}
    spec = {"type": "object", "properties": more}
    schema = {"type": "object", "properties": {"metadata": {"type": "object"}, "spec": spec}}

    errors = jsonschema.Draft202012Validator(closed(schema, ("metadata",))).iter_errors(manifest)

    messages = [error.message for error in errors]
    assert messages == [] if fault is None else fault in messages[0]


def test_a_core_schema_refuses_what_it_does_not_name() -> None:
    service = next(one for one in good() if one["kind"] == "Service")
    service["spec"]["prots"] = []

    with pytest.raises(kubernetes_validate.ValidationError, match="prots"):
        kubernetes_validate.validate(service, LATEST_KUBERNETES, strict=True)


@pytest.mark.parametrize(
    ("spoil", "replacement", "problem"),
    [
        (r"FROM .*", "FROM python:3.11-slim", "not a slim image of one version"),
        (r"FROM .*", "FROM python:3.11.14", "not a slim image of one version"),
        (r"USER .*\n", "", "runs as root"),
        (r"USER .*", "USER retinue", "runs as root"),
        (r"USER .*", "USER 0", "runs as root"),
        (r"CMD", "ENV REDIS_PASSWORD=hunter2\nCMD", "secret"),
        (r"CMD", "ARG API_TOKEN\nCMD", "secret"),
        (r"COPY pyproject.toml", "COPY actors actors\nCOPY pyproject.toml", "again for every"),
    ],
)
def test_a_dockerfile_that_breaks_a_rule_is_found(
    spoil: str, replacement: str, problem: str
) -> None:
    text = re.sub(spoil, replacement, DOCKERFILE, count=1)

    assert any(problem in one for one in image_problems(text))


def test_secrets_are_read_from_commands() -> None:
    text = "kubectl create secret generic one \\\n  --from-literal=a=b --from-file=c=d\nother"

    assert secrets_told_of(text) == {"one": {"a", "c"}}
