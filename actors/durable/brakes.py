"""The brakes of workspaces as known to this process, and the pausing of its sessions.

A workspace's budget keeps its brake, and writes it to the journal along with its row. Every append
in that workspace is answered with it, so each commit tells whether the workspace was on hold when
it was made, at no further cost. For all paused sessions of a workspace one task asks again now and
then.

The brake is sealed with its number: one that was tampered with keeps everything paused, and one
older than the one known is an answer that came late.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec

from retinue.actors.domain.budget.state import Brake, Hold
from retinue.actors.domain.errors import CorruptState, RetinueError, Unavailable, WorkspaceHeld
from retinue.actors.domain.values.keyring import Keyring
from retinue.actors.domain.values.rfc3339 import to_rfc3339
from retinue.actors.durable.journal import Journal

BRAKE_FORM = 1
"""The version of the stored form of a brake: its number, then [version, brake] sealed."""

FRESH_S = 0.5
"""Seconds for which an answer that the workspace is not on hold may be used."""

_POLL_S = 0.5
_NUMBER_BYTES = 8
T = TypeVar("T")
_LOG = logging.getLogger("retinue")
_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(tuple[int, msgspec.Raw])
_BRAKE = msgspec.msgpack.Decoder(Brake)


def seal_brake(keyring: Keyring, workspace_id: str, brake: Brake) -> bytes:
    """The brake as the journal keeps it."""
    data = _ENCODER.encode((BRAKE_FORM, brake))
    sealed = keyring.seal(data, f"{workspace_id}/brake/{brake.number}")
    return brake.number.to_bytes(_NUMBER_BYTES, "big") + sealed


def open_brake(keyring: Keyring, workspace_id: str, stored: bytes) -> Brake:
    """The brake as it was sealed; Tampered or CorruptState, naming the workspace, otherwise."""
    if not stored:
        return Brake()
    number = int.from_bytes(stored[:_NUMBER_BYTES], "big")
    what = f"the brake of workspace {workspace_id}"
    data = keyring.open(stored[_NUMBER_BYTES:], f"{workspace_id}/brake/{number}", what)
    try:
        form, content = _DECODER.decode(data)
        if form > BRAKE_FORM:
            raise CorruptState(f"{what} was written by a newer version of Retinue (form {form})")
        return _BRAKE.decode(content)
    except msgspec.MsgspecError as error:
        raise CorruptState(f"{what} can't be read: {error}") from error


def held_error(hold: Hold, path: str | None) -> WorkspaceHeld:
    """The error for starting something in a workspace that is on hold."""
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
    """The facts known of one workspace, as of a request that was sent at ``asked``."""

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
    """The brakes of all workspaces that this process deals with."""

    def __init__(self, journal: Journal, keyring: Keyring) -> None:
        self._journal = journal
        self._keyring = keyring
        self._seen: dict[str, _Seen] = {}

    def learn(self, brakes: Mapping[str, bytes], asked: float) -> None:
        """Takes in the journal's answers to a request that was sent at ``asked``."""
        for workspace_id, stored in brakes.items():
            seen = self._of(workspace_id)
            seen.asked = max(seen.asked, asked)
            if stored != seen.stored:
                self._look(workspace_id, seen, stored)

    def hold(self, workspace_id: str) -> Hold | None:
        """The hold on the workspace, as far as is known here; None if there is none."""
        seen = self._seen.get(workspace_id)
        return seen.hold if seen else None

    def refusal(self, workspace_id: str, path: str | None) -> RetinueError | None:
        """The error for starting something in the workspace of ``path``; None if it may start."""
        seen = self._of(workspace_id)
        if seen.bent:
            return seen.bent
        return held_error(seen.hold, path) if seen.hold else None

    def held(self, workspace_id: str, now: int) -> int:
        """The workspace's total time on hold, as far as is known, in microseconds."""
        return self._of(workspace_id).brake.held(now)

    async def refresh(self, workspace_id: str) -> Hold | None:
        """Asks the journal for the hold on the workspace; None if there is none."""
        asked = asyncio.get_running_loop().time()
        self.learn({workspace_id: await self._journal.brake(workspace_id)}, asked)
        return self.hold(workspace_id)

    async def released(self, workspace_id: str) -> None:
        """Returns once the workspace is not known to be on hold: at once if that is so already."""
        while self.hold(workspace_id):
            await self._news(self._of(workspace_id), workspace_id)

    async def clear(self, workspace_id: str) -> None:
        """As `released`, by knowledge no older than `FRESH_S`.

        A process that was suspended does not rely on older knowledge.
        """
        while not self.is_clear(workspace_id):
            await self.released(workspace_id)
            if not self._is_fresh(workspace_id):
                await self.refresh(workspace_id)

    def is_clear(self, workspace_id: str) -> bool:
        """Returns whether the workspace was not on hold just now."""
        return self.hold(workspace_id) is None and self._is_fresh(workspace_id)

    def _is_fresh(self, workspace_id: str) -> bool:
        return asyncio.get_running_loop().time() - self._of(workspace_id).asked <= FRESH_S

    async def _news(self, seen: _Seen, workspace_id: str) -> None:
        """Wait until something has changed; as long as anybody waits the journal is asked."""
        seen.waiting += 1
        if seen.watcher is None:
            seen.watcher = asyncio.create_task(self._watch(seen, workspace_id))
        try:
            await seen.changed.wait()
        finally:
            seen.waiting -= 1
            if not seen.waiting:
                seen.watcher.cancel()
                seen.watcher = None

    async def _watch(self, seen: _Seen, workspace_id: str) -> None:
        while seen.hold:
            with contextlib.suppress(Unavailable):
                await self.refresh(workspace_id)
            if seen.hold:
                await asyncio.sleep(_POLL_S)

    def _look(self, workspace_id: str, seen: _Seen, stored: bytes) -> None:
        try:
            brake = open_brake(self._keyring, workspace_id, stored)
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

    def _of(self, workspace_id: str) -> _Seen:
        found = self._seen.get(workspace_id)
        if found is None:
            found = self._seen[workspace_id] = _Seen()
        return found


class TimeLimit:
    """The time limit of a run, from now on; it stops counting while its workspace is on hold."""

    def __init__(
        self, limit_s: float | None, brakes: Brakes, workspace_id: str, clock: Callable[[], int]
    ) -> None:
        self._limit_s = limit_s
        self._brakes = brakes
        self._workspace_id = workspace_id
        self._clock = clock
        self._begun = asyncio.get_running_loop().time()
        self._held_before = brakes.held(workspace_id, clock())

    async def wait(self, work: asyncio.Future[T]) -> None:
        """Return when the work is done, or its time is up."""
        while not work.done():
            left = self._left()
            if left is not None and left <= 0:  # unless it stood still, which we may not know
                with contextlib.suppress(Unavailable):
                    await self._brakes.refresh(self._workspace_id)
                left = self._left()
                if left is not None and left <= 0:
                    return
            await asyncio.wait([work], timeout=left)

    def _left(self) -> float | None:
        if self._limit_s is None:
            return None
        if self._brakes.hold(self._workspace_id):
            return _POLL_S
        held = (
            self._brakes.held(self._workspace_id, self._clock()) - self._held_before
        ) / 1_000_000
        return self._limit_s - (asyncio.get_running_loop().time() - self._begun - held)
