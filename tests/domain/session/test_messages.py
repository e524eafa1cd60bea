"""Messages: how they are made, what is refused, what they count."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from typing import cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinue.actors.domain.errors import InvalidValue
from retinue.actors.domain.session.messages import (
    Content,
    ImagePart,
    Message,
    Multipart,
    Part,
    Role,
    TextPart,
    ToolCall,
    ToolCalls,
    ToolResult,
    check_message,
    estimated_tokens,
)
from retinue.actors.domain.values.json_value import JsonValue

PIXEL = "iVBORw0KGgoAAAANSUhEUg=="

EVERY_KIND = [
    Message.system("Be brief."),
    Message.user("Grüße 👋"),
    Message.assistant(""),
    Message.tool_calls([ToolCall("c1", "files:read", {"path": "a.txt", "lines": [1, 2.5, None]})]),
    Message.tool_calls([]),
    Message.tool_result("c1", "gone", is_error=True),
    Message.multipart("user", [TextPart("look"), ImagePart("image/png", PIXEL)]),
]


def content_of(message: Message) -> object:
    return message.content


@pytest.mark.parametrize("message", EVERY_KIND)
def test_every_kind_of_message_survives_msgpack_and_pickle(message: Message) -> None:
    packed = msgspec.msgpack.encode(message)
    assert msgspec.msgpack.decode(packed, type=Message) == message
    assert pickle.loads(pickle.dumps(message)) == message
    assert check_message(message) == message


@given(st.text())
def test_any_text_is_kept_as_it_is(text: str) -> None:
    message = Message.user(text)
    assert message.text == text
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=Message) == message
    assert estimated_tokens(message) == len(text.encode()) // 4


@pytest.mark.parametrize(
    ("message", "role"),
    [
        (Message.system(""), "system"),
        (Message.user(""), "user"),
        (Message.assistant(""), "assistant"),
        (Message.tool_calls([]), "assistant"),
        (Message.tool_result("c", ""), "tool"),
        (Message.multipart("tool", []), "tool"),
    ],
)
def test_each_constructor_sets_the_role(message: Message, role: str) -> None:
    assert message.role == role


@pytest.mark.parametrize(
    ("message", "tokens"),
    [
        (Message.user(""), 0),
        (Message.user("abc"), 0),
        (Message.user("abcd"), 1),
        (Message.user("Hello, wor"), 2),
        (Message.user("ää"), 1),
        (Message.user("🍎"), 1),
        (Message.tool_calls([]), 100),
        (Message.tool_calls([ToolCall(str(i), "t", {}) for i in range(9)]), 100),
        (Message.tool_result("c", "x" * 4000), 100),
        (Message.multipart("user", [TextPart("x" * 4000)]), 100),
    ],
)
def test_text_counts_its_bytes_by_four_and_anything_else_a_hundred(
    message: Message, tokens: int
) -> None:
    assert estimated_tokens(message) == tokens


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (Message.tool_calls([ToolCall("c", "t", "not spoken")]), ""),
        (Message.tool_result("c", "the answer"), "the answer"),
        (
            Message.multipart(
                "user", [TextPart("a"), ImagePart("image/gif", PIXEL), TextPart("b")]
            ),
            "a\nb",
        ),
        (Message.multipart("user", [ImagePart("image/gif", PIXEL)]), ""),
    ],
)
def test_the_plain_text_of_what_is_not_plain_text(message: Message, text: str) -> None:
    assert message.text == text


def test_a_message_keeps_its_own_copy_of_the_arguments() -> None:
    arguments = {"path": ["a"]}
    message = Message.tool_calls([ToolCall("c", "t", arguments)])
    arguments["path"].append("b")
    assert message.content == ToolCalls([ToolCall("c", "t", {"path": ["a"]})])


def test_arguments_that_are_text_stay_that_text() -> None:
    message = Message.tool_calls([ToolCall("c", "t", '{"a": 1}')])
    assert message.content == ToolCalls([ToolCall("c", "t", '{"a": 1}')])


def test_a_message_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Message.user("a").content = "b"  # type: ignore[misc]


def not_text(value: object) -> str:
    return cast(str, value)


BAD: list[tuple[str, Callable[[], Message]]] = [
    ("content", lambda: Message.user(not_text(5))),
    ("content", lambda: Message.system(not_text(None))),
    ("content", lambda: Message.assistant(not_text(b"bytes"))),
    ("content", lambda: Message.user("half \ud83d of a pair")),
    ("content", lambda: Message.tool_calls(cast("list[ToolCall]", 5))),
    ("content", lambda: Message.tool_calls(cast("list[ToolCall]", "text"))),
    ("content[1]", lambda: Message.tool_calls([ToolCall("c", "t", 1), cast(ToolCall, {"id": 1})])),
    ("content[0].id", lambda: Message.tool_calls([ToolCall(not_text(1), "t", {})])),
    ("content[0].name", lambda: Message.tool_calls([ToolCall("c", not_text(None), {})])),
    ("content[0].arguments", lambda: Message.tool_calls([ToolCall("c", "t", math.nan)])),
    ("content[0].arguments", lambda: Message.tool_calls([ToolCall("c", "t", {"n": [10**30]})])),
    ("content[0].arguments", lambda: Message.tool_calls([ToolCall("c", "t", not_text({1, 2}))])),
    ("content[0].arguments", lambda: Message.tool_calls([ToolCall("c", "t", {"a": "\ud800"})])),
    ("content.call_id", lambda: Message.tool_result(not_text(7), "x")),
    ("content.content", lambda: Message.tool_result("c", not_text({"a": 1}))),
    ("content.content", lambda: Message.tool_result("c", "\udc00")),
    ("content.is_error", lambda: Message.tool_result("c", "x", cast(bool, "yes"))),
    ("role", lambda: Message.multipart(cast(Role, "robot"), [])),
    ("role", lambda: Message.multipart(cast(Role, ["user"]), [])),
    ("content[0]", lambda: Message.multipart("user", [cast(TextPart, "bare text")])),
    ("content[0].text", lambda: Message.multipart("user", [TextPart(not_text(3))])),
]


@pytest.mark.parametrize(("field", "make"), BAD)
def test_what_cannot_be_stored_is_refused_with_the_field_named(
    field: str, make: Callable[[], Message]
) -> None:
    with pytest.raises(InvalidValue) as caught:
        make()
    assert caught.value.details == {"field": field}
    assert caught.value.message.startswith(f"{field}: ")


@pytest.mark.parametrize(
    "media_type",
    ["", "image/", "image", "text/plain", "xximage/png", "image/png; a=b", "image/p\n"],
)
def test_an_image_must_have_an_image_type(media_type: str) -> None:
    with pytest.raises(InvalidValue, match=r"^content\[1\]\.media_type: "):
        Message.multipart("user", [TextPart("a"), ImagePart(media_type, PIXEL)])


@pytest.mark.parametrize(
    "data", ["", "=", "====", "YQ", "YQ=", "Y Q=", "YQ==\n", "YQ-_", "ä" * 4, "YWJj=", "Y=Q="]
)
def test_an_image_must_have_base64_data(data: str) -> None:
    with pytest.raises(InvalidValue, match=r"^content\[0\]\.data: "):
        Message.multipart("user", [ImagePart("image/jpeg", data)])


@pytest.mark.parametrize("media_type", ["image/png", "image/svg+xml", "image/vnd.ms-photo"])
@pytest.mark.parametrize("data", ["YQ==", "YWI=", "YWJj", "+/+/"])
def test_good_images_are_taken(media_type: str, data: str) -> None:
    part = ImagePart(media_type, data)
    assert Message.multipart("user", [part]).content == Multipart([part])


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("message", "text"),
        ("message", None),
        ("message.role", Message(cast(Role, "robot"), "x")),
        ("message.content", Message("user", cast(str, None))),
        ("message.content", Message("user", "\ud800")),
        ("message.content[0]", Message("user", Multipart(cast("list[Part]", [None])))),
        ("message.content", Message("user", ToolCalls(cast("list[ToolCall]", None)))),
        ("message.content", Message("user", Multipart(cast("list[Part]", 5)))),
        ("message.content.call_id", Message("tool", ToolResult(not_text(1), ""))),
        ("message.extra", Message("user", "x", {"n": math.inf})),
        ("message.extra", Message("user", "x", cast("dict[str, JsonValue]", []))),
    ],
)
def test_a_message_made_around_the_constructors_is_caught(field: str, message: object) -> None:
    with pytest.raises(InvalidValue) as caught:
        check_message(message)
    assert caught.value.details == {"field": field}


def test_stored_messages_have_a_form_that_must_not_change() -> None:
    stored: list[tuple[Content, object]] = [
        ("hi", "hi"),
        (ToolCalls([ToolCall("c", "t", [1])]), ["ToolCalls", [["c", "t", [1], {}]]]),
        (ToolResult("c", "x"), ["ToolResult", "c", "x", False, {}]),
        (
            Multipart([TextPart("a"), ImagePart("image/png", "YQ==")]),
            ["Multipart", [["TextPart", "a", {}], ["ImagePart", "image/png", "YQ==", {}]]],
        ),
    ]
    for content, form in stored:
        packed = msgspec.msgpack.encode(Message("user", content))
        assert msgspec.msgpack.decode(packed) == ["user", form, {}]
