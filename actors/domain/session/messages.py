"""A message of a session: its author (`role`) and its `content`.

Content is plain text (a bare `str`, since most messages are), `ToolCalls`, a `ToolResult`, or
`Multipart`. The constructors and `check_message` refuse a message that could not be stored, sent on
and read back the same; decoding a stored message trusts it. Unknown fields of a document's message
are kept in `extra`.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from typing import Final, Literal, TypeAlias, TypeVar, cast, get_args

from msgspec import field

from retinue.actors.domain.errors import InvalidValue
from retinue.actors.domain.values.json_value import (
    JsonValue,
    check_json,
    check_text,
    kind_of,
    shown,
)
from retinue.actors.domain.values.record import Record

Role: TypeAlias = Literal["system", "user", "assistant", "tool"]

ROLES: Final[tuple[str, ...]] = get_args(Role)
NOT_TEXT_TOKENS: Final = 100

_Item = TypeVar("_Item")
_IMAGE_TYPE = re.compile(r"image/[A-Za-z0-9][A-Za-z0-9.+-]{0,126}")


class ToolCall(Record, frozen=True):
    """An assistant's request to call a tool. ``arguments`` is a JSON value, not JSON text."""

    id: str
    name: str
    arguments: JsonValue
    extra: dict[str, JsonValue] = field(default_factory=dict)


class ToolCalls(Record, frozen=True, tag=True):
    """Content: the tool calls of one message, in order."""

    calls: list[ToolCall]


class ToolResult(Record, frozen=True, tag=True):
    """Content: the answer to the tool call ``call_id``."""

    call_id: str
    content: str
    is_error: bool = False
    extra: dict[str, JsonValue] = field(default_factory=dict)


class TextPart(Record, frozen=True, tag=True):
    """A piece of text inside `Multipart`."""

    text: str
    extra: dict[str, JsonValue] = field(default_factory=dict)


class ImagePart(Record, frozen=True, tag=True):
    """An image inside `Multipart`: its media type (``image/...``) and its bytes in base64."""

    media_type: str
    data: str
    extra: dict[str, JsonValue] = field(default_factory=dict)


Part: TypeAlias = TextPart | ImagePart


class Multipart(Record, frozen=True, tag=True):
    """Content: text and images, in order."""

    parts: list[Part]


Content: TypeAlias = str | ToolCalls | ToolResult | Multipart


class Message(Record, frozen=True):
    """One message. Make it with the constructors: they raise InvalidValue naming the field."""

    role: Role
    content: Content
    extra: dict[str, JsonValue] = field(default_factory=dict)

    @classmethod
    def system(cls, text: str) -> Message:
        """Returns a system message of ``text``; InvalidValue if that can't be stored."""
        return cls("system", check_text(text, "content"))

    @classmethod
    def user(cls, text: str) -> Message:
        """Returns a user's message of ``text``; InvalidValue if that can't be stored."""
        return cls("user", check_text(text, "content"))

    @classmethod
    def assistant(cls, text: str) -> Message:
        """Returns an assistant's message of ``text``; InvalidValue if that can't be stored."""
        return cls("assistant", check_text(text, "content"))

    @classmethod
    def tool_calls(cls, calls: Iterable[ToolCall]) -> Message:
        """An assistant's message that calls tools."""
        return cls("assistant", check_content(ToolCalls(_listed(calls, "content")), "content"))

    @classmethod
    def tool_result(cls, call_id: str, content: str, is_error: bool = False) -> Message:
        """Returns a tool's result.

        Args:
            call_id: The id of the call that it answers.
            content: What came of it.
            is_error: Whether the call failed (default: it did not).

        Raises InvalidValue for text that can't be stored.
        """
        return cls("tool", check_content(ToolResult(call_id, content, is_error), "content"))

    @classmethod
    def multipart(cls, role: Role, parts: Iterable[Part]) -> Message:
        """Returns a message of text and images.

        Args:
            role: Whose it is.
            parts: What it is made of, in order.

        Raises InvalidValue, naming the part, for what can't be stored.
        """
        content = check_content(Multipart(_listed(parts, "content")), "content")
        return cls(check_role(role, "role"), content)

    @property
    def text(self) -> str:
        """The plain text: a tool result's content, or the text parts, one per line."""
        match self.content:
            case str(text) | ToolResult(content=text):
                return text
            case Multipart(parts=parts):
                return "\n".join(part.text for part in parts if isinstance(part, TextPart))
        return ""


def estimated_tokens(message: Message) -> int:
    """A rough number of tokens, for context warnings and never for billing.

    Text counts a token per four UTF-8 bytes, rounded down; everything else counts 100.
    """
    if not isinstance(message.content, str):
        return NOT_TEXT_TOKENS
    text = message.content
    return (len(text) if text.isascii() else len(text.encode())) // 4


def check_message(message: object, field: str = "message") -> Message:
    """Returns the message, known to be storable, however it was made.

    Raises InvalidValue, naming the field under ``field``, otherwise.
    """
    if not isinstance(message, Message):
        raise InvalidValue(f"{field}: must be a Message, not {kind_of(message)}", field=field)
    return Message(
        check_role(message.role, f"{field}.role"),
        check_content(message.content, f"{field}.content"),
        _extra(message.extra, f"{field}.extra"),
    )


def check_role(value: object, field: str) -> Role:
    """One of the four roles; InvalidValue names ``field`` otherwise."""
    role = check_text(value, field)
    if role in ROLES:
        return cast(Role, role)
    raise InvalidValue(f"{field}: {shown(role)} is not one of {', '.join(ROLES)}", field=field)


def check_content(content: object, field: str) -> Content:
    """Returns the content, known to be storable; InvalidValue names the field under ``field``."""
    match content:
        case str():
            return check_text(content, field)
        case ToolCalls(calls=calls):
            return ToolCalls(
                [_call(call, f"{field}[{i}]") for i, call in enumerate(_listed(calls, field))]
            )
        case ToolResult():
            return _result(content, field)
        case Multipart(parts=parts):
            return Multipart(
                [_part(part, f"{field}[{i}]") for i, part in enumerate(_listed(parts, field))]
            )
    raise InvalidValue(
        f"{field}: {kind_of(content)} is not content; give text, tool calls, a tool result or "
        "multipart",
        field=field,
    )


def _call(call: object, field: str) -> ToolCall:
    if not isinstance(call, ToolCall):
        raise InvalidValue(f"{field}: must be a ToolCall, not {kind_of(call)}", field=field)
    return ToolCall(
        check_text(call.id, f"{field}.id"),
        check_text(call.name, f"{field}.name"),
        check_json(call.arguments, f"{field}.arguments"),
        _extra(call.extra, f"{field}.extra"),
    )


def _result(result: ToolResult, field: str) -> ToolResult:
    if not isinstance(result.is_error, bool):
        raise InvalidValue(f"{field}.is_error: must be true or false", field=f"{field}.is_error")
    return ToolResult(
        check_text(result.call_id, f"{field}.call_id"),
        check_text(result.content, f"{field}.content"),
        result.is_error,
        _extra(result.extra, f"{field}.extra"),
    )


def _part(part: object, field: str) -> Part:
    match part:
        case TextPart(text=text, extra=extra):
            return TextPart(check_text(text, f"{field}.text"), _extra(extra, f"{field}.extra"))
        case ImagePart(media_type=media_type, data=data, extra=extra):
            return ImagePart(
                _media_type(media_type, f"{field}.media_type"),
                _base64(data, f"{field}.data"),
                _extra(extra, f"{field}.extra"),
            )
    raise InvalidValue(
        f"{field}: must be a TextPart or an ImagePart, not {kind_of(part)}", field=field
    )


def _media_type(value: object, field: str) -> str:
    text = check_text(value, field)
    if _IMAGE_TYPE.fullmatch(text):
        return text
    raise InvalidValue(
        f"{field}: {shown(text)} is not an image type such as image/png", field=field
    )


def _base64(value: object, field: str) -> str:
    text = check_text(value, field)
    try:
        if len(text) % 4 == 0 and base64.b64decode(text, validate=True):
            return text
    except ValueError:
        pass
    raise InvalidValue(f"{field}: not base64 of at least one byte", field=field)


def _extra(value: object, field: str) -> dict[str, JsonValue]:
    if not isinstance(value, Mapping):
        raise InvalidValue(f"{field}: must be a dict, not {kind_of(value)}", field=field)
    return {
        check_text(key, f"{field} (a key)"): check_json(item, field) for key, item in value.items()
    }


def _listed(items: Iterable[_Item], field: str) -> list[_Item]:
    if isinstance(items, Iterable) and not isinstance(items, str | bytes):
        return list(items)
    raise InvalidValue(f"{field}: must be a list, not {kind_of(items)}", field=field)
