"""Retinue: trees of agents that share budgets and permissions, and survive crashes.

Everything that a program needs is here. The client, and Ray with it, is imported on first use:
agents and `retinue doctor` do without.
"""

from __future__ import annotations

from importlib import import_module, metadata
from typing import TYPE_CHECKING

from retinue.actors.agent.turn import AgentFunction, Permit, Task, Turn
from retinue.actors.domain.budget.commands import CapWarning
from retinue.actors.domain.budget.state import Hold
from retinue.actors.domain.documents.document import SkippedMessage
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
from retinue.actors.domain.permissions.allowances.allowance import Allowance
from retinue.actors.domain.permissions.approvals.request import ApprovalScope, Resolution
from retinue.actors.domain.permissions.boundary import Boundary, BoundaryMode, EscapePolicy
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
from retinue.actors.domain.session.settings import BudgetConfig, Isolation, Limits
from retinue.actors.domain.values.money import Usd
from retinue.actors.durable.audit import AuditEntry, Report
from retinue.actors.views import (
    FeedEvent,
    SessionPage,
    SessionSummary,
    SessionView,
    WorkspaceSettings,
)

if TYPE_CHECKING:
    from retinue.cluster.client.budgets import BudgetStatus
    from retinue.cluster.client.client import Retinue, SessionList, connect
    from retinue.cluster.client.inbox import Answer, ApprovalHandler, InboxRequest
    from retinue.cluster.client.session import Session
    from retinue.cluster.client.tree import FamilyStats, SessionTree
    from retinue.cluster.client.workspace import Workspace
    from retinue.cluster.settings import DiskWait
    from retinue.cluster.status import ClusterStatus, HostStatus, NodeStatus

__all__ = [
    "AccessControlChange",
    "Action",
    "AgentFunction",
    "Allowance",
    "AlreadyDecided",
    "Answer",
    "ApprovalHandler",
    "ApprovalScope",
    "AuditEntry",
    "Boundary",
    "BoundaryMode",
    "BudgetConfig",
    "BudgetStatus",
    "Busy",
    "CallError",
    "CapWarning",
    "CapabilityGrant",
    "ClusterStatus",
    "ClusterUnavailable",
    "CommandPattern",
    "CorruptState",
    "Custom",
    "Decision",
    "DiskWait",
    "EscapePolicy",
    "ExactTool",
    "ExecuteCommand",
    "FamilyStats",
    "FeedEvent",
    "Fenced",
    "FileDelete",
    "FileList",
    "FilePattern",
    "FileRead",
    "FileWrite",
    "FileWriteOutside",
    "FinancialTransaction",
    "Hold",
    "HostStatus",
    "ImagePart",
    "InboxRequest",
    "InvalidAgent",
    "InvalidValue",
    "Isolation",
    "LimitReached",
    "Limits",
    "McpToolCall",
    "Message",
    "Multipart",
    "NetworkHost",
    "NetworkRequest",
    "NoCapacity",
    "NodeStatus",
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
    "Report",
    "Resolution",
    "Result",
    "Retinue",
    "RetinueError",
    "RolledBack",
    "ServerTools",
    "Session",
    "SessionEnded",
    "SessionList",
    "SessionPage",
    "SessionSummary",
    "SessionTree",
    "SessionView",
    "SkippedMessage",
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
    "Usd",
    "Workspace",
    "WorkspaceHeld",
    "WorkspaceRelative",
    "WorkspaceSettings",
    "__version__",
    "connect",
]

__version__ = metadata.version("retinue")

_HOMES = {
    "NodeStatus": "retinue.cluster.status",
    "HostStatus": "retinue.cluster.status",
    "ClusterStatus": "retinue.cluster.status",
    "DiskWait": "retinue.cluster.settings",
    "FamilyStats": "retinue.cluster.client.tree",
    "ApprovalHandler": "retinue.cluster.client.inbox",
    "Answer": "retinue.cluster.client.inbox",
    "SessionList": "retinue.cluster.client.client",
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
