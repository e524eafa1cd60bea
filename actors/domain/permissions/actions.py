"""What an agent may want to do that somebody has to agree to.

There are thirteen sensitive actions (`SENSITIVE`), and two ordinary ones, `FileWrite` and
`FileList`, of which the workspace boundary says whether anybody has to be asked. An action that
exists is well-formed: its texts are Unicode without NUL, its names are not empty, its host is a
normal one, its arguments are a JSON object of its own that nobody else can change.

An action's tag is part of the stored form and of every argument hash: never rename one.
"""

from __future__ import annotations

import hashlib
import shlex
from enum import StrEnum
from typing import Literal, TypeAlias, cast, get_args

import msgspec
from msgspec import Struct
from msgspec.structs import force_setattr

from retinue.actors.domain.errors import InvalidValue
from retinue.actors.domain.values.checks import check_choice, check_clean, check_name, check_texts
from retinue.actors.domain.values.json_value import check_json
from retinue.actors.domain.values.money import to_nano, usd_text
from retinue.actors.domain.values.network import check_host, check_port, host_and_port, parse_url

FileMode: TypeAlias = Literal["read", "write", "delete"]

FILE_MODES: tuple[str, ...] = get_args(FileMode)


class _PathAction(Struct, frozen=True):
    path: str

    def __post_init__(self) -> None:
        check_name(self.path, "path")


class FileRead(_PathAction, frozen=True, tag="file_read"):
    """Read a file."""


class FileList(_PathAction, frozen=True, tag="file_list"):
    """List a directory. Ordinary: not one of the thirteen."""


class FileWrite(_PathAction, frozen=True, tag="file_write"):
    """Create or write a file, wherever it is. Ordinary: not one of the thirteen."""


class FileWriteOutside(_PathAction, frozen=True, tag="file_write_outside"):
    """Write a file outside the sandbox."""


class FileDelete(_PathAction, frozen=True, tag="file_delete"):
    """Delete a file."""


class ExecuteCommand(Struct, frozen=True, tag="execute_command"):
    """Run a program: ``command`` is its name or path alone, ``args`` what it is given."""

    command: str
    args: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_name(self.command, "command")
        force_setattr(self, "args", check_texts(self.args, "args"))


class NetworkRequest(Struct, frozen=True, tag="network_request"):
    """Connect to a host. The host is kept in its normal form; no port means that none is named."""

    host: str
    port: int | None = None

    def __post_init__(self) -> None:
        force_setattr(self, "host", check_host(self.host, "host"))
        if self.port is not None:
            check_port(self.port, "port")

    @classmethod
    def from_url(cls, url: str) -> NetworkRequest:
        """The request that fetching ``url`` makes; InvalidValue as by `parse_url`."""
        return cls(*parse_url(url, "url"))


class TransmitData(Struct, frozen=True, tag="transmit_data"):
    """Send data to somebody outside."""

    destination: str
    data_type: str = ""

    def __post_init__(self) -> None:
        check_name(self.destination, "destination")
        check_clean(self.data_type, "data_type")


class FinancialTransaction(Struct, frozen=True, tag="financial_transaction"):
    """Pay. The amount is kept as the shortest decimal text of USD, so ``"5.00"`` is ``"5"``."""

    amount_usd: str
    recipient: str

    def __post_init__(self) -> None:
        force_setattr(self, "amount_usd", usd_text(to_nano(self.amount_usd, "amount_usd")))
        check_name(self.recipient, "recipient")


class AccessControlChange(Struct, frozen=True, tag="access_control_change"):
    """Change who may do what with a resource."""

    resource: str
    change: str

    def __post_init__(self) -> None:
        check_name(self.resource, "resource")
        check_name(self.change, "change")


class CapabilityGrant(Struct, frozen=True, tag="capability_grant"):
    """Hand out permissions on a resource."""

    resource: str
    permissions: tuple[str, ...]

    def __post_init__(self) -> None:
        check_name(self.resource, "resource")
        permissions = check_texts(self.permissions, "permissions")
        if not permissions:
            raise InvalidValue("permissions: give at least one", field="permissions")
        for index, permission in enumerate(permissions):
            check_name(permission, f"permissions[{index}]")
        force_setattr(self, "permissions", permissions)


class McpToolCall(Struct, frozen=True, tag="mcp_tool_call"):
    """Call a tool of an MCP server. The arguments are copied, as a JSON object."""

    server: str
    tool: str
    arguments: dict[str, object] = {}

    def __post_init__(self) -> None:
        check_name(self.server, "server")
        check_name(self.tool, "tool")
        if not isinstance(self.arguments, dict):
            raise InvalidValue("arguments: must be an object", field="arguments")
        force_setattr(self, "arguments", check_json(self.arguments, "arguments"))


class PluginExecution(Struct, frozen=True, tag="plugin_execution"):
    """Let a plugin use one of its capabilities."""

    plugin: str
    capability: str

    def __post_init__(self) -> None:
        check_name(self.plugin, "plugin")
        check_name(self.capability, "capability")


class PluginHttpRequest(Struct, frozen=True, tag="plugin_http_request"):
    """Let a plugin make an HTTP request."""

    plugin: str
    url: str
    method: str = "GET"

    def __post_init__(self) -> None:
        check_name(self.plugin, "plugin")
        parse_url(self.url, "url")
        check_name(self.method, "method")


class PluginFileAccess(Struct, frozen=True, tag="plugin_file_access"):
    """Let a plugin read, write or delete a file."""

    plugin: str
    path: str
    mode: FileMode

    def __post_init__(self) -> None:
        check_name(self.plugin, "plugin")
        check_name(self.path, "path")
        check_choice(self.mode, FILE_MODES, "mode")


Action: TypeAlias = (
    FileRead
    | FileList
    | FileWrite
    | FileWriteOutside
    | FileDelete
    | ExecuteCommand
    | NetworkRequest
    | TransmitData
    | FinancialTransaction
    | AccessControlChange
    | CapabilityGrant
    | McpToolCall
    | PluginExecution
    | PluginHttpRequest
    | PluginFileAccess
)


class Risk(StrEnum):
    """How much harm an action can do. Compare by `rank`: as texts they are not in order."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        """0 for low up to 3 for critical."""
        return list(Risk).index(self)


_SENSITIVE_RISKS: dict[type[Action], Risk] = {
    FileRead: Risk.MEDIUM,
    FileDelete: Risk.HIGH,
    FileWriteOutside: Risk.HIGH,
    ExecuteCommand: Risk.HIGH,
    NetworkRequest: Risk.MEDIUM,
    TransmitData: Risk.HIGH,
    FinancialTransaction: Risk.CRITICAL,
    AccessControlChange: Risk.CRITICAL,
    CapabilityGrant: Risk.HIGH,
    McpToolCall: Risk.MEDIUM,
    PluginExecution: Risk.HIGH,
    PluginHttpRequest: Risk.HIGH,
    PluginFileAccess: Risk.HIGH,
}
_RISKS = _SENSITIVE_RISKS | {FileWrite: Risk.MEDIUM, FileList: Risk.LOW}

SENSITIVE: tuple[type[Action], ...] = tuple(_SENSITIVE_RISKS)


def default_risk(action: Action) -> Risk:
    """The risk of an action where no policy says otherwise."""
    return _RISKS[type(action)]


def kind(action: Action) -> str:
    """The action's tag, such as ``"file_read"``."""
    return cast(str, type(action).__struct_config__.tag)


def argument_hash(action: Action) -> str:
    """The SHA-256, in hex, of all that the action says: what a decision is bound to."""
    return hashlib.sha256(msgspec.json.encode(action, order="deterministic")).hexdigest()


def describe(action: Action) -> str:
    """The action in one line for a person, such as ``"read /a/b"``.

    Nothing is left out. What does not print is written as an escape, so that no text can pass for
    another on a terminal.
    """
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in _description(action)
    )


def _description(action: Action) -> str:
    match action:
        case FileRead(path):
            return f"read {path}"
        case FileList(path):
            return f"list {path}"
        case FileWrite(path):
            return f"write {path}"
        case FileWriteOutside(path):
            return f"write {path} outside the workspace"
        case FileDelete(path):
            return f"delete {path}"
        case ExecuteCommand(command, args):
            return f"run {shlex.join((command, *args))}"
        case NetworkRequest():
            return f"connect to {host_and_port(action.host, action.port)}"
        case TransmitData(destination, data_type):
            return f"send {data_type or 'data'} to {destination}"
        case FinancialTransaction(amount_usd, recipient):
            return f"pay {amount_usd} USD to {recipient}"
        case AccessControlChange(resource_name, change):
            return f"change access to {resource_name}: {change}"
        case CapabilityGrant(resource_name, permissions):
            return f"grant {', '.join(permissions)} on {resource_name}"
        case McpToolCall(server, tool):
            return f"call {server}/{tool}"
        case PluginExecution(plugin, capability):
            return f"let plugin {plugin} use {capability}"
        case PluginHttpRequest(plugin, url, method):
            return f"let plugin {plugin} {method} {url}"
        case PluginFileAccess(plugin, path, mode):
            return f"let plugin {plugin} {mode} {path}"


def resource(action: Action) -> tuple[str, str]:
    """The resource URI and the permission on it that a capability must have to cover the action."""
    match action:
        case FileRead(path):
            return f"file://{path}", "read"
        case FileList(path):
            return f"file://{path}", "list"
        case FileWrite(path) | FileWriteOutside(path):
            return f"file://{path}", "write"
        case FileDelete(path):
            return f"file://{path}", "delete"
        case ExecuteCommand(command):
            return f"exec://{command}", "execute"
        case NetworkRequest():
            return f"net://{host_and_port(action.host, action.port)}", "invoke"
        case TransmitData(destination):
            return f"transmit://{destination}", "invoke"
        case FinancialTransaction(_, recipient):
            return f"financial://{recipient}", "invoke"
        case AccessControlChange(name):
            return f"access://{name}", "invoke"
        case CapabilityGrant(name):
            return f"grant://{name}", "invoke"
        case McpToolCall(server, tool):
            return f"mcp://{_before_colon(server)}:{tool}", "invoke"
        case PluginExecution() | PluginHttpRequest() | PluginFileAccess():
            return f"plugin://{_before_colon(action.plugin)}:{plugin_capability(action)}", "invoke"


def plugin_capability(action: PluginExecution | PluginHttpRequest | PluginFileAccess) -> str:
    """The capability a plugin action uses: the one it names, ``http_request``, ``file_read``, …"""
    match action:
        case PluginExecution(_, capability):
            return capability
        case PluginHttpRequest():
            return "http_request"
        case PluginFileAccess(_, _, mode):
            return f"file_{mode}"


def _before_colon(name: str) -> str:
    """``name`` such that the first colon after it ends it: else "a:b"+"c" would be "a"+"b:c"."""
    return name.replace("%", "%25").replace(":", "%3A") if ":" in name or "%" in name else name
