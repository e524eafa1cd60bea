"""The session document: strict in what it reads, exact in what it writes back."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retinue.actors.domain.documents.budget_snapshot import BudgetSnapshot
from retinue.actors.domain.documents.document import (
    DocumentEscapes,
    DocumentMetadata,
    GitState,
    SessionDocument,
    SkippedMessage,
    parse,
    render,
    to_json,
    usable_escapes,
)
from retinue.actors.domain.errors import InvalidValue
from retinue.actors.domain.session.messages import (
    ROLES,
    ImagePart,
    Message,
    Multipart,
    TextPart,
    ToolCall,
    ToolCalls,
    ToolResult,
    estimated_tokens,
)
from retinue.actors.domain.values.money import MAX_NANO
from tests.kit.json_values import JSON, nested

GOLDEN = Path(__file__).parents[2] / "golden" / "session_document_seed.json"

# As the seed's own test has it: a document from before the optional fields were there.
OLD = """{
    "id": "00000000-0000-0000-0000-000000000001",
    "user_id": "0101010101010101",
    "messages": [],
    "system_prompt": "Test",
    "created_at": "2024-01-01T00:00:00Z",
    "token_count": 0,
    "metadata": {
        "title": null,
        "tags": [],
        "turn_count": 0,
        "tool_call_count": 0,
        "approval_count": 0,
        "custom": {}
    }
}"""

FIELDS = [
    *("id", "user_id", "messages", "system_prompt", "created_at", "token_count", "metadata"),
    *("allowances", "budget_snapshot", "escape_state", "workspace_path", "model", "git_state"),
]
REQUIRED = FIELDS[:7]

EXTRA = st.dictionaries(
    st.text(min_size=1, max_size=5).map(lambda key: "x-" + key), JSON, max_size=2
)
TEXT = st.text(max_size=20)
CONTENT = st.one_of(
    TEXT,
    st.builds(
        ToolCalls, st.lists(st.builds(ToolCall, TEXT, TEXT, JSON, EXTRA), min_size=0, max_size=2)
    ),
    st.builds(ToolResult, TEXT, TEXT, st.booleans(), EXTRA),
    st.builds(
        Multipart,
        st.lists(
            st.builds(TextPart, TEXT, EXTRA)
            | st.builds(ImagePart, st.just("image/png"), st.just("YWJj"), EXTRA),
            max_size=2,
        ),
    ),
)
COUNTS = st.integers(0, 2**63 - 1)
AMOUNTS = st.integers(0, MAX_NANO)
DOCUMENTS = st.builds(
    SessionDocument,
    id=st.uuids().map(str),
    user_id=st.binary(min_size=8, max_size=8).map(bytes.hex),
    messages=st.lists(st.builds(Message, st.sampled_from(ROLES), CONTENT, EXTRA), max_size=3),
    system_prompt=TEXT,
    created_at=st.integers(-(10**15), 10**17),
    token_count=COUNTS,
    metadata=st.builds(
        DocumentMetadata,
        title=st.none() | TEXT,
        tags=st.lists(TEXT, max_size=2),
        turn_count=COUNTS,
        tool_call_count=COUNTS,
        approval_count=COUNTS,
        custom=st.dictionaries(TEXT, TEXT, max_size=2),
        extra=EXTRA,
    ),
    allowances=st.lists(st.dictionaries(TEXT, JSON, max_size=2), max_size=2),
    budget_snapshot=st.none()
    | st.builds(
        BudgetSnapshot,
        session_spent=AMOUNTS,
        session_max=st.none() | AMOUNTS,
        per_action_max=st.none() | AMOUNTS,
        warn_at_percent=st.none() | st.integers(0, 100),
        extra=EXTRA,
    ),
    escape_state=st.none()
    | st.builds(
        DocumentEscapes, remembered_paths=st.lists(TEXT, max_size=3, unique=True), extra=EXTRA
    ),
    workspace_path=st.none() | TEXT,
    model=st.none() | TEXT,
    git_state=st.none()
    | st.builds(GitState, branch=st.none() | TEXT, commit=st.none() | TEXT, extra=EXTRA),
    extra=EXTRA,
)


def golden() -> dict[str, object]:
    data = json.loads(GOLDEN.read_text())
    assert isinstance(data, dict)
    return data


def old(**changes: object) -> dict[str, object]:
    return {**json.loads(OLD), **changes}


def refused(data: str | bytes | dict[str, object]) -> str:
    with pytest.raises(InvalidValue) as caught:
        parse(data)
    field = str(caught.value.details["field"])
    assert caught.value.message.startswith(f"{field}: ")
    return field


# What the seed's own tests hold


def test_prompt_and_messages_come_back() -> None:
    messages = [Message.user("Hello"), Message.assistant("World")]
    tokens = sum(map(estimated_tokens, messages))
    document = SessionDocument(
        id="0195f3a2-7c10-7b3e-9a44-3f1d2c5b6a79",
        user_id="01" * 8,
        messages=messages,
        system_prompt="Test prompt",
        created_at=1_704_067_200_000_000,
        token_count=tokens,
        metadata=DocumentMetadata(),
    )
    restored, skipped = parse(render(document))
    assert (restored, skipped) == (document, [])
    assert restored.system_prompt == "Test prompt"
    assert [message.text for message in restored.messages] == ["Hello", "World"]


def test_a_document_from_before_the_optional_fields_is_read() -> None:
    document, skipped = parse(OLD)
    assert skipped == []
    assert document == SessionDocument(
        id="00000000-0000-0000-0000-000000000001",
        user_id="0101010101010101",
        messages=[],
        system_prompt="Test",
        created_at=1_704_067_200_000_000,
        token_count=0,
        metadata=DocumentMetadata(),
    )
    assert document.workspace_path is None
    assert document.budget_snapshot is None
    assert document.allowances == []


def test_the_spend_comes_back() -> None:
    document, _ = parse(old(budget_snapshot={"session_spent_usd": 42.5}))
    restored, _ = parse(render(document))
    assert restored.budget_snapshot == BudgetSnapshot(session_spent=42_500_000_000)


def test_the_workspace_path_comes_back() -> None:
    document, _ = parse(old(workspace_path="/data/project"))
    restored, _ = parse(render(document))
    assert restored.workspace_path == "/data/project"


# Reading and writing


def test_a_full_document_is_written_back_as_it_was() -> None:
    document, skipped = parse(GOLDEN.read_bytes())
    assert skipped == []
    assert json.loads(render(document)) == golden()
    assert json.loads(render(document, indent=None)) == golden()


def test_a_full_document_says_what_it_says() -> None:
    document, _ = parse(GOLDEN.read_text())
    assert document.created_at == 1_709_622_489_123_456
    assert [message.role for message in document.messages] == [
        *("system", "user", "assistant", "tool", "tool", "user", "assistant")
    ]
    assert document.messages[4].content == ToolResult("call_02", "no map of that field", True)
    assert document.messages[5].extra == {"received_at": "2024-03-05T07:09:12.250Z"}
    assert document.token_count == sum(map(estimated_tokens, document.messages))
    assert document.metadata.custom == {"season": "spring", "reviewer": "Ada"}
    assert document.metadata.extra == {"colour": "green"}
    assert document.budget_snapshot is not None
    assert document.budget_snapshot.session_spent == 42_500_000_001
    assert document.escape_state is not None
    assert document.escape_state.remembered_paths == ["/data/ada/maps", "/srv/shared/../seeds"]
    assert document.git_state == GitState(branch="main", commit="0123456789abcdef" * 2 + "01234567")
    assert document.extra == {"runtime_version": {"name": "other", "build": 12, "ratio": 0.75}}


@settings(max_examples=40, deadline=None)
@given(DOCUMENTS)
def test_every_document_comes_back(document: SessionDocument) -> None:
    for text in (render(document), render(document, indent=None), render(document).encode()):
        assert parse(text) == (document, [])
    assert parse(to_json(document)) == (document, [])
    packed = msgspec.msgpack.encode(document)
    assert msgspec.msgpack.decode(packed, type=SessionDocument) == document


def test_the_fields_stand_in_the_seeds_order_and_unknown_ones_after_them() -> None:
    document, _ = parse({"zebra": 1, "aardvark": 2, **old()})
    written = json.loads(render(document))
    assert list(written) == [*FIELDS, "zebra", "aardvark"]
    assert list(written["metadata"]) == list(json.loads(OLD)["metadata"])


def test_absent_options_are_written_as_the_seed_writes_them() -> None:
    document, _ = parse(OLD)
    written = json.loads(render(document))
    assert {name: written[name] for name in FIELDS[7:]} == {
        "allowances": [],
        "budget_snapshot": None,
        "escape_state": None,
        "workspace_path": None,
        "model": None,
        "git_state": None,
    }


@settings(max_examples=30, deadline=None)
@given(EXTRA)
def test_unknown_fields_are_kept_at_every_level(extra: dict[str, object]) -> None:
    data = golden()
    for part in ("metadata", "budget_snapshot", "escape_state", "git_state"):
        level = data[part]
        assert isinstance(level, dict)
        level.update(extra)
    data.update(extra)
    document, _ = parse(json.dumps(data))
    assert json.loads(render(document)) == data


def test_metadata_takes_defaults_field_by_field() -> None:
    document, _ = parse(old(metadata={"turn_count": 3}))
    assert document.metadata == DocumentMetadata(turn_count=3)


def test_an_id_in_another_spelling_becomes_the_usual_one() -> None:
    document, _ = parse(old(id="0195F3A27C107B3E9A443F1D2C5B6A79"))
    assert document.id == "0195f3a2-7c10-7b3e-9a44-3f1d2c5b6a79"


def test_the_input_is_not_changed() -> None:
    data = golden()
    before = copy.deepcopy(data)
    parse(data)
    assert data == before


def test_a_document_made_with_what_json_cannot_carry_is_not_written() -> None:
    document, _ = parse(OLD)
    for changes in ({"x": float("nan")}, {"x": "\ud800"}):
        broken = msgspec.structs.replace(document, extra=changes)
        with pytest.raises(InvalidValue, match=r"^document: "):
            render(broken)


# Refusals


@pytest.mark.parametrize("name", REQUIRED)
def test_a_required_field_must_be_there(name: str) -> None:
    data = old()
    del data[name]
    assert refused(data) == name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("id", ""),
        ("id", "session-1"),
        ("id", "00000000-0000-0000-0000-00000000000"),
        ("id", None),
        ("id", 7),
        ("id", ["00000000-0000-0000-0000-000000000001"]),
        ("id", "0" * 100_000),
        ("user_id", ""),
        ("user_id", "01010101010101"),
        ("user_id", "010101010101010101"),
        ("user_id", "ABCDEF0123456789"),
        ("user_id", "0x01010101010101"),
        ("user_id", "010101010101010g"),
        ("user_id", "0101010101010101\n"),
        ("user_id", None),
        ("user_id", 101010101010101),
        ("messages", None),
        ("messages", {}),
        ("messages", "none"),
        ("system_prompt", None),
        ("system_prompt", 5),
        ("system_prompt", "\ud800"),
        ("created_at", "2024-01-01T00:00:00"),
        ("created_at", "today"),
        ("created_at", 1704067200),
        ("created_at", None),
        ("token_count", -1),
        ("token_count", 1.0),
        ("token_count", True),
        ("token_count", "5"),
        ("token_count", None),
        ("token_count", 2**63),
        ("metadata", None),
        ("metadata", []),
        ("allowances", None),
        ("allowances", {}),
        ("budget_snapshot", []),
        ("budget_snapshot", 5),
        ("escape_state", []),
        ("escape_state", "x"),
        ("workspace_path", 5),
        ("workspace_path", ["x"]),
        ("model", {}),
        ("git_state", "main"),
        ("unknown", float("nan")),
        ("unknown", nested(200)),
        ("unknown", 2**64),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_wrong_field_is_refused_by_name(name: str, value: object) -> None:
    assert refused(old(**{name: value})) == name


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"metadata": {"title": 5}}, "metadata.title"),
        ({"metadata": {"tags": "a"}}, "metadata.tags"),
        ({"metadata": {"tags": ["a", None]}}, "metadata.tags[1]"),
        ({"metadata": {"turn_count": -1}}, "metadata.turn_count"),
        ({"metadata": {"tool_call_count": None}}, "metadata.tool_call_count"),
        ({"metadata": {"approval_count": 0.5}}, "metadata.approval_count"),
        ({"metadata": {"custom": []}}, "metadata.custom"),
        ({"metadata": {"custom": {"a": 1}}}, "metadata.custom (a value)"),
        ({"metadata": {"x": [float("inf")]}}, "metadata.x"),
        ({"allowances": [{}, "x"]}, "allowances[1]"),
        ({"allowances": [{}, {}, {"n": 2**70}]}, "allowances[2].n"),
        ({"budget_snapshot": {}}, "budget_snapshot.session_spent_usd"),
        ({"budget_snapshot": {"spent": -1}}, "budget_snapshot.spent"),
        ({"budget_snapshot": {"spent": float("nan")}}, "budget_snapshot.spent"),
        ({"escape_state": {"remembered_paths": "/a"}}, "escape_state.remembered_paths"),
        ({"escape_state": {"remembered_paths": ["/a", 5]}}, "escape_state.remembered_paths[1]"),
        ({"escape_state": {"allowed_paths": [{}]}}, "escape_state.allowed_paths[0]"),
        ({"git_state": {"branch": 5}}, "git_state.branch"),
        ({"git_state": {"commit": []}}, "git_state.commit"),
    ],
)
def test_a_wrong_inner_field_is_refused_by_its_path(changes: dict[str, object], field: str) -> None:
    assert refused(old(**changes)) == field


@pytest.mark.parametrize(
    "spend", ["-0.01", "NaN", "Infinity", "-Infinity", "1e999", "9000001", '"nan"', '"-1"']
)
def test_a_spend_that_cannot_be_true_is_never_read_as_some_other_spend(spend: str) -> None:
    text = json.dumps(old(budget_snapshot={"session_spent_usd": "SPEND"}))
    field = refused(text.replace('"SPEND"', spend))
    constants = ("NaN", "Infinity", "-Infinity")
    assert field == ("document" if spend in constants else "budget_snapshot.session_spent_usd")


@pytest.mark.parametrize(
    "data",
    ["", "{", "null", "[]", '"text"', "5", b"\xff", OLD.encode("utf-16"), OLD + "x", "[" * 9999],
    ids=lambda data: repr(data[:10]),
)
def test_what_is_no_json_object_is_refused(data: str | bytes) -> None:
    assert refused(data) == "document"


# Messages, one by one

BAD_MESSAGES: list[tuple[object, str]] = [
    ({"role": "robot", "content": "x"}, "messages[1].role"),
    ({"role": "user", "content": None}, "messages[1].content"),
    ({"role": "user", "content": {"Text": 5}}, "messages[1].content.Text"),
    ("just text", "messages[1]"),
    ({"content": "x"}, "messages[1].role"),
]


@pytest.mark.parametrize(("message", "field"), BAD_MESSAGES)
def test_a_wrong_message_is_refused_by_its_index(message: object, field: str) -> None:
    good = {"role": "user", "content": {"Text": "x"}}
    assert refused(old(messages=[good, message, good])) == field


def test_wrong_messages_are_left_out_on_request_and_each_is_reported() -> None:
    good = {"role": "user", "content": "good"}
    bad = [message for message, _ in BAD_MESSAGES]
    document, skipped = parse(old(messages=[*bad, good, *bad, good]), skip_bad_messages=True)
    assert [message.text for message in document.messages] == ["good", "good"]
    assert [one.index for one in skipped] == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10]
    assert skipped[0] == SkippedMessage(
        0, "messages[0].role: 'robot' is not one of system, user, assistant, tool"
    )


@pytest.mark.parametrize("changes", [{"messages": "none"}, {"id": "x"}, {"token_count": -1}])
def test_only_messages_can_be_left_out(changes: dict[str, object]) -> None:
    with pytest.raises(InvalidValue):
        parse(old(**changes), skip_bad_messages=True)


# Escapes


def test_remembered_paths_are_kept_as_written_under_either_name() -> None:
    document, _ = parse(
        old(
            escape_state={"allowed_paths": ["/c", "rel", "/a"], "remembered_paths": ["/a", "/b/.."]}
        )
    )
    assert document.escape_state == DocumentEscapes(remembered_paths=["/a", "/b/..", "/c", "rel"])
    assert parse(render(document)) == (document, [])


def test_only_absolute_and_existing_paths_count_after_resolving_links() -> None:
    real = {"/data": "/data", "/link": "/data", "/other/..": "/", "rel": "/data/rel", "/odd": "odd"}
    paths = ["/data", "rel", "", "/gone", "/link", "/other/..", "~/x", "/data\0", "/odd"]
    assert usable_escapes(paths, real.get) == ["/data", "/"]


def test_a_path_with_a_null_byte_is_not_asked_for() -> None:
    asked: list[str] = []

    def resolve(path: str) -> str | None:
        asked.append(path)
        return path

    assert usable_escapes(["/a\0b", "/a"], resolve) == ["/a"]
    assert asked == ["/a"]


# Anything at all


def places(value: object) -> list[tuple[object, ...]]:
    """The path of every value inside a JSON value, its own first."""
    inner: list[tuple[object, object]] = []
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    return [(), *((key, *rest) for key, item in inner for rest in places(item))]


def with_value(data: object, place: tuple[object, ...], value: object) -> object:
    if not place:
        return value
    first, *rest = place
    if isinstance(data, dict):
        return {**data, first: with_value(data[first], tuple(rest), value)}
    assert isinstance(data, list)
    return [
        with_value(item, tuple(rest), value) if index == first else item
        for index, item in enumerate(data)
    ]


def only_refuses(read: Callable[[], tuple[SessionDocument, list[SkippedMessage]]]) -> None:
    try:
        document, _ = read()
    except InvalidValue as refusal:
        problem = refusal
    else:
        assert parse(render(document)) == (document, [])
        return
    assert problem.message.startswith(f"{problem.details['field']}: ")
    assert problem.message.encode()
    assert len(problem.message) < 500


ODD = (
    JSON
    | st.floats()
    | st.integers(-(10**40), 10**40)
    | st.sampled_from([nested(500), "\ud800", {"\ud800": 1}, 10**5000, b"x", {5: 5}, (1,), set()])
)


@settings(deadline=None)
@given(st.sampled_from(places(golden())), ODD, st.booleans())
def test_any_value_anywhere_is_read_or_refused(
    place: tuple[object, ...], value: object, skip: bool
) -> None:
    data = with_value(golden(), place, value)
    only_refuses(lambda: parse(data, skip_bad_messages=skip))  # type: ignore[arg-type]


@given(JSON)
def test_any_json_is_read_or_refused(value: object) -> None:
    only_refuses(lambda: parse(json.dumps(value)))


@given(st.text() | st.binary())
def test_any_input_is_read_or_refused(data: str | bytes) -> None:
    only_refuses(lambda: parse(data))
