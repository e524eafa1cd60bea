"""Ends everything that a process started when that process ends, however it ends.

Run as ``python -I -S reaper.py [DIRECTORY COMMAND…]`` with a pipe from the owner as standard input.
The pipe closes when the owner ends, be it by SIGKILL. Then everything that carries the owner's mark
in its environment is killed, in this order:

1. Ray, and with it the hosts and stores: everything that might record the death of an agent.
2. Agents, and all that they have started. Nobody is left who could take their end for a result.
3. The command (an embedded Redis), which is kept alive until then, is told to stop and waited for.
   This process holds its lock, which keeps others from starting one until everything is gone.

Meanwhile the files that the command appends to in DIRECTORY are flushed to disk once a second.

An owner that is alive and asked for this ends Ray's head itself: without one to talk to it would
wait for seconds. All of this takes a few seconds at most. It uses the standard library only: it
must start fast and stay small.
"""

import contextlib
import glob
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

MARK = "RETINUE_OWNER"
"""The environment variable that a guarded process and all that it starts carry."""

AGENTS = "RETINUE_AGENTS"
"""The environment variable that agents' processes and all that they start carry."""

_SWEEP_LIMIT_S = 3.0
_STOP_LIMIT_S = 2.0
_LOOK_EVERY_S = 1.0
_FLUSH_EVERY_S = 1.0
_LOOK_AGAIN_S = 0.01


class Reaper:
    """The reaper of this process."""

    def __init__(self, *command: str, pass_fds: tuple[int, ...] = ()) -> None:
        """Start the reaper, which starts ``command``, if there is one, and keeps it alive.

        The first word of ``command`` is the directory of the append-only files that it writes.
        """
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=pass_fds,
            start_new_session=True,
        )

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        return self._process.pid

    def stop(self) -> None:
        """End the command and everything marked, as if the owner had ended; idempotent."""
        if self._process.stdin:
            self._process.stdin.close()
        self._process.wait()


def mark_process() -> None:
    """Put a mark of its own on this process and on all that it starts from now on."""
    os.environ[MARK] = os.urandom(16).hex()


def main(directory: str = "", *command: str) -> None:
    """Wait until the owner is gone, and end what it has left."""
    owner, owner_gone = os.getppid(), threading.Event()
    threading.Thread(target=_watch, args=(owner_gone,), daemon=True).start()
    if command:
        threading.Thread(target=_flush, args=(owner_gone, directory), daemon=True).start()
    known: dict[int, str] = {}
    looking = threading.Thread(target=_look, args=(owner_gone, known))
    looking.start()
    kept = _keep(command, owner_gone) if command else None
    looking.join()
    spare = {os.getpid(), kept.pid if kept else 0}
    _sweep(spare | (_heads() if os.getppid() == owner else set()), known)
    if kept:
        _stop(kept)


def _keep(command: Sequence[str], owner_gone: threading.Event) -> "subprocess.Popen[bytes]":
    """Run the command, again whenever it ends by itself, until the owner is gone."""
    while True:
        kept = subprocess.Popen(command, stdin=subprocess.DEVNULL, close_fds=False)
        while kept.poll() is None:
            if owner_gone.wait(0.1):
                return kept
        time.sleep(0.1)
        if owner_gone.is_set():
            return kept


def _watch(owner_gone: threading.Event) -> None:
    while sys.stdin.buffer.read(1):
        pass
    owner_gone.set()


def _flush(owner_gone: threading.Event, directory: str) -> None:
    """Flush Redis's files to the disk every second.

    Redis could do this itself (``appendfsync everysec``). But during a flush it puts off its writes
    for up to two seconds and confirms them all the same: a kill would lose them.
    """
    while not owner_gone.wait(_FLUSH_EVERY_S):
        for file in glob.glob(os.path.join(glob.escape(directory), "**", "*.aof"), recursive=True):
            with contextlib.suppress(OSError):  # a rewrite has replaced it
                descriptor = os.open(file, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)


def _look(owner_gone: threading.Event, known: dict[int, str]) -> None:
    """Record our descendants while they can still be identified.

    A process that gives itself a title can't be found once the process that started it has ended
    with the owner.
    """
    mark = os.environ.get(MARK)
    while not owner_gone.wait(_LOOK_EVERY_S):
        if mark:
            _still_there(mark, {os.getpid()}, known)


def waves(ours: set[int], agents: set[int]) -> list[set[int]]:
    """The waves in which processes are killed: each once nothing of the one before is left."""
    return [wave for wave in (ours - agents, ours & agents) if wave]


def _sweep(spare: set[int], known: dict[int, str]) -> None:
    """Kill our processes, wave by wave, until none is left."""
    mark = os.environ.get(MARK)
    if not mark:
        return
    for pid in spare:
        known.pop(pid, None)
    deadline = time.monotonic() + _SWEEP_LIMIT_S
    while (ours := _still_there(mark, spare, known)) and time.monotonic() < deadline:
        for pid in waves(ours, _agents())[0]:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_LOOK_AGAIN_S)


def _still_there(mark: str, spare: set[int], known: dict[int, str]) -> set[int]:
    """The processes that carry the mark, and those that they have started.

    A process that gives itself a title, as Ray's do, may lose its environment. ``known`` keeps
    all of them, with their start times.
    """
    processes = _processes()
    for pid in [pid for pid, start in known.items() if processes.get(pid, (0, ""))[1] != start]:
        del known[pid]
    marked = {pid for pid in _with(MARK, mark) if pid not in spare}
    ours = _with_all_below(marked | known.keys(), processes, spare)
    known.update((pid, processes[pid][1]) for pid in ours & processes.keys())
    return set(known)


def _agents() -> set[int]:
    """Agents' processes, and all below them."""
    return _with_all_below(set(_with(AGENTS, "1")), _processes(), set())


def _heads() -> set[int]:
    """The processes of Ray heads."""
    found = set()
    for pid in _processes():
        with contextlib.suppress(OSError), open(f"/proc/{pid}/comm") as name:
            if name.read() == "gcs_server\n":
                found.add(pid)
    return found


def _with_all_below(
    found: set[int], processes: dict[int, tuple[int, str]], spare: set[int]
) -> set[int]:
    while new := {
        pid
        for pid, (parent, _) in processes.items()
        if parent in found and pid not in found and pid not in spare
    }:
        found = found | new
    return found


def _processes() -> dict[int, tuple[int, str]]:
    """The parent and the start time of every running process."""
    found = {}
    for name in os.listdir("/proc") if os.path.isdir("/proc") else []:
        if name.isdigit():
            with contextlib.suppress(OSError, IndexError), open(f"/proc/{name}/stat") as stat:
                fields = stat.read().rpartition(")")[2].split()
                if fields[0] != "Z":
                    found[int(name)] = (int(fields[1]), fields[19])
    return found


def _with(name: str, value: str) -> list[int]:
    """The processes that have this variable in their environment."""
    wanted = f"{name}={value}".encode()
    found = []
    for pid in os.listdir("/proc") if os.path.isdir("/proc") else []:
        if pid.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{pid}/environ", "rb") as environ:
                if wanted in environ.read().split(b"\0"):
                    found.append(int(pid))
    return found


def _stop(kept: "subprocess.Popen[bytes]") -> None:
    kept.terminate()
    try:
        kept.wait(_STOP_LIMIT_S)
    except subprocess.TimeoutExpired:
        kept.kill()
        kept.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
