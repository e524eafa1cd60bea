"""Where Troupe's sessions live: Ray, Redis, the client and the command line.

``from cluster import connect`` is all that a program needs from here.
"""

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
