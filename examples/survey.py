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
from collections.abc import Callable, Iterable, Iterator, Sequence
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
    Decision,
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
from actors.agents import AgentFunction
from actors.ports import FeedEvent
from cluster import BudgetStatus, InboxRequest, Session, SessionTree, connect

STDLIB = os.path.realpath(sysconfig.get_path("stdlib"))
TEMPORARY = os.path.realpath(tempfile.gettempdir())

NOT_SURVEYED = frozenset({"__pycache__", "site-packages", "dist-packages", "node_modules"})
TESTS = frozenset({"test", "tests", "idle_test"})
"""Left out of the standard library, whose tests hold files that are wrong on purpose."""

PRICE_PER_BYTE = Decimal("0.000000001")
AT_ONCE = 64
DEEPEST_PACKAGE = 2
"""A package at this depth takes all files below it itself: a family may be 3 levels deep."""

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


def contents(directory: str, *, flat: bool = False) -> list[list[str]]:
    """The packages in a directory, and the files in none of them; if ``flat``, all files below."""
    files = files_below(directory)
    if flat:
        return [[], files]
    groups = grouped(directory, files)
    modules = groups.pop(MODULES, [])
    return [list(groups), modules]


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
    async with turn.authorized(parse, context="to parse all files of the survey") as permit:
        await _say(turn, f"call survey/parse: allowed by {_ground(permit.decision)}")
        packages, modules = await _listed(turn, directory)
        tasks = {package: _package_task(directory, package) for package in packages}
        if modules:
            tasks[MODULES] = _task(survey_modules, directory, MODULES)
        others = [_task(look_elsewhere, wish, wish) for wish in ELSEWHERE]
        results = await turn.spawn([*tasks.values(), *others], max_concurrent=AT_ONCE)
    for wish, result in zip(ELSEWHERE, results[len(tasks) :], strict=True):
        await _say(turn, f"{wish}: {result.output or result.error}")
    found = {
        package: _findings(directory, package, result)
        for package, result in zip(tasks, results, strict=False)
    }
    return Survey(directory=directory, total=merged(found.values()), packages=found)


async def survey_package(turn: Turn, directory: str) -> Findings:
    """Surveys a package: the packages in it, and its files, by agents of their own."""
    packages, files = await _listed(turn, directory, flat=turn.depth == DEEPEST_PACKAGE)
    return await _survey_all(turn, directory, packages, files)


async def survey_modules(turn: Turn, directory: str) -> Findings:
    """Surveys the files that are in a directory itself."""
    _, files = await _listed(turn, directory)
    return await _survey_all(turn, directory, [], files)


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
    return f"allowed by {_ground(decision)}, found {size}"


async def _listed(turn: Turn, directory: str, *, flat: bool = False) -> list[list[str]]:
    async with turn.authorized(FileList(directory)):
        return await turn.step("list", lambda: contents(directory, flat=flat))


async def _survey_all(
    turn: Turn, directory: str, packages: Sequence[str], files: Sequence[str]
) -> Findings:
    """Give each package and each file to a sub-agent, and merge what they find."""
    tasks = {package: _package_task(directory, package) for package in packages}
    tasks |= {path: _task(survey_file, path, os.path.basename(path)) for path in files}
    results = await turn.spawn(list(tasks.values()), max_concurrent=AT_ONCE)
    found = merged(_findings(directory, *each) for each in zip(tasks, results, strict=True))
    await _say(turn, f"{found['files']} files, {found['lines']} lines")
    return found


def _package_task(directory: str, package: str) -> Task:
    return _task(survey_package, os.path.join(directory, package), package)


def _task(agent: AgentFunction, prompt: str, label: str) -> Task:
    return Task(agent, prompt, label=label, isolation="shared", timeout=3600)


def _findings(directory: str, name: str, result: Result) -> Findings:
    """What a sub-agent found; if it failed, its error in place of findings."""
    if result.success:
        return cast("Findings", result.value)
    failed = nothing_found()
    failed["skipped"] = [f"{os.path.join(directory, name)}: {result.error}"]
    return failed


def _ground(decision: Decision) -> str:
    return decision.proof.partition(":")[0]


async def _say(turn: Turn, text: str) -> None:
    await turn.add_message(Message.assistant(text))


# --- the program ---------------------------------------------------------------------------------

POLICY = Policy(approval_required_tools=("survey/parse",))
WORKSPACE_USD = 100
BUDGET = BudgetConfig(session_max_usd=1, per_action_max_usd="0.01")


class Desk:
    """Answers requests for approval, as a person would, and keeps what it answered."""

    def __init__(self) -> None:
        self.answers: dict[str, str] = {}

    async def answer(self, request: InboxRequest) -> Literal["workspace", "session"] | None:
        """What it says of a request; None leaves it open, for somebody who knows."""
        given: Literal["workspace", "session"] | None = None
        match request.action:
            case McpToolCall("survey", "parse"):
                given = "workspace"
            case FileList(path) if path == TEMPORARY:
                given = "session"
        self.answers[request.description] = given or "no answer"
        return given


class Watch:
    """What is going on, as far as the events tell. The report rests on results instead."""

    def __init__(self) -> None:
        self.known = 0
        self.finished = 0
        self.cost = 0
        self.running: dict[str, str] = {}
        self.decisions: Counter[str] = Counter()

    def take(self, event: FeedEvent) -> None:
        """Count an event."""
        below = event.session_id != event.family_id
        match event.kind:
            case "spawned":
                self.known += int(event.text.split()[0])
            case "run_started" if below:
                self.running[event.session_id] = event.label
            case "run_finished" if below:
                self.running.pop(event.session_id, None)
                self.finished += 1
            case "spent":
                self.cost += event.cost
            case "authorized":
                kind, _, action = event.text.partition(": ")
                self.decisions[f"{action.partition(':')[0]} {kind}"] += 1

    @property
    def now(self) -> str:
        """Some of what runs, the newest first."""
        return ", ".join(list(self.running.values())[:-5:-1])


@dataclass(frozen=True)
class Outcome:
    """All that the report is made of. Times in seconds."""

    session_id: str
    result: Result
    tree: SessionTree
    messages: list[str]
    answers: dict[str, str]
    decisions: dict[str, int]
    waiting: list[str]
    budget: BudgetStatus
    workspace: BudgetStatus
    seconds: float

    @property
    def survey(self) -> Survey:
        """What the root came to; if it failed there is none."""
        return cast("Survey", self.result.value)

    @property
    def sub_agents(self) -> int:
        """How many there were, on all levels."""
        return sum(1 for _ in self.tree.walk()) - 1

    @property
    def complete(self) -> bool:
        """Whether the root and all below it did what they should."""
        return all(node.summary.status == "completed" for node in self.tree.walk())


async def run(directory: str, desk: Desk, watch: Watch, show: Callable[[], None]) -> Outcome:
    """Survey a directory on a cluster of its own, or the one that `troupe up` has started."""
    began = time.monotonic()
    async with connect() as troupe:
        workspace = await troupe.workspace(
            directory, max_usd=WORKSPACE_USD, policy=POLICY, boundary=Boundary()
        )
        session = await troupe.create_session(
            survey,
            workspace=workspace,
            budget=BUDGET,
            on_approval=desk.answer,
            title=f"survey of {directory}"[:80],
        )
        following = asyncio.create_task(_follow(session, watch, show))
        try:
            result = await session.run(directory)
        except asyncio.CancelledError:
            print(f"stopped; to go on: troupe resume {session.id}", file=sys.stderr)
            raise
        finally:
            following.cancel()
        outcome = Outcome(
            session_id=session.id,
            result=result,
            tree=await session.tree(),
            messages=[message.text for message in await session.messages()],
            answers=desk.answers,
            decisions=dict(sorted(watch.decisions.items())),
            waiting=[
                request.description
                for request in await workspace.inbox()
                if request.family_id == session.id
            ],
            budget=await session.budget(),
            workspace=await workspace.budget(),
            seconds=time.monotonic() - began,
        )
        await session.end()
    return outcome


async def _follow(session: Session, watch: Watch, show: Callable[[], None]) -> None:
    async for event in session.events():
        watch.take(event)
        show()
