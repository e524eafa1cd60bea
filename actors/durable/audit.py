"""The audit log: all that was allowed, decided, granted and revoked, in tamper-evident chains.

Every entity has a chain of its own, written in the same step as the journal row with the events
it tells of, so it never lags behind a reply to a caller. A row holds its number and time, and
its mark covers the mark of the row before. The newest mark and the number of rows are part of
every journal row and snapshot. So a row that was changed, removed or moved shows, and so does a
chain that was cut short. Only an entity that was rolled back as a whole does not show.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import msgspec
from msgspec import structs

from retinue.actors.domain.errors import Tampered
from retinue.actors.domain.values.keyring import Keyring

_MARK_BYTES = 20
_ENCODER = msgspec.msgpack.Encoder()
_Decoder: TypeAlias = msgspec.msgpack.Decoder[tuple[int, int, int, list[msgspec.Struct]]]


class Head(NamedTuple):
    """The end of a chain: the number of its rows, and the mark of the last."""

    rows: int = 0
    mark: bytes = b""


class AuditEntry(msgspec.Struct, frozen=True):
    """One event of the audit log; ``at`` in microseconds, ``detail`` as JSON values."""

    chain: str
    row: int
    at: int
    kind: str
    detail: dict[str, object]


class Report(msgspec.Struct, frozen=True):
    """A chain that was read: its entries up to the first wrong one, and its fault."""

    chain: str
    entries: list[AuditEntry]
    problem: str | None = None


class AuditChain:
    """The writing end of one entity's chain."""

    def __init__(self, keyring: Keyring) -> None:
        self.head: Head = Head()
        self._keyring = keyring

    def row(self, at: int, epoch: int, events: Sequence[object]) -> bytes:
        """The next row, with these events."""
        body = _ENCODER.encode((self.head.rows, at, epoch, events))
        mark = self._keyring.mac(self.head.mark + body)
        self.head = Head(self.head.rows + 1, mark)
        return mark + body


def verify(
    chain: str, rows: Sequence[bytes], head: Head, keyring: Keyring, events: object
) -> Report:
    """Read a chain and check it against the ``head`` that the entity's journal had just before.

    ``events`` is the type of the entity's events, one or a union. Rows beyond the head are newer
    than it; nobody without the key could have made them.
    """
    decoder: _Decoder = msgspec.msgpack.Decoder(tuple[int, int, int, list[events]])  # type: ignore[valid-type]
    entries: list[AuditEntry] = []
    marks = [b""]
    for number, row in enumerate(rows):
        problem = _problem(number, row, marks[-1], keyring)
        if problem:
            return Report(chain, entries, f"{chain}: entry {number} {problem}")
        marks.append(row[:_MARK_BYTES])
        entries.extend(_entries(chain, decoder, row[_MARK_BYTES:]))
    if len(rows) < head.rows:
        return Report(chain, entries, f"{chain}: entry {len(rows)} and what followed were removed")
    if marks[head.rows] != head.mark:
        return Report(chain, entries, f"{chain}: entry {head.rows - 1} was changed")
    return Report(chain, entries)


def _problem(number: int, row: bytes, before: bytes, keyring: Keyring) -> str | None:
    body = row[_MARK_BYTES:]
    try:
        keyring.check(row[:_MARK_BYTES], before + body, "audit")
    except Tampered:
        pass
    else:
        return None
    try:
        own_number = msgspec.msgpack.decode(body)[0]
    except (msgspec.MsgspecError, ValueError, IndexError, TypeError):
        return "was changed"
    return "was changed" if own_number == number else "was removed or moved"


def _entries(chain: str, decoder: _Decoder, body: bytes) -> list[AuditEntry]:
    number, at, _, events = decoder.decode(body)
    return [
        AuditEntry(chain, number, at, str(event.__struct_config__.tag), _named(event))
        for event in events
    ]


def _named(struct: msgspec.Struct) -> dict[str, object]:
    return {name: _plain(value) for name, value in structs.asdict(struct).items()}


def _plain(value: object) -> object:
    match value:
        case msgspec.Struct():
            return _named(value)
        case list() | tuple():
            return [_plain(one) for one in value]
        case dict():
            return {name: _plain(one) for name, one in value.items()}
        case _:
            return msgspec.to_builtins(value)
