"""The policy of a workspace: the actions that are blocked or need approval, whoever asks.

A policy never permits: an ``Allowed`` action goes on to capability, budget and, for file actions,
the workspace boundary. An action that cannot be judged is blocked.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator

import msgspec
from msgspec import Struct
from msgspec.structs import force_setattr

from retinue.actors.domain.errors import InvalidValue
from retinue.actors.domain.permissions.actions import (
    Action,
    ExecuteCommand,
    FileDelete,
    McpToolCall,
    NetworkRequest,
    PluginAction,
    PluginHttpRequest,
)
from retinue.actors.domain.permissions.base_action import Operation
from retinue.actors.domain.permissions.shell.command_line import commands_run
from retinue.actors.domain.permissions.shell.command_rule import blocks, shape
from retinue.actors.domain.permissions.shell.shell_text import Unreadable, split
from retinue.actors.domain.permissions.verdict import Allowed, Blocked, NeedsApproval, Verdict
from retinue.actors.domain.values.checks import check_name, check_whole
from retinue.actors.domain.values.fields import each
from retinue.actors.domain.values.globs import check_glob, has_parent_segment, matches
from retinue.actors.domain.values.network import check_host
from retinue.actors.domain.values.paths import collapsed, covered_by_none, covers, may_hold

BLOCKED_TOOLS = (
    "sudo",
    "su",
    "dd",
    "mkfs",
    "shutdown",
    "reboot",
    "init",
    "rm -rf /",
    "chmod 777",
)
DENIED_PATHS = ("/etc/**", "/boot/**", "/sys/**", "/proc/**", "/dev/**")
MAX_ARGUMENT_BYTES = 1024 * 1024

_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


class Policy(Struct, frozen=True):
    """The settings. A list given for a tuple is taken as one; InvalidValue names a bad field.

    * ``blocked_tools``: commands (``sudo``, ``rm -rf /``) and MCP tools (``server``,
      ``server/tool``, ``server:tool``); ``approval_required_tools``: MCP tools.
    * ``allowed_paths``, ``denied_paths``: globs over absolute paths; one that doesn't start with
      ``/`` or ``**`` is taken at any depth. A denied one covers all that is below it, and wins;
      where any is allowed, all others are blocked.
    * ``allowed_hosts``, ``denied_hosts``: ``example.com``, ``*.example.com`` for what is below it,
      or ``*``. Denied wins; where any is allowed, all others are blocked. Allowing a host does
      not save its approval.
    """

    blocked_tools: tuple[str, ...] = BLOCKED_TOOLS
    approval_required_tools: tuple[str, ...] = ()
    allowed_paths: tuple[str, ...] = ()
    denied_paths: tuple[str, ...] = DENIED_PATHS
    allowed_hosts: tuple[str, ...] = ()
    denied_hosts: tuple[str, ...] = ()
    max_argument_bytes: int = MAX_ARGUMENT_BYTES
    require_approval_for_delete: bool = True
    require_approval_for_network: bool = True
    blocked_plugins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, check_entry in _ENTRY_CHECKS.items():
            force_setattr(self, name, each(getattr(self, name), name, check_entry))
        check_whole(self.max_argument_bytes, 0, "max_argument_bytes")
        for name in ("require_approval_for_delete", "require_approval_for_network"):
            if not isinstance(getattr(self, name), bool):
                raise InvalidValue(f"{name}: must be true or false", field=name)


def check(policy: Policy, action: Action) -> Verdict:
    """The policy's verdict on an action. Paths must be absolute, with their links resolved.

    Never raises: an action that cannot be judged is Blocked, with the reason.
    """
    try:
        if blocked := next(filter(None, _problems(policy, action)), None):
            return Blocked(blocked)
        if asked := _why_asked(policy, action):
            return NeedsApproval(asked)
    except Exception as problem:  # whatever went wrong, what nobody has judged must not go on
        return Blocked(f"this cannot be checked: {problem}")
    return Allowed("the policy has nothing against it")


def _problems(policy: Policy, action: Action) -> Iterator[str | None]:
    """The reasons to block the action, by rule."""
    match action:
        case ExecuteCommand():
            yield _command_problem(policy, action)
        case McpToolCall():
            yield _tool_problem(policy, action)
        case PluginAction():
            yield _plugin_problem(policy, action)
    deletes = action.operation is Operation.DELETE
    for path in action.paths():
        yield _path_problem(policy, path, deletes=deletes)
    for host in action.hosts():
        yield _host_problem(policy, host)


def _why_asked(policy: Policy, action: Action) -> str | None:
    match action:
        case FileDelete() if not policy.require_approval_for_delete:
            return None
        case NetworkRequest() if not policy.require_approval_for_network:
            return None
        case McpToolCall(server, tool) if _lists_tool(policy.approval_required_tools, action):
            return f"the policy asks for approval of {server}/{tool}"
    return action.asked


def _path_problem(policy: Policy, path: str, *, deletes: bool) -> str | None:
    place = collapsed(path)
    if deletes or not covered_by_none(policy.denied_paths, place):
        for glob in policy.denied_paths:
            if covers(glob, place):
                return f"{place} is denied by {glob}"
            if deletes and may_hold(place, glob):
                return f"{place} may hold what is denied by {glob}"
    if policy.allowed_paths and not any(matches(glob, place) for glob in policy.allowed_paths):
        return f"{place} is not among the allowed paths"
    return None


def _command_problem(policy: Policy, action: ExecuteCommand) -> str | None:
    if (
        sum(len(word.encode()) for word in (action.command, *action.args))
        > policy.max_argument_bytes
    ):
        return f"the command is longer than {policy.max_argument_bytes:,} bytes"
    try:
        commands = commands_run(action.command, action.args)
    except Unreadable as problem:
        return f"the command cannot be read: {problem}"
    for command in map(shape, commands):
        for entry in policy.blocked_tools:
            if blocks(entry, command):
                return f"the policy blocks {entry}"
    return None


def _host_problem(policy: Policy, host: str) -> str | None:
    name = _comparable(host, "host")
    if any(_is_host(entry, name) for entry in policy.denied_hosts):
        return f"the host {name} is denied"
    if policy.allowed_hosts and not any(_is_host(entry, name) for entry in policy.allowed_hosts):
        return f"the host {name} is not among the allowed hosts"
    return None


def _tool_problem(policy: Policy, action: McpToolCall) -> str | None:
    if _lists_tool(policy.blocked_tools, action):
        return f"the policy blocks {action.server}/{action.tool}"
    if len(msgspec.json.encode(action.arguments)) > policy.max_argument_bytes:
        return f"the arguments are larger than {policy.max_argument_bytes:,} bytes"
    return None


def _plugin_problem(policy: Policy, action: PluginAction) -> str | None:
    if action.plugin in policy.blocked_plugins:
        return f"the policy blocks the plugin {action.plugin}"
    if isinstance(action, PluginHttpRequest) and not action.url.lower().startswith(
        ("http://", "https://")
    ):
        return "a plugin's request must go to an http or https URL"
    return None


def _lists_tool(entries: tuple[str, ...], call: McpToolCall) -> bool:
    names = (call.server, f"{call.server}/{call.tool}", f"{call.server}:{call.tool}")
    return any(name in entries for name in names)


def _is_host(entry: str, host: str) -> bool:
    if entry.startswith("*"):
        return host.endswith(entry[1:])
    return host == entry


def _comparable(host: object, field: str) -> str:
    """The normal form of a host, with one spelling for each address."""
    name = check_host(host, field)
    if ":" in name:
        address = ipaddress.IPv6Address(name)
        return str(address.ipv4_mapped or address)
    if _NUMBER.fullmatch(name.rpartition(".")[2]):
        try:
            return str(ipaddress.IPv4Address(name))
        except ValueError:
            # resolvers read 127.1 and 0x7f000001 as addresses too, and not all alike
            raise InvalidValue(
                f"{field}: write the address {name} as four decimal numbers", field=field
            ) from None
    return name


def _check_host_entry(entry: str, field: str) -> str:
    if entry == "*":
        return entry
    if entry.startswith("*."):
        return "*." + check_host(entry[2:], field)
    return _comparable(entry, field)


def _check_path_entry(entry: str, field: str) -> str:
    if entry.startswith("~"):
        raise InvalidValue(f"{field}: {entry!r}: ~ is not expanded here", field=field)
    if has_parent_segment(entry):
        raise InvalidValue(f"{field}: {entry!r}: a glob with .. matches nothing", field=field)
    anchored = entry if entry.startswith(("/", "**")) else f"**/{entry}"
    return check_glob(re.sub("/+", "/", anchored).rstrip("/") or "/", field)


def _check_tool_entry(entry: str, field: str) -> str:
    try:
        words = split(entry)
    except Unreadable as problem:
        raise InvalidValue(f"{field}: {entry!r}: {problem}", field=field) from None
    if not words:
        raise InvalidValue(f"{field}: must name a command or a tool", field=field)
    return entry


_ENTRY_CHECKS: dict[str, Callable[[str, str], str]] = {
    "blocked_tools": _check_tool_entry,
    "approval_required_tools": check_name,
    "allowed_paths": _check_path_entry,
    "denied_paths": _check_path_entry,
    "allowed_hosts": _check_host_entry,
    "denied_hosts": _check_host_entry,
    "blocked_plugins": check_name,
}
