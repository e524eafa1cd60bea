"""The line about a session, of which listings and trees are made."""

from __future__ import annotations

import msgspec
from msgspec import structs

from retinue.actors.domain.session import machine as session
from retinue.actors.domain.session.state import the_profile
from retinue.actors.views import SessionSummary

_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(SessionSummary)


def summarise(state: session.State, now: int) -> SessionSummary:
    """The line as of ``now``."""
    profile = the_profile(state)
    last = next(reversed(state.results.values()), None)
    current = next(iter(state.runs.values()), None)
    return SessionSummary(
        id=profile.id,
        family_id=profile.family_id,
        parent_id=profile.parent_id,
        depth=profile.depth,
        user_id=profile.user_id,
        label=state.metadata.title or profile.label,
        status=_status(state),
        created_at=profile.created_at,
        updated_at=now,
        spent=state.spent,
        isolation=profile.isolation,
        run_id=current.id if current else (last.run_id if last else None),
        closed=state.closed,
        error=last.error if last and not current else None,
        turns=state.metadata.turn_count,
        messages=state.messages,
        spawned=state.spawned,
        workspace_path=profile.workspace_path,
        workspace_id=profile.workspace_id,
    )


def shown(state: session.State) -> tuple[object, ...]:
    """The changing part of a listing's line: an equal line need not be written again."""
    return (
        state.spent,
        state.messages,
        state.closed,
        len(state.runs),
        len(state.results),
        state.metadata.turn_count,
        state.metadata.title,
        next(iter(state.runs), None),
    )


def encode_summary(summary: SessionSummary) -> bytes:
    """The summary as stored, without the ids that its place has: session, family, workspace."""
    return _ENCODER.encode(structs.replace(summary, id="", family_id="", workspace_id=""))


def decode_summary(data: bytes, id: str, family_id: str, workspace_id: str) -> SessionSummary:
    """The summary from its stored form, and from the place where it was stored."""
    summary = _DECODER.decode(data)
    return structs.replace(summary, id=id, family_id=family_id, workspace_id=workspace_id)


def _status(state: session.State) -> str:
    if state.closed:
        return state.closed
    if state.runs:
        started = any(run.started is not None for run in state.runs.values())
        return "running" if started else "initialising"
    last = next(reversed(state.results.values()), None)
    return last.status if last else "idle"
