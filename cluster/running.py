"""What `troupe up` leaves for others to join, and whether it still runs.

The process that `up` started holds a lock for as long as it lives, so a file that it could not
remove, after a power cut for example, is never taken for a running cluster.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from actors.domain.errors import ClusterUnavailable
from cluster.settings import ClusterSettings, state_directory

_HOLD_LIMIT_S = 2.0


class Running(msgspec.Struct, frozen=True):
    """A cluster that `troupe up` has started."""

    pid: int
    address: str
    settings: ClusterSettings


def up_file() -> Path:
    """Where `troupe up` says what it started."""
    return state_directory() / "up.json"


def running() -> Running | None:
    """What `troupe up` has started on this state directory, if it is alive."""
    try:
        found = msgspec.json.decode(up_file().read_bytes(), type=Running)
    except (OSError, msgspec.MsgspecError):
        return None
    return found if held() else None


@contextlib.contextmanager
def hold() -> Iterator[None]:
    """Be the one that runs on this state directory; ClusterUnavailable if another one is."""
    lock = os.open(_lock_file(), os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + _HOLD_LIMIT_S  # those who look hold it for a moment
    try:
        while not _locked(lock, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                raise ClusterUnavailable(
                    f"another `troupe up` runs on {state_directory()}: see `troupe doctor`"
                )
            time.sleep(0.02)
        yield
    finally:
        os.close(lock)


def announce(running: Running) -> None:
    """Let others join: they see all of it or nothing."""
    file = up_file()
    draft = file.with_suffix(".new")
    draft.write_bytes(msgspec.json.encode(running))
    draft.chmod(0o600)
    draft.replace(file)


def withdraw() -> None:
    """Nobody is to join any more."""
    up_file().unlink(missing_ok=True)


def held() -> bool:
    """Whether the process that `up` started is alive, ready or not."""
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
