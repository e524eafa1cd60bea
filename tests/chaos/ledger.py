"""The ledger: what was tried, and what was told, in one append-only file outside of the system.

Agents, the driver and the harness write to it, each line with one call that appends. A line that
comes later in the file was written later, whoever wrote it, so the order of the lines is what
"before" and "after" mean to the checker.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec
from msgspec import Struct


class Line(Struct, frozen=True, omit_defaults=True):
    """One line. ``op`` names what was done for the whole run of the harness, ``what`` its kind.

    ``kind`` is *tried* (about to be asked for), *told* (acknowledged), *ran* (a step's function was
    called), *began* or *ended* (an agent, in one ``life`` of many), *alive* (it still does
    something), *left* (a helper of an agent, after the end of its run was acknowledged),
    *unavailable*, *fault*, *paused*, *woken* or *orphaned* (its raylet is about to die). ``id`` is
    what the system calls it, ``at`` is in microseconds, on a clock that all processes of the
    machine share, and ``amount`` in nano-USD, or a process id.
    """

    kind: str
    what: str = ""
    op: str = ""
    at: int = 0
    pid: int = 0
    life: str = ""
    session: str = ""
    run: str = ""
    family: str = ""
    parent: str = ""
    id: str = ""
    amount: int = 0
    value: str = ""
    proof: str = ""
    many: list[str] = []


_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(Line)


class Ledger:
    """The writing end: one for each process that writes."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def note(self, line: Line) -> None:
        """Append a line; the time and the process are filled in."""
        stamped = msgspec.structs.replace(line, at=time.monotonic_ns() // 1000, pid=os.getpid())
        os.write(self._file, _ENCODER.encode(stamped) + b"\n")

    def close(self) -> None:
        os.close(self._file)


class Reader:
    """The reading end, which goes on where it stopped."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self.lines: list[Line] = []

    def read(self) -> list[Line]:
        """All lines so far."""
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
            whole = data[: data.rfind(b"\n") + 1]
            self._offset += len(whole)
            self.lines.extend(_DECODER.decode(line) for line in whole.splitlines())
        return self.lines


def read(path: Path) -> list[Line]:
    """All lines of a ledger."""
    return Reader(path).read()
