"""The process behind `retinue up`, which keeps a cluster up; and its start and stop.

``python -m retinue.cluster.up.daemon`` is that process, the supervisor. It has neither Ray nor
Redis in it: one of its children (`retinue.cluster.up.incarnation`) brings the cluster up, which
ends with that child as a whole. If a part of it dies, the next child brings it back on the same
state, and interrupted work goes on. The supervisor is ready once it has announced a cluster; the
last line of its output is the reason if there is none.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from retinue.actors.agent.process import proctree
from retinue.actors.domain.errors import ClusterUnavailable
from retinue.cluster.local import running as up
from retinue.cluster.local.reaper import MARK
from retinue.cluster.local.state import state_directory
from retinue.cluster.terminal.outcome import OK, report
from retinue.cluster.up.supervisor import Supervisor

_START_LIMIT_S = 90.0
_STOP_LIMIT_S = 30.0
_ENDING = (signal.SIGTERM, signal.SIGHUP)
_PAUSE_S = 0.05


def start() -> tuple[up.Running, bool]:
    """The running cluster, and True if it was started just now.

    Raises ClusterUnavailable with the daemon's own words if it did not start.
    """
    with _one_start_at_a_time():
        if found := up.running():
            return found, False
        log = log_file()
        with log.open("wb") as out:
            log.chmod(0o600)
            daemon = subprocess.Popen(
                [sys.executable, "-m", "retinue.cluster.up.daemon"],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                cwd=state_directory(),
                env=_environment(),
            )
        try:
            return _ready(daemon, log), True
        except BaseException:
            daemon.terminate()
            raise


def stop() -> int | None:
    """Stops the running cluster, waits until it is gone, and returns its process id, or None.

    Raises ClusterUnavailable if it does not end.
    """
    found = up.running()
    if found is None:
        up.withdraw()
        return None
    with contextlib.suppress(ProcessLookupError):
        os.kill(found.pid, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_LIMIT_S
    while up.held():
        if time.monotonic() > deadline:
            raise ClusterUnavailable(
                f"process {found.pid} does not stop: see {log_file()}, or `kill -9 {found.pid}`"
            )
        time.sleep(_PAUSE_S)
    up.withdraw()
    return found.pid


def log_file() -> Path:
    """The log file of the daemon's output."""
    return state_directory() / "up.log"


def main() -> int:
    """Runs the daemon: brings everything up, announces it, and waits until told to stop."""
    try:
        with up.hold():
            return _serve()
    except KeyboardInterrupt:
        return OK
    except Exception as error:
        return report(error, as_json=False)


def _serve() -> int:
    for one in _ENDING:
        signal.signal(one, _interrupt)
    proctree.adopt_orphans()  # so that it sees all of a cluster end
    up.withdraw()
    supervisor = Supervisor()
    try:
        return supervisor.supervise()
    except KeyboardInterrupt:
        up.withdraw()
        raise
    finally:
        supervisor.stop()


def _interrupt(number: int, frame: object) -> None:
    for one in _ENDING:
        signal.signal(one, signal.SIG_IGN)  # once is enough: what follows is tidying up
    raise KeyboardInterrupt


def _ready(daemon: subprocess.Popen[bytes], log: Path) -> up.Running:
    deadline = time.monotonic() + _START_LIMIT_S
    while time.monotonic() < deadline:
        found = up.running()
        if found and found.pid == daemon.pid and found.state == "up":
            return found
        if daemon.poll() is not None:
            raise ClusterUnavailable(_last_words(log))
        time.sleep(_PAUSE_S)
    raise ClusterUnavailable(f"the cluster was not ready in {_START_LIMIT_S:.0f} s: see {log}")


def _last_words(log: Path) -> str:
    said = log.read_text(errors="replace").strip().splitlines()
    own = [line for line in said if line.startswith("retinue: ")]
    if own:
        return own[-1].removeprefix("retinue: ")
    return f"the cluster ended while it started: see {log}"


def _environment() -> dict[str, str]:
    """Our environment, for the same state, without the marks of being part of another cluster."""
    root = str(Path(__file__).absolute().parents[3])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    own = {name: value for name, value in os.environ.items() if name != MARK}
    return {**own, "RETINUE_HOME": str(state_directory()), "PYTHONPATH": path}


@contextlib.contextmanager
def _one_start_at_a_time() -> Iterator[None]:
    lock = os.open(state_directory() / "start.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


if __name__ == "__main__":
    sys.exit(main())
