"""One life of the cluster behind `retinue up`: brings it up, watches its parts, and ends with them.

``python -m retinue.cluster.up.incarnation FD`` is started by `retinue.cluster.up.daemon`, its
supervisor. It reads orders from standard input, one a line: the start, with its parameters, and the
stop. Its messages go to FD. It makes its imports before the first order, while the previous life is
swept away. If the input ends without an order, the supervisor was killed, and everything ends at
once: the reaper ends the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Collection
from typing import NoReturn

import msgspec

from retinue.actors.domain.errors import ClusterUnavailable, RetinueError, RolledBack
from retinue.cluster.client.calls import Calls
from retinue.cluster.local import running as up
from retinue.cluster.ray import bootstrap
from retinue.cluster.settings import ClusterSettings, disk_wait
from retinue.cluster.terminal.outcome import OK, report
from retinue.cluster.up.protocol import STOP, Failed, Left, Lost, Order, Said, Up

_EAR = 0
_LOOK_EVERY_S = 0.25
_ASK_EVERY_S = 1.0
_ASK_REDIS_EVERY_S = 5.0
_REDIS_PATIENCE_S = 45.0


def main() -> int:
    """Wait for the first order, and live until told to stop."""
    speaker = int(sys.argv[1])
    os.set_inheritable(speaker, False)
    line = _hear()
    if not line or line == STOP:
        return OK
    order = msgspec.json.decode(line, type=Order)
    threading.Thread(target=_obey, daemon=True).start()
    try:
        _live(order, speaker)
    except KeyboardInterrupt:
        return OK
    except Exception as error:
        _say(speaker, Failed(str(error), isinstance(error, RolledBack)))
        return report(error, as_json=False)
    return OK


def still_left(
    left: Collection[str], running: Collection[str], working: Collection[str]
) -> set[str]:
    """The runs left interrupted that still are so: unfinished, and not resumed."""
    return set(left).intersection(running).difference(working)


def _live(order: Order, speaker: int) -> None:
    signal.signal(signal.SIGTERM, _interrupt)
    wait = disk_wait(os.environ.get("RETINUE_WAIT_FOR_DISK"))
    if url := bootstrap.redis_url_or_none(None):
        asyncio.run(bootstrap.check_redis(ClusterSettings(url, wait_for_disk=wait)))
    with bootstrap.bring_up(url, wait_for_disk=wait, watched=False) as connected:
        if wait and not url:
            asyncio.run(bootstrap.check_redis(connected.settings))
        asyncio.run(_watch_over(connected.settings, order, speaker, own_redis=not url))


async def _watch_over(
    settings: ClusterSettings, order: Order, speaker: int, *, own_redis: bool
) -> None:
    calls = Calls(settings)
    await calls.directory.status()  # it starts the hosts
    left = await calls.registry.running() if order.left is None else list(order.left)
    parts = (up.part("main process", os.getpid()), *bootstrap.own_parts())
    _say(speaker, Up(bootstrap.gcs_address(), settings, parts))
    _say(speaker, Left(tuple(left)))
    watches = [_parts(), _directory(calls, order, left, speaker)]
    if own_redis:
        watches.append(_redis(settings))
    done, _ = await asyncio.wait(
        [asyncio.create_task(one) for one in watches], return_when=asyncio.FIRST_COMPLETED
    )
    _end(speaker, done.pop().result())


async def _parts() -> str:
    """Waits until one of Ray's processes dies, and returns its name and the cause."""
    while (dead := bootstrap.dead_part()) is None:  # noqa: ASYNC110, a process sets no event
        await asyncio.sleep(_LOOK_EVERY_S)
    return dead


async def _directory(calls: Calls, order: Order, left: list[str], speaker: int) -> str:
    """Resumes runs, reports those left interrupted, and returns when the directory stops answering.

    A directory that dies comes back by itself, and a busy one is waited for.
    """
    try:
        if order.left is not None:
            await calls.directory.go_on(left)
        while True:
            await asyncio.sleep(_ASK_EVERY_S)
            if not left:
                await calls.directory.store_names()
                continue
            working = await calls.directory.working()
            remaining = still_left(left, await calls.registry.running(), working)
            if remaining != set(left):
                left = sorted(remaining)
                _say(speaker, Left(tuple(left)))
    except ClusterUnavailable as error:
        return f"directory did not answer: {error.message}"


async def _redis(settings: ClusterSettings) -> str:
    """Returns once Redis, which its reaper restarts when it dies, has not answered for long."""
    loop = asyncio.get_running_loop()
    answered = loop.time()
    while loop.time() - answered < _REDIS_PATIENCE_S:
        await asyncio.sleep(_ASK_REDIS_EVERY_S)
        with contextlib.suppress(RetinueError, TimeoutError):
            async with asyncio.timeout(_REDIS_PATIENCE_S):
                await bootstrap.check_redis(settings)
            answered = loop.time()
    return f"Redis did not answer for {_REDIS_PATIENCE_S:.0f} s"


def _end(speaker: int, why: str) -> NoReturn:
    """Report the loss, and end as if killed: a Ray that has lost a part would end slowly."""
    _say(speaker, Lost(why))
    os.kill(os.getpid(), signal.SIGKILL)
    raise SystemExit  # not reached


def _say(speaker: int, said: Said) -> None:
    with contextlib.suppress(BrokenPipeError):
        os.write(speaker, msgspec.json.encode(said) + b"\n")


def _obey() -> None:
    os.kill(os.getpid(), signal.SIGTERM if _hear() == STOP else signal.SIGKILL)


def _hear() -> bytes:
    """A line of input; empty at the end of input.

    It bypasses Python's buffer, whose lock a waiting thread would hold when the process ends.
    """
    line = b""
    while not line.endswith(b"\n"):
        heard = os.read(_EAR, 1)
        if not heard:
            return b""
        line += heard
    return line


def _interrupt(number: int, frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: what follows is tidying up
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
