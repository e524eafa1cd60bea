"""Loads ``FILE:AGENT``, the way an agent is named on the command line."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import cast

from retinue.actors.agent.shipping import ship
from retinue.actors.agent.turn import AgentFunction
from retinue.actors.domain.errors import InvalidAgent, NotFound


def load_agent(text: str) -> AgentFunction:
    """The agent that ``text`` names, as in ``examples/survey.py:survey``.

    Raises NotFound if there is no such file, and InvalidAgent, in one line, if the file can't be
    imported or has no such name, or if the agent is not async or does not pickle.
    """
    file, name = _split(text)
    module = _imported(file)
    agent: object = module
    for part in name.split("."):
        agent = getattr(agent, part, None)
    if agent is None:
        raise InvalidAgent(f"{file}: has no {name!r}; {_offer(module)}")
    found = cast(AgentFunction, agent)
    try:
        ship(found)
    except InvalidAgent as error:
        raise InvalidAgent(f"{file}: {error.message}") from error
    return found


def _split(text: str) -> tuple[Path, str]:
    path, _, name = text.rpartition(":")
    if not path or not name:
        raise InvalidAgent(f"{text}: name an agent as FILE:AGENT, as in survey.py:survey")
    file = Path(path).expanduser()
    if file.is_dir():
        raise NotFound(f"{path}: is a directory, not a Python file")
    if not file.exists():
        raise NotFound(f"{path}: there is no such file")
    if file.suffix != ".py":
        raise InvalidAgent(f"{path}: is not a Python file (.py)")
    return file.resolve(), name


def _imported(file: Path) -> ModuleType:
    """The file as a module: imported if it is part of a package, else loaded as if it were run."""
    root, name = _place(file)
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    try:
        with contextlib.redirect_stdout(sys.stderr):  # our own output must stay readable
            return importlib.import_module(name) if "." in name else _loaded(file, name)
    except (Exception, SystemExit) as error:
        raise InvalidAgent(_what_failed(file, error)) from error


def _place(file: Path) -> tuple[Path, str]:
    """The directory that imports start from, and the module's dotted name."""
    parts, folder = [file.stem], file.parent
    while (folder / "__init__.py").exists():
        parts.insert(0, folder.name)
        folder = folder.parent
    return folder, ".".join(parts)


def _loaded(file: Path, name: str) -> ModuleType:
    if name in sys.modules:  # a file may be called json.py
        name = f"{name}_agent"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _what_failed(file: Path, error: BaseException) -> str:
    line = error.lineno if isinstance(error, SyntaxError) else _line_in(file, error)
    where = f"{os.path.relpath(file)}:{line}" if line else os.path.relpath(file)
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    first = (text.strip().splitlines() or [""])[0]
    return f"{where}: can't be imported: {type(error).__name__}: {first}".rstrip(": ")


def _line_in(file: Path, error: BaseException) -> int | None:
    """The number of the last line of the file in the error's traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    return next((one.lineno for one in reversed(frames) if one.filename == str(file)), None)


def _offer(module: ModuleType) -> str:
    own = [
        name
        for name, value in vars(module).items()
        if inspect.iscoroutinefunction(value) and value.__module__ == module.__name__
    ]
    return f"it has {', '.join(own)}" if own else "it has no async function"
