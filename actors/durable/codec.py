"""State machines, and how their events and states are stored: encoded, versioned and sealed."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import msgspec

from retinue.actors.domain.budget.state import Brake
from retinue.actors.domain.errors import CorruptState, InvalidValue
from retinue.actors.domain.values.keyring import Keyring
from retinue.actors.durable.audit import Head
from retinue.actors.durable.brakes import seal_brake
from retinue.actors.durable.journal import Key

S = TypeVar("S")
C = TypeVar("C")
E = TypeVar("E")
R = TypeVar("R")
T = TypeVar("T")

_CLEAR = 2  # bytes of a snapshot that are not compressed
_ENCODER = msgspec.msgpack.Encoder()
_PARTS = msgspec.msgpack.Decoder(list[msgspec.Raw])


@dataclass(frozen=True, slots=True)
class Machine(Generic[S, C, E, R]):
    """A state machine and its storage.

    ``version`` is that of the newest stored form; events of the ``audited`` types also go to the
    audit log, which outlives compaction. ``upkeep`` gives the commands that its store sends by
    itself, from time to time, if they would change anything.
    """

    kind: str
    version: int
    state: type[S]
    event: object
    initial: Callable[[], S]
    decide: Callable[[S, C, int], tuple[Sequence[E], R]]
    evolve: Callable[[S, E], S]
    validate: Callable[[S], None] = lambda state: None
    audited: tuple[type, ...] = ()
    brake: Callable[[S, Sequence[E]], Brake | None] = lambda state, events: None
    """The brake of the workspace, if this machine keeps it and a row of ``events`` shows it."""
    upkeep: tuple[C, ...] = ()
    rows: msgspec.msgpack.Decoder[tuple[int, list[E], Head]] = field(init=False)
    """Decodes a row."""
    states: msgspec.msgpack.Decoder[tuple[int, S, Head]] = field(init=False)
    """Decodes a snapshot."""

    def __post_init__(self) -> None:
        decoder = msgspec.msgpack.Decoder
        object.__setattr__(self, "rows", decoder(tuple[int, list[self.event], Head]))  # type: ignore[name-defined]
        object.__setattr__(self, "states", decoder(tuple[int, self.state, Head]))  # type: ignore[name-defined]

    def due(self, state: S, now: int) -> list[C]:
        """The upkeep commands that would change something by now."""
        return [command for command in self.upkeep if self.decide(state, command, now)[0]]


class Codec(Generic[S, E]):
    """Rows and snapshots as sealed bytes: [version, content], bound to the entity and position."""

    def __init__(self, machine: Machine[S, C, E, R], key: Key, keyring: Keyring) -> None:
        self._version = machine.version
        self._workspace_id = key.workspace_id
        self._context = f"{key.workspace_id}/{key.kind}/{key.id}"
        self._what = str(key)
        self._keyring = keyring
        self._encode = _ENCODER.encode
        self._rows, self._states = machine.rows, machine.states

    def encoded(self, event: E) -> msgspec.Raw:
        """An event as stored in rows; raises InvalidValue for a value that rows can't hold."""
        try:
            return msgspec.Raw(self._encode(event))
        except (TypeError, ValueError, OverflowError) as error:
            raise InvalidValue(f"{self._what}: what was asked can't be stored: {error}") from error

    def row(self, seq: int, events: Sequence[msgspec.Raw], head: Head) -> bytes:
        return self._keyring.seal(
            self._encode((self._version, events, head)), f"{self._context}/row/{seq}"
        )

    def events(self, seq: int, row: bytes) -> tuple[list[E], Head]:
        what = f"row {seq} of {self._what}"
        data = self._keyring.open(row, f"{self._context}/row/{seq}", what)
        return self._decode(self._rows, data, what)

    def snapshot(self, seq: int, state: S, head: Head) -> bytes:
        data = _squeezed(self._encode((self._version, state, head)))
        return seq.to_bytes(8, "big") + self._keyring.seal(data, f"{self._context}/snapshot/{seq}")

    def state(self, snapshot: bytes) -> tuple[int, S, Head]:
        seq = int.from_bytes(snapshot[:8], "big")
        what = f"the snapshot of {self._what}"
        data = self._keyring.open(snapshot[8:], f"{self._context}/snapshot/{seq}", what)
        return seq, *self._decode(self._states, _restored(data), what)

    def brake(self, brake: Brake) -> bytes:
        return seal_brake(self._keyring, self._workspace_id, brake)

    def message(self, index: int, data: bytes) -> bytes:
        return self._keyring.seal(data, f"{self._context}/message/{index}")

    def open_message(self, index: int, data: bytes) -> bytes:
        what = f"message {index} of {self._what}"
        return self._keyring.open(data, f"{self._context}/message/{index}", what)

    def _decode(
        self, decoder: msgspec.msgpack.Decoder[tuple[int, T, Head]], data: bytes, what: str
    ) -> tuple[T, Head]:
        try:
            version, content, head = decoder.decode(data)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            if _version_of(data) <= self._version:
                raise CorruptState(f"{what} can't be read: {error}") from error
            version = _version_of(data)
        if version > self._version:
            raise written_by_newer(what, version, self._version)
        return content, head


def written_by_newer(what: str, version: int, newest: int) -> CorruptState:
    """The error of an older node for a stored form that it can't read. It changes nothing."""
    return CorruptState(
        f"{what} was written by a newer version of Retinue (stored form {version}; "
        f"this node reads up to {newest}): upgrade this node, or ask one that is",
        form=version,
        newest=newest,
    )


def _squeezed(data: bytes) -> bytes:
    """The data compressed, except the list head and the version, which are read in place."""
    return data[:_CLEAR] + zlib.compress(data[_CLEAR:], level=1)


def _restored(data: bytes) -> bytes:
    try:
        return data[:_CLEAR] + zlib.decompress(data[_CLEAR:])
    except zlib.error:
        return data  # whoever decodes it will say what is wrong


def _version_of(data: bytes) -> int:
    """The version that stored bytes claim; 0 if they have none."""
    try:
        return msgspec.msgpack.decode(_PARTS.decode(data)[0], type=int)
    except (msgspec.MsgspecError, IndexError):
        return 0
