"""The driver's process: started, killed, and started again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec

from tests.chaos.cluster import ROOT
from tests.chaos.driver import Place


class Drivers:
    """One driver at a time."""

    def __init__(self, home: Path, place: Place) -> None:
        self.crashes: list[str] = []
        self._stop = Path(place.stop)
        self._log = home / "driver.log"
        self._place = home / "place.json"
        self._place.write_bytes(msgspec.json.encode(place))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start one, unless one runs or the work is done."""
        if self._process is None:
            with self._log.open("ab") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "tests.chaos.driver", str(self._place)],
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
        tail = self._log.read_text().strip().splitlines()[-3:]
        self.crashes.append(f"the driver ended with {self._process.returncode}: {' / '.join(tail)}")
        self._process = None
        self.start()
        return False

    def finish(self) -> None:
        """Tell it to begin nothing more."""
        self._stop.touch()

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else os.getpid()
