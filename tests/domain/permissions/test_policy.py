"""What a policy blocks, what it sends to approval, and what it lets through."""

from __future__ import annotations

from typing import Any, cast, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinue.actors.domain.errors import InvalidValue
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
from retinue.actors.domain.permissions.policy import Policy, check
from retinue.actors.domain.permissions.verdict import Allowed, Blocked, NeedsApproval, Verdict

DEFAULT = Policy()
SAMPLES: tuple[Action, ...] = (
    FileRead("/w/a"),
    FileList("/w"),
    FileWrite("/w/a"),
    FileWriteOutside("/x/a"),
    FileDelete("/w/a"),
    ExecuteCommand("ls", ("-l",)),
    NetworkRequest("example.com", 443),
    TransmitData("someone@example.com", "text"),
    FinancialTransaction("5", "shop"),
    AccessControlChange("/w", "chmod"),
    CapabilityGrant("file:///w/**", ("read",)),
    McpToolCall("git", "log"),
    PluginExecution("p", "c"),
    PluginHttpRequest("p", "https://example.com/"),
    PluginFileAccess("p", "/w/a", "read"),
)


def verdict_on(line: str, *args: str, policy: Policy = DEFAULT) -> type[Verdict]:
    return type(check(policy, ExecuteCommand(line, args)))


@pytest.mark.parametrize(
    "line",
    [
        "sudo",
        "sudo ls",
        "/usr/bin/sudo ls",
        "./sudo ls",
        "'su'do ls",
        "\\sudo ls",
        "s\\udo ls",
        "A=1 sudo ls",
        "env sudo x",
        "env -u B A=1 sudo x",
        "nice sudo x",
        "nice -n 10 sudo x",
        "command sudo x",
        "timeout 5 env nohup sudo x",
        "xargs sudo",
        'sh -c "sudo x"',
        "bash -lc 'ls; sudo x'",
        "ls; sudo x",
        "ls && sudo x",
        "ls || sudo x",
        "ls | sudo x",
        "ls & sudo x",
        "ls\nsudo x",
        "ls $(sudo x)",
        'ls "$(sudo x)"',
        "ls `sudo x`",
        "(sudo x)",
        "{ sudo x; }",
        "if sudo x; then ls; fi",
        ">out sudo x",
        "find . -exec sudo x {} \\;",
        "eval sudo x",
        "echo sudo | sh -c 'su -'",
        "su - root",
        "dd if=/x of=/y",
        "mkfs /x",
        "mkfs.ext4 /x",
        "shutdown now",
        "reboot",
        "/sbin/init 0",
        "rm -rf /",
        "rm -fr /",
        "rm -r -f /",
        "rm -f -r -v /",
        "rm -Rf /",
        "rm --recursive --force /",
        "rm / -rf",
        "rm -rf -- /",
        "rm -rf //",
        "rm -rf /.",
        "rm -rf /tmp/..",
        "rm -rf /*",
        "rm -rf /tmp /",
        "rm -rf --no-preserve-root /",
        "chmod 777 f",
        "chmod 0777 f",
        "chmod -R 777 f",
        "chmod 777 -R f",
        "/bin/chmod -v 00777 f",
        "sudo rm 'x",
        "ls 'x",
        "$TOOL x",
    ],
)
def test_commands_that_are_blocked(line: str) -> None:
    assert verdict_on(line) is Blocked


@pytest.mark.parametrize(
    ("command", "args"),
    [
        ("sudo", ("ls",)),
        ("/usr/bin/sudo", ("ls",)),
        ("env", ("sudo", "ls")),
        ("sh", ("-c", "sudo ls")),
        ("rm", ("-r", "-f", "/")),
        ("rm -rf", ("/",)),
        ("chmod", ("-R", "777", "f")),
        ("find", (".", "-exec", "sudo", "{}", ";")),
    ],
)
def test_commands_given_in_words_are_blocked_too(command: str, args: tuple[str, ...]) -> None:
    assert verdict_on(command, *args) is Blocked


@pytest.mark.parametrize(
    "line",
    [
        "ddrescue a b",
        "sudoedit-like x",
        "initdb",
        "git init",
        "nice git init",
        "npm init",
        "echo sudo",
        "echo 'a; sudo x'",
        'echo "sudo && su"',
        "grep -r su .",
        "man dd",
        "rm -rf /tmp/x",
        "rm -rf /tmp/*",
        "rm -rf .",
        "rm -r /tmp",
        "rm /",
        "rm -- -rf /",
        "chmod 755 777x",
        "chmod 1777 f",
        "chmod 77 f",
        "ls /etc",
        "./rm-rf /",
        "command -v sudo",
        "ls # sudo",
        "make 2>&1 | tee log",
    ],
)
def test_commands_that_only_need_approval(line: str) -> None:
    assert verdict_on(line) is NeedsApproval


def test_an_argument_is_no_shell_text() -> None:
    assert verdict_on("echo", "; sudo x", "$(su)") is NeedsApproval


def test_a_list_of_ones_own_replaces_the_default() -> None:
    policy = Policy(blocked_tools=("git push --force", "docker"))
    assert verdict_on("git push -f", policy=policy) is Blocked
    assert verdict_on("git -C /x push origin --force", policy=policy) is Blocked
    assert verdict_on("git push", policy=policy) is NeedsApproval
    assert verdict_on("docker ps", policy=policy) is Blocked
    assert verdict_on("sudo docker ps", policy=policy) is Blocked
    assert verdict_on("sudo ls", policy=policy) is NeedsApproval


def test_a_command_over_the_limit_is_blocked() -> None:
    policy = Policy(max_argument_bytes=10)
    assert verdict_on("echo", "é" * 3, policy=policy) is NeedsApproval
    assert verdict_on("echo", "é" * 4, policy=policy) is Blocked


@pytest.mark.parametrize(
    "path",
    [
        "/etc",
        "/etc/",
        "/etc/passwd",
        "//etc/passwd",
        "/etc//passwd",
        "/./etc/passwd",
        "/w/../etc/passwd",
        "/../etc/passwd",
        "/boot/x",
        "/sys/x",
        "/proc/self/environ",
        "/dev/sda",
        "etc/passwd",
        "../x",
        "/" + "a/" * 5000,
    ],
)
def test_paths_that_are_blocked_for_every_file_action(path: str) -> None:
    for action in (
        FileRead(path),
        FileList(path),
        FileWrite(path),
        FileWriteOutside(path),
        FileDelete(path),
        PluginFileAccess("p", path, "read"),
    ):
        assert isinstance(check(DEFAULT, action), Blocked)


@pytest.mark.parametrize("path", ["/w/a", "/etcetera/a", "/w/etc/passwd", "/etc/../w/a", "/"])
def test_other_paths_are_left_to_the_boundary(path: str) -> None:
    assert isinstance(check(DEFAULT, FileRead(path)), Allowed)
    assert isinstance(check(DEFAULT, FileWriteOutside(path)), Allowed)


@pytest.mark.parametrize(
    ("glob", "path", "denied"),
    [
        ("/w/secret", "/w/secret", True),
        ("/w/secret/", "/w/secret", True),
        ("/w/secret/", "/w/secret/a/b", True),
        ("/w/secret", "/w/secrets", False),
        ("/w/*/key", "/w/a/key", True),
        ("/w/*/key", "/w/a/key/x", True),
        ("/w/*/key", "/w/a/b/key", False),
        ("/w/*/**", "/w/a", True),
        ("**/.env", "/w/a/.env", True),
        ("*.pem", "/w/a/x.pem", True),
        ("//w//x", "/w/x", True),
        ("**", "/w", True),
    ],
)
def test_a_denied_glob_covers_what_is_below_it(glob: str, path: str, denied: bool) -> None:
    policy = Policy(denied_paths=(glob,))
    assert isinstance(check(policy, FileRead(path)), Blocked) is denied


@pytest.mark.parametrize(
    ("glob", "path", "denied"),
    [
        ("/w/secret/**", "/w", True),
        ("/w/secret/**", "/", True),
        ("/w/secret", "/w/other", False),
        ("/w/*/key", "/w", True),
        ("/w/a*/key", "/w/b", False),
        ("**/.env", "/", True),
        ("**/.env", "/w", False),
    ],
)
def test_what_holds_denied_paths_is_not_deleted(glob: str, path: str, denied: bool) -> None:
    policy = Policy(denied_paths=(glob,))
    assert isinstance(check(policy, FileDelete(path)), Blocked) is denied
    assert isinstance(check(policy, PluginFileAccess("p", path, "delete")), Blocked) is denied


def test_allowed_paths_exclude_all_others_and_yield_to_denied_ones() -> None:
    policy = Policy(allowed_paths=("/w/**",), denied_paths=("/w/secret",))
    assert isinstance(check(policy, FileRead("/w/a")), Allowed)
    assert isinstance(check(policy, FileRead("/x/a")), Blocked)
    assert isinstance(check(policy, FileRead("/w/secret/a")), Blocked)


def test_deleting_asks_unless_the_policy_says_otherwise() -> None:
    assert isinstance(check(DEFAULT, FileDelete("/w/a")), NeedsApproval)
    free = Policy(require_approval_for_delete=False)
    assert isinstance(check(free, FileDelete("/w/a")), Allowed)
    assert isinstance(check(free, FileDelete("/etc/a")), Blocked)


@pytest.mark.parametrize(
    ("entry", "host", "listed"),
    [
        ("example.com", "example.com", True),
        ("EXAMPLE.com", "example.COM", True),
        ("example.com", "example.com.", True),
        ("example.com.", "example.com", True),
        ("example.com", "a.example.com", False),
        ("example.com", "badexample.com", False),
        ("*.example.com", "a.b.example.com", True),
        ("*.example.com", "example.com", False),
        ("*.example.com", "badexample.com", False),
        ("*", "anything", True),
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "::ffff:127.0.0.1", True),
        ("::1", "0:0:0:0:0:0:0:1", True),
        ("::1", "[::1]", True),
    ],
)
def test_hosts_are_compared_in_one_form(entry: str, host: str, listed: bool) -> None:
    request = NetworkRequest(host)
    assert isinstance(check(Policy(denied_hosts=(entry,)), request), Blocked) is listed
    assert isinstance(check(Policy(allowed_hosts=(entry,)), request), Blocked) is not listed


def test_an_allowed_host_is_still_asked_for() -> None:
    policy = Policy(allowed_hosts=("example.com",))
    assert isinstance(check(policy, NetworkRequest("example.com")), NeedsApproval)
    assert isinstance(check(DEFAULT, NetworkRequest("example.com")), NeedsApproval)
    free = Policy(require_approval_for_network=False)
    assert isinstance(check(free, NetworkRequest("example.com")), Allowed)


@pytest.mark.parametrize("host", ["127.1", "0x7f.1", "2130706433", "0177.0.0.1", "a.0x1"])
def test_addresses_that_resolvers_read_differently_are_blocked(host: str) -> None:
    assert isinstance(check(DEFAULT, NetworkRequest(host)), Blocked)


@pytest.mark.parametrize(
    "url",
    [
        "http://evil/x",
        "http://allowed@evil/",
        "http://allowed:80@evil:80/",
        "HTTPS://EVIL./",
        "http://evil?allowed",
        "http://evil#@allowed/",
        "ftp://allowed/",
        "file://allowed/etc/passwd",
        "http://127.1/",
    ],
)
def test_a_plugins_url_is_judged_by_its_real_host(url: str) -> None:
    policy = Policy(allowed_hosts=("allowed",))
    assert isinstance(check(policy, PluginHttpRequest("p", url)), Blocked)


def test_a_plugins_url_to_an_allowed_host_needs_approval() -> None:
    policy = Policy(allowed_hosts=("allowed",), denied_hosts=("evil",))
    for url in ("http://allowed/", "https://evil@ALLOWED.:8443/evil"):
        assert isinstance(check(policy, PluginHttpRequest("p", url)), NeedsApproval)


def test_data_is_not_sent_to_a_denied_host() -> None:
    policy = Policy(denied_hosts=("evil",))
    assert isinstance(check(policy, TransmitData("https://evil/in", "x")), Blocked)
    assert isinstance(check(policy, TransmitData("https://good/in", "x")), NeedsApproval)
    assert isinstance(check(policy, TransmitData("the press", "x")), NeedsApproval)


@pytest.mark.parametrize("entry", ["git", "git/push", "git:push"])
def test_tools_are_listed_by_server_or_by_server_and_tool(entry: str) -> None:
    blocking = Policy(blocked_tools=(entry,))
    asking = Policy(approval_required_tools=(entry,))
    assert isinstance(check(blocking, McpToolCall("git", "push")), Blocked)
    assert isinstance(check(asking, McpToolCall("git", "push")), NeedsApproval)
    for other in (McpToolCall("git2", "push"), McpToolCall("x", "git"), McpToolCall("x", "push")):
        assert isinstance(check(blocking, other), Allowed)
        assert isinstance(check(asking, other), Allowed)


def test_an_entry_of_a_tool_blocks_no_command_of_that_name() -> None:
    policy = Policy(blocked_tools=("git/push",))
    assert verdict_on("push", policy=policy) is NeedsApproval
    assert verdict_on("git push", policy=policy) is NeedsApproval


def test_blocked_wins_over_approval_required() -> None:
    policy = Policy(blocked_tools=("git/push",), approval_required_tools=("git",))
    assert isinstance(check(policy, McpToolCall("git", "push")), Blocked)
    assert isinstance(check(policy, McpToolCall("git", "pull")), NeedsApproval)


def test_arguments_may_be_as_large_as_the_limit_and_no_larger() -> None:
    call = McpToolCall("s", "t", {"k": "é" * 10})
    size = len(msgspec.json.encode(call.arguments))
    assert isinstance(check(Policy(max_argument_bytes=size), call), Allowed)
    assert isinstance(check(Policy(max_argument_bytes=size - 1), call), Blocked)
    assert isinstance(check(DEFAULT, McpToolCall("s", "t", {"k": "x" * 2**20})), Blocked)


def test_blocked_plugins_do_nothing_at_all() -> None:
    policy = Policy(blocked_plugins=("p",))
    for action in SAMPLES:
        expected = hasattr(action, "plugin")
        assert isinstance(check(policy, action), Blocked) is expected


ASKED = (
    FileDelete,
    ExecuteCommand,
    NetworkRequest,
    TransmitData,
    FinancialTransaction,
    AccessControlChange,
    CapabilityGrant,
    PluginExecution,
    PluginHttpRequest,
    PluginFileAccess,
)


@pytest.mark.parametrize("action", SAMPLES, ids=lambda action: type(action).__name__)
def test_the_default_for_every_kind_of_action(action: Action) -> None:
    expected = NeedsApproval if isinstance(action, ASKED) else Allowed
    assert isinstance(check(DEFAULT, action), expected)


def test_the_samples_are_all_kinds_of_actions() -> None:
    assert {type(action) for action in SAMPLES} == set(get_args(Action))


def test_some_actions_are_asked_for_even_where_nothing_else_is() -> None:
    free = Policy((), denied_paths=(), require_approval_for_delete=False)
    for action in SAMPLES:
        if isinstance(action, TransmitData | FinancialTransaction | AccessControlChange):
            assert isinstance(check(free, action), NeedsApproval)


def test_what_is_no_action_is_blocked_and_not_raised() -> None:
    assert isinstance(check(DEFAULT, cast(Action, "/x")), Blocked)


@given(st.text(max_size=30), st.lists(st.text(max_size=10), max_size=3))
def test_no_command_is_ever_let_through_unasked(command: str, args: list[str]) -> None:
    try:
        action = ExecuteCommand(command, tuple(args))
    except InvalidValue:
        return
    assert not isinstance(check(DEFAULT, action), Allowed)


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"blocked_tools": "sudo"}, "blocked_tools"),
        ({"blocked_tools": ["ls", "rm 'x"]}, "blocked_tools[1]"),
        ({"blocked_tools": [" "]}, "blocked_tools[0]"),
        ({"denied_paths": ["[x"]}, "denied_paths[0]"),
        ({"denied_paths": ["~/.ssh"]}, "denied_paths[0]"),
        ({"allowed_paths": ["/w/../x"]}, "allowed_paths[0]"),
        ({"denied_hosts": ["http://x/"]}, "denied_hosts[0]"),
        ({"denied_hosts": ["127.1"]}, "denied_hosts[0]"),
        ({"allowed_hosts": ["a.*.b"]}, "allowed_hosts[0]"),
        ({"blocked_plugins": [3]}, "blocked_plugins[0]"),
        ({"max_argument_bytes": -1}, "max_argument_bytes"),
        ({"require_approval_for_delete": "no"}, "require_approval_for_delete"),
    ],
)
def test_a_setting_that_could_not_hold_is_refused(settings: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        Policy(**settings)
    assert caught.value.details["field"] == field


def test_a_policy_survives_json() -> None:
    policy = Policy(blocked_tools=("x",), denied_hosts=("*.EVIL.com",), max_argument_bytes=5)
    assert msgspec.json.decode(msgspec.json.encode(policy), type=Policy) == policy
    assert msgspec.json.decode(b"{}", type=Policy) == DEFAULT
