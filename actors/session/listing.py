"""The places of root sessions in listings, and the sessions that match a query.

Listings are in order of creation, the newest first. A session's `position` is that time and its id,
as bytes that sort in this order; a cursor is a position as text. It points between sessions and at
none, so it stays valid whatever comes, goes or changes.
"""

from __future__ import annotations

import re
import uuid

from retinue.actors.domain.errors import InvalidValue
from retinue.actors.views import SessionQuery, SessionSummary

CODES = {
    "idle": b"i",
    "initialising": b"n",
    "running": b"r",
    "completed": b"c",
    "failed": b"f",
    "timed_out": b"t",
    "cancelled": b"x",
    "ended": b"e",
}
"""The letter that an index keeps for each status of a session; none is ever reused."""

POSITION_BYTES = 22
_MILLISECONDS = 6  # bytes
_LATEST = (1 << 48) - 1
_CURSOR = re.compile(rf"[0-9a-f]{{{2 * POSITION_BYTES}}}")


def position(created_at: int, id: str) -> bytes:
    """Six bytes of milliseconds since the epoch, and the id's sixteen."""
    return moment(created_at) + bytes.fromhex(id.replace("-", ""))


def moment(at: int) -> bytes:
    """The first position of sessions created at ``at``, in microseconds."""
    return min(max(at // 1000, 0), _LATEST).to_bytes(_MILLISECONDS, "big")


def id_at(where: bytes) -> str:
    """The id in a position."""
    return str(uuid.UUID(bytes=where[_MILLISECONDS:]))


def made_here(where: bytes) -> bool:
    """Returns whether the id is of version 7 and begins with the time of its position."""
    milliseconds, id = where[:_MILLISECONDS], where[_MILLISECONDS:]
    return id.startswith(milliseconds) and id[_MILLISECONDS] >> 4 == 7


def parse_cursor(text: str | None, field: str = "after") -> bytes | None:
    """The position of a cursor; raises InvalidValue if the text is not a cursor."""
    if text is None:
        return None
    if not _CURSOR.fullmatch(text):
        raise InvalidValue(f"{field}: give the cursor that came with the page before", field=field)
    return bytes.fromhex(text)


def check_states(states: list[str]) -> list[str]:
    """Returns ``states`` if all of them are statuses of sessions; raises InvalidValue otherwise."""
    for state in states:
        if state not in CODES:
            raise InvalidValue(f"state: {state!r} is not one of {', '.join(CODES)}", field="state")
    return states


def wanted(query: SessionQuery, one: SessionSummary) -> bool:
    """Returns whether a session matches ``query``."""
    return (
        (query.workspace_id is None or one.workspace_id == query.workspace_id)
        and (query.user_id is None or one.user_id == query.user_id)
        and (not query.states or one.status in query.states)
        and (query.since is None or one.created_at >= query.since)
        and (query.until is None or one.created_at < query.until)
    )
