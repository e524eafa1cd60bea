"""Where Troupe's sessions live: Ray, Redis, the client and the command line.

``from cluster import connect`` is all that a program needs from here. The client, and Ray with it,
is imported when it is first asked for: `troupe doctor` must work where Ray does not.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cluster.client import Troupe, connect
    from cluster.handles import BudgetStatus, InboxRequest, Session, Workspace
    from cluster.tree import SessionTree

__all__ = [
    "BudgetStatus",
    "InboxRequest",
    "Session",
    "SessionTree",
    "Troupe",
    "Workspace",
    "connect",
]

_HOME = {
    "BudgetStatus": "cluster.handles",
    "InboxRequest": "cluster.handles",
    "Session": "cluster.handles",
    "SessionTree": "cluster.tree",
    "Troupe": "cluster.client",
    "Workspace": "cluster.handles",
    "connect": "cluster.client",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
