"""Patterns: the actions that an allowance covers. Every pair not in this table does not match.

=====================================  ====================  ======================================
pattern                                action                when
=====================================  ====================  ======================================
`ExactTool`                            MCP tool call         server and tool equal
`ServerTools`                          MCP tool call         server equal
`FilePattern` of a mode                file read, write,     glob matches the path
                                       delete of that mode
`NetworkHost`                          network request       host equal, port listed (or any)
`CommandPattern`                       execute command       glob matches the command name
`WorkspaceRelative` read/write/delete  the same file action  path inside the root, and glob matches
                                                             what follows the root
`WorkspaceRelative` invoke             MCP tool call         in a workspace, and glob matches
                                                             ``server/tool``
`WorkspaceRelative` execute            execute command       in a workspace, and glob matches
`PluginCapability`                     any plugin action     plugin and capability equal (see
                                                             `PluginAction.uses`)
`PluginWildcard`                       any plugin action     plugin equal
`Custom`                               nothing               reserved
=====================================  ====================  ======================================

A write is `FileWriteOutside`, or `FileWrite`, whose place only the boundary judges. No path with
a ``..`` segment matches anything. Paths are compared as texts: resolve links first.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, cast, get_args

from msgspec import Struct
from msgspec.structs import force_setattr

from retinue.actors.domain.errors import InvalidValue
from retinue.actors.domain.permissions.actions import (
    FILE_MODES,
    Action,
    ExecuteCommand,
    FileAction,
    FileMode,
    McpToolCall,
    NetworkRequest,
    PluginAction,
)
from retinue.actors.domain.values.checks import check_choice, check_name, check_whole
from retinue.actors.domain.values.globs import (
    MAX_PATTERN,
    check_glob,
    escape,
    has_parent_segment,
    literal,
)
from retinue.actors.domain.values.globs import matches as glob_matches
from retinue.actors.domain.values.network import check_host, check_port

WorkspacePermission: TypeAlias = Literal["read", "write", "delete", "invoke", "execute"]

WORKSPACE_PERMISSIONS: tuple[str, ...] = get_args(WorkspacePermission)
NO_PORT = 0


class ExactTool(Struct, frozen=True, tag="exact_tool"):
    """One tool of one MCP server, with any arguments."""

    server: str
    tool: str

    def __post_init__(self) -> None:
        check_name(self.server, "server")
        check_name(self.tool, "tool")


class ServerTools(Struct, frozen=True, tag="server_tools"):
    """All tools of one MCP server."""

    server: str

    def __post_init__(self) -> None:
        check_name(self.server, "server")


class FilePattern(Struct, frozen=True, tag="file"):
    """Files by a glob over their path, for reading, writing or deleting."""

    glob: str
    mode: FileMode

    def __post_init__(self) -> None:
        _check_glob(self.glob)
        check_choice(self.mode, FILE_MODES, "mode")


class NetworkHost(Struct, frozen=True, tag="network_host"):
    """One host (never a glob), on the listed ports, or on any if there is no list.

    `NO_PORT` in the list stands for a request that names no port.
    """

    host: str
    ports: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        force_setattr(self, "host", check_host(self.host, "host"))
        if self.ports is not None:
            force_setattr(self, "ports", _check_ports(self.ports))


class CommandPattern(Struct, frozen=True, tag="command"):
    """Commands by a glob over their name, with any arguments."""

    glob: str

    def __post_init__(self) -> None:
        _check_glob(self.glob)


class WorkspaceRelative(Struct, frozen=True, tag="workspace_relative"):
    """Actions in a workspace. A file glob starts at its root, so never with a slash."""

    glob: str
    permission: WorkspacePermission

    def __post_init__(self) -> None:
        _check_glob(self.glob)
        check_choice(self.permission, WORKSPACE_PERMISSIONS, "permission")


class PluginCapability(Struct, frozen=True, tag="plugin_capability"):
    """One capability of one plugin.

    HTTP requests have the capability ``http_request``; file accesses have ``file_read``,
    ``file_write`` or ``file_delete``.
    """

    plugin: str
    capability: str

    def __post_init__(self) -> None:
        check_name(self.plugin, "plugin")
        check_name(self.capability, "capability")


class PluginWildcard(Struct, frozen=True, tag="plugin_wildcard"):
    """All actions of one plugin."""

    plugin: str

    def __post_init__(self) -> None:
        check_name(self.plugin, "plugin")


class Custom(Struct, frozen=True, tag="custom"):
    """Reserved: matches nothing."""

    text: str

    def __post_init__(self) -> None:
        check_name(self.text, "text")


Pattern: TypeAlias = (
    ExactTool
    | ServerTools
    | FilePattern
    | NetworkHost
    | CommandPattern
    | WorkspaceRelative
    | PluginCapability
    | PluginWildcard
    | Custom
)


def matches(pattern: Pattern, action: Action, workspace_root: str | None) -> bool:
    """Returns whether ``pattern`` covers ``action``, by the table above.

    ``workspace_root`` is the absolute path of the workspace the action happens in, or None outside
    of any; a relative path of an action starts there.
    """
    match pattern, action:
        case ExactTool(), McpToolCall():
            return pattern.server == action.server and pattern.tool == action.tool
        case ServerTools(), McpToolCall():
            return pattern.server == action.server
        case FilePattern(), FileAction():
            return pattern.mode == action.operation and any(
                glob_matches(pattern.glob, path) for path in _paths(action.path, workspace_root)
            )
        case NetworkHost(), NetworkRequest():
            return pattern.host == action.host and (
                pattern.ports is None or (action.port or NO_PORT) in pattern.ports
            )
        case CommandPattern(), ExecuteCommand():
            return glob_matches(pattern.glob, action.command)
        case WorkspaceRelative(), _:
            subject = _workspace_subject(pattern.permission, action, workspace_root)
            return subject is not None and glob_matches(pattern.glob, subject)
        case PluginCapability(), PluginAction():
            return pattern.capability == action.uses and _is_plugin(pattern, action)
        case PluginWildcard(), PluginAction():
            return _is_plugin(pattern, action)
    return False


def from_action(action: Action, workspace_root: str | None) -> Pattern | None:
    """The narrowest pattern that covers ``action``.

    None for actions that can only be approved once: transmitting, paying, access control, grants,
    those that no pattern covers, and those whose path never matches or is too long for a glob.
    """
    match action:
        case McpToolCall(server, tool):
            return ExactTool(server, tool)
        case NetworkRequest(host, port):
            return NetworkHost(host, (port or NO_PORT,))
        case ExecuteCommand(command):
            glob = _exact_glob(command)
            return CommandPattern(glob) if glob else None
        case FileAction(path):
            glob, mode = _exact_glob(_paths(path, workspace_root)[-1]), _file_mode(action)
            return FilePattern(glob, mode) if glob and mode else None
        case PluginAction() if not any(map(has_parent_segment, action.paths())):
            return PluginCapability(action.plugin, action.uses)
    return None


def index_key(pattern: Pattern) -> str:
    """A key that narrows a search: if a pattern matches an action, its key is in `index_keys`."""
    match pattern:
        case ExactTool(server, tool):
            return _key("tool", server, tool)
        case ServerTools(server):
            return _key("server", server)
        case FilePattern(glob, mode):
            return _glob_key(_key("file", mode), glob)
        case NetworkHost(host):
            return _key("host", host)
        case CommandPattern(glob):
            return _glob_key("command", glob)
        case WorkspaceRelative(_, permission):
            return _key("workspace", permission)
        case PluginCapability(plugin) | PluginWildcard(plugin):
            return _key("plugin", plugin)
        case Custom():
            return "custom"


def index_keys(action: Action, workspace_root: str | None) -> tuple[str, ...]:
    """The keys of all patterns that may match ``action``."""
    match action:
        case McpToolCall(server, tool):
            return _key("tool", server, tool), _key("server", server), _key("workspace", "invoke")
        case NetworkRequest(host):
            return (_key("host", host),)
        case ExecuteCommand(command):
            return "command", _key("command", command), _key("workspace", "execute")
        case FileAction(path) if mode := _file_mode(action):
            key = _key("file", mode)
            exact = (_key(key, name) for name in _paths(path, workspace_root))
            return key, *exact, _key("workspace", mode)
        case PluginAction():
            return (_key("plugin", action.plugin),)
    return ()


def _file_mode(action: FileAction) -> FileMode | None:
    """The mode that a file pattern needs to cover it; None for a listing, which none covers."""
    return cast(FileMode, str(action.operation)) if action.operation in FILE_MODES else None


def _paths(path: str, workspace_root: str | None) -> tuple[str, ...]:
    """A path as the action has it, and its meaning in the workspace if it is relative."""
    if workspace_root is None or path.startswith("/"):
        return (path,)
    return path, _inside(workspace_root) + path


def _inside(workspace_root: str) -> str:
    return workspace_root.rstrip("/") + "/"


def _workspace_subject(
    permission: WorkspacePermission, action: Action, workspace_root: str | None
) -> str | None:
    """The text that a workspace-relative glob must match, or None if it does not apply."""
    if workspace_root is None:
        return None
    match permission, action:
        case "invoke", McpToolCall(server, tool):
            return f"{server}/{tool}"
        case "execute", ExecuteCommand(command):
            return command
        case _, FileAction():
            if permission == action.operation:
                return _below_root(_paths(action.path, workspace_root)[-1], workspace_root)
    return None


def _below_root(path: str, workspace_root: str) -> str | None:
    """The part of ``path`` below the root; None outside of it, and for the root itself."""
    root = _inside(workspace_root)
    relative = path.removeprefix(root) if path.startswith(root) else ""
    return relative if set(relative.split("/")) - {"", "."} else None


def _is_plugin(pattern: PluginCapability | PluginWildcard, action: PluginAction) -> bool:
    escapes = any(map(has_parent_segment, action.paths()))
    return pattern.plugin == action.plugin and not escapes


def _exact_glob(text: str) -> str | None:
    glob = escape(text)
    return None if len(glob) > MAX_PATTERN or has_parent_segment(text) else glob


def _key(*parts: str) -> str:
    return "\0".join(parts)  # no name has a NUL, so no two lists of names share a key


def _glob_key(topic: str, glob: str) -> str:
    text = literal(glob)
    return topic if text is None else _key(topic, text)


def _check_glob(glob: str) -> None:
    check_name(glob, "glob")
    check_glob(glob, "glob")


def _check_ports(ports: tuple[int, ...]) -> tuple[int, ...]:
    if not isinstance(ports, list | tuple) or not ports:
        raise InvalidValue("ports: must be a list of ports, or None for any", field="ports")
    return tuple(
        check_port(port, f"ports[{index}]")
        if port
        else check_whole(port, NO_PORT, f"ports[{index}]")
        for index, port in enumerate(ports)
    )
