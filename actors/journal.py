"""The journal port: what an entity needs from durable storage, and nothing more.

The contract, which `tests/test_journal.py` holds for every implementation:

1. ``activate`` raises the entity's epoch and returns snapshot and tail in one atomic step.
2. ``append`` takes rows only from the current epoch and only in sequence. An older epoch gets
   `Outcome.FENCED`, and an epoch or row that the journal has never reached gets `Outcome.GAP`:
   what is stored went back. Rows that are there already (a repeated call) get `Outcome.OK` and are
   not written again, so a caller whose connection broke may simply send the same batch once more.
3. Rows, messages, audit rows and the summary of one append become visible together.
4. An append without a row writes nothing, and tells whether its epoch is the current one.
5. After ``stop`` nobody goes on in that scope until somebody has looked: ``activate`` raises
   RolledBack, and ``append`` answers `Outcome.GAP`.
6. ``snapshot`` replaces the rows up to its sequence number; it never touches messages or audit.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol


class Key(NamedTuple):
    """The name of an entity. Everything of one ``scope`` (a workspace) lives in one place."""

    scope: str
    kind: str
    id: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.id}"


class Outcome(enum.Enum):
    """What became of an append or a snapshot."""

    OK = "ok"
    FENCED = "fenced"
    GAP = "gap"


@dataclass(frozen=True, slots=True)
class Summary:
    """A line about a session for listings, filed under its family."""

    family: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Append:
    """Rows that one entity wants written after row number ``after``, in epoch ``epoch``.

    ``create`` lets an entity that is not there yet come into being at epoch 1 without an
    activation. It is a word that only this creator knows: repeated, the append succeeds; from
    anybody else it is fenced, since the entity exists.
    """

    key: Key
    epoch: int
    after: int
    row: bytes
    messages: Sequence[bytes] = ()
    audit: Sequence[bytes] = ()
    summary: Summary | None = None
    create: str = ""


@dataclass(frozen=True, slots=True)
class Loaded:
    """An entity as stored: rows ``seq - len(rows) + 1`` to ``seq`` follow the snapshot."""

    epoch: int
    seq: int
    snapshot: bytes | None
    rows: Sequence[bytes]


class Journal(Protocol):
    """Durable storage for entities; see the module's docstring for the contract.

    Every method raises StoreUnavailable when the storage does not answer in time.
    """

    async def activate(self, key: Key) -> Loaded:
        """Take the entity over: raise its epoch and load it."""
        ...

    async def read(self, key: Key) -> Loaded:
        """Load the entity without taking it over."""
        ...

    async def append(self, batch: Sequence[Append]) -> Sequence[Outcome]:
        """Write each append of the batch; one outcome for each, in order."""
        ...

    async def stop(self, scope: str, why: str) -> None:
        """Let nobody go on in this scope, for good, and say ``why``."""
        ...

    async def snapshot(self, key: Key, epoch: int, seq: int, data: bytes) -> Outcome:
        """Replace rows up to ``seq`` by ``data``."""
        ...

    async def messages(self, key: Key, start: int, stop: int) -> Sequence[bytes]:
        """Messages ``start`` to ``stop`` (exclusive) of the entity's message list."""
        ...

    async def audit(self, key: Key, start: int, stop: int) -> Sequence[bytes]:
        """Audit rows ``start`` to ``stop`` (exclusive)."""
        ...
