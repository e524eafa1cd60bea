"""Keeps a cluster up: one incarnation after the other, each ended as a whole before the next."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time

import msgspec

from retinue.actors.agent.process import proctree
from retinue.cluster.local import running as up
from retinue.cluster.terminal.outcome import UNAVAILABLE
from retinue.cluster.terminal.render import say
from retinue.cluster.up.protocol import STOP, Failed, Left, Lost, Order, Said, Up

_START_LIMIT_S = 60.0
_STOP_LIMIT_S = 20.0
_SWEEP_LIMIT_S = 8.0  # then what is left is killed
_ATTEMPTS = 3
_IDLE_S = 1.0
_SHORT_LIFE_S = 5.0
_PAUSE_S = 1.0
_LOOK_EVERY_S = 0.02


class Supervisor:
    """Has a cluster brought up, and brought back when it dies, until it is told to stop."""

    def __init__(self) -> None:
        self._child: Child | None = None
        self._left: tuple[str, ...] | None = None
        self._count = 0

    def supervise(self) -> int:
        """Keeps the cluster up; once that is hopeless, announces why and returns the exit code."""
        self._child = Child()
        announced: up.Running | None = None
        failed: list[Failed] = []
        while True:
            came_up, ended = self._live(self._child)
            if came_up:
                announced = came_up
            failed = add_failure(failed, ended, time.time() - came_up.since if came_up else None)
            if announced is None:
                return UNAVAILABLE  # it never was up, and the child has said why
            say(f"retinue: the cluster was lost: its {ended.why}")
            if out_of_hope(failed):
                up.announce(_changed(announced, "ended", failed[-1].why))
                say(f"retinue: the cluster can't be brought back: {failed[-1].why}")
                return UNAVAILABLE
            if came_up:
                announced = _changed(announced, "coming back", ended.why)
                up.announce(announced)
            time.sleep(_PAUSE_S * len(failed))
            self._succeed()

    def stop(self) -> None:
        """Ends the cluster, tidily if it is alive; returns when nothing of it is left."""
        if self._child:
            self._child.stop()
        wait_until_alone(frozenset(), _SWEEP_LIMIT_S)

    def _succeed(self) -> None:
        """End what is left of this incarnation while the next one makes its imports."""
        before, self._child = self._child, Child()
        if before:
            before.kill()
        wait_until_alone({self._child.pid}, _SWEEP_LIMIT_S)

    def _live(self, child: Child) -> tuple[up.Running | None, Lost | Failed]:
        """Runs one incarnation to its end; returns its announcement, if any, and its end."""
        came_up: up.Running | None = None
        child.order(Order(self._left))
        deadline = time.monotonic() + _START_LIMIT_S
        while True:
            said = child.listen(_IDLE_S)
            reap({child.pid})
            if isinstance(said, Up):
                self._count += 1
                came_up = up.Running(
                    os.getpid(),
                    said.address,
                    said.settings,
                    self._count,
                    said.parts,
                    since=time.time(),
                )
                up.announce(came_up)
                if self._count > 1:
                    say("retinue: the cluster is back")
            elif isinstance(said, Left):
                self._left = said.ids
            elif isinstance(said, Lost | Failed):
                return came_up, said
            elif came_up is None and time.monotonic() > deadline:
                return None, Failed(f"start took more than {_START_LIMIT_S:.0f} s", final=False)


def add_failure(failed: list[Failed], ended: Lost | Failed, lived_s: float | None) -> list[Failed]:
    """The consecutive failures after one more incarnation.

    ``lived_s``: its life in seconds, None if it never came up. A short life counts as a failure:
    reviving it for ever would cost.
    """
    if lived_s is not None and lived_s >= _SHORT_LIFE_S:
        return []
    if isinstance(ended, Failed):
        return [*failed, ended]
    return [*failed, Failed(f"{ended.why}, {len(failed) + 1} times in a row", final=False)]


def out_of_hope(failed: list[Failed]) -> bool:
    """Returns whether these failed attempts, in a row, to bring a cluster back are enough."""
    return bool(failed) and (failed[-1].final or len(failed) >= _ATTEMPTS)


class Child:
    """A process that brings up a cluster when it gets its order."""

    def __init__(self) -> None:
        ear, mouth = os.pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "retinue.cluster.up.incarnation", str(mouth)],
                stdin=subprocess.PIPE,
                pass_fds=(mouth,),
            )
        finally:
            os.close(mouth)
        self._ear = ear
        self._heard = b""

    @property
    def pid(self) -> int:
        return self._process.pid

    def order(self, order: Order) -> None:
        self._write(msgspec.json.encode(order) + b"\n")

    def listen(self, limit_s: float) -> Said | None:
        """The next message, None after ``limit_s`` seconds; the way it ended after the last one."""
        deadline = time.monotonic() + limit_s
        while b"\n" not in self._heard:
            left = deadline - time.monotonic()
            if left < 0 or not select.select([self._ear], [], [], left)[0]:
                return None
            heard = os.read(self._ear, 65536)
            if not heard:
                return self._silent()
            self._heard += heard
        line, _, self._heard = self._heard.partition(b"\n")
        said: Said = msgspec.json.decode(line, type=Said)
        return said

    def kill(self) -> None:
        """End the process at once; its reaper ends everything that it has started."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """Have the process take everything down, in its own time."""
        self._write(STOP)
        try:
            self._process.wait(_STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def _write(self, line: bytes) -> None:
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(line)
            self._process.stdin.flush()

    def _silent(self) -> Lost:
        code = self._process.wait()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        return Lost(f"main process {how}")


def wait_until_alone(spare: set[int] | frozenset[int], limit_s: float) -> None:
    """Wait until only the ``spare`` children are left; after ``limit_s`` seconds kill the rest."""
    deadline = time.monotonic() + limit_s
    while others := children() - spare:
        reap(spare)
        if time.monotonic() > deadline:
            for pid in others:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(_LOOK_EVERY_S)


def reap(spare: set[int] | frozenset[int]) -> None:
    """Reap the children that have ended, except for ``spare``, which are waited for elsewhere."""
    for pid in children() - spare:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def children() -> set[int]:
    """The children of this process, including those that have ended and are not yet reaped."""
    return set(proctree.children(os.getpid()))


def _changed(before: up.Running, state: up.State, why: str) -> up.Running:
    return msgspec.structs.replace(before, state=state, since=time.time(), why=why)
