"""The actions of agents that may need somebody's consent.

An action that exists is well-formed: its texts are Unicode without NUL, its names are not empty,
its host is in normal form, its arguments are a JSON object of its own that nobody else can change.
Its class declares all the facts that the rules need (`BaseAction`): a new action is a class here,
a member of `Action`, and a name at the front door.

An action's tag is part of the stored form and of every argument hash: never rename one.
"""

from __future__ import annotations

import hashlib
import shlex
from typing import ClassVar, Literal, TypeAlias, get_args

import msgspec
from msgspec.structs import force_setattr

from retinue.actors.domain.errors import InvalidValue
from retinue.actors.domain.permissions.base_action import BaseAction, Operation, Risk
from retinue.actors.domain.values.checks import check_choice, check_clean, check_name, check_texts
from retinue.actors.domain.values.json_value import check_json
from retinue.actors.domain.values.money import to_nano, usd_text
from retinue.actors.domain.values.network import check_host, check_port, host_and_port, parse_url

FileMode: TypeAlias = Literal["read", "write", "delete"]

FILE_MODES: tuple[str, ...] = get_args(FileMode)

_ALWAYS = "this kind of action always needs approval"


class FileAction(BaseAction, frozen=True):
    """An operation of the agent itself on one file or directory."""

    asked = ""
    lasting = True
    path_fields: ClassVar[tuple[str, ...]] = ("path",)

    path: str

    def __post_init__(self) -> None:
        check_name(self.path, "path")

    def words(self) -> str:
        return f"{self.operation} {self.path}"

    def wanted(self) -> tuple[str, str]:
        return f"file://{self.path}", str(self.operation)


class FileRead(FileAction, frozen=True, tag="file_read"):
    """Read a file."""

    risk = Risk.MEDIUM
    operation = Operation.READ


class FileList(FileAction, frozen=True, tag="file_list"):
    """List a directory."""

    risk = Risk.LOW
    operation = Operation.LIST


class FileWrite(FileAction, frozen=True, tag="file_write"):
    """Create or write a file, wherever it is."""

    risk = Risk.MEDIUM
    operation = Operation.WRITE


class FileWriteOutside(FileAction, frozen=True, tag="file_write_outside"):
    """Write a file outside the sandbox."""

    risk = Risk.HIGH
    operation = Operation.WRITE

    def words(self) -> str:
        return f"write {self.path} outside the workspace"


class FileDelete(FileAction, frozen=True, tag="file_delete"):
    """Delete a file. A policy may ask for no approval of it."""

    risk = Risk.HIGH
    asked = "deleting needs approval"
    operation = Operation.DELETE


class ExecuteCommand(BaseAction, frozen=True, tag="execute_command"):
    """Run a program: ``command`` is its bare name or path, ``args`` are its arguments."""

    risk = Risk.HIGH
    asked = "commands need approval"
    lasting = True
    operation: ClassVar[None] = None

    command: str
    args: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_name(self.command, "command")
        force_setattr(self, "args", check_texts(self.args, "args"))

    def words(self) -> str:
        return f"run {shlex.join((self.command, *self.args))}"

    def wanted(self) -> tuple[str, str]:
        return f"exec://{self.command}", "execute"


class NetworkRequest(BaseAction, frozen=True, tag="network_request"):
    """Connect to a host, kept in its normal form; without a port none is named.

    A policy may ask for no approval of it.
    """

    risk = Risk.MEDIUM
    asked = "network requests need approval"
    lasting = True
    operation: ClassVar[None] = None

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

    def hosts(self) -> tuple[str, ...]:
        return (self.host,)

    def words(self) -> str:
        return f"connect to {host_and_port(self.host, self.port)}"

    def wanted(self) -> tuple[str, str]:
        return f"net://{host_and_port(self.host, self.port)}", "invoke"


class TransmitData(BaseAction, frozen=True, tag="transmit_data"):
    """Send data to somebody outside."""

    risk = Risk.HIGH
    asked = _ALWAYS
    lasting = False
    operation: ClassVar[None] = None

    destination: str
    data_type: str = ""

    def __post_init__(self) -> None:
        check_name(self.destination, "destination")
        check_clean(self.data_type, "data_type")

    def hosts(self) -> tuple[str, ...]:
        return (parse_url(self.destination, "url")[0],) if "://" in self.destination else ()

    def words(self) -> str:
        return f"send {self.data_type or 'data'} to {self.destination}"

    def wanted(self) -> tuple[str, str]:
        return f"transmit://{self.destination}", "invoke"


class FinancialTransaction(BaseAction, frozen=True, tag="financial_transaction"):
    """Pay. The amount is kept as the shortest decimal text in USD, so ``"5.00"`` is ``"5"``."""

    risk = Risk.CRITICAL
    asked = _ALWAYS
    lasting = False
    operation: ClassVar[None] = None

    amount_usd: str
    recipient: str

    def __post_init__(self) -> None:
        force_setattr(self, "amount_usd", usd_text(to_nano(self.amount_usd, "amount_usd")))
        check_name(self.recipient, "recipient")

    def words(self) -> str:
        return f"pay {self.amount_usd} USD to {self.recipient}"

    def wanted(self) -> tuple[str, str]:
        return f"financial://{self.recipient}", "invoke"


class AccessControlChange(BaseAction, frozen=True, tag="access_control_change"):
    """Change somebody's rights to a resource."""

    risk = Risk.CRITICAL
    asked = _ALWAYS
    lasting = False
    operation: ClassVar[None] = None

    resource: str
    change: str

    def __post_init__(self) -> None:
        check_name(self.resource, "resource")
        check_name(self.change, "change")

    def words(self) -> str:
        return f"change access to {self.resource}: {self.change}"

    def wanted(self) -> tuple[str, str]:
        return f"access://{self.resource}", "invoke"


class CapabilityGrant(BaseAction, frozen=True, tag="capability_grant"):
    """Hand out permissions on a resource."""

    risk = Risk.HIGH
    asked = _ALWAYS
    lasting = False
    operation: ClassVar[None] = None

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

    def words(self) -> str:
        return f"grant {', '.join(self.permissions)} on {self.resource}"

    def wanted(self) -> tuple[str, str]:
        return f"grant://{self.resource}", "invoke"


class McpToolCall(BaseAction, frozen=True, tag="mcp_tool_call"):
    """Call a tool of an MCP server. The arguments are copied, as a JSON object.

    A policy may ask for approval of it.
    """

    risk = Risk.MEDIUM
    asked = ""
    lasting = True
    operation: ClassVar[None] = None

    server: str
    tool: str
    arguments: dict[str, object] = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        check_name(self.server, "server")
        check_name(self.tool, "tool")
        if not isinstance(self.arguments, dict):
            raise InvalidValue("arguments: must be an object", field="arguments")
        force_setattr(self, "arguments", check_json(self.arguments, "arguments"))

    def words(self) -> str:
        return f"call {self.server}/{self.tool}"

    def wanted(self) -> tuple[str, str]:
        return f"mcp://{_before_colon(self.server)}:{self.tool}", "invoke"


class PluginAction(BaseAction, frozen=True):
    """An action of a plugin, which uses one of its capabilities."""

    risk = Risk.HIGH
    asked = "plugins need approval"
    lasting = True

    plugin: str

    def __post_init__(self) -> None:
        check_name(self.plugin, "plugin")

    @property
    def uses(self) -> str:
        """The capability used: the one it names, ``http_request``, ``file_read``."""
        raise NotImplementedError

    def wanted(self) -> tuple[str, str]:
        return f"plugin://{_before_colon(self.plugin)}:{self.uses}", "invoke"


class PluginExecution(PluginAction, frozen=True, tag="plugin_execution"):
    """Let a plugin use one of its capabilities."""

    operation: ClassVar[None] = None

    capability: str

    def __post_init__(self) -> None:
        super().__post_init__()
        check_name(self.capability, "capability")

    @property
    def uses(self) -> str:
        return self.capability

    def words(self) -> str:
        return f"let plugin {self.plugin} use {self.capability}"


class PluginHttpRequest(PluginAction, frozen=True, tag="plugin_http_request"):
    """Let a plugin make an HTTP request."""

    operation: ClassVar[None] = None
    uses = "http_request"

    url: str
    method: str = "GET"

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_url(self.url, "url")
        check_name(self.method, "method")

    def hosts(self) -> tuple[str, ...]:
        return (parse_url(self.url, "url")[0],)

    def words(self) -> str:
        return f"let plugin {self.plugin} {self.method} {self.url}"


class PluginFileAccess(PluginAction, frozen=True, tag="plugin_file_access"):
    """Let a plugin read, write or delete a file."""

    path_fields: ClassVar[tuple[str, ...]] = ("path",)

    path: str
    mode: FileMode

    def __post_init__(self) -> None:
        super().__post_init__()
        check_name(self.path, "path")
        check_choice(self.mode, FILE_MODES, "mode")

    @property
    def operation(self) -> Operation:
        return Operation(self.mode)

    @property
    def uses(self) -> str:
        return f"file_{self.mode}"

    def words(self) -> str:
        return f"let plugin {self.plugin} {self.mode} {self.path}"


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


def argument_hash(action: Action) -> str:
    """The SHA-256, in hex, of all fields of the action: a decision is bound to it."""
    return hashlib.sha256(msgspec.json.encode(action, order="deterministic")).hexdigest()


def describe(action: Action) -> str:
    """`BaseAction.describe`, under the name used by agents stored before that method existed."""
    return action.describe()


def _before_colon(name: str) -> str:
    """``name`` with its colons escaped: else "a:b"+"c" would be the same as "a"+"b:c"."""
    return name.replace("%", "%25").replace(":", "%3A") if ":" in name or "%" in name else name
