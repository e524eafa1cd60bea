"""The front door: what `retinue` exports, and that nothing else is needed to write types."""

from __future__ import annotations

import ast
import collections.abc
import inspect
import re
import subprocess
import sys
import types
import typing
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

import retinue

ROOT = Path(__file__).parent.parent
FRONT = ast.parse((ROOT / "retinue" / "__init__.py").read_text())

NAMES = {**vars(collections.abc), **vars(typing)}
NAMES |= {name: getattr(retinue, name) for name in retinue.__all__}
for name, value in list(NAMES.items()):
    if isinstance(value, str) and not name.startswith("__"):  # an alias of what comes after it
        NAMES[name] = eval(value, NAMES)


def imported() -> set[str]:
    """What the front door imports of ours, now or when it is asked for."""
    return {
        alias.name
        for node in ast.walk(FRONT)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("retinue.")
        for alias in node.names
    }


def test_what_is_imported_is_exported_and_nothing_else() -> None:
    assert imported() | {"__version__"} == set(retinue.__all__)
    assert len(retinue.__all__) == len(set(retinue.__all__))


@pytest.mark.parametrize("name", retinue.__all__)
def test_every_exported_name_is_there(name: str) -> None:
    assert getattr(retinue, name) is not None


def test_what_the_type_checker_sees_is_what_is_there() -> None:
    for node in ast.walk(FRONT):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("retinue."):
            home = import_module(str(node.module))
            for alias in node.names:
                assert getattr(home, alias.name) is getattr(retinue, alias.name)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = retinue.nothing


def test_agents_need_no_ray() -> None:
    program = "import sys, retinue; sys.exit('ray' in sys.modules or 'redis' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_examples_import_from_the_front_door_only() -> None:
    found = [
        f"{file.name}: {name}"
        for file in sorted((ROOT / "examples").glob("*.py"))
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ImportFrom) and (name := str(node.module)).startswith("retinue.")
    ]
    assert found == []


OURS_TO_MAKE = ("InboxRequest", "Retinue", "Session", "Turn", "Workspace")
"""What `connect`, a client and a run hand out: nobody else calls these classes."""

OURS_TO_USE = ("Retinue.calls", "SessionView", "Resolution", "PluginFileAccess.operation")
"""For the command line, for our rules, or stored as it is: types of ours are in them."""


def test_all_that_an_annotation_may_need_is_exported() -> None:
    missing = {
        f"{type_.__module__}.{type_.__qualname__} (of {where})"
        for where, annotation in public_annotations()
        for type_ in classes(annotation)
        if type_.__module__.startswith("retinue.") and type_.__name__ not in retinue.__all__
    }
    assert sorted(missing) == []


def public_annotations() -> Iterator[tuple[str, object]]:
    """Those of the public functions, methods, properties and fields."""
    for name in retinue.__all__:
        public = getattr(retinue, name)
        if inspect.isfunction(public):
            yield from of(name, public)
        elif inspect.isclass(public) and name not in OURS_TO_USE:
            yield from of(name, public)
            for key, member in vars(public).items():
                function = member.fget if isinstance(member, property) else member
                made = key == "__init__" and name not in OURS_TO_MAKE
                open_ = not key.startswith("_") and f"{name}.{key}" not in OURS_TO_USE
                if inspect.isfunction(function) and (made or open_):
                    yield from of(f"{name}.{key}", function)


def public_functions() -> Iterator[tuple[str, types.FunctionType, str]]:
    """Functions, methods and properties of the front door, with what is said of them."""
    for name in retinue.__all__:
        public = getattr(retinue, name)
        if inspect.isfunction(public):
            yield name, public, public.__doc__ or ""
        elif inspect.isclass(public) and public.__module__.startswith("retinue."):
            for key in vars(public):
                member = inspect.getattr_static(public, key)
                function = member.fget if isinstance(member, property) else member
                function = getattr(function, "__func__", function)
                made = key == "__init__" and name not in OURS_TO_MAKE
                if inspect.isfunction(function) and (made or not key.startswith("_")):
                    of_class = public.__doc__ if key == "__init__" else ""
                    text = inspect.getdoc(getattr(public, key, function)) or ""
                    yield f"{name}.{key}", function, f"{text} {of_class or ''}".strip()


def of(name: str, thing: object) -> Iterator[tuple[str, object]]:
    for key, hint in typing.get_type_hints(thing, localns=NAMES).items():
        fact = typing.get_origin(hint) is typing.ClassVar  # of a class, for our rules
        if not key.startswith("_") and not fact:
            yield name, hint


def classes(annotation: object) -> Iterator[type]:
    """The classes in an annotation, however deep."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        yield annotation
    for part in typing.get_args(annotation):
        for one in part if isinstance(part, list) else [part]:
            yield from classes(one)


@pytest.mark.parametrize(("name", "function", "text"), list(public_functions()))
def test_every_public_function_is_explained_with_its_parameters(
    name: str, function: types.FunctionType, text: str
) -> None:
    assert text, f"{name} has no docstring"
    parameters = inspect.signature(function).parameters.keys() - {"self", "cls"}
    unexplained = [one for one in parameters if not re.search(rf"\b{one}\b", text)]
    assert unexplained == [], name
