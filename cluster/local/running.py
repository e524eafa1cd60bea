"""The announcement that `retinue up` leaves for others to join, and its state.

The process that `up` started, the supervisor, holds a lock for as long as it lives, so a file that
it could not remove, after a power cut for example, is never taken for a running cluster. The
cluster itself is started by another process, or by a new one each time it is brought back. The file
names all processes whose death makes the cluster one that nobody should join.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from retinue.actors.domain.errors import ClusterUnavailable
from retinue.cluster.local.state import state_directory
from retinue.cluster.settings import ClusterSettings

State: TypeAlias = Literal["up", "coming back", "ended"]

_HOLD_LIMIT_S = 2.0
_PATIENCE_S = 2.5  # with what a command takes to start and to join that is less than 5 s
_PAUSE_S = 0.1


class Part(msgspec.Struct, frozen=True):
    """A process of the cluster; ``started`` tells it from a later one with the same id."""

    name: str
    pid: int
    started: str


class Running(msgspec.Struct, frozen=True):
    """A cluster that `retinue up` has started. ``pid`` is its supervisor.

    ``incarnation`` counts its starts. It has been in ``state`` since ``since`` (seconds since the
    epoch); ``why`` is the reason it is not up.
    """

    pid: int
    address: str
    settings: ClusterSettings
    incarnation: int = 1
    parts: tuple[Part, ...] = ()
    state: State = "up"
    since: float = 0.0
    why: str = ""


def up_file() -> Path:
    """The file in which `retinue up` announces what it started."""
    return state_directory() / "up.json"


def announced() -> Running | None:
    """The last announcement not withdrawn, whether or not anything of it is alive."""
    try:
        return msgspec.json.decode(up_file().read_bytes(), type=Running)
    except (OSError, msgspec.MsgspecError):
        return None


def standing() -> Running | None:
    """The announcement, if valid: its supervisor is alive, or has announced the reason it ended."""
    found = announced()
    return found if found and (found.state == "ended" or held()) else None


def running() -> Running | None:
    """The cluster of `retinue up` on this state directory, if its supervisor is alive."""
    found = standing()
    return found if found and found.state != "ended" else None


async def joinable() -> Running | None:
    """The cluster that can be joined now; None if none is up.

    Waits a few seconds for a cluster that is being brought back. Raises ClusterUnavailable if it is
    not back then, or, until `up` or `down`, if it ended because it could not be brought back.
    """
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        found = standing()
        if found is None:
            return None
        problem = trouble(found, alive, time.time())
        if problem is None:
            return found
        if found.state == "ended" or time.monotonic() > deadline:
            raise ClusterUnavailable(problem)
        await asyncio.sleep(_PAUSE_S)


async def next_incarnation(after: int, limit_s: float) -> None:
    """Wait until a later incarnation than ``after`` is up, or nothing is, or time is up."""
    deadline = time.monotonic() + limit_s
    while (found := running()) and time.monotonic() < deadline:
        if found.incarnation > after and found.state == "up":
            return
        await asyncio.sleep(_PAUSE_S)


def trouble(found: Running, is_alive: Callable[[Part], bool], now: float) -> str | None:
    """The reason a supervised cluster can't be joined, and the remedy; None if it can."""
    if found.state == "ended":
        return (
            f"the local cluster has ended, since it could not be brought back: {found.why}: "
            "`retinue up` starts it again, and `retinue down` forgets it"
        )
    if found.state == "coming back":
        ago = max(0, round(now - found.since))
        return _coming_back(f"its {found.why} {ago} s ago")
    dead = next((part for part in found.parts if not is_alive(part)), None)
    return _coming_back(f"its {dead.name} has just died") if dead else None


def loss(joined: Running, found: Running | None, is_alive: Callable[[Part], bool]) -> str | None:
    """The message for a client that has joined ``joined``, given the announcement of now.

    None as long as all is well. ``found`` is None if nothing is up any more.
    """
    if found is None:
        return (
            "the local cluster was stopped: nothing is lost, and `retinue resume ID` goes on with "
            "a run that was interrupted"
        )
    if found.state == "ended":
        return trouble(found, is_alive, 0.0)
    if found.incarnation != joined.incarnation or found.state != "up":
        why = found.why or "process has died"
    elif dead := next((part for part in found.parts if not is_alive(part)), None):
        why = f"{dead.name} has died"
    else:
        return None
    return (
        f"the local cluster was lost (its {why}), and is being brought back: runs go on by "
        "themselves, and `retinue resume ID` waits for one"
    )


def _coming_back(why: str) -> str:
    return (
        f"the local cluster is being brought back ({why}): try again in a few seconds; runs that "
        "were at work go on by themselves"
    )


def part(name: str, pid: int) -> Part:
    """A process that is alive now."""
    return Part(name, pid, _start_of(pid) or "")


def alive(part: Part) -> bool:
    """Returns whether a process is still the same one, and not a zombie."""
    return _start_of(part.pid) == part.started


def _start_of(pid: int) -> str | None:
    """The start time of a process, in ticks since the machine's start; None if it has ended."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stat:
            fields = stat.read().rpartition(")")[2].split()
    except OSError:
        return None if os.path.isdir("/proc/self") else _start_elsewhere(pid)
    return None if fields[0] in "ZX" else fields[19]


def _start_elsewhere(pid: int) -> str | None:
    try:
        os.kill(pid, 0)
    except OSError:
        return None
    return ""


@contextlib.contextmanager
def hold() -> Iterator[None]:
    """Holds this state directory's lock; raises ClusterUnavailable if another process has it."""
    lock = os.open(_lock_file(), os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + _HOLD_LIMIT_S  # those who look hold it for a moment
    try:
        while not _locked(lock, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                raise ClusterUnavailable(
                    f"another `retinue up` runs on {state_directory()}: see `retinue doctor`"
                )
            time.sleep(0.02)
        yield
    finally:
        os.close(lock)


def announce(running: Running) -> None:
    """Publish the announcement atomically: others see all of it or nothing."""
    file = up_file()
    draft = file.with_suffix(".new")
    draft.write_bytes(msgspec.json.encode(running))
    draft.chmod(0o600)
    draft.replace(file)


def withdraw() -> None:
    """Withdraw the announcement, so that nobody joins any more."""
    up_file().unlink(missing_ok=True)


def held() -> bool:
    """Returns whether the process that `up` started is alive, ready or not."""
    try:
        lock = os.open(_lock_file(), os.O_RDWR)
    except OSError:
        return False
    try:
        return not _locked(lock, fcntl.LOCK_SH)
    finally:
        os.close(lock)


def _locked(lock: int, kind: int) -> bool:
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lock_file() -> Path:
    return state_directory() / "up.lock"
