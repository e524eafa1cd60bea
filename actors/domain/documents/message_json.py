"""Messages in the session document: ``{"role": ..., "content": ...}``.

Content is an object with one key, which names the variant:

    {"Text": "Hello"}
    {"ToolCalls": [{"id": ..., "name": ..., "arguments": <any JSON>}]}
    {"ToolResult": {"call_id": ..., "content": ..., "is_error": false}}
    {"MultiPart": [{"Text": {"text": ...}}, {"Image": {"media_type": ..., "data": <base64>}}]}

Writing uses this form. Reading also accepts a plain string as text, here and for a part; the name
of a variant in any case and with underscores (``Multipart``, ``tool_calls``); ``{"Text": "..."}``
as a part; and a missing ``is_error`` as false. Unknown fields of a message, a tool call, a tool
result and a part are kept and written back.
"""

from __future__ import annotations

from collections.abc import Mapping

from retinue.actors.domain.errors import InvalidValue
from retinue.actors.domain.session.messages import (
    Content,
    ImagePart,
    Message,
    Multipart,
    Part,
    TextPart,
    ToolCall,
    ToolCalls,
    ToolResult,
    check_content,
    check_role,
)
from retinue.actors.domain.values.json_object import JsonObject, check_list, with_extra
from retinue.actors.domain.values.json_value import (
    JsonValue,
    check_json,
    check_text,
    kind_of,
    shown,
)


def message_to_json(message: Message) -> dict[str, JsonValue]:
    """The message in the document's form."""
    known: dict[str, JsonValue] = {
        "role": message.role,
        "content": content_to_json(message.content),
    }
    return with_extra(known, message.extra)


def message_from_json(data: object, path: str) -> Message:
    """Reads the message at ``path``; raises InvalidValue naming the field under it."""
    fields = JsonObject(data, path)
    role = check_role(fields.take("role"), fields.path("role"))
    content = content_from_json(fields.take("content"), fields.path("content"))
    return Message(role, content, fields.rest())


def content_to_json(content: Content) -> dict[str, JsonValue]:
    """Content in the form described above."""
    match content:
        case ToolCalls(calls=calls):
            return {"ToolCalls": [_call_to_json(call) for call in calls]}
        case ToolResult(call_id=call_id, content=text, is_error=is_error):
            return {
                "ToolResult": with_extra(
                    {"call_id": call_id, "content": text, "is_error": is_error}, content.extra
                )
            }
        case Multipart(parts=parts):
            return {"MultiPart": [_part_to_json(part) for part in parts]}
        case str(text):
            return {"Text": text}


def content_from_json(value: object, path: str) -> Content:
    """Content in any form described above; InvalidValue names the field under ``path``."""
    if isinstance(value, str):
        return check_text(value, path)
    variant, body = _variant(value, path)
    match variant:
        case "text":
            return check_text(body, f"{path}.Text")
        case "toolcalls":
            path = f"{path}.ToolCalls"
            return ToolCalls(
                [_call(item, f"{path}[{i}]") for i, item in enumerate(check_list(body, path))]
            )
        case "toolresult":
            return _result(body, f"{path}.ToolResult")
        case "multipart":
            path = f"{path}.MultiPart"
            parts = [_part(item, f"{path}[{i}]") for i, item in enumerate(check_list(body, path))]
            return check_content(Multipart(parts), path)
    raise _unknown_variant(value, path, "Text, ToolCalls, ToolResult, MultiPart")


def _call_to_json(call: ToolCall) -> dict[str, JsonValue]:
    known = {"id": call.id, "name": call.name, "arguments": call.arguments}
    return with_extra(known, call.extra)


def _part_to_json(part: Part) -> dict[str, JsonValue]:
    match part:
        case TextPart():
            return {"Text": with_extra({"text": part.text}, part.extra)}
        case ImagePart():
            known = {"media_type": part.media_type, "data": part.data}
            return {"Image": with_extra(known, part.extra)}


def _call(data: object, path: str) -> ToolCall:
    fields = JsonObject(data, path)
    return ToolCall(
        fields.text("id"),
        fields.text("name"),
        check_json(fields.take("arguments"), fields.path("arguments")),
        fields.rest(),
    )


def _result(data: object, path: str) -> ToolResult:
    fields = JsonObject(data, path)
    return ToolResult(
        fields.text("call_id"),
        fields.text("content"),
        fields.flag("is_error"),
        fields.rest(),
    )


def _part(data: object, path: str) -> Part:
    if isinstance(data, str):
        return TextPart(data)
    variant, body = _variant(data, path)
    match variant:
        case "text" if isinstance(body, str):
            return TextPart(body)
        case "text":
            fields = JsonObject(body, f"{path}.Text")
            return TextPart(fields.text("text"), fields.rest())
        case "image":
            fields = JsonObject(body, f"{path}.Image")
            return ImagePart(fields.text("media_type"), fields.text("data"), fields.rest())
    raise _unknown_variant(data, path, "Text, Image")


def _variant(value: object, path: str) -> tuple[str, object]:
    if not isinstance(value, Mapping) or len(value) != 1:
        raise InvalidValue(
            f"{path}: must be an object with one key, the kind of content, not {kind_of(value)}"
            + (f" with {len(value)} keys" if isinstance(value, Mapping) else ""),
            field=path,
        )
    ((name, body),) = value.items()
    return check_text(name, f"{path} (a key)").replace("_", "").lower(), body


def _unknown_variant(value: object, path: str, known: str) -> InvalidValue:
    name = shown(str(next(iter(value)))) if isinstance(value, Mapping) else kind_of(value)
    return InvalidValue(f"{path}: {name} is not one of {known}", field=path)
