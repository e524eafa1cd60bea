"""What `kubectl apply` would be given: kustomizations, built, and the schemas to hold them to."""

from __future__ import annotations

import functools
import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import yaml

Manifest: TypeAlias = dict[str, Any]

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"
RAY_SCHEMAS = ROOT.parent / "shared" / "k8s"
"""The schemas of RayCluster and RayJob. They are not part of this repository."""


def kustomize() -> list[str] | None:
    """The command that builds a kustomization, if this machine has one."""
    if shutil.which("kubectl"):
        return ["kubectl", "kustomize"]
    return ["kustomize", "build"] if shutil.which("kustomize") else None


@functools.cache
def built(*directories: str) -> list[Manifest]:
    """The manifests of some directories under ``k8s/``, in one list: what is applied together."""
    command = kustomize()
    assert command, "there is neither kubectl nor kustomize"
    found: list[Manifest] = []
    for directory in directories:
        done = subprocess.run(
            [*command, str(K8S / directory)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        found += yaml.safe_load_all(done.stdout)
    return found


def name_of(manifest: Manifest) -> str:
    """``Kind/name``."""
    return f"{manifest['kind']}/{manifest['metadata']['name']}"


def secrets_told_of(text: str) -> dict[str, set[str]]:
    """The Secrets, and the keys in each, that a text creates with ``kubectl create secret``."""
    joined = text.replace("\\\n", " ")
    return {
        name: set(re.findall(r"--from-(?:literal|file)=([\w.-]+)=", rest))
        for name, rest in re.findall(r"kubectl create secret generic ([\w.-]+)(.*)", joined)
    }


@functools.cache
def ray_schema(kind: str) -> Manifest | None:
    """The closed schema of a kind of Ray's, where there is one."""
    file = RAY_SCHEMAS / f"{kind.lower()}-v1.schema.json"
    if not file.exists():
        return None
    # `metadata` is any object's, so the schema of a kind says nothing of what is in it.
    return closed(json.loads(file.read_text()), open_fields=("metadata",))


def closed(schema: Mapping[str, Any], open_fields: tuple[str, ...] = ()) -> Manifest:
    """The same schema with every field refused that it doesn't name, which is what a server drops.

    Objects that say what else they take, or that keep unknown fields, stay as they are; so do
    ``open_fields`` at the top.
    """
    result = dict(schema)
    if "properties" in result:
        result["properties"] = {
            name: one if name in open_fields else closed(one)
            for name, one in result["properties"].items()
        }
    if isinstance(result.get("items"), dict):
        result["items"] = closed(result["items"])
    if isinstance(result.get("additionalProperties"), dict):
        result["additionalProperties"] = closed(result["additionalProperties"])
    if (
        result.get("type") == "object"
        and "additionalProperties" not in result
        and not result.get("x-kubernetes-preserve-unknown-fields")
    ):
        result["additionalProperties"] = False
    return result
