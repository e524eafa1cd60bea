"""Survey Python sources with a tree of agents: one for each package, below them one for each file.

    python examples/survey.py [DIRECTORY] [--json]
    retinue run examples/survey.py:survey --workspace DIRECTORY

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
import os
import re
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Literal, TypedDict, cast

from rich.console import Console

from retinue import (
    AgentFunction,
    Boundary,
    BudgetConfig,
    Decision,
    FileList,
    FileRead,
    InboxRequest,
    McpToolCall,
    Message,
    Policy,
    Result,
    Retinue,
    RetinueError,
    Session,
    Task,
    Turn,
    connect,
)
from survey_report import Report, as_json, show, totals

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
    functions: list[Function] = []
    classes, imports, skipped = 0, set[str](), list[str]()
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError) as error:
        tree = ast.Module([], [])
        skipped.append(f"{path}: {error}")
    for name, node in _statements(tree):
        match node:
            case (
                ast.FunctionDef(lineno=first, end_lineno=last)
                | ast.AsyncFunctionDef(lineno=first, end_lineno=last)
            ):
                lines = (last or first) - first + 1
                functions.append(Function(name=name, where=f"{path}:{first}", lines=lines))
            case ast.ClassDef():
                classes += 1
            case ast.Import(names):
                imports.update(alias.name.partition(".")[0] for alias in names)
            case ast.ImportFrom(module=str(module), level=0):
                imports.add(module.partition(".")[0])
    return Findings(
        files=1,
        bytes=len(source),
        lines=len(source.splitlines()),
        functions=len(functions),
        classes=classes,
        todos=len(_NOTE.findall(source)),
        longest=_longest(functions),
        imports=dict.fromkeys(sorted(imports), 1),
        skipped=skipped,
    )


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
                defines = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
                waiting.append((f"{name}.{child.name}".lstrip(".") if defines else name, child))


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
        # no thread for the parsing: `ast.parse` of Python 3.11 fails in several threads at once
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
    if verb == "read":
        found = f"{len(Path(path).read_bytes())} bytes"
    else:
        found = f"{len(os.listdir(path))} entries"
    return f"allowed by {_ground(decision)}, found {found}"


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
BUDGET = BudgetConfig(session_max_usd=1, per_action_max_usd="0.01")
WORKSPACE_USD = 100
LOOK_EVERY_S = 0.5
SCREEN = Console(stderr=True, highlight=False)
"""Where progress and problems go; the report goes to standard output."""


async def run(retinue: Retinue, directory: str) -> Report:
    """Survey a directory, showing progress, and end the session."""
    answers: dict[str, str] = {}

    async def decide(request: InboxRequest) -> Literal["workspace", "session"] | None:
        """Answer as a person would; None leaves a request to somebody who knows."""
        answer: Literal["workspace", "session"] | None = None
        match request.action:
            case McpToolCall("survey", "parse"):
                answer = "workspace"
            case FileList(path) if path == TEMPORARY:
                answer = "session"
        answers[request.description] = f"yes, for the {answer}" if answer else "nothing"
        return answer

    workspace = await retinue.workspace(
        directory, max_usd=WORKSPACE_USD, policy=POLICY, boundary=Boundary()
    )
    session = await retinue.create_session(
        survey, workspace=workspace, budget=BUDGET, on_approval=decide, title=f"survey {directory}"
    )
    try:
        result = await followed(session, await session.start(directory))
    except asyncio.CancelledError:
        SCREEN.print(f"stopped; to go on: retinue resume {session.id}", soft_wrap=True)
        raise
    report = Report(
        result=result,
        tree=await session.tree(),
        said=[message.text for message in await session.messages()],
        answers=answers,
        waiting=[one.description for one in await workspace.inbox() if one.family_id == session.id],
        session=await session.budget(),
        workspace=await workspace.budget(),
    )
    await session.end()
    return report


async def followed(session: Session, run_id: str) -> Result:
    """Wait for a run's result, and say meanwhile how far its sub-agents are."""
    result = asyncio.ensure_future(session.result(run_id))
    try:
        with SCREEN.status("surveying") as line:
            while not (await asyncio.wait([result], timeout=LOOK_EVERY_S))[0]:
                stats = await session.stats()
                line.update(f"{stats.active} sub-agents at work, {stats.succeeded} done")
    finally:
        result.cancel()
    return await result


async def main(argv: Sequence[str] | None = None) -> int:
    """Survey, and report; 0 if all went well, else 1."""
    arguments = arguments_of(argv)
    began = time.monotonic()
    with contextlib.ExitStack() as starting:
        starting.enter_context(SCREEN.status("starting Ray and Redis"))
        async with connect() as retinue:
            starting.close()
            report = await run(retinue, arguments.directory)
    seconds = time.monotonic() - began
    if arguments.json:
        print(as_json(report, seconds))
    elif report.result.success:
        show(report, Console(highlight=False))
        print(totals(report, seconds))
    if report.result.error:
        SCREEN.print(f"survey: {report.result.error}", markup=False, soft_wrap=True)
    return 0 if report.complete else 1


def arguments_of(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; SystemExit for one that is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "directory", nargs="?", default=STDLIB, help="what to survey (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")
    arguments = parser.parse_args(argv)
    if not os.path.isdir(arguments.directory):
        parser.error(f"{arguments.directory} is not a directory")
    arguments.directory = os.path.realpath(arguments.directory)
    return arguments


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(main()))
    except RetinueError as error:
        sys.exit(f"survey: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
