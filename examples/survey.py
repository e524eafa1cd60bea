"""Survey Python sources with a tree of agents: one for each package, below them one for each file.

    python examples/survey.py [DIRECTORY] [--json]
    troupe run examples/survey.py:survey --workspace DIRECTORY

Every file read is authorised and charged by its size. Parsing is a tool that needs approval: the
root asks once, and what is granted for the workspace covers all the others. A few agents ask for
more than their job needs, and are told no, yes or later. The findings equal those of
`survey_plainly`, which is a loop.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import contextlib
import json
import os
import re
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Literal, TypedDict, cast

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table
from rich.tree import Tree

from actors import (
    Boundary,
    BudgetConfig,
    FileList,
    FileRead,
    McpToolCall,
    Message,
    Policy,
    Result,
    Task,
    TroupeError,
    Turn,
)
from actors.ports import FeedEvent
from cluster import BudgetStatus, InboxRequest, Session, SessionTree, connect

STDLIB = os.path.realpath(sysconfig.get_path("stdlib"))
TEMPORARY = os.path.realpath(tempfile.gettempdir())

NOT_SURVEYED = frozenset({"__pycache__", "site-packages", "dist-packages", "node_modules"})
TESTS = frozenset({"test", "tests", "idle_test"})
"""Left out of the standard library, whose tests hold files that are wrong on purpose."""

PRICE_PER_BYTE = Decimal("0.000000001")
AT_ONCE = 64
NESTED_PACKAGES_ABOVE = 2
"""Packages at this depth have all files below them as children: a family is 3 levels deep."""

MODULES = "(modules)"
"""The pseudo-package of the files that are in no package."""

ELSEWHERE = ("read /etc/shadow", "list /usr/bin", f"list {TEMPORARY}", "list /")
PATIENCE_S = 2.0

LONGEST = 5
_NOTE = re.compile(rb"\b(?:TODO|FIXME)\b")


# --- what is found: plain functions --------------------------------------------------------------


class Function(TypedDict):
    """A function, and where it starts: ``path:line``."""

    name: str
    where: str
    lines: int


class Findings(TypedDict):
    """What was found in some files. ``imports`` counts the files that import a module."""

    files: int
    bytes: int
    lines: int
    functions: int
    classes: int
    todos: int
    longest: list[Function]
    imports: dict[str, int]
    skipped: list[str]


class Survey(TypedDict):
    """What the root comes to."""

    directory: str
    total: Findings
    packages: dict[str, Findings]


def findings_of(path: str, source: bytes) -> Findings:
    """The findings in one file. One that does not parse counts, and is named in ``skipped``."""
    findings = nothing_found()
    findings.update(
        files=1,
        bytes=len(source),
        lines=len(source.splitlines()),
        todos=len(_NOTE.findall(source)),
    )
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError) as error:
        findings["skipped"] = [f"{path}: {error}"]
        return findings
    functions: list[Function] = []
    imports: set[str] = set()
    for name, node in _statements(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                functions.append(Function(name=name, where=f"{path}:{node.lineno}", lines=lines))
            case ast.ClassDef():
                findings["classes"] += 1
            case ast.Import():
                imports.update(alias.name.partition(".")[0] for alias in node.names)
            case ast.ImportFrom(module=str(module), level=0):
                imports.add(module.partition(".")[0])
    findings["functions"] = len(functions)
    findings["longest"] = _longest(functions)
    findings["imports"] = {module: 1 for module in sorted(imports)}
    return findings


def nothing_found() -> Findings:
    """The findings in no files."""
    return Findings(
        files=0,
        bytes=0,
        lines=0,
        functions=0,
        classes=0,
        todos=0,
        longest=[],
        imports={},
        skipped=[],
    )


def merged(parts: Iterable[Findings]) -> Findings:
    """The findings of all parts together; neither order nor grouping matters."""
    total = nothing_found()
    imports: Counter[str] = Counter()
    for part in parts:
        total["files"] += part["files"]
        total["bytes"] += part["bytes"]
        total["lines"] += part["lines"]
        total["functions"] += part["functions"]
        total["classes"] += part["classes"]
        total["todos"] += part["todos"]
        total["longest"] = _longest([*total["longest"], *part["longest"]])
        total["skipped"] = sorted([*total["skipped"], *part["skipped"]])
        imports.update(part["imports"])
    total["imports"] = dict(sorted(imports.items()))
    return total


def files_below(directory: str) -> list[str]:
    """The Python files in a directory and below, sorted. Links are not followed."""
    unwanted = NOT_SURVEYED | TESTS if f"{directory}/".startswith(f"{STDLIB}/") else NOT_SURVEYED
    found: list[str] = []
    for place, directories, files in os.walk(directory):
        directories[:] = [one for one in directories if one not in unwanted and one[0] != "."]
        paths = (os.path.join(place, one) for one in files if one.endswith(".py"))
        found += (path for path in paths if os.path.isfile(path) and not os.path.islink(path))
    return sorted(found)


def grouped(directory: str, files: Iterable[str]) -> dict[str, list[str]]:
    """Files below a directory by the package that they are in, a directory in ``directory``."""
    groups: dict[str, list[str]] = {}
    for path in files:
        package, slash, _ = os.path.relpath(path, directory).partition(os.sep)
        groups.setdefault(package if slash else MODULES, []).append(path)
    return groups


def survey_plainly(directory: str) -> Survey:
    """The same as the tree of agents, by a plain loop."""
    directory = os.path.realpath(directory)
    packages = {
        package: merged(findings_of(path, Path(path).read_bytes()) for path in files)
        for package, files in grouped(directory, files_below(directory)).items()
    }
    return Survey(directory=directory, total=merged(packages.values()), packages=packages)


def _statements(tree: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """All statements with their qualified names; no expressions, since nothing is defined there."""
    waiting: list[tuple[str, ast.AST]] = [("", tree)]
    while waiting:
        name, node = waiting.pop()
        yield name, node
        for block in ("body", "orelse", "finalbody", "handlers", "cases"):
            below = getattr(node, block, None)
            for child in below if isinstance(below, list) else ():
                own = getattr(child, "name", None)
                waiting.append((f"{name}.{own}".lstrip(".") if own else name, child))


def _longest(functions: Iterable[Function]) -> list[Function]:
    return sorted(functions, key=lambda one: (-one["lines"], one["where"], one["name"]))[:LONGEST]


# --- the agents ----------------------------------------------------------------------------------


async def survey(turn: Turn, prompt: str) -> Survey:
    """The root: surveys the directory in the prompt, the workspace, or the standard library."""
    directory = os.path.realpath(prompt or turn.workspace or STDLIB)
    if not os.path.isdir(directory):
        raise NotADirectoryError(f"{directory} is not a directory")
    parse = McpToolCall("survey", "parse", {"path": directory})
    async with turn.authorized(parse, context="parse all files of the survey") as permit:
        proof = permit.decision.proof.partition(":")[0]
        await turn.add_message(Message.assistant(f"call survey/parse: allowed by {proof}"))
        packages = sorted(await _packages(turn, directory))
        tasks = [_package_task(directory, package) for package in packages]
        tasks += [
            Task(look_elsewhere, wish, label=wish, isolation="shared") for wish in ELSEWHERE
        ]
        results = await turn.spawn(tasks, max_concurrent=AT_ONCE)
    for wish, result in zip(ELSEWHERE, results[len(packages) :], strict=True):
        await turn.add_message(Message.assistant(f"{wish}: {result.output or result.error}"))
    found = {
        package: _findings(os.path.join(directory, package), result)
        for package, result in zip(packages, results, strict=False)
    }
    return Survey(directory=directory, total=merged(found.values()), packages=found)


async def survey_package(turn: Turn, directory: str) -> Findings:
    """Surveys a package: its files by agents of their own, and the packages in it."""
    if turn.depth < NESTED_PACKAGES_ABOVE:
        packages = await _packages(turn, directory)
    else:
        packages = {MODULES: await turn.step("list", lambda: files_below(directory))}
    nested = [package for package in packages if package != MODULES]
    tasks = [_package_task(directory, package) for package in nested]
    return await _gathered(turn, directory, packages.get(MODULES, []), tasks)


async def survey_modules(turn: Turn, directory: str) -> Findings:
    """Surveys the files that are in a directory itself."""
    packages = await _packages(turn, directory)
    return await _gathered(turn, directory, packages.get(MODULES, []), [])


async def survey_file(turn: Turn, path: str) -> Findings:
    """Reads and parses one file."""
    async with turn.authorized(McpToolCall("survey", "parse", {"path": path})):
        cost = os.stat(path).st_size * PRICE_PER_BYTE
        async with turn.authorized(FileRead(path), cost_usd=cost, context="survey") as permit:
            source = Path(path).read_bytes()
            permit.settle(len(source) * PRICE_PER_BYTE)
        return findings_of(path, source)


async def look_elsewhere(turn: Turn, wish: str) -> str:
    """Asks to read or list what is none of its business, and tells what the answer was."""
    verb, _, path = wish.partition(" ")
    action = FileRead(path) if verb == "read" else FileList(path)
    decision = await turn.authorize(action, context="curiosity", timeout=PATIENCE_S)
    if not decision.allowed:
        return f"{decision.kind}, {decision.reason}"
    size = len(Path(path).read_bytes()) if verb == "read" else len(os.listdir(path))
    return f"allowed by {decision.proof.partition(':')[0]}, found {size}"


async def _packages(turn: Turn, directory: str) -> dict[str, list[str]]:
    async with turn.authorized(FileList(directory)):
        return await turn.step("list", lambda: grouped(directory, files_below(directory)))


def _package_task(directory: str, package: str) -> Task:
    agent, path = survey_package, os.path.join(directory, package)
    if package == MODULES:
        agent, path = survey_modules, directory
    return Task(agent, path, label=package, isolation="shared", timeout=3600)


async def _gathered(
    turn: Turn, directory: str, files: Sequence[str], tasks: Sequence[Task]
) -> Findings:
    """Run ``tasks`` and an agent for each file, and merge what they found."""
    reads = [
        Task(survey_file, path, label=os.path.basename(path), isolation="shared") for path in files
    ]
    results = await turn.spawn([*tasks, *reads], max_concurrent=AT_ONCE)
    found = merged(_findings(directory, result) for result in results)
    summary = f"{directory}: {found['files']} files, {found['lines']} lines"
    await turn.add_message(Message.assistant(summary))
    return found


def _findings(path: str, result: Result) -> Findings:
    """What a sub-agent found; if it failed, its error in place of findings."""
    if result.success:
        return cast("Findings", result.value)
    failed = nothing_found()
    failed["skipped"] = [f"{path}: {result.error}"]
    return failed
