"""The journal port: the durable storage that an entity needs, and nothing more.

The contract, which `tests/actors/durable/test_journal.py` holds for every implementation:

1. ``activate`` raises the entity's epoch and returns snapshot and tail in one atomic step.
2. ``append`` takes rows only from the current epoch and only in sequence. An older epoch gets
   `Outcome.FENCED`, and an epoch or row that the journal has never reached gets `Outcome.GAP`:
   stored rows were lost. Rows that are there already (a repeated call) get `Outcome.OK` and are
   not written again, so a caller whose connection broke may simply send the same batch once more.
3. Rows, messages, audit rows and the summary of one append become visible together, and so does
   the summary's place in the index of root sessions: a position has one state at a time.
4. An append without a row writes nothing, and tells whether its epoch is the current one.
5. After ``stop`` nothing goes on in that workspace until somebody intervenes: ``activate`` raises
   RolledBack, and ``append`` answers `Outcome.GAP`.
6. ``snapshot`` replaces the rows up to its sequence number; it never touches messages or audit.
7. A workspace has one brake, empty at first. A row brings a new one along, in the same step, if it
   is written; and every append is answered with its workspace's brake as it is after that append.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

VERSION_AT = 21
"""The offset of the version in a row, after its mark and the list head. One byte, below 128.

`retinue.actors.durable.codec.Codec` makes rows, and ``activate.lua`` looks there too.
"""

SNAPSHOT_HEADER = 8
"""The bytes of the sequence number in front of a snapshot, which is a row otherwise."""


class Key(NamedTuple):
    """The name of an entity. Everything of one workspace lives in one place."""

    workspace_id: str
    kind: str
    id: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.id}"


class Outcome(enum.Enum):
    """The outcome of an append or a snapshot."""

    OK = "ok"
    FENCED = "fenced"
    GAP = "gap"


class Summary(NamedTuple):
    """A line about a session for listings, filed under its family.

    ``listed`` is where the workspace's index of root sessions has it from now on: the code of its
    state, and its position (`retinue.actors.session.listing`). None leaves the index alone.
    """

    family: str
    data: bytes
    listed: tuple[bytes, bytes] | None = None


class Outcomes(list[Outcome]):
    """The outcomes of a batch in order, and the brake of each workspace involved."""

    def __init__(self, outcomes: Iterable[Outcome], brakes: dict[str, bytes]) -> None:
        super().__init__(outcomes)
        self.brakes = brakes


class Append(NamedTuple):
    """Rows that one entity wants written after row number ``after``, in epoch ``epoch``.

    ``create`` lets an entity that is not there yet come into being at epoch 1 without an
    activation. It is a word that only this creator knows: repeated, the append succeeds; from
    anybody else it is fenced, since the entity exists. ``brake`` is the workspace's brake
    from this row on; empty leaves it alone.
    """

    key: Key
    epoch: int
    after: int
    row: bytes
    messages: Sequence[bytes] = ()
    audit: Sequence[bytes] = ()
    summary: Summary | None = None
    create: str = ""
    brake: bytes = b""


@dataclass(frozen=True, slots=True)
class Loaded:
    """An entity as stored: rows ``seq - len(rows) + 1`` to ``seq`` follow the snapshot."""

    epoch: int
    seq: int
    snapshot: bytes | None
    rows: Sequence[bytes]


def stored_version(loaded: Loaded) -> int:
    """The version of the latest stored bytes, as they claim; 0 if they have none."""
    if loaded.rows:
        return int.from_bytes(loaded.rows[-1][VERSION_AT : VERSION_AT + 1], "big")
    start = SNAPSHOT_HEADER + VERSION_AT
    return int.from_bytes((loaded.snapshot or b"")[start : start + 1], "big")


class Journal(Protocol):
    """Durable storage for entities; see the module's docstring for the contract.

    Every method raises StoreUnavailable when the storage does not answer in time.
    """

    async def activate(self, key: Key, newest: int | None = None) -> Loaded:
        """Takes the entity over: raises its epoch and loads it.

        If the latest data is of a version above ``newest`` the entity is only loaded: a node that
        can't read it must not end the activation of one that can.
        """
        ...

    async def read(self, key: Key) -> Loaded:
        """Load the entity without taking it over."""
        ...

    async def append(self, batch: Sequence[Append]) -> Outcomes:
        """Write each append of the batch; one outcome for each, in order."""
        ...

    async def brake(self, workspace_id: str) -> bytes:
        """The workspace's brake as it is now."""
        ...

    async def stop(self, workspace_id: str, why: str) -> None:
        """Stops this workspace for everybody, permanently, with the reason ``why``."""
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
