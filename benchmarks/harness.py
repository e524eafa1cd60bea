"""How things are timed: sides take turns, a warm-up round is thrown away, medians are compared."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeVar, cast

T = TypeVar("T")
R = TypeVar("R")

Side = Callable[[], Awaitable[float]]
"""Measures one side once: a rate, or the median time of many calls."""


async def in_turns(rounds: int, *sides: Side) -> list[list[float]]:
    """What each side came to in each of ``rounds`` rounds.

    All sides are measured in every round, forwards and backwards by turns, so that a machine that
    gets slower or faster meanwhile does it to all of them. One round before them warms up.
    """
    found: list[list[float]] = [[] for _ in sides]
    for number in range(-1, rounds):
        order = range(len(sides)) if number % 2 else reversed(range(len(sides)))
        for at in order:
            measured = await sides[at]()
            if number >= 0:
                found[at].append(measured)
    return found


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Round by round, one side over the other."""
    return [one / other for one, other in zip(above, below, strict=True)]


def median(samples: Iterable[float]) -> float:
    """The median, which is also what is called p50."""
    return statistics.median(samples)


async def timed(call: Callable[[], Awaitable[object]]) -> float:
    """Seconds that ``call()`` takes."""
    begin = time.perf_counter()
    await call()
    return time.perf_counter() - begin


async def each(items: Iterable[T], call: Callable[[T], Awaitable[R]], at_once: int = 64) -> list[R]:
    """``call`` for every item, ``at_once`` of them at a time; the answers in order."""
    places = asyncio.Semaphore(at_once)

    async def one(item: T) -> R:
        async with places:
            return await call(item)

    return await asyncio.gather(*(one(item) for item in items))


async def until(condition: Callable[[], Awaitable[bool]], limit_s: float, every_s: float) -> None:
    """Return when ``condition()`` is true; TimeoutError after ``limit_s`` seconds."""
    async with asyncio.timeout(limit_s):
        while not await condition():
            await asyncio.sleep(every_s)


def floats(value: object) -> list[float]:
    """A list of numbers that came as JSON."""
    if not isinstance(value, list):
        raise TypeError(f"a list of numbers was expected, not {value!r}")
    return [float(one) for one in cast(list[float], value)]
