"""The names of the cluster's actors."""

from __future__ import annotations

DIRECTORY = "directory"
CAPABILITIES = "capabilities"
HOST_PREFIX = "host/"

_BUDGET = "budget"
_ALLOWANCES = "allowances"


def workspace_of(name: str) -> str | None:
    """The workspace whose budget or allowances an actor of this name keeps."""
    kind, _, workspace_id = name.partition("/")
    return workspace_id if kind in (_BUDGET, _ALLOWANCES) else None


def budget_name(workspace_id: str) -> str:
    """The actor name of a workspace's budget."""
    return f"{_BUDGET}/{workspace_id}"


def allowances_name(workspace_id: str) -> str:
    """The actor name of a workspace's allowances."""
    return f"{_ALLOWANCES}/{workspace_id}"
