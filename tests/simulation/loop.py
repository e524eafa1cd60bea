"""A deterministic event loop: time is virtual, and a seed says what runs next.

Everything that is ready may run next, whatever the order in which it became ready; only when
nothing is ready does time pass, at once, to the next timer. So one seed is one schedule, and
another seed another one.

Callbacks belong to the `Process` in whose context they were made. Killing a process drops what it
would have done next, between any two awaits and without running an ``except`` or ``finally``;
pausing it keeps that back until it is resumed.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import heapq
import itertools
import random
from collections.abc import Callable, Coroutine, Generator
from contextlib import suppress
from typing import Any, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_MASK = (1 << 64) - 1


class Stuck(Exception):
    """Nothing can happen any more, or too much has happened, and the schedule has not ended."""


class Process:
    """What dies together: everything that was started in its ``context``."""

    def __init__(self, name: str, skew: int = 0) -> None:
        """``skew`` is how far its clock is ahead, in microseconds."""
        self.name = name
        self.skew = skew
        self.alive = True
        self.paused = False
        self.parked: list[_Handle] = []
        self.context = contextvars.copy_context()
        self.context.run(_PROCESS.set, self)


_PROCESS: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)


def current_process() -> Process | None:
    """The process in which this runs; None outside of all of them."""
    return _PROCESS.get()


class _Handle(asyncio.TimerHandle):
    """A callback and the process that it belongs to. Made without its parents' formalities."""

    __slots__ = ("process", "run", "when_due")

    def __init__(
        self,
        callback: Callable[..., object],
        args: tuple[object, ...],
        context: contextvars.Context | None,
        when: float,
    ) -> None:
        if context is None:
            context = contextvars.copy_context()
        self.run = functools.partial(context.run, callback, *args)
        self.process = context.get(_PROCESS)
        self.when_due = when
        self._cancelled = False

    def cancel(self) -> None:
        self._cancelled = True

    def when(self) -> float:
        return self.when_due


class _Task(asyncio.Task[T]):
    """A task whose place in a set does not depend on its address."""

    def __init__(self, serial: int, coro: Coroutine[Any, Any, T], **options: Any) -> None:
        self._serial = serial
        super().__init__(coro, **options)

    def __hash__(self) -> int:
        return self._serial


class Loop(asyncio.BaseEventLoop):
    """One schedule. ``trace`` is a digest of every choice that was made."""

    def __init__(self, rng: random.Random, fifo: bool) -> None:
        """With ``fifo`` a process runs what is ready in order, as a real event loop does."""
        super().__init__()
        self.trace = 0
        self.steps = 0
        self.errors: list[str] = []
        self.tasks: list[asyncio.Task[Any]] = []
        self._random = rng.random
        self._fifo = fifo
        self._now = 0.0
        self._ready: list[_Handle] = []
        self._timers: list[tuple[float, int, _Handle]] = []
        self._serial = itertools.count()
        self._closed = False

    def __del__(self) -> None:
        """It holds nothing that would have to be closed."""

    # --- running -------------------------------------------------------------------------

    def run(self, main: Coroutine[Any, Any, T], most_steps: int) -> T:
        """Run ``main`` to its end; Stuck if it has none."""
        asyncio.events._set_running_loop(self)
        try:
            task = self.create_task(main)
            while not task.done():
                if self.steps >= most_steps:
                    raise Stuck(f"not done after {most_steps} steps")
                self.steps += 1
                if not self._ready:
                    self._pass_time()
                self._run_one()
            return task.result()
        finally:
            asyncio.events._set_running_loop(None)

    def _run_one(self) -> None:
        ready = self._ready
        count = len(ready)
        at = int(self._random() * count) if count > 1 else 0
        handle = ready[at]
        process = handle.process
        if self._fifo and at:
            at = next(index for index, one in enumerate(ready) if one.process is process)
            handle = ready.pop(at)
        elif self._fifo:
            ready.pop(0)
        else:
            ready[at] = ready[-1]
            ready.pop()
        self.trace = (self.trace * 1_000_003 + at * 257 + count) & _MASK
        if process is not None:
            if not process.alive:
                return
            if process.paused:
                process.parked.append(handle)
                return
        if handle._cancelled:
            return
        try:
            handle.run()
        except Exception as error:
            self.errors.append(f"a callback failed: {error!r}")

    def _pass_time(self) -> None:
        while self._timers:
            when, _, handle = heapq.heappop(self._timers)
            process = handle.process
            if handle._cancelled or (process is not None and not process.alive):
                continue
            self._now = max(self._now, when)
            self._ready.append(handle)
            return
        raise Stuck("everybody waits for something that will not happen")

    def close(self) -> None:
        """Let go of what was left undone, quietly."""
        self._closed = True
        self._ready.clear()
        self._timers.clear()
        for task in self.tasks:
            if not task.done():
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                with suppress(BaseException):
                    coroutine = task.get_coro()
                    assert isinstance(coroutine, Coroutine | Generator)
                    coroutine.close()
            elif not task.cancelled():
                task.exception()  # it was looked at
        self.tasks.clear()

    # --- processes -----------------------------------------------------------------------

    def resume(self, process: Process) -> None:
        """Let a paused process go on where it was."""
        process.paused = False
        self._ready += process.parked
        process.parked = []

    # --- what asyncio asks of a loop -----------------------------------------------------

    def time(self) -> float:
        return self._now

    def call_soon(
        self,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        handle = _Handle(callback, args, context, 0.0)
        if not self._closed:
            self._ready.append(handle)
        return handle

    def call_later(
        self,
        delay: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        handle = _Handle(callback, args, context, when)
        if not self._closed:
            heapq.heappush(self._timers, (when, next(self._serial), handle))
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]
        self,
        coro: Coroutine[Any, Any, T],
        *,
        name: str | None = None,
        context: contextvars.Context | None = None,
    ) -> asyncio.Task[T]:
        serial = next(self._serial)
        task = _Task(serial, coro, loop=self, name=name or "task", context=context)
        self.tasks.append(task)
        return task

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not self._closed and "never retrieved" not in context.get("message", ""):
            self.errors.append(f"{context.get('message')}: {error!r}")

    def get_debug(self) -> bool:
        return False

    def is_closed(self) -> bool:
        return self._closed
