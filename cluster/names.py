"""The names of the cluster's actors."""

from __future__ import annotations

DIRECTORY = "directory"
CAPABILITIES = "capabilities"
HOST_PREFIX = "host/"

_BUDGET = "budget"
_ALLOWANCES = "allowances"


def scope_of(name: str) -> str | None:
    """The scope whose budget or allowances an actor of this name keeps."""
    kind, _, scope = name.partition("/")
    return scope if kind in (_BUDGET, _ALLOWANCES) else None


def budget_name(scope: str) -> str:
    """The actor name of a workspace's budget."""
    return f"{_BUDGET}/{scope}"


def allowances_name(scope: str) -> str:
    """The actor name of a workspace's allowances."""
    return f"{_ALLOWANCES}/{scope}"
