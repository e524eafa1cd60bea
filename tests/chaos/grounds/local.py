"""The second stage: the cluster on one machine that `retinue up` starts, used as a user would.

Nobody here is a client of Ray but the driver: what is up is told by the file that `up` leaves and
by the processes, and the harness has only the commands.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from functools import cached_property
from pathlib import Path
from typing import Self

import psutil
import redis

from retinue.cluster.local.reaper import Reaper, mark_process
from retinue.cluster.local.running import running
from retinue.cluster.redis.server import holder
from retinue.cluster.settings import ClusterSettings
from tests.chaos.grounds.nodes import ROOT
from tests.kit import processes
from tests.kit.processes import Sign

RETINUE = str(Path(sys.executable).with_name("retinue"))
"""The command."""

_COMMAND_LIMIT_S = 120.0
_BACK_LIMIT_S = 30.0
_UP_LIMIT_S = 90.0
_GONE_LIMIT_S = 20.0
_LOOK_EVERY_S = 0.25
_OTHERS = ("RAY_", "RETINUE_")
_DAEMONS = ("retinue.cluster.up.daemon", "retinue.cluster.up.incarnation")


class LocalCluster:
    """The whole, from `__enter__` to `close`."""

    def __init__(self, home: Path, seed: int, *, start: bool = True) -> None:
        """``home`` is a directory with a short name, since sockets are in it.

        Unless it is to ``start``, commands bring up what they need for themselves.
        """
        self.home = home
        self.complaints: list[str] = []
        self.address: str | None = None
        self._start = start
        self._state = home / "s"
        self._raylets: set[int] = set()
        self._resuming: subprocess.Popen[bytes] | None = None
        self._before = dict(os.environ)
        for name in [name for name in os.environ if name.startswith(_OTHERS)]:
            del os.environ[name]
        os.environ |= {"RETINUE_HOME": str(self._state), "PYTHONPATH": str(ROOT)}
        mark_process()
        self._reaper = Reaper()
        self.sign = Sign("RETINUE_HOME", str(self._state))

    def __enter__(self) -> Self:
        try:
            if self._start:
                assert self.up(), f"`retinue up` failed: see {self._log}"
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @cached_property
    def settings(self) -> ClusterSettings:
        """Those of what was up first: Redis and the key stay where they are."""
        found = running()
        assert found, "nothing is up"
        return found.settings

    def direct_settings(self) -> ClusterSettings:
        """There is nothing between clients and Redis."""
        return self.settings

    def daemons(self) -> list[int]:
        """The processes behind `retinue up`: the one that it started, and its child."""
        return [pid for name in _DAEMONS for pid in self._programs(name)]

    def raylets(self) -> list[int]:
        """Ray's node."""
        found = self._programs("raylet")
        self._raylets.update(found)
        return found

    @property
    def dead_raylets(self) -> list[int]:
        """Those that were there once."""
        return [pid for pid in self._raylets if not processes.is_alive(pid)]

    def control_services(self) -> list[int]:
        """Ray's GCS."""
        return self._programs("gcs_server")

    def redis_pid(self) -> int | None:
        """The embedded Redis, which has written its title over its mark."""
        with (
            contextlib.suppress(redis.RedisError),
            redis.Redis.from_url(self.settings.redis_url, socket_timeout=2.0) as client,
        ):
            return int(client.info("server")["process_id"])
        return None

    def up(self) -> bool:
        """`retinue up`; whether something is up now."""
        return self._command("up") == 0

    def resume_all(self) -> None:
        """`retinue resume --all`, which waits for the results, so nobody waits for it."""
        self._end_resuming()
        with self._log.open("ab") as log:
            self._resuming = subprocess.Popen(
                [RETINUE, "resume", "--all", "--approve", "none"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def is_whole(self) -> bool:
        """Whether something is up, and none of its parts is missing."""
        parts = (self.raylets, self.control_services)
        return (
            running() is not None
            and all(part() for part in parts)
            and bool(processes.actors(self.sign, "DirectoryActor"))
        )

    async def back_by_itself(self, after: str) -> float | None:
        """Wait until it is whole again, and answer how many seconds that took.

        If it does not come back it is complained of and started again, as by a user.
        """
        began = time.monotonic()
        while time.monotonic() < began + _BACK_LIMIT_S:
            if await asyncio.to_thread(self.is_whole):
                return time.monotonic() - began
            await asyncio.sleep(_LOOK_EVERY_S)
        self.complaints.append(
            f"{after}: the local cluster was not back after {_BACK_LIMIT_S:.0f} s"
        )
        await asyncio.to_thread(self._command, "down")
        await self.back_by_command(after)
        return None

    async def back_by_command(self, after: str) -> float:
        """`retinue up`, again if it fails, and `retinue resume --all`; the seconds it took."""
        began = time.monotonic()
        self._end_resuming()  # with nothing up it would bring up a cluster of its own
        while not (await asyncio.to_thread(self.up) and await asyncio.to_thread(self.is_whole)):
            if time.monotonic() > began + _UP_LIMIT_S:
                self.complaints.append(f"{after}: `retinue up` fails: see {self._log}")
                break
            await asyncio.sleep(_LOOK_EVERY_S)
        took = time.monotonic() - began
        self.resume_all()
        return took

    async def mend(self) -> None:
        """Nothing may be missing once a round is over."""
        if not await asyncio.to_thread(self.is_whole):
            await self.back_by_itself("after a round")

    def close(self) -> list[str]:
        """`retinue down`; the command lines of what had to be killed after it."""
        if not self._reaper.alive:
            return []
        self._end_resuming()
        left = [] if self._command("down") == 0 else ["`retinue down` failed"]
        deadline = time.monotonic() + _GONE_LIMIT_S
        while (still := self._left()) and time.monotonic() < deadline:
            time.sleep(_LOOK_EVERY_S)
        left += still
        for process in self._still_there():
            processes.kill(process.pid)
        self._reaper.stop()
        os.environ.clear()
        os.environ.update(self._before)
        return left

    @property
    def _log(self) -> Path:
        return self.home / "commands.log"

    def _programs(self, name: str) -> list[int]:
        return [one.pid for one in processes.programs(self.sign, name)]

    def _left(self) -> list[str]:
        left = [processes.describe(one) for one in self._still_there()]
        owner = holder(self._state)
        return left if owner is None else [*left, f"the Redis of process {owner}"]

    def _still_there(self) -> list[psutil.Process]:
        return [one for one in processes.carrying(self.sign) if one.pid != self._reaper.pid]

    def _command(self, *words: str) -> int | None:
        """Its exit code; None if it took too long."""
        began = time.monotonic()
        with self._log.open("ab") as log:
            try:
                done = subprocess.run(
                    [RETINUE, *words],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    timeout=_COMMAND_LIMIT_S,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                self.complaints.append(f"`retinue {' '.join(words)}` hung")
                return None
            took = time.monotonic() - began
            log.write(f"({' '.join(words)}: {done.returncode} after {took:.1f} s)\n".encode())
        return done.returncode

    def _end_resuming(self) -> None:
        if self._resuming:
            self._resuming.kill()
            self._resuming.wait()
            self._resuming = None
