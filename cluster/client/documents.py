"""Sessions as documents, for `export` and `import`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import cast

import msgspec
from msgspec import structs

from retinue.actors.domain.documents.budget_snapshot import BudgetSnapshot
from retinue.actors.domain.documents.document import (
    DocumentEscapes,
    DocumentMetadata,
    GitState,
    SessionDocument,
    SkippedMessage,
    parse,
    render,
    usable_escapes,
)
from retinue.actors.domain.errors import InvalidValue
from retinue.actors.domain.permissions.allowances.allowance import Allowance, valid
from retinue.actors.domain.session import machine as session
from retinue.actors.domain.session.messages import Message
from retinue.actors.domain.session.settings import BudgetConfig, Isolation, Limits
from retinue.actors.domain.session.state import Agent, Imported, Metadata, Profile, the_profile
from retinue.actors.domain.values.json_value import JsonValue
from retinue.actors.requests import Last, SessionAt
from retinue.cluster.client.budgets import budget_of
from retinue.cluster.client.calls import Calls
from retinue.cluster.client.git_state import capture_git_state

LABEL_LENGTH = 80
"""The length of a listed session's title, in characters."""


async def export_document(calls: Calls, session_id: str) -> str:
    """The document of a session as it is now."""
    state = await calls.sessions.state(SessionAt(session_id))
    profile = the_profile(state)
    messages = await calls.sessions.messages(Last(session_id, count=None))
    stores = calls.stores(profile.workspace_id)
    level = (await stores.budget.levels([profile.family_id]))[0]
    git = await capture_git_state(profile.workspace_path) if profile.workspace_path else None
    held = await stores.permissions.allowances()
    now = calls.now()
    own = [one for one in held if one.family_id == profile.family_id and valid(one, now)]
    return render(_document(state, messages, own, level.spent, git))


def read_document(
    data: str | bytes | Mapping[str, object], skip_bad_messages: bool
) -> tuple[SessionDocument, list[SkippedMessage], list[Allowance]]:
    """A document, its skipped parts and its allowances; raises InvalidValue naming any mistake."""
    document, skipped = parse(data, skip_bad_messages=skip_bad_messages)
    allowances = []
    for at, one in enumerate(document.allowances):
        try:
            allowances.append(msgspec.convert(one, Allowance))
        except msgspec.ValidationError as error:
            raise InvalidValue(f"allowances[{at}]: {error}", field=f"allowances[{at}]") from error
    return document, skipped, allowances


def imported_profile(
    document: SessionDocument,
    workspace_id: str,
    agent: Agent | None,
    isolation: Isolation,
) -> Profile:
    """The profile of the session that a document becomes, with defaults for missing fields."""
    snapshot = document.budget_snapshot
    said = snapshot and {
        "session_max": snapshot.session_max,
        "per_action_max": snapshot.per_action_max,
        "warn_at_percent": snapshot.warn_at_percent,
    }
    known = {name: value for name, value in (said or {}).items() if value is not None}
    return Profile(
        id=document.id,
        user_id=document.user_id,
        workspace_id=workspace_id,
        family_id=document.id,
        created_at=document.created_at,
        agent=agent,
        isolation=isolation,
        budget=structs.replace(budget_of(BudgetConfig()), **known),
        limits=Limits(),
        system_prompt=document.system_prompt,
        workspace_path=document.workspace_path,
        model=document.model,
        label=(document.metadata.title or "imported")[:LABEL_LENGTH],
    )


def imported_state(document: SessionDocument) -> Imported:
    """The state that the session takes over from the document, besides its profile."""
    metadata = document.metadata
    paths = document.escape_state.remembered_paths if document.escape_state else []
    snapshot = document.budget_snapshot
    extra = {name: msgspec.json.encode(value) for name, value in document.extra.items()}
    if metadata.extra:
        extra["metadata"] = msgspec.json.encode(metadata.extra)
    return Imported(
        metadata=Metadata(
            metadata.title,
            list(metadata.tags),
            metadata.turn_count,
            metadata.tool_call_count,
            metadata.approval_count,
            dict(metadata.custom),
        ),
        escapes=usable_escapes(paths, _resolve),
        token_count=document.token_count,
        spent=snapshot.session_spent if snapshot else 0,
        extra=extra,
    )


def _document(
    state: session.State,
    messages: list[Message],
    allowances: list[Allowance],
    spent: int,
    git: GitState | None,
) -> SessionDocument:
    profile, metadata = the_profile(state), state.metadata
    extra = {name: _json(data) for name, data in state.extra.items()}
    metadata_extra = cast("dict[str, JsonValue]", extra.pop("metadata", {}))
    return SessionDocument(
        id=profile.id,
        user_id=profile.user_id,
        messages=messages,
        system_prompt=profile.system_prompt,
        created_at=profile.created_at,
        token_count=state.token_count,
        metadata=DocumentMetadata(
            title=metadata.title,
            tags=metadata.tags,
            turn_count=metadata.turn_count,
            tool_call_count=metadata.tool_call_count,
            approval_count=metadata.approval_count,
            custom=metadata.custom,
            extra=metadata_extra,
        ),
        allowances=[cast("dict[str, JsonValue]", msgspec.to_builtins(one)) for one in allowances],
        budget_snapshot=BudgetSnapshot(
            session_spent=spent,
            session_max=profile.budget.session_max,
            per_action_max=profile.budget.per_action_max,
            warn_at_percent=profile.budget.warn_at_percent,
        ),
        escape_state=DocumentEscapes(remembered_paths=list(state.escapes)),
        workspace_path=profile.workspace_path,
        model=profile.model,
        git_state=git,
        extra=extra,
    )


def _json(data: bytes) -> JsonValue:
    return cast(JsonValue, msgspec.json.decode(data))


def _resolve(path: str) -> str | None:
    """The path with its links resolved, if it exists."""
    resolved = os.path.realpath(path)
    return resolved if os.path.exists(resolved) else None
