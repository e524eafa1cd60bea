from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import msgspec
import pytest
from hypothesis import example, given, settings
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
from retinue.actors.domain.permissions.patterns import (
    NO_PORT,
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
    from_action,
    index_key,
    index_keys,
    matches,
)
from retinue.actors.domain.values.globs import has_parent_segment

ROOT = "/ws"

ACTIONS: dict[str, Action] = {
    "read": FileRead("/ws/src/a.py"),
    "read relative": FileRead("src/a.py"),
    "read outside": FileRead("/data/a.py"),
    "read escaping": FileRead("/ws/../data/a.py"),
    "read root": FileRead("/ws/."),
    "read neighbour": FileRead("/wsx/src/a.py"),
    "list": FileList("/ws/src/a.py"),
    "write": FileWrite("/ws/src/a.py"),
    "write outside": FileWriteOutside("/data/a.py"),
    "delete": FileDelete("/ws/src/a.py"),
    "delete outside": FileDelete("/data/a.py"),
    "git": ExecuteCommand("git", ("push",)),
    "/bin/git": ExecuteCommand("/bin/git"),
    "../git": ExecuteCommand("../git"),
    "network": NetworkRequest("Example.com", 443),
    "network 80": NetworkRequest("example.com", 80),
    "network any": NetworkRequest("example.com"),
    "network other": NetworkRequest("www.example.com", 443),
    "transmit": TransmitData("example.com"),
    "financial": FinancialTransaction("1", "example.com"),
    "access": AccessControlChange("/ws/src/a.py", "read"),
    "grant": CapabilityGrant("/ws/src/a.py", ("read",)),
    "survey/parse": McpToolCall("survey", "parse", {"path": "/ws/src/a.py"}),
    "survey/print": McpToolCall("survey", "print"),
    "Survey/parse": McpToolCall("Survey", "parse"),
    "pdf render": PluginExecution("pdf", "render"),
    "pdf http": PluginHttpRequest("pdf", "https://example.com"),
    "pdf read": PluginFileAccess("pdf", "/ws/src/a.py", "read"),
    "pdf write": PluginFileAccess("pdf", "/ws/src/a.py", "write"),
    "pdf delete": PluginFileAccess("pdf", "/ws/src/a.py", "delete"),
    "pdf escaping": PluginFileAccess("pdf", "/ws/../a.py", "read"),
    "png render": PluginExecution("png", "render"),
}

# pattern, what it matches in the workspace, and what it matches outside of any
READS = {"read", "read relative", "read outside", "read root", "read neighbour"}
PDF = {"pdf render", "pdf http", "pdf read", "pdf write", "pdf delete"}
TABLE: list[tuple[Pattern, set[str], set[str]]] = [
    (ExactTool("survey", "parse"), {"survey/parse"}, {"survey/parse"}),
    (ServerTools("survey"), {"survey/parse", "survey/print"}, {"survey/parse", "survey/print"}),
    (FilePattern("**", "read"), READS, READS),
    (FilePattern("/ws/**", "read"), {"read", "read relative", "read root"}, {"read", "read root"}),
    (FilePattern("src/*", "read"), {"read relative"}, {"read relative"}),
    (FilePattern("/*/src/*.py", "write"), {"write"}, {"write"}),
    (FilePattern("/data/*", "write"), {"write outside"}, {"write outside"}),
    (FilePattern("/data/*", "delete"), {"delete outside"}, {"delete outside"}),
    (
        NetworkHost("EXAMPLE.com"),
        {"network", "network 80", "network any"},
        {"network", "network 80", "network any"},
    ),
    (NetworkHost("example.com", (443, 8443)), {"network"}, {"network"}),
    (NetworkHost("example.com", (NO_PORT,)), {"network any"}, {"network any"}),
    (CommandPattern("git"), {"git"}, {"git"}),
    (CommandPattern("*"), {"git"}, {"git"}),
    (CommandPattern("**"), {"git", "/bin/git"}, {"git", "/bin/git"}),
    (WorkspaceRelative("**", "read"), {"read", "read relative"}, set()),
    (WorkspaceRelative("src/*.py", "read"), {"read", "read relative"}, set()),
    (WorkspaceRelative("*.py", "read"), set(), set()),
    (WorkspaceRelative("/ws/src/*", "read"), set(), set()),
    (WorkspaceRelative("**", "write"), {"write"}, set()),
    (WorkspaceRelative("src/?.py", "delete"), {"delete"}, set()),
    (WorkspaceRelative("survey/p*", "invoke"), {"survey/parse", "survey/print"}, set()),
    (WorkspaceRelative("*", "invoke"), set(), set()),
    (WorkspaceRelative("g*", "execute"), {"git"}, set()),
    (PluginCapability("pdf", "render"), {"pdf render"}, {"pdf render"}),
    (PluginCapability("pdf", "http_request"), {"pdf http"}, {"pdf http"}),
    (PluginCapability("pdf", "file_read"), {"pdf read"}, {"pdf read"}),
    (PluginCapability("pdf", "file_write"), {"pdf write"}, {"pdf write"}),
    (PluginCapability("pdf", "file_delete"), {"pdf delete"}, {"pdf delete"}),
    (PluginWildcard("pdf"), PDF, PDF),
    (PluginWildcard("*"), set(), set()),
    (Custom("**"), set(), set()),
]


def test_the_table_has_every_pattern_and_every_action() -> None:
    assert {type(pattern) for pattern, _, _ in TABLE} == set(get_args(Pattern))
    assert {type(action) for action in ACTIONS.values()} == set(get_args(Action))


@pytest.mark.parametrize("row", TABLE, ids=lambda row: repr(row[0]))
@pytest.mark.parametrize("name", ACTIONS)
def test_a_pattern_matches_what_the_table_says_and_nothing_else(
    row: tuple[Pattern, set[str], set[str]], name: str
) -> None:
    pattern, inside, outside = row
    action = ACTIONS[name]
    assert matches(pattern, action, ROOT) == (name in inside)
    assert matches(pattern, action, ROOT + "/") == (name in inside)
    assert matches(pattern, action, None) == (name in outside)


@pytest.mark.parametrize("pattern", [row[0] for row in TABLE], ids=repr)
@pytest.mark.parametrize("root", [ROOT, None])
def test_the_index_leads_to_every_pattern_that_matches(pattern: Pattern, root: str | None) -> None:
    for action in ACTIONS.values():
        if matches(pattern, action, root):
            assert index_key(pattern) in index_keys(action, root)


def test_the_index_tells_exact_patterns_apart() -> None:
    keys = index_keys(FileRead("/a"), None)
    assert index_key(FilePattern("/a", "read")) in keys
    assert index_key(FilePattern("/*", "read")) in keys
    assert index_key(FilePattern("/b", "read")) not in keys
    assert index_key(FilePattern("/a", "write")) not in keys


def test_a_workspace_may_be_the_whole_disk() -> None:
    assert matches(WorkspaceRelative("etc/*", "read"), FileRead("/etc/x"), "/")


@pytest.mark.parametrize("pattern", [row[0] for row in TABLE], ids=repr)
def test_a_pattern_survives_being_stored(pattern: Pattern) -> None:
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(pattern), type=Pattern) == pattern


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: ExactTool("", "a"), "server"),
        (lambda: ExactTool("a", ""), "tool"),
        (lambda: ServerTools(""), "server"),
        (lambda: FilePattern("", "read"), "glob"),
        (lambda: FilePattern("[", "read"), "glob"),
        (lambda: FilePattern("*", "list"), "mode"),  # type: ignore[arg-type]
        (lambda: NetworkHost("*.example.com"), "host"),
        (lambda: NetworkHost("a", ()), "ports"),
        (lambda: NetworkHost("a", (80, -1)), r"ports\[1\]"),
        (lambda: NetworkHost("a", (False,)), r"ports\[0\]"),
        (lambda: NetworkHost("a", 80), "ports"),  # type: ignore[arg-type]
        (lambda: CommandPattern("a" * 5000), "glob"),
        (lambda: WorkspaceRelative("", "read"), "glob"),
        (lambda: WorkspaceRelative("*", "list"), "permission"),  # type: ignore[arg-type]
        (lambda: PluginCapability("", "a"), "plugin"),
        (lambda: PluginCapability("a", ""), "capability"),
        (lambda: PluginWildcard(""), "plugin"),
        (lambda: Custom(""), "text"),
    ],
)
def test_a_bad_field_is_refused_by_name(make: Callable[[], Pattern], field: str) -> None:
    with pytest.raises(InvalidValue, match=f"^{field}: "):
        make()


NEVER_BLANKET = {"transmit", "financial", "access", "grant"}
NO_PATTERN = {"list", "read escaping", "../git", "pdf escaping"}


@pytest.mark.parametrize("name", ACTIONS)
@pytest.mark.parametrize("root", [ROOT, None])
def test_the_pattern_of_an_action_covers_it_where_there_is_one(name: str, root: str | None) -> None:
    pattern = from_action(ACTIONS[name], root)
    if name in NEVER_BLANKET | NO_PATTERN:
        assert pattern is None
    else:
        assert pattern is not None
        assert matches(pattern, ACTIONS[name], root)


# actions that the patterns have no means to tell apart
SAME = [{"read", "read relative"}]


@pytest.mark.parametrize("name", ACTIONS)
def test_the_pattern_of_an_action_covers_no_other(name: str) -> None:
    pattern = from_action(ACTIONS[name], ROOT)
    covered = {n for n, action in ACTIONS.items() if pattern and matches(pattern, action, ROOT)}
    assert covered <= next((same for same in SAME if name in same), {name})


def test_the_pattern_of_a_relative_path_is_of_this_workspace() -> None:
    pattern = from_action(FileRead("a.txt"), ROOT)
    assert pattern == FilePattern("/ws/a.txt", "read")
    assert not matches(pattern, FileRead("a.txt"), "/other")


def test_what_is_too_long_for_a_glob_has_no_pattern() -> None:
    assert from_action(FileRead("/" + "[" * 2000), None) is None
    assert from_action(ExecuteCommand("a" * 5000), None) is None


names = st.text("ab1*?[]!-/.", min_size=1, max_size=8)


@settings(deadline=None)
@given(names, names)
@example("/data/[1]/a*.txt", "/data/1/abc.txt")
@example("/data/**", "/data/x/y")
def test_glob_characters_of_a_path_or_command_mean_themselves(name: str, other: str) -> None:
    for action_type in (FileRead, FileWriteOutside, FileDelete, ExecuteCommand):
        pattern = from_action(action_type(name), None)
        assert (pattern is None) == has_parent_segment(name)
        if pattern is not None:
            assert matches(pattern, action_type(name), None)
            assert matches(pattern, action_type(other), None) == (name == other)


@settings(deadline=None)
@given(names, names, names)
def test_the_index_of_any_path_leads_to_the_patterns_that_match(
    path: str, name: str, glob: str
) -> None:
    action = FileRead(path)
    patterns = [from_action(FileRead(name), ROOT)]
    if "[" not in glob:
        patterns += [FilePattern(glob, "read"), WorkspaceRelative(glob, "read")]
    for pattern in patterns:
        if pattern is not None and matches(pattern, action, ROOT):
            assert index_key(pattern) in index_keys(action, ROOT)
