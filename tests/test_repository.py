"""The repository as a whole: nothing of one machine is in it, and every version is pinned."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.kit.project import PROJECT, ROOT, pins

# No pattern matches its own source, so this file passes too.
REGISTRY = re.compile(r"pypi\.org|pythonhosted\.org|npmjs\.(?:org|com)|crates\.io|proxy\.golang")
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:work|(?:home|Users)/[a-z][\w-]*)/")


def files() -> list[Path]:
    """All that git tracks or would add."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip(f"not a git checkout: {listed.stderr.strip()}")
    return [path for name in listed.stdout.split("\0") if (path := ROOT / name).is_file()]


def requirements() -> list[Requirement]:
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    return [Requirement(line) for group in groups for line in group]


@pytest.mark.parametrize("foreign", [REGISTRY, MACHINE_PATH], ids=["registry", "machine path"])
def test_no_file_names_a_registry_or_a_place_on_one_machine(foreign: re.Pattern[str]) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in files()
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if foreign.search(line)
    ]

    assert found == []


@pytest.mark.parametrize(
    ("foreign", "text"),
    [
        (REGISTRY, "https://" + "pypi" + ".org/simple"),
        (MACHINE_PATH, "'/home" + "/somebody/x'"),
        (MACHINE_PATH, "cd /" + "work/main"),
    ],
)
def test_a_foreign_name_is_found(foreign: re.Pattern[str], text: str) -> None:
    assert foreign.search(text)


@pytest.mark.parametrize("requirement", requirements(), ids=str)
def test_every_dependency_is_pinned_within_its_range(requirement: Requirement) -> None:
    pinned = pins()[canonicalize_name(requirement.name)]

    assert requirement.specifier.contains(pinned)


def test_the_constraints_name_versions_only() -> None:
    text = (ROOT / "constraints.txt").read_text()

    assert not re.search(r"://|@|^-", text, re.MULTILINE)


def test_the_change_log_tells_of_this_version() -> None:
    assert f"## [{PROJECT['version']}]" in (ROOT / "CHANGELOG.md").read_text()
