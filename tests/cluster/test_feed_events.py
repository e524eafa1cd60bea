"""The kinds of events are a closed set: each is emitted, and each reader knows them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from retinue.actors.domain.session.state import Closed
from retinue.actors.views import EventKind

ROOT = Path(__file__).parents[2]
KINDS = set(get_args(EventKind))


def nodes(*places: str) -> Iterator[ast.AST]:
    """All of the syntax of some files, and of those in some folders."""
    for place in places:
        path = ROOT / place
        for file in [path] if path.is_file() else path.rglob("*.py"):
            yield from ast.walk(ast.parse(file.read_text()))


def texts(nodes: Iterator[ast.AST]) -> set[str]:
    return {
        node.value
        for node in nodes
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def test_every_kind_is_emitted_somewhere() -> None:
    emitted = {
        node.args[0]
        for node in nodes("actors/session")
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "notify"
    }
    said = {one.value for one in emitted if isinstance(one, ast.Constant)}
    computed = [ast.unparse(one) for one in emitted if not isinstance(one, ast.Constant)]
    assert computed == ["reason"], "why a session was closed, which is a kind of its own"
    assert said | set(get_args(Closed)) - {""} == KINDS


def test_every_kind_is_known_where_progress_is_shown() -> None:
    matched = (
        value
        for node in nodes("cluster/terminal/progress.py")
        if isinstance(node, ast.MatchValue)
        for value in ast.walk(node)
    )
    assert texts(matched) == KINDS
