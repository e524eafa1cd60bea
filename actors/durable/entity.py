"""The entity shell: a pure state machine, its journal, and the one rule between them.

`Entity.do` decides, evolves and queues the events without an await in between; `Entity.committed`
returns when everything done so far is durable. A reply may leave only after it.

An entity whose write failed or was fenced is *broken*: memory may be ahead of the journal. It
refuses everything from then on, and its owner activates it anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import msgspec

from retinue.actors.domain.errors import CorruptState, Fenced, RetinueError
from retinue.actors.domain.values.keyring import Keyring
from retinue.actors.durable.audit import AuditChain, Head
from retinue.actors.durable.codec import Codec, Machine
from retinue.actors.durable.committer import Committer, went_back
from retinue.actors.durable.journal import Append, Journal, Key, Loaded, Outcome, Summary
from retinue.actors.telemetry import metrics

S = TypeVar("S")
C = TypeVar("C")
E = TypeVar("E")
R = TypeVar("R")

Clock = Callable[[], int]
"""Gives the time in microseconds since the epoch, UTC."""

_COMPACT_AFTER_ROWS = 512


class Confirms(Protocol):
    """An entity of any type, whose state a reply depends on."""

    def confirmation(self) -> asyncio.Future[None]: ...


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
        """A new entity, at epoch 1 if ``creator`` is given; `activate` loads an existing one."""
        self.key = key
        self.state: S = machine.initial()
        self.epoch: int = 1 if creator else 0
        self.seq: int = 0
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
        """Takes the entity over and recovers its state.

        Raises Tampered or CorruptState, naming the entity, if the stored data can't be trusted,
        or was written by a newer version, in which case nothing is taken over.
        """
        entity = cls(machine, key, committer, keyring, clock)
        entity._recover(await committer.journal.activate(key, machine.version))
        return entity

    def summarise(self, summary: Callable[[], Summary | None]) -> None:
        """Writes ``summary()`` with every flush from now on."""
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
        """Returns when everything done so far is durable.

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
        """As `committed`, and this was still the newest activation when the call was made.

        For replies that may depend on no write of their own: an overtaken activation must not
        answer from its memory.
        """
        await self.confirmation()

    def confirmation(self) -> asyncio.Future[None]:
        """The future that `confirmed` awaits: those of several entities come with one flush."""
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
        """True if enough rows have come together since the last snapshot.

        A snapshot is written for as many bytes of rows as it has itself, so that the cost of
        writing does not grow with the state.
        """
        return (
            self._rows_since_snapshot >= _COMPACT_AFTER_ROWS
            and self._bytes_since_snapshot >= self._snapshot_bytes
        )

    def take(self) -> Append:
        """The queued events as one row for the committer, or a question if there are none."""
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
        """Takes in the outcome of the row, for the committer."""
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
        """Refuses everything from here on: memory and journal may differ."""
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
