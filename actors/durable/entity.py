"""The entity shell: a pure state machine, its journal, and the one rule between them.

`Entity.do` decides, evolves and queues the events without an await in between; `Entity.committed`
returns when everything done so far is durable. A reply may leave only after it. The `Committer` of
a process writes the queued rows of all its entities in one batch, and while that is under way the
next one fills up.

An entity whose write failed or was fenced is *broken*: memory may be ahead of the journal. It
refuses everything from then on, and its owner activates it anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import msgspec

from retinue.actors.domain.budget.state import Brake
from retinue.actors.domain.errors import (
    CorruptState,
    Fenced,
    InvalidValue,
    RetinueError,
    RolledBack,
    StoreUnavailable,
)
from retinue.actors.domain.values.keyring import Keyring
from retinue.actors.durable.audit import AuditChain, Head
from retinue.actors.durable.brakes import seal_brake
from retinue.actors.durable.journal import Append, Journal, Key, Loaded, Outcome, Summary
from retinue.actors.telemetry import metrics

S = TypeVar("S")
C = TypeVar("C")
E = TypeVar("E")
R = TypeVar("R")
T = TypeVar("T")

Clock = Callable[[], int]
"""Gives the time in microseconds since the epoch, UTC."""

Learn = Callable[[Mapping[str, bytes], float], None]
"""Takes in the brakes of workspaces as of a request, which was sent at that time of the loop."""

_MOST_PER_FLUSH = 256
_COMPACT_AFTER_ROWS = 512
_CLEAR = 2  # bytes of a snapshot that are not compressed


@dataclass(frozen=True, slots=True)
class Machine(Generic[S, C, E, R]):
    """A state machine and how it is stored.

    ``version`` is that of the newest stored form; events of the ``audited`` types also go to the
    audit log, which outlives compaction. ``upkeep`` is what its store sends by itself, from time to
    time, where it would change anything.
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
    """The brake of the workspace, where this is what keeps it, if a row of ``events`` shows it."""
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
        """The upkeep that would change something by now."""
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
        """An event as rows hold it; InvalidValue if there is something in it that they can't."""
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
    """What an older node says of a stored form that it can't read. It changes nothing."""
    return CorruptState(
        f"{what} was written by a newer version of Retinue (stored form {version}; "
        f"this node reads up to {newest}): upgrade this node, or ask one that is",
        form=version,
        newest=newest,
    )


_ENCODER = msgspec.msgpack.Encoder()
_PARTS = msgspec.msgpack.Decoder(list[msgspec.Raw])


def _squeezed(data: bytes) -> bytes:
    """Compressed but for the head of the list and the version, which are read where they are."""
    return data[:_CLEAR] + zlib.compress(data[_CLEAR:], level=1)


def _restored(data: bytes) -> bytes:
    try:
        return data[:_CLEAR] + zlib.decompress(data[_CLEAR:])
    except zlib.error:
        return data  # whoever decodes it will say what is wrong


def _version_of(data: bytes) -> int:
    """The version that stored bytes say they are of; 0 if they don't say it."""
    try:
        return msgspec.msgpack.decode(_PARTS.decode(data)[0], type=int)
    except (msgspec.MsgspecError, IndexError):
        return 0


def went_back(key: Key) -> RolledBack:
    """For an entity that knows of more than is stored."""
    return RolledBack(
        f"{key}: Redis has lost rows that it had confirmed: it was restored from an older copy, or "
        "a replica took over that did not have them. Nothing goes on here until somebody has looked"
    )


class Writes(Protocol):
    """What the committer needs from an entity."""

    def take(self) -> Append: ...
    def settle(self, outcome: Outcome) -> None: ...
    def fail(self, error: RetinueError) -> None: ...


class Confirms(Protocol):
    """An entity, whatever it is of, as one whose state a reply rests on."""

    def confirmation(self) -> asyncio.Future[None]: ...


class Committer:
    """Group commit for all entities of this process."""

    def __init__(self, journal: Journal, learn: Learn = lambda brakes, asked: None) -> None:
        """``learn`` is told the brakes that the journal answers with, and when it was asked."""
        self.journal = journal
        self._learn = learn
        self._dirty: dict[Writes, None] = {}
        self._task: asyncio.Task[None] | None = None

    def enlist(self, entity: Writes) -> None:
        """Write the entity's queued events with the next flush."""
        self._dirty[entity] = None
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._flush())

    async def drain(self) -> None:
        """Return when nothing is queued or under way."""
        while self._task is not None and not self._task.done():
            await asyncio.wait([self._task])

    async def _flush(self) -> None:
        while self._dirty:
            batch = list(self._dirty)[:_MOST_PER_FLUSH]
            for entity in batch:
                del self._dirty[entity]
            try:
                appends = [entity.take() for entity in batch]
                asked = asyncio.get_running_loop().time()
                with metrics.COMMIT_SECONDS.timed():
                    outcomes = await self.journal.append(appends)
                metrics.COMMIT_SIZE.observe(len(appends))
            except Exception as error:  # whatever it is: those who wait must hear of it
                self._fail(batch, error)
            else:
                self._learn(outcomes.brakes, asked)  # before those who wait go on
                lost: Key | None = None
                for entity, append, outcome in zip(batch, appends, outcomes, strict=True):
                    if outcome is not Outcome.OK:
                        self._dirty.pop(entity, None)
                        lost = append.key if outcome is Outcome.GAP else lost
                    entity.settle(outcome)
                if lost:
                    await self._stop(lost)

    async def _stop(self, key: Key) -> None:
        """Nobody else may go on from what is left of the workspace that ``key`` is in."""
        with contextlib.suppress(RetinueError):
            await self.journal.stop(key.workspace_id, went_back(key).message)

    def _fail(self, batch: Sequence[Writes], error: Exception) -> None:
        if not isinstance(error, RetinueError):
            error = StoreUnavailable(f"the journal failed: {type(error).__name__}: {error}")
        for entity in batch:
            self._dirty.pop(entity, None)
            entity.fail(error)


class Entity(Generic[S, C, E, R]):
    """One durable thing, live in this process under one epoch."""

    def __init__(
        self,
        machine: Machine[S, C, E, R],
        key: Key,
        committer: Committer,
        keyring: Keyring,
        clock: Clock,
        creator: str = "",
    ) -> None:
        """A new entity, at epoch 1 if ``creator`` is given; `activate` makes an existing one."""
        self.key = key
        self.state = machine.initial()
        self.epoch = 1 if creator else 0
        self.seq = 0
        self.broken: RetinueError | None = None
        self.on_break: Callable[[], None] = lambda: None
        self._chain = AuditChain(keyring)
        self._machine = machine
        self._committer = committer
        self._codec: Codec[S, E] = Codec(machine, key, keyring)
        self._clock = clock
        self._creator = creator
        self._events: list[E] = []
        self._encoded: list[msgspec.Raw] = []
        self._messages: list[bytes] = []
        self._summary: Callable[[], Summary | None] = lambda: None
        self._waiting: list[asyncio.Future[None]] = []
        self._in_flight: list[asyncio.Future[None]] | None = None
        self._rows_since_snapshot = 0
        self._bytes_since_snapshot = 0
        self._snapshot_bytes = 0

    @classmethod
    async def activate(
        cls,
        machine: Machine[S, C, E, R],
        key: Key,
        committer: Committer,
        keyring: Keyring,
        clock: Clock,
    ) -> Entity[S, C, E, R]:
        """Take the entity over and recover its state.

        Raises Tampered or CorruptState, naming the entity, if what is stored can't be trusted,
        or was written by a newer version, in which case nothing is taken over.
        """
        entity = cls(machine, key, committer, keyring, clock)
        entity._recover(await committer.journal.activate(key, machine.version))
        return entity

    def summarise(self, summary: Callable[[], Summary | None]) -> None:
        """Have ``summary()`` written with every flush from now on."""
        self._summary = summary

    def do(self, command: C) -> R:
        """Decide and evolve now; durable only after `committed`."""
        if self.broken:
            raise self.broken
        events, reply = self._machine.decide(self.state, command, self._clock())
        if events:
            encoded = [self._codec.encoded(event) for event in events]
            for event in events:
                self.state = self._machine.evolve(self.state, event)
            self._events.extend(events)
            self._encoded.extend(encoded)
            self._committer.enlist(self)
        return reply

    def add_message(self, index: int, data: bytes) -> None:
        """Append to the entity's message list together with the events of this flush."""
        self._messages.append(self._codec.message(index, data))

    async def messages(self, start: int, stop: int) -> list[bytes]:
        """Messages ``start`` to ``stop`` (exclusive), as far as they are durable."""
        sealed = await self._committer.journal.messages(self.key, start, stop)
        return [self._codec.open_message(start + at, data) for at, data in enumerate(sealed)]

    async def committed(self) -> None:
        """Return when all that was done so far is durable.

        Raises Fenced or StoreUnavailable if it is not, or may not be.
        """
        if self.broken:
            raise self.broken
        if self._events:
            waiting = self._waiting
        elif self._in_flight is not None:
            waiting = self._in_flight
        else:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting.append(future)
        await future

    async def confirmed(self) -> None:
        """As `committed`, and when it was called this was still the newest activation.

        For replies that may rest on no write of their own: one that was overtaken must not answer
        from its memory.
        """
        await self.confirmation()

    def confirmation(self) -> asyncio.Future[None]:
        """What `confirmed` waits for: of several entities these come with one flush."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.broken:
            future.set_exception(self.broken)
        else:
            self._waiting.append(future)
            self._committer.enlist(self)
        return future

    async def execute(self, command: C) -> R:
        """`do` and `committed`."""
        reply = self.do(command)
        await self.committed()
        return reply

    async def compact(self) -> None:
        """Store a snapshot in place of the rows so far; raises as `committed` does."""
        if self.broken:
            raise self.broken
        while self._events or self._in_flight is not None:
            await self.committed()
        if self._rows_since_snapshot == 0:
            return
        self._rows_since_snapshot = self._bytes_since_snapshot = 0
        seq, data = self.seq, self._codec.snapshot(self.seq, self.state, self._chain.head)
        self._snapshot_bytes = len(data)
        outcome = await self._committer.journal.snapshot(self.key, self.epoch, seq, data)
        if outcome is not Outcome.OK:
            self.settle(outcome)

    @property
    def wants_compaction(self) -> bool:
        """Whether enough has come together since the last snapshot.

        A snapshot is written for as many bytes of rows as it has itself, so that the cost of
        writing does not grow with the state.
        """
        return (
            self._rows_since_snapshot >= _COMPACT_AFTER_ROWS
            and self._bytes_since_snapshot >= self._snapshot_bytes
        )

    def take(self) -> Append:
        """For the committer: the queued events as one row, or a question if there are none."""
        if not self._events:
            self._in_flight, self._waiting = self._waiting, []
            return Append(self.key, self.epoch, self.seq, b"")
        events, self._events = self._events, []
        encoded, self._encoded = self._encoded, []
        messages, self._messages = self._messages, []
        self._in_flight, self._waiting = self._waiting, []
        audited = [event for event in events if isinstance(event, self._machine.audited)]
        audit = [self._chain.row(self._clock(), self.epoch, audited)] if audited else []
        brake = self._machine.brake(self.state, events)
        row = self._codec.row(self.seq + 1, encoded, self._chain.head)
        append = Append(
            self.key,
            self.epoch,
            self.seq,
            row,
            messages=messages,
            audit=audit,
            summary=self._summary(),
            create=self._creator if self.seq == 0 else "",
            brake=self._codec.brake(brake) if brake else b"",
        )
        self.seq += 1
        self._rows_since_snapshot += 1
        self._bytes_since_snapshot += len(row)
        return append

    def settle(self, outcome: Outcome) -> None:
        """For the committer: what became of the row."""
        if outcome is Outcome.FENCED:
            metrics.FENCED.add()
            self.fail(Fenced(f"{self.key} has been taken over by a newer activation"))
            return
        if outcome is Outcome.GAP:
            self.fail(went_back(self.key))
            return
        waiting, self._in_flight = self._in_flight or [], None
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def fail(self, error: RetinueError) -> None:
        """Memory and journal may differ from here on: refuse everything."""
        self.broken = error
        for future in (*(self._in_flight or ()), *self._waiting):
            if not future.done():
                future.set_exception(error)
        self._in_flight, self._waiting = None, []
        self.on_break()

    def _recover(self, loaded: Loaded) -> None:
        self.epoch, self.seq = loaded.epoch, loaded.seq
        seq = 0
        if loaded.snapshot is not None:
            seq, self.state, self._chain.head = self._codec.state(loaded.snapshot)
        if seq + len(loaded.rows) != loaded.seq:
            raise CorruptState(
                f"{self.key}: the journal has {len(loaded.rows)} rows after row {seq}, and should "
                f"end at row {loaded.seq}: rows were removed, or Redis was rolled back"
            )
        for row in loaded.rows:
            seq += 1
            events, self._chain.head = self._codec.events(seq, row)
            for event in events:
                self.state = self._machine.evolve(self.state, event)
        self._rows_since_snapshot = len(loaded.rows)
        self._bytes_since_snapshot = sum(map(len, loaded.rows))
        self._snapshot_bytes = len(loaded.snapshot or b"")
        self._machine.validate(self.state)


async def read(
    machine: Machine[S, C, E, R], key: Key, journal: Journal, keyring: Keyring
) -> S | None:
    """The state of an entity as stored, without taking it over; None if there is none."""
    found = await read_with_head(machine, key, journal, keyring)
    return found[0] if found else None


async def read_with_head(
    machine: Machine[S, C, E, R], key: Key, journal: Journal, keyring: Keyring
) -> tuple[S, Head] | None:
    """As `read`, with the head of the entity's audit chain."""
    loaded = await journal.read(key)
    if loaded.epoch == 0:
        return None
    entity = Entity(machine, key, Committer(journal), keyring, lambda: 0)
    entity._recover(loaded)
    return entity.state, entity._chain.head
