"""The process behind `troupe up`: Ray and Redis for as long as it lives; and its start and stop.

``python -m cluster.daemon`` is that process. It is ready when it has announced itself, and says in
its last line of output why it could not be.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from actors.domain.errors import ClusterUnavailable
from cluster import running as up
from cluster.cli_common import OK, report
from cluster.guard import MARK
from cluster.settings import ClusterSettings, disk_wait, state_directory

_START_LIMIT_S = 90.0
_STOP_LIMIT_S = 30.0
_PAUSE_S = 0.05


def start() -> tuple[up.Running, bool]:
    """The running cluster, and whether it was started just now.

    ClusterUnavailable with the daemon's own words if it did not start.
    """
    with _one_start_at_a_time():
        if found := up.running():
            return found, False
        log = log_file()
        with log.open("wb") as out:
            log.chmod(0o600)
            daemon = subprocess.Popen(
                [sys.executable, "-m", "cluster.daemon"],
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
    """Stop the running cluster and wait until it is gone; its process id, None if there is none.

    ClusterUnavailable if it does not end.
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
    """What the daemon has said."""
    return state_directory() / "up.log"


def main() -> int:
    """The daemon: bring everything up, announce it, and wait to be told to stop."""
    try:
        with up.hold():
            return _serve()
    except KeyboardInterrupt:
        return OK
    except Exception as error:
        return report(error, as_json=False)


def _serve() -> int:
    from cluster import bootstrap
    from cluster.calls import Calls

    signal.signal(signal.SIGTERM, _interrupt)
    wait = disk_wait(os.environ.get("TROUPE_WAIT_FOR_DISK"))
    if url := bootstrap.redis_url_or_none(None):
        asyncio.run(bootstrap.check_redis(ClusterSettings(url, wait_for_disk=wait)))
    with bootstrap.bring_up(url, wait_for_disk=wait) as connected:
        signal.signal(signal.SIGTERM, _interrupt)  # Ray has set one of its own
        try:
            if wait and not url:
                asyncio.run(bootstrap.check_redis(connected.settings))
            asyncio.run(Calls(connected.settings).directory.status())  # it starts the hosts
            up.announce(up.Running(os.getpid(), bootstrap.gcs_address(), connected.settings))
            while True:
                signal.pause()
        finally:
            up.withdraw()
    return OK


def _interrupt(number: int, frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: what follows is tidying up
    raise KeyboardInterrupt


def _ready(daemon: subprocess.Popen[bytes], log: Path) -> up.Running:
    deadline = time.monotonic() + _START_LIMIT_S
    while time.monotonic() < deadline:
        found = up.running()
        if found and found.pid == daemon.pid:
            return found
        if daemon.poll() is not None:
            raise ClusterUnavailable(_last_words(log))
        time.sleep(_PAUSE_S)
    raise ClusterUnavailable(f"the cluster was not ready in {_START_LIMIT_S:.0f} s: see {log}")


def _last_words(log: Path) -> str:
    said = log.read_text(errors="replace").strip().splitlines()
    own = [line for line in said if line.startswith("troupe: ")]
    if own:
        return own[-1].removeprefix("troupe: ")
    return f"the cluster ended while it started: see {log}"


def _environment() -> dict[str, str]:
    """Ours, so that the daemon finds the same state, but no longer as a part of another cluster."""
    root = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    own = {name: value for name, value in os.environ.items() if name != MARK}
    return {**own, "TROUPE_HOME": str(state_directory()), "PYTHONPATH": path}


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
