"""Messages in the session document: the form we write, and the forms we read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinue.actors.domain.documents.message_json import (
    content_from_json,
    content_to_json,
    message_from_json,
    message_to_json,
)
from retinue.actors.domain.errors import InvalidValue
from retinue.actors.domain.session.messages import (
    ROLES,
    Content,
    ImagePart,
    Message,
    Multipart,
    TextPart,
    ToolCall,
    ToolCalls,
    ToolResult,
)
from retinue.actors.domain.values.json_value import JsonValue
from tests.kit.json_values import JSON

CALL: dict[str, JsonValue] = {"id": "c1", "name": "t", "arguments": {"a": [1, None]}}

WRITTEN: list[tuple[Content, JsonValue]] = [
    ("Hello", {"Text": "Hello"}),
    ("", {"Text": ""}),
    (ToolCalls([ToolCall("c1", "t", {"a": [1, None]})]), {"ToolCalls": [CALL]}),
    (ToolCalls([]), {"ToolCalls": []}),
    (
        ToolResult("c1", "x", True),
        {"ToolResult": {"call_id": "c1", "content": "x", "is_error": True}},
    ),
    (
        Multipart([TextPart("a"), ImagePart("image/png", "YQ==")]),
        {
            "MultiPart": [
                {"Text": {"text": "a"}},
                {"Image": {"media_type": "image/png", "data": "YQ=="}},
            ]
        },
    ),
]


@pytest.mark.parametrize(("content", "form"), WRITTEN)
def test_content_is_written_with_its_kind_as_the_one_key(content: Content, form: JsonValue) -> None:
    assert content_to_json(content) == form
    assert content_from_json(form, "content") == content


@pytest.mark.parametrize(
    ("form", "content"),
    [
        ("plain", "plain"),
        ({"text": "plain"}, "plain"),
        ({"Multipart": ["a", {"Text": "b"}]}, Multipart([TextPart("a"), TextPart("b")])),
        ({"multi_part": [{"text": {"text": "a"}}]}, Multipart([TextPart("a")])),
        ({"tool_calls": []}, ToolCalls([])),
        ({"toolcalls": [CALL]}, ToolCalls([ToolCall("c1", "t", {"a": [1, None]})])),
        ({"ToolResult": {"call_id": "c", "content": "x"}}, ToolResult("c", "x", False)),
    ],
)
def test_other_spellings_are_read_too(form: object, content: Content) -> None:
    assert content_from_json(form, "content") == content


@given(st.sampled_from(ROLES), JSON, JSON)
def test_unknown_fields_are_kept_wherever_they_stand(
    role: str, known: JsonValue, unknown: JsonValue
) -> None:
    more = {"later": unknown}
    for content in (
        {"ToolCalls": [{"id": "c", "name": "t", "arguments": known, **more}]},
        {"ToolResult": {"call_id": "c", "content": "x", "is_error": False, **more}},
        {"MultiPart": [{"Text": {"text": "a", **more}}]},
        {"MultiPart": [{"Image": {"media_type": "image/png", "data": "YQ==", **more}}]},
    ):
        form = {"role": role, "content": content, **more}
        assert message_to_json(message_from_json(form, "message")) == form


def test_a_kept_field_never_takes_the_place_of_a_known_one() -> None:
    message = Message("user", "the text", {"role": "system", "content": "another"})
    assert message_to_json(message) == {"role": "user", "content": {"Text": "the text"}}


@pytest.mark.parametrize(
    ("form", "field"),
    [
        ("text", "m"),
        (None, "m"),
        ({}, "m.role"),
        ({"role": "user"}, "m.content"),
        ({"role": "robot", "content": "x"}, "m.role"),
        ({"role": "User", "content": "x"}, "m.role"),
        ({"role": None, "content": "x"}, "m.role"),
        ({"role": "user", "content": None}, "m.content"),
        ({"role": "user", "content": 5}, "m.content"),
        ({"role": "user", "content": ["x"]}, "m.content"),
        ({"role": "user", "content": {}}, "m.content"),
        ({"role": "user", "content": {"Text": "a", "ToolCalls": []}}, "m.content"),
        ({"role": "user", "content": {"Video": "a"}}, "m.content"),
        ({"role": "user", "content": {5: "a"}}, "m.content (a key)"),
        ({"role": "user", "content": {"Text": 5}}, "m.content.Text"),
        ({"role": "user", "content": {"Text": "\ud800"}}, "m.content.Text"),
        ({"role": "user", "content": {"ToolCalls": {}}}, "m.content.ToolCalls"),
        ({"role": "user", "content": {"ToolCalls": [CALL, 1]}}, "m.content.ToolCalls[1]"),
        (
            {"role": "user", "content": {"ToolCalls": [{"id": "c", "name": "t"}]}},
            "m.content.ToolCalls[0].arguments",
        ),
        (
            {"role": "user", "content": {"ToolCalls": [{**CALL, "arguments": 10**40}]}},
            "m.content.ToolCalls[0].arguments",
        ),
        (
            {"role": "tool", "content": {"ToolResult": {"call_id": 1, "content": ""}}},
            "m.content.ToolResult.call_id",
        ),
        (
            {
                "role": "tool",
                "content": {"ToolResult": {"call_id": "c", "content": "", "is_error": 0}},
            },
            "m.content.ToolResult.is_error",
        ),
        ({"role": "user", "content": {"MultiPart": "a"}}, "m.content.MultiPart"),
        ({"role": "user", "content": {"MultiPart": [{"Sound": {}}]}}, "m.content.MultiPart[0]"),
        (
            {"role": "user", "content": {"MultiPart": [{"Text": {}}]}},
            "m.content.MultiPart[0].Text.text",
        ),
        (
            {
                "role": "user",
                "content": {"MultiPart": [{"Image": {"media_type": "image/png", "data": "?"}}]},
            },
            "m.content.MultiPart[0].data",
        ),
        ({"role": "user", "content": "x", "odd": float("nan")}, "m.odd"),
    ],
)
def test_a_wrong_message_is_refused_with_the_field_named(form: object, field: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        message_from_json(form, "m")
    assert caught.value.details == {"field": field}
    assert caught.value.message.startswith(f"{field}: ")
