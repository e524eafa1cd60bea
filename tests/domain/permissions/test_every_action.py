"""What must be so of every action there is, and of one that somebody adds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import cast, get_args

import pytest
from msgspec import StructMeta

import retinue
from retinue.actors.domain.permissions.actions import (
    Action,
    ExecuteCommand,
    FileAction,
    FileRead,
    FileWrite,
    PluginAction,
)
from retinue.actors.domain.permissions.approvals.request import Scope, grantable
from retinue.actors.domain.permissions.base_action import BaseAction, Operation, Risk
from retinue.actors.domain.permissions.boundary import Boundary, EscapeState
from retinue.actors.domain.permissions.patterns import from_action
from retinue.actors.domain.permissions.policy import Policy
from retinue.actors.domain.permissions.verdict import Allowed, Blocked, NeedsApproval
from retinue.actors.session.authorizer import judge, resolved
from retinue.actors.views import WorkspaceSettings
from tests.golden.values import filled

ROOT = Path(__file__).parents[3]
ACTIONS: tuple[type[BaseAction], ...] = get_args(Action)
KEPT = "".join(one.read_text() for one in ROOT.glob("tests/golden/v*/approvals.row.json"))
LOCKED = WorkspaceSettings("w", "/w", Policy(denied_paths=()), Boundary("/w", never_allow=("/",)))


def below(base: type[BaseAction]) -> Iterator[type[BaseAction]]:
    """Every class of ours below a base."""
    for one in base.__subclasses__():
        if one.__module__.startswith("retinue."):
            yield one
            yield from below(one)


def test_every_class_is_a_member_of_action_or_the_base_of_members() -> None:
    classes = set(below(BaseAction))
    assert {one for one in classes if one.__struct_config__.tag} == set(ACTIONS)
    assert classes - set(ACTIONS) == {FileAction, PluginAction}


@pytest.mark.parametrize("kind", ACTIONS, ids=lambda kind: kind.__name__)
def test_every_action_says_all_that_the_rules_ask(kind: type[BaseAction]) -> None:
    action = filled(kind)
    assert kind.__name__ in retinue.__all__
    assert f'"": "{kind.__name__}"' in KEPT, "a golden file shows it as it is stored"
    assert isinstance(action.risk, Risk)
    assert all((action.kind, action.words(), *action.wanted()))
    assert "example.com" in action.hosts() or not {"host", "url"} & set(kind.__struct_fields__)
    granted = grantable(cast(Action, action), Scope.ALWAYS)
    assert granted is (Scope.ALWAYS if action.lasting else Scope.ONCE)
    if not action.lasting:
        assert from_action(cast(Action, action), "/w") is None


@pytest.mark.parametrize("kind", ACTIONS, ids=lambda kind: kind.__name__)
def test_every_action_that_names_paths_is_judged_by_the_boundary(kind: type[BaseAction]) -> None:
    action = cast(Action, filled(kind))
    paths = [text for text in vars_of(action) if text.startswith("/")]
    assert action.paths() == paths
    assert isinstance(judge(LOCKED, action, EscapeState()), Blocked) is bool(paths)


def vars_of(action: Action) -> list[str]:
    """The texts in an action's fields."""
    values = [getattr(action, name) for name in action.__struct_fields__]
    return [value for value in values if isinstance(value, str)]


# --- one that somebody adds ----------------------------------------------------------------------


class Copy(BaseAction, frozen=True, tag="copy"):
    """An action with two paths, which no rule has heard of."""

    risk = Risk.HIGH
    asked = ""
    lasting = False
    operation = Operation.WRITE
    path_fields = ("path", "target")

    path: str
    target: str

    def words(self) -> str:
        return f"copy {self.path} to {self.target}"

    def wanted(self) -> tuple[str, str]:
        return f"file://{self.target}", "write"


def test_a_new_action_is_judged_by_each_of_its_paths() -> None:
    workspace = WorkspaceSettings("w", "/w", Policy(), Boundary("/w"))
    for action, verdict in (
        (Copy("/w/a", "/w/b"), Allowed),
        (Copy("/w/a", "/home/b"), NeedsApproval),
        (Copy("/home/a", "b"), NeedsApproval),
        (Copy("a", "../etc/b"), Blocked),
    ):
        known = resolved(cast(Action, action), workspace.path)
        assert isinstance(judge(workspace, known, EscapeState()), verdict)
    assert resolved(cast(Action, Copy("a", "/w/b")), "/w").paths() == ["/w/a", "/w/b"]


def test_what_one_that_leaves_out_a_fact_lacks_is_said() -> None:
    facts = {
        "risk": Risk.LOW,
        "asked": "",
        "lasting": True,
        "operation": Operation.READ,
        "words": lambda self: "",
        "wanted": lambda self: ("file:///", "read"),
        "path_fields": ("path",),
        "__annotations__": {"path": str},
    }
    made(facts)
    for fact in facts.keys() - {"__annotations__"}:
        with pytest.raises(TypeError, match=f"action New: say its {fact}"):
            made({name: value for name, value in facts.items() if name != fact})


@pytest.mark.parametrize(
    ("base", "differs", "says"),
    [
        (FileRead, {"operation": None}, "paths an operation"),
        (FileWrite, {"path_fields": ("target",), "__annotations__": {"target": str}}, "must name"),
        (FileRead, {"path_fields": ("path", "target")}, "must name"),
        (ExecuteCommand, {"operation": Operation.WRITE}, "an operation needs paths"),
        (ExecuteCommand, {"__annotations__": {"path": str}, "path": "/a"}, "say its path_fields"),
        (ExecuteCommand, {"__annotations__": {"url": str}, "url": ""}, "say its hosts"),
    ],
)
def test_one_that_would_pass_a_rule_unjudged_does_not_come_to_be(
    base: type[BaseAction], differs: dict[str, object], says: str
) -> None:
    with pytest.raises(TypeError, match=f"action New: .*{says}"):
        made(differs, base)


def made(namespace: dict[str, object], base: type[BaseAction] = BaseAction) -> type[BaseAction]:
    """A class of actions with these facts."""
    body = {"__module__": __name__, **namespace}
    meta = cast("type[StructMeta]", type(BaseAction))
    return cast("type[BaseAction]", meta("New", (base,), body, frozen=True, tag="new"))
