"""Ids as people type them: whole, or any beginning or end of at least six characters.

Ids of version 7 that were made at about the same time begin alike, so the end is often shorter. A
beginning stands for a root session only: all sub-agents of a run begin alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from retinue.actors.domain.errors import InvalidValue, NotFound
from retinue.actors.domain.values.ids import parse_uuid

if TYPE_CHECKING:
    from retinue.cluster.client.client import Retinue
    from retinue.cluster.client.inbox import InboxRequest
    from retinue.cluster.client.session import Session

SHORTEST = 6

_FRAGMENT = re.compile(rf"[0-9a-f-]{{{SHORTEST},36}}")
_WHOLE = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32}")
_SHOWN = 8


async def find_session(retinue: Retinue, text: str) -> Session:
    """The session that ``text`` means; raises NotFound for none, InvalidValue for several."""
    given = check_fragment(text, "session")
    if not _WHOLE.fullmatch(given):
        found = await retinue.calls.registry.find(given)
        given = the_only_one(given, found, "session", "retinue ps")
    session = retinue.session(given)
    await retinue.calls.registry.locate(session.id)
    return session


async def find_request(retinue: Retinue, text: str) -> InboxRequest:
    """The open request that ``text`` means; raises the same errors."""
    given = check_fragment(text, "request")
    requests = {request.id: request for request in await retinue.pending()}
    if given not in requests:
        fitting = [id for id in requests if id.startswith(given) or id.endswith(given)]
        given = the_only_one(given, fitting, "open request", "retinue approvals")
    return requests[given]


def check_fragment(text: str, what: str) -> str:
    """Returns ``text`` as a part of an id; raises InvalidValue if it can't be one."""
    given = text.strip().lower()
    if _WHOLE.fullmatch(given):
        return parse_uuid(given, what)
    if not _FRAGMENT.fullmatch(given):
        raise InvalidValue(
            f"{what}: {text!r} is no id: give one in full, or {SHORTEST} or more characters "
            "of its beginning or end",
            field=what,
        )
    return given


def the_only_one(fragment: str, fitting: Iterable[str], what: str, lister: str) -> str:
    """The one id that matches; ``lister`` is the command that lists them."""
    found = sorted(fitting)
    if not found:
        raise NotFound(f"{what} {fragment}: there is none; `{lister}` lists them")
    if len(found) > 1:
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise InvalidValue(
            f"{what}: {fragment} fits {len(found)} of them: {', '.join(found[:_SHOWN])}{more}",
            field=what,
        )
    return found[0]
