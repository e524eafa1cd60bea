"""Commands of `retinue` in processes of their own, which need not import Ray first.

One process has imported everything, and forks for each command: what a command does is as real as
ever, but begins most of a second sooner.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

ROOT = Path(__file__).parents[2]

_MOST_BYTES = 1 << 20
_LEFT_OUT = ("RAY_", "RETINUE_")


class Command:
    """A command under way; what there is of it is as in `subprocess.Popen`."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        reads, writes = zip(*(os.pipe() for _ in range(3)), strict=True)
        self.stdout, self.stderr, self._status = (os.fdopen(fd) for fd in reads)
        request = json.dumps([*arguments, dict(environment)]).encode()
        socket.send_fds(_forge(), [request], writes)
        for fd in writes:
            os.close(fd)
        self.pid = int(self._status.readline())
        self.returncode: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()
        for file in (self.stdout, self.stderr):
            file.close()

    def wait(self) -> int:
        """Wait until it has ended; its exit code, negative for the signal that killed it."""
        if self.returncode is None:
            with self._status:
                self.returncode = int(self._status.readline())
        return self.returncode

    def communicate(self) -> tuple[str, str]:
        """Wait until it has ended; what it has said to standard output and error."""
        with self, ThreadPoolExecutor(2) as pool:
            out, errors = pool.map(lambda file: file.read(), (self.stdout, self.stderr))
        return out, errors

    def send_signal(self, sign: signal.Signals) -> None:
        """Send a signal, unless it was waited for."""
        if self.returncode is None:
            os.kill(self.pid, sign)

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        self.send_signal(signal.SIGKILL)


@functools.cache
def _forge() -> socket.socket:
    """Where commands are asked for; the process behind it ends when this one does."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.kit.warm", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            cwd=ROOT,
            env={name: at for name, at in os.environ.items() if not name.startswith(_LEFT_OUT)},
            stdin=subprocess.DEVNULL,
        )

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


def main(asked: socket.socket) -> None:
    """Fork for each command that is asked for; only a command returns from here, when it ends."""
    from retinue.cluster.cli import app
    from retinue.cluster.ray import bootstrap as bootstrap  # nearly every command does

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those who wait for commands
    while True:
        request, fds, _, _ = socket.recv_fds(asked, _MOST_BYTES, 3)
        if not request:
            return
        if os.fork() == 0:
            asked.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            command = os.fork()
            if command == 0:
                *sys.argv[1:], environment = json.loads(request)
                os.environ.clear()
                os.environ.update(environment)
                _become(fds)
                app.main()
            _tell(fds, command)
        for fd in fds:
            os.close(fd)


def _become(fds: Sequence[int]) -> None:
    """Take other files for standard output and error."""
    for fd, standard in zip(fds, (1, 2), strict=False):
        os.dup2(fd, standard)
    for fd in fds:
        os.close(fd)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)


def _tell(fds: Sequence[int], command: int) -> None:
    """Tell a command's process id, and its exit code when it has ended."""
    out, errors, status = fds
    os.close(out)
    os.close(errors)
    os.write(status, f"{command}\n".encode())
    _, ended = os.waitpid(command, 0)
    os.write(status, f"{os.waitstatus_to_exitcode(ended)}\n".encode())
    os._exit(0)


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
