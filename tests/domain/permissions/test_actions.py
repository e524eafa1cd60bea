from __future__ import annotations

from decimal import Decimal
from hashlib import sha256

import msgspec
import pytest
from hypothesis import given, settings
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
    argument_hash,
)
from retinue.actors.domain.permissions.base_action import Risk

URL = "https://example.com/x"

# action, tag, risk, description, resource, permission
TABLE: list[tuple[Action, str, str, str, str, str]] = [
    (FileRead("/a/b"), "file_read", "medium", "read /a/b", "file:///a/b", "read"),
    (FileDelete("/a"), "file_delete", "high", "delete /a", "file:///a", "delete"),
    (
        FileWriteOutside("/a"),
        "file_write_outside",
        "high",
        "write /a outside the workspace",
        "file:///a",
        "write",
    ),
    (
        ExecuteCommand("git", ("commit", "-m", "two words")),
        "execute_command",
        "high",
        "run git commit -m 'two words'",
        "exec://git",
        "execute",
    ),
    (
        NetworkRequest("Example.com", 443),
        "network_request",
        "medium",
        "connect to example.com:443",
        "net://example.com:443",
        "invoke",
    ),
    (
        TransmitData("mail@example.com", "report"),
        "transmit_data",
        "high",
        "send report to mail@example.com",
        "transmit://mail@example.com",
        "invoke",
    ),
    (
        FinancialTransaction("5.00", "shop"),
        "financial_transaction",
        "critical",
        "pay 5 USD to shop",
        "financial://shop",
        "invoke",
    ),
    (
        AccessControlChange("repo", "make public"),
        "access_control_change",
        "critical",
        "change access to repo: make public",
        "access://repo",
        "invoke",
    ),
    (
        CapabilityGrant("file:///a", ("read", "write")),
        "capability_grant",
        "high",
        "grant read, write on file:///a",
        "grant://file:///a",
        "invoke",
    ),
    (
        McpToolCall("survey", "parse", {"x": 1}),
        "mcp_tool_call",
        "medium",
        "call survey/parse",
        "mcp://survey:parse",
        "invoke",
    ),
    (
        PluginExecution("pdf", "render"),
        "plugin_execution",
        "high",
        "let plugin pdf use render",
        "plugin://pdf:render",
        "invoke",
    ),
    (
        PluginHttpRequest("pdf", URL),
        "plugin_http_request",
        "high",
        f"let plugin pdf GET {URL}",
        "plugin://pdf:http_request",
        "invoke",
    ),
    (
        PluginFileAccess("pdf", "/a", "write"),
        "plugin_file_access",
        "high",
        "let plugin pdf write /a",
        "plugin://pdf:file_write",
        "invoke",
    ),
    (FileWrite("/a"), "file_write", "medium", "write /a", "file:///a", "write"),
    (FileList("/a"), "file_list", "low", "list /a", "file:///a", "list"),
]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row[1])
def test_what_is_said_of_each_action(row: tuple[Action, str, str, str, str, str]) -> None:
    action, tag, risk, description, uri, permission = row
    assert action.kind == tag
    assert action.risk == risk
    assert action.describe() == description
    assert action.wanted() == (uri, permission)


@pytest.mark.parametrize("action", [row[0] for row in TABLE], ids=lambda action: action.kind)
def test_an_action_survives_being_stored(action: Action) -> None:
    for packed in (msgspec.msgpack.encode(action), msgspec.json.encode(action)):
        decode = msgspec.msgpack.decode if packed[:1] != b"{" else msgspec.json.decode
        again: Action = decode(packed, type=Action)
        assert again == action
        assert argument_hash(again) == argument_hash(action)


def test_every_action_has_a_hash_of_its_own() -> None:
    assert len({argument_hash(row[0]) for row in TABLE}) == len(TABLE)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (ExecuteCommand("a", ("b", "c")), ExecuteCommand("a", ("b c",))),
        (McpToolCall("a", "b", {"x": 1}), McpToolCall("a", "b", {"x": "1"})),
        (McpToolCall("a", "b", {"x": 1}), McpToolCall("a", "b", {"x": 1.0})),
        (McpToolCall("a", "b", {"x": None}), McpToolCall("a", "b")),
        (NetworkRequest("a", 1), NetworkRequest("a")),
    ],
)
def test_actions_that_differ_have_different_hashes(one: Action, other: Action) -> None:
    assert argument_hash(one) != argument_hash(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (McpToolCall("a", "b", {"x": 1, "y": 2}), McpToolCall("a", "b", {"y": 2, "x": 1})),
        (McpToolCall("a", "b", {"x": (1, 2)}), McpToolCall("a", "b", {"x": [1, 2]})),
        (FinancialTransaction("5.00", "x"), FinancialTransaction("5", "x")),
        (NetworkRequest("A."), NetworkRequest("a")),
        (NetworkRequest("a.example", 443), NetworkRequest.from_url("https://a.example/x")),
    ],
)
def test_actions_that_say_the_same_have_the_same_hash(one: Action, other: Action) -> None:
    assert argument_hash(one) == argument_hash(other)


def test_the_hashed_form_never_changes() -> None:
    stored_by_the_first_release = (
        b'{"type":"mcp_tool_call","server":"s","tool":"t","arguments":{"a":[1,null],"b":2.5}}'
    )
    action = McpToolCall("s", "t", {"b": 2.5, "a": [1, None]})
    assert argument_hash(action) == sha256(stored_by_the_first_release).hexdigest()


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False).filter(lambda number: abs(number) != float("inf"))
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.text(max_size=5), json_values, max_size=3))
def test_the_hash_of_any_arguments_survives_being_stored(arguments: dict[str, object]) -> None:
    action = McpToolCall("s", "t", arguments)
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(action), type=McpToolCall)
    assert argument_hash(again) == argument_hash(action)


def test_arguments_cannot_change_after_they_were_judged() -> None:
    arguments: dict[str, object] = {"paths": ["/a"]}
    action = McpToolCall("s", "t", arguments)
    before = argument_hash(action)
    arguments["paths"] = ["/etc"]
    assert argument_hash(action) == before


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: FileRead(""), "path"),
        (lambda: FileDelete("/a\0b"), "path"),
        (lambda: FileWrite("\ud800"), "path"),
        (lambda: FileList(None), "path"),  # type: ignore[arg-type]
        (lambda: ExecuteCommand(""), "command"),
        (lambda: ExecuteCommand("ls", "-la"), "args"),  # type: ignore[arg-type]
        (lambda: ExecuteCommand("ls", ("a", "\0")), r"args\[1\]"),
        (lambda: NetworkRequest("a/b"), "host"),
        (lambda: NetworkRequest("a", 0), "port"),
        (lambda: NetworkRequest.from_url("nowhere"), "url"),
        (lambda: TransmitData(""), "destination"),
        (lambda: TransmitData("a", "\0"), "data_type"),
        (lambda: FinancialTransaction("-1", "a"), "amount_usd"),
        (lambda: FinancialTransaction("1", ""), "recipient"),
        (lambda: AccessControlChange("", "a"), "resource"),
        (lambda: AccessControlChange("a", ""), "change"),
        (lambda: CapabilityGrant("", ("read",)), "resource"),
        (lambda: CapabilityGrant("a", ()), "permissions"),
        (lambda: CapabilityGrant("a", ("",)), r"permissions\[0\]"),
        (lambda: McpToolCall("", "a"), "server"),
        (lambda: McpToolCall("a", ""), "tool"),
        (lambda: McpToolCall("a", "b", {"x": float("nan")}), "arguments"),
        (lambda: McpToolCall("a", "b", {"x": object()}), "arguments"),
        (lambda: McpToolCall("a", "b", [1]), "arguments"),  # type: ignore[arg-type]
        (lambda: PluginExecution("", "a"), "plugin"),
        (lambda: PluginExecution("a", ""), "capability"),
        (lambda: PluginHttpRequest("", URL), "plugin"),
        (lambda: PluginHttpRequest("a", "nowhere"), "url"),
        (lambda: PluginHttpRequest("a", URL, ""), "method"),
        (lambda: PluginFileAccess("", "/a", "read"), "plugin"),
        (lambda: PluginFileAccess("a", "", "read"), "path"),
        (lambda: PluginFileAccess("a", "/a", "list"), "mode"),  # type: ignore[arg-type]
    ],
)
def test_a_bad_field_is_refused_by_name(make: object, field: str) -> None:
    assert callable(make)
    with pytest.raises(InvalidValue, match=f"^{field}"):
        make()


def test_a_stored_action_is_checked_like_a_new_one() -> None:
    with pytest.raises(InvalidValue, match=r"^path: "):
        msgspec.json.decode(b'{"type":"file_read","path":""}', type=Action)


def test_an_amount_may_be_any_kind_of_usd() -> None:
    action = FinancialTransaction(Decimal("1.50"), "shop")  # type: ignore[arg-type]
    assert action.amount_usd == "1.5"


@pytest.mark.parametrize("text", ["a\nb", "a\x1b[2Kb", "a\u202eb", "a\u00a0b"])
def test_a_description_is_one_line_that_hides_nothing(text: str) -> None:
    line = FileDelete(text).describe()
    assert line.isprintable()
    assert line.startswith("delete a\\")


def test_no_two_tools_share_a_resource() -> None:
    uris = {
        McpToolCall("a:b", "c").wanted()[0],
        McpToolCall("a", "b:c").wanted()[0],
        McpToolCall("a%3Ab", "c").wanted()[0],
    }
    assert len(uris) == 3


def test_a_host_without_a_port_is_a_resource_without_one() -> None:
    assert NetworkRequest("::1").wanted() == ("net://[::1]", "invoke")


def test_risks_are_ranked_from_low_to_critical() -> None:
    assert sorted(Risk, key=lambda risk: risk.rank) == ["low", "medium", "high", "critical"]
