"""Every command that a state machine takes is sent by somebody: a rule without a sender is none."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

from retinue.actors.durable.codec import Machine
from retinue.actors.stores.table import MACHINES

ROOT = Path(__file__).parent.parent


def test_every_command_is_sent() -> None:
    commands = {name for machine in MACHINES.values() for name in commands_of(machine)}
    sources = [path.read_text() for part in ("actors", "cluster") for path in files(part)]
    assert sorted(commands - {name for source in sources for name in made(source)}) == []


def test_all_commands_are_looked_for() -> None:
    found = {
        name.rpartition(".")[2] for machine in MACHINES.values() for name in commands_of(machine)
    }
    assert {"Forget", "CleanupExpired", "SetHold", "RecordDecision", "ClearSession"} <= found


def test_what_a_module_makes_of_its_own_is_not_sent() -> None:
    source = "from a import b\nfrom a.c import D as E\nb.F(1)\nE()\nclass G: ...\nG()\nprint(b.H)"
    assert set(made(source)) == {"a.b.F", "a.c.D"}


def commands_of(machine: Machine[Any, Any, Any, Any]) -> Iterator[str]:
    """The commands of a machine, by their full names."""
    for one in get_args(import_module(machine.decide.__module__).Command):
        yield f"{one.__module__}.{one.__qualname__}"


def files(part: str) -> Iterator[Path]:
    """Every Python file of a folder."""
    return (ROOT / part).rglob("*.py")


def made(source: str) -> Iterator[str]:
    """What is called by a name that was imported, by its full name."""
    code = ast.parse(source)
    meanings = {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in ast.walk(code)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    for node in ast.walk(code):
        if isinstance(node, ast.Call):
            first, dot, rest = ast.unparse(node.func).partition(".")
            if first in meanings:
                yield f"{meanings[first]}{dot}{rest}"
