"""Root sessions in order of time, found through indexes: what a page costs depends on its length.

An index is a sorted set of positions (`actors.listing`), all with the same score: one of all root
sessions and one for each user, which the registry writes before the session comes to be, and one
for each scope, in which the position follows the state and which the journal writes together with
the summary. A page reads the index that has the least to offer for its query, and takes what the
summaries say it wants: so an index may have a member too many, and may leave out a condition.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import NamedTuple, cast

from actors.listing import (
    CODES,
    check_states,
    id_at,
    made_here,
    moment,
    parse_cursor,
    position,
    wanted,
)
from actors.ports import SessionPage, SessionQuery, SessionSummary
from actors.summary import decode_summary
from cluster.redis.connection import Connection, Value
from cluster.redis.places import Places, read_place

_READ_AT_ONCE = 200
_READ_FOR_A_PAGE = 1000
_MOST_STRETCHES = 128
_FITTING = 100
_AFTER_ALL = b"\xff" * 32


def roots_of(connection: Connection, scope: str) -> str:
    """The index of a scope's root sessions by state; in the slot of what it lists."""
    return connection.entity(scope, "index", "roots")


class _Stretch(NamedTuple):
    """Members of ``key`` that begin with ``prefix``, which their positions follow."""

    key: str
    prefix: bytes = b""


class _Bounds(NamedTuple):
    """Positions from ``first`` on and before ``end``."""

    first: bytes
    end: bytes

    def of(self, stretch: _Stretch) -> tuple[bytes, bytes]:
        return b"[" + stretch.prefix + self.first, b"(" + stretch.prefix + self.end


class Listing:
    """The indexes that the registry keeps, and what is read through them and the journal's."""

    def __init__(self, connection: Connection, places: Places) -> None:
        self._redis = connection
        self._places = places
        self._roots = connection.key("roots", "all")
        self._foreign = connection.key("roots", "foreign")
        self._scopes = connection.key("scopes")

    async def add(self, scope: str, user_id: str, created_at: int, id: str) -> None:
        """List a root session that is about to be made; repeated, it changes nothing."""
        where = position(created_at, id)
        commands: list[tuple[Value, ...]] = [
            ("ZADD", index, 0, where) for index in (self._roots, self._of_user(user_id))
        ]
        commands.append(("ZADD", self._scopes, 0, scope))
        if not made_here(where):
            commands.append(("ZADD", self._foreign, 0, id))
        await self._all(commands)

    async def page(self, query: SessionQuery, after: str | None, count: int) -> SessionPage:
        """Up to ``count`` sessions after a cursor; looks at some `_READ_FOR_A_PAGE` at most.

        InvalidValue for a wrong cursor or state.
        """
        check_states(query.states)
        bounds = _bounds(query, parse_cursor(after))
        stretches = await self._choose(query, bounds)
        found: list[SessionSummary] = []
        read, size = 0, min(count, _READ_AT_ONCE)
        while True:
            positions = await self._positions(stretches, bounds, size)
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
        """Ids of root sessions that begin with ``fragment``; not many more than a hundred."""
        digits = fragment.replace("-", "")[:32]
        first, last = (bytes.fromhex(digits.ljust(32, end)) for end in "0f")
        span = first[:6] + first, last[:6] + last  # where an id has the time of its position
        limit = ("LIMIT", 0, 10 * _FITTING)
        listed, foreign = await self._all(
            [
                ("ZRANGEBYLEX", self._roots, b"[" + span[0], b"[" + span[1], *limit),
                ("ZRANGEBYLEX", self._foreign, f"[{fragment}", f"[{fragment}g", *limit),
            ]
        )
        ids = [*map(id_at, cast(list[bytes], listed))]
        ids += [id.decode() for id in cast(list[bytes], foreign)]
        return list(islice((id for id in dict.fromkeys(ids) if id.startswith(fragment)), _FITTING))

    async def _choose(self, query: SessionQuery, bounds: _Bounds) -> list[_Stretch]:
        """Of the ways to come by what is asked for, the one with the fewest others among it."""
        ways = [[_Stretch(self._roots)]]
        if query.user_id is not None:
            ways.append([_Stretch(self._of_user(query.user_id))])
        if query.scope is not None or query.states:
            codes = [CODES[state] for state in dict.fromkeys(query.states or CODES)]
            most = _MOST_STRETCHES // len(codes)
            scopes = await self._some_scopes(most + 1) if query.scope is None else [query.scope]
            if len(scopes) <= most:
                indexes = [roots_of(self._redis, scope) for scope in scopes]
                ways.append([_Stretch(index, code) for index in indexes for code in codes])
        if len(ways) == 1:
            return ways[0]
        counts = iter(
            await self._all(
                [("ZLEXCOUNT", one.key, *bounds.of(one)) for way in ways for one in way]
            )
        )
        sizes = [sum(cast(int, next(counts)) for _ in way) for way in ways]
        return ways[sizes.index(min(sizes))]

    async def _positions(
        self, stretches: Sequence[_Stretch], bounds: _Bounds, size: int
    ) -> list[bytes]:
        """The ``size`` newest positions in the stretches together."""
        commands: list[tuple[Value, ...]] = []
        for one in stretches:
            first, end = bounds.of(one)
            commands.append(("ZREVRANGEBYLEX", one.key, end, first, "LIMIT", 0, size))
        found: set[bytes] = set()
        for one, members in zip(stretches, await self._all(commands), strict=True):
            found.update(member[len(one.prefix) :] for member in cast(list[bytes], members))
        return sorted(found, reverse=True)[:size]

    async def _summaries(self, positions: Iterable[bytes]) -> list[SessionSummary | None]:
        """What the journal has about the sessions; None for one that has not come to be."""
        ids = [id_at(where) for where in positions]
        stored = cast("list[bytes | None]", await self._all(map(self._places.query, ids)))
        places = [read_place(id, one) for id, one in zip(ids, stored, strict=True) if one]
        lines = await self._all(
            ("HGET", self._redis.family(place.scope, place.family_id), place.family_id)
            for place in places
        )
        by_id = {
            place.family_id: decode_summary(cast(bytes, line))
            for place, line in zip(places, lines, strict=True)
            if line
        }
        return [by_id.get(id) for id in ids]

    async def _some_scopes(self, count: int) -> list[str]:
        found = await self._redis.values("ZRANGE", self._scopes, 0, count - 1)
        return [scope.decode() for scope in found]

    async def _all(self, commands: Iterable[tuple[Value, ...]]) -> list[object]:
        """The answers to commands that are sent together."""
        words = list(commands)

        async def send() -> list[object]:
            async with self._redis.client.pipeline(transaction=False) as pipe:
                for one in words:
                    pipe.execute_command(*one)
                return cast("list[object]", await pipe.execute())

        return await self._redis.patiently(send) if words else []

    def _of_user(self, user_id: str) -> str:
        return self._redis.key("roots", "user", user_id)


def _bounds(query: SessionQuery, after: bytes | None) -> _Bounds:
    first = b"" if query.since is None else moment(query.since)
    end = _AFTER_ALL if after is None else after
    if query.until is not None:
        end = min(end, moment(query.until - 1) + _AFTER_ALL)
    return _Bounds(first, end)
