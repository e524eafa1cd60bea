"""The session document, which `export` writes and `import` reads.

The names and the order of its fields are fixed. Required are ``id, user_id, messages,
system_prompt, created_at, token_count`` and ``metadata``; the other fields, and all within
``metadata``, take defaults when missing. Unknown fields are kept in ``extra`` and written back
after the known ones.

Reading is strict: a wrong value is refused with its field and index named, and nothing is guessed,
padded, zeroed or dropped. Only messages can be skipped, on request, and each one is reported.
`parse(render(document))` gives the document again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from msgspec import Struct

from retinue.actors.domain.documents.budget_snapshot import (
    BudgetSnapshot,
    snapshot_from_json,
    snapshot_to_json,
)
from retinue.actors.domain.documents.message_json import message_from_json, message_to_json
from retinue.actors.domain.errors import InvalidValue
from retinue.actors.domain.session.messages import Message
from retinue.actors.domain.values.ids import parse_user, parse_uuid
from retinue.actors.domain.values.json_object import JsonObject, with_extra
from retinue.actors.domain.values.json_value import JsonValue, check_text, kind_of, parse_json
from retinue.actors.domain.values.rfc3339 import from_rfc3339, to_rfc3339

_LONGEST_ID = 64

_Read = TypeVar("_Read")


class DocumentMetadata(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A session's description of itself; the runtime keeps the counts."""

    title: str | None = None
    tags: list[str] = []
    turn_count: int = 0
    tool_call_count: int = 0
    approval_count: int = 0
    custom: dict[str, str] = {}
    extra: dict[str, JsonValue] = {}


class DocumentEscapes(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Paths outside the workspace that are allowed for good, as written; see `usable_escapes`."""

    remembered_paths: list[str] = []
    extra: dict[str, JsonValue] = {}


class GitState(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The state of the workspace's repository at export."""

    branch: str | None = None
    commit: str | None = None
    extra: dict[str, JsonValue] = {}


class SessionDocument(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A serialised session. ``created_at`` is in microseconds since the epoch (UTC).

    ``allowances`` are JSON objects that only the allowance store reads. ``token_count`` is the
    document's own count, even if messages were skipped.
    """

    id: str
    user_id: str
    messages: list[Message]
    system_prompt: str
    created_at: int
    token_count: int
    metadata: DocumentMetadata
    allowances: list[dict[str, JsonValue]] = []
    budget_snapshot: BudgetSnapshot | None = None
    escape_state: DocumentEscapes | None = None
    workspace_path: str | None = None
    model: str | None = None
    git_state: GitState | None = None
    extra: dict[str, JsonValue] = {}


class SkippedMessage(Struct, frozen=True):
    """A message that an import left out: its index in the document, and its fault."""

    index: int
    problem: str


def parse(
    data: str | bytes | Mapping[str, object], *, skip_bad_messages: bool = False
) -> tuple[SessionDocument, list[SkippedMessage]]:
    """Parses a document from JSON text, UTF-8 bytes or an object read from JSON.

    With ``skip_bad_messages`` wrong messages are left out and returned beside the document;
    otherwise that list is empty. Raises InvalidValue, naming the field as in
    ``messages[3].role``, for any other error, and for a wrong message without the flag.
    """
    fields = JsonObject(parse_json(data, "document") if isinstance(data, str | bytes) else data, "")
    messages, skipped = _messages(fields.items("messages"), skip_bad_messages)
    document = SessionDocument(
        id=parse_uuid(_short_text(fields, "id"), "id"),
        user_id=parse_user(_short_text(fields, "user_id"), "user_id"),
        messages=messages,
        system_prompt=fields.text("system_prompt"),
        created_at=from_rfc3339(fields.take("created_at"), "created_at"),
        token_count=fields.count("token_count"),
        metadata=_metadata(fields.take("metadata")),
        allowances=[
            JsonObject(item, f"allowances[{index}]").rest()
            for index, item in enumerate(fields.items_or_none("allowances"))
        ],
        budget_snapshot=_optional(fields, "budget_snapshot", snapshot_from_json),
        escape_state=_optional(fields, "escape_state", _escape_state),
        workspace_path=fields.optional_text("workspace_path"),
        model=fields.optional_text("model"),
        git_state=_optional(fields, "git_state", _git_state),
        extra=fields.rest(),
    )
    return document, skipped


def render(document: SessionDocument, *, indent: int | None = 2) -> str:
    """The document as JSON text; ``indent=None`` is compact.

    Raises InvalidValue if the document has a value that JSON cannot carry.
    """
    separators = None if indent else (",", ":")
    try:
        text = json.dumps(
            to_json(document),
            ensure_ascii=False,
            allow_nan=False,
            indent=indent,
            separators=separators,
        )
    except (TypeError, ValueError) as problem:
        raise InvalidValue(f"document: not JSON: {problem}", field="document") from None
    return check_text(text, "document")


def to_json(document: SessionDocument) -> dict[str, JsonValue]:
    """The document as the JSON object that `render` writes."""
    known: dict[str, JsonValue] = {
        "id": document.id,
        "user_id": document.user_id,
        "messages": [message_to_json(message) for message in document.messages],
        "system_prompt": document.system_prompt,
        "created_at": to_rfc3339(document.created_at, "created_at"),
        "token_count": document.token_count,
        "metadata": _metadata_to_json(document.metadata),
        "allowances": document.allowances,
        "budget_snapshot": _optional_to_json(document.budget_snapshot, snapshot_to_json),
        "escape_state": _optional_to_json(document.escape_state, _escape_state_to_json),
        "workspace_path": document.workspace_path,
        "model": document.model,
        "git_state": _optional_to_json(document.git_state, _git_state_to_json),
    }
    return with_extra(known, document.extra)


def usable_escapes(paths: Iterable[str], resolve: Callable[[str], str | None]) -> list[str]:
    """The remembered paths that count: absolute and existing, links resolved, each once.

    ``resolve`` returns the real path with all links followed, or None if nothing exists there.
    """
    found: dict[str, None] = {}
    for path in paths:
        if path.startswith("/") and "\0" not in path:
            real = resolve(path)
            if real is not None and real.startswith("/"):
                found[real] = None
    return list(found)


def _messages(items: list[object], skip_bad: bool) -> tuple[list[Message], list[SkippedMessage]]:
    messages: list[Message] = []
    skipped: list[SkippedMessage] = []
    for index, item in enumerate(items):
        try:
            messages.append(message_from_json(item, f"messages[{index}]"))
        except InvalidValue as problem:
            if not skip_bad:
                raise
            skipped.append(SkippedMessage(index, problem.message))
    return messages, skipped


def _short_text(fields: JsonObject, key: str) -> str:
    text = fields.text(key)
    if len(text) > _LONGEST_ID:
        raise InvalidValue(f"{key}: {len(text)} characters are too many", field=key)
    return text


def _metadata(data: object) -> DocumentMetadata:
    fields = JsonObject(data, "metadata")
    return DocumentMetadata(
        title=fields.optional_text("title"),
        tags=fields.texts_or_none("tags"),
        turn_count=fields.count_or_zero("turn_count"),
        tool_call_count=fields.count_or_zero("tool_call_count"),
        approval_count=fields.count_or_zero("approval_count"),
        custom=_custom(fields.take_or("custom", {}), fields.path("custom")),
        extra=fields.rest(),
    )


def _custom(data: object, path: str) -> dict[str, str]:
    if not isinstance(data, Mapping):
        raise InvalidValue(f"{path}: must be an object, not {kind_of(data)}", field=path)
    return {
        check_text(key, f"{path} (a key)"): check_text(value, f"{path} (a value)")
        for key, value in data.items()
    }


def _escape_state(data: object, path: str) -> DocumentEscapes:
    fields = JsonObject(data, path)
    paths = fields.texts_or_none("remembered_paths") + fields.texts_or_none("allowed_paths")
    return DocumentEscapes(remembered_paths=list(dict.fromkeys(paths)), extra=fields.rest())


def _git_state(data: object, path: str) -> GitState:
    fields = JsonObject(data, path)
    return GitState(
        branch=fields.optional_text("branch"),
        commit=fields.optional_text("commit"),
        extra=fields.rest(),
    )


def _optional(fields: JsonObject, key: str, read: Callable[[object, str], _Read]) -> _Read | None:
    value = fields.take_or(key, None)
    return None if value is None else read(value, key)


def _metadata_to_json(metadata: DocumentMetadata) -> dict[str, JsonValue]:
    known: dict[str, JsonValue] = {
        "title": metadata.title,
        "tags": metadata.tags,
        "turn_count": metadata.turn_count,
        "tool_call_count": metadata.tool_call_count,
        "approval_count": metadata.approval_count,
        "custom": metadata.custom,
    }
    return with_extra(known, metadata.extra)


def _escape_state_to_json(state: DocumentEscapes) -> dict[str, JsonValue]:
    return with_extra({"remembered_paths": state.remembered_paths}, state.extra)


def _git_state_to_json(state: GitState) -> dict[str, JsonValue]:
    return with_extra({"branch": state.branch, "commit": state.commit}, state.extra)


def _optional_to_json(
    value: _Read | None, write: Callable[[_Read], dict[str, JsonValue]]
) -> dict[str, JsonValue] | None:
    return None if value is None else write(value)
