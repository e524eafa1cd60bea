"""What this process knows of the brakes of its workspaces, and how its sessions stand still.

A workspace's budget keeps its brake, and writes it to the journal along with its row. Every append
of that scope is answered with it, so each commit tells whether the workspace was on hold when it
was made, at no further cost. Whoever stands still asks again now and then, one for all of a scope.

The brake is sealed with its number: one that was bent keeps everything still, and one that is older
than what is known is an answer that came late.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec

from retinue.actors.domain.budget import Brake, Hold
from retinue.actors.domain.errors import CorruptState, RetinueError, Unavailable, WorkspaceHeld
from retinue.actors.domain.values.keyring import Keyring
from retinue.actors.domain.values.rfc3339 import to_rfc3339
from retinue.actors.durable.journal import Journal

BRAKE_FORM = 1
"""The version of the stored form of a brake: its number, then [version, brake] sealed."""

FRESH_S = 0.5
"""How long an answer that says that nobody holds the workspace is good for, in seconds."""

_POLL_S = 0.5
_NUMBER_BYTES = 8
T = TypeVar("T")
_LOG = logging.getLogger("retinue")
_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(tuple[int, msgspec.Raw])
_BRAKE = msgspec.msgpack.Decoder(Brake)


def seal_brake(keyring: Keyring, scope: str, brake: Brake) -> bytes:
    """The brake as the journal keeps it."""
    data = _ENCODER.encode((BRAKE_FORM, brake))
    sealed = keyring.seal(data, f"{scope}/brake/{brake.number}")
    return brake.number.to_bytes(_NUMBER_BYTES, "big") + sealed


def open_brake(keyring: Keyring, scope: str, stored: bytes) -> Brake:
    """The brake as it was sealed; Tampered or CorruptState, naming the scope, for anything else."""
    if not stored:
        return Brake()
    number = int.from_bytes(stored[:_NUMBER_BYTES], "big")
    what = f"the brake of workspace {scope}"
    data = keyring.open(stored[_NUMBER_BYTES:], f"{scope}/brake/{number}", what)
    try:
        form, content = _DECODER.decode(data)
        if form > BRAKE_FORM:
            raise CorruptState(f"{what} was written by a newer version of Retinue (form {form})")
        return _BRAKE.decode(content)
    except msgspec.MsgspecError as error:
        raise CorruptState(f"{what} can't be read: {error}") from error


def held_error(hold: Hold, path: str | None) -> WorkspaceHeld:
    """For somebody who wants to begin something in a workspace that is on hold."""
    return WorkspaceHeld(
        f"workspace {path} has been on hold since {to_rfc3339(hold.since)} by {hold.by}: "
        f"{hold.why}. Nothing begins there until `retinue release --workspace {path}`",
        workspace=path,
        by=hold.by,
        why=hold.why,
        since=to_rfc3339(hold.since),
    )


@dataclass(slots=True)
class _Seen:
    """What is known of one scope, as of a request that was sent at ``asked``."""

    stored: bytes = b""
    brake: Brake = field(default_factory=Brake)
    asked: float = float("-inf")
    bent: RetinueError | None = None
    waiting: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    watcher: asyncio.Task[None] | None = None

    @property
    def hold(self) -> Hold | None:
        return Hold("", self.bent.message, 0) if self.bent else self.brake.hold


class Brakes:
    """The brakes of all scopes that this process has to do with."""

    def __init__(self, journal: Journal, keyring: Keyring) -> None:
        self._journal = journal
        self._keyring = keyring
        self._seen: dict[str, _Seen] = {}

    def learn(self, brakes: Mapping[str, bytes], asked: float) -> None:
        """Take in what the journal has answered to a request that was sent at ``asked``."""
        for scope, stored in brakes.items():
            seen = self._of(scope)
            seen.asked = max(seen.asked, asked)
            if stored != seen.stored:
                self._look(scope, seen, stored)

    def hold(self, scope: str) -> Hold | None:
        """Who holds the scope, as far as is known here."""
        seen = self._seen.get(scope)
        return seen.hold if seen else None

    def refusal(self, scope: str, path: str | None) -> RetinueError | None:
        """What to tell somebody who wants to begin something in the workspace of ``path``."""
        seen = self._of(scope)
        if seen.bent:
            return seen.bent
        return held_error(seen.hold, path) if seen.hold else None

    def held(self, scope: str, now: int) -> int:
        """For how long the scope was on hold in all, as far as is known, in microseconds."""
        return self._of(scope).brake.held(now)

    async def refresh(self, scope: str) -> Hold | None:
        """Who holds the scope now."""
        asked = asyncio.get_running_loop().time()
        self.learn({scope: await self._journal.brake(scope)}, asked)
        return self.hold(scope)

    async def released(self, scope: str) -> None:
        """Return when nobody is known to hold the scope: at once if that is so."""
        while self.hold(scope):
            await self._news(self._of(scope), scope)

    async def clear(self, scope: str) -> None:
        """As `released`, and what is known is no older than `FRESH_S`.

        A process that slept does not go by what it knew before.
        """
        while not self.is_clear(scope):
            await self.released(scope)
            if not self._is_fresh(scope):
                await self.refresh(scope)

    def is_clear(self, scope: str) -> bool:
        """Whether nobody held the scope just now."""
        return self.hold(scope) is None and self._is_fresh(scope)

    def _is_fresh(self, scope: str) -> bool:
        return asyncio.get_running_loop().time() - self._of(scope).asked <= FRESH_S

    async def _news(self, seen: _Seen, scope: str) -> None:
        """Wait until something has changed; as long as anybody waits the journal is asked."""
        seen.waiting += 1
        if seen.watcher is None:
            seen.watcher = asyncio.create_task(self._watch(seen, scope))
        try:
            await seen.changed.wait()
        finally:
            seen.waiting -= 1
            if not seen.waiting:
                seen.watcher.cancel()
                seen.watcher = None

    async def _watch(self, seen: _Seen, scope: str) -> None:
        while seen.hold:
            with contextlib.suppress(Unavailable):
                await self.refresh(scope)
            if seen.hold:
                await asyncio.sleep(_POLL_S)

    def _look(self, scope: str, seen: _Seen, stored: bytes) -> None:
        try:
            brake = open_brake(self._keyring, scope, stored)
        except RetinueError as error:
            _LOG.warning("%s: everything there stands still", error.message)
            seen.stored, seen.bent = stored, error
        else:
            if brake.number < seen.brake.number:  # an answer that came late
                return
            seen.stored, seen.brake, seen.bent = stored, brake, None
        if seen.hold:
            seen.changed.clear()
        else:
            seen.changed.set()

    def _of(self, scope: str) -> _Seen:
        found = self._seen.get(scope)
        if found is None:
            found = self._seen[scope] = _Seen()
        return found


class TimeLimit:
    """The time that a run has, from now on; while its workspace is on hold it stands still."""

    def __init__(
        self, limit_s: float | None, brakes: Brakes, scope: str, clock: Callable[[], int]
    ) -> None:
        self._limit_s = limit_s
        self._brakes = brakes
        self._scope = scope
        self._clock = clock
        self._begun = asyncio.get_running_loop().time()
        self._held_before = brakes.held(scope, clock())

    async def wait(self, work: asyncio.Future[T]) -> None:
        """Return when the work is done, or its time is up."""
        while not work.done():
            left = self._left()
            if left is not None and left <= 0:  # unless it stood still, which we may not know
                with contextlib.suppress(Unavailable):
                    await self._brakes.refresh(self._scope)
                left = self._left()
                if left is not None and left <= 0:
                    return
            await asyncio.wait([work], timeout=left)

    def _left(self) -> float | None:
        if self._limit_s is None:
            return None
        if self._brakes.hold(self._scope):
            return _POLL_S
        held = (self._brakes.held(self._scope, self._clock()) - self._held_before) / 1_000_000
        return self._limit_s - (asyncio.get_running_loop().time() - self._begun - held)
