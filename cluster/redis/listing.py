"""Root sessions in order of time, found through indexes: a page's cost depends on its length.

An index is a sorted set of positions (`retinue.actors.session.listing`), all with the same score:
one of all root sessions and one for each user, which the registry writes before the session exists,
and one for each workspace, in which the position follows the state and which the journal writes
together with the summary. A page reads the index with the fewest members for its query, and keeps
those whose summaries match: so an index may have a member too many, and may ignore a condition.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import NamedTuple, cast

from retinue.actors.session.listing import (
    CODES,
    check_states,
    id_at,
    made_here,
    moment,
    parse_cursor,
    position,
    wanted,
)
from retinue.actors.session.summary import decode_summary
from retinue.actors.views import SessionPage, SessionQuery, SessionSummary
from retinue.cluster.redis.connection import Connection, Script, Value
from retinue.cluster.redis.locations import Locations, read_place

_NEWEST = Script("newest")
_READ_AT_ONCE = 200
_READ_FOR_A_PAGE = 1000
_MOST_WORKSPACES = 64
_FITTING = 100
_AFTER_ALL = b"\xff" * 32


def roots_of(connection: Connection, workspace_id: str) -> str:
    """The index of a workspace's root sessions by state, in the same slot as the sessions."""
    return connection.entity(workspace_id, "index", "roots")


class _Part(NamedTuple):
    """Members of the index ``key`` that begin with one of ``starts``; their positions follow."""

    key: str
    starts: Sequence[bytes] = (b"",)


class _Bounds(NamedTuple):
    """The positions from ``first`` on and before ``end``."""

    first: bytes
    end: bytes


class Listing:
    """The registry's indexes, and the reading of pages through them and the journal's."""

    def __init__(self, connection: Connection, places: Locations) -> None:
        self._redis = connection
        self._locations = places
        self._roots = connection.key("roots", "all")
        self._foreign = connection.key("roots", "foreign")
        self._workspaces = connection.key("scopes")

    async def add(self, workspace_id: str, user_id: str, created_at: int, id: str) -> None:
        """List a root session that is about to be made; repeated, it changes nothing."""
        where = position(created_at, id)
        commands: list[tuple[Value, ...]] = [
            ("ZADD", index, 0, where) for index in (self._roots, self._of_user(user_id))
        ]
        commands.append(("ZADD", self._workspaces, 0, workspace_id))
        if not made_here(where):
            commands.append(("ZADD", self._foreign, 0, id))
        await self._redis.all(commands)

    async def page(self, query: SessionQuery, after: str | None, count: int) -> SessionPage:
        """Up to ``count`` sessions after a cursor; looks at about `_READ_FOR_A_PAGE` at most.

        Raises InvalidValue for a wrong cursor or state.
        """
        check_states(query.states)
        bounds = _bounds(query, parse_cursor(after))
        parts = await self._choose(query, bounds)
        found: list[SessionSummary] = []
        read, size = 0, min(count, _READ_AT_ONCE)
        while True:
            positions = await self._positions(parts, bounds, size)
            summaries = await self._summaries(positions)
            for at, (where, one) in enumerate(zip(positions, summaries, strict=True), 1):
                if one and position(one.created_at, one.id) == where and wanted(query, one):
                    found.append(one)
                    if len(found) == count and (at < len(positions) or len(positions) == size):
                        return SessionPage(found, where.hex())
            if len(positions) < size:
                return SessionPage(found, None)
            read += size
            if read >= _READ_FOR_A_PAGE:
                return SessionPage(found, positions[-1].hex())
            bounds, size = bounds._replace(end=positions[-1]), _READ_AT_ONCE

    async def beginning(self, fragment: str) -> list[str]:
        """The ids of root sessions that begin with ``fragment``, up to about a hundred."""
        digits = fragment.replace("-", "")[:32]
        first, last = (bytes.fromhex(digits.ljust(32, end)) for end in "0f")
        span = first[:6] + first, last[:6] + last  # where an id has the time of its position
        limit = ("LIMIT", 0, 10 * _FITTING)
        listed, foreign = await self._redis.all(
            [
                ("ZRANGEBYLEX", self._roots, b"[" + span[0], b"[" + span[1], *limit),
                ("ZRANGEBYLEX", self._foreign, f"[{fragment}", f"[{fragment}g", *limit),
            ]
        )
        ids = [*map(id_at, cast(list[bytes], listed))]
        ids += [id.decode() for id in cast(list[bytes], foreign)]
        return list(islice((id for id in dict.fromkeys(ids) if id.startswith(fragment)), _FITTING))

    async def _choose(self, query: SessionQuery, bounds: _Bounds) -> list[_Part]:
        """The parts of indexes with the fewest members that contain all matching sessions."""
        ways = [[_Part(self._roots)]]
        if query.user_id is not None:
            ways.append([_Part(self._of_user(query.user_id))])
        if query.workspace_id is not None or query.states:
            workspaces = (
                [query.workspace_id]
                if query.workspace_id is not None
                else await self._some_workspaces()
            )
            codes = [CODES[state] for state in dict.fromkeys(query.states or CODES)]
            if len(workspaces) <= _MOST_WORKSPACES:
                ways.append(
                    [
                        _Part(roots_of(self._redis, workspace_id), codes)
                        for workspace_id in workspaces
                    ]
                )
        if len(ways) == 1:
            return ways[0]
        sizes = [await self._size(way, bounds) for way in ways]
        return ways[sizes.index(min(sizes))]

    async def _size(self, parts: Sequence[_Part], bounds: _Bounds) -> int:
        """The number of positions in all parts together."""
        counts = await self._redis.all(
            [
                ("ZLEXCOUNT", one.key, b"[" + start + bounds.first, b"(" + start + bounds.end)
                for one in parts
                for start in one.starts
            ]
        )
        return sum(cast(list[int], counts))

    async def _positions(self, parts: Sequence[_Part], bounds: _Bounds, size: int) -> list[bytes]:
        """The ``size`` newest positions in the parts together."""
        found: set[bytes] = set()
        for one in parts:
            members = await self._redis.run(_NEWEST, [one.key], [size, *bounds, *one.starts])
            found.update(cast(list[bytes], members))
        return sorted(found, reverse=True)[:size]

    async def _summaries(self, positions: Iterable[bytes]) -> list[SessionSummary | None]:
        """The journal's lines about the sessions; None for one that does not exist yet."""
        ids = [id_at(where) for where in positions]
        stored = cast(
            "list[bytes | None]", await self._redis.all([self._locations.query(id) for id in ids])
        )
        places = [read_place(id, one) for id, one in zip(ids, stored, strict=True) if one]
        lines = await self._redis.all(
            [
                ("HGET", self._redis.family(place.workspace_id, place.family_id), place.family_id)
                for place in places
            ]
        )
        by_id = {
            place.family_id: decode_summary(
                cast(bytes, line), place.family_id, place.family_id, place.workspace_id
            )
            for place, line in zip(places, lines, strict=True)
            if line
        }
        return [by_id.get(id) for id in ids]

    async def _some_workspaces(self) -> list[str]:
        """The workspaces, up to one more than a page looks into."""
        found = await self._redis.values("ZRANGE", self._workspaces, 0, _MOST_WORKSPACES)
        return [workspace_id.decode() for workspace_id in found]

    def _of_user(self, user_id: str) -> str:
        return self._redis.key("roots", "user", user_id)


def _bounds(query: SessionQuery, after: bytes | None) -> _Bounds:
    first = b"" if query.since is None else moment(query.since)
    end = _AFTER_ALL if after is None else after
    if query.until is not None:
        end = min(end, moment(query.until - 1) + _AFTER_ALL)
    return _Bounds(first, end)
