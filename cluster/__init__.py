"""Where Troupe's sessions live: Ray, Redis, the client and the command line.

``from cluster import connect`` is all that a program needs from here. The client, and Ray with it,
is imported when it is first asked for: `troupe doctor` must work where Ray does not.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cluster.client.budgets import BudgetStatus
    from cluster.client.client import Troupe, connect
    from cluster.client.inbox import InboxRequest
    from cluster.client.session import Session
    from cluster.client.tree import SessionTree
    from cluster.client.workspace import Workspace

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
    "BudgetStatus": "cluster.client.budgets",
    "InboxRequest": "cluster.client.inbox",
    "Session": "cluster.client.session",
    "SessionTree": "cluster.client.tree",
    "Troupe": "cluster.client.client",
    "Workspace": "cluster.client.workspace",
    "connect": "cluster.client.client",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
