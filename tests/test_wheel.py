"""The wheel: it holds `retinue` and nothing else, and runs next to others of our old names."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OTHERS = ("actors", "cluster", "troupe")
"""Packages of the index that are called as our folders are, or as we once were."""

SCRIPT = """
import asyncio
import cluster
from retinue import FileRead, Policy, Turn, connect

async def agent(turn: Turn, prompt: str) -> str:
    return f"{cluster.WORD} {prompt}"

async def main() -> None:
    async with connect() as client:
        workspace = await client.workspace(".", policy=Policy())
        session = await client.create_session(
            agent, user_id="0123456789abcdef", workspace=workspace, isolation="shared"
        )
        result = await session.run("day")
        print(result.output, result.error or "")

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing of an earlier build gets in."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("actors", "cluster", "retinue"):
        shutil.copytree(
            ROOT / name,
            source / name,
            symlinks=True,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip("wheel", "--no-deps", "--no-build-isolation", "-w", str(built), str(source))
    (found,) = built.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean environment: the wheel, those others, and from here only what we depend on."""
    place = tmp_path_factory.mktemp("environment")
    venv.create(place, with_pip=False)
    python = place / "bin" / "python"
    into = ("--python", str(python), "install", "--no-deps")
    pip(*into, str(wheel))
    try:
        pip(*into, *OTHERS)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"the index is not there: {error.stderr.strip().splitlines()[-1]}")
    (site,) = place.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def pip(*arguments: str) -> None:
    quiet = ("-q", "--disable-pip-version-check", "--no-input")
    command = [sys.executable, "-m", "pip", *quiet, *arguments]
    subprocess.run(command, check=True, capture_output=True, text=True)


def test_the_wheel_installs_retinue_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"retinue"}
    sources = {
        path.relative_to(ROOT)
        for path in (
            *ROOT.glob("actors/**/*.py"),
            *ROOT.glob("cluster/**/*.py"),
            *ROOT.glob("cluster/**/*.lua"),
        )
    }
    assert {f"retinue/{path}" for path in sources} <= set(names)
    assert {"retinue/__init__.py", "retinue/__main__.py", "retinue/py.typed"} <= set(names)


def test_both_ways_to_the_command_line(python: Path, tmp_path: Path) -> None:
    for command in ([str(python), "-m", "retinue"], [str(python.with_name("retinue"))]):
        done = subprocess.run(
            [*command, "--version"], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert done.stdout.startswith("retinue ")


def test_all_that_is_public_has_types(python: Path, tmp_path: Path) -> None:
    checker = [str(Path(sys.executable).with_name("basedpyright")), "--verifytypes", "retinue"]
    done = subprocess.run(
        [*checker, "--ignoreexternal", "--outputjson"],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    found = json.loads(done.stdout)["typeCompleteness"]
    problems = {
        f"{symbol['name']}: {one['message']}"
        for symbol in found["symbols"]
        for one in symbol["diagnostics"]
        if one["severity"] == "error"
    }
    assert problems == set()
    assert found["completenessScore"] == 1


@pytest.mark.own_cluster
def test_an_agent_runs_next_to_a_users_own_cluster(python: Path, tmp_path: Path) -> None:
    (tmp_path / "cluster.py").write_text("WORD = 'good'\n")
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {**os.environ, "RETINUE_HOME": str(tmp_path / "home")}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [str(python), "script.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "good day", done.stderr[-2000:]
