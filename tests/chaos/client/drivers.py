"""The driver's process: started, killed, and started again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec

from tests.chaos.client.driver import GONE, Place
from tests.chaos.grounds.nodes import ROOT

_TRACEBACK = "Traceback (most recent call last)"


class Drivers:
    """One driver at a time."""

    def __init__(self, home: Path, place: Place) -> None:
        self.crashes: list[str] = []
        self._stop = Path(place.stop)
        self._log = home / "driver.log"
        self._place = home / "place.json"
        self._place.write_bytes(msgspec.json.encode(place))
        self._process: subprocess.Popen[bytes] | None = None
        self._joins_by_address = place.address is not None
        self._said_before = 0

    def start(self) -> None:
        """Start one, unless one runs or the work is done."""
        if self._process is None:
            with self._log.open("ab") as log:
                self._said_before = log.tell()
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "tests.chaos.client.driver", str(self._place)],
                    cwd=ROOT,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )

    def kill(self) -> int:
        """Kill it with SIGKILL; its process id."""
        if self._process is None:
            return 0
        pid = self._process.pid
        self._process.kill()
        self._process.wait()
        self._process = None
        return pid

    def watch(self) -> bool:
        """Start it again if it ended by itself before it should; whether it has done its work."""
        if self._process is None or self._process.poll() is None:
            return False
        if self._process.returncode == 0 and self._stop.exists():
            return True
        if not self._ended_with_ray(self._process.returncode):
            tail = self._log.read_text().strip().splitlines()[-3:]
            code = self._process.returncode
            self.crashes.append(f"the driver ended with {code}: {' / '.join(tail)}")
        self._process = None
        self.start()
        return False

    def _ended_with_ray(self, code: int) -> bool:
        """Whether it ended because the Ray that it was a part of did, as Ray's clients do."""
        if self._joins_by_address:
            return False
        return code == GONE or (code != 0 and _TRACEBACK not in self._said())

    def _said(self) -> str:
        """What the last one has said."""
        with self._log.open(errors="replace") as log:
            log.seek(self._said_before)
            return log.read()

    def finish(self) -> None:
        """Tell it to begin nothing more."""
        self._stop.touch()

    def close(self) -> None:
        """End it, wherever it is."""
        self.kill()
