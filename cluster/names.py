"""The names of the cluster's actors; those of stores are in `retinue.actors.stores.table`."""

from __future__ import annotations

from retinue.actors.stores.table import STORES

DIRECTORY = "directory"
HOST_PREFIX = "host/"

_OF_WORKSPACES = frozenset(spec.name for spec in STORES if not spec.shared)


def workspace_of(name: str) -> str | None:
    """The id of the workspace whose store has this actor name."""
    kind, _, workspace_id = name.partition("/")
    return workspace_id if kind in _OF_WORKSPACES else None
