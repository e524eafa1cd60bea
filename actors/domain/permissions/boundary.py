"""The boundary of a workspace: the paths that may be touched, with or without asking.

The order of the checks is the rule: never-allow, inside the workspace, auto-allow, mode and escape
policy. Paths are absolute texts whose links the caller has resolved; ``..`` is collapsed here.
"""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct
from msgspec.structs import force_setattr

from retinue.actors.domain.errors import InvalidValue
from retinue.actors.domain.permissions.base_action import Operation
from retinue.actors.domain.permissions.verdict import Allowed, Blocked, NeedsApproval, Verdict
from retinue.actors.domain.values.fields import choice, each
from retinue.actors.domain.values.globs import check_glob, matches
from retinue.actors.domain.values.paths import collapsed, is_under, is_under_any

NEVER_ALLOW = ("/etc", "/var", "/usr", "/bin", "/sbin", "/boot", "/root")


class BoundaryMode(StrEnum):
    """The freedom that an agent has without asking."""

    AUTONOMOUS = "autonomous"
    GUIDED = "guided"
    SAFE = "safe"


class EscapePolicy(StrEnum):
    """The treatment of paths outside the workspace."""

    ALLOW = "allow"
    DENY = "deny"
    ASK = "ask"


class Boundary(Struct, frozen=True):
    """The settings. Paths are absolute and cover all that is below them.

    Without a ``root`` nothing is inside. InvalidValue names a bad field.
    """

    root: str | None = None
    mode: BoundaryMode = BoundaryMode.GUIDED
    escape_policy: EscapePolicy = EscapePolicy.ASK
    never_allow: tuple[str, ...] = NEVER_ALLOW
    auto_allow_paths: tuple[str, ...] = ()
    auto_allow_globs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.root is not None:
            force_setattr(self, "root", collapsed(self.root, "root"))
        force_setattr(self, "mode", choice(BoundaryMode, self.mode, "mode"))
        policy = choice(EscapePolicy, self.escape_policy, "escape_policy")
        force_setattr(self, "escape_policy", policy)
        for name, check_entry in (
            ("never_allow", collapsed),
            ("auto_allow_paths", collapsed),
            ("auto_allow_globs", check_glob),
        ):
            force_setattr(self, name, each(getattr(self, name), name, check_entry))


class EscapeState(Struct, frozen=True):
    """The approved escapes: permanent ones, and those for the session's life."""

    remembered_paths: tuple[str, ...] = ()
    session_paths: tuple[str, ...] = ()


def check(
    boundary: Boundary, path: str, operation: Operation, escapes: EscapeState | None = None
) -> Verdict:
    """The boundary's verdict on an operation on a path. An unusable path is Blocked."""
    try:
        place = collapsed(path)
    except InvalidValue as problem:
        return Blocked(problem.message)
    if root := _never_allowed(boundary, place, operation):
        return Blocked(f"{place}: nothing is allowed in {root}")
    if boundary.root is not None and is_under(place, boundary.root):
        return _inside(boundary, place, operation)
    if _is_auto_allowed(boundary, place):
        return Allowed("auto-allowed")
    return _outside(boundary, place, escapes or EscapeState())


def _never_allowed(boundary: Boundary, place: str, operation: Operation) -> str | None:
    if operation != Operation.DELETE and not is_under_any(place, boundary.never_allow):
        return None
    for root in boundary.never_allow:
        if is_under(place, root) and not _is_inside_exempt(boundary, place, root):
            return root
        if operation == Operation.DELETE and is_under(root, place):
            return root  # it would go along
    return None


def _is_inside_exempt(boundary: Boundary, place: str, root: str) -> bool:
    """True if the workspace lies under a never-allow root, and the path in the workspace."""
    workspace = boundary.root
    return workspace is not None and is_under(workspace, root) and is_under(place, workspace)


def _inside(boundary: Boundary, place: str, operation: Operation) -> Verdict:
    writes = operation not in (Operation.READ, Operation.LIST, Operation.DELETE)
    if writes and boundary.mode is BoundaryMode.SAFE:
        return NeedsApproval(f"{place}: safe mode asks before writing")
    return Allowed("inside the workspace")


def _is_auto_allowed(boundary: Boundary, place: str) -> bool:
    return any(is_under(place, path) for path in boundary.auto_allow_paths) or any(
        matches(glob, place) for glob in boundary.auto_allow_globs
    )


def _outside(boundary: Boundary, place: str, escapes: EscapeState) -> Verdict:
    if boundary.mode is BoundaryMode.AUTONOMOUS:
        return Allowed("autonomous mode")
    match boundary.escape_policy:
        case EscapePolicy.ALLOW:
            return Allowed("the escape policy allows it")
        case EscapePolicy.DENY:
            return Blocked(f"{place} is outside the workspace")
        case EscapePolicy.ASK:
            if place in escapes.remembered_paths or place in escapes.session_paths:
                return Allowed("remembered escape")
            return NeedsApproval(f"{place} is outside the workspace")
