"""What we use of Ray that is not public: it is there by name, and its range of releases is kept."""

from __future__ import annotations

import ast
import inspect
import logging
import re
from importlib import import_module, metadata
from pathlib import Path

import pytest
import ray

from retinue.cluster.ray import private

WANTED = ["msgspec>=0.19", "ray<2.61,>=2.55", 'ray[default]<2.61,>=2.55; extra == "kubernetes"']


@pytest.mark.parametrize("used", private.USED)
def test_ray_still_has(used: str) -> None:
    module, _, name = used.partition(":")
    found: object = import_module(module)
    for part in name.split("."):
        if inspect.isfunction(found):
            source = inspect.getsource(found)
            assert re.search(rf"\.{part}(: \w+)? = ", source), f"Ray {ray.__version__}: no {used}"
            return
        assert hasattr(found, part), f"Ray {ray.__version__} has no {used}"
        found = getattr(found, part)


def test_every_module_of_rays_that_is_imported_is_named() -> None:
    code = ast.parse(Path(private.__file__).read_text(encoding="utf-8"))
    imported = {
        f"{node.module}.{alias.name}" if node.module in ("ray._private", "ray.core.generated")
        else str(node.module)
        for node in ast.walk(code)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("ray.")
        for alias in node.names
    }  # fmt: skip
    assert imported <= {used.partition(":")[0] for used in private.USED}


@pytest.mark.parametrize("version", ["2.55.0", "2.59.1", "2.60.9"])
def test_a_release_that_was_tried_is_passed_over(version: str) -> None:
    assert private.outside(version, WANTED) is None


@pytest.mark.parametrize("version", ["2.54.1", "2.61.0", "3.0.0.dev0"])
def test_another_release_is_named_with_what_to_install(version: str) -> None:
    said = private.outside(version, WANTED)

    assert said is not None
    assert said.startswith(f"Ray {version} was not tried with this Retinue")
    assert "pip install 'ray<2.61,>=2.55'" in said


def test_the_ray_that_is_installed_was_tried(caplog: pytest.LogCaptureFixture) -> None:
    assert private.check_version() is None
    assert caplog.records == []


def test_another_ray_is_said_at_start(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ray, "__version__", "9.0.0")

    with caplog.at_level(logging.WARNING, "retinue"):
        private.check_version()

    assert "Ray 9.0.0 was not tried" in caplog.text
    assert any(one.startswith("ray") for one in metadata.requires("retinue") or [])
