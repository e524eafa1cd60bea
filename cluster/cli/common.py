"""Parts that all commands share: exit codes, errors, JSON, signals, and a cluster to talk to."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from types import FrameType
from typing import TYPE_CHECKING

import retinue
from retinue.cluster.ray.joining import outlives_us
from retinue.cluster.terminal.display import waiting
from retinue.cluster.terminal.outcome import INTERRUPTED

if TYPE_CHECKING:
    from retinue.cluster.client.client import Retinue


_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def run_until_done(main: Callable[[], Coroutine[None, None, int]]) -> int:
    """Runs ``main()`` and returns its exit code; SIGINT and SIGTERM cancel it, to let it report."""
    with _raising(_SIGNALS):
        try:
            return asyncio.run(main())
        except (asyncio.CancelledError, KeyboardInterrupt, SystemExit):  # Ray raises the last
            return INTERRUPTED


@contextlib.asynccontextmanager
async def connected(*, elsewhere: bool = False, actor: str | None = None) -> AsyncIterator[Retinue]:
    """A client of RAY_ADDRESS's cluster, or `retinue up`'s, or one that exists only for the block.

    With ``elsewhere`` it never starts one, but joins the one that this machine is a node of.
    ``actor``: the name in the audit log.
    """
    joining = elsewhere or outlives_us()
    address = "auto" if elsewhere and not outlives_us() else None
    text = "joining the cluster" if joining else "starting a cluster (`retinue up` keeps one ready)"
    async with contextlib.AsyncExitStack() as stack:
        with waiting(text):
            client = await stack.enter_async_context(retinue.connect(address, actor=actor))
        stack.enter_context(_cancelling(_SIGNALS))
        yield client
        if not joining:
            stack.enter_context(waiting("stopping the cluster"))


@contextlib.contextmanager
def _raising(signals: tuple[signal.Signals, ...]) -> Iterator[None]:
    """Has signals raise KeyboardInterrupt until the loop handles them."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {one: signal.signal(one, interrupt) for one in signals}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


@contextlib.contextmanager
def _cancelling(signals: tuple[signal.Signals, ...]) -> Iterator[None]:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    for one in signals:
        loop.add_signal_handler(one, task.cancel)
    try:
        yield
    finally:
        for one in signals:
            loop.remove_signal_handler(one)
