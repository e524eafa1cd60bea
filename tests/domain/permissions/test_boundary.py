"""Where the boundary lets an agent go, where it asks, and where it stops it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from retinue.actors.domain.errors import InvalidValue
from retinue.actors.domain.permissions.base_action import Operation
from retinue.actors.domain.permissions.boundary import (
    NEVER_ALLOW,
    Boundary,
    BoundaryMode,
    EscapePolicy,
    EscapeState,
    check,
)
from retinue.actors.domain.permissions.verdict import (
    Allowed,
    Blocked,
    NeedsApproval,
    Verdict,
    strictest,
)

READ, LIST, WRITE, CREATE, DELETE = Operation
GUIDED = Boundary("/code/app")
SAFE = Boundary("/code/app", BoundaryMode.SAFE)
AUTONOMOUS = Boundary("/code/app", BoundaryMode.AUTONOMOUS)


def of(boundary: Boundary, path: str, operation: Operation = READ) -> type[Verdict]:
    return type(check(boundary, path, operation))


@pytest.mark.parametrize("mode", BoundaryMode)
@pytest.mark.parametrize("operation", Operation)
@pytest.mark.parametrize("path", ["/code/app", "/code/app/", "/code/app/a/b", "//code//app/./a"])
def test_inside_only_safe_mode_asks_and_only_before_writing(
    mode: BoundaryMode, operation: Operation, path: str
) -> None:
    asks = mode is BoundaryMode.SAFE and operation in (WRITE, CREATE)
    expected = NeedsApproval if asks else Allowed
    assert of(Boundary("/code/app", mode), path, operation) is expected


@pytest.mark.parametrize("operation", Operation)
@pytest.mark.parametrize(
    "path", ["/code/app2", "/code/app2/x", "/code/ap", "/code", "/code/app/../x", "/code/app/../.."]
)
def test_a_sibling_with_the_same_prefix_or_a_parent_is_outside(
    operation: Operation, path: str
) -> None:
    boundary = Boundary("/code/app", never_allow=())
    assert of(boundary, path, operation) is NeedsApproval


@pytest.mark.parametrize("mode", [BoundaryMode.GUIDED, BoundaryMode.SAFE])
@pytest.mark.parametrize(
    ("escape_policy", "expected"),
    [
        (EscapePolicy.ALLOW, Allowed),
        (EscapePolicy.DENY, Blocked),
        (EscapePolicy.ASK, NeedsApproval),
    ],
)
def test_outside_the_escape_policy_decides(
    mode: BoundaryMode, escape_policy: EscapePolicy, expected: type[Verdict]
) -> None:
    for operation in Operation:
        assert of(Boundary("/code/app", mode, escape_policy), "/x/a", operation) is expected


@pytest.mark.parametrize("escape_policy", EscapePolicy)
def test_autonomous_never_asks(escape_policy: EscapePolicy) -> None:
    boundary = Boundary("/code/app", BoundaryMode.AUTONOMOUS, escape_policy)
    for operation in Operation:
        assert of(boundary, "/x/a", operation) is Allowed
        assert of(boundary, "/code/app/a", operation) is Allowed


@pytest.mark.parametrize("root", NEVER_ALLOW)
@pytest.mark.parametrize("mode", BoundaryMode)
def test_never_allow_comes_before_everything_else(root: str, mode: BoundaryMode) -> None:
    boundary = Boundary(
        "/code/app",
        mode,
        EscapePolicy.ALLOW,
        auto_allow_paths=(root,),
        auto_allow_globs=("/**",),
    )
    escapes = EscapeState((root, f"{root}/a"), (root, f"{root}/a"))
    for path in (root, f"{root}/a", f"/code/app/../..{root}/a", f"/{root}//a"):
        assert isinstance(check(boundary, path, READ, escapes), Blocked)
    assert of(boundary, f"{root}2/a") is Allowed


def test_never_allow_holds_inside_a_workspace_that_contains_it() -> None:
    boundary = Boundary("/", BoundaryMode.AUTONOMOUS)
    assert of(boundary, "/etc/passwd") is Blocked
    assert of(boundary, "/home/x") is Allowed


def test_a_workspace_under_a_never_allow_root_is_allowed_inside_itself_only() -> None:
    boundary = Boundary("/var/lib/app", BoundaryMode.AUTONOMOUS, auto_allow_paths=("/var/log",))
    assert of(boundary, "/var/lib/app/a", WRITE) is Allowed
    assert of(boundary, "/var/lib/app", LIST) is Allowed
    for path in ("/var/lib/app2", "/var/lib", "/var/log/x", "/var/lib/app/../x", "/etc/passwd"):
        assert of(boundary, path) is Blocked


def test_a_never_allow_root_inside_such_a_workspace_still_holds() -> None:
    boundary = Boundary("/var/app", never_allow=("/var", "/var/app/keys"))
    assert of(boundary, "/var/app/a") is Allowed
    assert of(boundary, "/var/app/keys/a") is Blocked


@pytest.mark.parametrize("path", ["/", "/code/.."])
def test_what_holds_a_never_allow_root_is_not_deleted(path: str) -> None:
    assert of(AUTONOMOUS, path, DELETE) is Blocked
    assert of(AUTONOMOUS, path, LIST) is Allowed


def test_auto_allow_covers_paths_and_globs_in_every_mode_and_policy() -> None:
    boundary = Boundary(
        "/code/app",
        BoundaryMode.SAFE,
        EscapePolicy.DENY,
        auto_allow_paths=("/tmp/cache/",),
        auto_allow_globs=("/srv/*/log",),
    )
    for path in ("/tmp/cache", "/tmp/cache/a/b", "/srv/a/log"):
        assert of(boundary, path, WRITE) is Allowed
    for path in ("/tmp/cache2", "/tmp", "/srv/a/log/x", "/srv/a/b/log", "/tmp/cache/../x"):
        assert of(boundary, path, WRITE) is Blocked


def test_without_a_workspace_nothing_is_inside() -> None:
    assert of(Boundary(), "/code/app") is NeedsApproval
    assert of(Boundary(mode=BoundaryMode.AUTONOMOUS), "/code/app") is Allowed
    assert of(Boundary(mode=BoundaryMode.AUTONOMOUS), "/etc") is Blocked


@pytest.mark.parametrize("path", ["", "a", "./a", "~/a", "/a\0b", "/" + "a" * 5000])
def test_a_path_that_cannot_be_judged_is_blocked(path: str) -> None:
    assert of(AUTONOMOUS, path) is Blocked


@pytest.mark.parametrize("boundary", [GUIDED, SAFE])
@pytest.mark.parametrize("escapes", [EscapeState(("/x/a",)), EscapeState((), ("/x/a",))])
def test_a_remembered_escape_counts_for_that_path_only(
    boundary: Boundary, escapes: EscapeState
) -> None:
    assert isinstance(check(boundary, "/x//a", WRITE, escapes), Allowed)
    for path in ("/x/a/b", "/x", "/x/a2"):
        assert isinstance(check(boundary, path, READ, escapes), NeedsApproval)


def test_a_remembered_escape_gives_nothing_where_escapes_are_denied() -> None:
    boundary = Boundary("/code/app", escape_policy=EscapePolicy.DENY)
    assert isinstance(check(boundary, "/x/a", READ, EscapeState(("/x/a",))), Blocked)


def test_the_strictest_of_equals_is_the_first_and_of_none_is_allowed() -> None:
    assert strictest([Allowed("a"), Blocked("b"), Blocked("c")]) == Blocked("b")
    assert strictest([Allowed("a"), NeedsApproval("b")]) == NeedsApproval("b")
    assert strictest([]) == Allowed()


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"root": "app"}, "root"),
        ({"never_allow": ["etc"]}, "never_allow[0]"),
        ({"auto_allow_paths": "/x"}, "auto_allow_paths"),
        ({"auto_allow_globs": ["[x"]}, "auto_allow_globs[0]"),
        ({"mode": "wild"}, "mode"),
        ({"escape_policy": "maybe"}, "escape_policy"),
    ],
)
def test_a_setting_that_could_not_hold_is_refused(settings: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        Boundary(**settings)
    assert caught.value.details["field"] == field


def test_plain_words_do_for_choices() -> None:
    boundary = msgspec.convert({"root": "/w", "mode": "safe", "escape_policy": "deny"}, Boundary)
    assert of(boundary, "/w/a", WRITE) is NeedsApproval
    assert of(boundary, "/x") is Blocked


def test_settings_and_escapes_survive_json() -> None:
    boundary = Boundary("/w", BoundaryMode.SAFE, EscapePolicy.DENY, ("/x",), ("/y",), ("/z/*",))
    assert msgspec.json.decode(msgspec.json.encode(boundary), type=Boundary) == boundary
    escapes = EscapeState(("/x",), ("/y",))
    assert msgspec.json.decode(msgspec.json.encode(escapes), type=EscapeState) == escapes
