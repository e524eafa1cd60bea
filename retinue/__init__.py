"""Retinue: trees of agents that share budgets and permissions, and survive crashes.

Everything that a program needs is here. The client, and Ray with it, is imported when it is first
asked for: agents and `retinue doctor` do without.
"""

from __future__ import annotations

from importlib import import_module, metadata
from typing import TYPE_CHECKING

from retinue.actors.agent.turn import Permit, Task, Turn
from retinue.actors.domain.budget import Hold
from retinue.actors.domain.errors import (
    AlreadyDecided,
    Busy,
    CallError,
    ClusterUnavailable,
    CorruptState,
    Fenced,
    InvalidAgent,
    InvalidValue,
    LimitReached,
    NoCapacity,
    NonDeterministicTurn,
    NotFound,
    RetinueError,
    RolledBack,
    SessionEnded,
    StepInterrupted,
    StoreUnavailable,
    Tampered,
    Unavailable,
    WorkspaceHeld,
)
from retinue.actors.domain.permissions.actions import (
    AccessControlChange,
    Action,
    CapabilityGrant,
    ExecuteCommand,
    FileDelete,
    FileList,
    FileRead,
    FileWrite,
    FileWriteOutside,
    FinancialTransaction,
    McpToolCall,
    NetworkRequest,
    PluginExecution,
    PluginFileAccess,
    PluginHttpRequest,
    TransmitData,
)
from retinue.actors.domain.permissions.allowances.machine import Allowance
from retinue.actors.domain.permissions.boundary import Boundary
from retinue.actors.domain.permissions.decision import Decision, NotAuthorized
from retinue.actors.domain.permissions.patterns import (
    CommandPattern,
    Custom,
    ExactTool,
    FilePattern,
    NetworkHost,
    Pattern,
    PluginCapability,
    PluginWildcard,
    ServerTools,
    WorkspaceRelative,
)
from retinue.actors.domain.permissions.policy import Policy
from retinue.actors.domain.session.messages import (
    ImagePart,
    Message,
    Multipart,
    TextPart,
    ToolCall,
    ToolCalls,
    ToolResult,
)
from retinue.actors.domain.session.result import Result
from retinue.actors.domain.session.settings import BudgetConfig, Limits

if TYPE_CHECKING:
    from retinue.cluster.client.budgets import BudgetStatus
    from retinue.cluster.client.client import Retinue, connect
    from retinue.cluster.client.inbox import InboxRequest
    from retinue.cluster.client.session import Session
    from retinue.cluster.client.tree import SessionTree
    from retinue.cluster.client.workspace import Workspace

__all__ = [
    "AccessControlChange",
    "Action",
    "Allowance",
    "AlreadyDecided",
    "Boundary",
    "BudgetConfig",
    "BudgetStatus",
    "Busy",
    "CallError",
    "CapabilityGrant",
    "ClusterUnavailable",
    "CommandPattern",
    "CorruptState",
    "Custom",
    "Decision",
    "ExactTool",
    "ExecuteCommand",
    "Fenced",
    "FileDelete",
    "FileList",
    "FilePattern",
    "FileRead",
    "FileWrite",
    "FileWriteOutside",
    "FinancialTransaction",
    "Hold",
    "ImagePart",
    "InboxRequest",
    "InvalidAgent",
    "InvalidValue",
    "LimitReached",
    "Limits",
    "McpToolCall",
    "Message",
    "Multipart",
    "NetworkHost",
    "NetworkRequest",
    "NoCapacity",
    "NonDeterministicTurn",
    "NotAuthorized",
    "NotFound",
    "Pattern",
    "Permit",
    "PluginCapability",
    "PluginExecution",
    "PluginFileAccess",
    "PluginHttpRequest",
    "PluginWildcard",
    "Policy",
    "Result",
    "Retinue",
    "RetinueError",
    "RolledBack",
    "ServerTools",
    "Session",
    "SessionEnded",
    "SessionTree",
    "StepInterrupted",
    "StoreUnavailable",
    "Tampered",
    "Task",
    "TextPart",
    "ToolCall",
    "ToolCalls",
    "ToolResult",
    "TransmitData",
    "Turn",
    "Unavailable",
    "Workspace",
    "WorkspaceHeld",
    "WorkspaceRelative",
    "__version__",
    "connect",
]

__version__ = metadata.version("retinue")

_HOMES = {
    "BudgetStatus": "retinue.cluster.client.budgets",
    "Retinue": "retinue.cluster.client.client",
    "connect": "retinue.cluster.client.client",
    "InboxRequest": "retinue.cluster.client.inbox",
    "Session": "retinue.cluster.client.session",
    "SessionTree": "retinue.cluster.client.tree",
    "Workspace": "retinue.cluster.client.workspace",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
